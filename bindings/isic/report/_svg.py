# SPDX-License-Identifier: Apache-2.0
"""Plots as SVG: lines with intervals, bars, and singular values. The style sheet has colours and fonts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Callable
from collections.abc import Sequence

from ._markup import tag, text

WIDTH, HEIGHT = 400.0, 240.0
LEFT, RIGHT, TOP, BOTTOM = 50.0, 12.0, 20.0, 40.0

MARKERS = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "M-3.6-3.6h7.2v7.2h-7.2z",
    "M0-5l5 5l-5 5l-5-5z",
    "M0-4.8l4.8 8.4h-9.6z",
    "M0 4.8l4.8-8.4h-9.6z",
    "M-4.4-1.6h2.8v-2.8h3.2v2.8h2.8v3.2h-2.8v2.8h-3.2v-2.8h-2.8z",
)
"""One marker per line, so that lines differ without colour."""

Label = Callable[[float], str]


@dataclass(frozen=True)
class Point:
    """A value at a position x, with its interval if known, and its tooltip."""

    x: float
    y: float
    low: float | None
    high: float | None
    note: str


@dataclass(frozen=True)
class Series:
    """A line: points in order of x."""

    label: str
    points: Sequence[Point]


@dataclass(frozen=True)
class Bar:
    """A value, its label on the x axis, and its tooltip."""

    label: str
    value: float
    note: str
    muted: bool = False


@dataclass(frozen=True)
class Scale:
    """Values low..high to coordinates start..end."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def y_scale(low: float, high: float) -> Scale:
    return Scale(low, high, HEIGHT - BOTTOM, TOP)


def ticks(low: float, high: float, whole: bool = False, most: int = 5) -> list[float]:
    """Ticks that cover low to high in at most `most` steps; multiples of 1, 2, 2.5 or 5 times a power of ten, or whole numbers."""
    span = high - low if high > low else max(abs(high), 1.0)
    power = 10.0 ** math.floor(math.log10(span / most))
    steps = [m * power for m in (1, 2, 2.5, 5, 10, 20)]
    step = next(s for s in steps if span / s <= most and not (whole and s % 1)) if not whole or span > most else 1.0
    first = math.floor(low / step + 1e-9)
    last = max(first + 1, math.ceil(high / step - 1e-9))
    return [step * i for i in range(first, last + 1)]


def canvas(key: str, title: str, description: str, *content: str) -> str:
    names = f"{key}-title {key}-description"
    return tag("svg", tag("title", text(title), id=f"{key}-title"), tag("desc", text(description), id=f"{key}-description"), *content,
               viewBox=f"0 0 {WIDTH:.0f} {HEIGHT:.0f}", role="img", aria_labelledby=names)


def y_axis(scale: Scale, at: Sequence[float], label: Label) -> str:
    lines = (tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=scale(v), y2=scale(v), class_="grid") for v in at)
    labels = (tag("text", text(label(v)), x=LEFT - 7, y=scale(v) + 4, text_anchor="end") for v in at)
    return "".join([*lines, *labels])


def x_axis(name: str, places: Sequence[tuple[float, str]]) -> str:
    every = math.ceil(len(places) / 13)
    labels = (tag("text", text(label), x=x, y=HEIGHT - BOTTOM + 17, text_anchor="middle") for x, label in places[::every])
    middle = (LEFT + WIDTH - RIGHT) / 2
    return "".join([*labels, tag("text", text(name), x=middle, y=HEIGHT - 5, text_anchor="middle", class_="name")])


def marker(kind: int, x: float = 0.0, y: float = 0.0, note: str = "") -> str:
    shape = tag("title", text(note)) if note else ""
    return tag("path", shape, d=MARKERS[kind % len(MARKERS)], transform=f"translate({x:.1f} {y:.1f})", class_="marker")


def swatch(kind: int) -> str:
    """A sample of a line, for a legend."""
    line = tag("line", x1=-12.0, x2=12.0, y1=0.0, y2=0.0, class_="line")
    return tag("svg", tag("g", line, marker(kind), class_=f"series s{kind}"), viewBox="-13 -7 26 14", class_="swatch", aria_hidden="true")


def interval(x: float, low: float, high: float) -> str:
    return tag("path", d=f"M{x - 3:.1f} {low:.1f}h6M{x:.1f} {low:.1f}V{high:.1f}M{x - 3:.1f} {high:.1f}h6", class_="interval")


def line(kind: int, series: Series, x: Callable[[float], float], y: Scale) -> str:
    """A line through the points, with a gap at missing rounds."""
    path, parts, last = "", [], -math.inf
    for point in series.points:
        path += f"{'L' if point.x - last <= 1 else 'M'}{x(point.x):.1f} {y(point.y):.1f}"
        last = point.x
        if point.low is not None and point.high is not None:
            parts.append(interval(x(point.x), y(point.low), y(point.high)))
        parts.append(marker(kind, x(point.x), y(point.y), point.note))
    return tag("g", tag("path", d=path, class_="line"), *parts, class_=f"series s{kind}")


def kept_band(x: float, width: float) -> str:
    band = tag("rect", x=x - width / 2, y=TOP, width=width, height=HEIGHT - TOP - BOTTOM, class_="kept")
    anchor = "end" if x > WIDTH - RIGHT - 20 else "middle"
    return band + tag("text", "kept", x=min(x, WIDTH - RIGHT), y=TOP - 6, text_anchor=anchor, class_="name")


def line_plot(key: str, title: str, series: Sequence[Series], rounds: Sequence[int], *, label: Label, low: float, high: float,
              kept: int | None) -> str:
    """Values by round: markers, lines and known intervals."""
    at = ticks(low, high)
    y = y_scale(at[0], at[-1])
    first, last = min(rounds), max(rounds)
    spacing = (WIDTH - LEFT - RIGHT) / (last - first + 1)
    apart = min(6.0, 0.7 * spacing / len(series))

    def middle(round_number: float) -> float:
        return LEFT + (round_number - first + 0.5) * spacing

    def lane(kind: int) -> Callable[[float], float]:
        return lambda round_number: middle(round_number) + (kind - (len(series) - 1) / 2) * apart

    band = kept_band(middle(kept), min(spacing, 44.0)) if kept is not None else ""
    lines = (line(kind, one, lane(kind), y) for kind, one in enumerate(series))
    description = "; ".join(f"{one.label}: " + ", ".join(point.note for point in one.points) for one in series)
    return canvas(key, title, description, band, y_axis(y, at, label), x_axis("round", [(middle(r), str(r)) for r in rounds]), *lines)


def bars_at(bars: Sequence[Bar], y: Scale) -> tuple[str, list[tuple[float, str]]]:
    """The bars, and the middle of each with its label."""
    spacing = (WIDTH - LEFT - RIGHT) / len(bars)
    width = min(40.0, max(0.5, 0.72 * spacing))
    drawn, places = "", []
    for i, bar in enumerate(bars):
        x = LEFT + (i + 0.5) * spacing
        top = y(bar.value)
        drawn += tag("rect", tag("title", text(bar.note)), x=x - width / 2, y=top, width=width, height=max(0.0, y(0.0) - top),
                     class_="bar muted" if bar.muted else "bar")
        places.append((x, bar.label))
    return drawn, places


def bar_plot(key: str, title: str, bars: Sequence[Bar], *, label: Label, name: str = "round", values: bool = True) -> str:
    """Counts as bars from zero; `values` writes up to eight counts above their bars."""
    at = ticks(0.0, max(bar.value for bar in bars) or 1.0, whole=True)
    y = y_scale(at[0], at[-1])
    drawn, places = bars_at(bars, y)
    shown = zip(places, bars) if values and len(bars) <= 8 else ()
    above = (tag("text", text(label(bar.value)), x=x, y=y(bar.value) - 5, text_anchor="middle") for (x, _), bar in shown)
    description = ", ".join(bar.note for bar in bars[:40])
    return canvas(key, title, description, y_axis(y, at, label), drawn, x_axis(name, places), *above)


def scree_plot(key: str, title: str, values: Sequence[float], rank: int, rule: str, label: Label) -> str:
    """Singular values; those of the basis are filled, and a line after the last names the rank rule."""
    bars = [Bar(str(i + 1), max(0.0, v), f"{i + 1}: {label(v)}", muted=i >= rank) for i, v in enumerate(values)]
    at = ticks(0.0, max(bar.value for bar in bars) or 1.0)
    y = y_scale(at[0], at[-1])
    drawn, places = bars_at(bars, y)
    cut = LEFT + min(rank, len(bars)) * (WIDTH - LEFT - RIGHT) / len(bars)
    left_side = cut > (LEFT + WIDTH) / 2
    mark = tag("line", x1=cut, x2=cut, y1=TOP - 6, y2=HEIGHT - BOTTOM, class_="cut")
    said = tag("text", text(f"rank {rank}{rule}"), x=cut + (-6 if left_side else 6), y=TOP + 4, text_anchor="end" if left_side else "start",
               class_="said")
    description = f"rank {rank}{rule}; " + ", ".join(bar.note for bar in bars[:40])
    return canvas(key, title, description, y_axis(y, at, label), drawn, mark, x_axis("singular value", places), said)
