# SPDX-License-Identifier: Apache-2.0
"""Devices, streams, and device arrays of isic."""

from __future__ import annotations

import sys
from typing import Any, Callable, Union

import numpy.typing as npt

from .._errors import BackendError
from .._errors import ValueError as IsicValueError
from .._typing import DeviceLike, SupportsDLPack
from ._load import native

Stream = Union[int, Any, None]
"""A cudaStream_t as a number (0 or 1: the default stream), a stream of torch or CuPy, or an object with `__cuda_stream__`."""


Allocator = tuple[Callable[[int, int], int], Callable[[int, int, int], object]]
"""allocate(bytes, stream) returns an address aligned to 256 bytes, or 0 if memory is exhausted; release(memory, bytes, stream)
frees it. Both are ordered on the stream, a cudaStream_t."""


class Backend:
    """A device, a stream, and handles of cuBLAS and cuSOLVER. Memory comes from its own pool, or from the allocator.

    device: its number. stream: None creates a stream, and every call returns when its work is done. On a caller's stream,
    calls that return no number are asynchronous, as in torch: arguments must not change until the stream has passed the
    call. The stream must outlive the backend. `Backend.of` uses the current stream of torch or CuPy.

    allocator: two functions that allocate and release memory, e.g. from torch's pool, or None. Their exceptions are
    reported as unraisable and count as exhausted memory. ::

        isic.cuda.Backend(0, stream, allocator=(
            lambda size, s: torch.cuda.caching_allocator_alloc(size, 0, s),
            lambda memory, size, s: torch.cuda.caching_allocator_delete(memory)))

    Calls from several threads are serialised. Raises CudaError (no_device, out_of_memory); BackendError where CUDA cannot be loaded.

    >>> gpu = isic.cuda.Backend()
    >>> gpu.device
    0
    """

    def __init__(self, device: int = 0, stream: Stream = None, *, allocator: Allocator | None = None) -> None:
        handle, of = _stream_handle(stream)
        if of is not None and of != device:
            raise IsicValueError(f"isic.cuda.Backend: expected a stream of device {device}, got one of device {of}")
        self._native = native.Backend(device, handle, stream, allocator)

    @staticmethod
    def of(array: DeviceLike) -> Backend:
        """A backend for an array's device, on the current stream of its library, torch or CuPy.

        A DeviceArray returns its own backend; for other arrays a stream is created.
        """
        if isinstance(array, DeviceArray):
            return array.backend
        number = _device_number(array)
        torch, cupy = sys.modules.get("torch"), sys.modules.get("cupy")
        if torch is not None and isinstance(array, torch.Tensor):
            return Backend(number, torch.cuda.current_stream(number))
        if cupy is not None and isinstance(array, cupy.ndarray):
            with cupy.cuda.Device(number):
                return Backend(number, cupy.cuda.get_current_stream())
        return Backend(number)

    def synchronize(self) -> None:
        """Waits for all work on the stream. Raises CudaError, also for earlier asynchronous work."""
        self._native.synchronize()

    @property
    def name(self) -> str:
        """Name of the device, e.g. "NVIDIA H200"."""
        return self._native.name

    @property
    def device(self) -> int:
        """Number of the device."""
        return self._native.device

    @property
    def stream(self) -> int:
        """The cudaStream_t as a number; 1 is the default stream, as in DLPack."""
        return self._native.stream

    def __repr__(self) -> str:
        return f"Backend(device={self.device}, stream={'its own' if self._native.own_stream else self.stream})"


class DeviceArray:
    """An array on a device, the result of `upload` and of isic's functions.

    torch.from_dlpack(x), cupy.from_dlpack(x) and numba share its memory, which the last of them frees, ordered on the
    backend's stream and on the default stream. Reads on other streams must have finished by then.

    >>> codes = isic.cuda.upload(isic.cuda.Backend(), np.eye(2, dtype=np.float32))
    >>> codes
    DeviceArray(2 x 2 float32 on device 0)
    >>> codes.copy_to_host()
    array([[1., 0.],
           [0., 1.]], dtype=float32)
    """

    def __init__(self, array: native.DeviceArray, backend: Backend) -> None:
        self._native = array
        self._backend = backend

    @property
    def shape(self) -> tuple[int, ...]:
        """[n] or [rows, columns]."""
        return self._native.shape

    @property
    def dtype(self) -> str:
        """"float32", "float64", "float16", "bfloat16", "int32", "int64" or "bool"."""
        return self._native.dtype

    @property
    def backend(self) -> Backend:
        """The backend that owns the memory."""
        return self._backend

    def copy_to_host(self) -> npt.NDArray[Any]:
        """A copy on the CPU, as `download`."""
        return native.download(self._backend._native, self)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self._backend.device  # kDLCUDA

    def __dlpack__(self, *, stream: int | None = None, max_version: tuple[int, int] | None = None, dl_device: tuple[int, int] | None = None,
                   copy: bool | None = None) -> Any:
        return self._native.dlpack(stream, max_version, dl_device, copy)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return self._native.cuda_array_interface()

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"DeviceArray({' x '.join(map(str, self.shape))} {self.dtype} on device {self._backend.device})"


def upload(gpu: Backend, array: npt.ArrayLike | SupportsDLPack) -> DeviceArray:
    """Copies an array, a tensor or a list on the CPU to the device: a codebook, embeddings, token ids, or marks of rows.

    float32, float64, float16, bfloat16, int32, int64 or bool; rows may be strided. Waits. Raises ValueError on other types,
    ShapeError on other strides, BackendError if the array is on a device, CudaError.

    >>> isic.cuda.upload(isic.cuda.Backend(), [3, 1, 2])
    DeviceArray(3 int64 on device 0)
    """
    return DeviceArray(native.upload(native_of("upload", gpu), array), gpu)


def download(gpu: Backend, array: DeviceLike) -> npt.NDArray[Any]:
    """Copies an array on the device to a numpy array. Waits. bfloat16 needs ml_dtypes. Raises as `upload`."""
    return native.download(native_of("download", gpu), array)


def write(gpu: Backend, array: DeviceLike, values: npt.NDArray[Any] | SupportsDLPack) -> None:
    """Overwrites a codebook [K, d] on the device in place with one on the CPU of the same shape and dtype. Waits.

    Raises ShapeError, ValueError on another dtype or read-only memory, CudaError.
    """
    native.write(native_of("write", gpu), array, values)


def native_of(function: str, gpu: Backend) -> native.Backend:
    """The native object of a backend."""
    if not isinstance(gpu, Backend):
        raise TypeError(f"isic.cuda.{function}: expected an isic.cuda.Backend, got {type(gpu).__module__}.{type(gpu).__qualname__}")
    return gpu._native


def _stream_handle(stream: Stream) -> tuple[int | None, int | None]:
    """A stream's handle, and its device if it reports one; None: no stream."""
    if stream is None or isinstance(stream, int):
        return stream, None
    for name in ("cuda_stream", "ptr"):  # torch, CuPy
        if isinstance(getattr(stream, name, None), int):
            device = getattr(stream, "device_index", getattr(stream, "device_id", None))
            return getattr(stream, name), device if isinstance(device, int) and device >= 0 else None
    if hasattr(stream, "__cuda_stream__"):
        protocol: Any = stream.__cuda_stream__
        return int((protocol() if callable(protocol) else protocol)[1]), None
    raise TypeError(f"isic.cuda.Backend: expected a stream of torch or CuPy, its number, or None, got {type(stream).__qualname__}")


def _device_number(array: Any) -> int:
    """The device number of an array."""
    kind, number = 1, None
    if hasattr(array, "__dlpack_device__"):
        kind, number = array.__dlpack_device__()
    elif hasattr(array, "__cuda_array_interface__"):
        kind, number = 2, native.device_of(array.__cuda_array_interface__["data"][0])
    else:
        raise TypeError(f"isic.cuda.Backend.of: expected an array on a device, got {type(array).__module__}.{type(array).__qualname__}")
    if int(kind) not in (2, 13) or number is None:  # kDLCUDA, kDLCUDAManaged
        raise BackendError(f"isic.cuda.Backend.of: expected an array on a CUDA device, got memory of DLPack type {int(kind)}; "
                           "upload(gpu, array) copies it there")
    return int(number)
