# SPDX-License-Identifier: Apache-2.0
"""Codebooks are edited in the caller's memory, or not at all."""

import ctypes
import gc
import subprocess
import sys
import threading
import time
import tracemalloc
import weakref

import numpy as np
import pytest

import isic
from support import DTYPES, as_dtype

X_AXIS = isic.span_of([[1.0], [0.0], [0.0]])


def codebook(dtype="float32"):
    values = np.array([[3, 1, 0], [3, 0, 1], [0, 1, 0], [0, 0, 1], [0, 1, 1], [1, 1, 1]])
    return as_dtype(values, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_edits_in_place(dtype):
    codes = codebook(dtype)
    before, address = codes.copy(), codes.ctypes.data
    edit = isic.project_out(codes, X_AXIS)
    assert codes.ctypes.data == address
    assert codes.astype(float)[:, 0].tolist() == [0] * 6
    assert edit.ids.tolist() == [0, 1, 5]
    edit.undo()
    assert codes.tobytes() == before.tobytes()


def test_rows_apart_by_a_stride():
    wide = np.arange(24, dtype=np.float32).reshape(4, 6) + 1
    before = wide.copy()
    isic.project_out(wide[:, :3], X_AXIS)
    assert np.array_equal(wide[:, 3:], before[:, 3:])
    assert wide[:, 0].tolist() == [0] * 4


def test_every_other_row():
    codes = codebook()
    isic.project_out(codes[::2], X_AXIS)
    assert codes[:, 0].tolist() == [0, 3, 0, 0, 0, 1]


def test_no_hidden_copy_of_a_codebook():
    """Allocations of numpy are traced, those of C++ raise the process's peak."""
    program = """
import resource, sys
import numpy as np, isic
codes = np.random.default_rng(0).standard_normal((400_000, 64)).astype(np.float32)  # 102 MB
subspace = isic.span_of(np.eye(64)[:, :1])
strength = np.zeros(len(codes)); strength[:10] = 1
isic.leakage(codes[:10], subspace)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
isic.project_out(codes, subspace, strength=strength)
isic.leakage(codes, subspace)
isic.fingerprint(codes)
isic.DifferenceAccumulator(codes).add([0, 1], [2, 3])
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
print(grown)
"""
    grown_kib = int(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout)
    assert grown_kib < 40_000, f"{grown_kib} KiB more than before, and the codebook has 100,000"


def test_numpy_allocates_nothing_large():
    codes = np.ones((100_000, 16), dtype=np.float32)
    subspace = isic.span_of(np.eye(16)[:, :1])
    tracemalloc.start()
    isic.leakage(codes, subspace)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000


@pytest.mark.parametrize(("codes", "error", "fix"), [
    (np.ones((4, 3), dtype=np.int64), isic.ValueError, "float32"),
    (np.ones((4, 3), dtype=complex), isic.ValueError, "float32"),
    (np.ones((4, 3), dtype=np.float32).byteswap().view(np.dtype(np.float32).newbyteorder()), isic.ValueError, "convert"),
    (np.asfortranarray(np.ones((4, 3))), isic.ShapeError, "ascontiguousarray"),
    (np.ones((4, 6))[:, ::2], isic.ShapeError, "ascontiguousarray"),
    (np.ones((4, 3))[::-1], isic.ShapeError, "ascontiguousarray"),
    (np.broadcast_to(np.ones(3), (4, 3)), isic.ValueError, "copy"),
    (np.ones((2, 4, 3)), isic.ShapeError, "reshape"),
    (np.ones(3), isic.ShapeError, "two dimensions"),
    ([[1.0, 2.0, 3.0]], TypeError, "numpy.asarray"),
    (None, TypeError, "numpy.asarray"),
])
def test_what_cannot_be_edited_says_what_to_do(codes, error, fix):
    with pytest.raises(error, match=fix) as caught:
        isic.project_out(codes, X_AXIS)
    assert str(caught.value).startswith("isic.project_out: expected codes") or "codes" in str(caught.value)


def test_read_only_memory_is_read_but_not_edited():
    codes = codebook()
    codes.flags.writeable = False
    assert isic.leakage(codes, X_AXIS).total > 0
    with pytest.raises(isic.ValueError, match="read-only"):
        isic.project_out(codes, X_AXIS)
    with pytest.raises(isic.ValueError, match="read-only"):
        isic.sgd_update(codes, np.ones((6, 3)), isic.SgdState())


def test_unaligned_memory():
    raw = np.zeros(4 * 3 * 4 + 1, dtype=np.uint8)
    with pytest.raises(isic.ShapeError, match="alignment"):
        isic.project_out(raw[1:].view(np.float32).reshape(4, 3), X_AXIS)


def test_a_module_is_told_to_pass_its_weight():
    class Embedding:
        weight = codebook()

    with pytest.raises(TypeError, match=r"pass its \.weight"):
        isic.project_out(Embedding(), X_AXIS)


def test_buffers():
    codes = codebook()
    isic.project_out(memoryview(codes), X_AXIS)
    assert codes[:, 0].tolist() == [0] * 6


def test_the_codebook_is_kept_alive():
    codes = codebook()
    alive = weakref.ref(codes)
    pairs = isic.DifferenceAccumulator(codes)
    del codes
    gc.collect()
    pairs.add([0], [2])
    assert alive() is not None and pairs.mean().tolist() == [3, 0, 0]
    del pairs
    gc.collect()
    assert alive() is None


class Producer:
    """A tensor library with DLPack only."""

    def __init__(self, array, versioned=True, device=(1, 0)):
        self.array, self.versioned, self.device = array, versioned, device

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, **options):
        if self.versioned:
            return self.array.__dlpack__(**options)
        if options:
            raise TypeError("an old producer takes no options")
        return self.array.__dlpack__()


def capsule_name(capsule):
    get_name = ctypes.pythonapi.PyCapsule_GetName
    get_name.restype, get_name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    return get_name(capsule)


@pytest.mark.parametrize("versioned", [True, False])
def test_dlpack(versioned):
    codes = codebook()
    producer = Producer(codes, versioned)
    if versioned and np.lib.NumpyVersion(np.__version__) >= "2.1.0":
        assert capsule_name(producer.__dlpack__(max_version=(1, 0))) == b"dltensor_versioned"
    edit = isic.project_out(producer, X_AXIS)
    assert codes[:, 0].tolist() == [0] * 6
    edit.undo()
    assert codes[0].tolist() == [3, 1, 0]


@pytest.mark.parametrize("versioned", [True, False])
def test_dlpack_memory_is_given_back(versioned):
    codes = codebook()
    references = sys.getrefcount(codes)
    for _ in range(20):
        isic.leakage(Producer(codes, versioned), X_AXIS)
        with pytest.raises(isic.ShapeError):
            isic.leakage(Producer(codes.T, versioned), X_AXIS)
    gc.collect()
    assert sys.getrefcount(codes) == references


@pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) < "2.1.0", reason="this numpy exports no versioned capsules")
def test_dlpack_says_read_only():
    codes = codebook()
    codes.flags.writeable = False
    assert isic.leakage(Producer(codes), X_AXIS).total > 0
    with pytest.raises(isic.ValueError, match="read-only"):
        isic.project_out(Producer(codes), X_AXIS)


def test_arrays_that_nobody_may_change():
    jax_array = type("Array", (Producer,), {"__module__": "jaxlib._jax"})
    assert isic.leakage(jax_array(codebook()), X_AXIS).total > 0
    with pytest.raises(isic.ValueError, match="jax"):
        isic.project_out(jax_array(codebook()), X_AXIS)


def test_memory_of_a_gpu():
    with pytest.raises(isic.BackendError, match="CPU"):
        isic.project_out(Producer(codebook(), device=(2, 0)), X_AXIS)
    with pytest.raises(isic.BackendError, match="CPU"):
        isic.DifferenceAccumulator(codebook()).add(Producer(np.array([0]), device=(2, 0)), [1])

    class Numba:
        __cuda_array_interface__ = {}

    with pytest.raises(isic.BackendError, match="CPU"):
        isic.project_out(Numba(), X_AXIS)


def test_other_threads_run_meanwhile():
    """A thread counts while the main thread is in C++; it would stop if the GIL were held."""
    vectors, codes = np.random.default_rng(0).standard_normal((20_000, 64)), np.random.default_rng(1).standard_normal((8000, 64))
    counted = []
    stop = threading.Event()

    def count():
        while not stop.is_set():
            counted.append(time.perf_counter())
            time.sleep(0.001)

    thread = threading.Thread(target=count)
    thread.start()
    try:
        start = time.perf_counter()
        isic.nearest_codes(vectors, codes)
        end = time.perf_counter()
    finally:
        stop.set()
        thread.join()
    assert end - start > 0.02, "too short to tell"
    assert sum(start < t < end for t in counted) >= 3
