# SPDX-License-Identifier: Apache-2.0
"""Times contestants in turns, so that what else the machine does meets both sides of a ratio alike."""
from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable


def nothing() -> None:
    pass


@dataclasses.dataclass
class Contestant:
    """One way to do a case's work. `run(k)` does it k times over; `prepare` comes before it, untimed."""

    run: Callable[[int], object]
    prepare: Callable[[], object] = nothing
    error: float | None = None  # of what it computed, against float64
    share: float = 1.0  # how much of the case's work one run does; times are divided by it
    repeats: int = 0  # timed at once, when that is known


@dataclasses.dataclass
class Clock:
    """`wall`: several threads work, whose CPU times would add up."""

    wall: bool
    pairs: int
    least: float = 1e-3  # seconds; calls shorter than this are timed several at a time

    def seconds(self, one: Contestant, repeats: int) -> tuple[float, float]:
        """CPU and wall time of one run, for the whole work."""
        one.prepare()
        wall = time.perf_counter()
        cpu = time.process_time()
        one.run(repeats)
        cpu = time.process_time() - cpu
        wall = time.perf_counter() - wall
        scale = 1 / (repeats * one.share)
        return cpu * scale, wall * scale

    def repeats(self, one: Contestant) -> int:
        """How many runs to time at once; one that was run before."""
        once = self.seconds(one, 1)[1] * one.share
        if once < self.least / 20:  # too short for the clock
            once = self.seconds(one, 20)[1] * one.share
        return max(1, math.ceil(self.least / max(once, 1e-7)))


@dataclasses.dataclass
class Pairs:
    """Times of ours and of another, taken in turns; milliseconds."""

    ours: list[float]
    ours_wall: list[float]
    other: list[float]
    other_wall: list[float]

    def ratio(self) -> float:
        return statistics.median(b / a for a, b in zip(self.ours, self.other))


def take_pairs(clock: Clock, ours: Contestant, other: Contestant) -> Pairs:
    if not ours.repeats:
        ours.repeats = clock.repeats(ours)
    mine, theirs = ours.repeats, clock.repeats(other)
    times: dict[str, list[float]] = {"ours": [], "ours_wall": [], "other": [], "other_wall": []}
    for _ in range(clock.pairs):
        for name, one, repeats in (("ours", ours, mine), ("other", other, theirs)):
            cpu, wall = clock.seconds(one, repeats)
            times[name].append(1e3 * (wall if clock.wall else cpu))
            times[name + "_wall"].append(1e3 * wall)
    return Pairs(**times)
