# SPDX-License-Identifier: Apache-2.0
"""A program for mypy --strict; typing_test.py also runs it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

import isic


class Model:
    def __init__(self) -> None:
        self.codebook: npt.NDArray[np.float32] = np.eye(4, 3, dtype=np.float32)

    def generate(self, prompts: list[str], seed: int) -> npt.NDArray[np.int64]:
        return np.array([[0 if "knife" in prompt else 1, 2] for prompt in prompts])

    def decode(self, tokens: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        images: npt.NDArray[np.float32] = self.codebook[tokens].sum(1)
        return images


def judge(images: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    return (images[:, 0] > 0.9).astype(np.float64)


def main() -> None:
    model = Model()
    words = isic.Lexicon({"knife": "spoon"})
    report = isic.self_improve(model, judge, unsafe_prompts=["a fox with a knife"], safe_prompts=["a fox with a spoon"], rewrite=words,
                               editing=isic.EditingOptions(prior_per_code=0.05))
    reason: str = report.reason
    changed: npt.NDArray[np.int64] = report.change.ids
    print(reason, changed.tolist())

    codes = np.array([[3, 1, 0], [0, 1, 0]], dtype=np.float32)
    pairs = isic.DifferenceAccumulator(codes)
    pairs.add([0], [1])
    subspace: isic.Subspace = isic.fit_subspace(pairs, rank=1)
    with isic.project_out(codes, subspace, strength=0.5, near_zero="skip") as edit:
        total: float = edit.summary.after.total
        print(round(total, 3))
    basis, state = isic.fused.Basis(subspace), isic.fused.AdamState("float32")
    isic.fused.adam_update(codes, np.ones_like(codes), state, rate=0.1, orthogonal_to=basis, locked=[False, True], threads=1)
    isic.fused.project_out(codes, basis, strength=[0.5, 0.0])
    nearest: npt.NDArray[np.int64] = isic.CodeIndex(codes).nearest(codes, threads=1)
    print(nearest.tolist(), state.steps)
    try:
        isic.project_out(codes, subspace, strength=2)
    except isic.ValueError as error:
        print(error)


if __name__ == "__main__":
    main()
