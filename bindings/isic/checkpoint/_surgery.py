# SPDX-License-Identifier: Apache-2.0
"""The edit of a codebook's tensors, computed in memory before a byte of a file changes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from .._differences import code_strength
from .._edit import project_out, remap as remap_codes
from .._errors import ShapeError, ValueError as IsicValueError
from .._metrics import collapsed_pairs, nearest_code_churn
from .._subspace import FittedSubspace, leakage
from .._results import LeakageReport, RankChoice, Subspace, Value
from .._typing import FloatArray, Floats, Metric, NearZeroPolicy
from ._find import Codebook
from ._formats import Array, Tensor
from ._text import shortened, table

_SAMPLE, _COMPARED = 2048, 1 << 30
"""Largest sample of vectors for churn, and largest number of compared values, which shrinks the sample of a large codebook."""


@dataclass(frozen=True)
class Options:
    """Options of `plan` and `apply`, documented there."""

    strength: Floats | None = None
    remap: bool = False
    rank: int | None = None
    metric: Metric | None = None
    near_zero: NearZeroPolicy = "nearest_safe"
    near_zero_below: float = 0.1
    also: tuple[str, ...] = ()
    leave: tuple[str, ...] = ()


@dataclass(frozen=True, repr=False)
class LevelChange(Value):
    """Numbers of an edit of one table of a codebook."""

    key: str
    """Key of its tensor."""
    moved: int
    """Rows whose stored bytes change."""
    near_zero: int
    """Rows that the projection left near zero, handled by the policy."""
    before: LeakageReport
    """Leakage of the stored rows."""
    after: LeakageReport
    """The same after the edit, as rounded to the file's dtype."""
    rounding: float
    """Largest leakage of a fully projected row: the rounding error; 0 without such rows."""
    relative_change: float
    """||C' - C||_F / ||C||_F."""
    churn: float
    """Share of the old rows (a sample of at most 2,048) whose nearest row changes."""
    collapsed: int
    """Pairs of rows that collapse into one."""


@dataclass(frozen=True, repr=False)
class Plan(Value):
    """Numbers of an edit of a checkpoint, before anything is written."""

    checkpoint: str
    """The file."""
    codebook: Codebook
    """The codebook."""
    rank: int
    """Rank of the subspace that is projected out."""
    energy: float
    """Share of the differences' squared singular values in it."""
    strength: str
    """The strength in words."""
    levels: tuple[LevelChange, ...]
    """One per table."""
    edited: tuple[str, ...]
    """Keys whose bytes change."""
    changed_bytes: int
    """Bytes of the changed rows."""

    def __str__(self) -> str:
        rows = [(c.key, c.moved, c.near_zero, c.before.total, c.after.total, c.rounding, c.relative_change, c.churn, c.collapsed)
                for c in self.levels]
        header = ("tensor", "moved", "near-zero", "leakage", "after", "rounding", "change", "churn", "collapsed")
        others = [key for key in self.edited if key not in self.codebook.keys]
        subspace = f"rank {self.rank} of {self.codebook.width}, {100 * self.energy:.3g} % of the differences' energy"
        facts = [("codebook", str(self.codebook)), ("subspace", subspace), ("strength", self.strength),
                 ("read by", self.codebook.readers), ("also edited", shortened(others)),
                 ("not edited", shortened(self.codebook.input_tables)), *(("note", note) for note in self.codebook.notes)]
        return "\n".join(f"{name + ':':<12}{text}" for name, text in facts if text) + "\n\n" + table(header, rows)


@dataclass
class Work:
    """Old and new values of every tensor that changes."""

    plan: Plan
    subspace: Subspace
    before: dict[str, Array] = field(default_factory=dict)
    after: dict[str, Array] = field(default_factory=dict)


def work_out(path: str, tensors: dict[str, Tensor], book: Codebook, fitted: FittedSubspace, options: Options) -> Work:
    """Edits copies of the tensors. Raises isic.Error if arguments and tensors do not match."""
    book = _decided(tensors, book, options)
    subspace = _cut(fitted.subspace, options.rank)
    if subspace.width != book.width:
        raise ShapeError(f"isic.checkpoint: expected a subspace of width {book.width} for {book}, got width {subspace.width}")
    strength, words = _strength(book, fitted, options)
    before = {key: tensors[key].read() for key in dict.fromkeys((*book.keys, *book.copies, *book.twins, *book.sums))}
    after = {key: values.copy() for key, values in before.items()}
    levels = []
    for level, (key, rows) in enumerate(_tables(book, after)):
        codes, counts = _codes(tensors, book, level, rows)
        old = codes.copy()
        target = _per_row(book, fitted.targets, level, 3) if options.remap else None
        levels.append(_edit_level(key, codes, subspace, _per_row(book, strength, level, 2), target, book, options))
        _store(rows, old, codes, counts)
    _copy_to_copies(book, before, after)
    _rescale_sums(tensors, book, before, after)
    changed = {key: moved_rows(before[key], after[key]) for key in before}
    edited = tuple(key for key, ids in changed.items() if ids.size) + tuple(a for a in book.aliases if changed[book.key].size)
    nbytes = sum(int(ids.size) * before[key].shape[-1] * before[key].itemsize for key, ids in changed.items())
    plan = Plan(path, book, subspace.rank, subspace.energy, words, tuple(levels), edited, nbytes)
    return Work(plan, subspace, {k: v for k, v in before.items() if changed[k].size}, {k: v for k, v in after.items() if changed[k].size})


def moved_rows(before: Array, after: Array) -> npt.NDArray[np.int64]:
    """Rows (of the last dimension) whose bytes differ."""
    differ = (before.view(np.uint8).reshape(-1, before.shape[-1] * before.itemsize)
              != after.view(np.uint8).reshape(-1, before.shape[-1] * before.itemsize)).any(axis=1)
    return np.flatnonzero(differ).astype(np.int64)


def as_read(codes: Array, book: Codebook) -> Array:
    """The rows as a decoder reads them."""
    if book.metric == "l2":
        return codes
    wide = codes.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    return wide / np.where(norms > 0, norms, 1.0)


def measured_leakage(codes: Array, subspace: Subspace, book: Codebook) -> LeakageReport:
    """Leakage of the rows as a decoder reads them."""
    return leakage(as_read(codes, book), subspace, padding=book.padding or None)


def code_tables(tensors: dict[str, Tensor], book: Codebook) -> Iterator[tuple[str, Array]]:
    """The code vectors of every table, [K, d] each, as the decoder receives them."""
    values = {key: tensors[key].read() for key in book.keys}
    for level, (key, rows) in enumerate(_tables(book, values)):
        yield key, _codes(tensors, book, level, rows)[0]


def _decided(tensors: dict[str, Tensor], book: Codebook, options: Options) -> Codebook:
    if book.refusal:
        raise IsicValueError(f"isic.checkpoint: expected a codebook with rows to edit, got {book.key} ({book.family}): {book.refusal}")
    for key in (*options.also, *options.leave):
        if key not in tensors:
            raise IsicValueError(f"isic.checkpoint: expected keys of the checkpoint in also and leave, got {key!r}")
    undecided = [key for key in book.twins if key not in (*options.also, *options.leave)]
    if undecided:
        raise IsicValueError(f"isic.checkpoint: expected a decision on {', '.join(undecided)}, with the same bytes as "
                             f"{book.key}, got none; --also KEY edits it too, --leave KEY does not (also=, leave= in Python)")
    same = [key for key in (*book.copies, *book.twins) if key not in options.leave]
    for key in options.also:
        if key not in same and key not in book.keys:
            raise IsicValueError(f"isic.checkpoint: expected the same bytes in {key} as in {book.key} to edit it too, got others")
    for key in (*same, *book.sums):
        if tensors[key].strides:
            raise IsicValueError(f"isic.checkpoint: expected adjacent rows in {key}, which is edited with {book.key}, got a transposed tensor, "
                                 "or a part of one; save it after .contiguous()")
    return replace(book, twins=tuple(k for k in same if k in book.twins), copies=tuple(k for k in same if k in book.copies),
                   metric=options.metric or book.metric)


def _cut(subspace: Subspace, rank: int | None) -> Subspace:
    if rank is None:
        return subspace
    if not 1 <= rank <= subspace.rank:
        raise IsicValueError(f"isic.checkpoint: expected a rank in [1, {subspace.rank}], got {rank}")
    squares = np.asarray(subspace.singular_values) ** 2
    known = squares.size >= subspace.rank and squares.sum() > 0
    energy = float(squares[:rank].sum() / squares.sum()) if known else subspace.energy * rank / subspace.rank
    return Subspace(np.ascontiguousarray(subspace.basis[:, :rank]), subspace.singular_values, energy, RankChoice(rank, "fixed"))


def _strength(book: Codebook, fitted: FittedSubspace, options: Options) -> tuple[FloatArray, str]:
    """The strength per code, or per level and code, and its description."""
    if options.remap:
        _require_fit("targets", book, None if fitted.targets is None else fitted.targets.shape[:-1])
    if options.strength is not None or fitted.harmfulness is None:
        s = np.asarray(1.0 if options.strength is None else options.strength, dtype=np.float64)
        if s.ndim == 0:
            return np.full(book.codes, float(s)), f"{float(s):g} for all codes"
        _require_fit("strength", book, s.shape)
        return s, "per code, as given"
    _require_fit("harmfulness", book, fitted.harmfulness.shape)
    s = code_strength(fitted.harmfulness.ravel()).reshape(fitted.harmfulness.shape)
    return s, f"per code, by harmfulness: {int((s > 0).sum())} of {s.size} codes move, {int((s == 1).sum())} fully"


def _require_fit(what: str, book: Codebook, shape: tuple[int, ...] | None) -> None:
    if shape not in ((book.codes,), (book.levels, book.codes)):
        got = "none" if shape is None else f"shape {shape}"
        raise ShapeError(f"isic.checkpoint: expected {what} of {book.codes} codes for {book}, got {got}; fit the subspace to token ids of "
                         "this codebook, or use one strength for all (--uniform, strength=1.0 in Python)")


def _per_row(book: Codebook, values: Floats | None, level: int, dimensions: int) -> FloatArray:
    """Values per code of one level (all levels share them if a dimension is missing), with zeros for padding rows."""
    array = np.asarray(values, dtype=np.float64)
    array = array[level] if array.ndim == dimensions else array
    return np.concatenate([array, np.zeros((len(book.padding), *array.shape[1:]))])


def _tables(book: Codebook, values: dict[str, Array]) -> Iterator[tuple[str, Array]]:
    """Every [K, d] table inside the tensors, as a view."""
    for key in book.keys:
        array = values[key]
        for head in range(len(array)) if array.ndim == 3 else [None]:
            yield (key, array) if head is None else (f"{key}[{head}]", array[head])


def _codes(tensors: dict[str, Tensor], book: Codebook, level: int, rows: Array) -> tuple[Array, FloatArray | None]:
    """The code vectors of a table, and the counts that its stored sums are divided by."""
    if not book.divided_by:
        return rows, None
    counts = np.maximum(tensors[book.divided_by[level]].read().astype(np.float64), 1e-5)  # the models' own epsilon
    return np.ascontiguousarray(rows.astype(np.float64) / counts[:, None]), counts


def _store(rows: Array, old: Array, codes: Array, counts: FloatArray | None) -> None:
    if counts is not None:
        ids = moved_rows(old, codes)
        rows[ids] = (codes[ids] * counts[ids, None]).astype(rows.dtype)


def _edit_level(key: str, codes: Array, subspace: Subspace, strength: FloatArray, target: FloatArray | None, book: Codebook,
                options: Options) -> LevelChange:
    old = codes.copy()
    before = measured_leakage(old, subspace, book)
    shared: dict[str, Any] = dict(strength=strength, metric=book.metric, padding=book.padding or None, near_zero=options.near_zero,
                                  near_zero_below=options.near_zero_below)
    edit = project_out(codes, subspace, **shared) if target is None else remap_codes(codes, target=target, **shared)
    summary = edit.summary
    padding = book.padding or None
    sample = np.delete(old, book.padding, axis=0).astype(np.float64)
    tolerance = 1e-6 * float(np.linalg.norm(sample) / np.sqrt(len(sample)))
    collapsed = collapsed_pairs(codes, tolerance=tolerance, padding=padding) - collapsed_pairs(old, tolerance=tolerance, padding=padding)
    step = -(-len(sample) // min(_SAMPLE, max(64, _COMPARED // sample.size)))
    churn = nearest_code_churn(sample[::step], old, codes, metric=book.metric, padding=padding)
    rounding = _rounding(old, codes, subspace, strength, options) if target is None and subspace.rank else 0.0
    return LevelChange(key, summary.moved, summary.near_zero, before, measured_leakage(codes, subspace, book), rounding,
                       summary.relative_change, churn, collapsed)


def _rounding(old: Array, new: Array, subspace: Subspace, strength: FloatArray, options: Options) -> float:
    """Largest leakage of the fully projected rows. Near-zero rows hold another row's value and do not count."""
    wide, after = old.astype(np.float64), new.astype(np.float64)
    exact = wide - (wide @ subspace.basis) @ subspace.basis.T
    counts = (strength == 1) & (np.linalg.norm(exact, axis=1) > options.near_zero_below * np.linalg.norm(wide, axis=1))
    left = np.linalg.norm(after[counts] @ subspace.basis, axis=1) / np.linalg.norm(after[counts], axis=1)
    return float(left.max(initial=0.0))


def _copy_to_copies(book: Codebook, before: dict[str, Array], after: dict[str, Array]) -> None:
    for key in (*book.copies, *book.twins):
        source = next((own for own in book.keys if before[own].tobytes() == before[key].tobytes()), book.key)
        after[key][...] = after[source]


def _rescale_sums(tensors: dict[str, Tensor], book: Codebook, before: dict[str, Array], after: dict[str, Array]) -> None:
    """Sets the running sum of a moved code to the new code times its count, so that the next training step keeps the new row.

    The count is the least-squares solution of sum = count * code: files store it smoothed, or not at all.
    """
    codes = {key: key for key in (*book.keys, *book.copies, *book.twins)}
    codes.update({alias: own for alias in book.aliases for own in book.keys if tensors[alias].place == tensors[own].place})
    for key in book.sums:
        source = codes[max(codes, key=lambda neighbour: _common_prefix(neighbour, key))]
        sums = before[key]
        old, new = (values[source][..., :sums.shape[-2], :].astype(np.float64) for values in (before, after))
        squares = (old**2).sum(-1, keepdims=True)
        counts = (sums.astype(np.float64) * old).sum(-1, keepdims=True) / np.where(squares > 0, squares, 1.0)
        moved = np.any(old != new, axis=-1)
        after[key][moved] = (counts * new)[moved].astype(sums.dtype)


def _common_prefix(a: str, b: str) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
