"""Differences on a device, and their harmful subspace."""

from __future__ import annotations

from dataclasses import dataclass

from .._errors import ValueError as IsicValueError
from .._errors import require_class
from .._typing import Centering, DeviceLike, EigenSolver, FloatArray
from .._results import CodeUsage, Subspace
from ._backend import Backend, native_of
from ._load import native


class DifferenceAccumulator:
    """Differences seen one pair of images at a time, kept as float64 moments on the device: as isic.DifferenceAccumulator.

    DifferenceAccumulator(gpu, codes) looks token ids up in a codebook [K, d] on the device, which it keeps alive and which
    must not change meanwhile. DifferenceAccumulator(gpu, width=d) takes rows of embeddings instead; keep_safe_moment, at
    twice the cost, is for center="safe_axis".

    NaN and ids outside [0, K) are found on the device, left out, and reported as NumericError or ValueError by the next call
    that gives numbers back; from then on it is spoilt. Memory O(d^2 + K) and 4096 rows of d.

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
        self._pairs = native.DifferenceAccumulator(native_of("DifferenceAccumulator", gpu), codes, width, keep_safe_moment)

    def add(self, harmful_ids: DeviceLike, safe_ids: DeviceLike) -> None:
        """Pairs of images as token ids on the device, int32 or int64 of one shape. Raises ShapeError, also if this holds rows."""
        self._pairs.add(harmful_ids, safe_ids)

    def add_safe(self, safe_ids: DeviceLike) -> None:
        """Counts the codes of safe images that are nobody's counterpart."""
        self._pairs.add_safe(safe_ids)

    def add_rows(self, harmful: DeviceLike, safe: DeviceLike) -> None:
        """Paired rows of embeddings on the device, [m, d] each. Raises ShapeError."""
        self._pairs.add_rows(harmful, safe)

    def merge(self, other: DifferenceAccumulator) -> None:
        """Adds what another accumulator of the same backend saw. Raises ShapeError if width, codes or kind differ, ValueError."""
        require_class("cuda.DifferenceAccumulator.merge", "other", other, DifferenceAccumulator)
        self._pairs.merge(other._pairs)

    @property
    def width(self) -> int:
        """d."""
        return self._pairs.width

    @property
    def count(self) -> int:
        """n, difference rows seen."""
        return self._pairs.count

    @property
    def usage(self) -> CodeUsage:
        """Counts of each code in harmful and in safe images, [K] each; empty for rows. Waits."""
        return self._pairs.usage()

    def mean(self) -> FloatArray:
        """Mean difference, [d]; zero before the first pair. Waits."""
        return self._pairs.mean()

    def safe_mean(self) -> FloatArray:
        """Mean of the safe embeddings, [d]. Waits."""
        return self._pairs.safe_mean()

    def second_moment(self) -> FloatArray:
        """D^T D, [d, d]. Waits."""
        return self._pairs.second_moment()

    def safe_second_moment(self) -> FloatArray:
        """Second moment of the safe embeddings, [d, d], not divided by their number; of rows with keep_safe_moment. Waits."""
        return self._pairs.safe_second_moment()

    def __repr__(self) -> str:
        return f"DifferenceAccumulator(width={self.width}, count={self.count})"


@dataclass(frozen=True, repr=False, eq=False)
class FoundSubspace(Subspace):
    """A subspace, for use wherever one is, with the solver that found it on the device."""

    solver: EigenSolver
    """Never "automatic"."""

    def __repr__(self) -> str:
        return f"Found{super().__repr__()[:-1]}, solver={self.solver!r})"


def fit_subspace(gpu: Backend, pairs: DifferenceAccumulator | DeviceLike, *, rank: int | None = None, energy: float | None = 0.9,
                 gavish_donoho: bool = True, max_rank: int | None = None, center: Centering = "none",
                 solver: EigenSolver = "automatic") -> FoundSubspace:
    """Fits the harmful subspace on the device: the leading eigenvectors of D^T D, in float64. Only they come to the CPU.

    pairs: an accumulator, or difference rows [n, d] on the device. Options as `isic.fit_subspace`; sign flips need rows on
    the CPU. solver: "syevd" and "jacobi" find all values, "randomised" the leading ones; "automatic" chooses by width and
    rules. Cost O(d^3). Waits. Raises as `isic.fit_subspace`, CudaError (not_converged, out_of_memory).

    >>> gpu = isic.cuda.Backend()
    >>> isic.cuda.fit_subspace(gpu, isic.cuda.upload(gpu, [[2.0, 0.0], [4.0, 0.0]]), rank=1)
    FoundSubspace(width=2, rank=1, energy=1, decided_by='fixed', solver='jacobi')
    """
    if rank == 0:
        raise IsicValueError("isic.cuda.fit_subspace: expected rank >= 1, or None for the rules to decide, got 0")
    options = dict(rank=rank or 0, energy=energy or 0.0, gavish_donoho=gavish_donoho, max_rank=max_rank or 0, center=center, solver=solver)
    on = native_of("fit_subspace", gpu)
    found, by = native.fit_pairs(on, pairs._pairs, **options) if isinstance(pairs, DifferenceAccumulator) else native.fit_rows(on, pairs, **options)
    return FoundSubspace(found.basis, found.singular_values, found.energy, found.chosen, by)
