# SPDX-License-Identifier: Apache-2.0
"""Fixtures and arrays for tests of isic.cuda, on a device or over the stand-in of tests/support/cuda.

With ISIC_REQUIRE_GPU=1 an unusable device is an error.
"""

import ctypes
import gc
import importlib
import os
import types

import numpy as np
import pytest

import isic
import isic.cuda
from support import UNIT, as_dtype

REASON = isic.cuda.unavailable_reason()
if REASON and os.environ.get("ISIC_REQUIRE_GPU", "0") not in ("", "0"):
    raise RuntimeError(f"no usable CUDA device: {REASON}")
needs_device = pytest.mark.skipif(bool(REASON), reason=f"no usable CUDA device: {REASON}")


def find_stand_in():
    """The stand-in's own functions, or None on a device."""
    if REASON:
        return None
    library = ctypes.CDLL(importlib.import_module("isic._cuda").__file__)
    if not hasattr(library, "isic_stand_in_buffers"):
        return None
    library.isic_stand_in_violations.restype = ctypes.c_char_p
    return library


STAND_IN = find_stand_in()
needs_stand_in = pytest.mark.skipif(STAND_IN is None, reason="looks into the stand-in")

HOST = np.eye(4, 3, dtype=np.float32)


@pytest.fixture(autouse=True)
def nothing_is_left_behind():
    before = STAND_IN.isic_stand_in_buffers() if STAND_IN else 0
    yield
    KEPT.clear()
    gc.collect()
    if STAND_IN:
        assert STAND_IN.isic_stand_in_violations() == b""
        assert STAND_IN.isic_stand_in_buffers() == before


def up(gpu, values):
    return isic.cuda.upload(gpu, values)


def book(rng, dtype="float32", codes=40, width=8):
    values = rng.standard_normal((codes, width))
    values[:10] = values[10:20]
    values[:10, 2] += 3.0
    return as_dtype(values, dtype)


def harm_of(width=8):
    return isic.span_of(np.eye(width)[:, 2:3])


def on_a_callers_stream():
    """A backend on a stream that another one owns, where work is only queued."""
    owner = isic.cuda.Backend()
    return isic.cuda.Backend(stream=types.SimpleNamespace(cuda_stream=owner.stream, device_index=0, owner=owner))


def close(a, b, dtype="float64", scale=1.0):
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    return a.shape == b.shape and np.abs(a - b).max() <= 4 * UNIT[dtype] * max(scale, np.abs(b).max()) + 1e-11


class Tensor(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32), ("ndim", ctypes.c_int32),
                ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16), ("shape", ctypes.POINTER(ctypes.c_int64)),
                ("strides", ctypes.POINTER(ctypes.c_int64)), ("byte_offset", ctypes.c_uint64)]


class Managed(ctypes.Structure):
    _fields_ = [("value", Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p)]


class Versioned(ctypes.Structure):
    _fields_ = [("major", ctypes.c_uint32), ("minor", ctypes.c_uint32), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p),
                ("flags", ctypes.c_uint64), ("value", Tensor)]


DELETER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
new_capsule = ctypes.pythonapi.PyCapsule_New
new_capsule.restype, new_capsule.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
capsule_name = ctypes.pythonapi.PyCapsule_GetName
capsule_name.restype, capsule_name.argtypes = ctypes.c_char_p, [ctypes.py_object]
capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
capsule_pointer.restype, capsule_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
KEPT = []  # a callback must not go while it runs
TYPES = {"float32": (2, 32), "float64": (2, 64), "float16": (2, 16), "bfloat16": (4, 16), "int32": (0, 32), "int64": (0, 64)}


def address_of(array):
    capsule = array.__dlpack__(stream=-1)
    return Managed.from_address(capsule_pointer(capsule, b"dltensor")).value.data


class Foreign:
    """An array of a library that only knows DLPack, over memory of a DeviceArray."""

    def __init__(self, array, *, versioned=True, flags=0, device=(2, 0), shape=None, strides=None, offset=0, dtype=None, major=1, old=False):
        self.array, self.versioned, self.flags, self.device, self.major, self.old = array, versioned, flags, device, major, old
        self.shape, self.strides, self.offset, self.dtype = shape or array.shape, strides, offset, TYPES.get(dtype or array.dtype, (5, 64))
        self.streams, self.names, self.made, self.deleted = [], [], 0, 0

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, *, stream=None, **options):
        if self.old and options:
            raise TypeError("an old producer knows no more than stream")
        self.streams.append(stream)
        self.made += 1
        shape, strides = ((ctypes.c_int64 * len(v))(*v) if v is not None else None for v in (self.shape, self.strides))
        value = Tensor(address_of(self.array), *self.device, len(self.shape), *self.dtype, 1, shape, strides, self.offset)

        def delete(_):
            self.deleted += 1

        delete = DELETER(delete)
        pointer = ctypes.cast(delete, ctypes.c_void_p)
        managed = Versioned(self.major, 0, None, pointer, self.flags, value) if self.versioned else Managed(value, None, pointer)
        KEPT.append((managed, shape, strides, delete))
        self.capsule = new_capsule(ctypes.addressof(managed), b"dltensor_versioned" if self.versioned else b"dltensor", None)
        return self.capsule


class Numba:
    """An array that only has __cuda_array_interface__."""

    def __init__(self, array, **changed):
        self.array = array
        self.__cuda_array_interface__ = {**array.__cuda_array_interface__, **changed}
