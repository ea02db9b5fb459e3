"""One edit of a checkpoint at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import Iterator

from .._errors import IoError


@contextlib.contextmanager
def only_editor(path: Path) -> Iterator[None]:
    """Nobody else edits the checkpoint meanwhile. To be held from before it is read until it is written.

    A lock of the operating system on a file beside it, which ends with the process, however that ends. Raises IoError if
    somebody else holds it, or if it cannot be made.
    """
    lock = os.path.realpath(path) + ".isic-lock"
    descriptor = _taken(lock, path)
    try:
        yield
    finally:
        os.unlink(lock)
        os.close(descriptor)


def _taken(lock: str, path: Path) -> int:
    while True:
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise IoError(f"isic.checkpoint: expected files that can be written beside {path}, got: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is(lock, descriptor):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise IoError(f"isic.checkpoint: expected nobody else to edit {path}, got another isic at work on it; "
                          "wait until it has ended, and try again") from None
        except OSError as error:  # some network file systems have no locks
            os.close(descriptor)
            raise IoError(f"isic.checkpoint: expected a file system with locks for {path}, got: {error.strerror}") from None
        os.close(descriptor)  # of a file that its last holder has removed


def _is(path: str, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
