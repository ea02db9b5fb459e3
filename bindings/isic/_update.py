# SPDX-License-Identifier: Apache-2.0
"""Constrained updates of a codebook: closed-form ridge, EMA, SGD, Adam. The caller keeps the state."""

from __future__ import annotations

from . import _isic
from ._isic import AdamState, EmaState, SgdState
from ._results import Assignments, Constraint, UpdateSummary
from ._typing import Codes, Floats, Ids

for _state in (EmaState, SgdState, AdamState):
    _state.__module__ = "isic"


def assign(vectors: Floats, ids: Ids, *, codes: int) -> Assignments:
    """Counts [K] and sums [K, d] of vectors [n, d] by their ids [n]. codes: K.

    Raises ShapeError, ValueError on ids, NumericError on NaN or infinity.

    >>> isic.assign([[1.0, 2.0], [3.0, 4.0]], [1, 1], codes=2).sums
    array([[0., 0.],
           [4., 6.]])
    """
    return _isic.assign(vectors, ids, codes)


def ridge_update(codes: Codes, batch: Assignments, *, weight: float, constraint: Constraint | None = None) -> UpdateSummary:
    """Closed-form refit in place: delta_k = P (sum_i z_i - n_k c_k) / (n_k + weight); codes with n_k = 0 stay.

    codes [K, d]; P from the constraint; weight >= 0 (`lambda` in C++). Cost O(K d r). Raises
    ValueError, ShapeError and NumericError; nothing is written then. Source: derived; one projected, damped k-means step.

    >>> codes = np.zeros((2, 2))
    >>> isic.ridge_update(codes, isic.assign([[1.0, 2.0]], [1], codes=2), weight=1.0)
    UpdateSummary(moved=1, overflowed=0, largest_step=1.11803)
    >>> codes[1]
    array([0.5, 1. ])
    """
    return _isic.ridge_update(codes, batch, weight, constraint)


def ema_update(codes: Codes, state: EmaState, batch: Assignments, *, decay: float, constraint: Constraint | None = None) -> UpdateSummary:
    """Exponential moving averages in place: n <- a n + (1 - a) n_b, s <- a s + (1 - a) s_b, step s / n - c.

    codes [K, d]; an empty state starts at one count of the present row per code. A code whose count falls below 1e-290 stays,
    and its count and sum become 0. Raises ValueError unless decay is in [0, 1), ShapeError and NumericError; nothing is written
    then.
    """
    return _isic.ema_update(codes, state, batch, decay, constraint)


def sgd_update(codes: Codes, gradient: Floats, state: SgdState, *, rate: float = 0.1, momentum: float = 0.0,
               constraint: Constraint | None = None) -> UpdateSummary:
    """v <- momentum v + g; step -rate v, projected by the constraint. codes and gradient [K, d].

    Raises ValueError on options, ShapeError and NumericError; nothing is written then.

    >>> codes = np.ones((1, 2))
    >>> _ = isic.sgd_update(codes, [[1.0, 1.0]], isic.SgdState(), constraint=isic.Constraint(orthogonal_to=isic.span_of([[1.0], [0.0]])))
    >>> codes
    array([[1. , 0.9]])
    """
    return _isic.sgd_update(codes, gradient, state, rate, momentum, constraint)


def adam_update(codes: Codes, gradient: Floats, state: AdamState, *, rate: float = 1e-3, beta1: float = 0.9, beta2: float = 0.999,
                epsilon: float = 1e-8, constraint: Constraint | None = None) -> UpdateSummary:
    """Adam on the projected gradient; the finished step is projected too. codes and gradient [K, d].

    c <- c - P rate m^ / (sqrt(v^) + epsilon), m and v the moments of P g: the preconditioner is elementwise and does not
    commute with P. Raises ValueError on options, ShapeError and NumericError; nothing is written then.
    """
    return _isic.adam_update(codes, gradient, state, rate, beta1, beta2, epsilon, constraint)
