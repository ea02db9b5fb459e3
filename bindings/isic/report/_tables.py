# SPDX-License-Identifier: Apache-2.0
"""Tables of a run: measurements, work per round, baselines and attacks."""

from __future__ import annotations

from itertools import groupby
from typing import Callable
from collections.abc import Sequence

from .._results import Rate
from ._markup import NONE, count, decibels, decimal, duration, percent, section, tag, text
from ._run import DECIDED, KEPT, UNSAFE, Round, Run, has_interval
from ._svg import Label

Cell = Callable[[Round], str]
Row = tuple[str, Sequence[str], bool]
"""A row: heading, cells, and whether it is highlighted."""

Column = tuple[str, str]
"""A column: the heading of its group, or "", and its name."""


def table(caption: str, columns: Sequence[Column], rows: Sequence[Row]) -> str:
    """A table that scrolls sideways; the first column holds the rows' headings."""
    names = tag("tr", *(tag("th", name, scope="col") for _, name in columns))
    body = (tag("tr", tag("th", name, scope="row"), *(cell if cell.startswith("<td") else tag("td", cell) for cell in cells),
                class_="kept" if noticed else None) for name, cells, noticed in rows)
    inner = tag("table", tag("caption", caption), tag("thead", groups_row(columns), names), tag("tbody", *body),
                class_="narrow" if len(columns) < 5 else None)
    return tag("div", inner, class_="scroll", tabindex="0", role="region", aria_label=caption)


def groups_row(columns: Sequence[Column]) -> str:
    groups = [(name, len(list(members))) for name, members in groupby(columns, key=lambda column: column[0])]
    cells = (tag("th", name, scope="colgroup", colspan=span, class_="group") if name else tag("td", colspan=span) for name, span in groups)
    return tag("tr", *cells) if any(name for name, _ in groups) else ""


def rate_cell(rate: Rate | None) -> str:
    if rate is None:
        return NONE
    return percent(rate.value) + (tag("small", f"{100 * rate.low:.1f} to {100 * rate.high:.1f}") if has_interval(rate) else "")


def bar_cell(share: float | None, kind: str) -> str:
    if share is None:
        return NONE
    return tag("td", percent(share), class_=f"bar {kind}", style=f"--share: {min(1.0, max(0.0, share)):.4f}")


def number_cell(name: str, show: Label) -> Cell:
    return lambda r: show(r.numbers[name]) if name in r.numbers else NONE


def rank_cell(r: Round) -> str:
    if "rank" not in r.numbers:
        return NONE
    return count(r.numbers["rank"]) + (tag("small", text(DECIDED.get(r.decided_by, r.decided_by))) if r.decided_by else "")


def from_to_cell(first: str, last: str, show: Label) -> Cell:
    return lambda r: f"{show(r.numbers[first])} → {show(r.numbers[last])}" if first in r.numbers and last in r.numbers else NONE


def rate_column(name: str) -> Cell:
    return lambda r: rate_cell(r.rates.get(name))


def rate_columns() -> list[tuple[Column, Cell]]:
    unsafe = [(("unsafe images, by", label), rate_column(name)) for name, label in UNSAFE.items()]
    still = [(("retained", label), rate_column(name)) for name, label in KEPT.items()]
    return [*unsafe, *still, (("", "PSNR, dB"), number_cell("psnr_db", decibels))]


def work_columns() -> list[tuple[Column, Cell]]:
    return [(("", name), cell) for name, cell in [
        ("pairs", number_cell("pairs", count)),
        ("pairs dropped", number_cell("dropped", count)),
        ("rank", rank_cell),
        ("rank of all rounds", number_cell("merged_rank", count)),
        ("codes moved", number_cell("moved", count)),
        ("codes near zero", number_cell("near_zero", count)),
        ("leakage", from_to_cell("leakage_before", "leakage_after", decimal)),
        ("change of the codebook", number_cell("relative_change", percent)),
        ("tuning steps", number_cell("tuning_steps", count)),
        ("tuning loss", from_to_cell("first_loss", "last_loss", decimal)),
        ("time", number_cell("seconds", duration)),
    ]]


def rounds_section(run: Run) -> str:
    small_print = any(has_interval(rate) for r in run.rounds for rate in r.rates.values())
    measured = "Measured after each round" + ("; in small print, the 95\u202f% interval" if small_print else "")
    return section("Rounds", rounds_table(run, measured, rate_columns()), rounds_table(run, "Work of each round", work_columns()))


def rounds_table(run: Run, caption: str, columns: Sequence[tuple[Column, Cell]]) -> str:
    """One row per round; empty columns are omitted."""
    used = [(name, cell) for name, cell in columns if any(cell(r) not in (NONE, "0") for r in run.rounds)]
    rows = [(name_of(r, run), [cell(r) for _, cell in used], r is run.kept) for r in run.rounds]
    return table(caption, [("", "round"), *(name for name, _ in used)], rows) if used else ""


def name_of(r: Round, run: Run) -> str:
    return ("before" if r.number == 0 else str(r.number)) + (" " + tag("span", "kept", class_="tag") if r is run.kept else "")


def baselines_section(run: Run) -> str:
    found = {name for b in run.baselines.values() for name in (*b.rates, *b.numbers)}
    columns = [(column, cell) for name, column, cell in baseline_columns() if name in found]
    rows = [(text(name), [cell(b) for _, cell in columns], False) for name, b in run.baselines.items()]
    shown = table("Unsafe: lower is better; retained: higher is better", [("", "method"), *(column for column, _ in columns)], rows)
    return section("Baselines, on the same images", shown) if columns else ""


def baseline_columns() -> list[tuple[str, Column, Cell]]:
    unsafe = [(name, ("unsafe images, by", label), share_column(name, "unsafe")) for name, label in UNSAFE.items()]
    still = [(name, ("retained", label), share_column(name, "still")) for name, label in KEPT.items()]
    return [*unsafe, *still, ("psnr_db", ("", "PSNR, dB"), number_cell("psnr_db", decibels))]


def share_column(name: str, kind: str) -> Cell:
    return lambda b: bar_cell(b.rates[name].value if name in b.rates else None, kind)


def attacks_section(run: Run) -> str:
    names = {"before": "before", "after": "after", "prompt_rewriting": "prompt rewriting instead"}
    used = {key: label for key, label in names.items() if any(key in row for row in run.attacks.values())}
    rows = [(text(name), [bar_cell(row.get(key), "unsafe") for key in used], False) for name, row in run.attacks.items()]
    shown = table("Unsafe images per attack", [("", "attack"), *(("", label) for label in used.values())], rows)
    return section("Attacks", shown) if used else ""


def objects_section(run: Run) -> str:
    shown = [objects_table("Harmful objects detected", "share of unsafe prompts", run.left_by_object, "unsafe"),
             objects_table("Safe objects detected", "share of their prompts", run.safe_by_object, "still")]
    return section("Objects, in the kept round", tag("div", *shown, class_="plots")) if any(shown) else ""


def objects_table(caption: str, column: str, shares: dict[str, float], kind: str) -> str:
    rows = [(text(name), [bar_cell(share, kind)], False) for name, share in shares.items()]
    return table(caption, [("", "object"), ("", column)], rows) if rows else ""
