# SPDX-License-Identifier: Apache-2.0
"""Fused steps for inner loops on a device: one pass over the rows in place, in the rows' own arithmetic.

As `isic.fused`. Rows of float32, float16 and bfloat16 are computed in float32, rows of float64 in float64.
"""

from __future__ import annotations

from typing import Union

from .._results import Subspace
from .._typing import DeviceLike
from ._backend import Backend, native_of
from ._load import native
from ._update import AdamState, StateType, _CountsAndSums, native_part

__all__ = ["AdamState", "AnyBasis", "Basis", "EmaState", "adam_update", "ema_update", "project_out"]


class Basis:
    """The basis of a subspace on the device, packed for fused functions: made once, used in every step.

    Raises ValueError unless it is orthonormal, CudaError.

    >>> isic.cuda.fused.Basis(isic.cuda.Backend(), isic.span_of([[1.0], [0.0]]))
    Basis(width=2, rank=1)
    """

    def __init__(self, gpu: Backend, subspace: Subspace) -> None:
        self._native = native.FusedBasis(native_of("fused.Basis", gpu), subspace)

    @property
    def rank(self) -> int:
        """r."""
        return self._native.rank

    @property
    def width(self) -> int:
        """d."""
        return self._native.width

    def __repr__(self) -> str:
        return f"Basis(width={self.width}, rank={self.rank})"


class EmaState(_CountsAndSums):
    """State of `ema_update` for codes computed in `dtype`: counts [K] and sums [K, d]. Empty until the first step."""

    def __init__(self, dtype: StateType = "float32") -> None:
        self._native: native.FusedEmaState = native.FusedEmaState(dtype)


AnyBasis = Union[Subspace, Basis]
"""A subspace, or its Basis. A Basis is made once and saves the check, the rounding and the copy in every call."""


def project_out(gpu: Backend, rows: DeviceLike, subspace: AnyBasis, *, strength: float | DeviceLike = 1.0, center: DeviceLike | None = None,
                 weights: DeviceLike | None = None) -> None:
    """c <- c + s (t - c) V diag(w) V^T on rows [n, d] of any dtype on the device, in place, as `isic.fused.project_out`.

    subspace: V, a subspace of width d or its Basis.
    strength: s in [0, 1], one number or [n] on the device; 0 leaves a row's bytes unchanged.
    center: t, [d]; None: zero. weights: w, [r]; None: all 1. Both on the device, like strength of float64 for rows of
    float64, else of float32.

    One read and one write of each row. Raises ShapeError, ValueError (another dtype, read-only
    memory, d > 4096), BackendError (memory of the CPU), CudaError; nothing is written then.

    >>> gpu = isic.cuda.Backend()
    >>> rows = isic.cuda.upload(gpu, np.array([[3.0, 1.0], [2.0, 1.0]], dtype=np.float32))
    >>> basis = isic.cuda.fused.Basis(gpu, isic.span_of([[1.0], [0.0]]))
    >>> isic.cuda.fused.project_out(gpu, rows, basis, strength=isic.cuda.upload(gpu, np.float32([1.0, 0.5])))
    >>> rows.copy_to_host().tolist()
    [[0.0, 1.0], [1.0, 1.0]]
    """
    native.fused_project_out(native_of("fused.project_out", gpu), rows, _basis(subspace), strength, center, weights)


def adam_update(gpu: Backend, codes: DeviceLike, gradient: DeviceLike, state: AdamState, *, rate: float = 1e-3, beta1: float = 0.9,
              beta2: float = 0.999, epsilon: float = 1e-8, orthogonal_to: AnyBasis | None = None, locked: DeviceLike | None = None) -> None:
    """`adam_update` in place, as `isic.fused.adam_update`: c <- c - P rate m^ / (sqrt(v^) + epsilon), m and v the moments of P g.

    codes and gradient [K, d] on the device; the state is of float64 for codes and gradient of float64, else of float32.
    orthogonal_to: V, which is projected out of the steps; None: plain Adam.
    locked: [K] of bool on the device, true: the row and its state keep their bytes; None: none.

    Seven streams of K d values. Raises ShapeError, ValueError (options, dtypes, read-only or overlapping memory, d > 4096),
    CudaError; nothing is written then.

    >>> gpu, state = isic.cuda.Backend(), isic.cuda.fused.AdamState()
    >>> codes, gradient = (isic.cuda.upload(gpu, np.ones((1, 2), dtype=np.float32)) for _ in range(2))
    >>> isic.cuda.fused.adam_update(gpu, codes, gradient, state, rate=0.5, orthogonal_to=isic.span_of([[1.0], [0.0]]))
    >>> codes.copy_to_host().round(3).tolist(), state.steps
    ([[1.0, 0.5]], 1)
    """
    kept = native_part("fused.adam_update", "state", state, AdamState)
    native.fused_adam_update(native_of("fused.adam_update", gpu), codes, gradient, kept, rate, beta1, beta2, epsilon, _basis_or_none(orthogonal_to),
                     locked)
    state._gpu = gpu


def ema_update(gpu: Backend, codes: DeviceLike, vectors: DeviceLike, ids: DeviceLike, state: EmaState, *, decay: float,
             orthogonal_to: AnyBasis | None = None, locked: DeviceLike | None = None) -> None:
    """`ema_update` in place, as `isic.fused.ema_update`, by vectors [n, d] assigned to the codes ids [n]: n <- a n + (1 - a) n_b,
    s <- a s + (1 - a) s_b, c <- c + P (s / n - c).

    An empty state starts at one count of the present row per code; a code whose count falls below 1e-30 (float64: 1e-290)
    stays, and its count and sum become 0. locked rows do not move, but their state is updated. Vectors whose ids are outside
    [0, K) are skipped. Sums are added in the order of the vectors, the same in every run. dtypes, orthogonal_to, errors: as `adam_update`;
    ValueError unless decay is in [0, 1).

    >>> gpu, state = isic.cuda.Backend(), isic.cuda.fused.EmaState("float64")
    >>> codes = isic.cuda.upload(gpu, np.ones((2, 2)))
    >>> isic.cuda.fused.ema_update(gpu, codes, isic.cuda.upload(gpu, [[5.0, 3.0]]), isic.cuda.upload(gpu, [1]), state, decay=0.5)
    >>> codes.copy_to_host().tolist(), state.counts.copy_to_host().tolist()
    ([[1.0, 1.0], [3.0, 2.0]], [0.5, 1.0])
    """
    kept = native_part("fused.ema_update", "state", state, EmaState)
    native.fused_ema_update(native_of("fused.ema_update", gpu), codes, vectors, ids, kept, decay, _basis_or_none(orthogonal_to), locked)
    state._gpu = gpu


def _basis(subspace: AnyBasis) -> Subspace | native.FusedBasis:
    return subspace._native if isinstance(subspace, Basis) else subspace


def _basis_or_none(subspace: AnyBasis | None) -> Subspace | native.FusedBasis | None:
    return None if subspace is None else _basis(subspace)


for _class in (Basis, EmaState):
    _class.__module__ = "isic.cuda.fused"
