# SPDX-License-Identifier: Apache-2.0
"""Plots of the rounds."""

from __future__ import annotations

from typing import Callable
from collections.abc import Mapping, Sequence

from .._results import Rate
from ._markup import count, decibels, decimal, note, percent, section, short_percent, tag, text
from ._run import DECIDED, KEPT, UNSAFE, Round, Run, Spectrum, has_interval
from ._svg import Bar, Label, Point, Series, bar_plot, line_plot, scree_plot, swatch

SHOWN_SINGULAR_VALUES = 48
BINS = 20

NO_RATES = "Not in the file: rates."
NO_INTERVALS = "The file does not contain the number of images per rate, so there are no intervals."
SOME_INTERVALS = "The file does not contain the number of images for rates without whiskers."
WHISKERS = "Whiskers are 95\u202f% Wilson intervals."
NO_SPECTRUM = "Not in the file: the singular values of the differences."
KEPT_ONLY = "For all rounds together, the file contains the singular values of the kept basis only."
NO_CHURN = 'Not in the file: churn. To add it, set metrics["nearest_code_churn"] in on_round with isic.nearest_code_churn.'


def rates_section(run: Run) -> str:
    drawn = plots(rates_figure(run, "unsafe", "Unsafe images of unsafe prompts: lower is better", UNSAFE, 0.0),
                  rates_figure(run, "still", "Prompted objects retained: higher is better", KEPT, 0.9))
    known = [has_interval(rate) for r in run.rounds for rate in r.rates.values()]
    if not known:
        said = NO_RATES
    elif any(known):
        said = WHISKERS if all(known) else f"{WHISKERS} {SOME_INTERVALS}"
    else:
        said = NO_INTERVALS
    return section("Rates", drawn, note(said))


def rank_section(run: Run) -> str:
    drawn = [spectrum_figure(f"spectrum-{i}", f"Round {r.number}: singular values of the differences", r.spectrum)
             for i, r in enumerate(run.rounds) if r.spectrum]
    if run.merged:
        drawn.append(spectrum_figure("spectrum-merged", "All rounds together: singular values", run.merged))
    kept_only = run.merged is not None and len(run.merged.values) <= run.merged.rank
    said = KEPT_ONLY if kept_only else "" if drawn else NO_SPECTRUM
    return section("Spectrum and rank", plots(*drawn, bars_figure(run, "ranks", "Rank of all rounds together", "merged_rank")), note(said))


def change_section(run: Run) -> str:
    churn = numbers_figure(run, "churn", "Churn: vectors whose nearest code changed", {"nearest_code_churn": ""}, short_percent, low=0.0)
    leakages = {"leakage_before": "before the projection", "leakage_after": "after"}
    drawn = plots(numbers_figure(run, "change", "Change of the codebook, ‖C − C₀‖ / ‖C₀‖", {"relative_change": ""}, short_percent, low=0.0),
                  bars_figure(run, "moved", "Codes that the round's projection moved", "moved"),
                  churn,
                  numbers_figure(run, "leakage", "Leakage of the codebook into the round's subspace", leakages, decimal, low=0.0),
                  harmfulness_figure(run.harmfulness))
    return section("Change of the codebook", drawn, note("" if churn else text(NO_CHURN)))


def other_section(run: Run) -> str:
    names = list(dict.fromkeys(name for r in run.rounds for name in r.added))
    psnr = numbers_figure(run, "psnr", "PSNR of reconstructed real images, dB: higher is better", {"psnr_db": ""}, decibels)
    added = (numbers_figure(run, f"added-{i}", name, {name: ""}, decimal) for i, name in enumerate(names))
    return section("Other metrics", plots(psnr, *added))


# Single figures; each is empty if the run lacks its data.


def figure(title: str, plot: str, legend: str = "", kind: str | None = None) -> str:
    return tag("figure", tag("figcaption", text(title)), legend, plot, class_=kind)


def plots(*figures: str) -> str:
    return tag("div", *figures, class_="plots") if any(figures) else ""


def legend_of(series: Sequence[Series]) -> str:
    lines = (tag("li", swatch(i), text(one.label)) for i, one in enumerate(series))
    return tag("ul", *lines, class_="legend") if len(series) > 1 else ""


def series_of(run: Run, names: Mapping[str, str], point: Callable[[Round, str], Point | None]) -> list[Series]:
    """One line per name that occurs in a round."""
    found = ((label, [point(r, name) for r in run.rounds]) for name, label in names.items())
    present = (Series(label, [p for p in points if p is not None]) for label, points in found)
    return [one for one in present if one.points]


def lines_figure(run: Run, key: str, title: str, series: Sequence[Series], label: Label, low: float | None, high: float | None,
                 kind: str | None = None) -> str:
    """Lines; the axis spans low to high, the values and their intervals."""
    if not series:
        return ""
    values = [v for one in series for p in one.points for v in (p.low, p.y, p.high) if v is not None]
    ends = [v for v in (low, high) if v is not None]
    plot = line_plot(key, title, series, [r.number for r in run.rounds], label=label, low=min(values + ends), high=max(values + ends),
                     kept=run.kept.number if run.kept else None)
    return figure(title, plot, legend_of(series), kind)


def rates_figure(run: Run, key: str, title: str, names: Mapping[str, str], low: float) -> str:
    series = series_of(run, names, lambda r, name: rate_point(r, r.rates[name]) if name in r.rates else None)
    return lines_figure(run, key, title, series, short_percent, low, 1.0)


def rate_point(r: Round, rate: Rate) -> Point:
    said = f"round {r.number}: {percent(rate.value)}"
    if not has_interval(rate):
        return Point(r.number, rate.value, None, None, said)
    return Point(r.number, rate.value, rate.low, rate.high, f"{said} ({100 * rate.low:.1f} to {100 * rate.high:.1f}), n = {rate.n}")


def numbers_figure(run: Run, key: str, title: str, names: Mapping[str, str], show: Label, *, low: float | None = None) -> str:
    def point(r: Round, name: str) -> Point | None:
        value = r.numbers.get(name)
        return None if value is None else Point(r.number, value, None, None, f"round {r.number}: {show(value)}")

    return lines_figure(run, key, title, series_of(run, names, point), show, low, None, "numbers")


def bars_figure(run: Run, key: str, title: str, name: str) -> str:
    bars = [Bar(str(r.number), r.numbers[name], f"round {r.number}: {count(r.numbers[name])}", r is not run.kept)
            for r in run.rounds if name in r.numbers and r.number]
    return figure(title, bar_plot(key, title, bars, label=count)) if any(bar.value > 0 for bar in bars) else ""


def spectrum_figure(key: str, title: str, s: Spectrum) -> str:
    shown = s.values[:max(SHOWN_SINGULAR_VALUES, min(s.rank + 8, 4 * SHOWN_SINGULAR_VALUES))]
    rest = f", the first {len(shown)} of {len(s.values)}" if len(shown) < len(s.values) else ""
    held = "" if s.energy is None else f"; the kept ones have {percent(s.energy)} of the energy"
    rule = f", {DECIDED[s.decided_by]}" if s.decided_by in DECIDED else ""
    return figure(title + rest + held, scree_plot(key, title, shown, s.rank, rule, decimal))


def harmfulness_figure(harmfulness: Sequence[float]) -> str:
    """Histogram of harmfulness over the codes."""
    if not harmfulness:
        return ""
    bins = [0] * BINS
    for q in harmfulness:
        bins[min(BINS - 1, max(0, int(BINS * q)))] += 1
    bars = [Bar(decimal(i / BINS), n, f"{i / BINS:.2f} to {(i + 1) / BINS:.2f}: {count(n)} codes") for i, n in enumerate(bins)]
    title = f"Harmfulness of the {count(len(harmfulness))} codes"
    plot = bar_plot("harmfulness", title, bars, label=count, name="harmfulness: share of a code's use in unsafe images", values=False)
    return figure(title, plot)
