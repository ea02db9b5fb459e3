"""isic.cuda: what it says where CUDA cannot be used, and, on a device or over the stand-in of tests/support/cuda, everything
against isic on the CPU. With ISIC_REQUIRE_GPU=1 a device that cannot be used is an error."""

import contextlib
import ctypes
import doctest
import gc
import importlib
import inspect
import os
import pathlib
import re
import subprocess
import sys
import threading
import time
import types

import numpy as np
import pytest

import isic
import isic.cuda
from support import DTYPES, UNIT, as_dtype

REASON = isic.cuda.unavailable_reason()
if REASON and os.environ.get("ISIC_REQUIRE_GPU", "0") not in ("", "0"):
    raise RuntimeError(f"no usable CUDA device: {REASON}")
needs_device = pytest.mark.skipif(bool(REASON), reason=f"no usable CUDA device: {REASON}")
MODULES = ["isic.cuda", *(f"isic.cuda.{name}" for name in ("_backend", "_edit", "_fit", "_loop", "_metrics", "_rows", "_update"))]


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


def run(program):
    return subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()


# ---- Without a device


def test_nothing_of_cuda_is_loaded_before_it_is_needed():
    loaded = """
import sys
def loaded():
    maps = open("/proc/self/maps").read()
    print(sum(name.startswith("isic.cuda") for name in sys.modules) > 0, "isic._cuda" in sys.modules or "/_cuda." in maps,
          "libcublas" in maps or "libcusolver" in maps)
import isic
loaded()
isic.cuda.project_out
loaded()
"""
    assert run(loaded) == ["False"] * 3 + ["True", "False", "False"]


def test_a_package_without_cuda_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "isic._cuda", None)
    monkeypatch.delattr(isic, "_cuda", raising=False)
    assert not isic.cuda.available() and isic.cuda.device_count() == 0
    assert "built without CUDA" in isic.cuda.unavailable_reason() and "cmake.define.ISIC_CUDA=ON" in isic.cuda.unavailable_reason()
    for call in (isic.cuda.Backend, isic.cuda.EmaState):
        with pytest.raises(isic.BackendError, match="isic.cuda: isic was built without CUDA"):
            call()


def test_libraries_that_cannot_be_loaded_are_named(monkeypatch):
    class Broken:
        def find_spec(self, name, path=None, target=None):
            return importlib.util.spec_from_loader(name, self) if name == "isic._cuda" else None

        def create_module(self, spec):
            raise ImportError("libcublas.so.13: cannot open shared object file")

        def exec_module(self, module):
            raise AssertionError

    monkeypatch.delitem(sys.modules, "isic._cuda", raising=False)
    monkeypatch.delattr(isic, "_cuda", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    assert not isic.cuda.available()
    reason = isic.cuda.unavailable_reason()
    assert "libcublas.so.13" in reason and "pip install 'isic[cuda]'" in reason and "nvidia-cublas==13" in reason


@pytest.mark.skipif(STAND_IN is None, reason="needs the stand-in, which can be without a driver")
@pytest.mark.parametrize(("devices", "driver", "reason"), [(1, False, "InsufficientDriver"), (0, True, "NoDevice")])
def test_no_driver_and_no_device(devices, driver, reason):
    STAND_IN.isic_stand_in_devices(devices, driver)
    try:
        assert not isic.cuda.available() and isic.cuda.device_count() == 0
        assert "no device can be used" in isic.cuda.unavailable_reason() and reason in isic.cuda.unavailable_reason()
        with pytest.raises(isic.cuda.CudaError, match=reason) as caught:
            isic.cuda.Backend()
        assert caught.value.failure == "no_device" and caught.value.library == "CUDA" and caught.value.code in (35, 100)
    finally:
        STAND_IN.isic_stand_in_devices(1, True)


def test_errors_are_isics():
    assert issubclass(isic.cuda.CudaError, isic.BackendError)
    error = isic.cuda.CudaError("text", "other", "cuBLAS", 7)
    assert (str(error), error.failure, error.library, error.code) == ("text", "other", "cuBLAS", 7)


@pytest.mark.parametrize("name", isic.cuda.__all__)
def test_public_names_are_documented(name):
    thing = getattr(isic.cuda, name)
    if inspect.isclass(thing) or inspect.isfunction(thing):
        assert inspect.getdoc(thing) and thing.__module__.startswith("isic.cuda")
    if inspect.isfunction(thing):
        for p in inspect.signature(thing).parameters.values():
            assert p.default is inspect.Parameter.empty or p.kind is p.KEYWORD_ONLY, f"{name}({p.name})"


@needs_device
def test_another_thing_than_a_backend():
    with pytest.raises(TypeError, match="expected an isic.cuda.Backend, got numpy.ndarray"):
        isic.cuda.leakage(np.eye(2), np.eye(2), isic.span_of(np.eye(2)[:, :1]))


# ---- On a device


@pytest.fixture
def gpu():
    return isic.cuda.Backend()


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


@needs_device
def test_the_backend(gpu):
    assert isic.cuda.available() and isic.cuda.device_count() >= 1 and not isic.cuda.unavailable_reason()
    assert gpu.device == 0 and gpu.stream > 2 and gpu.name
    assert repr(gpu) == "Backend(device=0, stream=its own)"
    gpu.synchronize()
    with pytest.raises(isic.cuda.CudaError, match=r"isic\.cuda\.Backend: expected a device in \[0, .*got 99"):
        isic.cuda.Backend(device=99)


@needs_device
def test_an_allocator_of_the_callers(gpu, rng):
    lent = {}

    def allocate(size, stream):
        assert stream == backend_stream or not backend_stream
        array = up(gpu, np.zeros(size // 4 + 1, dtype=np.int32))
        address = array.__cuda_array_interface__["data"][0]
        lent[address] = array, size
        return address

    def release(memory, size, stream):
        assert lent.pop(memory)[1] == size

    backend_stream = None
    own = isic.cuda.Backend(allocator=(allocate, release))
    backend_stream = own.stream
    codes = book(rng)
    on_device = up(own, codes)
    assert len(lent) == 1
    isic.cuda.project_out(own, on_device, harm_of()).undo()
    assert on_device.copy_to_host().tobytes() == codes.tobytes()
    del on_device
    gc.collect()
    assert not lent

    def fails(size, stream):
        raise MemoryError("none left")

    seen = []
    before, sys.unraisablehook = sys.unraisablehook, lambda u: seen.append(str(u.exc_value))
    try:
        for refuses in (fails, lambda size, stream: 0, lambda size, stream: None):
            with pytest.raises(isic.cuda.CudaError, match="allocator gave no 4 bytes") as caught:
                up(isic.cuda.Backend(allocator=(refuses, release)), np.zeros(1, dtype=np.float32))
            assert caught.value.failure == "out_of_memory"
    finally:
        sys.unraisablehook = before
    assert seen == ["none left"]
    for bad in (allocate, (allocate,), (allocate, 3)):
        with pytest.raises(TypeError, match=r"isic\.cuda\.Backend: expected an allocator of two functions"):
            isic.cuda.Backend(allocator=bad)


@needs_device
def test_streams_of_other_libraries(gpu):
    handle = gpu.stream
    protocol = types.SimpleNamespace(__cuda_stream__=lambda: (0, handle))
    for stream in (handle, types.SimpleNamespace(cuda_stream=handle, device_index=0), types.SimpleNamespace(ptr=handle, device_id=-1), protocol):
        assert isic.cuda.Backend(stream=stream).stream == handle
    assert isic.cuda.Backend(stream=0).stream == 1 and isic.cuda.Backend(stream=1).stream == 1
    with pytest.raises(isic.ValueError, match="of device 0, got one of device 1"):
        isic.cuda.Backend(stream=types.SimpleNamespace(cuda_stream=handle, device_index=1))
    with pytest.raises(TypeError, match="expected a stream of torch or CuPy"):
        isic.cuda.Backend(stream="legacy")


@needs_device
@pytest.mark.parametrize("dtype", [*DTYPES, "int32", "int64", "bool"])
def test_what_is_uploaded_comes_back(gpu, rng, dtype):
    values = as_dtype(rng.standard_normal((7, 6)) * 9, dtype)
    array = up(gpu, values[:, :4])
    assert array.shape == (7, 4) and array.dtype == dtype and len(array) == 7 and array.backend is gpu
    assert array.copy_to_host().tobytes() == np.ascontiguousarray(values[:, :4]).tobytes()
    assert isic.cuda.download(gpu, array).dtype == values.dtype
    if dtype != "bfloat16":
        line = up(gpu, values[0])
        assert line.shape == (6,) and np.array_equal(line.copy_to_host(), values[0])


@needs_device
def test_empty_arrays(gpu):
    assert up(gpu, np.zeros((0, 4), dtype=np.float32)).copy_to_host().shape == (0, 4)
    assert up(gpu, np.zeros(0, dtype=np.int32)).copy_to_host().shape == (0,)
    assert isic.cuda.nearest_codes(gpu, up(gpu, np.zeros((0, 2))), up(gpu, np.eye(2))).shape == (0,)
    assert isic.cuda.usage_counts(gpu, up(gpu, np.zeros(0, dtype=np.int32)), codes=2).tolist() == [0, 0]


@needs_device
def test_write(gpu, rng):
    codes, fresh = up(gpu, book(rng)), book(rng)
    isic.cuda.write(gpu, codes, fresh)
    assert np.array_equal(codes.copy_to_host(), fresh)
    with pytest.raises(isic.ShapeError, match="expected 40 rows, got 39"):
        isic.cuda.write(gpu, codes, fresh[1:])
    with pytest.raises(isic.ValueError, match="expected values of float32, got float64"):
        isic.cuda.write(gpu, codes, fresh.astype(float))


@needs_device
@pytest.mark.parametrize("dtype", DTYPES)
def test_pairs_of_ids_and_their_subspace(gpu, rng, dtype):
    codes = book(rng, dtype)
    on_device = up(gpu, codes)
    cpu, pairs = isic.DifferenceAccumulator(codes), isic.cuda.DifferenceAccumulator(gpu, on_device)
    harmful, safe = rng.integers(0, 10, (3, 16)), rng.integers(10, 20, (3, 16))
    for ids in (np.int32, np.int64):
        cpu.add(harmful, safe)
        pairs.add(up(gpu, harmful.astype(ids)), up(gpu, safe.astype(ids)))
    cpu.add_safe(safe)
    pairs.add_safe(up(gpu, safe))
    more = isic.cuda.DifferenceAccumulator(gpu, on_device)
    more.add(up(gpu, harmful), up(gpu, safe))
    pairs.merge(more)
    cpu.add(harmful, safe)
    assert (pairs.width, pairs.count) == (cpu.width, cpu.count) and repr(pairs) == repr(cpu)
    assert np.array_equal(pairs.usage.harmful, cpu.usage.harmful) and np.array_equal(pairs.usage.safe, cpu.usage.safe)
    for name in ("mean", "safe_mean", "second_moment", "safe_second_moment"):
        assert np.allclose(getattr(pairs, name)(), getattr(cpu, name)(), rtol=1e-12, atol=1e-12), name
    for options in ({}, {"rank": 2, "solver": "syevd"}, {"center": "mean", "max_rank": 3}, {"energy": None, "center": "safe_axis"}):
        expected = isic.fit_subspace(cpu, **{k: v for k, v in options.items() if k != "solver"})
        found = isic.cuda.fit_subspace(gpu, pairs, **options)
        assert isinstance(found, isic.Subspace) and found.chosen == expected.chosen and found.solver in ("syevd", "jacobi", "randomised")
        assert close(abs(found.basis.T @ expected.basis), np.eye(found.rank)), options
        assert found.energy == pytest.approx(expected.energy)
    assert "solver=" in repr(found)


@needs_device
@pytest.mark.parametrize("dtype", DTYPES)
def test_pairs_of_rows_and_their_subspace(gpu, rng, dtype):
    harmful, safe = (as_dtype(rng.standard_normal((30, 6)), dtype) for _ in range(2))
    cpu, pairs = isic.DifferenceAccumulator(width=6), isic.cuda.DifferenceAccumulator(gpu, width=6, keep_safe_moment=True)
    cpu.add_rows(harmful.astype(float), safe.astype(float))
    pairs.add_rows(up(gpu, harmful), up(gpu, safe))
    for name in ("mean", "safe_mean", "second_moment", "safe_second_moment"):
        assert np.allclose(getattr(pairs, name)(), getattr(cpu, name)(), rtol=1e-12, atol=1e-12), name
    rows = harmful.astype(float) - safe.astype(float)
    found, expected = isic.cuda.fit_subspace(gpu, up(gpu, as_dtype(rows, dtype)), rank=1), isic.fit_subspace(as_dtype(rows, dtype), rank=1)
    assert close(found.basis, expected.basis)


def options_of(case, gpu, rng):
    target = rng.standard_normal((40, 8))
    return {
        "l2": {},
        "strengths": {"strength": rng.random(40)},
        "soft": {"weights": [0.5], "center": np.full(8, 0.25)},
        "targets": {"target": target},
        "targets on the device": {"target": up(gpu, target)},
        "norms": {"keep_norms": True, "metric": "cosine"},
        "padding": {"padding": [1, 39], "near_zero": "skip", "near_zero_below": 0.5},
        "no undo": {"can_undo": False},
    }[case]


@needs_device
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", ["l2", "strengths", "soft", "targets", "targets on the device", "norms", "padding", "no undo"])
def test_projection(gpu, rng, dtype, case):
    codes = book(rng, dtype)
    options = options_of(case, gpu, rng)
    on_device = up(gpu, codes)
    address = on_device.__cuda_array_interface__["data"] if dtype != "bfloat16" else None
    edit = isic.cuda.project_out(gpu, on_device, harm_of(), **options)
    if dtype != "bfloat16":
        assert on_device.__cuda_array_interface__["data"] == address
    expected = codes.copy()
    on_host = {name: value.copy_to_host() if isinstance(value, isic.cuda.DeviceArray) else value for name, value in options.items()}
    of_cpu = isic.project_out(expected, harm_of(), **{k: v for k, v in on_host.items() if k != "can_undo"})
    assert close(on_device.copy_to_host(), expected, dtype)
    assert edit.ids.tolist() == of_cpu.ids.tolist()
    assert edit.summary.moved == of_cpu.summary.moved and edit.summary.near_zero == of_cpu.summary.near_zero
    assert edit.summary.after.total == pytest.approx(of_cpu.summary.after.total, abs=4 * UNIT[dtype])
    if case == "no undo":
        assert not edit.can_undo
        with pytest.raises(isic.ValueError, match=r"isic\.cuda\.Edit\.undo: expected an edit that kept the old rows"):
            edit.undo()
        return
    assert edit.can_undo and repr(edit).startswith("Edit(moved=")
    edit.undo()
    assert on_device.copy_to_host().tobytes() == codes.tobytes()
    with pytest.raises(isic.ValueError, match="the edited codebook"):
        edit.undo()


@needs_device
def test_remap_and_with_blocks(gpu, rng):
    codes, target = book(rng), rng.standard_normal((40, 8))
    on_device, expected = up(gpu, codes), codes.copy()
    isic.remap(expected, target=target, strength=0.5)
    with isic.cuda.remap(gpu, on_device, target=target, strength=0.5) as edit:
        assert close(on_device.copy_to_host(), expected, "float32") and edit.summary.moved == 40
    assert on_device.copy_to_host().tobytes() == codes.tobytes()
    with isic.cuda.project_out(gpu, on_device, harm_of()) as edit:
        edit.undo()
    copy = up(gpu, codes)
    edit = isic.cuda.project_out(gpu, on_device, harm_of())
    isic.cuda.project_out(gpu, copy, harm_of())
    edit.undo(copy)
    assert copy.copy_to_host().tobytes() == codes.tobytes()


@needs_device
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_metrics(gpu, rng, dtype, metric):
    before, after, vectors = book(rng, dtype), book(rng, dtype), as_dtype(rng.standard_normal((50, 8)), dtype)
    b, a, z = up(gpu, before), up(gpu, after), up(gpu, vectors)
    padding = [0, 7]
    ids = isic.cuda.nearest_codes(gpu, z, b, metric=metric, padding=padding)
    expected = isic.nearest_codes(vectors.astype(float), before, metric=metric, padding=padding)
    assert ids.dtype == "int64" and ids.copy_to_host().tolist() == expected.tolist()
    assert isic.cuda.nearest_code_churn(gpu, z, b, a, metric=metric, padding=padding) == \
        isic.nearest_code_churn(vectors.astype(float), before, after, metric=metric, padding=padding)
    assert isic.cuda.usage_counts(gpu, ids, codes=40).tolist() == np.bincount(expected, minlength=40).tolist()
    center = np.full(8, 0.5)
    leak, leak_cpu = isic.cuda.leakage(gpu, b, harm_of(), center=center, padding=padding), isic.leakage(before, harm_of(), center=center, padding=padding)
    assert leak.to_dict() == pytest.approx(leak_cpu.to_dict())
    assert isic.cuda.drift(gpu, b, a, padding=padding).to_dict() == pytest.approx(isic.drift(before, after, padding=padding).to_dict())


def constraint():
    return isic.Constraint(locked=np.arange(40) == 3, orthogonal_to=harm_of(), keep_norms=False, within=2.0, anchor=np.zeros((40, 8)))


@needs_device
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("limited", [False, True])
@pytest.mark.parametrize("update", ["ridge", "ema", "sgd", "adam"])
def test_updates(gpu, rng, dtype, limited, update):
    codes, vectors, ids = book(rng, dtype), rng.standard_normal((60, 8)), rng.integers(0, 40, 60)
    gradient = as_dtype(rng.standard_normal((40, 8)), dtype)
    on_device, expected = up(gpu, codes), codes.copy()
    batch, on_gpu = isic.assign(vectors, ids, codes=40), isic.cuda.assign(gpu, up(gpu, vectors), up(gpu, ids), codes=40)
    assert close(on_gpu.counts.copy_to_host(), batch.counts) and close(on_gpu.sums.copy_to_host(), batch.sums)
    limits = {"constraint": constraint()} if limited else {}
    on_limits = {"constraint": isic.cuda.Constraint(gpu, constraint(), codes=40, width=8)} if limited else {}
    states = {"ema": (isic.EmaState(), isic.cuda.EmaState()), "sgd": (isic.SgdState(), isic.cuda.SgdState("float64")),
              "adam": (isic.AdamState(), isic.cuda.AdamState("float64"))}.get(update)
    for _ in range(2):
        if update == "ridge":
            done = isic.cuda.ridge_update(gpu, on_device, on_gpu, weight=0.5, **on_limits)
            summary = isic.ridge_update(expected, batch, weight=0.5, **limits)
        elif update == "ema":
            done = isic.cuda.ema_update(gpu, on_device, states[1], on_gpu, decay=0.9, **on_limits)
            summary = isic.ema_update(expected, states[0], batch, decay=0.9, **limits)
        elif update == "sgd":
            done = isic.cuda.sgd_update(gpu, on_device, up(gpu, gradient), states[1], rate=0.1, momentum=0.5, **on_limits)
            summary = isic.sgd_update(expected, gradient.astype(float), states[0], rate=0.1, momentum=0.5, **limits)
        else:
            done = isic.cuda.adam_update(gpu, on_device, up(gpu, gradient), states[1], rate=0.05, **on_limits)
            summary = isic.adam_update(expected, gradient.astype(float), states[0], rate=0.05, **limits)
        assert done.get().moved == pytest.approx(summary.moved, abs=1) and done.get().overflowed == 0
        assert done.get().largest_step == pytest.approx(summary.largest_step, rel=1e-6, abs=8 * UNIT[dtype])
    assert close(on_device.copy_to_host(), expected, dtype)
    for name in {"ema": ["counts", "sums"], "sgd": ["velocity"], "adam": ["mean", "square"]}.get(update, []):
        assert close(getattr(states[1], name).copy_to_host(), getattr(states[0], name), dtype), name


@needs_device
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_states_are_the_callers_to_keep(gpu, rng, dtype):
    codes, gradient = book(rng), up(gpu, rng.standard_normal((40, 8)))
    once, resumed = up(gpu, codes), up(gpu, codes)
    state = isic.cuda.AdamState(dtype)
    assert state.mean is None and state.square is None and state.steps == 0 and repr(state) == "AdamState(empty)"
    isic.cuda.adam_update(gpu, once, gradient, state)
    saved = {"mean": state.mean.copy_to_host(), "square": state.square.copy_to_host(), "steps": state.steps}
    assert state.mean.dtype == dtype and state.steps == 1 and repr(state) == "AdamState(on device 0)"
    isic.cuda.write(gpu, resumed, once.copy_to_host())
    isic.cuda.adam_update(gpu, once, gradient, state)
    again = isic.cuda.AdamState(dtype)
    again.mean, again.square, again.steps = up(gpu, saved["mean"]), up(gpu, saved["square"]), saved["steps"]
    isic.cuda.adam_update(gpu, resumed, gradient, again)
    assert once.copy_to_host().tobytes() == resumed.copy_to_host().tobytes()
    with pytest.raises(isic.ValueError, match=r"isic\.cuda\.AdamState\.mean: expected float"):
        again.mean = up(gpu, np.zeros((40, 8), dtype=np.float16))
    with pytest.raises(isic.ShapeError, match="rows in the optimiser state"):
        isic.cuda.adam_update(gpu, up(gpu, codes[:5]), up(gpu, np.zeros((5, 8))), again)
    ema = isic.cuda.EmaState()
    ema.counts, ema.sums = up(gpu, np.ones(40)), up(gpu, codes.astype(float))
    assert ema.counts.shape == (40,) and close(ema.sums.copy_to_host(), codes)


# ---- The loop


class Model:
    """An image is the sum of its codes; prompts with "knife" use code 0."""

    def __init__(self, codes):
        self.codebook = codes
        self.decoded = 0

    def codes(self):
        return self.codebook

    def generate(self, prompts, seed):
        return [[0 if "knife" in prompt else 1, 2] for prompt in prompts]

    def decode(self, tokens):
        self.decoded += 1
        return self.codes()[tokens].sum(axis=1)

    def tuning_loss(self, tuning_set):
        def loss(step, gradient):
            gradient += self.codes() * 0.1
            return float((self.codes() ** 2).sum())
        return loss


class DeviceModel(Model):
    def codes(self):
        return self.codebook.copy_to_host()


class Redrawing(DeviceModel):
    redrawn = 0

    def redraw(self, request):
        self.redrawn += 1
        return np.where(request.harmful == 0, 1, request.harmful)


def judge(images):
    return images[:, 0] > 0.9


LOOP = dict(unsafe_prompts=["a fox with a knife"], safe_prompts=["a fox with a spoon"], rewrite=lambda prompt: prompt.replace("knife", "spoon"),
            prior_per_code=0.05, tuning_steps=3)


def computed_in(dtype):
    return "float64" if dtype == "float64" else "float32"


@needs_device
@pytest.mark.parametrize("dtype", DTYPES)
def test_inner_loops(gpu, rng, dtype):
    """Against isic's on the CPU, in float64 for what is stored narrower than float32."""
    real = computed_in(dtype)
    codes, subspace, marks = book(rng, dtype), isic.span_of(rng.standard_normal((8, 2))), np.arange(40) == 3
    basis = isic.cuda.fused.Basis(gpu, subspace)
    assert (basis.width, basis.rank, repr(basis)) == (8, 2, "Basis(width=8, rank=2)")
    strength, center, weights = (as_dtype(rng.random(n), real) for n in (40, 8, 2))
    for directions in (subspace, basis):
        on_device, expected = up(gpu, codes), codes.astype(float)
        isic.cuda.fused.project_out(gpu, on_device, directions, strength=up(gpu, strength), center=up(gpu, center), weights=up(gpu, weights))
        isic.fused.project_out(expected, subspace, strength=strength, center=center, weights=weights)
        assert close(on_device.copy_to_host(), expected, dtype)
        isic.cuda.fused.project_out(gpu, on_device, directions, strength=0.5)
        isic.fused.project_out(expected, subspace, strength=0.5)
        assert close(on_device.copy_to_host(), expected, dtype)
    on_device, expected, state, of_cpu = up(gpu, codes), codes.astype(float), isic.cuda.AdamState(real), isic.fused.AdamState("float64")
    for _ in range(3):
        gradient = as_dtype(rng.standard_normal((40, 8)), dtype)
        isic.cuda.fused.adam_update(gpu, on_device, up(gpu, gradient), state, rate=0.01, orthogonal_to=basis, locked=up(gpu, marks))
        isic.fused.adam_update(expected, gradient.astype(float), of_cpu, rate=0.01, orthogonal_to=subspace, locked=marks)
    assert close(on_device.copy_to_host(), expected, dtype, scale=100) and state.steps == 3
    assert close(state.mean.copy_to_host(), of_cpu.mean, real) and repr(state) == "AdamState(on device 0)"
    assert on_device.copy_to_host()[3].tobytes() == codes[3].tobytes()
    on_device, expected, state, of_cpu = up(gpu, codes), codes.astype(float), isic.cuda.fused.EmaState(real), isic.fused.EmaState("float64")
    assert state.counts is None and repr(state) == "EmaState(empty)"
    for ids in (np.int32, np.int64):
        vectors, where = as_dtype(rng.standard_normal((99, 8)), dtype), rng.integers(0, 40, 99).astype(ids)
        isic.cuda.fused.ema_update(gpu, on_device, up(gpu, vectors), up(gpu, where), state, decay=0.9, orthogonal_to=basis, locked=up(gpu, marks))
        isic.fused.ema_update(expected, vectors.astype(float), where, of_cpu, decay=0.9, orthogonal_to=subspace, locked=marks)
    assert close(on_device.copy_to_host(), expected, dtype, scale=8)
    assert close(state.counts.copy_to_host(), of_cpu.counts, real) and close(state.sums.copy_to_host(), of_cpu.sums, real, scale=8)
    saved = isic.cuda.fused.EmaState(real)
    saved.counts, saved.sums = state.counts, state.sums
    assert np.array_equal(saved.sums.copy_to_host(), state.sums.copy_to_host())


@needs_device
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_an_index(gpu, rng, dtype, metric):
    codes = book(rng, dtype)
    index = isic.cuda.CodeIndex(gpu, up(gpu, codes), metric=metric, padding=[0, 7])  # which keeps the codebook
    gc.collect()
    for n in (1, 50):
        vectors = as_dtype(rng.standard_normal((n, 8)), dtype)
        expected = isic.nearest_codes(vectors.astype(float), codes.astype(float), metric=metric, padding=[0, 7])
        assert index.nearest(up(gpu, vectors)).copy_to_host().tolist() == expected.tolist()
    assert index.nearest(up(gpu, np.zeros((0, 8)))).shape == (0,)
    assert index.nearest(up(gpu, np.full((2, 8), np.nan))).copy_to_host().tolist() == [1, 1]


@needs_device
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_loop(gpu, dtype):
    codes = as_dtype(np.eye(4, 3), dtype)
    cpu, model = Model(codes.copy()), DeviceModel(up(gpu, codes))
    expected = isic.self_improve(cpu, judge, **LOOP)
    report = isic.cuda.self_improve(gpu, model, judge, **LOOP)
    assert report.reason == expected.reason == "below_target" and report.best_round == expected.best_round
    assert model.codes().tobytes() == cpu.codes().tobytes() and model.decoded == cpu.decoded
    assert report.change.ids.tolist() == expected.change.ids.tolist()
    report.change.undo()
    assert model.codes().tobytes() == codes.tobytes()
    with report.change:
        report.change.apply()
        assert model.codes().tobytes() == cpu.codes().tobytes()
    assert model.codes().tobytes() == codes.tobytes()


@needs_device
def test_a_loop_that_redraws(gpu):
    model = Redrawing(up(gpu, np.eye(4, 3, dtype=np.float32)))
    assert isic.cuda.self_improve(gpu, model, judge, **LOOP).reason == "below_target" and model.redrawn == 1


@needs_device
def test_a_loop_that_fails_leaves_the_best_round(gpu):
    codes = np.eye(4, 3, dtype=np.float32)
    for error, calls in ((RuntimeError, 1), (RuntimeError, 3), (KeyboardInterrupt, 3)):
        model = DeviceModel(up(gpu, codes))

        def failing(images, left=[calls], raised=error):
            left[0] -= 1
            if left[0] < 0:
                raise raised("enough")
            return judge(images)

        if error is KeyboardInterrupt:
            with pytest.raises(KeyboardInterrupt):
                isic.cuda.self_improve(gpu, model, failing, **LOOP)
        else:
            report = isic.cuda.self_improve(gpu, model, failing, **LOOP)
            assert report.reason == "failed" and isinstance(report.exception, error)
        assert model.codes().tobytes() == codes.tobytes()
    with pytest.raises(TypeError, match=r"isic\.cuda\.self_improve: expected a generator with generate"):
        isic.cuda.self_improve(gpu, object(), judge, **LOOP)


# ---- Arrays of other libraries


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


HOST = np.eye(4, 3, dtype=np.float32)
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
    (isic.ValueError, "'l2', 'cosine'", lambda g, c: isic.cuda.nearest_codes(g, c, c, metric="cosine")),
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
    (isic.BackendError, "expected an array on a device of CUDA", lambda g, c: isic.cuda.Backend.of(HOST)),
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


# ---- Documentation and types


@needs_device
@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    results = doctest.testmod(importlib.import_module(name), extraglobs={"np": np, "isic": isic}, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert results.failed == 0


README = pathlib.Path(__file__).parents[2] / "README.md"


@pytest.mark.skipif(not README.is_file(), reason="the sources are not here")
def test_the_readme(capsys):
    """Its program for torch on a GPU is run with a DeviceArray in place of the tensor, or at least parsed."""
    (program,) = (p for p in re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL) if "isic.cuda" in p)
    compiled = compile(program, str(README), "exec")
    if not REASON:
        exec(compiled, {})
        assert capsys.readouterr().out.strip() in program


@needs_device
def test_the_stub_names_what_is_compiled():
    stub = (pathlib.Path(isic.__file__).parent / "_cuda.pyi").read_text()
    declared = {line.split("(")[0].split(":")[0].split()[1] for line in stub.splitlines() if line.startswith(("def ", "class "))}
    assert declared == {name for name in dir(isic._cuda) if not name.startswith("_")}
