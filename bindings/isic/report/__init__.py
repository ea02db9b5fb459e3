# SPDX-License-Identifier: Apache-2.0
"""A run as one self-contained HTML page: tables, plots and images, without network requests.

>>> import isic.report
>>> run = {"rounds": [{"round": 0, "self_unsafe": {"value": 0.9, "hits": 9, "n": 10}},
...                   {"round": 1, "self_unsafe": {"value": 0.1, "hits": 1, "n": 10}}], "best_round": 1}
>>> "90.0 % → 10.0 %" in isic.report.render_report(run).replace("\u202f", " ")
True
"""

from __future__ import annotations

import base64
import os
import struct
from pathlib import Path
from typing import Any, Union
from collections.abc import Mapping, Sequence

from .._errors import IoError
from .._results import SelfImproveReport
from ._page import Image, page
from ._run import Run, read_json, run_of

__all__ = ["render_report", "write_report"]

AnyRun = Union[SelfImproveReport, Mapping[str, Any], str, "os.PathLike[str]"]
AnyPath = Union[str, "os.PathLike[str]"]

_PNG = b"\x89PNG\r\n\x1a\n"


def render_report(run: AnyRun, *, images: Sequence[AnyPath] = (), title: str = "Codebook surgery") -> str:
    """A run as a page of HTML.

    run: a report of `self_improve`, its `to_dict()`, or the path of its JSON or of the demo's report.json. A rate that is
        a bare number gets an interval if the run's "n" maps its name to the number of images.
    images: PNG files to show; empty: those in the run's "images", with paths inside the folder of its file; without
        these, rounds.png beside the file.

    The page names missing data. Raises IoError unless the file is a run and every image is a PNG.
    """
    path = Path(run) if isinstance(run, (str, os.PathLike)) else None
    data = run.to_dict() if isinstance(run, SelfImproveReport) else read_json(path) if path else run
    if not isinstance(data, Mapping):
        raise TypeError(f"isic.report: expected a run, its dictionary or a path, got {type(run).__name__}")
    found = run_of(data)
    shown = [(Path(p), "") for p in images] or images_beside(path, found)
    return page(found, [image(p, caption) for p, caption in shown], title)


def write_report(run: AnyRun, path: AnyPath, *, images: Sequence[AnyPath] = (), title: str = "Codebook surgery") -> None:
    """Writes `render_report` to a file, replacing an old one only when the new one is complete. Raises IoError."""
    html = render_report(run, images=images, title=title)
    part = Path(f"{os.fspath(path)}.{os.getpid()}.part")
    try:
        part.write_text(html, encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise IoError(f"isic.report: expected a file that can be written, got {error}") from None


def images_beside(path: Path | None, run: Run) -> list[tuple[Path, str]]:
    folder = path.parent if path else Path()
    if not run.images:
        grid = folder / "rounds.png"
        return [(grid, "prompts across, rounds down")] if path and grid.is_file() else []
    for name, _ in run.images:
        if not (folder / name).resolve().is_relative_to(folder.resolve()):  # a run from elsewhere must not embed other files of this machine
            raise IoError(f"isic.report: expected images beside the run, got {name!r}")
    return [(folder / name, caption) for name, caption in run.images]


def image(path: Path, caption: str) -> Image:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise IoError(f"isic.report: expected a readable image, got {error}") from None
    if not data.startswith(_PNG) or data[12:16] != b"IHDR" or len(data) < 33:
        raise IoError(f"isic.report: expected a PNG file, got {os.fspath(path)}")
    width, height = struct.unpack(">II", data[16:24])
    uri = "data:image/png;base64," + base64.b64encode(data).decode("ascii")
    return Image(uri, caption or path.stem, width, height)
