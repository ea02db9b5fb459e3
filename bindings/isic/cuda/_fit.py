# SPDX-License-Identifier: Apache-2.0
"""Differences on a device, and the fit of a harmful subspace."""

from __future__ import annotations

from dataclasses import dataclass

from .._differences import Moments
from .._errors import ValueError as IsicValueError
from .._errors import require_class
from .._results import Subspace
from .._typing import Centering, DeviceLike, EigenSolver
from ._backend import Backend, native_of
from ._load import native


class DifferenceAccumulator(Moments):
    """Moments of differences in float64 on the device, as isic.DifferenceAccumulator.

    DifferenceAccumulator(gpu, codes) takes token ids into a codebook [K, d] on the device, which it keeps alive and which
    must not change while pairs are added. DifferenceAccumulator(gpu, width=d) takes rows of embeddings; keep_safe_moment
    doubles the cost and is required for center="safe_axis".

    NaN and ids outside [0, K) are detected on the device and skipped. The next call that returns numbers raises NumericError
    or ValueError, and so does every later one. Memory O(d^2 + K) and 4096 rows of d.

    >>> gpu = isic.cuda.Backend()
    >>> codes = isic.cuda.upload(gpu, np.array([[3, 1], [0, 1], [0, 2]], dtype=np.float32))
    >>> pairs = isic.cuda.DifferenceAccumulator(gpu, codes)
    >>> pairs.add(isic.cuda.upload(gpu, [0, 2]), isic.cuda.upload(gpu, [1, 2]))
    >>> pairs.mean()
    array([1.5, 0. ])
    """

    def __init__(self, gpu: Backend, codes: DeviceLike | None = None, *, width: int | None = None, keep_safe_moment: bool = False) -> None:
        if (codes is None) == (width is None):
            got = "both" if codes is not None else "neither"
            raise TypeError(f"isic.cuda.DifferenceAccumulator: expected a codebook or a width, got {got}")
        self._pairs: native.DifferenceAccumulator = native.DifferenceAccumulator(native_of("DifferenceAccumulator", gpu), codes, width, keep_safe_moment)

    def add(self, harmful_ids: DeviceLike, safe_ids: DeviceLike) -> None:
        """Adds pairs of images as token ids on the device, int32 or int64 of one shape. Raises ShapeError, also if the
        accumulator takes rows."""
        self._pairs.add(harmful_ids, safe_ids)

    def add_safe(self, safe_ids: DeviceLike) -> None:
        """Counts the codes of safe images that have no harmful partner."""
        self._pairs.add_safe(safe_ids)

    def add_rows(self, harmful: DeviceLike, safe: DeviceLike) -> None:
        """Adds paired rows of embeddings on the device, [m, d] each. Raises ShapeError."""
        self._pairs.add_rows(harmful, safe)

    def merge(self, other: DifferenceAccumulator) -> None:
        """Adds the moments of another accumulator of the same backend. Raises ShapeError if width, codes or kind differ, ValueError."""
        require_class("cuda.DifferenceAccumulator.merge", "other", other, DifferenceAccumulator)
        self._pairs.merge(other._pairs)


@dataclass(frozen=True, repr=False, eq=False)
class FoundSubspace(Subspace):
    """A Subspace with the eigensolver that computed it on the device."""

    solver: EigenSolver
    """The eigensolver, never "automatic"."""

    def __repr__(self) -> str:
        return f"Found{super().__repr__()[:-1]}, solver={self.solver!r})"


def fit_subspace(gpu: Backend, pairs: DifferenceAccumulator | DeviceLike, *, rank: int | None = None, energy: float | None = 0.9,
                 gavish_donoho: bool = True, max_rank: int | None = None, center: Centering = "none",
                 solver: EigenSolver = "automatic") -> FoundSubspace:
    """Fits the harmful subspace on the device: the leading eigenvectors of D^T D, in float64. Only these are copied to the CPU.

    pairs: an accumulator, or difference rows [n, d] on the device. Options as `isic.fit_subspace`; sign flips need rows on
    the CPU. solver: "syevd" and "jacobi" compute all values, "randomised" the leading ones; "automatic" chooses by width
    and rank rules. Cost O(d^3). Waits. Raises as `isic.fit_subspace`, CudaError (not_converged, out_of_memory).

    >>> gpu = isic.cuda.Backend()
    >>> isic.cuda.fit_subspace(gpu, isic.cuda.upload(gpu, [[2.0, 0.0], [4.0, 0.0]]), rank=1)
    FoundSubspace(width=2, rank=1, energy=1, decided_by='fixed', solver='jacobi')
    """
    if rank == 0:
        raise IsicValueError("isic.cuda.fit_subspace: expected rank >= 1 (None: the rules decide), got 0")
    options = dict(rank=rank or 0, energy=energy or 0.0, gavish_donoho=gavish_donoho, max_rank=max_rank or 0, center=center, solver=solver)
    on = native_of("fit_subspace", gpu)
    found, by = native.fit_pairs(on, pairs._pairs, **options) if isinstance(pairs, DifferenceAccumulator) else native.fit_rows(on, pairs, **options)
    return FoundSubspace(found.basis, found.singular_values, found.energy, found.chosen, by)
