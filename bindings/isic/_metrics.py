# SPDX-License-Identifier: Apache-2.0
"""Measurements of an edit: drift, churn, collapse, utilisation, and rates with confidence intervals."""

from __future__ import annotations

from . import _isic
from ._results import DriftReport, Rate
from ._typing import Codes, Floats, IdArray, Metric, Padding


def drift(before: Codes, after: Codes, *, padding: Padding = None) -> DriftReport:
    """Distance between two codebooks [K, d], which may differ in dtype; rows in `padding` do not count.

    Raises ShapeError, ValueError on padding ids, NumericError (NaN, infinity, squares that overflow float64, or a zero
    codebook before).

    >>> isic.drift(np.array([[3.0, 4.0]]), np.array([[3.0, 3.0]]))
    DriftReport(relative=0.2, mean=1, largest=1, moved=1)
    """
    return _isic.drift(before, after, padding)


def nearest_codes(vectors: Floats, codes: Codes, *, metric: Metric = "l2", padding: Padding = None, threads: int = 0) -> IdArray:
    """Ids of the nearest codes, [n], by ||z - c||^2 (or of the normalised rows); ties go to the lowest id.

    vectors [n, d], codes [K, d]; rows listed in `padding` are skipped and may hold any bytes. threads: 0: every core where
    the work is worth it, else one. Cost O(n K d), less in narrow codebooks, plus packing, which a `CodeIndex` does once.
    int8 or float32 products select candidates; float64 distances re-rank those that rounding cannot separate, scaled where
    their squares overflow float64. Raises ShapeError if the codebook is empty or the
    widths differ, ValueError on padding ids or if all rows are padding, NumericError on NaN or infinity.

    >>> isic.nearest_codes([[0.9, 0.2]], np.eye(2))
    array([0])
    """
    return _isic.nearest_codes(vectors, codes, metric, padding, threads)


class CodeIndex:
    """An index of a codebook for many nearest-neighbour queries. `nearest_codes` builds one per call.

    codes [K, d] is kept alive and must not change while the index is in use. Memory: 4 to 8 K d bytes, and a copy of the
    codebook in float32 if it is stored in 16 bits, in float64 if the metric is "cosine". metric, padding: as
    `nearest_codes`. A deep copy and a pickled index pack a copy of the codebook. Raises as
    `nearest_codes`.

    >>> index = isic.CodeIndex(np.eye(2))
    >>> index
    CodeIndex(2 x 2 f64, metric='l2')
    >>> index.nearest([[0.9, 0.2], [0.1, 0.2]])
    array([0, 1])
    """

    def __init__(self, codes: Codes, *, metric: Metric = "l2", padding: Padding = None) -> None:
        self._made_of = codes, metric, padding
        self._index = _isic.CodeIndex(codes, metric, padding)

    def __getstate__(self) -> tuple[Codes, Metric, Padding]:
        return self._made_of

    def __setstate__(self, made_of: tuple[Codes, Metric, Padding]) -> None:
        codes, metric, padding = made_of
        self.__init__(codes, metric=metric, padding=padding)  # type: ignore[misc]

    def __repr__(self) -> str:
        return f"CodeIndex({self._index!r}, metric={self._made_of[1]!r})"

    def nearest(self, vectors: Floats, *, threads: int = 0) -> IdArray:
        """Ids of the nearest codes, [n]. vectors [n, d]; threads: as `nearest_codes`.

        float64 vectors need a second packing if the codebook is stored in fewer bits. Raises ShapeError if the widths
        differ, NumericError on NaN or infinity.
        """
        return self._index.nearest(vectors, threads)


def nearest_code_churn(vectors: Floats, before: Codes, after: Codes, *, metric: Metric = "l2", padding: Padding = None) -> float:
    """Share of vectors [n, d] whose nearest code changed, in [0, 1]: the share of tokens that re-encoding changes. Raises as `nearest_codes`.

    >>> isic.nearest_code_churn([[1.0, 0.0]], np.eye(2), np.eye(2)[::-1].copy())
    1.0
    """
    return _isic.nearest_code_churn(vectors, before, after, metric, padding)


def collapsed_pairs(codes: Codes, *, tolerance: float = 0.0, padding: Padding = None) -> int:
    """Number of pairs of codes at most `tolerance` apart. Codes that differ only inside the removed subspace collapse.

    Exact. Raises ValueError unless tolerance >= 0, or on padding ids; NumericError on NaN.

    >>> isic.collapsed_pairs(np.zeros((3, 2)))
    3
    """
    return _isic.collapsed_pairs(codes, tolerance, padding)


def fingerprint(codes: Codes) -> int:
    """64-bit XXH3 over shape, scalar size and the rows' bytes (not the gaps between strided rows).

    It distinguishes an edited codebook from the original. It is no defence against deliberate collisions.
    """
    return _isic.fingerprint(codes)


def usage_perplexity(counts: Floats) -> float:
    """exp(entropy) of usage counts [K]: the effective number of codes, in [1, K]. Raises ValueError, NumericError if all are 0.

    >>> round(isic.usage_perplexity([5, 5, 0]), 9)
    2.0
    """
    return _isic.usage_perplexity(counts)


def wilson(hits: int, n: int, *, z: float = 1.959963984540054) -> Rate:
    """hits / n with its Wilson score interval; z = 1.96 for 95 %. Source: Wilson (1927).

    Raises ValueError unless 0 <= hits <= n and z > 0.

    >>> isic.wilson(5, 10)
    Rate(value=0.5, low=0.236593, high=0.763407, hits=5, n=10)
    """
    return _isic.wilson(hits, n, z)


def corrected_rate(judged: Rate, *, sensitivity: float, specificity: float) -> Rate:
    """The true rate behind a judge's: (p + specificity - 1) / (sensitivity + specificity - 1), clamped to [0, 1].

    Raises ValueError unless both lie in [0, 1] and sum to more than 1. Source: Rogan and Gladen (1978).

    >>> isic.corrected_rate(isic.wilson(5, 10), sensitivity=0.9, specificity=1.0).value
    0.5555555555555556
    """
    return _isic.corrected_rate(judged, sensitivity, specificity)
