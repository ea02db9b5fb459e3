# SPDX-License-Identifier: Apache-2.0
"""Projection of a subspace out of a codebook, and the record that undoes it bit for bit."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any

from . import _isic
from ._errors import require_class
from ._results import EditSummary, Subspace, plain
from ._typing import Codes, FloatArray, Floats, IdArray, Metric, NearZeroPolicy, Padding


class Edit:
    """A change of some rows of a codebook: undoes it bit for bit, applies it again, refuses another codebook.

    `project_out`, `remap`, `Edit.between` and `load_edit` return one. It keeps a reference to its codebook, so that
    `undo()` needs no argument and a `with` block undoes on exit:

    >>> codes = np.array([[2.0, 1.0], [0.0, 1.0]], dtype=np.float32)
    >>> with isic.project_out(codes, isic.span_of([[1.0], [0.0]])) as edit:
    ...     codes.tolist()
    [[0.0, 1.0], [0.0, 1.0]]
    >>> codes.tolist()
    [[2.0, 1.0], [0.0, 1.0]]

    A copy, a pickled edit and an edit from a file have no reference to a codebook.
    """

    def __init__(self, record: _isic.Edit, codes: Codes | None = None) -> None:
        self._record = record
        self._codes = codes

    @staticmethod
    def between(before: Codes, after: Codes) -> Edit:
        """The edit that turns `before` into `after`, both [K, d] of one dtype. It keeps only rows that differ."""
        return Edit(_isic.Edit.between(before, after), after)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Edit:
        """Reads an edit, as `load_edit`."""
        return Edit(_isic.load_edit(path))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the edit, as `save_edit`."""
        _isic.save_edit(path, self._record)

    def undo(self, codes: Codes | None = None) -> None:
        """Restores the old bytes in `codes`; None: in the codebook that was edited.

        Raises ValueError unless it is the edited codebook, ShapeError; nothing is written then.
        """
        self._record.undo(self._codes_or(codes, "undo"))

    def apply(self, codes: Codes | None = None) -> None:
        """Makes the same change in `codes`; None: in the codebook that was edited. Raises as `undo`, unless it is the original."""
        self._record.apply(self._codes_or(codes, "apply"))

    def _codes_or(self, codes: Codes | None, function: str) -> Codes:
        chosen = self._codes if codes is None else codes
        if chosen is None:
            raise TypeError(f"isic.Edit.{function}: expected a codebook, got none; an edit from a file and a copy of an edit refer to no codebook, pass it")
        return chosen

    def __reduce__(self) -> tuple[type[Edit], tuple[_isic.Edit]]:
        return Edit, (self._record,)

    def __enter__(self) -> Edit:
        self._codes_or(None, "__enter__")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        codes = self._codes_or(None, "__exit__")
        if _isic.fingerprint(codes) != self.fingerprint_before:  # equal: the block called undo
            self.undo(codes)

    @property
    def rows(self) -> int:
        """K."""
        return self._record.rows

    @property
    def cols(self) -> int:
        """d."""
        return self._record.cols

    @property
    def storage(self) -> str:
        """"f32", "f64", "f16" or "bf16"."""
        return self._record.storage

    @property
    def ids(self) -> IdArray:
        """Ids of the rows that changed, ascending."""
        return self._record.ids()

    @property
    def summary(self) -> EditSummary:
        """Moved rows, near-zero rows, relative change, leakage before and after."""
        return self._record.summary()

    @property
    def removed(self) -> Subspace:
        """The subspace that was projected out; rank 0 for a remap or a tuned codebook."""
        return self._record.removed()

    @property
    def center(self) -> FloatArray:
        """The center, [d]; empty: zero."""
        return self._record.center()

    @property
    def fingerprint_before(self) -> int:
        """`fingerprint` of the original codebook."""
        return self._record.fingerprint_before

    @property
    def fingerprint_after(self) -> int:
        """`fingerprint` of the edited codebook."""
        return self._record.fingerprint_after

    def to_dict(self) -> dict[str, Any]:
        """All fields but the rows, as lists, dictionaries, numbers and text."""
        names = ("rows", "cols", "storage", "ids", "summary", "removed", "center", "fingerprint_before", "fingerprint_after")
        return {name: plain(getattr(self, name)) for name in names}

    def __repr__(self) -> str:
        s = self.summary
        return (f"Edit({self.rows} x {self.cols} {self.storage}, moved={s.moved}, near_zero={s.near_zero}, "
                f"leakage {s.before.total:.3g} -> {s.after.total:.3g})")


def project_out(codes: Codes, subspace: Subspace, *, strength: Floats = 1.0, target: Floats | None = None, center: Floats | None = None,
                weights: Floats | None = None, keep_norms: bool = False, metric: Metric = "l2", padding: Padding = None,
                near_zero: NearZeroPolicy = "nearest_safe", near_zero_below: float = 0.1, threads: int = 0) -> Edit:
    """Projects a subspace out of a codebook in place: c_k <- c_k + s_k (t_k - c_k) V diag(w) V^T.

    codes [K, d] of float32, float64, float16 or bfloat16; computed in float64, rounded once. V = subspace.basis [d, r].
    Hard (the default), soft (weights), gated or graded (strength per code), norm-preserving, affine (center) and toward
    counterparts (target) are the same formula.

    strength: s in [0, 1], one number or [K]; 0 leaves a row's bytes unchanged.
    target: t [K, d], the target of each code inside the subspace; None: the center.
    center: [d], the common target of all codes (affine projection); None: zero.
    weights: w_i in [0, 1] per basis vector (soft projection); None: all 1.
    keep_norms: rescale each moved row to its old norm.
    metric: "l2" reads rows as they are; "cosine" normalises them and keeps their stored norms.
    padding: ids of padding rows: not edited, not counted, may hold any bytes.
    near_zero: policy for rows whose norm falls below near_zero_below times the old norm, so that only noise is left:
        "nearest_safe" copies the new value of the nearest row that is not near zero, "skip" keeps the old value, "zero"
        writes zero, "error" raises. Used without a target.
    threads: 0: every core where the work is worth it, else one. The bytes do not depend on it.

    Returns the edit; its `undo()` restores every byte. Cost O(K d r); the edit stores the moved rows twice. Raises
    ShapeError, ValueError (ranges, dtype, read-only or overlapping memory), NumericError (NaN, infinity, a zero codebook,
    rows that overflow the dtype, squares that do not fit float64), BackendError (memory of a GPU); nothing is written then.
    Source: Safe-CB step 1 for V V^T with t = 0; strengths, targets and policies are our choice.

    >>> codes = np.array([[3.0, 1.0], [0.0, 1.0]], dtype=np.float32)
    >>> edit = isic.project_out(codes, isic.span_of([[1.0], [0.0]]))
    >>> edit
    Edit(2 x 2 f32, moved=1, near_zero=0, leakage 0.905 -> 0)
    >>> codes.tolist(), edit.ids.tolist()
    ([[0.0, 1.0], [0.0, 1.0]], [0])
    """
    return Edit(_isic.project_out(codes, subspace, strength=strength, target=target, center=center, weights=weights, keep_norms=keep_norms,
                                  metric=metric, padding=padding, near_zero=near_zero, near_zero_below=near_zero_below, threads=threads), codes)


def remap(codes: Codes, *, target: Floats, strength: Floats = 1.0, keep_norms: bool = False, metric: Metric = "l2", padding: Padding = None,
          near_zero: NearZeroPolicy = "nearest_safe", near_zero_below: float = 0.1, threads: int = 0) -> Edit:
    """Moves codes to their targets [K, d], V = identity: c_k <- c_k + s_k (t_k - c_k). Options and errors as `project_out`.

    >>> codes = np.zeros((2, 2)) + 1
    >>> isic.remap(codes, target=np.zeros((2, 2)), strength=[0.0, 0.5]).ids
    array([1])
    """
    return Edit(_isic.remap(codes, strength=strength, target=target, center=None, keep_norms=keep_norms, metric=metric, padding=padding,
                            near_zero=near_zero, near_zero_below=near_zero_below, threads=threads), codes)


def save_edit(path: str | os.PathLike[str], edit: Edit) -> None:
    """Writes an edit as a safetensors file, replacing an old file only when the new one is complete. Raises IoError."""
    require_class("save_edit", "edit", edit, Edit)
    edit.save(path)


def load_edit(path: str | os.PathLike[str]) -> Edit:
    """Reads an edit that `save_edit` wrote: it undoes and applies the same bytes, and refuses the same codebooks.

    Raises IoError naming the file, what was expected in it and what was found, down to a single changed byte.
    """
    return Edit.load(path)
