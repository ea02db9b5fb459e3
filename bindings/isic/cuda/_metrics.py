# SPDX-License-Identifier: Apache-2.0
"""Nearest codes and measurements of an edit, on a device."""

from __future__ import annotations

from .._results import DriftReport, LeakageReport, Subspace
from .._typing import DeviceLike, FloatArray, Floats, Metric, Padding
from ._backend import Backend, DeviceArray, native_of
from ._load import native


def nearest_codes(gpu: Backend, vectors: DeviceLike, codes: DeviceLike, *, metric: Metric = "l2", padding: Padding = None) -> DeviceArray:
    """Ids of the nearest codes, [n] of int64 on the device, as `isic.nearest_codes`, without a distance matrix.

    vectors [n, d], codes [K, d] of any dtype. float32 scores select candidates; float64 distances re-rank those that
    rounding cannot separate. Waits for the check for NaN; memory 4 (n + K) d bytes. Raises as on the CPU, CudaError.

    >>> gpu = isic.cuda.Backend()
    >>> isic.cuda.nearest_codes(gpu, isic.cuda.upload(gpu, [[0.9, 0.2]]), isic.cuda.upload(gpu, np.eye(2))).copy_to_host()
    array([0])
    """
    return DeviceArray(native.nearest_codes(native_of("nearest_codes", gpu), vectors, codes, metric, padding), gpu)


class CodeIndex:
    """An index of a codebook on the device for many nearest-neighbour queries. `nearest_codes` builds one per call.

    codes [K, d] is kept alive and must not change while the index is in use. Memory 4 K d bytes. metric, padding, errors: as
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
        """Ids of the nearest codes, [n] of int64 on the device. vectors [n, d] of any dtype, unchecked: a vector
        with NaN or infinity gets the first code that is not padding. Raises ShapeError if the widths differ, CudaError.
        """
        return DeviceArray(self._native.nearest(vectors), self._gpu)


def nearest_code_churn(gpu: Backend, vectors: DeviceLike, before: DeviceLike, after: DeviceLike, *, metric: Metric = "l2",
                       padding: Padding = None) -> float:
    """Share of vectors [n, d] whose nearest code changed, in [0, 1]. Waits. Raises as `nearest_codes`."""
    return native.nearest_code_churn(native_of("nearest_code_churn", gpu), vectors, before, after, metric, padding)


def leakage(gpu: Backend, codes: DeviceLike, subspace: Subspace, *, center: Floats | None = None, padding: Padding = None) -> LeakageReport:
    """Share of codes [K, d] inside a subspace, as `isic.leakage`. Waits. Raises as on the CPU, CudaError."""
    return native.leakage(native_of("leakage", gpu), codes, subspace, center, padding)


def drift(gpu: Backend, before: DeviceLike, after: DeviceLike, *, padding: Padding = None) -> DriftReport:
    """Distance between two codebooks [K, d], as `isic.drift`. Waits. Raises as on the CPU, CudaError."""
    return native.drift(native_of("drift", gpu), before, after, padding)


def usage_counts(gpu: Backend, ids: DeviceLike, *, codes: int) -> FloatArray:
    """Counts of each code among ids of any shape, [K] with K = codes. Waits. Raises ValueError on an id outside [0, K).

    >>> gpu = isic.cuda.Backend()
    >>> isic.cuda.usage_counts(gpu, isic.cuda.upload(gpu, [0, 2, 2]), codes=3)
    array([1., 0., 2.])
    """
    return native.usage_counts(native_of("usage_counts", gpu), ids, codes)
