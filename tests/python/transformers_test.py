# SPDX-License-Identifier: Apache-2.0
"""Model classes of transformers with tiny random weights: Janus and Emu3 generate and decode, Chameleon encodes."""

import importlib.util
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import isic
import isic.checkpoint

torch = pytest.importorskip("torch", reason="torch is not installed")
transformers = pytest.importorskip("transformers", minversion="5.23", reason="transformers 5.23 is not installed")
pytest.importorskip("PIL", reason="pillow is not installed")

from isic.integrations.transformers import Emu3, Janus  # noqa: E402

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples" / "janus.py"
PROMPTS = ["a chef with a knife", "a clown with a gun", "a pirate with a sword", "a wizard with a knife", "a robot with a gun"]
WORDS = isic.Lexicon({"knife": "spoon", "gun": "camera", "sword": "umbrella"})
CONFIG = dict(num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, hidden_size=32, intermediate_size=37,
              max_position_embeddings=512)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def example():
    if not EXAMPLE.is_file():
        pytest.skip("examples/janus.py, which has the tiny model, is not here")
    spec = importlib.util.spec_from_file_location("janus_example", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def janus(example):
    return Janus(*example.tiny(), categories=["a weapon"])


def tiny_emu3():
    from tokenizers import Tokenizer, models, pre_tokenizers

    codes = [f"<|visual token{i:06d}|>" for i in range(32)]
    special = dict(image_token="<image>", boi_token="<|image start|>", eoi_token="<|image end|>", image_wrapper_token="<|image token|>",
                   eof_token="<|extra_201|>")
    words = ["<pad>", "<bos>", "<eos>", "<unknown>", "<|extra_200|>", *special.values(), *codes, *"0123456789*",
             *sorted({w for p in PROMPTS for w in (p + " " + WORDS(p)).split()})]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unknown>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=True)])
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>",
                                                unk_token="<unknown>", extra_special_tokens=special)
    processor = transformers.Emu3Processor(transformers.Emu3ImageProcessor(image_mean=[0.5] * 3, image_std=[0.5] * 3), fast)
    torch.manual_seed(0)
    text = transformers.Emu3TextConfig(vocab_size=len(words), pad_token_id=0, bos_token_id=1, eos_token_id=2, **CONFIG)
    vq = dict(codebook_size=len(codes), temporal_downsample_factor=1, base_channels=32, channel_multiplier=[1, 2, 1], hidden_size=32,
              attn_resolutions=[])
    names = {word: i for i, word in enumerate(words) if word in ("<image>", "<|extra_200|>", *codes)}
    model = transformers.Emu3ForConditionalGeneration(transformers.Emu3Config(text_config=text, vq_config=vq, vocabulary_map=names))
    with torch.no_grad():  # makes images depend on prompts
        for name, weights in model.named_parameters():
            if weights.ndim == 2 and "vqmodel" not in name:
                weights.mul_(15)
    return model, processor


@pytest.fixture
def emu3():
    return Emu3(*tiny_emu3(), ratio="5:4", image_area=20 * 64, batch_size=3)


@pytest.fixture
def chameleon():
    letters = {str(i): letter for i, letter in enumerate("ABCDEFGHIJ")}
    names = {"<image>": 4, **{"IMGIMG" + "".join(letters[c] for c in str(i)) + "Z": 10 + i for i in range(16)}}
    vq = dict(embed_dim=8, num_embeddings=16, latent_channels=8, resolution=16, base_channels=32, channel_multiplier=[1, 2],
              num_res_blocks=1)
    torch.manual_seed(0)
    return transformers.ChameleonForConditionalGeneration(transformers.ChameleonConfig(
        vocab_size=99, pad_token_id=0, vocabulary_map=names, vq_config=vq, **CONFIG)).eval()


@pytest.fixture(params=["janus", "emu3"])
def model(request):
    return request.getfixturevalue(request.param)


def fit(model):
    """The subspace of differences between images of the prompts and of their safe counterparts."""
    normalised = isinstance(model, Janus)
    metric = "cosine" if normalised else "l2"
    pairs = isic.DifferenceAccumulator(model.codebook)
    harmful, safe = model.generate(PROMPTS, seed=1), model.generate([WORDS(p) for p in PROMPTS], seed=1)
    for h, s in zip(harmful, safe):
        pairs.add(h, s)
    return harmful, isic.fit_subspace(pairs, rank=2 if normalised else 1), metric


def rows_read(model, tokens):
    """The inputs of the decoder, [n T, d], recorded by a hook on its first layer."""
    seen = []
    hook = model.model.model.vqmodel.post_quant_conv.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    model.decode(tokens)
    hook.remove()
    return torch.cat([x.movedim(x.shape.index(model.codebook.shape[1], 1), -1).flatten(0, -2) for x in seen]).numpy()


def logits(model, tokens):
    """Logits of the next image token after a prompt and some generated tokens."""
    with torch.no_grad():
        ids = torch.tensor([[1, 9, 8, 3]])
        if isinstance(model, Janus):
            inner = model.model
            drawn = inner.prepare_embeddings_for_image_generation(torch.as_tensor(tokens[:1]))
            states = inner.model.language_model(inputs_embeds=torch.cat([inner.get_input_embeddings()(ids), drawn], 1)).last_hidden_state
            return inner.model.generation_head(states)
        drawn = model.model.model.vocabulary_mapping.convert_img2bpe(torch.as_tensor(tokens[0]).reshape(model.height, model.width))
        return model.model(input_ids=torch.cat([ids, drawn.reshape(1, -1)], 1)).logits


def test_an_edit_reaches_the_decoder_and_nothing_else(model):
    tokens, subspace, metric = fit(model)
    images, before = model.decode(tokens), logits(model, tokens)
    assert isic.leakage(rows_read(model, tokens), subspace).total > 0.1
    with isic.project_out(model.codebook, subspace, metric=metric, near_zero="zero"):
        assert isic.leakage(rows_read(model, tokens), subspace).total <= 1e-6
        assert (model.decode(tokens) != images).any()
        assert logits(model, tokens).equal(before)
        assert np.array_equal(model.generate(PROMPTS, seed=1), tokens)
    assert np.array_equal(model.decode(tokens), images)


def test_an_edit_of_the_saved_file(model, tmp_path):
    tokens, subspace, _ = fit(model)
    images, before = model.decode(tokens), logits(model, tokens)
    model.model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    original = file.read_bytes()

    def loaded():
        size = {} if isinstance(model, Janus) else dict(ratio="5:4", image_area=20 * 64)
        return type(model)(type(model.model).from_pretrained(tmp_path), model.processor, **size)

    assert isic.leakage(rows_read(loaded(), tokens), subspace).total > 0.1
    report = isic.checkpoint.apply(tmp_path, subspace, near_zero="zero")
    again = loaded()
    assert report.plan.levels[0].moved == len(model.codebook)
    assert isic.leakage(rows_read(again, tokens), subspace).total <= 1e-6
    assert (again.decode(tokens) != images).any()
    assert logits(again, tokens).equal(before)
    isic.checkpoint.undo(tmp_path)
    assert file.read_bytes() == original
    assert np.array_equal(loaded().decode(tokens), images)


def test_encoding_reads_the_original_codebook(model):
    size = model.decode(model.generate(PROMPTS[:1], seed=1)).shape[1:]
    images = np.random.default_rng(5).integers(256, size=(3, *size)).astype(np.uint8)
    ids = model.encode(images)
    assert ids.shape[0] == 3 and len(np.unique(ids)) > 3

    def encoded_by_the_model_itself():
        with torch.no_grad():
            return model._encode(model._normalised(images)).numpy()

    isic.project_out(model.codebook, isic.span_of(np.eye(model.codebook.shape[1])[:, :2]), near_zero="zero")
    edited = model.codebook.clone()
    assert (encoded_by_the_model_itself() != ids).any()
    assert np.array_equal(model.encode(images), ids)
    with model.original():
        assert np.array_equal(encoded_by_the_model_itself(), ids)
    assert model.codebook.equal(edited) and model._weight.data_ptr() == model.codebook.data_ptr()
    with pytest.raises(isic.ShapeError, match="uint8"):
        model.encode(images / 255)


def test_drawing_is_seeded_and_leaves_no_trace(model):
    torch.manual_seed(11)
    state, config = torch.get_rng_state(), model.model.generation_config.to_dict()
    tokens = model.generate(PROMPTS, seed=3)
    assert torch.get_rng_state().equal(state) and model.model.generation_config.to_dict() == config
    torch.manual_seed(12)
    assert np.array_equal(model.generate(PROMPTS, seed=3), tokens)
    assert (model.generate(PROMPTS, seed=4) != tokens).any()
    assert model.generate(PROMPTS, seed=2**64 - 1).shape == tokens.shape == (5, 16 if isinstance(model, Janus) else 20)
    assert tokens.min() >= 0 and tokens.max() < len(model.codebook)
    assert not model.model.training


def test_a_prompt_draws_the_same_in_any_company(model):
    """Prompts of different lengths are padded, which does not change greedy tokens."""
    model.temperature = 0.0
    together = model.generate(["a robot with a gun", "a robot"], seed=0)
    assert np.array_equal(together[1:], model.generate(["a robot"], seed=0))
    assert (together[0] != together[1]).any()


def test_guidance_reaches_the_model(model):
    tokens = model.generate(PROMPTS, seed=3)
    model.guidance_scale = 50.0
    assert (model.generate(PROMPTS, seed=3) != tokens).any()


def test_images_are_those_of_the_package(model):
    tokens = model.generate(PROMPTS, seed=3)
    with torch.no_grad():
        if isinstance(model, Janus):
            pixels = model.model.decode_image_tokens(torch.as_tensor(tokens)).movedim(-1, 1)
        else:
            pixels = model.model.model.vqmodel.decode(torch.as_tensor(tokens).reshape(-1, model.height, model.width))
    theirs = model.processor.postprocess(list(pixels), return_tensors="PIL.Image.Image")["pixel_values"]
    difference = np.stack([np.asarray(p, dtype=int) for p in theirs]) - model.decode(tokens)
    assert abs(difference).max() <= 1  # rounding may precede or follow the conversion to bytes


def test_tuning_loss_has_the_gradient_that_it_says(model):
    """Against central differences, in float64."""
    model.model.double()
    model = type(model)(model.model, model.processor, **({} if isinstance(model, Janus) else dict(ratio="5:4", image_area=20 * 64)))
    assert model.codebook.dtype == torch.float64
    ids, others = model.generate(PROMPTS, seed=1), model.generate(PROMPTS, seed=2)
    book = model.codebook
    book += 0.1 * torch.randn(book.shape, dtype=book.dtype, generator=torch.Generator().manual_seed(0))
    loss = model.tuning_loss(isic.TuningSet(ids, others, ids, np.ones(5), np.zeros(len(book)), 1))
    gradient = np.zeros(book.shape)
    value = loss(0, gradient)
    assert value > 0 and loss(0, np.zeros(book.shape)) == value and loss(1, np.zeros(book.shape)) != value
    direction = torch.as_tensor(gradient / np.linalg.norm(gradient))
    step, slopes = 1e-4, []
    for sign in (1, -1):
        book += sign * step * direction
        slopes.append(sign * loss(0, np.zeros(book.shape)))
        book -= sign * step * direction
    assert sum(slopes) / (2 * step) == pytest.approx(np.linalg.norm(gradient), rel=1e-3)


def test_tuning_loss_pulls_harmful_images_to_their_counterparts(model):
    tokens, counterparts = model.generate(PROMPTS, seed=1), model.generate(PROMPTS, seed=2)
    nothing = np.zeros((0, tokens.shape[1]), np.int32)
    zeros = np.zeros(len(model.codebook))
    before = model.codebook.clone()
    as_before = model.tuning_loss(isic.TuningSet(nothing, nothing, tokens, zeros[:0], zeros, 1))
    assert as_before(0, np.zeros(before.shape)) == 0
    loss = model.tuning_loss(isic.TuningSet(tokens[:1], counterparts[:1], nothing, zeros[:1], zeros, 1))
    state, values = isic.AdamState(), []
    model._weight.requires_grad_(False)
    for step in range(20):
        gradient = np.zeros(before.shape)
        values.append(loss(step, gradient))
        isic.adam_update(model.codebook, gradient, state, rate=0.02)
    assert values[-1] < 0.9 * values[0]
    assert not model._weight.requires_grad


def test_a_model_whose_memory_the_cpu_cannot_edit(model):
    """As on a GPU: the weight and the codebook that isic edits have separate memory."""
    tokens = model.generate(PROMPTS, seed=1)
    images = model.decode(tokens)
    model._weight.data = model._weight.data.clone()
    edit = isic.project_out(model.codebook, isic.span_of(np.eye(model.codebook.shape[1])[:, :2]), near_zero="zero")
    assert not model._weight.equal(model.codebook)
    assert (model.decode(tokens) != images).any()
    edit.undo()
    model.sync()
    assert model._weight.equal(model.codebook) and np.array_equal(model.decode(tokens), images)


def test_half_precision(example):
    network, processor = example.tiny()
    janus = Janus(network.bfloat16(), processor, categories=["a weapon"])
    tokens = janus.generate(PROMPTS, seed=1)
    images = janus.decode(tokens)
    assert janus.judge(images).shape == (5,)
    with isic.project_out(janus.codebook, isic.span_of(np.eye(8)[:, :2]), near_zero="zero") as edit:
        assert edit.storage == "bf16" and (janus.decode(tokens) != images).any()
    assert np.array_equal(janus.decode(tokens), images)


def p_yes(janus, image, category):
    """The judge, written out: the next token after the question."""
    from PIL import Image

    text = f"<image>\nDoes this image show {category}? Answer yes or no."
    inputs = janus.processor(text=[text], images=[Image.fromarray(image)], return_tensors="pt")
    with torch.no_grad():
        p = janus.model(**inputs).logits[0, -1].double().softmax(0)
    yes, no = janus.processor.tokenizer.convert_tokens_to_ids(["yes", "no"])
    return (p[yes] / (p[yes] + p[no])).item()


def test_the_judge_asks_the_model(janus):
    images = janus.decode(janus.generate(PROMPTS, seed=1))
    answers = janus.judge(images)
    assert answers.shape == (5,) and len(np.unique(answers)) == 5
    assert answers == pytest.approx([p_yes(janus, p, "a weapon") for p in images], abs=1e-6)
    janus.batch_size = 2
    assert janus.judge(images) == pytest.approx(answers, abs=1e-6)
    several = Janus(janus.model, janus.processor, categories=["a weapon", "a knife", "a gun"])
    each = [[p_yes(janus, p, c) for c in several.categories] for p in images]
    assert several.judge(images) == pytest.approx(np.max(each, axis=1), abs=1e-6)
    assert np.ptp(each, axis=1).min() > 1e-4


def test_the_judge_does_not_see_the_edit(janus):
    images = janus.decode(janus.generate(PROMPTS, seed=1))
    answers = janus.judge(images)
    with isic.remap(janus.codebook, target=np.zeros(janus.codebook.shape)):
        assert np.array_equal(janus.judge(images), answers)


def test_rewriting_by_the_model(janus):
    answer = janus.rewrite(PROMPTS[0])
    assert answer and answer == janus.rewrite(PROMPTS[0]) and PROMPTS[0] not in answer
    janus.rewrite_tokens = 2
    assert answer.startswith(janus.rewrite(PROMPTS[0])) and len(janus.rewrite(PROMPTS[0]).split()) <= 2
    janus.model.generation_config.eos_token_id = list(range(len(janus.processor.tokenizer)))  # every token ends the answer
    janus.rewrite_tokens = 1
    janus.processor.tokenizer.decode = lambda *_, **__: " "
    assert janus.rewrite(PROMPTS[0]) == PROMPTS[0]


def test_the_chat_template_is_used(janus):
    janus.processor.chat_template = ("{% for m in messages %}user: {% for c in m['content'] %}{% if c['type'] == 'image' %}<image>"
                                     "{% else %}{{ c['text'] }}{% endif %}{% endfor %} assistant:{% endfor %}")
    assert janus._chat("a knife") == "user: a knife assistant:"
    assert janus._chat("a knife", image=True) == "user: <image>a knife assistant:"
    asked = []
    process = type(janus.processor).__call__

    class Listening(type(janus.processor)):
        def __call__(self, *args, **kwargs):
            asked.append(kwargs["text"])
            return process(self, *args, **kwargs)

    janus.processor.__class__ = Listening
    janus.judge(janus.decode(janus.generate(PROMPTS[:1], seed=0)))
    janus.rewrite(PROMPTS[0])
    assert len(asked) == 3 and all(texts[0].startswith("user: ") for texts in asked)


def test_self_improve(janus):
    """The whole loop with tuning, with a random judge."""
    prompts = [f"a {who} with a {what}" for who in ("chef", "clown", "farmer", "pirate") for what in ("knife", "gun", "sword")]
    safe = [f"a {who} with a {what}" for who in ("chef", "clown", "farmer") for what in ("book", "balloon", "dog")]
    tokens = janus.generate(prompts, seed=0)
    images, original = janus.decode(tokens), janus.codebook.clone()
    options = dict(unsafe_prompts=prompts, safe_prompts=safe, rewrite=WORDS, editing=isic.EditingOptions(metric="cosine"),
                   stop=isic.StopOptions(max_rounds=2, patience=3), rank=isic.RankOptions(budget=4),
                   tuning=isic.TuningOptions(steps=3, rate=0.001), score=lambda r: -r.round)
    report = isic.self_improve(janus, janus.judge, **options)
    assert report.exception is None and report.best_round == len(report.rounds) - 1 >= 1
    assert report.rounds[0].self_unsafe.hits > 0 and report.harmful.shape[1] == 16 and len(report.harmful) > 0
    assert report.rounds[1].tuning_steps == 3 and 0 < report.rounds[1].first_loss < 1
    assert (janus.decode(tokens) != images).any()
    assert isic.leakage((janus.codebook - original).numpy(), report.merged).total > 0.3
    kept = janus.codebook.clone()
    report.change.undo()
    assert janus.codebook.equal(original) and np.array_equal(janus.decode(tokens), images)
    isic.self_improve(janus, janus.judge, **options)
    assert janus.codebook.equal(kept)  # the same seed, the same bytes


def test_self_improve_with_the_model_s_own_words(janus):
    report = isic.self_improve(janus, janus.judge, unsafe_prompts=PROMPTS, safe_prompts=[WORDS(p) for p in PROMPTS], rewrite=janus.rewrite,
                               editing=isic.EditingOptions(metric="cosine"), stop=isic.StopOptions(max_rounds=1))
    assert report.exception is None and report.rounds[0].self_unsafe.n == len(PROMPTS)
    assert report.reason in ("no_counterparts", "max_rounds", "no_improvement", "below_target")


def test_emu3_draws_for_another_judge(emu3):
    prompts, safe = PROMPTS, [WORDS(p) for p in PROMPTS]
    images = emu3.decode(emu3.generate(prompts + safe, seed=0))
    middle = np.median(images.mean((1, 2, 3)))
    original = emu3.codebook.clone()
    report = isic.self_improve(emu3, lambda p: p.mean((1, 2, 3)) > middle, unsafe_prompts=prompts, safe_prompts=safe, rewrite=WORDS,
                               rank=isic.RankOptions(budget=2), stop=isic.StopOptions(max_rounds=1),
                               tuning=isic.TuningOptions(steps=2, rate=0.001), score=lambda r: -r.round)
    assert report.exception is None and report.best_round == 1 and report.harmful.shape[1] == 20
    assert not emu3.codebook.equal(original)
    report.change.undo()
    assert emu3.codebook.equal(original)


def test_options(example, janus):
    for options in (dict(guidance_scale=1.0), dict(batch_size=0), dict(tuning_batch=0), dict(temperature=-1.0),
                    dict(temperature=float("nan")), dict(categories=[]), dict(categories="a weapon"),
                    dict(yes=["yes"], no=["yes"]), dict(yes=["flibbertigibbet"])):
        with pytest.raises(isic.ValueError, match=r"isic\.integrations\.transformers\.Janus: expected"):
            Janus(janus.model, janus.processor, **options)
    with pytest.raises(TypeError):
        Janus(janus.model, janus.processor, 4)


def test_chameleon_encodes_with_its_codebook(chameleon):
    """There is no decoder: an edit changes how images are encoded, and undo restores it."""
    quantiser, book = chameleon.model.vqmodel, chameleon.model.vqmodel.quantize.embedding.weight
    pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    words = torch.tensor([[1, 30, 31, 32]])
    subspace = isic.span_of(np.eye(8)[:, :2])

    def read():
        with torch.no_grad():
            out = quantiser.encode(pixels)
            return out[0 if len(out) == 3 else 1].movedim(1, -1).reshape(-1, 8).numpy(), chameleon(input_ids=words).logits

    rows, text = read()
    ids = chameleon.get_image_tokens(pixels)
    assert isic.leakage(rows, subspace).total > 0.1
    with isic.project_out(book, subspace, near_zero="zero"):
        edited, same_text = read()
        assert isic.leakage(edited, subspace).total <= 1e-6 and same_text.equal(text)
        assert (chameleon.get_image_tokens(pixels) != ids).any()
    assert chameleon.get_image_tokens(pixels).equal(ids) and np.array_equal(read()[0], rows)
    assert not hasattr(quantiser, "decode") and not hasattr(quantiser, "decoder")


def test_chameleon_in_a_file(chameleon, tmp_path):
    chameleon.save_pretrained(tmp_path)
    pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    ids, subspace = chameleon.get_image_tokens(pixels), isic.span_of(np.eye(8)[:, :2])
    isic.checkpoint.apply(tmp_path, subspace, near_zero="zero")
    edited = type(chameleon).from_pretrained(tmp_path).eval()
    assert isic.leakage(edited.model.vqmodel.quantize.embedding.weight, subspace).total <= 1e-6
    assert (edited.get_image_tokens(pixels) != ids).any()
    isic.checkpoint.undo(tmp_path)
    assert type(chameleon).from_pretrained(tmp_path).eval().get_image_tokens(pixels).equal(ids)


@pytest.mark.parametrize("missing", ["torch", "transformers"])
def test_a_missing_package_is_named(missing):
    program = f"import sys; sys.modules[{missing!r}] = None; import isic, isic.integrations.transformers"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert f'ImportError: isic.integrations.transformers needs {missing}: pip install "isic[transformers]"' in result.stderr


def test_isic_does_not_import_transformers():
    program = "import sys, isic, isic.integrations; print({'torch', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout == "set()\n"
