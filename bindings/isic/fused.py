# SPDX-License-Identifier: Apache-2.0
"""Fused steps for inner loops: one pass over the rows in place, in the rows' own arithmetic.

Each function has the formula, the options and the name of its checked counterpart. It checks shapes and dtypes, not values:
NaN or infinity stays in its row, and nothing is recorded or reported. The checked functions compute in float64 and return
what they did.
"""

from __future__ import annotations

from typing import Union

import numpy.typing as npt

from . import _isic
from ._isic import FusedAdamState as AdamState
from ._isic import FusedBasis as Basis
from ._isic import FusedEmaState as EmaState
from ._results import Subspace
from ._typing import Floats, Ids, Rows

__all__ = ["AdamState", "AnyBasis", "Basis", "EmaState", "adam_update", "ema_update", "project_out"]

for _class, _name in ((AdamState, "AdamState"), (Basis, "Basis"), (EmaState, "EmaState")):
    _class.__module__, _class.__name__, _class.__qualname__ = "isic.fused", _name, _name

AnyBasis = Union[Subspace, Basis]
"""A subspace, or its Basis. A Basis is made once and saves the check and the rounding in every call."""


def project_out(rows: Rows, subspace: AnyBasis, *, strength: Floats = 1.0, center: Floats | None = None, weights: Floats | None = None,
                threads: int = 0) -> None:
    """c <- c + s (t - c) V diag(w) V^T on rows [n, d] of float32 or float64, in place.

    subspace: V, a subspace of width d or its Basis.
    strength: s in [0, 1], one number or [n]; 0 leaves a row's bytes unchanged.
    center: t, [d]; None: zero. weights: w, [r]; None: all 1.
    threads: 0: every core where the work is worth it, else one. The bytes do not depend on it.

    Cost 4 n d r flops, one pass over the rows (two from r = 9 on). Raises ShapeError, ValueError (another dtype, read-only
    memory, threads), BackendError (memory of a GPU); nothing is written then. Values outside their ranges are not detected.

    >>> rows = np.array([[3.0, 1.0], [2.0, 1.0]], dtype=np.float32)
    >>> basis = isic.fused.Basis(isic.span_of([[1.0], [0.0]]))
    >>> isic.fused.project_out(rows, basis, strength=[1.0, 0.5])
    >>> rows.tolist()
    [[0.0, 1.0], [1.0, 1.0]]
    """
    _isic.fused_project_out(rows, subspace, strength, center, weights, threads)


def adam_update(codes: Rows, gradient: Rows, state: AdamState, *, rate: float = 1e-3, beta1: float = 0.9, beta2: float = 0.999,
                epsilon: float = 1e-8, orthogonal_to: AnyBasis | None = None, locked: npt.ArrayLike | None = None,
                threads: int = 0) -> None:
    """`isic.adam_update` in place: c <- c - P rate m^ / (sqrt(v^) + epsilon), m and v the moments of P g, P = I - V V^T.

    codes [K, d] of float32 or float64; gradient [K, d] and state have the same dtype.
    orthogonal_to: V, which is projected out of the steps; None: plain Adam.
    locked: [K] of bool, true: the row and its state keep their bytes; None: none.
    threads: as `project_out`.

    Seven streams of K d values. Raises ShapeError, ValueError (options, dtypes, read-only or overlapping memory); nothing
    is written then.

    >>> codes, state = np.ones((1, 2), dtype=np.float32), isic.fused.AdamState()
    >>> isic.fused.adam_update(codes, np.ones_like(codes), state, rate=0.5, orthogonal_to=isic.span_of([[1.0], [0.0]]))
    >>> codes.round(3).tolist(), state.steps
    ([[1.0, 0.5]], 1)
    """
    _isic.fused_adam_update(codes, gradient, state, rate, beta1, beta2, epsilon, orthogonal_to, locked, threads)


def ema_update(codes: Rows, vectors: Rows, ids: Ids, state: EmaState, *, decay: float, orthogonal_to: AnyBasis | None = None,
               locked: npt.ArrayLike | None = None, threads: int = 0) -> None:
    """`isic.ema_update` in place by vectors [n, d] assigned to the codes ids [n]: n <- a n + (1 - a) n_b,
    s <- a s + (1 - a) s_b, c <- c + P (s / n - c).

    codes [K, d] of float32 or float64; vectors and state have the same dtype. An empty state starts at one count of the
    present row per code. A code whose count falls below 1e-30 (float64: 1e-290) stays; its count and sum become 0.
    locked rows do not move, but their state is updated. orthogonal_to, threads: as `adam_update`. Raises ShapeError,
    ValueError unless decay is in [0, 1) and ids in [0, K), or as `adam_update`; nothing is written then.

    >>> codes, state = np.ones((2, 2)), isic.fused.EmaState("float64")
    >>> isic.fused.ema_update(codes, np.array([[5.0, 3.0]]), [1], state, decay=0.5)
    >>> codes.tolist(), state.counts.tolist()
    ([[1.0, 1.0], [3.0, 2.0]], [0.5, 1.0])
    """
    _isic.fused_ema_update(codes, vectors, ids, state, decay, orthogonal_to, locked, threads)
