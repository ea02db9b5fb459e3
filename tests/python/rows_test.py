"""Inner loops on rows where they lie, against float64 references of numpy."""

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
def harm(rng):
    return isic.span_of(rng.standard_normal((12, 3)))


@pytest.fixture
def codes(rng, dtype):
    return rng.standard_normal((300, 12)).astype(dtype)


def projector(harm):
    return np.eye(harm.basis.shape[0]) - harm.basis @ harm.basis.T


def is_close(rows, reference, dtype, roundings=64):
    return np.abs(np.asarray(rows, dtype=float) - reference).max() <= roundings * UNIT[dtype] * max(1.0, np.abs(reference).max())


@pytest.mark.parametrize("memory", MEMORY)
def test_project_rows(codes, harm, dtype, memory):
    rows = MEMORY[memory](codes)
    assert isic.project_rows(rows, harm) is None
    assert is_close(rows, codes.astype(float) @ projector(harm), dtype)


def test_rows_between_those_that_are_edited(codes, harm):
    wide = np.concatenate([codes, codes], axis=1)
    isic.project_rows(wide[::2, :12], harm)
    assert np.array_equal(wide[:, 12:], codes) and np.array_equal(wide[1::2, :12], codes[1::2])
    assert not np.array_equal(wide[::2, :12], codes[::2])


def test_project_rows_options(codes, harm, rng, dtype):
    wide, v = codes.astype(float), harm.basis
    strength, center, weights = rng.random(300), rng.standard_normal(12), [0.5, 1.0, 0.0]
    strength[:5] = 0

    def after(**options):
        rows = codes.copy()
        isic.project_rows(rows, isic.RowBasis(harm), **options)
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
    isic.project_rows(rows, harm)
    assert np.array_equal(rows, after())


def test_a_row_with_nan_disturbs_no_other(codes, harm, dtype):
    codes[7] = np.nan
    rows = codes.copy()
    isic.project_rows(rows, harm)
    others = np.arange(300) != 7
    assert np.isnan(rows[7]).all() and is_close(rows[others], codes[others].astype(float) @ projector(harm), dtype)


def test_row_basis(harm):
    basis = isic.RowBasis(harm)
    assert (basis.rank, basis.width, repr(basis)) == (3, 12, "RowBasis(width=12, rank=3)")
    with pytest.raises(isic.ValueError, match="orthonormal"):
        isic.RowBasis(isic.Subspace(2 * harm.basis, harm.singular_values, harm.energy, harm.chosen))
    with pytest.raises(TypeError, match=r"isic\.RowBasis: expected harm to be an isic\.Subspace, got ndarray"):
        isic.RowBasis(harm.basis)


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
def test_adam_rows(codes, harm, rng, dtype, memory):
    gradients = rng.standard_normal((4, 300, 12)).astype(dtype)
    options = dict(rate=0.05, beta1=0.8, beta2=0.95, epsilon=1e-6)
    locked = rng.random(300) < 0.2
    expected, mean, square = adam_reference(codes, gradients, projector(harm), locked, **options)
    rows, state, basis = MEMORY[memory](codes), isic.AdamRowState(dtype), isic.RowBasis(harm)
    for gradient in gradients:
        isic.adam_rows(rows, MEMORY[memory](gradient), state, orthogonal_to=basis, locked=locked, **options)
    assert is_close(rows, expected, dtype, 1000)
    assert state.steps == 4 and state.dtype == state.mean.dtype == dtype
    assert is_close(state.mean, mean, dtype, 1000) and is_close(state.square, square, dtype, 1000)
    assert np.array_equal(np.asarray(rows)[locked], codes[locked])


def test_adam_rows_is_adam_update(rng, harm):
    codes, gradient = rng.standard_normal((2, 50, 12))
    checked, state, row_state = codes.copy(), isic.AdamState(), isic.AdamRowState("float64")
    for _ in range(3):
        isic.adam_update(checked, gradient, state, rate=0.1, constraint=isic.Constraint(orthogonal_to=harm))
        isic.adam_rows(codes, gradient, row_state, rate=0.1, orthogonal_to=harm)
    assert np.allclose(codes, checked, atol=1e-13)


def test_adam_rows_plain_and_threads(rng, dtype):
    codes, gradient = rng.standard_normal((2, 2000, 12)).astype(dtype)
    after = []
    for threads in (1, 2):
        rows, state = codes.copy(), isic.AdamRowState(dtype)
        isic.adam_rows(rows, gradient, state, rate=0.1, threads=threads)
        after.append(rows)
    assert np.array_equal(*after)
    expected, _, _ = adam_reference(codes, [gradient], np.eye(12), np.zeros(2000, bool), 0.1, 0.9, 0.999, 1e-8)
    assert np.abs(after[0] - expected).max() < 1e-5


def test_a_saved_adam_state_goes_on(codes, harm, dtype):
    def stepped(state, rows):
        isic.adam_rows(rows, codes, state, rate=0.1, orthogonal_to=harm)
        return rows

    state, rows = isic.AdamRowState(dtype), codes.copy()
    stepped(state, rows)
    again = isic.AdamRowState(dtype)
    again.mean, again.square, again.steps = state.mean, state.square.tolist(), state.steps
    assert np.array_equal(stepped(state, rows.copy()), stepped(again, rows.copy()))
    assert repr(again) == f"AdamRowState(300 x 12 {dtype}, steps=2)"


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
def test_ema_rows(codes, harm, rng, dtype, memory):
    batches = [(rng.standard_normal((500, 12)).astype(dtype), rng.integers(0, 300, 500)) for _ in range(3)]
    locked = rng.random(300) < 0.2
    expected, counts, sums = ema_reference(codes, batches, projector(harm), locked, 0.9)
    after = []
    for threads in (1, 2):
        rows, state = MEMORY[memory](codes), isic.EmaRowState(dtype)
        for vectors, ids in batches:
            isic.ema_rows(rows, MEMORY[memory](vectors), ids, state, decay=0.9, orthogonal_to=harm, locked=locked.tolist(), threads=threads)
        after.append(np.asarray(rows).copy())
    assert np.array_equal(*after) and is_close(after[0], expected, dtype, 1000)
    assert is_close(state.counts, counts, dtype, 1000) and is_close(state.sums, sums, dtype, 1000)
    assert np.array_equal(after[0][locked], codes[locked]) and state.dtype == state.sums.dtype == dtype


def test_a_saved_ema_state_goes_on(codes, rng, dtype):
    state, again, vectors, ids = isic.EmaRowState(dtype), isic.EmaRowState(dtype), codes[::-1].copy(), rng.integers(0, 300, 300)
    isic.ema_rows(codes, vectors, ids, state, decay=0.5)
    again.counts, again.sums = state.counts, state.sums
    rows = codes.copy()
    isic.ema_rows(codes, vectors, ids, state, decay=0.5)
    isic.ema_rows(rows, vectors, ids.astype(np.int32), again, decay=0.5)
    assert np.array_equal(rows, codes) and repr(again) == f"EmaRowState(300 x 12 {dtype})"


def edits(harm):
    """Each function that edits rows, given the rows."""
    def adam(rows, **options):
        isic.adam_rows(rows, np.ones_like(rows), isic.AdamRowState(str(rows.dtype)), orthogonal_to=harm, **options)

    def ema(rows, **options):
        isic.ema_rows(rows, np.ones_like(rows), np.zeros(len(rows), int), isic.EmaRowState(str(rows.dtype)), decay=0.5, orthogonal_to=harm,
                      **options)

    return [lambda rows, **options: isic.project_rows(rows, harm, **options), adam, ema]


def test_what_cannot_be_edited(codes, harm):
    before = codes.copy()
    codes.flags.writeable = False
    for edit in edits(harm):
        with pytest.raises(isic.ValueError, match="read-only"):
            edit(codes)
        with pytest.raises(isic.ShapeError, match="two dimensions"):
            edit(before[0].copy())
        with pytest.raises(isic.ShapeError, match="ascontiguousarray"):
            edit(np.asfortranarray(before))
        with pytest.raises(isic.ShapeError, match="12"):
            edit(before[:, :11].copy())
        with pytest.raises(isic.ValueError, match="threads >= 1"):
            edit(before, threads=-1)
    assert np.array_equal(codes, before)


def test_dtypes(codes, harm, dtype):
    other = {"float32": "float64", "float64": "float32"}[dtype]
    for kind in ("float16", "int64"):
        with pytest.raises(isic.ValueError, match="float32"):
            isic.project_rows(codes.astype(kind), harm)
    with pytest.raises(isic.ValueError, match="codes of float32 or float64, got float16"):
        isic.adam_rows(codes.astype("float16"), codes.astype("float16"), isic.AdamRowState(), rate=0.1)
    with pytest.raises(isic.ValueError, match=f"a gradient of {dtype}, as the codes are, got {other}"):
        isic.adam_rows(codes, codes.astype(other), isic.AdamRowState(dtype))
    with pytest.raises(isic.ValueError, match=f"vectors of {dtype}, as the codes are, got {other}"):
        isic.ema_rows(codes, codes.astype(other), np.zeros(300, int), isic.EmaRowState(dtype), decay=0.5)
    with pytest.raises(isic.ValueError, match=f"a state of {dtype}"):
        isic.adam_rows(codes, codes.copy(), isic.AdamRowState(other))
    with pytest.raises(isic.ValueError, match="dtype"):
        isic.AdamRowState("float16")
    with pytest.raises(TypeError, match="array or a tensor"):
        isic.project_rows(codes.tolist(), harm)


def test_arguments_that_do_not_fit(codes, harm, dtype):
    before = codes.copy()
    for options in ({"strength": [1.0] * 299}, {"strength": []}, {"center": [0.0] * 11}, {"weights": [1.0]}, {"strength": [[1.0]]}):
        with pytest.raises(isic.ShapeError):
            isic.project_rows(codes, harm, **options)
    for wrong in (None, harm.basis):
        with pytest.raises(TypeError):
            isic.project_rows(codes, wrong)
    state = isic.AdamRowState(dtype)
    with pytest.raises(isic.ShapeError, match="gradient"):
        isic.adam_rows(codes, codes[1:].copy(), state)
    with pytest.raises(isic.ShapeError, match="locked"):
        isic.adam_rows(codes, before, state, locked=[True])
    with pytest.raises(isic.ValueError, match="overlapping"):
        isic.adam_rows(codes, codes, state)
    with pytest.raises(isic.ValueError, match="rate"):
        isic.adam_rows(codes, before, state, rate=-1.0)
    assert state.steps == 0 and state.mean.size == 0
    state.mean = np.zeros((2, 12))
    with pytest.raises(isic.ShapeError, match="state"):
        isic.adam_rows(codes, before, state)
    for ids, error in (([300] * 300, isic.ValueError), ([-1] * 300, isic.ValueError), ([0], isic.ShapeError), ([0.5] * 300, isic.ValueError)):
        with pytest.raises(error):
            isic.ema_rows(codes, before, ids, isic.EmaRowState(dtype), decay=0.5)
    with pytest.raises(isic.ValueError, match="decay"):
        isic.ema_rows(codes, before, [0] * 300, isic.EmaRowState(dtype), decay=1.0)
    assert np.array_equal(codes, before)


def test_autograd_notices():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    codes = torch.ones(4, 3, requires_grad=True)
    loss = (codes**2).sum()
    isic.adam_rows(codes, torch.ones(4, 3), isic.AdamRowState())
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
                        (lambda: isic.CodeIndex(codes, metric="cosine"), isic.ValueError),
                        (lambda: isic.CodeIndex(codes * np.nan), isic.NumericError),
                        (lambda: isic.CodeIndex(codes).nearest(codes[:, :3].copy()), isic.ShapeError),
                        (lambda: isic.CodeIndex(codes).nearest(codes * np.inf), isic.NumericError),
                        (lambda: isic.CodeIndex(codes).nearest(codes, threads=-1), isic.ValueError)):
        with pytest.raises(error, match=r"^isic\.CodeIndex(\.nearest)?: "):
            make()


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_are_read_whatever_holds_them(rng, dtype):
    """Arrays of a codebook's dtypes as they lie; others, odd strides and lists after conversion: the same numbers."""
    codes, h, s = (as_dtype(rng.standard_normal((40, 6)), dtype) for _ in range(3))
    wide_h, wide_s = h.astype(float), s.astype(float)
    forms = [h, np.asfortranarray(h), np.concatenate([h, h], axis=1)[:, :6], np.repeat(h, 2, axis=1)[:, ::2], wide_h, wide_h.tolist()]
    if dtype != "bfloat16":  # which neither knows
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
    isic.project_rows(rows, isic.span_of(np.eye(16)[:, :1]))
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
