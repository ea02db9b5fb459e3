"""One edit of a checkpoint at a time."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Iterator

from .._errors import IoError
from .._isic import PathLock


@contextlib.contextmanager
def only_editor(path: Path) -> Iterator[None]:
    """Nobody else edits the checkpoint meanwhile. To be held from before it is read until it is written.

    Raises IoError if somebody else holds the lock, or if it cannot be made.
    """
    try:
        lock = PathLock(os.path.realpath(path) + ".isic-lock")
    except IoError as error:
        raise IoError(f"isic.checkpoint: expected files that can be written beside {path}, got: {error}") from None
    if not lock.held:
        raise IoError(f"isic.checkpoint: expected nobody else to edit {path}, got another isic at work on it; "
                      "wait until it has ended, and try again")
    try:
        yield
    finally:
        lock.release()
