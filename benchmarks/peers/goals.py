# SPDX-License-Identifier: Apache-2.0
"""What is wished for: the share of a limit, and how many times slower a peer should be: the fastest whose name begins so,
with the BLAS kernels that it chooses, or with AVX-512 ones where the name says so."""
from __future__ import annotations

import dataclasses


@dataclasses.dataclass
class Goal:
    share: float = 0
    peers: dict[str, float] = dataclasses.field(default_factory=dict)


AVX512 = " (SkylakeX)"

GOALS = {
    "project 262144x256 r=1": Goal(0.75, {"numpy": 6, "torch": 2.5}),
    "project 262144x256 r=4": Goal(0.75, {"numpy": 6, "torch": 3.5}),
    "project 262144x256 r=16": Goal(0.50, {"numpy": 3, f"numpy{AVX512}": 2.3, "torch": 2}),
    "project 8192x256 r=1": Goal(0.75, {"numpy": 14, "torch": 4}),
    "project 8192x256 r=4": Goal(0.60, {"numpy": 3.5, "torch": 2.5}),
    "project 8192x256 r=16": Goal(0.60, {"numpy": 1.8, f"numpy{AVX512}": 1.2, "torch": 1.4}),
    "project 16384x8 r=1": Goal(0.70, {"numpy": 15, "torch": 6}),
    "project 16384x8 r=4": Goal(0.40, {"numpy": 5, "torch": 4}),
    "nearest 16384x8": Goal(0.60, {"faiss": 10, "torch": 8}),
    "nearest 32768x4": Goal(0.50, {"faiss": 15, "torch": 8}),
    "nearest 8192x256": Goal(0.85, {"faiss": 2, f"faiss IndexFlatL2{AVX512}": 1.2}),
    "nearest 262144x256": Goal(0.85, {"faiss": 2, f"faiss IndexFlatL2{AVX512}": 1.2}),
    "adam 16384x8 r=4": Goal(0.50, {"torch": 4}),
    "adam 8192x256 r=4": Goal(0.80, {"torch": 4}),
    "adam 262144x256 r=4": Goal(0.80, {"torch": 9}),
    "ema 16384x8 r=4": Goal(0, {"torch": 5, "one-hot": 500}),
    "ema 8192x256 r=4": Goal(0, {"torch": 5, "one-hot": 500}),
    "ema 262144x256 r=4": Goal(0, {"torch": 9, "one-hot": 500}),
    "subspace 1000000x8 r=4": Goal(0.35, {"numpy float64": 3, "torch.linalg.svd": 12}),
    "subspace 1000000x32 r=4": Goal(0, {"numpy float64": 3, "torch.linalg.svd": 12}),
    "subspace 100000x256 r=4": Goal(0.55, {"numpy float64": 1.7, "torch.linalg.svd": 7}),
}
