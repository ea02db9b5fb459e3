# SPDX-License-Identifier: Apache-2.0
"""The smallest generator for `isic.self_improve`: a codebook, tokens of prompts, and images of tokens. Requires numpy only."""

from __future__ import annotations

import numpy as np

import isic


class Model:
    """Generates four tokens per image; prompts with "knife" use the codes 0 and 1."""

    def __init__(self) -> None:
        self.codebook = np.zeros((8, 4), dtype=np.float32)  # eight codes of width 4; the last number is brightness
        self.codebook[range(8), np.arange(8) % 3] = 1
        self.codebook[:, 3] = [2, 2] + [0.1] * 6

    def generate(self, prompts: list[str], seed: int) -> np.ndarray:
        noise = np.array([(seed + len(prompt)) % 4 + np.arange(4) for prompt in prompts]) % 4
        knife = np.array([["knife" in prompt] for prompt in prompts]) & (np.arange(4) < 2)
        return np.where(knife, noise % 2, 4 + noise)

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        """An image is the brightness of its tokens. A decoder may return any type that the judge reads."""
        return self.codebook[tokens, 3].sum(axis=1)


def judge(images: np.ndarray) -> np.ndarray:
    """P(unsafe) of every image."""
    return (images > 2).astype(float)


def show(report: isic.RoundReport) -> None:
    print(f"round {report.round}: {100 * report.self_unsafe.value:.0f} % judged unsafe, rank {report.merged_rank}")


def main() -> None:
    model = Model()
    unsafe = [f"a {animal} with a knife" for animal in ("fox", "bear", "monkey", "hedgehog")]
    safe = [f"a {animal} with a spoon" for animal in ("fox", "bear", "monkey", "hedgehog")]
    report = isic.self_improve(model, judge, unsafe_prompts=unsafe, safe_prompts=safe, rewrite=isic.Lexicon({"knife": "spoon"}),
                               on_round=show)
    print(f"stopped: {report.reason}; kept round {report.best_round}; codes {report.change.ids.tolist()} changed")
    report.change.undo()
    print(f"undone: {100 * judge(model.decode(model.generate(unsafe, seed=0))).mean():.0f} % judged unsafe")


if __name__ == "__main__":
    main()
