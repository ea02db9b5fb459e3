# SPDX-License-Identifier: Apache-2.0
"""A run, read from a file or from a report of `self_improve`. Missing and non-finite values are omitted."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from collections.abc import Mapping

from .._errors import IoError
from .._metrics import wilson
from .._results import Rate

UNSAFE = {
    "cnn_unsafe": "independent CNN",
    "ghost_unsafe": "CNN for faint objects",
    "sprite_unsafe": "sprite match",
    "self_unsafe": "judge",
    "corrected_unsafe": "judge, corrected for its error rates",
    "fit_self_unsafe": "judge, prompts of the pairs",
}
"""Rates that should fall, by measure; the first one in a run is its headline."""

KEPT = {
    "safe_item": "item of safe prompts",
    "safe_object": "second object of safe prompts",
    "unsafe_item": "item of unsafe prompts",
}
"""Rates that should be retained."""

DECIDED = {
    "fixed": "as requested",
    "energy": "by energy",
    "gavish_donoho": "by Gavish and Donoho",
    "sign_flip": "by sign flips",
    "budget": "by the budget",
    "data": "the rank of the data",
}
"""Names of the rank rules."""

_OF_AN_EDIT = ("pairs", "dropped", "rank", "moved", "near_zero", "leakage_before", "leakage_after", "tuning_steps", "first_loss",
               "last_loss")
"""Fields that are zero in round 0, before any edit. The losses are also zero without tuning."""

_DEMO_WORDS = {"rank": "merged_rank", "rank_of_round": "rank", "rank_decided_by": "decided_by", "codes_moved_by_projection": "moved"}


@dataclass(frozen=True)
class Spectrum:
    """Singular values of differences, and the rank that was chosen."""

    values: tuple[float, ...]
    rank: int
    decided_by: str
    energy: float | None = None


@dataclass(frozen=True)
class Round:
    """One round; rates and numbers by name, those of `metrics` among them."""

    number: int
    rates: dict[str, Rate]
    numbers: dict[str, float]
    decided_by: str
    spectrum: Spectrum | None
    added: tuple[str, ...]
    """Names of further metrics, shown as plain numbers."""


@dataclass(frozen=True)
class Run:
    """Contents of a page; empty or None: not in the file."""

    rounds: tuple[Round, ...]
    kept: Round | None
    reason: str
    message: str
    merged: Spectrum | None
    codes: float | None
    changed: float | None
    seconds: float | None
    harmfulness: tuple[float, ...]
    prompts: tuple[str, ...]
    baselines: dict[str, Round]
    attacks: dict[str, dict[str, float]]
    left_by_object: dict[str, float]
    safe_by_object: dict[str, float]
    images: tuple[tuple[str, str], ...]
    """Paths and captions, as named by the file."""


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise IoError(f"isic.report: expected a readable file, got {error}") from None
    except (ValueError, RecursionError) as error:
        raise IoError(f"isic.report: expected JSON in {os.fspath(path)}, got {type(error).__name__}: {error}") from None
    if not isinstance(data, dict):
        raise IoError(f"isic.report: expected an object in {os.fspath(path)}, got {type(data).__name__}")
    return data


def run_of(data: Mapping[str, Any]) -> Run:
    """The run in a report.json of the demo, or in `SelfImproveReport.to_dict()`. Raises IoError for other data."""
    rows = data.get("rounds")
    if not isinstance(rows, (list, tuple)) or not all(isinstance(row, Mapping) for row in rows):
        raise IoError(f"isic.report: expected a list of rounds in 'rounds', got {'none' if rows is None else type(rows).__name__}")
    counts = mapping(data.get("n"))
    rounds = tuple(round_of(row, i, counts) for i, row in enumerate(rows))
    best = number(data.get("best_round"))
    change = mapping(data.get("change"))
    ids = change.get("ids")
    return Run(
        rounds=rounds,
        kept=next((r for r in rounds if r.number == best), None),
        reason=word(data.get("reason", data.get("stop_reason"))),
        message=word(data.get("message")),
        merged=spectrum_of(mapping(data.get("merged"))),
        codes=number(change.get("rows")),
        changed=len(ids) if isinstance(ids, (list, tuple)) else None,
        seconds=number(data.get("loop_seconds")) or sum(r.numbers.get("seconds", 0.0) for r in rounds) or None,
        harmfulness=numbers(data.get("harmfulness")),
        prompts=words(data.get("prompts")),
        baselines={str(name): round_of(row, 0, counts) for name, row in mapping(data.get("baselines")).items() if isinstance(row, Mapping)},
        attacks={str(name): numbers_by_name(row) for name, row in mapping(data.get("attacks")).items()},
        left_by_object=numbers_by_name(data.get("left_by_object")),
        safe_by_object=numbers_by_name(data.get("safe_by_object")),
        images=images_of(data.get("images")),
    )


def round_of(row: Mapping[str, Any], index: int, counts: Mapping[str, Any]) -> Round:
    renamed = {_DEMO_WORDS.get(k, k): v for k, v in row.items()} if "rank_of_round" in row else dict(row)
    projection, metrics = mapping(row.get("projection")), mapping(row.get("metrics"))
    leakages = {f"leakage_{when}": mapping(projection.get(when)).get("total") for when in ("before", "after")}
    known = {**metrics, **{k: projection[k] for k in ("moved", "near_zero") if k in projection}, **leakages, **renamed}
    rates = {name: rate_of(known.get(name), counts.get(name)) for name in (*UNSAFE, *KEPT)}
    found = {name: rate for name, rate in rates.items() if rate is not None}
    given = number(row.get("round"))
    position = index if given is None else int(given)
    unused = _OF_AN_EDIT if position == 0 else _OF_AN_EDIT[-2:] if number(known.get("tuning_steps")) == 0 else ()
    return Round(
        number=position,
        rates=found,
        numbers=numbers_by_name({k: v for k, v in known.items() if k not in rates and k not in unused}),
        decided_by=word(known.get("decided_by")),
        spectrum=spectrum_of(known),
        added=tuple(str(k) for k in metrics if k not in rates and k not in ("psnr_db", "nearest_code_churn")),
    )


def spectrum_of(row: Mapping[str, Any]) -> Spectrum | None:
    """The spectrum of a round or a merged subspace; None without singular values or rank."""
    chosen = mapping(row.get("chosen"))
    values, rank = numbers(row.get("singular_values")), number(chosen.get("rank", row.get("rank")))
    if not values or rank is None:
        return None
    return Spectrum(values, int(rank), word(chosen.get("decided_by", row.get("decided_by"))), number(row.get("energy")))


def rate_of(value: Any, n: Any) -> Rate | None:
    """A rate from an `isic.Rate` as a dictionary, or from a share of n images. Without n the interval is NaN."""
    given = mapping(value)
    share = number(given.get("value", value))
    size = number(given.get("n", n))
    if share is None or not 0 <= share <= 1 or (given and not size):
        return None
    if not size or size < 1:
        return Rate(share, math.nan, math.nan, 0, 0)
    hits = round(share * size)
    exact = wilson(hits, int(size))
    low, high = number(given.get("low")), number(given.get("high"))
    return Rate(share, exact.low if low is None else low, exact.high if high is None else high, hits, int(size))


def has_interval(rate: Rate) -> bool:
    return not math.isnan(rate.low) and not math.isnan(rate.high)


def images_of(value: Any) -> tuple[tuple[str, str], ...]:
    """From names, or from {"path": ..., "caption": ...}."""
    entries = value if isinstance(value, (list, tuple)) else []
    named = [entry if isinstance(entry, Mapping) else {"path": entry} for entry in entries]
    return tuple((word(entry.get("path")), word(entry.get("caption"))) for entry in named)


def number(value: Any) -> float | None:
    """A finite number below 1e100, which plots can add and scale; else None."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) < 1e100 else None


def numbers(value: Any) -> tuple[float, ...]:
    found = [number(v) for v in value] if isinstance(value, (list, tuple)) else []
    return tuple(v for v in found if v is not None)


def numbers_by_name(value: Any) -> dict[str, float]:
    found = {str(k): number(v) for k, v in mapping(value).items()}
    return {k: v for k, v in found.items() if v is not None}


def word(value: Any) -> str:
    return value if isinstance(value, str) else ""


def words(value: Any) -> tuple[str, ...]:
    return tuple(v for v in value if isinstance(v, str)) if isinstance(value, (list, tuple)) else ()


def mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
