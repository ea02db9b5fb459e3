# SPDX-License-Identifier: Apache-2.0
"""Projection of a subspace out of a codebook on a device, and its undo."""

from __future__ import annotations

from types import TracebackType

from .._results import EditSummary, Subspace
from .._typing import DeviceLike, Floats, IdArray, Metric, NearZeroPolicy, Padding
from ._backend import Backend, native_of
from ._load import native


class Edit:
    """A change of a codebook on a device: undoes it there, bit for bit, and refuses another codebook.

    `project_out` and `remap` return one. A `with` block undoes on exit. For a record in a file, use
    isic.Edit.between(before, after) with downloaded copies.
    """

    def __init__(self, record: native.Edit, codes: DeviceLike) -> None:
        self._record = record
        self._codes = codes
        self._undone = False

    def undo(self, codes: DeviceLike | None = None) -> None:
        """Restores the old bytes in `codes`; None: in the codebook that was edited. Waits.

        Raises ValueError unless it is the edited codebook and the old rows were kept, ShapeError; nothing is written then.
        """
        self._record.undo(self._codes if codes is None else codes)
        self._undone = self._undone or codes is None

    @property
    def can_undo(self) -> bool:
        """Whether the old rows were kept."""
        return self._record.can_undo

    @property
    def summary(self) -> EditSummary:
        """Moved rows, near-zero rows, relative change, leakage before and after."""
        return self._record.summary()

    @property
    def ids(self) -> IdArray:
        """Ids of the rows that changed, ascending."""
        return self._record.ids()

    def __enter__(self) -> Edit:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self._undone:
            self.undo()

    def __repr__(self) -> str:
        s = self.summary
        return f"Edit(moved={s.moved}, near_zero={s.near_zero}, leakage {s.before.total:.3g} -> {s.after.total:.3g})"


def project_out(gpu: Backend, codes: DeviceLike, subspace: Subspace, *, strength: Floats = 1.0, target: Floats | DeviceLike | None = None,
                center: Floats | None = None, weights: Floats | None = None, keep_norms: bool = False, metric: Metric = "l2",
                padding: Padding = None, near_zero: NearZeroPolicy = "nearest_safe", near_zero_below: float = 0.1, can_undo: bool = True) -> Edit:
    """Projects a subspace out of a codebook on the device in place. Options as `isic.project_out`, on the CPU.

    target: may also be on the device, float64 and contiguous. can_undo: keeps the old rows on the device, K d values of
    memory. Waits. Raises as `isic.project_out`, ValueError if d > 4096, CudaError; after an error no row has changed.

    >>> gpu = isic.cuda.Backend()
    >>> codes = isic.cuda.upload(gpu, np.array([[3.0, 1.0], [0.0, 1.0]], dtype=np.float32))
    >>> with isic.cuda.project_out(gpu, codes, isic.span_of([[1.0], [0.0]])) as edit:
    ...     print(edit, codes.copy_to_host().tolist())
    Edit(moved=1, near_zero=0, leakage 0.905 -> 0) [[0.0, 1.0], [0.0, 1.0]]
    >>> codes.copy_to_host().tolist()
    [[3.0, 1.0], [0.0, 1.0]]
    """
    return Edit(native.project_out(native_of("project_out", gpu), codes, subspace, strength=strength, target=target, center=center, weights=weights,
                                   keep_norms=keep_norms, metric=metric, padding=padding, near_zero=near_zero, near_zero_below=near_zero_below,
                                   can_undo=can_undo), codes)


def remap(gpu: Backend, codes: DeviceLike, *, target: Floats, strength: Floats = 1.0, keep_norms: bool = False, metric: Metric = "l2",
          padding: Padding = None, near_zero: NearZeroPolicy = "nearest_safe", near_zero_below: float = 0.1) -> Edit:
    """Moves codes to their targets [K, d] on the CPU, V = identity: c_k <- c_k + s_k (t_k - c_k). Options and errors as
    `project_out`."""
    return Edit(native.remap(native_of("remap", gpu), codes, strength=strength, target=target, center=None, keep_norms=keep_norms, metric=metric,
                             padding=padding, near_zero=near_zero, near_zero_below=near_zero_below), codes)
