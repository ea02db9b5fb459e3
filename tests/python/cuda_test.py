# SPDX-License-Identifier: Apache-2.0
"""isic.cuda beside isic on the CPU: loading, primitives, the loop, documentation."""

import doctest
import gc
import importlib
import inspect
import pathlib
import re
import subprocess
import sys
import types

import numpy as np
import pytest

import isic
import isic.cuda
from cuda_support import (REASON, STAND_IN, book, close, harm_of, needs_device, up)
from cuda_support import nothing_is_left_behind  # noqa: F401
from support import DTYPES, UNIT, as_dtype

MODULES = ["isic.cuda", *(f"isic.cuda.{name}" for name in ("_backend", "_edit", "_fit", "_loop", "_metrics", "_update", "fused"))]


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
            editing=isic.EditingOptions(prior_per_code=0.05), tuning=isic.TuningOptions(steps=3))


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


# ---- Documentation and types


@needs_device
@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    results = doctest.testmod(importlib.import_module(name), extraglobs={"np": np, "isic": isic}, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert results.failed == 0


GUIDE = pathlib.Path(__file__).parents[2] / "docs" / "gpu.md"


@pytest.mark.skipif(not GUIDE.is_file(), reason="the sources are not here")
def test_the_guide(capsys):
    """Its program for torch on a GPU is run with a DeviceArray in place of the tensor, or at least parsed."""
    (program,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    compiled = compile(program, str(GUIDE), "exec")
    if not REASON:
        exec(compiled, {})
        assert capsys.readouterr().out.strip() in program


@needs_device
def test_the_stub_names_what_is_compiled():
    stub = (pathlib.Path(isic.__file__).parent / "_cuda.pyi").read_text()
    declared = {line.split("(")[0].split(":")[0].split()[1] for line in stub.splitlines() if line.startswith(("def ", "class "))}
    assert declared == {name for name in dir(isic._cuda) if not name.startswith("_")}
