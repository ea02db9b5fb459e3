# SPDX-License-Identifier: Apache-2.0
"""Plain-text tables."""

from __future__ import annotations

from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[object]], indent: str = "") -> str:
    """A table with columns two spaces apart; columns of numbers are aligned right."""
    cells = [[_text(cell) for cell in row] for row in rows]
    widths = [max(len(text) for text in column) for column in zip(header, *cells)]
    numbers = [all(isinstance(row[i], (int, float)) for row in rows) for i in range(len(header))]

    def line(texts: Sequence[str]) -> str:
        return indent + "  ".join(t.rjust(w) if n else t.ljust(w) for t, w, n in zip(texts, widths, numbers)).rstrip()

    return "\n".join([line(header), *(line(row) for row in cells)])


def _text(cell: object) -> str:
    return f"{cell:.3g}" if isinstance(cell, float) else str(cell)


def size(nbytes: int) -> str:
    """A number of bytes with a decimal unit."""
    value, unit = float(nbytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g} {unit}"


def shortened(names: Sequence[str]) -> str:
    """A list of names; a long list is shortened to its ends."""
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} ... {names[-1]} ({len(names)})"
