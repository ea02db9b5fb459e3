# SPDX-License-Identifier: Apache-2.0
"""How our times grow with the sizes: slopes of straight lines through the logarithms."""
from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import numpy as np

from cases import Setting, normal, orthonormal
from timing import Clock, Contestant


def project(s: Setting, n: int, d: int, r: int) -> Contestant:
    rows = normal(n, d)
    basis = s.library.make("isic_bench_basis", orthonormal(d, r), d, r)
    return Contestant(lambda k: s.library.call("isic_bench_project", basis, rows, n, d, s.threads, k))


def nearest(s: Setting, n: int, count: int, d: int) -> Contestant:
    codes, z, ids = normal(count, d), normal(n, d, seed=2), np.empty(n, np.int64)
    index = s.library.make("isic_bench_index", codes, count, d)

    def run(repeats: int) -> None:
        assert codes.size  # the index looks at the codes again: they live as long
        s.library.call("isic_bench_nearest", index, z, n, d, ids, s.threads, repeats)

    return Contestant(run)


def gram(s: Setting, n: int, d: int) -> Contestant:
    rows, sums = normal(n, d), np.zeros((d, d))
    return Contestant(lambda k: s.library.call("isic_bench_gram", rows, n, d, sums, s.threads, k))


def families(s: Setting) -> list[tuple[str, str, list[int], Callable[[int], Contestant]]]:
    return [
        ("project Kx256 r=4", "K", [1 << i for i in range(11, 17)], lambda k: project(s, k, 256, 4)),
        ("project 8192xd r=4", "d", [64, 128, 256, 512, 1024], lambda d: project(s, 8192, d, 4)),
        ("project 8192x256 r", "r", [8, 16, 32, 64, 128], lambda r: project(s, 8192, 256, r)),
        ("nearest n of 8192x64", "n", [256, 512, 1024, 2048, 4096], lambda n: nearest(s, n, 8192, 64)),
        ("nearest 1024 of Kx64", "K", [1 << i for i in range(11, 16)], lambda k: nearest(s, 1024, k, 64)),
        ("nearest 1024 of 8192xd", "d", [32, 64, 128, 256, 512], lambda d: nearest(s, 1024, 8192, d)),
        ("Gram nx64", "n", [8000 << i for i in range(5)], lambda n: gram(s, n, 64)),
        ("Gram 10000xd", "d", [32, 64, 128, 256, 512], lambda d: gram(s, 10_000, d)),
    ]


def measure(clock: Clock, s: Setting) -> list[dict[str, Any]]:
    found = []
    for what, over, sizes, make in families(s):
        contestants = [make(size) for size in sizes]
        for contestant in contestants:
            contestant.run(1)
        repeats = [clock.repeats(c) for c in contestants]
        rounds = [[clock.seconds(c, k)[clock.wall] for c, k in zip(contestants, repeats)] for _ in range(clock.pairs)]
        medians = [statistics.median(times) for times in zip(*rounds)]
        slope = float(np.polyfit(np.log(sizes), np.log(medians), 1)[0])
        found.append({"what": what, "over": over, "sizes": sizes, "ms": [1e3 * t for t in medians], "slope": slope})
    return found
