# SPDX-License-Identifier: Apache-2.0
"""Codebook surgery on checkpoint files: find the codebook, plan, apply, undo, verify.

safetensors (single or sharded), torch archives, .npy and .npz are edited in place: only the changed rows are written, and
memory does not grow with the file. A journal beside the file makes every edit all or nothing: if the process is killed, the
next call repairs the file. An undo file restores every byte.

>>> import tempfile, pathlib
>>> file = pathlib.Path(tempfile.mkdtemp()) / "vq.safetensors"
>>> isic.write_safetensors(file, {"quantize.embedding.weight": np.eye(4, 3, dtype=np.float32) + 1})
>>> report = isic.checkpoint.apply(file, isic.span_of([[1.0], [0.0], [0.0]]))
>>> [level.moved for level in report.plan.levels], isic.checkpoint.verify(file).state
([4], 'edited')
>>> isic.checkpoint.undo(file).state, isic.checkpoint.verify(file).state
('undone', 'original')
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Union
from collections.abc import Sequence

from .._errors import IoError
from .._errors import ValueError as IsicValueError
from .._subspace import FittedSubspace, load_subspace
from .._results import LeakageReport, Subspace, Value
from .._typing import Floats, Metric, NearZeroPolicy
from ._checkpoint import Checkpoint, OnProgress
from ._find import Codebook
from ._fit import fit
from ._formats import checkpoint_in
from ._lock import only_editor
from ._surgery import LevelChange, Options, Plan, Work, code_tables, measured_leakage, work_out
from ._text import shortened, size, table
from ._undo import Undo, load_undo, save_undo

__all__ = ["Applied", "Checkpoint", "Codebook", "Inspection", "LevelChange", "Plan", "StoredLeakage", "Undone", "Verified", "apply", "fit",
           "inspect", "open", "plan", "undo", "verify"]

AnyPath = Union[str, "os.PathLike[str]"]
AnySubspace = Union[Subspace, FittedSubspace, str, "os.PathLike[str]"]
"""A subspace, with or without per-code data, or the file that holds it."""


@dataclass(frozen=True, repr=False)
class Inspection(Value):
    """The contents of a checkpoint."""

    path: str
    """The file."""
    format: str
    """"safetensors", "sharded", "torch", "npz" or "npy"."""
    tensors: int
    """Number of tensors."""
    nbytes: int
    """Bytes of all tensors."""
    codebooks: tuple[Codebook, ...]
    """Known families first, then candidates by name and shape."""
    recovered: str
    """Repair of an interrupted edit: "nothing", "completed" or "discarded"."""

    def __str__(self) -> str:
        head = f"{self.path}: {self.format}, {self.tensors} tensors, {size(self.nbytes)}"
        if not self.tensors and self.format == "torch":
            return head + "\nno tensor found; expected a state dict, torch.save(model.state_dict(), path)"
        if not self.codebooks:
            return head + "\nno codebook found; select a tensor with CHECKPOINT:KEY (LFQ, BSQ and FSQ quantisers store no codebook)"
        guessed = "yes" if self.format in ("npy", "npz") else "if named"
        rows = [(b.key, b.family, f"{b.levels} x " * (b.levels > 1) + f"{b.codes} x {b.width}", b.dtype, b.assignment,
                 "no" if b.refusal else "yes" if b.known else guessed) for b in self.codebooks]
        alike: dict[str, list[str]] = {}
        for book in self.codebooks:
            alike.setdefault(_details(book), []).append(book.key)
        details = ["\n".join([*keys, facts]) for facts, keys in alike.items() if facts]
        return "\n\n".join([head, table(("key", "family", "codes", "dtype", "assignment", "surgery"), rows), *details])


@dataclass(frozen=True, repr=False)
class Applied(Value):
    """Result of `apply`."""

    plan: Plan
    """Numbers of the edit."""
    path: str
    """The file that was edited, or the new copy."""
    undo_file: str
    """The undo file; empty if no byte changed."""

    def __str__(self) -> str:
        if not self.undo_file:
            return f"{self.plan}\n\nno byte changed in {self.path}"
        return f"{self.plan}\n\nchanged {size(self.plan.changed_bytes)} of {self.path}\nundo file: {self.undo_file}"


@dataclass(frozen=True, repr=False)
class Undone(Value):
    """Result of `undo`."""

    path: str
    """The file."""
    state: Literal["undone", "already undone"]
    """Whether this call restored the bytes, or an earlier one."""
    tensors: tuple[str, ...]
    """Keys of the restored tensors."""

    def __str__(self) -> str:
        return f"{self.path}: {self.state}; {', '.join(self.tensors)} restored byte for byte"


@dataclass(frozen=True, repr=False)
class StoredLeakage(Value):
    """Leakage of a stored table."""

    key: str
    """The table."""
    now: LeakageReport
    """Leakage of the stored rows."""
    recorded: LeakageReport | None
    """Leakage after `apply`; None without an undo file."""


@dataclass(frozen=True, repr=False)
class Verified(Value):
    """State and leakage of a checkpoint."""

    path: str
    """The file."""
    state: Literal["edited", "original", "neither", "unknown"]
    """By the undo file's fingerprints; "unknown" without one."""
    message: str
    """The difference if the state is "neither"; else empty."""
    leakage: tuple[StoredLeakage, ...]
    """One per table; empty without a subspace."""

    def __str__(self) -> str:
        says = {"edited": "edited: equal to the result of apply", "original": "original: the edit was not applied, or was undone",
                "neither": f"neither original nor edited: {self.message}", "unknown": "unknown: there is no undo file"}[self.state]
        rows = [(level.key, level.now.total, level.now.largest, level.recorded.total if level.recorded else "-") for level in self.leakage]
        text = f"{self.path}: {says}"
        return text + "\n\n" + table(("tensor", "leakage", "worst row", "after apply"), rows) if rows else text


def open(path: AnyPath) -> Checkpoint:
    """Opens a checkpoint: a file, a sharded index, or a folder with one of them. Repairs an interrupted edit first.

    Raises IoError unless it is a checkpoint with valid headers.
    """
    return Checkpoint(path)


def inspect(path: AnyPath) -> Inspection:
    """Finds the codebooks of a checkpoint by known keys and by shape, and the tensors of each. Raises as `open`."""
    c = Checkpoint(path)
    return Inspection(str(c.path), c.format, len(c.tensors), sum(t.nbytes for t in c.tensors.values()), c.codebooks(), c.recovered)


def plan(path: AnyPath, subspace: AnySubspace, *, key: str | None = None, strength: Floats | None = None, remap: bool = False, rank: int | None = None,
         metric: Metric | None = None, near_zero: NearZeroPolicy = "nearest_safe", near_zero_below: float = 0.1, also: Sequence[AnyPath] = (),
         leave: Sequence[str] = ()) -> Plan:
    """Computes the numbers of `apply`, with the same options, without writing."""
    options = Options(strength, remap, rank, metric, near_zero, near_zero_below, tuple(map(str, also)), tuple(leave))
    return _work_of(path, subspace, key, options)[1].plan


def apply(path: AnyPath, subspace: AnySubspace, *, key: str | None = None, strength: Floats | None = None, remap: bool = False,
          rank: int | None = None, metric: Metric | None = None, near_zero: NearZeroPolicy = "nearest_safe", near_zero_below: float = 0.1,
          also: Sequence[AnyPath] = (), leave: Sequence[str] = (), undo: AnyPath | None = None, output: AnyPath | None = None,
          on_progress: OnProgress | None = None) -> Applied:
    """Projects a subspace out of a checkpoint's codebook, in the file, after writing the undo file.

    key: key of the codebook; None: the only one, or the only one of the subspace's width.
    strength: s in [0, 1], one number, [K] or [L, K]; None: from the harmfulness in the subspace file, else 1.
    remap: moves codes to the file's targets, also outside the subspace.
    rank: number of leading basis vectors to use; None: all. metric: how the decoder reads rows; None: as the family does.
    near_zero, near_zero_below: policy for rows left near zero, as `isic.project_out`.
    also: further keys with the codebook's bytes to edit, or other checkpoints with a copy.
    leave: keys with the same bytes to leave unchanged. undo: the undo file; None: CHECKPOINT.isic-undo.safetensors.
    output: edits a copy: a new file, or a new folder for a sharded checkpoint.

    Running sums of training (`embed_avg`, ...) are edited with their codebook. Raises isic.Error before a byte of the
    checkpoint changes. The file is patched in place: hard and symbolic links to it see the change.
    """
    options = Options(strength, remap, rank, metric, near_zero, near_zero_below, tuple(map(str, also)), tuple(leave))
    if output is not None:
        with only_editor(Path(output)):
            checkpoint, work = _work_of(path, subspace, key, options)
            return _apply_to_copy(checkpoint, work, Path(output), None if undo is None else Path(undo), on_progress)
    with only_editor(checkpoint_in(Path(path))):
        checkpoint, work = _work_of(path, subspace, key, options)
        undo_file = checkpoint.undo_file if undo is None else Path(undo)
        if not work.before:
            return Applied(work.plan, str(checkpoint.path), "")
        _require_free(undo_file, checkpoint)
        _write(checkpoint, work, undo_file)
    return Applied(work.plan, str(checkpoint.path), str(undo_file))


def undo(path: AnyPath, *, key: str | None = None, undo: AnyPath | None = None) -> Undone:
    """Restores the bytes that `apply` overwrote. An original file stays; a file in neither state is refused.

    key: key of the edited codebook; None: that of the undo file. Raises IoError with the state that was found, ValueError if
    the undo file has another key; nothing is written then.
    """
    with only_editor(checkpoint_in(Path(path))):
        checkpoint, record = _with_undo(path, undo)
        _require_key(record, key)
        state = record.state(checkpoint)
        keys = tuple(old.key for old in record.tensors)
        if state == "original":
            return Undone(str(checkpoint.path), "already undone", keys)
        if state != "edited":
            raise IoError(f"isic.checkpoint.undo: expected {checkpoint.path} as the edit left it, got another state: {state}")
        now = {old.key: checkpoint.read(old.key) for old in record.tensors}
        checkpoint.write(now, {old.key: old.restored(now[old.key]) for old in record.tensors})
    return Undone(str(checkpoint.path), "undone", keys)


def verify(path: AnyPath, *, subspace: AnySubspace | None = None, key: str | None = None, undo: AnyPath | None = None) -> Verified:
    """Returns the state of a checkpoint and the leakage of its stored rows.

    subspace: the subspace to measure; None: that of the undo file. Without an undo file the state is "unknown".
    """
    checkpoint = Checkpoint(path)
    if undo is None and not checkpoint.undo_file.exists():
        if subspace is None:
            raise IoError(f"isic.checkpoint.verify: expected an undo file or a subspace, found no {checkpoint.undo_file}")
        fitted = _fitted(subspace)
        book = checkpoint.codebook(key, width=fitted.subspace.width)
        return Verified(str(checkpoint.path), "unknown", "", _leakages(checkpoint, book, fitted.subspace, {}))
    checkpoint, record = _with_undo(path, undo)
    _require_key(record, key)
    state = record.state(checkpoint)
    recorded = record.plan["codebook"]
    book = replace(checkpoint.codebook(recorded["key"]), metric=recorded["metric"])
    after = {} if subspace is not None else {level["key"]: LeakageReport(**level["after"]) for level in record.plan["levels"]}
    leaks = _leakages(checkpoint, book, record.subspace if subspace is None else _fitted(subspace).subspace, after)
    if state in ("edited", "original"):
        return Verified(str(checkpoint.path), "edited" if state == "edited" else "original", "", leaks)
    return Verified(str(checkpoint.path), "neither", state, leaks)


def _require_key(record: Undo, key: str | None) -> None:
    book = record.plan["codebook"]
    keys = tuple(dict.fromkeys([*(old.key for old in record.tensors), book["key"], *book.get("keys", ()), *book.get("aliases", ())]))
    if key is not None and key not in keys:
        raise IsicValueError(f"isic.checkpoint: expected a key of {record.path} ({', '.join(keys)}), got {key!r}")


def _details(book: Codebook) -> str:
    """The lines about a codebook below the table."""
    facts = [("levels", shortened(book.keys) if len(book.keys) > 1 else ""), ("read by", book.readers),
             ("padding rows", shortened(tuple(map(str, book.padding)))), ("same storage", shortened(book.aliases)),
             ("copies", shortened(book.copies)), ("same bytes", shortened(book.twins)), ("training sums", shortened(book.sums)),
             ("divided by", shortened(book.divided_by)), ("input table", shortened(book.input_tables)),
             *(("note", note) for note in book.notes), ("no surgery", book.refusal)]
    return "\n".join(f"  {name + ':':<15}{text}" for name, text in facts if text)


def _fitted(subspace: AnySubspace) -> FittedSubspace:
    if isinstance(subspace, FittedSubspace):
        return subspace
    return FittedSubspace(subspace) if isinstance(subspace, Subspace) else load_subspace(subspace)


def _work_of(path: AnyPath, subspace: AnySubspace, key: str | None, options: Options) -> tuple[Checkpoint, Work]:
    fitted = _fitted(subspace)
    files = [name for name in options.also if os.path.exists(name)]
    checkpoint = Checkpoint(path, others=files)
    book = checkpoint.codebook(key, width=fitted.subspace.width)
    for file in checkpoint.others:
        if not any(copy.startswith(f"{file.name}:") for copy in (*book.copies, *book.twins)):
            raise IoError(f"isic.checkpoint: expected a copy of {book.key} in {file}, found none with the same bytes")
    in_files = [twin for twin in book.twins if any(twin.startswith(f"{file.name}:") for file in checkpoint.others)]
    keys = (*(name for name in options.also if name not in files), *in_files)
    return checkpoint, work_out(str(checkpoint.path), checkpoint.tensors, book, fitted, replace(options, also=keys))


def _require_free(undo_file: Path, checkpoint: Checkpoint) -> None:
    """Raises IoError if the undo file belongs to an edit that is still in the checkpoint."""
    if undo_file.exists() and load_undo(undo_file).state(checkpoint) != "original":
        raise IoError(f"isic.checkpoint.apply: expected no undo file of an earlier edit, got {undo_file}; "
                      "undo that edit first, or name another file with --undo (undo= in Python)")


def _write(checkpoint: Checkpoint, work: Work, undo_file: Path) -> None:
    locked = [str(checkpoint.tensors[key].path) for key in work.before if not os.access(checkpoint.tensors[key].path, os.W_OK)]
    if locked:
        raise IoError(f"isic.checkpoint.apply: expected writable files, got {locked[0]}")
    save_undo(undo_file, checkpoint, work)
    try:
        checkpoint.write(work.before, work.after)
    except BaseException:
        # A journal means that the next call completes the edit; "edited" means that another process did.
        if not checkpoint.journal.exists() and load_undo(undo_file).state(checkpoint) != "edited":
            undo_file.unlink()
        raise


def _apply_to_copy(checkpoint: Checkpoint, work: Work, output: Path, undo_file: Path | None, on_progress: OnProgress | None) -> Applied:
    if checkpoint.others:
        raise IoError("isic.checkpoint.apply: expected no further files to edit with output, got " + ", ".join(map(str, checkpoint.others)))
    if output.exists():
        raise IoError(f"isic.checkpoint.apply: expected a new file or folder, got {output}, which exists")
    _require_free(Path(f"{output}.isic-undo.safetensors") if undo_file is None else undo_file, checkpoint)
    part = output.with_name(f"{output.name}.isic-part{output.suffix}")
    _remove(part)
    try:
        copied = checkpoint.copy(part, on_progress)
        if work.before:
            copy = Checkpoint(copied)
            copy.write(work.before, work.after)
        os.rename(part, output)
    except BaseException:
        _remove(part)
        raise
    final = Checkpoint(output)
    undo_file = final.undo_file if undo_file is None else undo_file
    if work.before:
        save_undo(undo_file, final, work)
    return Applied(replace(work.plan, checkpoint=str(final.path)), str(final.path), str(undo_file) if work.before else "")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    elif path.exists():
        path.unlink()


def _with_undo(path: AnyPath, undo_file: AnyPath | None) -> tuple[Checkpoint, Undo]:
    checkpoint = Checkpoint(path)
    record = load_undo(checkpoint.undo_file if undo_file is None else Path(undo_file))
    if record.others:
        checkpoint = Checkpoint(path, others=[checkpoint.path.parent / other for other in record.others])
    return checkpoint, record


def _leakages(checkpoint: Checkpoint, book: Codebook, subspace: Subspace, recorded: dict[str, LeakageReport]) -> tuple[StoredLeakage, ...]:
    return tuple(StoredLeakage(name, measured_leakage(codes, subspace, book), recorded.get(name))
                 for name, codes in code_tables(checkpoint.tensors, book))
