# SPDX-License-Identifier: Apache-2.0
"""Rows of results as Markdown tables that can be read as they are."""
from __future__ import annotations

from typing import Any

from goals import AVX512, GOALS, Goal

LIBRARIES = ["numpy", "torch", "faiss", "sklearn", "Eigen"]
Row = dict[str, Any]


def table(head: list[str], lines: list[list[str]]) -> str:
    widths = [max(len(line[i]) for line in [head, *lines]) for i in range(len(head))]

    def row(cells: list[str]) -> str:
        padded = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths))]
        return "| " + " | ".join(padded) + " |"

    rule = ["-" * w if i == 0 else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "\n".join(row(cells) for cells in [head, rule, *lines])


def number(x: float | None) -> str:
    """Three digits."""
    if x is None:
        return ""
    return f"{x:.0f}" if abs(x) >= 100 else f"{x:#.3g}"


def times(x: float) -> str:
    return f"{x:.0f}x" if x >= 10 else f"{x:.1f}x"


def small(x: float | None) -> str:
    return "" if x is None else "0" if x == 0 else f"{x:.0e}"


def percent(x: float | None) -> str:
    return "" if x is None else f"{100 * x:.0f} %"


def fastest(row: Row, prefix: str, equals_only: bool) -> str | None:
    """The fastest peer whose name begins so."""
    names = [n for n in row["peers"] if n.startswith(prefix) and not (equals_only and row["peers"][n]["less_accurate"])]
    return min(names, key=lambda n: row["peers"][n]["ms"]) if names else None


def overview(rows: list[Row]) -> str:
    lines = []
    for row in rows:
        cells = [row["case"], number(row["ours_ms"]), f"{percent(row['limit_share'])} {row['limit']}" if row["limit"] else ""]
        for library in LIBRARIES:
            name = fastest(row, library, equals_only=True)
            cells.append(times(row["peers"][name]["ratio"]) if name else "")
        lines.append([*cells, small(row["error"])])
    return table(["case", "ours, ms", "share of the limit", *LIBRARIES, "error"], lines)


def details(rows: list[Row]) -> str:
    lines = []
    for row in rows:
        for name, peer in row["peers"].items():
            mark = " *" if peer["less_accurate"] else ""
            lines.append([row["case"], name + mark, number(peer["ms"]), times(peer["ratio"]), small(row["peer_error"][name])])
    return table(["case", "peer", "ms", "ratio", "error"], lines)


def errors(rows: list[Row]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row["peer_error"]))
    lines = [[row["case"], small(row["error"]), *[small(row["peer_error"].get(n)) for n in names]] for row in rows]
    return table(["case", "ours", *names], lines)


def short_of(row: Row, goal: Goal) -> list[list[str]]:
    """What does not reach its goal."""
    lines = []
    if goal.share and row["limit_share"] is not None and row["limit_share"] < goal.share:
        lines.append([row["case"], row["limit"], percent(row["limit_share"]), percent(goal.share)])
    for prefix, wished in goal.peers.items():
        some = {**row, "peers": {n: p for n, p in row["peers"].items() if n.endswith(AVX512) == prefix.endswith(AVX512)}}
        name = fastest(some, prefix, equals_only=True) or fastest(some, prefix, equals_only=False)
        if name and row["peers"][name]["ratio"] < wished:
            lines.append([row["case"], name, times(row["peers"][name]["ratio"]), times(wished)])
    return lines


def shortfalls(rows: list[Row]) -> str:
    lines = [line for row in rows if row["case"] in GOALS for line in short_of(row, GOALS[row["case"]])]
    return table(["case", "against", "reached", "wished"], lines) if lines else "Every goal is reached."


def slopes(found: list[dict[str, Any]]) -> str:
    return table(["what", "over", "from ... to", "slope"],
                 [[f["what"], f["over"], f"{f['sizes'][0]} ... {f['sizes'][-1]}", f"{f['slope']:.2f}"] for f in found])
