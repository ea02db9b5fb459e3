# SPDX-License-Identifier: Apache-2.0
"""A checkpoint in files: tensors, codebooks, and atomic writes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, Callable
from collections.abc import Iterator, Mapping, Sequence

from .._errors import IoError
from .._errors import ValueError as IsicValueError
from .._isic import patch_files, recover_files
from ._find import Codebook, digest, find, named
from ._formats import FLOATS, Array, Patch, Tensor, checkpoint_in, checksum_patches, tensors_of
from ._surgery import moved_rows
from ._text import shortened

OnProgress = Callable[[str, int, int], Any]
"""Called with (stage, done, total)."""


class Checkpoint:
    """The tensors of a checkpoint by key, their positions, and the codebooks among them. `isic.checkpoint.open` returns one.

    It reads headers only: its memory does not grow with the file. Keys of tensors in `others` begin with the file's name and
    a colon.
    """

    def __init__(self, path: str | os.PathLike[str], *, others: Sequence[str | os.PathLike[str]] = ()) -> None:
        self.path = checkpoint_in(Path(path))
        self.others = tuple(checkpoint_in(Path(other)) for other in others)
        self.recovered: str = recover_files(self.journal)
        self.format, self.tensors = tensors_of(self.path)
        self.tensors = dict(self.tensors)
        if len({other.name for other in self.others}) < len(self.others):
            raise IoError(f"isic.checkpoint: expected further files of different names, got {', '.join(map(str, self.others))}")
        for other in self.others:
            self.tensors.update((f"{other.name}:{key}", tensor) for key, tensor in tensors_of(other)[1].items())

    @property
    def journal(self) -> Path:
        """The journal of an interrupted edit, beside the file itself, not beside a link to it."""
        return Path(os.path.realpath(self.path) + ".isic-journal")

    @property
    def undo_file(self) -> Path:
        """The default undo file of `apply`."""
        return Path(f"{self.path}.isic-undo.safetensors")

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold tensors."""
        return tuple(dict.fromkeys(tensor.path for tensor in self.tensors.values()))

    def read(self, key: str) -> Array:
        """A copy of a tensor's values."""
        return self._tensor(key).read()

    def digest(self, key: str) -> str:
        """SHA-256 of a tensor's bytes."""
        return digest(self._tensor(key))

    def _tensor(self, key: str) -> Tensor:
        if key not in self.tensors:
            books = shortened(tuple(book.key for book in self.codebooks()))
            raise IsicValueError(f"isic.checkpoint: expected a key of {self.path}{f' (codebooks: {books})' if books else ''}, got {key!r}")
        return self.tensors[key]

    def codebooks(self) -> tuple[Codebook, ...]:
        """All codebooks: known families first, then candidates by name and shape."""
        return find(self.tensors)

    def codebook(self, key: str | None = None, *, width: int | None = None) -> Codebook:
        """The codebook of a key; without a key the only editable one, of width d if given."""
        found = self.codebooks()
        if key is not None:
            for book in found:
                if key in (*book.keys, *book.aliases, *book.copies):
                    return book if book.known else named(self.tensors, key)
                if key in book.input_tables:
                    raise IsicValueError(f"isic.checkpoint: expected a codebook of the image decoder, got {key}, the language "
                                         f"model's input table; the codebook is {book.key}")
            tensor = self._tensor(key)
            if tensor.dtype not in FLOATS or len(tensor.shape) not in (2, 3):
                got = f"{key} of shape {tensor.shape}, {tensor.dtype}"
                raise IsicValueError(f"isic.checkpoint: expected a codebook [K, d] of floats, got {got}")
            return named(self.tensors, key)
        fit = [book for book in found if not book.refusal and (book.known or self.format in ("npy", "npz"))]
        fit = [book for book in fit if book.width == width] if len(fit) > 1 and width is not None else fit
        if len(fit) == 1:
            return fit[0] if fit[0].known else named(self.tensors, fit[0].key)
        raise IsicValueError(self._not_one(fit or list(found)))

    def _not_one(self, books: list[Codebook]) -> str:
        if not books:
            return (f"isic.checkpoint: expected a codebook in {self.path}, found none among its {len(self.tensors)} tensors; select one with "
                    "CHECKPOINT:KEY (LFQ, BSQ and FSQ quantisers store no codebook)")
        refused = "; ".join(f"{book.key}: {book.refusal}" for book in books if book.refusal)
        keys = ", ".join(book.key for book in books[:9] if not book.refusal)
        return (f"isic.checkpoint: expected one codebook to edit in {self.path}, got {refused or len(books)}"
                + (f"; select one with CHECKPOINT:KEY: {keys}" if keys else ""))

    def write(self, before: Mapping[str, Array], after: Mapping[str, Array]) -> None:
        """Replaces the rows that differ, in every file, all or nothing. Raises IoError if a file does not hold `before`."""
        patches: list[Patch] = []
        archives: dict[tuple[Path, str], list[Patch]] = {}
        for key, old in before.items():
            patch = _patch(self._tensor(key), old, after[key])
            if patch is not None:
                patches.append(patch)
                if self.tensors[key].member:
                    archives.setdefault((self.tensors[key].path, self.tensors[key].member), []).append(patch)
        for (path, member), inside in archives.items():
            patches += checksum_patches(path, member, inside)
        patch_files(self.journal, [(os.path.realpath(path), at, old, new) for path, at, old, new in patches])

    def copy(self, output: Path, on_progress: OnProgress | None = None) -> Path:
        """Copies its files to `output`, a file, or a folder if there are several; returns the new path of the checkpoint."""
        if output.exists():
            raise IoError(f"isic.checkpoint: expected a new file or folder, got {output}, which exists")
        files = dict.fromkeys([self.path, *self.files])
        total, done = sum(os.path.getsize(file) for file in files), 0
        if len(files) > 1:
            output.mkdir()
        for file in files:
            new = output / os.path.relpath(file, self.path.parent) if len(files) > 1 else output
            if len(files) > 1:
                new.parent.mkdir(parents=True, exist_ok=True)
            for n in _copied(file, new):
                done += n
                if on_progress:
                    on_progress("copy", done, total)
        return output if len(files) == 1 else output / self.path.name

    def __repr__(self) -> str:
        return f"Checkpoint({str(self.path)!r}, {self.format}, {len(self.tensors)} tensors)"


def _patch(tensor: Tensor, before: Array, after: Array) -> Patch | None:
    ids = moved_rows(before, after)
    if ids.size == 0:
        return None
    if tensor.strides:
        raise IoError(f"isic.checkpoint: expected adjacent rows in {tensor.key} of {tensor.path}, got strides {tensor.strides}")
    row = before.shape[-1] * before.itemsize
    first, end = int(ids[0]) * row, (int(ids[-1]) + 1) * row
    return str(tensor.path), tensor.offset + first, before.tobytes()[first:end], after.tobytes()[first:end]


def _copied(source: Path, target: Path) -> Iterator[int]:
    with open(source, "rb") as old, open(target, "xb") as new:
        while chunk := old.read(1 << 24):
            yield new.write(chunk)
    shutil.copymode(source, target)
