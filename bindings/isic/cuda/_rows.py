"""The formulas alone, for inner loops on a device: one pass over the rows in place, in the arithmetic of their own dtype.

float32, float16 and bfloat16 are computed in float32, float64 in float64. Shapes and dtypes are checked; values are not looked
at, nothing is recorded or reported, and NaN or infinity stays in its row. `project_out`, `adam_update` and `ema_update` compute
in float64, check, and say what they did.
"""

from __future__ import annotations

from typing import Union

from .._types import DeviceLike
from .._values import Subspace
from ._backend import Backend, native_of
from ._load import native
from ._update import AdamState, EmaRowState, native_part


class RowBasis:
    """The directions of a subspace on the device as inner loops read them: made once, used in every step.

    Raises ValueError unless they are orthonormal, CudaError.

    >>> isic.cuda.RowBasis(isic.cuda.Backend(), isic.span_of([[1.0], [0.0]]))
    RowBasis(width=2, rank=1)
    """

    def __init__(self, gpu: Backend, harm: Subspace) -> None:
        self._native = native.RowBasis(native_of("RowBasis", gpu), harm)

    @property
    def rank(self) -> int:
        """r."""
        return self._native.rank

    @property
    def width(self) -> int:
        """d."""
        return self._native.width

    def __repr__(self) -> str:
        return f"RowBasis(width={self.width}, rank={self.rank})"


Directions = Union[Subspace, RowBasis]
"""A subspace; a RowBasis of it, made once, saves checking, rounding and copying it to the device in every call."""


def project_rows(gpu: Backend, rows: DeviceLike, harm: Directions, *, strength: float | DeviceLike = 1.0, center: DeviceLike | None = None,
                 weights: DeviceLike | None = None) -> None:
    """c <- c + s (t - c) V diag(w) V^T on rows [n, d] of any dtype on the device, in place, as `isic.project_rows`.

    harm: V, a subspace of width d or its RowBasis.
    strength: s in [0, 1], one number or [n] on the device; 0 leaves a row's bytes alone.
    center: t, [d]; None: zero. weights: w, [r]; None: all 1. Both on the device, like strength of float64 for rows of
    float64, else of float32.

    One read and one write of each row. Raises ShapeError, ValueError (another dtype, read-only
    memory, d > 4096), BackendError (memory of the CPU), CudaError; nothing is written then.

    >>> gpu = isic.cuda.Backend()
    >>> rows = isic.cuda.upload(gpu, np.array([[3.0, 1.0], [2.0, 1.0]], dtype=np.float32))
    >>> basis = isic.cuda.RowBasis(gpu, isic.span_of([[1.0], [0.0]]))
    >>> isic.cuda.project_rows(gpu, rows, basis, strength=isic.cuda.upload(gpu, np.float32([1.0, 0.5])))
    >>> rows.copy_to_host().tolist()
    [[0.0, 1.0], [1.0, 1.0]]
    """
    native.project_rows(native_of("project_rows", gpu), rows, _directions(harm), strength, center, weights)


def adam_rows(gpu: Backend, codes: DeviceLike, gradient: DeviceLike, state: AdamState, *, rate: float = 1e-3, beta1: float = 0.9,
              beta2: float = 0.999, epsilon: float = 1e-8, orthogonal_to: Directions | None = None, locked: DeviceLike | None = None) -> None:
    """`adam_update` in place, as `isic.adam_rows`: c <- c - P rate m^ / (sqrt(v^) + epsilon), m and v the moments of P g.

    codes and gradient [K, d] on the device; the state is of float64 for codes and gradient of float64, else of float32.
    orthogonal_to: V, directions that steps lose their part in; None: plain Adam.
    locked: [K] of bool on the device, true: the row and its state keep their bytes; None: none.

    Seven streams of K d values. Raises ShapeError, ValueError (options, dtypes, read-only or overlapping memory, d > 4096),
    CudaError; nothing is written then.

    >>> gpu, state = isic.cuda.Backend(), isic.cuda.AdamState()
    >>> codes, gradient = (isic.cuda.upload(gpu, np.ones((1, 2), dtype=np.float32)) for _ in range(2))
    >>> isic.cuda.adam_rows(gpu, codes, gradient, state, rate=0.5, orthogonal_to=isic.span_of([[1.0], [0.0]]))
    >>> codes.copy_to_host().round(3).tolist(), state.steps
    ([[1.0, 0.5]], 1)
    """
    kept = native_part("adam_rows", "state", state, AdamState)
    native.adam_rows(native_of("adam_rows", gpu), codes, gradient, kept, rate, beta1, beta2, epsilon, _directions_or_none(orthogonal_to),
                     locked)
    state._gpu = gpu


def ema_rows(gpu: Backend, codes: DeviceLike, vectors: DeviceLike, ids: DeviceLike, state: EmaRowState, *, decay: float,
             orthogonal_to: Directions | None = None, locked: DeviceLike | None = None) -> None:
    """`ema_update` in place, as `isic.ema_rows`, by vectors [n, d] assigned to the codes ids [n]: n <- a n + (1 - a) n_b,
    s <- a s + (1 - a) s_b, c <- c + P (s / n - c).

    An empty state starts at one count of the present row per code; a code whose count has faded below 1e-30 (float64: 1e-290)
    stays, its count and sum become 0. locked rows do not move, their state goes on. Vectors whose ids are outside [0, K) are
    left out; sums are added in the order of the vectors, the same in every run. dtypes, orthogonal_to, errors: as `adam_rows`;
    ValueError unless decay is in [0, 1).

    >>> gpu, state = isic.cuda.Backend(), isic.cuda.EmaRowState("float64")
    >>> codes = isic.cuda.upload(gpu, np.ones((2, 2)))
    >>> isic.cuda.ema_rows(gpu, codes, isic.cuda.upload(gpu, [[5.0, 3.0]]), isic.cuda.upload(gpu, [1]), state, decay=0.5)
    >>> codes.copy_to_host().tolist(), state.counts.copy_to_host().tolist()
    ([[1.0, 1.0], [3.0, 2.0]], [0.5, 1.0])
    """
    kept = native_part("ema_rows", "state", state, EmaRowState)
    native.ema_rows(native_of("ema_rows", gpu), codes, vectors, ids, kept, decay, _directions_or_none(orthogonal_to), locked)
    state._gpu = gpu


def _directions(harm: Directions) -> Subspace | native.RowBasis:
    return harm._native if isinstance(harm, RowBasis) else harm


def _directions_or_none(harm: Directions | None) -> Subspace | native.RowBasis | None:
    return None if harm is None else _directions(harm)
