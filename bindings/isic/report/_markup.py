# SPDX-License-Identifier: Apache-2.0
"""Elements and numbers as text."""

from __future__ import annotations

import html
from typing import Union

Attribute = Union[str, float, None]

NONE = "–"
"""Placeholder for a missing value."""


def text(value: object) -> str:
    """Text escaped for HTML; lone surrogates, which UTF-8 cannot encode, are replaced."""
    return html.escape(str(value).encode("utf-8", "replace").decode("utf-8"))


def tag(name: str, *content: str, **attributes: Attribute) -> str:
    """An element around HTML content. `class_` means class, other underscores become hyphens, None is omitted."""
    given = ((key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items() if value is not None)
    opening = " ".join([name, *(f'{key}="{text(plain(value))}"' for key, value in given)])
    return f"<{opening}>{''.join(content)}</{name}>"


def plain(value: str | float) -> str:
    """A coordinate to one decimal; text unchanged."""
    return value if isinstance(value, str) else f"{value:.1f}".rstrip("0").rstrip(".")


def section(heading: str, *content: str) -> str:
    """A section; empty without content."""
    return tag("section", tag("h2", heading), *content) if any(content) else ""


def note(words: str) -> str:
    return tag("p", words, class_="note") if words else ""


def percent(share: float | None) -> str:
    return NONE if share is None else f"{100 * share:.1f}\u202f%"


def short_percent(share: float) -> str:
    return f"{100 * share:.3g}\u202f%"


def count(value: float | None) -> str:
    return NONE if value is None else f"{value:,.0f}".replace(",", "\u202f")


def decimal(value: float | None) -> str:
    return NONE if value is None else f"{value:.4g}"


def decibels(value: float) -> str:
    return f"{value:.2f}"


def duration(seconds: float | None) -> str:
    if seconds is None or seconds < 0:
        return NONE
    if seconds < 100:
        return f"{seconds:.1f}\u202fs" if seconds < 10 else f"{seconds:.0f}\u202fs"
    minutes = round(seconds / 60)
    return f"{minutes}\u202fmin" if minutes < 120 else f"{minutes // 60}\u202fh {minutes % 60}\u202fmin"
