# SPDX-License-Identifier: Apache-2.0
"""Harmful subspaces: fit, merge, principal angles, leakage, files."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

import numpy as np

from . import _isic
from ._differences import DifferenceAccumulator
from ._errors import IoError, ShapeError, require_class
from ._errors import ValueError as IsicValueError
from ._io import read_own
from ._results import CodeUsage, LeakageReport, RankChoice, Subspace, Value
from ._typing import Centering, Codes, FloatArray, Floats, Padding

_FORMAT, _VERSION = "isic.subspace", "1"


def fit_subspace(pairs: DifferenceAccumulator | Floats, *, rank: int | None = None, energy: float | None = 0.9, gavish_donoho: bool = True,
                 sign_flips: int = 0, quantile: float = 0.95, seed: int = 0, max_rank: int | None = None,
                 center: Centering = "none", threads: int = 0) -> Subspace:
    """Fits the harmful subspace: the top right singular vectors of differences.

    pairs: an accumulator, or difference rows [n, d]. Each active rule proposes a rank; the smallest wins, at most the rank
    of the data. `result.chosen` names the rule.

    rank: exact rank; None: the rules below decide.
    energy: share of sum sigma^2 to keep, in (0, 1]; None turns the rule off.
    gavish_donoho: keeps singular values above the optimal hard threshold (arXiv 1305.5870); active when min(n, d) >= 8.
    sign_flips: number of flipped copies for parallel analysis, e.g. 100 (FlipPA, arXiv 2012.02985; the random rotation
        before it is our addition); 0 turns the rule off; needs rows. quantile: of the flipped values, in (0, 1). seed: of
        the flips.
    max_rank: upper bound; None: max(1, d // 4).
    center: what is projected out of the differences first: "none", their "mean", or "safe_axis", the top right singular
        vector of the safe embeddings (ProFS, arXiv 2405.13967), which needs an accumulator and d >= 3.
    threads: for the second moment of rows; 0: every core where the work is worth it, else one.

    Cost O(n d min(n, d)) for rows, O(d^3) for an accumulator. Raises ShapeError if there are no differences, NumericError
    on NaN, infinity or differences that are all zero, ValueError for options outside their ranges.
    Source: Safe-CB step 1, published in words ("top-k singular vectors of embedding differences").

    >>> isic.fit_subspace([[2.0, 0.0], [4.0, 0.0]], rank=1)
    Subspace(width=2, rank=1, energy=1, decided_by='fixed')
    """
    if rank == 0:
        raise IsicValueError("isic.fit_subspace: expected rank >= 1 (None: the rules decide), got 0")
    options = dict(rank=rank or 0, energy=energy or 0.0, gavish_donoho=gavish_donoho, sign_flips=sign_flips, quantile=quantile, seed=seed,
                   max_rank=max_rank or 0, center=center, threads=threads)
    if isinstance(pairs, DifferenceAccumulator):
        return _isic.fit_pairs(pairs._pairs, **options)
    return _isic.fit_rows(pairs, **options)


def span_of(directions: Floats) -> Subspace:
    """The span of directions [d, m] as a subspace. The columns need not be orthogonal or independent.

    Raises ShapeError if empty, NumericError if not finite or all zero.

    >>> isic.span_of([[1.0, 1.0], [0.0, 2.0]]).rank
    2
    """
    return _isic.span_of(directions)


def merge(first: Subspace, second: Subspace, *, tolerance: float = 1e-8, max_rank: int | None = None) -> Subspace:
    """The smallest subspace that contains both, e.g. of two rounds or two concepts. The columns of `first` come first, unchanged.

    A direction of `second` is dropped if the sine of its angle to `first` is at most `tolerance`. The result has one singular
    value per column: the norm, along that column, of the differences of both subspaces within their bases. Its energy is the
    share of these in all squared singular values of both; a subspace merged with itself keeps its energy. Raises ShapeError if
    the widths differ, ValueError unless tolerance is in [0, 1) and max_rank >= 0, or if the merged rank exceeds max_rank
    (None: d).

    >>> isic.merge(isic.span_of([[1.0], [0.0]]), isic.span_of([[1.0], [1.0]])).rank
    2
    """
    return _isic.merge(first, second, tolerance, max_rank or 0)


def principal_angles(first: Subspace, second: Subspace) -> FloatArray:
    """Principal angles between two subspaces in radians, ascending, min(r1, r2) of them.

    Raises ShapeError if the widths differ or a rank is zero. Source: Knyazev and Argentati (2002).

    >>> isic.principal_angles(isic.span_of([[1.0], [0.0]]), isic.span_of([[1.0], [1.0]])).round(4)
    array([0.7854])
    """
    return _isic.principal_angles(first, second)


def leakage(codes: Codes, subspace: Subspace, *, center: Floats | None = None, padding: Padding = None, threads: int = 0) -> LeakageReport:
    """Share of codes [K, d] inside a subspace around a center [d] (None: zero), measured on the stored values.

    Rows in `padding` do not count. threads: as `project_out`. Cost O(K d r). Raises ShapeError if widths
    differ or the codebook is empty, ValueError on padding ids, a basis that is not orthonormal or threads < 0, NumericError on
    NaN, infinity or squares that overflow float64.

    >>> isic.leakage(np.array([[3.0, 4.0]]), isic.span_of([[1.0], [0.0]]))
    LeakageReport(total=0.6, largest=0.6)
    """
    return _isic.leakage(codes, subspace, center, padding, threads)


def spectral_weights(subspace: Subspace, *, alpha: float) -> FloatArray:
    """CURE weights f_i = alpha r_i / ((alpha - 1) r_i + 1), r_i = sigma_i^2 / sum sigma^2, [r] in [0, 1].

    For `project_out(weights=...)`: alpha = 1 gives the energies, alpha -> infinity the hard projection. Raises ValueError
    unless alpha > 0. Source: CURE, arXiv 2505.12677.

    >>> isic.spectral_weights(isic.span_of(np.eye(2)), alpha=1.0)
    array([0.5, 0.5])
    """
    return _isic.spectral_weights(subspace, alpha)


@dataclass(frozen=True, repr=False, eq=False)
class FittedSubspace(Value):
    """A harmful subspace with per-code data from token ids. `load_subspace` returns one."""

    subspace: Subspace
    """The subspace to remove."""
    harmfulness: FloatArray | None = None
    """Harmfulness of each code in [0, 1], [K], or [L, K] for L residual levels; None: fitted to embeddings."""
    targets: FloatArray | None = None
    """Target of each code, [K, d] or [L, K, d]: the mean of its safe counterparts; None: unknown."""
    usage: CodeUsage | None = None
    """Usage counts of each code; None: unknown."""


def save_subspace(path: str | os.PathLike[str], subspace: Subspace | FittedSubspace, *, harmfulness: Floats | None = None,
                  targets: Floats | None = None, usage: CodeUsage | None = None) -> None:
    """Writes a subspace and its per-code data as one safetensors file.

    harmfulness, targets, usage: for a Subspace; a FittedSubspace has its own.

    Tensors, float64: "basis" [d, r], "singular_values", and if known "harmfulness" [K] or [L, K], "targets" with a
    last dimension d, "usage.harmful" and "usage.safe" [K]; metadata: "format", "version", "energy", "rank", "decided_by".
    C++ reads and writes the same format. Raises ShapeError if the shapes do not match, ValueError if per-code data is passed
    with a FittedSubspace, IoError.
    """
    if isinstance(subspace, FittedSubspace):
        if any(given is not None for given in (harmfulness, targets, usage)):
            raise IsicValueError("isic.save_subspace: expected per-code data once, got a FittedSubspace and keywords")
        fitted = subspace
    else:
        require_class("save_subspace", "subspace", subspace, Subspace)
        q, t = (None if values is None else np.asarray(values, dtype=np.float64) for values in (harmfulness, targets))
        fitted = FittedSubspace(subspace, q, t, usage)
    if fitted.usage is not None:
        require_class("save_subspace", "usage", fitted.usage, CodeUsage)
    _check_fit("save_subspace", fitted)
    s = fitted.subspace
    tensors = {"basis": s.basis, "singular_values": s.singular_values, "harmfulness": fitted.harmfulness, "targets": fitted.targets}
    if fitted.usage is not None:
        tensors.update({"usage.harmful": fitted.usage.harmful, "usage.safe": fitted.usage.safe})
    metadata = {"format": _FORMAT, "version": _VERSION, "energy": repr(float(s.energy)), "rank": json.dumps(s.chosen.rank),
                "decided_by": s.chosen.decided_by}
    known = {name: np.ascontiguousarray(values, dtype=np.float64) for name, values in tensors.items() if values is not None}
    _isic.write_safetensors(path, known, metadata)


def load_subspace(path: str | os.PathLike[str]) -> FittedSubspace:
    """Reads a file of `save_subspace`. Raises IoError if the format differs or its shapes do not match."""
    tensors, metadata = read_own("load_subspace", path, _FORMAT, _VERSION)
    try:
        chosen = RankChoice(int(metadata["rank"]), metadata["decided_by"])  # type: ignore[arg-type]
        subspace = Subspace(tensors["basis"], tensors["singular_values"], float(metadata["energy"]), chosen)
        usage = CodeUsage(tensors["usage.harmful"], tensors["usage.safe"]) if "usage.harmful" in tensors else None
        fitted = FittedSubspace(subspace, tensors.get("harmfulness"), tensors.get("targets"), usage)
        _check_fit("load_subspace", fitted)
    except (KeyError, ValueError) as error:
        raise IoError(f"isic.load_subspace: expected a subspace and matching per-code data in {os.fspath(path)}, got {error}") from None
    return fitted


def _check_fit(function: str, fitted: FittedSubspace) -> None:
    basis, q, t = fitted.subspace.basis, fitted.harmfulness, fitted.targets
    fits = basis.ndim == 2 and (q is None or (q.ndim in (1, 2) and bool(((q >= 0) & (q <= 1)).all())))
    fits = fits and (t is None or (t.ndim in (2, 3) and t.shape[-1] == len(basis) and (q is None or t.shape[:-1] == q.shape)))
    u = fitted.usage
    if u is not None:
        codes = q.shape if q is not None else t.shape[:-1] if t is not None else np.shape(u.harmful)
        fits = fits and len(codes) in (1, 2) and np.shape(u.harmful) == np.shape(u.safe) == codes
    if not fits or not all(np.isfinite(v).all() for v in (basis, q, t) if v is not None):
        shapes = ", ".join(f"{name} {v.shape}" for name, v in (("basis", basis), ("harmfulness", q), ("targets", t)) if v is not None)
        shapes += "" if u is None else f", usage {np.shape(u.harmful)} and {np.shape(u.safe)}"
        raise ShapeError(f"isic.{function}: expected a basis [d, r], harmfulness [K] in [0, 1] and targets [K, d], finite, and as many counts "
                         f"of harmful and of safe use, got {shapes}")


FittedSubspace.__module__ = "isic"
