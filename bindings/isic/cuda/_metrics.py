"""Nearest codes and what an edit cost, on a device."""

from __future__ import annotations

from .._typing import DeviceLike, FloatArray, Floats, Metric, Padding
from .._results import DriftReport, LeakageReport, Subspace
from ._backend import Backend, DeviceArray, native_of
from ._load import native


def nearest_codes(gpu: Backend, vectors: DeviceLike, codes: DeviceLike, *, metric: Metric = "l2", padding: Padding = None) -> DeviceArray:
    """Ids of the nearest codes, [n] of int64 on the device, as `isic.nearest_codes`; no matrix of distances is made.

    vectors [n, d], codes [K, d] of any dtype. Scores in float32 find the candidates, distances in float64 decide between those
    that they cannot tell apart. Waits while it looks for NaN; memory 4 (n + K) d bytes. Raises as on the CPU, CudaError.

    >>> gpu = isic.cuda.Backend()
    >>> isic.cuda.nearest_codes(gpu, isic.cuda.upload(gpu, [[0.9, 0.2]]), isic.cuda.upload(gpu, np.eye(2))).copy_to_host()
    array([0])
    """
    return DeviceArray(native.nearest_codes(native_of("nearest_codes", gpu), vectors, codes, metric, padding), gpu)


class CodeIndex:
    """A codebook on the device packed for many look-ups: what `nearest_codes` makes for one call.

    codes [K, d] is kept alive; it must stay unchanged while the index is used. Takes 4 K d bytes. metric, padding, errors: as
    `nearest_codes`.

    >>> gpu = isic.cuda.Backend()
    >>> index = isic.cuda.CodeIndex(gpu, isic.cuda.upload(gpu, np.eye(2)))
    >>> index.nearest(isic.cuda.upload(gpu, [[0.9, 0.2], [0.1, 0.2]])).copy_to_host()
    array([0, 1])
    """

    def __init__(self, gpu: Backend, codes: DeviceLike, *, metric: Metric = "l2", padding: Padding = None) -> None:
        self._gpu = gpu
        self._native = native.CodeIndex(native_of("CodeIndex", gpu), codes, metric, padding)

    def nearest(self, vectors: DeviceLike) -> DeviceArray:
        """Ids of the nearest codes, [n] of int64 on the device. vectors [n, d] of any dtype, whose values nobody looks at: one
        that holds NaN or infinity gets the first code that is no padding. Raises ShapeError if the widths differ, CudaError.
        """
        return DeviceArray(self._native.nearest(vectors), self._gpu)


def nearest_code_churn(gpu: Backend, vectors: DeviceLike, before: DeviceLike, after: DeviceLike, *, metric: Metric = "l2",
                       padding: Padding = None) -> float:
    """Share of vectors [n, d] whose nearest code changed, in [0, 1]. Waits. Raises as `nearest_codes`."""
    return native.nearest_code_churn(native_of("nearest_code_churn", gpu), vectors, before, after, metric, padding)


def leakage(gpu: Backend, codes: DeviceLike, subspace: Subspace, *, center: Floats | None = None, padding: Padding = None) -> LeakageReport:
    """What is left of codes [K, d] inside a subspace, as `isic.leakage`. Waits. Raises as on the CPU, CudaError."""
    return native.leakage(native_of("leakage", gpu), codes, subspace, center, padding)


def drift(gpu: Backend, before: DeviceLike, after: DeviceLike, *, padding: Padding = None) -> DriftReport:
    """How far rows moved between two codebooks [K, d], as `isic.drift`. Waits. Raises as on the CPU, CudaError."""
    return native.drift(native_of("drift", gpu), before, after, padding)


def usage_counts(gpu: Backend, ids: DeviceLike, *, codes: int) -> FloatArray:
    """How often each code occurs among ids of any shape, [K] with K = codes. Waits. Raises ValueError on an id outside [0, K).

    >>> gpu = isic.cuda.Backend()
    >>> isic.cuda.usage_counts(gpu, isic.cuda.upload(gpu, [0, 2, 2]), codes=3)
    array([1., 0., 2.])
    """
    return native.usage_counts(native_of("usage_counts", gpu), ids, codes)
