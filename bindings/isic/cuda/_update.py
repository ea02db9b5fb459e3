# SPDX-License-Identifier: Apache-2.0
"""Constrained updates of a codebook on a device: ridge, EMA, SGD, Adam. The state stays there and is the caller's to keep."""

from __future__ import annotations

from typing import Any, Literal

from .._errors import require_class
from .._results import Constraint as HostConstraint
from .._results import UpdateSummary
from .._typing import DeviceLike
from ._backend import Backend, DeviceArray, native_of
from ._load import native

StateType = Literal["float32", "float64"]


class Constraint:
    """An isic.Constraint on the device, for codebooks [codes, width]: made once, used in every step.

    Raises ShapeError and ValueError on its fields, CudaError.
    """

    def __init__(self, gpu: Backend, limits: HostConstraint, *, codes: int, width: int) -> None:
        self._native = native.Constraint(native_of("Constraint", gpu), limits, codes, width)


class PendingSummary:
    """The pending summary of an update."""

    def __init__(self, pending: native.PendingSummary) -> None:
        self._native = pending

    def get(self) -> UpdateSummary:
        """Waits for the update and returns its summary. Raises CudaError, also for earlier asynchronous work."""
        return self._native.get()


class Assignments:
    """Counts and sums of vectors by their code, on the device. `assign` returns one; the properties are copies."""

    def __init__(self, batch: native.Assignments, gpu: Backend) -> None:
        self._native = batch
        self._gpu = gpu

    @property
    def counts(self) -> DeviceArray:
        """n_k, [K]."""
        return DeviceArray(self._native.counts(), self._gpu)

    @property
    def sums(self) -> DeviceArray:
        """Sum of the vectors assigned to code k, [K, d]."""
        return DeviceArray(self._native.sums(), self._gpu)


class _State:
    """Arrays of a state. Reading returns copies, None while the state is empty; assign a DeviceArray to restore a state."""

    _native: native.EmaState | native.FusedEmaState | native.SgdState | native.AdamState
    _gpu: Backend | None = None

    def _part(self, name: str) -> DeviceArray | None:
        part = getattr(self._native, name)
        if part is None or self._gpu is None:
            return None
        return DeviceArray(part, self._gpu)

    def _set_part(self, name: str, values: DeviceArray) -> None:
        kind = f"{type(self).__module__}.{type(self).__name__}".removeprefix("isic.cuda.")  # "EmaState" or "fused.EmaState"
        setattr(self._native, name, native_part(f"{kind}.{name}", "values", values, DeviceArray))
        self._gpu = values.backend

    def __repr__(self) -> str:
        return f"{type(self).__name__}({'empty' if self._gpu is None else f'on device {self._gpu.device}'})"


class _CountsAndSums(_State):
    @property
    def counts(self) -> DeviceArray | None:
        """A copy; None while the state is empty."""
        return self._part("counts")

    @counts.setter
    def counts(self, values: DeviceArray) -> None:
        self._set_part("counts", values)

    @property
    def sums(self) -> DeviceArray | None:
        """A copy; None while the state is empty."""
        return self._part("sums")

    @sums.setter
    def sums(self, values: DeviceArray) -> None:
        self._set_part("sums", values)


class EmaState(_CountsAndSums):
    """State of `ema_update`: decayed counts [K] and sums [K, d], float64. Empty until the first update."""

    def __init__(self) -> None:
        self._native: native.EmaState = native.EmaState()


class SgdState(_State):
    """State of `sgd_update`: velocity [K, d]. Empty until the first update. float32 halves the memory traffic of float64."""

    def __init__(self, dtype: StateType = "float32") -> None:
        self._native: native.SgdState = native.SgdState(dtype)

    @property
    def velocity(self) -> DeviceArray | None:
        """A copy; None while the state is empty."""
        return self._part("velocity")

    @velocity.setter
    def velocity(self, values: DeviceArray) -> None:
        self._set_part("velocity", values)


class AdamState(_State):
    """State of `adam_update` or `fused.adam_update`: mean and square of the projected gradient [K, d], steps taken. Empty until the first update.

    float32 halves the memory traffic of float64.
    """

    def __init__(self, dtype: StateType = "float32") -> None:
        self._native: native.AdamState = native.AdamState(dtype)

    @property
    def mean(self) -> DeviceArray | None:
        """A copy; None while the state is empty."""
        return self._part("mean")

    @mean.setter
    def mean(self, values: DeviceArray) -> None:
        self._set_part("mean", values)

    @property
    def square(self) -> DeviceArray | None:
        """A copy; None while the state is empty."""
        return self._part("square")

    @square.setter
    def square(self, values: DeviceArray) -> None:
        self._set_part("square", values)

    @property
    def steps(self) -> int:
        """Steps taken."""
        return self._native.steps

    @steps.setter
    def steps(self, steps: int) -> None:
        self._native.steps = steps


def assign(gpu: Backend, vectors: DeviceLike, ids: DeviceLike, *, codes: int) -> Assignments:
    """Counts and sums of vectors [n, d] by their ids [n], both on the device, summed in a fixed order, the same in every run.

    Raises ShapeError, ValueError on ids, NumericError on NaN or infinity, CudaError.
    """
    return Assignments(native.assign(native_of("assign", gpu), vectors, ids, codes), gpu)


def ridge_update(gpu: Backend, codes: DeviceLike, batch: Assignments, *, weight: float, constraint: Constraint | None = None) -> PendingSummary:
    """Closed-form refit in place, as `isic.ridge_update`. Raises ShapeError, ValueError, CudaError.

    >>> gpu = isic.cuda.Backend()
    >>> codes = isic.cuda.upload(gpu, np.zeros((2, 2)))
    >>> batch = isic.cuda.assign(gpu, isic.cuda.upload(gpu, [[1.0, 2.0]]), isic.cuda.upload(gpu, [1]), codes=2)
    >>> isic.cuda.ridge_update(gpu, codes, batch, weight=1.0).get()
    UpdateSummary(moved=1, overflowed=0, largest_step=1.11803)
    """
    return PendingSummary(native.ridge_update(native_of("ridge_update", gpu), codes, native_part("ridge_update", "batch", batch, Assignments),
                                              weight, _limits(constraint)))


def ema_update(gpu: Backend, codes: DeviceLike, state: EmaState, batch: Assignments, *, decay: float,
               constraint: Constraint | None = None) -> PendingSummary:
    """Exponential moving averages in place, as `isic.ema_update`. Raises ShapeError, ValueError, CudaError."""
    kept = native_part("ema_update", "state", state, EmaState)
    done = native.ema_update(native_of("ema_update", gpu), codes, kept, native_part("ema_update", "batch", batch, Assignments), decay,
                             _limits(constraint))
    state._gpu = gpu
    return PendingSummary(done)


def sgd_update(gpu: Backend, codes: DeviceLike, gradient: DeviceLike, state: SgdState, *, rate: float = 0.1, momentum: float = 0.0,
               constraint: Constraint | None = None) -> PendingSummary:
    """A step of SGD in place, as `isic.sgd_update`; gradient [K, d] on the device, of any dtype.

    The gradient is not checked: NaN leaves its row unchanged and counts as overflowed, but stays in the velocity. Raises ShapeError, ValueError, CudaError.
    """
    kept = native_part("sgd_update", "state", state, SgdState)
    done = native.sgd_update(native_of("sgd_update", gpu), codes, gradient, kept, rate, momentum, _limits(constraint))
    state._gpu = gpu
    return PendingSummary(done)


def adam_update(gpu: Backend, codes: DeviceLike, gradient: DeviceLike, state: AdamState, *, rate: float = 1e-3, beta1: float = 0.9,
                beta2: float = 0.999, epsilon: float = 1e-8, constraint: Constraint | None = None) -> PendingSummary:
    """A step of Adam on the projected gradient, the step projected too, as `isic.adam_update`; NaN as in `sgd_update`.

    One pass over codes, gradient and state. Raises ShapeError, ValueError, CudaError.
    """
    kept = native_part("adam_update", "state", state, AdamState)
    done = native.adam_update(native_of("adam_update", gpu), codes, gradient, kept, rate, beta1, beta2, epsilon, _limits(constraint))
    state._gpu = gpu
    return PendingSummary(done)


def native_part(function: str, name: str, value: Any, kind: type) -> Any:
    """The native object of a value. Raises TypeError for another class."""
    require_class(f"cuda.{function}", name, value, kind)
    return value._native


def _limits(constraint: Constraint | None) -> native.Constraint | None:
    if constraint is None:
        return None
    if not isinstance(constraint, Constraint):
        raise TypeError(f"isic.cuda: expected constraint to be an isic.cuda.Constraint, got {type(constraint).__qualname__}; "
                        "isic.cuda.Constraint(gpu, constraint, codes=K, width=d) puts one on the device")
    return constraint._native
