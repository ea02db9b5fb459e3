# SPDX-License-Identifier: Apache-2.0
"""Arrays of other libraries on a device, and arrays exported to them."""

import contextlib
import ctypes
import gc
import sys
import threading
import time
import types

import numpy as np
import pytest

import isic
import isic.cuda
from cuda_support import (DELETER, Foreign, HOST, Managed, Numba, STAND_IN, Versioned, book, capsule_name,
                          capsule_pointer, close, harm_of, needs_device, needs_stand_in, on_a_callers_stream, up)
from cuda_support import nothing_is_left_behind  # noqa: F401
from support import DTYPES, as_dtype

# ---- Arrays of other libraries


@needs_device
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("versioned", [True, False])
def test_dlpack_producers(gpu, rng, dtype, versioned):
    codes = book(rng, dtype)
    foreign = Foreign(up(gpu, codes), versioned=versioned, old=not versioned)
    edit = isic.cuda.project_out(gpu, foreign, harm_of())
    assert capsule_name(foreign.capsule) == (b"used_dltensor_versioned" if versioned else b"used_dltensor")
    assert foreign.streams == [gpu.stream] and (foreign.made, foreign.deleted) == (1, 1)
    expected = codes.copy()
    isic.project_out(expected, harm_of())
    assert close(foreign.array.copy_to_host(), expected, dtype)
    edit.undo()
    assert foreign.array.copy_to_host().tobytes() == codes.tobytes() and foreign.deleted == foreign.made == 2


@needs_device
def test_streams_are_numbered_as_dlpack_does(gpu):
    foreign = Foreign(up(gpu, np.eye(3)))
    for stream in (0, 1):
        default = isic.cuda.Backend(stream=stream)
        isic.cuda.leakage(default, foreign, harm_of(3))
    assert foreign.streams == [1, 1]


@needs_device
@pytest.mark.parametrize("make", [
    lambda a: Foreign(a, shape=(5, 3), strides=(6, 1)),
    lambda a: Foreign(a, shape=(5, 3), strides=(6, 1), versioned=False, offset=12),
    lambda a: Numba(a, shape=(5, 3), strides=(24, 4), data=(a.__cuda_array_interface__["data"][0] + 8, False)),
])
def test_rows_with_gaps(gpu, rng, make):
    wide = rng.standard_normal((5, 6)).astype(np.float32)
    array = up(gpu, wide)
    view = make(array)
    first = 3 if getattr(view, "offset", 0) else 2 if isinstance(view, Numba) else 0
    assert np.array_equal(isic.cuda.download(gpu, view), wide[:, first:first + 3])
    expected = wide.copy()
    isic.project_out(expected[:, first:first + 3], harm_of(3))
    isic.cuda.project_out(gpu, view, harm_of(3))
    assert close(array.copy_to_host(), expected, "float32")


@needs_device
def test_accumulators_keep_their_codebook(gpu, rng):
    foreign = Foreign(up(gpu, book(rng)))
    pairs = isic.cuda.DifferenceAccumulator(gpu, foreign)
    pairs.add(up(gpu, [1, 2]), up(gpu, [11, 12]))
    gc.collect()
    assert foreign.deleted == 0 and pairs.count == 2
    del pairs
    gc.collect()
    assert foreign.deleted == 1


@needs_device
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("changed", [{}, {"version": 2}, {"stream": 1}, {"stream": 2}])
def test_the_cuda_array_interface(gpu, rng, dtype, changed):
    if changed.get("stream") == 2 and STAND_IN:
        pytest.skip("the stand-in has no default stream of a thread")
    codes = book(rng, dtype)
    array = up(gpu, codes)
    isic.cuda.project_out(gpu, Numba(array, **changed), harm_of())
    expected = codes.copy()
    isic.project_out(expected, harm_of())
    assert close(array.copy_to_host(), expected, dtype)
    ids = up(gpu, [0, 2, 2])
    assert isic.cuda.usage_counts(gpu, Numba(ids), codes=3).tolist() == [1, 0, 2]
    assert isic.cuda.Backend.of(Numba(array)).device == 0


BAD = [
    (isic.BackendError, "codes in memory of device 0, got memory of the CPU; isic.cuda.upload", lambda a: HOST),
    (isic.BackendError, "got memory of the CPU", lambda a: Foreign(a, device=(1, 0))),
    (isic.BackendError, "got memory of the CPU", lambda a: Foreign(a, device=(3, 0))),
    (isic.BackendError, "got memory of a device of DLPack type 10", lambda a: Foreign(a, device=(10, 0))),
    (isic.BackendError, "device 0, got device 1; make an isic.cuda.Backend", lambda a: Foreign(a, device=(2, 1))),
    (isic.BackendError, "got memory of the CPU", lambda a: Numba(a, data=(HOST.ctypes.data, False))),
    (isic.ValueError, "read-only memory", lambda a: Foreign(a, flags=1)),
    (isic.ValueError, "a copy that its producer made", lambda a: Foreign(a, flags=2)),
    (isic.ValueError, "read-only memory", lambda a: Numba(a, data=(a.__cuda_array_interface__["data"][0], True))),
    (isic.ValueError, "DLPack version 1, got version 2.0", lambda a: Foreign(a, major=2)),
    (isic.ValueError, "float32, float64, float16 or bfloat16, got complex64", lambda a: Foreign(a, dtype="complex64")),
    (isic.ValueError, "an array of jax, which is immutable", lambda a: type("Array", (Foreign,), {"__module__": "jaxlib._jax"})(a)),
    (isic.ValueError, "got >f4", lambda a: Numba(a, typestr=">f4")),
    (isic.ValueError, "got <i4", lambda a: Numba(a, typestr="<i4")),
    (isic.ValueError, "without a mask", lambda a: Numba(a, mask=a)),
    (isic.ValueError, "aligned memory", lambda a: Foreign(a, shape=(3, 3), offset=2)),
    (isic.ShapeError, r"strides \(1, 4\) of shape \(3, 4\)", lambda a: Foreign(a, shape=(3, 4), strides=(1, 4))),
    (isic.ShapeError, r"strides \(6, 2\) of shape \(2, 3\)", lambda a: Foreign(a, shape=(2, 3), strides=(6, 2))),
    (isic.ShapeError, r"strides \(0, 1\)", lambda a: Foreign(a, shape=(4, 3), strides=(0, 1))),
    (isic.ShapeError, "6 bytes between elements", lambda a: Numba(a, shape=(2, 3), strides=(6, 4))),
    (isic.ShapeError, "two dimensions, got shape .2, 2, 3.", lambda a: Foreign(a, shape=(2, 2, 3))),
    (isic.ShapeError, "two dimensions, got shape .12.", lambda a: Numba(a, shape=(12,))),
    (TypeError, "as an array or a tensor, got builtins.list; isic.cuda.upload", lambda a: [[1.0, 2.0, 3.0]]),
    (TypeError, "pass its .weight", lambda a: types.SimpleNamespace(weight=a)),
]


@needs_device
@pytest.mark.parametrize(("error", "message", "make"), BAD)
def test_what_cannot_be_edited(gpu, error, message, make):
    array = up(gpu, HOST)
    bad = make(array)
    with pytest.raises(error, match=message) as caught:
        isic.cuda.project_out(gpu, bad, harm_of(3))
    assert str(caught.value).startswith("isic.cuda.project_out: expected ") and "::" not in str(caught.value)
    assert type(caught.value) is error and array.copy_to_host().tobytes() == HOST.tobytes()
    del caught
    gc.collect()
    assert not isinstance(bad, Foreign) or bad.deleted == bad.made


@needs_device
def test_read_only_memory_is_read(gpu):
    array = up(gpu, HOST)
    for view in (Foreign(array, flags=1), Numba(array, data=(array.__cuda_array_interface__["data"][0], True))):
        assert isic.cuda.leakage(gpu, view, harm_of(3)).total > 0


@needs_device
def test_managed_memory_may_be_of_any_device(gpu):
    assert isic.cuda.leakage(gpu, Foreign(up(gpu, HOST), device=(13, 7)), harm_of(3)).total > 0


@needs_device
def test_a_capsule_is_used_once(gpu):
    foreign = Foreign(up(gpu, HOST))
    isic.cuda.leakage(gpu, foreign, harm_of(3))
    used = types.SimpleNamespace(__dlpack__=lambda **_: foreign.capsule, __dlpack_device__=lambda: (2, 0))
    with pytest.raises(isic.ValueError, match="unused DLPack capsule"):
        isic.cuda.leakage(gpu, used, harm_of(3))
    assert foreign.deleted == 1


IDS = np.array([0, 1], dtype=np.int32)
MISTAKES = [
    (isic.BackendError, "upload: expected the array in memory of the CPU", lambda g, c: up(g, c)),
    (isic.ValueError, "upload: expected the array of float32.*got complex128", lambda g, c: up(g, [1j])),
    (isic.ValueError, "upload: .*got uint8", lambda g, c: up(g, np.zeros(3, np.uint8))),
    (isic.ShapeError, "upload: .*strides", lambda g, c: up(g, np.ones((4, 3)).T)),
    (isic.ShapeError, r"upload: .*strides \(2\) of shape \(2\)", lambda g, c: up(g, np.arange(4)[::2])),
    (isic.BackendError, "DifferenceAccumulator.add: expected harmful_ids in memory of device 0",
     lambda g, c: isic.cuda.DifferenceAccumulator(g, c).add(IDS, up(g, IDS))),
    (isic.ValueError, "harmful_ids of int32 or int64, got float32", lambda g, c: isic.cuda.DifferenceAccumulator(g, c).add(c, up(g, IDS))),
    (isic.ShapeError, r"safe ids of shape \[2\], got \[1\]", lambda g, c: isic.cuda.DifferenceAccumulator(g, c).add(up(g, IDS), up(g, IDS[:1]))),
    (isic.ShapeError, r"ids without gaps, row by row, got strides \(3, 1\) of shape \(2, 2\)",
     lambda g, c: isic.cuda.usage_counts(g, Foreign(up(g, np.zeros((2, 3), np.int32)), shape=(2, 2), strides=(3, 1)), codes=4)),
    (isic.ValueError, "DifferenceAccumulator: expected token ids inside the codebook", lambda g, c: spoilt(g, c).mean()),
    (isic.ShapeError, "an accumulator of token ids|of rows", lambda g, c: isic.cuda.DifferenceAccumulator(g, c).add_rows(c, c)),
    (isic.ValueError, "the same backend", lambda g, c: isic.cuda.DifferenceAccumulator(g, c).merge(isic.cuda.DifferenceAccumulator(isic.cuda.Backend(), c))),
    (isic.ValueError, "the same backend", lambda g, c: isic.cuda.fit_subspace(isic.cuda.Backend(), isic.cuda.DifferenceAccumulator(g, c))),
    (isic.ShapeError, "at least one pair|difference", lambda g, c: isic.cuda.fit_subspace(g, isic.cuda.DifferenceAccumulator(g, c))),
    (isic.ValueError, "rank >= 1", lambda g, c: isic.cuda.fit_subspace(g, c, rank=0)),
    (isic.ValueError, "solver to be one of 'automatic', 'syevd', 'jacobi', 'randomised', got 'qr'", lambda g, c: isic.cuda.fit_subspace(g, c, solver="qr")),
    (TypeError, "a codebook or a width, got neither", lambda g, c: isic.cuda.DifferenceAccumulator(g)),
    (isic.ShapeError, "rows in the basis", lambda g, c: isic.cuda.project_out(g, c, harm_of(8))),
    (TypeError, "isic.Subspace, got DeviceArray", lambda g, c: isic.cuda.project_out(g, c, c)),
    (isic.ValueError, "strength", lambda g, c: isic.cuda.project_out(g, c, harm_of(3), strength=2.0)),
    (isic.BackendError, "strength in memory of the CPU", lambda g, c: isic.cuda.project_out(g, c, harm_of(3), strength=up(g, np.ones(4)))),
    (isic.ValueError, "target of float64 on the device, got float32", lambda g, c: isic.cuda.project_out(g, c, harm_of(3), target=up(g, HOST))),
    (isic.ShapeError, "target rows, got 2", lambda g, c: isic.cuda.project_out(g, c, harm_of(3), target=up(g, np.zeros((2, 3))))),
    (isic.NumericError, "NaN or infinity at row 1, column 2", lambda g, c: isic.cuda.project_out(g, up(g, nan_at(1, 2)), harm_of(3))),
    (isic.ShapeError, "columns in the vectors", lambda g, c: isic.cuda.nearest_codes(g, up(g, np.eye(2)), c)),
    (isic.ValueError, "'l2', 'cosine'", lambda g, c: isic.cuda.nearest_codes(g, c, c, metric="dot")),
    (isic.ValueError, r"token ids in \[0, 1\)", lambda g, c: isic.cuda.usage_counts(g, up(g, IDS), codes=1)),
    (isic.ShapeError, "columns after", lambda g, c: isic.cuda.drift(g, c, up(g, np.eye(4)))),
    (isic.ValueError, "rate > 0", lambda g, c: isic.cuda.sgd_update(g, c, up(g, HOST), isic.cuda.SgdState(), rate=-1.0)),
    (isic.ShapeError, "columns in the basis, got 8", lambda g, c: isic.cuda.fused.project_out(g, c, harm_of())),
    (isic.ShapeError, "4 values in strength, got 3", lambda g, c: isic.cuda.fused.project_out(g, c, harm_of(3), strength=up(g, np.zeros(3, np.float32)))),
    (isic.ValueError, "center on the device of float32, got float64", lambda g, c: isic.cuda.fused.project_out(g, c, harm_of(3), center=up(g, np.zeros(3)))),
    (isic.BackendError, "weights on the device in memory of device 0, got memory of the CPU", lambda g, c: isic.cuda.fused.project_out(g, c, harm_of(3), weights=np.zeros(1, np.float32))),
    (isic.ValueError, "a Basis of the same backend", lambda g, c: isic.cuda.fused.project_out(g, c, isic.cuda.fused.Basis(isic.cuda.Backend(), harm_of(3)))),
    (isic.ValueError, "orthonormal", lambda g, c: isic.cuda.fused.Basis(g, isic.Subspace(np.ones((3, 1)), np.ones(1), 1.0, harm_of().chosen))),
    (isic.ValueError, "overlapping", lambda g, c: isic.cuda.fused.adam_update(g, c, c, isic.cuda.AdamState())),
    (isic.ValueError, "a state of float32, as the codes", lambda g, c: isic.cuda.fused.adam_update(g, c, up(g, HOST), isic.cuda.AdamState("float64"))),
    (isic.ValueError, "gradient computed in float32, as the codes are, got float64", lambda g, c: isic.cuda.fused.adam_update(g, c, up(g, HOST.astype(float)), isic.cuda.AdamState())),
    (TypeError, r"isic\.cuda\.fused\.adam_update: expected state to be an isic\.cuda\.AdamState, got NoneType", lambda g, c: isic.cuda.fused.adam_update(g, c, up(g, HOST), None)),
    (TypeError, r"isic\.cuda\.adam_update: expected state to be an isic\.cuda\.AdamState, got AdamState", lambda g, c: isic.cuda.adam_update(g, c, up(g, HOST), isic.AdamState())),
    (TypeError, r"isic\.cuda\.ridge_update: expected batch to be an isic\.cuda\.Assignments, got Assignments", lambda g, c: isic.cuda.ridge_update(g, c, isic.assign(HOST, [0, 1, 2, 3], codes=4), weight=1.0)),
    (TypeError, r"isic\.cuda\.DifferenceAccumulator\.merge: expected other to be an isic\.cuda\.DifferenceAccumulator, got DifferenceAccumulator", lambda g, c: isic.cuda.DifferenceAccumulator(g, c).merge(isic.DifferenceAccumulator(HOST))),
    (TypeError, r"isic\.cuda\.AdamState\.mean: expected values to be an isic\.cuda\.DeviceArray, got ndarray", lambda g, c: setattr(isic.cuda.AdamState(), "mean", HOST)),
    (TypeError, r"isic\.cuda\.fused\.EmaState\.sums: expected values to be an isic\.cuda\.DeviceArray, got ndarray", lambda g, c: setattr(isic.cuda.fused.EmaState(), "sums", HOST)),
    (isic.ValueError, "locked on the device of bool, got int32", lambda g, c: isic.cuda.fused.adam_update(g, c, up(g, HOST), isic.cuda.AdamState(), locked=up(g, np.zeros(4, np.int32)))),
    (isic.ShapeError, "values in locked, got 3", lambda g, c: isic.cuda.fused.adam_update(g, c, up(g, HOST), isic.cuda.AdamState(), locked=up(g, np.zeros(3, bool)))),
    (isic.ValueError, r"decay in \[0, 1\)", lambda g, c: isic.cuda.fused.ema_update(g, c, up(g, HOST), up(g, [0, 1, 2, 3]), isic.cuda.fused.EmaState(), decay=1.0)),
    (isic.ValueError, "dtype to be one of", lambda g, c: isic.cuda.fused.EmaState("float16")),
    (isic.ShapeError, "columns in the vectors", lambda g, c: isic.cuda.CodeIndex(g, c).nearest(up(g, np.eye(2)))),
    (isic.ValueError, "overlapping", lambda g, c: isic.cuda.sgd_update(g, c, c, isic.cuda.SgdState())),
    (isic.ShapeError, "gradient rows", lambda g, c: isic.cuda.adam_update(g, c, up(g, HOST[1:]), isic.cuda.AdamState())),
    (isic.ValueError, "dtype to be one of 'float32', 'float64', got 'float16'", lambda g, c: isic.cuda.AdamState("float16")),
    (TypeError, r"isic\.cuda\.Constraint\(gpu, constraint", lambda g, c: isic.cuda.sgd_update(g, c, up(g, HOST), isic.cuda.SgdState(), constraint=isic.Constraint())),
    (isic.ShapeError, "cuda.Constraint: ", lambda g, c: isic.cuda.Constraint(g, isic.Constraint(locked=[True]), codes=4, width=3)),
    (isic.ValueError, "weight >= 0", lambda g, c: isic.cuda.ridge_update(g, c, isic.cuda.assign(g, c, up(g, [0, 1, 2, 3]), codes=4), weight=-1.0)),
    (isic.ValueError, "a batch of the same backend", lambda g, c: isic.cuda.ridge_update(isic.cuda.Backend(), c, isic.cuda.assign(g, c, up(g, [0, 1, 2, 3]), codes=4), weight=1.0)),
    (isic.ShapeError, "ids", lambda g, c: isic.cuda.assign(g, c, up(g, IDS), codes=4)),
    (isic.BackendError, "expected an array on a CUDA device", lambda g, c: isic.cuda.Backend.of(HOST)),
    (TypeError, "expected an array on a device", lambda g, c: isic.cuda.Backend.of([1.0])),
]


def spoilt(gpu, codes):
    pairs = isic.cuda.DifferenceAccumulator(gpu, codes)
    pairs.add(up(gpu, [0, 4]), up(gpu, [0, 0]))
    return pairs


def nan_at(row, column):
    values = HOST.copy()
    values[row, column] = np.nan
    return values


@needs_device
@pytest.mark.parametrize(("error", "message", "call"), MISTAKES)
def test_mistakes(gpu, error, message, call):
    codes = up(gpu, HOST)
    with pytest.raises(error, match=message) as caught:
        call(gpu, codes)
    assert type(caught.value) is error and "::" not in str(caught.value)
    assert str(caught.value).startswith("isic.cuda.") or error is TypeError
    assert codes.copy_to_host().tobytes() == HOST.tobytes()


# ---- Handing arrays out


@needs_device
@pytest.mark.parametrize("max_version", [None, (0, 8), (1, 0), (1, 1)])
def test_arrays_are_handed_out(gpu, max_version):
    array = up(gpu, HOST)
    assert array.__dlpack_device__() == (2, 0)
    versioned = max_version is not None and max_version[0] >= 1
    name, kind = (b"dltensor_versioned", Versioned) if versioned else (b"dltensor", Managed)
    for stream in (None, -1, 1, gpu.stream):
        capsule = array.__dlpack__(stream=stream, max_version=max_version)
        assert capsule_name(capsule) == name
        held = kind.from_address(capsule_pointer(capsule, name))
        t = held.value
        assert (t.device_type, t.device_id, t.ndim, t.code, t.bits, t.lanes, t.byte_offset) == (2, 0, 2, 2, 32, 1, 0)
        assert [t.shape[0], t.shape[1], t.strides[0], t.strides[1]] == [4, 3, 3, 1]
        assert t.data == array.__cuda_array_interface__["data"][0]
        assert not versioned or (held.major, held.flags) == (1, 0)
    copied = array.__dlpack__(max_version=(1, 0), copy=True)
    held = Versioned.from_address(capsule_pointer(copied, b"dltensor_versioned"))
    assert held.flags == 2 and held.value.data != array.__cuda_array_interface__["data"][0]
    for bad in (0, -2):
        with pytest.raises(isic.ValueError, match="a stream as DLPack numbers them"):
            array.__dlpack__(stream=bad)
    with pytest.raises(BufferError, match=r"isic\.cuda\.DeviceArray\.__dlpack__: expected the device \(2, 0\), got \(1, 0\)"):
        array.__dlpack__(dl_device=(1, 0))
    with pytest.raises((RuntimeError, TypeError, BufferError)):
        np.from_dlpack(array)


@needs_device
@needs_stand_in
def test_memory_lives_as_long_as_its_capsules(gpu):
    before = STAND_IN.isic_stand_in_buffers()
    array = up(gpu, HOST)
    capsule = array.__dlpack__(stream=1)
    del array
    gc.collect()
    assert STAND_IN.isic_stand_in_buffers() == before + 1
    held = Managed.from_address(capsule_pointer(capsule, b"dltensor"))
    rename = ctypes.pythonapi.PyCapsule_SetName
    rename.restype, rename.argtypes = ctypes.c_int, [ctypes.py_object, ctypes.c_char_p]
    rename(capsule, b"used_dltensor")
    del capsule
    gc.collect()
    assert STAND_IN.isic_stand_in_buffers() == before + 1
    DELETER(held.deleter)(ctypes.addressof(held))
    gpu.synchronize()
    assert STAND_IN.isic_stand_in_buffers() == before


@needs_device
def test_the_interface_of_arrays(gpu):
    array = up(gpu, HOST)
    interface = array.__cuda_array_interface__
    assert interface["shape"] == (4, 3) and interface["typestr"] == "<f4" and interface["version"] == 3
    assert interface["stream"] is None  # its work is done
    callers = isic.cuda.Backend(stream=types.SimpleNamespace(cuda_stream=gpu.stream, owner=gpu))
    assert up(callers, HOST).__cuda_array_interface__["stream"] == gpu.stream
    half = Foreign(array, dtype="bfloat16", shape=(4, 6))
    assert isic.cuda.leakage(gpu, half, harm_of(6)).total >= 0
    wide = isic.cuda.upload(gpu, as_dtype(HOST, "bfloat16"))
    assert not hasattr(wide, "__cuda_array_interface__") and wide.__dlpack_device__() == (2, 0)


@needs_device
def test_work_of_another_stream_comes_first(gpu, rng):
    """On a caller's stream an update has only been queued when another backend reads."""
    codes, callers = book(rng, "float64"), on_a_callers_stream()
    on_device, expected = up(callers, codes), codes.copy()
    gradient = up(callers, np.ones((40, 8)))
    isic.cuda.sgd_update(callers, on_device, gradient, isic.cuda.SgdState("float64"), rate=0.5)
    expected -= 0.5
    assert close(isic.cuda.download(gpu, on_device), expected)
    isic.cuda.sgd_update(callers, on_device, gradient, isic.cuda.SgdState("float64"), rate=0.5)
    assert close(isic.cuda.download(gpu, Numba(on_device)), expected - 0.5)
    assert isic.cuda.Backend.of(on_device) is callers


@needs_device
def test_threads_take_turns(gpu, rng):
    codes, vectors = up(gpu, book(rng)), up(gpu, rng.standard_normal((30, 8)))
    expected, failed = isic.cuda.nearest_codes(gpu, vectors, codes).copy_to_host().tolist(), []

    def work():
        for _ in range(5):
            if isic.cuda.nearest_codes(gpu, vectors, codes).copy_to_host().tolist() != expected:
                failed.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failed


@needs_device
@needs_stand_in
def test_other_threads_run_meanwhile(gpu, rng):
    vectors, codes = up(gpu, rng.standard_normal((4000, 8))), up(gpu, rng.standard_normal((600, 8)))
    counted, stop = [], threading.Event()

    def count():
        while not stop.is_set():
            counted.append(time.perf_counter())
            time.sleep(0.001)

    thread = threading.Thread(target=count)
    thread.start()
    try:
        start = time.perf_counter()
        isic.cuda.nearest_codes(gpu, vectors, codes)
        end = time.perf_counter()
    finally:
        stop.set()
        thread.join()
    assert end - start > 0.02, "too short to tell"
    assert sum(start < t < end for t in counted) >= 3


@needs_device
@needs_stand_in
@pytest.mark.parametrize(("function", "code", "library", "failure"), [
    ("cudaMallocFromPoolAsync", 2, "CUDA", "out_of_memory"), ("cublasCreate", 3, "cuBLAS", "out_of_memory"), ("launch", 719, "CUDA", "other"),
])
def test_failures_keep_their_codes(gpu, function, code, library, failure):
    pairs = isic.cuda.DifferenceAccumulator(gpu, width=3)
    harmful, safe = up(gpu, HOST), up(gpu, HOST + 1)
    STAND_IN.isic_stand_in_fail_next(function.encode(), code)
    with pytest.raises(isic.cuda.CudaError) as caught:
        pairs.add_rows(harmful, safe)
        isic.cuda.fit_subspace(gpu, pairs)
    error = caught.value
    assert (error.code, error.library, error.failure) == (code, library, failure)
    assert str(error).startswith("isic.cuda.") and str(code) in str(error)


# ---- torch, as far as it is there


@needs_device
@needs_stand_in
def test_tensors_of_a_torch_that_is_made_up(gpu, rng, monkeypatch):
    """torch says itself on which stream it works, and is not asked to know ours."""
    callers = on_a_callers_stream()

    class FakeTensor(Foreign):
        device = "cuda:0"
        requires_grad = True

        def detach(self):
            self.detached = True
            return self

        def is_inference(self):
            return False

    edited = []
    graph = types.SimpleNamespace(increment_version=edited.append)
    stream = types.SimpleNamespace(cuda_stream=callers.stream, device_index=0, owner=callers)
    torch = types.ModuleType("torch")
    torch.Tensor, torch.autograd = FakeTensor, types.SimpleNamespace(graph=graph)
    torch.cuda = types.SimpleNamespace(current_stream=lambda device: stream, device=contextlib.nullcontext)
    monkeypatch.setitem(sys.modules, "torch", torch)
    codes = book(rng, "float64")
    tensor = FakeTensor(up(callers, codes))
    isic.cuda.sgd_update(callers, tensor, up(callers, np.ones((40, 8))), isic.cuda.SgdState("float64"), rate=0.5)  # queued on torch's stream
    expected = codes - 0.5
    isic.project_out(expected, harm_of())
    isic.cuda.project_out(gpu, tensor, harm_of())
    assert close(tensor.array.copy_to_host(), expected)
    assert tensor.streams == [-1, -1] and tensor.detached and edited == [tensor, tensor] and tensor.deleted == 2
    assert isic.cuda.Backend.of(tensor).stream == callers.stream


def torch_on_cuda():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if not torch.cuda.is_available() or STAND_IN:
        pytest.skip("torch has no CUDA device here")
    return torch


@needs_device
@pytest.mark.parametrize("dtype", DTYPES)
def test_torch_tensors(rng, dtype):
    torch = torch_on_cuda()
    values = rng.standard_normal((40, 8))
    codes = torch.nn.Parameter(torch.tensor(values, device="cuda").to(getattr(torch, dtype)))
    before, address = codes.detach().clone(), codes.data_ptr()
    gpu = isic.cuda.Backend.of(codes)
    assert gpu.stream == max(1, torch.cuda.current_stream().cuda_stream)
    edit = isic.cuda.project_out(gpu, codes, harm_of())
    assert codes.data_ptr() == address and codes.is_leaf and codes.requires_grad
    assert abs(codes[:, 2]).max().item() == 0 and codes[:, :2].equal(before[:, :2])
    edit.undo()
    assert codes.equal(before)
    wide = torch.ones(4, 16, device="cuda")
    isic.cuda.project_out(gpu, wide[:, :8], harm_of())
    assert wide[:, 2].abs().max().item() == 0 and wide[:, 8:].eq(1).all()
    with pytest.raises(isic.ShapeError, match="strides"):
        isic.cuda.project_out(gpu, torch.ones(8, 4, device="cuda").T, harm_of())
    with pytest.raises(isic.BackendError, match="got memory of the CPU"):
        isic.cuda.project_out(gpu, torch.ones(4, 8), harm_of())


@needs_device
def test_results_as_torch_tensors(rng):
    torch = torch_on_cuda()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        codes = torch.tensor(rng.standard_normal((40, 8)), device="cuda")
        vectors = torch.randn(200, 8, device="cuda", dtype=torch.float64)
        gpu = isic.cuda.Backend.of(codes)
        assert gpu.stream == stream.cuda_stream
        ids = torch.from_dlpack(isic.cuda.nearest_codes(gpu, vectors, codes))
        assert ids.equal(torch.cdist(vectors, codes).argmin(dim=1))
        loss = (codes * 2).sum()
        codes.requires_grad_()
        (codes * 2).sum().backward()
        isic.cuda.sgd_update(gpu, codes, codes.grad, isic.cuda.SgdState(), rate=0.25)
        assert loss.item() - (codes * 2).sum().item() == pytest.approx(2 * 40 * 8 * 0.5)
    own = isic.cuda.Backend()
    for _ in range(10):
        on_own = torch.from_dlpack(isic.cuda.nearest_codes(own, vectors, codes))
        assert on_own.equal(torch.from_dlpack(isic.cuda.nearest_codes(own, vectors, codes)))


@needs_device
def test_autograd_notices():
    torch = torch_on_cuda()
    codes = torch.ones(4, 8, device="cuda", requires_grad=True)
    loss = (codes**2).sum()
    isic.cuda.project_out(isic.cuda.Backend.of(codes), codes, harm_of())
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@needs_device
def test_cupy_arrays(rng):
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    if STAND_IN:
        pytest.skip("CuPy knows no stand-in")
    codes = cupy.asarray(book(rng))
    gpu = isic.cuda.Backend.of(codes)
    isic.cuda.project_out(gpu, codes, harm_of())
    assert float(abs(codes[:, 2]).max()) == 0
    assert cupy.from_dlpack(isic.cuda.nearest_codes(gpu, codes, codes)).shape == (40,)
