# SPDX-License-Identifier: Apache-2.0
"""Fused functions against float64 references of numpy."""

import gc
import importlib.util
import tracemalloc
import weakref

import numpy as np
import pytest

import isic
from support import DTYPES, as_dtype

UNIT = {"float32": 2.0**-24, "float64": 2.0**-53}


def torch_of(values):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    return torch.tensor(values)


MEMORY = {"numpy": np.array, "torch": torch_of, "strided": lambda values: np.concatenate([values, values + 1], axis=1)[:, : values.shape[1]],
          "every other row": lambda values: np.repeat(values, 2, axis=0)[::2]}


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    return request.param


@pytest.fixture
def subspace(rng):
    return isic.span_of(rng.standard_normal((12, 3)))


@pytest.fixture
def codes(rng, dtype):
    return rng.standard_normal((300, 12)).astype(dtype)


def projector(subspace):
    return np.eye(subspace.basis.shape[0]) - subspace.basis @ subspace.basis.T


def is_close(rows, reference, dtype, roundings=64):
    return np.abs(np.asarray(rows, dtype=float) - reference).max() <= roundings * UNIT[dtype] * max(1.0, np.abs(reference).max())


@pytest.mark.parametrize("memory", MEMORY)
def test_project_out(codes, subspace, dtype, memory):
    rows = MEMORY[memory](codes)
    assert isic.fused.project_out(rows, subspace) is None
    assert is_close(rows, codes.astype(float) @ projector(subspace), dtype)


def test_rows_between_those_that_are_edited(codes, subspace):
    wide = np.concatenate([codes, codes], axis=1)
    isic.fused.project_out(wide[::2, :12], subspace)
    assert np.array_equal(wide[:, 12:], codes) and np.array_equal(wide[1::2, :12], codes[1::2])
    assert not np.array_equal(wide[::2, :12], codes[::2])


def test_project_out_options(codes, subspace, rng, dtype):
    wide, v = codes.astype(float), subspace.basis
    strength, center, weights = rng.random(300), rng.standard_normal(12), [0.5, 1.0, 0.0]
    strength[:5] = 0

    def after(**options):
        rows = codes.copy()
        isic.fused.project_out(rows, isic.fused.Basis(subspace), **options)
        return rows

    assert is_close(after(strength=0.25), wide - 0.25 * (wide @ v @ v.T), dtype)
    assert is_close(after(strength=strength), wide - strength[:, None] * (wide @ v @ v.T), dtype)
    assert np.array_equal(after(strength=strength)[:5], codes[:5])
    assert np.array_equal(after(strength=strength), after(strength=strength.astype(dtype)))
    assert np.array_equal(after(strength=strength.tolist()), after(strength=strength))
    assert is_close(after(center=center), wide + (center - wide) @ v @ v.T, dtype)
    assert is_close(after(weights=weights), wide - wide @ v @ np.diag(weights) @ v.T, dtype)
    assert np.array_equal(after(threads=1), after(threads=2))
    rows = codes.copy()
    isic.fused.project_out(rows, subspace)
    assert np.array_equal(rows, after())


def test_a_row_with_nan_disturbs_no_other(codes, subspace, dtype):
    codes[7] = np.nan
    rows = codes.copy()
    isic.fused.project_out(rows, subspace)
    others = np.arange(300) != 7
    assert np.isnan(rows[7]).all() and is_close(rows[others], codes[others].astype(float) @ projector(subspace), dtype)


def test_basis(subspace):
    basis = isic.fused.Basis(subspace)
    assert (basis.rank, basis.width, repr(basis)) == (3, 12, "Basis(width=12, rank=3)")
    with pytest.raises(isic.ValueError, match="orthonormal"):
        isic.fused.Basis(isic.Subspace(2 * subspace.basis, subspace.singular_values, subspace.energy, subspace.chosen))
    with pytest.raises(TypeError, match=r"isic\.fused\.Basis: expected subspace to be an isic\.Subspace, got ndarray"):
        isic.fused.Basis(subspace.basis)


def adam_reference(codes, gradients, p, locked, rate, beta1, beta2, epsilon):
    out, free = codes.astype(float), ~locked[:, None]
    mean, square = np.zeros_like(out), np.zeros_like(out)
    for t, gradient in enumerate(gradients, 1):
        g = gradient.astype(float) @ p
        mean = np.where(free, beta1 * mean + (1 - beta1) * g, mean)
        square = np.where(free, beta2 * square + (1 - beta2) * g**2, square)
        step = rate * (mean / (1 - beta1**t)) / (np.sqrt(square / (1 - beta2**t)) + epsilon)
        out -= np.where(free, step @ p, 0)
    return out, mean, square


@pytest.mark.parametrize("memory", MEMORY)
def test_adam_update(codes, subspace, rng, dtype, memory):
    gradients = rng.standard_normal((4, 300, 12)).astype(dtype)
    options = dict(rate=0.05, beta1=0.8, beta2=0.95, epsilon=1e-6)
    locked = rng.random(300) < 0.2
    expected, mean, square = adam_reference(codes, gradients, projector(subspace), locked, **options)
    rows, state, basis = MEMORY[memory](codes), isic.fused.AdamState(dtype), isic.fused.Basis(subspace)
    for gradient in gradients:
        isic.fused.adam_update(rows, MEMORY[memory](gradient), state, orthogonal_to=basis, locked=locked, **options)
    assert is_close(rows, expected, dtype, 1000)
    assert state.steps == 4 and state.dtype == state.mean.dtype == dtype
    assert is_close(state.mean, mean, dtype, 1000) and is_close(state.square, square, dtype, 1000)
    assert np.array_equal(np.asarray(rows)[locked], codes[locked])


def test_the_fused_adam_update_is_the_checked_one(rng, subspace):
    codes, gradient = rng.standard_normal((2, 50, 12))
    checked, state, row_state = codes.copy(), isic.AdamState(), isic.fused.AdamState("float64")
    for _ in range(3):
        isic.adam_update(checked, gradient, state, rate=0.1, constraint=isic.Constraint(orthogonal_to=subspace))
        isic.fused.adam_update(codes, gradient, row_state, rate=0.1, orthogonal_to=subspace)
    assert np.allclose(codes, checked, atol=1e-13)


def test_adam_update_plain_and_threads(rng, dtype):
    codes, gradient = rng.standard_normal((2, 2000, 12)).astype(dtype)
    after = []
    for threads in (1, 2):
        rows, state = codes.copy(), isic.fused.AdamState(dtype)
        isic.fused.adam_update(rows, gradient, state, rate=0.1, threads=threads)
        after.append(rows)
    assert np.array_equal(*after)
    expected, _, _ = adam_reference(codes, [gradient], np.eye(12), np.zeros(2000, bool), 0.1, 0.9, 0.999, 1e-8)
    assert np.abs(after[0] - expected).max() < 1e-5


def test_a_saved_adam_state_goes_on(codes, subspace, dtype):
    def stepped(state, rows):
        isic.fused.adam_update(rows, codes, state, rate=0.1, orthogonal_to=subspace)
        return rows

    state, rows = isic.fused.AdamState(dtype), codes.copy()
    stepped(state, rows)
    again = isic.fused.AdamState(dtype)
    again.mean, again.square, again.steps = state.mean, state.square.tolist(), state.steps
    assert np.array_equal(stepped(state, rows.copy()), stepped(again, rows.copy()))
    assert repr(again) == f"AdamState(300 x 12 {dtype}, steps=2)"


def ema_reference(codes, batches, p, locked, decay):
    out, counts, sums = codes.astype(float), np.ones(len(codes)), codes.astype(float)
    for vectors, ids in batches:
        counts = decay * counts + (1 - decay) * np.bincount(ids, minlength=len(codes))
        added = np.zeros_like(sums)
        np.add.at(added, ids, vectors.astype(float))
        sums = decay * sums + (1 - decay) * added
        moves = (counts > 0) & ~locked
        out[moves] += (sums[moves] / counts[moves, None] - out[moves]) @ p
    return out, counts, sums


@pytest.mark.parametrize("memory", MEMORY)
def test_ema_update(codes, subspace, rng, dtype, memory):
    batches = [(rng.standard_normal((500, 12)).astype(dtype), rng.integers(0, 300, 500)) for _ in range(3)]
    locked = rng.random(300) < 0.2
    expected, counts, sums = ema_reference(codes, batches, projector(subspace), locked, 0.9)
    after = []
    for threads in (1, 2):
        rows, state = MEMORY[memory](codes), isic.fused.EmaState(dtype)
        for vectors, ids in batches:
            isic.fused.ema_update(rows, MEMORY[memory](vectors), ids, state, decay=0.9, orthogonal_to=subspace, locked=locked.tolist(), threads=threads)
        after.append(np.asarray(rows).copy())
    assert np.array_equal(*after) and is_close(after[0], expected, dtype, 1000)
    assert is_close(state.counts, counts, dtype, 1000) and is_close(state.sums, sums, dtype, 1000)
    assert np.array_equal(after[0][locked], codes[locked]) and state.dtype == state.sums.dtype == dtype


def test_a_saved_ema_state_goes_on(codes, rng, dtype):
    state, again, vectors, ids = isic.fused.EmaState(dtype), isic.fused.EmaState(dtype), codes[::-1].copy(), rng.integers(0, 300, 300)
    isic.fused.ema_update(codes, vectors, ids, state, decay=0.5)
    again.counts, again.sums = state.counts, state.sums
    rows = codes.copy()
    isic.fused.ema_update(codes, vectors, ids, state, decay=0.5)
    isic.fused.ema_update(rows, vectors, ids.astype(np.int32), again, decay=0.5)
    assert np.array_equal(rows, codes) and repr(again) == f"EmaState(300 x 12 {dtype})"


def edits(subspace):
    """Each function that edits rows, called with the rows."""
    def adam(rows, **options):
        isic.fused.adam_update(rows, np.ones_like(rows), isic.fused.AdamState(str(rows.dtype)), orthogonal_to=subspace, **options)

    def ema(rows, **options):
        isic.fused.ema_update(rows, np.ones_like(rows), np.zeros(len(rows), int), isic.fused.EmaState(str(rows.dtype)), decay=0.5, orthogonal_to=subspace,
                      **options)

    return [lambda rows, **options: isic.fused.project_out(rows, subspace, **options), adam, ema]


def test_what_cannot_be_edited(codes, subspace):
    before = codes.copy()
    codes.flags.writeable = False
    for edit in edits(subspace):
        with pytest.raises(isic.ValueError, match="read-only"):
            edit(codes)
        with pytest.raises(isic.ShapeError, match="two dimensions"):
            edit(before[0].copy())
        with pytest.raises(isic.ShapeError, match="ascontiguousarray"):
            edit(np.asfortranarray(before))
        with pytest.raises(isic.ShapeError, match="12"):
            edit(before[:, :11].copy())
        with pytest.raises(isic.ValueError, match="threads >= 0"):
            edit(before, threads=-1)
    assert np.array_equal(codes, before)


def test_dtypes(codes, subspace, dtype):
    other = {"float32": "float64", "float64": "float32"}[dtype]
    for kind in ("float16", "int64"):
        with pytest.raises(isic.ValueError, match="float32"):
            isic.fused.project_out(codes.astype(kind), subspace)
    with pytest.raises(isic.ValueError, match="codes of float32 or float64, got float16"):
        isic.fused.adam_update(codes.astype("float16"), codes.astype("float16"), isic.fused.AdamState(), rate=0.1)
    with pytest.raises(isic.ValueError, match=f"a gradient of {dtype}, as the codes are, got {other}"):
        isic.fused.adam_update(codes, codes.astype(other), isic.fused.AdamState(dtype))
    with pytest.raises(isic.ValueError, match=f"vectors of {dtype}, as the codes are, got {other}"):
        isic.fused.ema_update(codes, codes.astype(other), np.zeros(300, int), isic.fused.EmaState(dtype), decay=0.5)
    with pytest.raises(isic.ValueError, match=f"a state of {dtype}"):
        isic.fused.adam_update(codes, codes.copy(), isic.fused.AdamState(other))
    with pytest.raises(isic.ValueError, match="dtype"):
        isic.fused.AdamState("float16")
    with pytest.raises(TypeError, match="array or a tensor"):
        isic.fused.project_out(codes.tolist(), subspace)


def test_arguments_that_do_not_fit(codes, subspace, dtype):
    before = codes.copy()
    for options in ({"strength": [1.0] * 299}, {"strength": []}, {"center": [0.0] * 11}, {"weights": [1.0]}, {"strength": [[1.0]]}):
        with pytest.raises(isic.ShapeError):
            isic.fused.project_out(codes, subspace, **options)
    for wrong in (None, subspace.basis):
        with pytest.raises(TypeError):
            isic.fused.project_out(codes, wrong)
    state = isic.fused.AdamState(dtype)
    with pytest.raises(isic.ShapeError, match="gradient"):
        isic.fused.adam_update(codes, codes[1:].copy(), state)
    with pytest.raises(isic.ShapeError, match="locked"):
        isic.fused.adam_update(codes, before, state, locked=[True])
    with pytest.raises(isic.ValueError, match="overlapping"):
        isic.fused.adam_update(codes, codes, state)
    with pytest.raises(isic.ValueError, match="rate"):
        isic.fused.adam_update(codes, before, state, rate=-1.0)
    assert state.steps == 0 and state.mean.size == 0
    state.mean = np.zeros((2, 12))
    with pytest.raises(isic.ShapeError, match="state"):
        isic.fused.adam_update(codes, before, state)
    for ids, error in (([300] * 300, isic.ValueError), ([-1] * 300, isic.ValueError), ([0], isic.ShapeError), ([0.5] * 300, isic.ValueError)):
        with pytest.raises(error):
            isic.fused.ema_update(codes, before, ids, isic.fused.EmaState(dtype), decay=0.5)
    with pytest.raises(isic.ValueError, match="decay"):
        isic.fused.ema_update(codes, before, [0] * 300, isic.fused.EmaState(dtype), decay=1.0)
    assert np.array_equal(codes, before)


def test_autograd_notices():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    codes = torch.ones(4, 3, requires_grad=True)
    loss = (codes**2).sum()
    isic.fused.adam_update(codes, torch.ones(4, 3), isic.fused.AdamState())
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def nearest_by_force(vectors, codes):
    v, c = vectors.astype(float), codes.astype(float)
    return ((v[:, None] - c) ** 2).sum(-1).argmin(1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_code_index(rng, dtype):
    codes = as_dtype(rng.standard_normal((200, 12)), dtype)
    index = isic.CodeIndex(codes)
    for kind in DTYPES:
        vectors = as_dtype(rng.standard_normal((150, 12)), kind)
        expected = nearest_by_force(vectors, codes)
        assert index.nearest(vectors).dtype == np.int64
        for threads in (0, 1, 2):
            assert np.array_equal(index.nearest(vectors, threads=threads), expected)
            assert np.array_equal(isic.nearest_codes(vectors, codes, threads=threads), expected)
    padding = np.unique(expected)[:20]
    assert not np.isin(isic.CodeIndex(codes, padding=padding).nearest(vectors), padding).any()
    unit = codes.astype(float) / np.linalg.norm(codes.astype(float), axis=1, keepdims=True)
    directions = vectors.astype(float) / np.linalg.norm(vectors.astype(float), axis=1, keepdims=True)
    assert np.array_equal(isic.CodeIndex(codes, metric="cosine").nearest(vectors), nearest_by_force(directions, unit))


def test_an_index_keeps_its_codebook_alive(rng):
    codes = rng.standard_normal((100, 8)).astype(np.float32)
    vectors, alive = codes[::-1].copy(), weakref.ref(codes)
    index = isic.CodeIndex(codes)
    del codes
    gc.collect()
    assert alive() is not None and index.nearest(vectors).tolist() == list(range(99, -1, -1))
    del index
    gc.collect()
    assert alive() is None


def test_an_index_says_what_it_cannot_do(rng):
    codes = rng.standard_normal((10, 4))
    for make, error in ((lambda: isic.CodeIndex([[1.0]]), TypeError), (lambda: isic.CodeIndex(np.zeros((0, 4))), isic.ShapeError),
                        (lambda: isic.CodeIndex(codes, padding=[10]), isic.ValueError),
                        (lambda: isic.CodeIndex(codes, padding=range(10)), isic.ValueError),
                        (lambda: isic.CodeIndex(codes, metric="dot"), isic.ValueError),
                        (lambda: isic.CodeIndex(codes * np.nan), isic.NumericError),
                        (lambda: isic.CodeIndex(codes).nearest(codes[:, :3].copy()), isic.ShapeError),
                        (lambda: isic.CodeIndex(codes).nearest(codes * np.inf), isic.NumericError),
                        (lambda: isic.CodeIndex(codes).nearest(codes, threads=-1), isic.ValueError)):
        with pytest.raises(error, match=r"^isic\.CodeIndex(\.nearest)?: "):
            make()


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_are_read_whatever_holds_them(rng, dtype):
    """Arrays of a codebook's dtypes are read in place; others, odd strides and lists after conversion: equal results."""
    codes, h, s = (as_dtype(rng.standard_normal((40, 6)), dtype) for _ in range(3))
    wide_h, wide_s = h.astype(float), s.astype(float)
    forms = [h, np.asfortranarray(h), np.concatenate([h, h], axis=1)[:, :6], np.repeat(h, 2, axis=1)[:, ::2], wide_h, wide_h.tolist()]
    if dtype != "bfloat16":  # unknown to both
        forms.append(h.astype(h.dtype.newbyteorder()))
        forms += [torch_of(h).requires_grad_()] if importlib.util.find_spec("torch") else []
    for form in forms:
        assert np.array_equal(isic.differences(form, s), wide_h - wide_s)
        assert np.array_equal(isic.nearest_codes(form, codes), nearest_by_force(h, codes))
        assert np.array_equal(isic.assign(form, [1] * 40, codes=2).sums[1], isic.assign(wide_h, [1] * 40, codes=2).sums[1])
        assert isic.nearest_code_churn(form, codes, codes) == 0
        assert np.allclose(isic.fit_subspace(form, rank=2).basis, isic.fit_subspace(wide_h, rank=2).basis, atol=1e-6)
        pairs = isic.DifferenceAccumulator(width=6)
        pairs.add_rows(form, s)
        assert np.allclose(pairs.second_moment(), (wide_h - wide_s).T @ (wide_h - wide_s))
        stepped, expected = np.zeros((40, 6)), np.zeros((40, 6))
        isic.adam_update(stepped, form, isic.AdamState())
        isic.adam_update(expected, wide_h, isic.AdamState())
        assert np.array_equal(stepped, expected)


def test_no_copy_of_rows_is_made():
    rows = np.ones((50_000, 16), dtype=np.float32)
    gradient, ids = np.ones((50_000, 16), dtype=np.float16), np.zeros(50_000, dtype=np.int64)
    tracemalloc.start()
    isic.fused.project_out(rows, isic.span_of(np.eye(16)[:, :1]))
    isic.sgd_update(rows, gradient, isic.SgdState())
    isic.differences(rows[:10], gradient[:10])
    isic.nearest_code_churn(rows, rows[:4], rows[:4])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < ids.nbytes


def test_threads_of_a_fit(rng):
    rows = rng.standard_normal((3000, 20)).astype(np.float32)
    one, two = (isic.fit_subspace(rows, rank=2, threads=threads) for threads in (1, 2))
    assert np.allclose(one.basis, two.basis, atol=1e-12)
    with pytest.raises(isic.ValueError, match="threads"):
        isic.fit_subspace(rows, threads=-2)
