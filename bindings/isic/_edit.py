"""Taking a subspace out of a codebook, and the record that undoes it bit for bit."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any

from . import _isic
from ._errors import require_class
from ._types import Codes, FloatArray, Floats, IdArray, Metric, Padding, NearZeroPolicy
from ._values import EditSummary, Subspace, plain


class Edit:
    """A change of some rows of a codebook: undoes it bit for bit, applies it again, refuses another codebook.

    `project_out`, `remap`, `Edit.between` and `load_edit` make one. It remembers the codebook it was made on, so that
    `undo()` needs no argument and a `with` block undoes on exit:

    >>> codes = np.array([[2.0, 1.0], [0.0, 1.0]], dtype=np.float32)
    >>> with isic.project_out(codes, isic.span_of([[1.0], [0.0]])) as edit:
    ...     codes.tolist()
    [[0.0, 1.0], [0.0, 1.0]]
    >>> codes.tolist()
    [[2.0, 1.0], [0.0, 1.0]]

    A copy of it, a pickled one too, knows no codebook, as one from a file.
    """

    def __init__(self, record: _isic.Edit, codes: Codes | None = None) -> None:
        self._record = record
        self._codes = codes

    @staticmethod
    def between(before: Codes, after: Codes) -> Edit:
        """The edit that turns `before` into `after`, both [K, d] of one dtype; only rows that differ are kept."""
        return Edit(_isic.Edit.between(before, after), after)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Edit:
        """As `load_edit`."""
        return Edit(_isic.load_edit(path))

    def save(self, path: str | os.PathLike[str]) -> None:
        """As `save_edit`."""
        _isic.save_edit(path, self._record)

    def undo(self, codes: Codes | None = None) -> None:
        """Puts the old bytes back, in `codes` or else in the codebook that was edited.

        Raises ValueError if that is not the edited codebook, ShapeError; nothing is written then.
        """
        self._record.undo(self._codes_or(codes, "undo"))

    def apply(self, codes: Codes | None = None) -> None:
        """Makes the same change again, or to an untouched copy. Raises as `undo`, if it is not the original codebook."""
        self._record.apply(self._codes_or(codes, "apply"))

    def _codes_or(self, codes: Codes | None, function: str) -> Codes:
        chosen = self._codes if codes is None else codes
        if chosen is None:
            raise TypeError(f"isic.Edit.{function}: expected a codebook, got none; an edit from a file, or a copy, knows no codebook, pass it")
        return chosen

    def __reduce__(self) -> tuple[type[Edit], tuple[_isic.Edit]]:
        return Edit, (self._record,)

    def __enter__(self) -> Edit:
        self._codes_or(None, "__enter__")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        codes = self._codes_or(None, "__exit__")
        if _isic.fingerprint(codes) != self.fingerprint_before:  # else the block undid it itself
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
        """Rows that changed, ascending."""
        return self._record.ids()

    @property
    def summary(self) -> EditSummary:
        """What was done, in numbers."""
        return self._record.summary()

    @property
    def removed(self) -> Subspace:
        """What was projected out; rank 0 for a remap or a tuned codebook."""
        return self._record.removed()

    @property
    def center(self) -> FloatArray:
        """The centre, [d]; empty: zero."""
        return self._record.center()

    @property
    def fingerprint_before(self) -> int:
        """Of the original codebook, as `fingerprint`."""
        return self._record.fingerprint_before

    @property
    def fingerprint_after(self) -> int:
        """Of the edited codebook."""
        return self._record.fingerprint_after

    def to_dict(self) -> dict[str, Any]:
        """Everything but the rows themselves, as lists, dictionaries, numbers and text."""
        names = ("rows", "cols", "storage", "ids", "summary", "removed", "center", "fingerprint_before", "fingerprint_after")
        return {name: plain(getattr(self, name)) for name in names}

    def __repr__(self) -> str:
        s = self.summary
        return (f"Edit({self.rows} x {self.cols} {self.storage}, moved={s.moved}, near_zero={s.near_zero}, "
                f"leakage {s.before.total:.3g} -> {s.after.total:.3g})")


def project_out(codes: Codes, harm: Subspace, *, strength: Floats = 1.0, target: Floats | None = None, center: Floats | None = None,
                weights: Floats | None = None, keep_norms: bool = False, metric: Metric = "l2", padding: Padding = None,
                near_zero: NearZeroPolicy = "nearest_safe", near_zero_below: float = 0.1, threads: int = 0) -> Edit:
    """Projects a subspace out of a codebook in its own memory: c_k <- c_k + s_k (t_k - c_k) V diag(w) V^T.

    codes [K, d] of float32, float64, float16 or bfloat16; arithmetic in float64, rounded once. V = harm.basis [d, r].
    Hard (the default), soft (weights), gated or graded (strength per code), norm-preserving, affine (center) and toward
    counterparts (target) are the same formula.

    strength: s in [0, 1], one number or [K]; 0 leaves a row's bytes alone.
    target: t [K, d], where each code goes inside the subspace; None: the center.
    center: [d], the common target (affine projection); None: zero.
    weights: w_i in [0, 1] per basis vector (soft projection); None: all 1.
    keep_norms: rescale each moved row to its old norm.
    metric: "cosine" reads rows normalised and keeps their stored norms.
    padding: rows that are no codes: never touched, not counted, may hold anything.
    near_zero: what becomes of a row that is left nearly empty (norm below near_zero_below of the old), whose direction is
        noise: "nearest_safe" takes the new value of the nearest row that did not vanish, "skip" keeps the old value,
        "zero" makes it zero, "error" raises. Used when there is no target.
    threads: 0: every core when there is work for them, else one; the bytes do not depend on it.

    Returns the edit: `undo()` restores every byte. Cost O(K d r), and the edit keeps the moved rows twice. Raises
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
    return Edit(_isic.project_out(codes, harm, strength=strength, target=target, center=center, weights=weights, keep_norms=keep_norms,
                                  metric=metric, padding=padding, near_zero=near_zero, near_zero_below=near_zero_below, threads=threads), codes)


def remap(codes: Codes, *, target: Floats, strength: Floats = 1.0, keep_norms: bool = False, metric: Metric = "l2", padding: Padding = None,
          near_zero: NearZeroPolicy = "nearest_safe", near_zero_below: float = 0.1, threads: int = 0) -> Edit:
    """Full remap, V = identity: c_k <- c_k + s_k (t_k - c_k), target [K, d]. Options and errors as `project_out`.

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
