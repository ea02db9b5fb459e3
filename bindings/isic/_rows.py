"""The formulas alone, for inner loops: one pass over the rows in place, in the arithmetic of their own dtype.

Shapes and dtypes are checked; values are not looked at, nothing is recorded or reported, and NaN or infinity stays in its
row. `project_out`, `adam_update` and `ema_update` compute in float64, check, and say what they did.
"""

from __future__ import annotations

from typing import Union

import numpy.typing as npt

from . import _isic
from ._isic import AdamRowState, EmaRowState, RowBasis
from ._types import Floats, Ids, Rows
from ._values import Subspace

for _class in (AdamRowState, EmaRowState, RowBasis):
    _class.__module__ = "isic"

Directions = Union[Subspace, RowBasis]
"""A subspace; a RowBasis of it, made once, saves checking and rounding it in every call."""


def project_rows(rows: Rows, harm: Directions, *, strength: Floats = 1.0, center: Floats | None = None, weights: Floats | None = None,
                 threads: int = 0) -> None:
    """c <- c + s (t - c) V diag(w) V^T on rows [n, d] of float32 or float64, in place.

    harm: V, a subspace of width d or its RowBasis.
    strength: s in [0, 1], one number or [n]; 0 leaves a row's bytes alone.
    center: t, [d]; None: zero. weights: w, [r]; None: all 1.
    threads: 0: every core when there is work for them, else one; the bytes do not depend on it.

    Cost 4 n d r flops, one pass over the rows (two from r = 9 on). Raises ShapeError, ValueError (another dtype, read-only
    memory, threads), BackendError (memory of a GPU); nothing is written then. Values out of their ranges are not noticed.

    >>> rows = np.array([[3.0, 1.0], [2.0, 1.0]], dtype=np.float32)
    >>> basis = isic.RowBasis(isic.span_of([[1.0], [0.0]]))
    >>> isic.project_rows(rows, basis, strength=[1.0, 0.5])
    >>> rows.tolist()
    [[0.0, 1.0], [1.0, 1.0]]
    """
    _isic.project_rows(rows, harm, strength, center, weights, threads)


def adam_rows(codes: Rows, gradient: Rows, state: AdamRowState, *, rate: float = 1e-3, beta1: float = 0.9, beta2: float = 0.999,
              epsilon: float = 1e-8, orthogonal_to: Directions | None = None, locked: npt.ArrayLike | None = None, threads: int = 0) -> None:
    """`adam_update` in place: c <- c - P rate m^ / (sqrt(v^) + epsilon), m and v the moments of P g, P = I - V V^T.

    codes [K, d] of float32 or float64; gradient [K, d] and state of the same dtype.
    orthogonal_to: V, directions that steps lose their part in; None: plain Adam.
    locked: [K] of bool, true: the row and its state keep their bytes; None: none.
    threads: as `project_rows`.

    Seven streams of K d values. Raises ShapeError, ValueError (options, dtypes, read-only or overlapping memory); nothing
    is written then.

    >>> codes, state = np.ones((1, 2), dtype=np.float32), isic.AdamRowState()
    >>> isic.adam_rows(codes, np.ones_like(codes), state, rate=0.5, orthogonal_to=isic.span_of([[1.0], [0.0]]))
    >>> codes.round(3).tolist(), state.steps
    ([[1.0, 0.5]], 1)
    """
    _isic.adam_rows(codes, gradient, state, rate, beta1, beta2, epsilon, orthogonal_to, locked, threads)


def ema_rows(codes: Rows, vectors: Rows, ids: Ids, state: EmaRowState, *, decay: float, orthogonal_to: Directions | None = None,
             locked: npt.ArrayLike | None = None, threads: int = 0) -> None:
    """`ema_update` in place by vectors [n, d] assigned to the codes ids [n]: n <- a n + (1 - a) n_b, s <- a s + (1 - a) s_b,
    c <- c + P (s / n - c).

    codes [K, d] of float32 or float64; vectors and state of the same dtype. An empty state starts at one count of the
    present row per code; a code whose count has faded below 1e-30 (float64: 1e-290) stays, its count and sum become 0.
    locked rows do not move, their state goes on; orthogonal_to, threads: as `adam_rows`. Raises
    ShapeError, ValueError unless decay is in [0, 1) and ids in [0, K), or as `adam_rows`; nothing is written then.

    >>> codes, state = np.ones((2, 2)), isic.EmaRowState("float64")
    >>> isic.ema_rows(codes, np.array([[5.0, 3.0]]), [1], state, decay=0.5)
    >>> codes.tolist(), state.counts.tolist()
    ([[1.0, 1.0], [3.0, 2.0]], [0.5, 1.0])
    """
    _isic.ema_rows(codes, vectors, ids, state, decay, orthogonal_to, locked, threads)
