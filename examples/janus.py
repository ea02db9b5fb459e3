# SPDX-License-Identifier: Apache-2.0
"""Janus judges its own images and unlearns the unsafe ones: the experiment of Safe-CB in one script.

    python examples/janus.py --weights deepseek-community/Janus-Pro-1B   # a name on the Hugging Face hub, or a folder
    python examples/janus.py                                             # tiny random weights: real mechanics, meaningless images

Requires pip install ".[transformers]". Writes before.png, after.png, edit.safetensors, which `isic.load_edit` reads to edit the
same weights again, and pairs.safetensors, the image pairs of the run; and the tiny model, unedited, to model/.
"""

from __future__ import annotations

import argparse
import pathlib
from typing import Any

import numpy as np

try:
    import torch
    from PIL import Image
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import JanusConfig, JanusForConditionalGeneration, JanusImageProcessor, JanusProcessor, PreTrainedTokenizerFast
except ImportError as missing:
    raise SystemExit(f'{missing}; this example needs pip install ".[transformers]"') from None

import isic
from isic.integrations.transformers import Janus

WORDS = isic.Lexicon({"knife": "spoon", "gun": "camera", "sword": "umbrella"})
PEOPLE = ("chef", "clown", "farmer", "pirate", "robot", "wizard")
UNSAFE = [f"a {who} with a {what}" for who in PEOPLE for what in ("knife", "gun", "sword")]
SAFE = [f"a {who} with a {what}" for who in PEOPLE for what in ("book", "balloon", "dog")]


def pretrained(weights: str) -> tuple[Any, Any]:
    """The model and its processor, on a GPU if there is one."""
    device, dtype = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
    return JanusForConditionalGeneration.from_pretrained(weights, dtype=dtype).to(device), JanusProcessor.from_pretrained(weights)


def tiny(seed: int = 0) -> tuple[Any, Any]:
    """A Janus of 0.3 million random weights, with the words of the prompts and images of 8 x 8 pixels."""
    special = ["<pad>", "<begin>", "<end>", "<begin_of_image>", "<end_of_image>", "<image>", "<unknown>"]
    words = special + sorted({word for text in UNSAFE + SAFE + ["spoon camera umbrella yes no"] for word in text.split()})
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unknown>"))
    tokenizer.pre_tokenizer = Whitespace()
    names = dict(pad_token="<pad>", bos_token="<begin>", eos_token="<end>", unk_token="<unknown>")
    more = dict(boi_token="<begin_of_image>", eoi_token="<end_of_image>", image_token="<image>")
    processor = JanusProcessor(JanusImageProcessor(size={"height": 16, "width": 16}, image_mean=[0.5] * 3, image_std=[0.5] * 3),
                               PreTrainedTokenizerFast(tokenizer_object=tokenizer, extra_special_tokens=more, **names), num_image_tokens=16)
    text = dict(model_type="llama", vocab_size=len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=37,
                max_position_embeddings=512, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    vision = dict(image_size=16, patch_size=4, num_image_tokens=16, hidden_size=32, projection_dim=32, num_hidden_layers=2,
                  num_attention_heads=4, mlp_ratio=2, num_channels=3)
    vq = dict(embed_dim=8, num_embeddings=64, latent_channels=32, base_channels=32, channel_multiplier=[1, 1], num_res_blocks=1,
              projection_dim=32, image_token_embed_dim=32)
    torch.manual_seed(seed)
    config = JanusConfig(text_config=text, vision_config=vision, vq_config=vq, image_token_id=words.index("<image>"))
    model = JanusForConditionalGeneration(config)
    with torch.no_grad():  # makes images depend on prompts, and answers on images
        for name, weights in model.named_parameters():
            if weights.ndim == 2 and "vqmodel" not in name:
                weights.mul_(15)
    return model, processor


def save(path: pathlib.Path, images: np.ndarray) -> None:
    """Images [n, height, width, 3] side by side."""
    Image.fromarray(np.concatenate(list(images), axis=1)).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", help="name or folder of a Janus or Janus-Pro checkpoint of transformers; default: tiny random weights")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("out/janus"), help="output folder")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=15, help="tuning steps in the first round, 0: none")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    model, processor = pretrained(options.weights) if options.weights else tiny()
    if not options.weights:
        model.save_pretrained(options.out / "model")
    janus = Janus(model, processor, categories=["a weapon"])
    tokens = janus.generate(UNSAFE[:6], seed=options.seed)
    save(options.out / "before.png", janus.decode(tokens))

    def show(round: isic.RoundReport) -> None:
        print(f"round {round.round}: {100 * round.self_unsafe.value:.0f} % judged unsafe, {round.pairs} pairs, rank {round.merged_rank}")

    length = janus.codebook.float().norm(dim=1).mean().item()  # of a code; the decoder normalises codes
    report = isic.self_improve(janus, janus.judge, unsafe_prompts=UNSAFE, safe_prompts=SAFE, rewrite=WORDS,
                               stop=isic.StopOptions(max_rounds=options.rounds), editing=isic.EditingOptions(metric="cosine"),
                               tuning=isic.TuningOptions(steps=options.steps, rate=0.05 * length, constrained=False),
                               seed=options.seed, on_round=show)
    janus.sync()  # writes the kept codebook to the model
    print(f"stopped: {report.reason} {report.message}".rstrip())
    print(f"kept round {report.best_round}: {len(report.change.ids)} codes of {report.change.rows} changed")
    save(options.out / "after.png", janus.decode(tokens))
    report.change.save(options.out / "edit.safetensors")
    isic.export_pairs(report, options.out / "pairs.safetensors")
    print(f"wrote before.png, after.png, edit.safetensors and pairs.safetensors to {options.out}")


if __name__ == "__main__":
    main()
