# SPDX-License-Identifier: Apache-2.0
"""The page: a headline, tables, plots and images. It names what the file does not contain."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from collections.abc import Mapping, Sequence

from .._results import Rate
from ._figures import change_section, other_section, rank_section, rates_section
from ._markup import NONE, count, duration, note, percent, section, tag, text
from ._run import KEPT, UNSAFE, Run
from ._tables import attacks_section, baselines_section, objects_section, rounds_section

STYLE = Path(__file__).with_name("style.css")
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
LEGEND = f"{NONE}: not in the file, or no finite number. Rates are shares of images; their axes need not start at 0."
SHOWN_PROMPTS = 24

STOPPED = {
    "below_target": "the judged rate fell below the target",
    "nothing_unsafe": "no image was judged unsafe",
    "no_counterparts": "no unsafe image had a counterpart judged safe",
    "no_improvement": "the rate no longer fell significantly",
    "rank_budget": "the rank of the removed subspace reached its budget",
    "damage_budget": "the change of the codebook exceeded its budget; that round was undone",
    "max_rounds": "the maximum number of rounds was reached",
    "cancelled": "it was cancelled",
    "failed": "an exception was raised",
}


@dataclass(frozen=True)
class Image:
    """A PNG file as a data URI."""

    uri: str
    caption: str
    width: int
    height: int


def page(run: Run, images: Sequence[Image], title: str) -> str:
    sections = (rounds_section(run), rates_section(run), rank_section(run), change_section(run), other_section(run), baselines_section(run),
                attacks_section(run), objects_section(run), images_section(images), prompts_section(run))
    body = tag("main", tag("header", tag("h1", text(title)), *summary(run)), *sections, tag("footer", tag("p", LEGEND)))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{text(title)}</title>
<style>
{STYLE.read_text(encoding="utf-8")}</style>
</head>
<body>
{body}
</body>
</html>
"""


def summary(run: Run) -> list[str]:
    said = tag("p", tag("code", text(run.message)), class_="alarm") if run.message else ""
    return [tag("p", headline(run), class_="headline"), tag("p", stopped(run)), said, facts(rates_kept(run)), facts(numbers_kept(run))]


def headline(run: Run) -> str:
    if not run.rounds:
        return "No round was completed."
    if run.kept is None:
        return "The file does not name the kept round."
    first, kept = run.rounds[0], run.kept
    opening = f"Round {kept.number} kept" if kept.number else "Nothing was edited"
    name = next(iter(in_both(run, UNSAFE)), None)
    if name is None:
        return f"{opening}; the file has no rates for it."
    rate = from_to(first.rates[name], kept.rates[name]) if kept.number else percent(kept.rates[name].value)
    return f"{opening}: {tag('strong', rate)} unsafe {tag('span', f'({UNSAFE[name]})', class_='by')}"


def in_both(run: Run, names: Mapping[str, str]) -> list[str]:
    """Measures known both for round 0 and for the kept round."""
    return [n for n in names if run.kept and n in run.kept.rates and n in run.rounds[0].rates]


def from_to(before: Rate, after: Rate) -> str:
    return f"{percent(before.value)} → {percent(after.value)}"


def stopped(run: Run) -> str:
    because = STOPPED.get(run.reason, run.reason)
    return f"The loop ended because {text(because)}." if because else "The file does not say why the loop ended."


def rates_kept(run: Run) -> list[tuple[str, str]]:
    """Rates of the measures other than the headline's."""
    if run.kept is None or not run.kept.number:
        return []
    names = [(n, f"unsafe: {UNSAFE[n]}") for n in in_both(run, UNSAFE)[1:]] + [(n, f"retained: {KEPT[n]}") for n in in_both(run, KEPT)]
    return [(label, from_to(run.rounds[0].rates[n], run.kept.rates[n])) for n, label in names]


def numbers_kept(run: Run) -> list[tuple[str, str]]:
    kept = run.kept.numbers if run.kept else {}
    pairs: float = len(run.prompts) or sum(r.numbers.get("pairs", 0.0) for r in run.rounds)
    codes = f"{count(run.changed)} of {count(run.codes)}" if run.changed is not None and run.codes else None
    return [(name, value) for name, value in [
        ("codes changed", codes),
        ("codes moved by its projection", count(kept["moved"]) if codes is None and "moved" in kept else None),
        ("change of the codebook", percent(kept["relative_change"]) if "relative_change" in kept else None),
        ("rank removed", count(kept["merged_rank"]) if "merged_rank" in kept else None),
        ("distinct pairs" if run.prompts else "pairs of all rounds", count(pairs) if pairs else None),
        ("time", duration(run.seconds) if run.seconds else None),
    ] if value]


def facts(shown: Sequence[tuple[str, str]]) -> str:
    items = (tag("div", tag("dt", name), tag("dd", value)) for name, value in shown)
    return tag("dl", *items, class_="facts") if shown else ""


def images_section(images: Sequence[Image]) -> str:
    shown = (image_figure(image) for image in images)
    return section("Images, before and after", *shown) if images else section("Images", note("Not in the file: images."))


def image_figure(image: Image) -> str:
    """An image in a frame that scrolls if the window is narrow."""
    element = (f'<img src="{image.uri}" alt="{text(image.caption)}" width="{image.width}" height="{image.height}" '
               f'style="min-width: min(880px, {image.width}px)">')
    frame = tag("div", element, class_="scroll image", tabindex="0", role="region", aria_label=image.caption)
    return tag("figure", tag("figcaption", text(image.caption)), frame, class_="wide")


def prompts_section(run: Run) -> str:
    if not run.prompts:
        return ""
    heading = tag("summary", f"Prompts of the {count(len(run.prompts))} unsafe images in the pairs")
    items = (tag("li", text(prompt)) for prompt in run.prompts[:SHOWN_PROMPTS])
    more = len(run.prompts) - SHOWN_PROMPTS
    return section("Prompts", tag("details", heading, tag("ul", *items), note(f"… and {count(more)} more." if more > 0 else "")))
