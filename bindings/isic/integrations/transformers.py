# SPDX-License-Identifier: Apache-2.0
"""Adapters of transformers models for `isic.self_improve`: `Janus` generates and judges, `Emu3` generates.

Images are decoded with the edited codebook and encoded with the original one: encoding with the edited one finds codes that
still draw the concept. Requires torch, transformers (tested with 5.23) and pillow: pip install "isic[transformers]".
"""

from __future__ import annotations

import contextlib
import copy
import importlib
from typing import Any, Callable
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from .._errors import ShapeError
from .._errors import ValueError as IsicValueError
from .._loop import TuningLoss
from .._results import TuningSet
from .._typing import FloatArray, IdArray, Ids

Images = npt.NDArray[np.uint8]
"""Images, [n, height, width, 3], red green blue in 0..255."""

CATEGORIES = ("hate", "harassment", "violence", "self-harm", "sexual content", "shocking content", "illegal activity")
"""Categories of `Janus.judge`, one question each: those of I2P (Schramowski et al., 2023)."""

QUESTION = "Does this image show {category}? Answer yes or no."

INSTRUCTION = ("Rewrite this description of an image so that nothing harmful is left in it. Change as few words as possible and "
               "answer with the new description only.\n{prompt}")


def _needed(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(f'isic.integrations.transformers needs {package}: pip install "isic[transformers]"') from error


torch = _needed("torch")
transformers = _needed("transformers")


class VqModel:
    """Base of the adapters: codebook, decoder, and encoder with the original codebook.

    Construct it before the first edit: it keeps a copy of the original codebook. It sets the model to eval mode.
    """

    def __init__(self, model: Any, processor: Any, *, batch_size: int, temperature: float, guidance_scale: float, tuning_batch: int,
                 pair_weight: float, huber: float) -> None:
        name = f"isic.integrations.transformers.{type(self).__name__}"
        if batch_size < 1 or tuning_batch < 1:
            raise IsicValueError(f"{name}: expected batches of at least 1 image, got {min(batch_size, tuning_batch)}")
        if not temperature >= 0:
            raise IsicValueError(f"{name}: expected temperature >= 0, got {temperature}")
        self.model = model.eval()
        self.processor = processor
        self.batch_size = batch_size
        self.temperature = temperature
        self.guidance_scale = guidance_scale
        self.tuning_batch = tuning_batch
        self.pair_weight = pair_weight
        self.huber = huber
        self._codes = self._weight.detach().cpu()  # the model's own memory on the CPU
        self._original = self._codes.clone()

    @property
    def codebook(self) -> Any:
        """The codebook [K, d] that isic edits, a tensor: the model's own memory if it is on the CPU.

        For a model on an accelerator it is a copy on the CPU. The methods of this object write it to the model before they
        decode; call `sync` before other code reads the model.
        """
        return self._codes

    def sync(self) -> None:
        """Writes `codebook` to a model on an accelerator; on the CPU they are the same memory."""
        if self._weight.data_ptr() != self._codes.data_ptr():
            with torch.no_grad():
                self._weight.copy_(self._codes)

    @contextlib.contextmanager
    def original(self) -> Iterator[None]:
        """A context in which the model reads its original codebook, for encoding images and feeding codes to the transformer."""
        weight = self._weight
        edited = weight.data
        weight.data = self._original.to(edited.device, edited.dtype)
        try:
            yield
        finally:
            weight.data = edited

    def decode(self, tokens: Ids) -> Images:
        """Images [n, height, width, 3] of token ids [n, T], decoded with the present codebook."""
        ids = np.asarray(tokens)
        self.sync()
        with torch.no_grad():
            images = [self._images(ids[rows]).mul(255).clamp(0, 255).byte().cpu().numpy() for rows in self._batches(len(ids))]
        return np.concatenate(images)

    def encode(self, images: Images) -> IdArray:
        """Token ids [n, T] of images of the size that `decode` returns, encoded with the original codebook."""
        with torch.no_grad(), self.original():
            return np.concatenate([self._encode(self._normalised(images[rows])).long().cpu().numpy()
                                   for rows in self._batches(len(images))])

    def tuning_loss(self, tuning_set: TuningSet) -> TuningLoss:
        """The loss of tuning: safe images keep their pixels, harmful images take the pixels of their safe counterparts.

        Squared error of pixels in 0..1 on safe images, and pair_weight times a Huber loss (squared up to `huber`, then
        linear) of harmful images to their counterparts; tuning_batch of each per step, sampled by round and step. The
        target images are decoded with the original codebook.
        Source: our choice, the recipe of the emoji demo.
        """
        terms = [(1.0, 2.0, tuning_set.safe, tuning_set.safe),
                 (self.pair_weight, self.huber, tuning_set.harmful, tuning_set.counterparts)]

        def loss(step: int, gradient: FloatArray) -> float:
            chooser = np.random.default_rng((tuning_set.round, step))
            total = 0.0
            self.sync()
            for weight, width, ids, targets in terms:
                if len(ids) and weight > 0:
                    rows = chooser.integers(len(ids), size=self.tuning_batch)
                    value, slope = self._pull(ids[rows], targets[rows], width)
                    total += weight * value
                    gradient += weight * slope
            return total

        return loss

    def _pull(self, ids: Any, targets: Any, width: float) -> tuple[float, FloatArray]:
        """The Huber loss of decoded `ids` to `targets` decoded with the original codebook, and its gradient [K, d]."""
        with torch.no_grad(), self.original():
            wanted = self._images(targets)
        weight = self._weight
        needed = weight.requires_grad
        weight.requires_grad_(True)
        try:
            with torch.enable_grad():
                loss = 2 * torch.nn.functional.huber_loss(self._images(ids), wanted, delta=width)
                slope, = torch.autograd.grad(loss, weight)
        finally:
            weight.requires_grad_(needed)
        return loss.item(), slope.double().cpu().numpy()

    def _images(self, ids: Any) -> Any:
        """Decoded images [n, height, width, 3], about 0..1, a tensor."""
        pixels = self._decode(torch.as_tensor(ids, dtype=torch.long, device=self.model.device)).float().movedim(1, -1)
        mean, std = self._mean_and_std(pixels)
        return pixels * std + mean

    def _normalised(self, images: Images) -> Any:
        """Images normalised for the encoder, [n, 3, height, width]."""
        if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
            raise ShapeError(f"isic.integrations.transformers: expected images [n, height, width, 3] of uint8, "
                             f"got {list(images.shape)} of {images.dtype}")
        pixels = torch.as_tensor(images, device=self.model.device).float() / 255
        mean, std = self._mean_and_std(pixels)
        return ((pixels - mean) / std).movedim(-1, 1).to(self.model.dtype)

    def _mean_and_std(self, like: Any) -> tuple[Any, Any]:
        images = self.processor.image_processor
        return like.new_tensor(images.image_mean), like.new_tensor(images.image_std)

    def _batches(self, n: int) -> Iterator[slice]:
        return (slice(start, start + self.batch_size) for start in range(0, n, self.batch_size))

    def _draw(self, prompts: Sequence[str], seed: int, draw: Callable[[Sequence[str]], Any]) -> IdArray:
        """Token ids [n, T], generated batch by batch from one seed."""
        with torch.no_grad(), self._seeded(seed):
            return np.concatenate([draw(prompts[rows]).long().cpu().numpy() for rows in self._batches(len(prompts))])

    @contextlib.contextmanager
    def _seeded(self, seed: int) -> Iterator[None]:
        """Seeds the random state and restores it afterwards: generate() takes no random generator."""
        kind = self.model.device.type if self.model.device.type != "cpu" else "cuda"
        with torch.random.fork_rng(range(torch.get_device_module(kind).device_count()), device_type=kind):
            torch.manual_seed(seed)
            yield

    def _sampling(self) -> Any:
        """A copy of the generation config that samples from the full distribution, or greedily at temperature 0."""
        config = copy.deepcopy(self.model.generation_config)
        config.num_beams = config.num_return_sequences = 1
        config.guidance_scale = self.guidance_scale
        config.do_sample = self.temperature > 0
        config.temperature, config.top_k, config.top_p = (self.temperature, 0, 1.0) if config.do_sample else (None, None, None)
        for name in ("bos_token_id", "pad_token_id"):  # not every checkpoint names them
            if getattr(config, name, None) is None:
                setattr(config, name, getattr(self.processor.tokenizer, name))
        return config

    @property
    def _vq(self) -> Any:
        return self.model.model.vqmodel

    @property
    def _weight(self) -> Any:
        return self._vq.quantize.embedding.weight

    def _decode(self, ids: Any) -> Any:
        """Pixels [n, 3, height, width] of ids [n, T], in the decoder's range."""
        raise NotImplementedError

    def _encode(self, pixels: Any) -> Any:
        """Ids [n, T] of pixels [n, 3, height, width]."""
        raise NotImplementedError


class Janus(VqModel):
    """Janus and Janus-Pro: generates images of prompts, judges images with its own answers, and rewrites prompts.

    model: a JanusForConditionalGeneration on any device; processor: its JanusProcessor. The chat template is used if the
    processor has one. The transformer reads a table of its own (generation_embeddings) and the judge reads pixels through
    the vision tower: an edit of the codebook changes decoded images, not the generated ids and not the judge.

    batch_size: images per batch; the generated ids depend on it. temperature: of sampling; 0: greedy. guidance_scale: of
        classifier-free guidance, above 1.
    question, categories: the judge's questions, with {category} replaced. yes, no: answers; those of one token count.
    instruction: the instruction of `rewrite`, with {prompt} replaced. rewrite_tokens: largest length of the answer.
    tuning_batch, pair_weight, huber: as `tuning_loss`.

    Raises ValueError on options. Settings of the model, its generation config and the random state are restored.

    model = JanusForConditionalGeneration.from_pretrained("deepseek-community/Janus-Pro-1B")
    janus = Janus(model, JanusProcessor.from_pretrained("deepseek-community/Janus-Pro-1B"))
    report = isic.self_improve(janus, janus.judge, rewrite=janus.rewrite, unsafe_prompts=..., safe_prompts=...)
    janus.sync()
    """

    def __init__(self, model: Any, processor: Any, *, batch_size: int = 8, temperature: float = 1.0, guidance_scale: float = 5.0,
                 question: str = QUESTION, categories: Sequence[str] = CATEGORIES, yes: Sequence[str] = ("yes", "Yes", " yes", " Yes"),
                 no: Sequence[str] = ("no", "No", " no", " No"), instruction: str = INSTRUCTION, rewrite_tokens: int = 128,
                 tuning_batch: int = 8, pair_weight: float = 1.5, huber: float = 0.05) -> None:
        if not guidance_scale > 1:
            raise IsicValueError(f"isic.integrations.transformers.Janus: expected guidance_scale > 1, got {guidance_scale}")
        if isinstance(categories, str) or not categories:
            raise IsicValueError(f"isic.integrations.transformers.Janus: expected a list of categories, got {categories!r}")
        super().__init__(model, processor, batch_size=batch_size, temperature=temperature, guidance_scale=guidance_scale,
                         tuning_batch=tuning_batch, pair_weight=pair_weight, huber=huber)
        self.question = question
        self.categories = tuple(categories)
        self.instruction = instruction
        self.rewrite_tokens = rewrite_tokens
        self._yes, self._no = self._answers(yes), self._answers(no)
        if set(self._yes) & set(self._no):
            raise IsicValueError(f"isic.integrations.transformers.Janus: expected different answers, got yes={yes!r} and no={no!r}")

    def generate(self, prompts: Sequence[str], seed: int) -> IdArray:
        """Token ids [n, T] of n prompts."""
        return self._draw(prompts, seed, self._generate)

    def judge(self, images: Images) -> FloatArray:
        """P(unsafe) of images [n, height, width, 3], [n]: yes against no as the next token, maximum over the categories."""
        texts = [self._chat(self.question.format(category=category), image=True) for category in self.categories]
        with torch.no_grad():
            parts = [[self._p_yes(text, images[rows]) for text in texts] for rows in self._batches(len(images))]
        return np.concatenate([np.max(part, axis=0) for part in parts])

    def rewrite(self, prompt: str) -> str:
        """The safe counterpart of a prompt, generated greedily; the prompt itself if the answer is empty."""
        tokenizer = self.processor.tokenizer
        inputs = self.processor(text=[self._chat(self.instruction.format(prompt=prompt))], return_tensors="pt").to(self.model.device)
        with torch.no_grad():  # GenerationMixin's: Janus' own does the same for text, with a warning
            out = transformers.GenerationMixin.generate(self.model, **inputs, do_sample=False, max_new_tokens=self.rewrite_tokens,
                                                        pad_token_id=tokenizer.pad_token_id)
        answer = tokenizer.decode(out[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True)
        return answer.strip() or prompt

    def _generate(self, prompts: Sequence[str]) -> Any:
        texts = [self._chat(prompt) for prompt in prompts]
        inputs = self.processor(text=texts, generation_mode="image", padding=True, return_tensors="pt").to(self.model.device)
        config = self._sampling()
        start = self.processor.tokenizer.convert_tokens_to_ids(self.processor.image_start_token)
        config.generation_kwargs = {"boi_token_id": start, **(getattr(config, "generation_kwargs", None) or {})}
        return self.model.generate(**inputs, generation_mode="image", generation_config=config)

    def _chat(self, text: str, image: bool = False) -> str:
        if not getattr(self.processor, "chat_template", None):
            return f"{self.processor.image_token}\n{text}" if image else text
        content = [{"type": "image"}] * image + [{"type": "text", "text": text}]
        chat: str = self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False)
        return chat

    def _answers(self, words: Sequence[str]) -> list[int]:
        """Ids of the words that are one token."""
        tokenizer = self.processor.tokenizer
        encoded = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in words]
        ids = sorted({ids[0] for ids in encoded if len(ids) == 1 and ids[0] != tokenizer.unk_token_id})
        if not ids:
            raise IsicValueError(f"isic.integrations.transformers.Janus: expected an answer that is one token, got {words!r}")
        return ids

    def _p_yes(self, text: str, images: Images) -> FloatArray:
        pil = importlib.import_module("PIL.Image")
        inputs = self.processor(text=[text] * len(images), images=[pil.fromarray(image) for image in images], padding=True, return_tensors="pt")
        logits = self.model(**inputs.to(self.model.device, self.model.dtype), logits_to_keep=1).logits[:, -1].double()
        p: FloatArray = torch.sigmoid(logits[:, self._yes].logsumexp(1) - logits[:, self._no].logsumexp(1)).cpu().numpy()
        return p

    def _decode(self, ids: Any) -> Any:
        return self._vq.decode(ids)

    def _encode(self, pixels: Any) -> Any:
        return self._vq.encode(pixels)[2].reshape(len(pixels), -1)


class Emu3(VqModel):
    """Emu3-Gen: generates images of prompts. It does not judge: its vision reads the codebook, and Emu3-Chat is another model.

    model: an Emu3ForConditionalGeneration; processor: its Emu3Processor. ratio, image_area: of the images, as in the
    processor. negative_prompt: the prompt of classifier-free guidance. Other options as `Janus`; a guidance_scale of 1
    turns guidance off.

    The decoder reads the codes unnormalised, and again in its spatial norms behind a temporal stack that mixes channels:
    leakage measures the codebook's rows, not the inputs of those norms.
    """

    def __init__(self, model: Any, processor: Any, *, batch_size: int = 1, temperature: float = 1.0, guidance_scale: float = 3.0,
                 ratio: str = "1:1", image_area: int = 518400, negative_prompt: str = "", tuning_batch: int = 1, pair_weight: float = 1.5,
                 huber: float = 0.05) -> None:
        super().__init__(model, processor, batch_size=batch_size, temperature=temperature, guidance_scale=guidance_scale,
                         tuning_batch=tuning_batch, pair_weight=pair_weight, huber=huber)
        self.ratio = ratio
        self.image_area = image_area
        self.negative_prompt = negative_prompt
        self.height, self.width = processor.calculate_generate_size(ratio, image_area, processor.downsample_ratio)

    def generate(self, prompts: Sequence[str], seed: int) -> IdArray:
        """Token ids [n, T] of n prompts, T = height width."""
        return self._draw(prompts, seed, self._generate)

    def _generate(self, prompts: Sequence[str]) -> Any:
        inputs = self._inputs(prompts)
        config = self._sampling()
        config.max_length = None
        config.max_new_tokens = config.min_new_tokens = self.height * (self.width + 1)
        if self.guidance_scale != 1:
            away = self._inputs([self.negative_prompt] * len(prompts))
            inputs.update(negative_prompt_ids=away["input_ids"], negative_prompt_attention_mask=away["attention_mask"])
        start = inputs["input_ids"].shape[1]
        names = self.model.model.vocabulary_mapping
        kinds = [names.image_tokens] * self.width + [[names.eol_token_id]]
        out = self.model.generate(**inputs, generation_config=config,
                                  prefix_allowed_tokens_fn=lambda _, ids: kinds[(len(ids) - start) % (self.width + 1)])
        return names.convert_bpe2img(out[:, start:].reshape(-1, self.height, self.width + 1)).flatten(1)

    def _inputs(self, prompts: Sequence[str]) -> dict[str, Any]:
        inputs = self.processor(text=list(prompts), return_for_image_generation=True, ratio=self.ratio, image_area=self.image_area,
                                padding=True, padding_side="left", return_tensors="pt").to(self.model.device)
        return {name: inputs[name] for name in ("input_ids", "attention_mask")}

    def _decode(self, ids: Any) -> Any:
        return self._vq.decode(ids.reshape(-1, self.height, self.width))

    def _encode(self, pixels: Any) -> Any:
        sizes = torch.tensor([pixels.shape[2:]] * len(pixels), device=pixels.device)
        out = self._vq.encode(pixels, sizes)
        return torch.stack(list(getattr(out, "image_tokens", out))).flatten(1)
