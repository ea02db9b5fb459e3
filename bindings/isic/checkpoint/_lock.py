# SPDX-License-Identifier: Apache-2.0
"""A lock: one edit of a checkpoint at a time."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from collections.abc import Iterator

from .._errors import IoError
from .._isic import PathLock


@contextlib.contextmanager
def only_editor(path: Path) -> Iterator[None]:
    """Locks a checkpoint for an edit, from before the read until after the write.

    Raises IoError if another process holds the lock, or if the lock file cannot be created.
    """
    try:
        lock = PathLock(os.path.realpath(path) + ".isic-lock")
    except IoError as error:
        raise IoError(f"isic.checkpoint: expected a writable folder of {path}, got: {error}") from None
    if not lock.held:
        raise IoError(f"isic.checkpoint: expected no other edit of {path}, got a lock of another process; "
                      "try again when it has ended")
    try:
        yield
    finally:
        lock.release()
