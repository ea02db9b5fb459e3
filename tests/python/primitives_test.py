# SPDX-License-Identifier: Apache-2.0
"""The primitives against independent float64 references of numpy."""

import copy
import json
import math
import operator
import pickle

import numpy as np
import pytest

import isic
from support import DTYPES, UNIT, as_dtype


@pytest.fixture
def case(rng):
    """Pairs whose differences lie near a plane in 16 dimensions."""
    codes = rng.standard_normal((60, 16))
    subspace = np.linalg.qr(rng.standard_normal((16, 2)))[0]
    codes[:20] += (rng.standard_normal((20, 2)) * 4) @ subspace.T
    return codes, subspace, rng.integers(0, 20, 300), rng.integers(20, 60, 300)


def angle_between(a, b):
    return math.asin(min(1.0, float(np.linalg.norm(b - a @ (a.T @ b), 2))))


def test_differences(rng):
    h, s = rng.standard_normal((2, 6, 4))
    assert np.array_equal(isic.differences(h, s), h - s)
    assert np.allclose(isic.pooled_differences(h, s, group=3), (h - s).reshape(2, 3, 4).mean(1))
    ids, other = rng.integers(0, 6, (2, 5, 7))
    counts = isic.histograms(ids, codes=6)
    assert np.array_equal(counts, [np.bincount(row, minlength=6) for row in ids])
    assert np.allclose(isic.bag_of_codes_differences(h, ids, other), (counts - isic.histograms(other, codes=6)) @ h / 7)


@pytest.mark.parametrize("dtype", DTYPES)
def test_accumulator(case, dtype):
    codes, _, h, s = case
    codes = as_dtype(codes, dtype)
    wide = codes.astype(float)
    pairs = isic.DifferenceAccumulator(codes)
    pairs.add(h[:100], s[:100])
    other = isic.DifferenceAccumulator(codes)
    other.add(h[100:].reshape(2, 100), s[100:].reshape(2, 100))
    other.add_safe([59, 59])
    pairs.merge(other)
    d = wide[h] - wide[s]
    assert pairs.count == 300 and pairs.width == 16
    assert np.allclose(pairs.mean(), d.mean(0))
    assert np.allclose(pairs.second_moment(), d.T @ d)
    safe = np.append(s, [59, 59])
    assert np.array_equal(pairs.usage.safe, np.bincount(safe, minlength=60))
    assert np.allclose(pairs.safe_mean(), wide[safe].mean(0))
    assert np.allclose(pairs.safe_second_moment(), wide[safe].T @ wide[safe])


def test_accumulator_of_rows(rng):
    h, s = rng.standard_normal((2, 30, 5))
    pairs = isic.DifferenceAccumulator(width=5)
    pairs.add_rows(h, s.astype(np.float32))
    assert np.allclose(pairs.mean(), (h - s).mean(0), atol=1e-7)
    assert np.allclose(pairs.safe_mean(), s.mean(0), atol=1e-7)
    assert pairs.usage.harmful.size == 0
    with pytest.raises(isic.ShapeError, match="over a codebook"):
        pairs.add([0], [0])


def test_fit_finds_the_singular_vectors(case):
    codes, _, h, s = case
    d = codes[h] - codes[s]
    _, sigma, vt = np.linalg.svd(d, full_matrices=False)
    for fitted in (isic.fit_subspace(d, rank=3), isic.fit_subspace(d.astype(np.float32), rank=3)):
        assert angle_between(vt[:3].T, fitted.basis) < 1e-5
        assert fitted.energy == pytest.approx((sigma[:3] ** 2).sum() / (sigma**2).sum())
        assert fitted.chosen == isic.RankChoice(3, "fixed")
    pairs = isic.DifferenceAccumulator(codes)
    pairs.add(h, s)
    streamed = isic.fit_subspace(pairs, energy=0.5, gavish_donoho=False)
    assert streamed.rank == int(np.searchsorted(np.cumsum(sigma**2) / (sigma**2).sum(), 0.5)) + 1
    assert np.allclose(streamed.basis.T @ streamed.basis, np.eye(streamed.rank), atol=1e-12)
    _, _, centred = np.linalg.svd(d - d.mean(0), full_matrices=False)
    assert angle_between(centred[:1].T, isic.fit_subspace(d, rank=1, center="mean").basis) < 1e-6
    _, _, safe = np.linalg.svd(codes[s], full_matrices=False)
    _, _, without = np.linalg.svd(d - d @ np.outer(safe[0], safe[0]), full_matrices=False)
    assert angle_between(without[:1].T, isic.fit_subspace(pairs, rank=1, center="safe_axis").basis) < 1e-6


def test_rank_rules(rng):
    signal = rng.standard_normal((400, 2)) @ rng.standard_normal((2, 20)) * 10 + rng.standard_normal((400, 20))
    assert isic.fit_subspace(signal, energy=None, max_rank=10).chosen == isic.RankChoice(2, "gavish_donoho")
    assert isic.fit_subspace(signal, energy=None, gavish_donoho=False, sign_flips=20, max_rank=10).chosen == isic.RankChoice(2, "sign_flip")
    assert isic.fit_subspace(signal, max_rank=1).chosen == isic.RankChoice(1, "budget")
    assert isic.fit_subspace(signal, energy=0.3).chosen == isic.RankChoice(1, "energy")


def test_merge_and_angles(rng):
    a, b = isic.span_of(rng.standard_normal((8, 2))), isic.span_of(rng.standard_normal((8, 3)))
    both = isic.merge(a, b)
    assert both.rank == 5 and np.array_equal(both.basis[:, :2], a.basis)
    assert angle_between(both.basis, b.basis) < 1e-12
    cosines = np.linalg.svd(a.basis.T @ b.basis, compute_uv=False)
    assert np.allclose(isic.principal_angles(a, b), np.arccos(cosines))
    assert both.energy == pytest.approx(1) and isic.merge(a, a).energy == pytest.approx(1)
    with pytest.raises(isic.ValueError, match="at most 4"):
        isic.merge(a, b, max_rank=4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_project_out(case, dtype):
    codes, subspace, *_ = case
    codes = as_dtype(codes, dtype)
    old = codes.astype(float)
    v = isic.span_of(subspace)
    before = np.linalg.norm(old @ subspace) / np.linalg.norm(old)
    edit = isic.project_out(codes, v, near_zero_below=0.0)
    new = codes.astype(float)
    assert np.abs(new - (old - old @ subspace @ subspace.T)).max() <= 8 * UNIT[dtype] * np.abs(old).max()
    assert edit.summary.before.total == pytest.approx(before) and before > 0.3
    assert edit.summary.after.total < 2 * UNIT[dtype]
    assert isic.leakage(codes, v).total == pytest.approx(edit.summary.after.total)
    assert isic.project_out(codes, v, near_zero_below=0.0).summary.moved == 0  # idempotent, bit for bit


def test_threads_change_no_byte(rng):
    start = rng.standard_normal((3000, 48)).astype(np.float32)
    gradient = rng.standard_normal(start.shape)
    subspace = isic.span_of(rng.standard_normal((48, 3)))

    def after(edit):
        codes = start.copy()
        edit(codes)
        assert not np.array_equal(codes, start)
        return codes

    def adam(codes, threads):
        isic.adam_update(codes, gradient, isic.AdamState(), rate=0.1, constraint=isic.Constraint(orthogonal_to=subspace, threads=threads))

    edits = (lambda codes, threads: isic.project_out(codes, subspace, threads=threads),
             lambda codes, threads: isic.remap(codes, target=gradient, threads=threads), adam)
    for edit in edits:
        one = after(lambda codes: edit(codes, 1))
        assert np.array_equal(after(lambda codes: edit(codes, 3)), one)
        assert np.array_equal(after(lambda codes: edit(codes, 0)), one)
        codes = start.copy()
        with pytest.raises(isic.ValueError, match="threads >= 0"):
            edit(codes, -1)
        assert np.array_equal(codes, start)
    assert isic.leakage(start, subspace, threads=3) == isic.leakage(start, subspace, threads=1)
    with pytest.raises(isic.ValueError, match="threads >= 0"):
        isic.leakage(start, subspace, threads=-1)


def test_project_out_options(case, rng):
    codes, subspace, *_ = case
    v = isic.span_of(subspace)
    projector = v.basis @ v.basis.T
    strength, target, center, weights = rng.random(60), rng.standard_normal((60, 16)), rng.standard_normal(16), np.array([0.5, 1.0])
    strength[:5] = 0

    def after(**options):
        out = codes.copy()
        isic.project_out(out, v, near_zero_below=0.0, **options)
        return out

    assert np.allclose(after(strength=strength), codes - strength[:, None] * (codes @ projector))
    assert np.array_equal(after(strength=strength)[:5], codes[:5])
    assert np.allclose(after(strength=0.25), after(strength=np.float32(0.25))) and np.allclose(after(strength=1), after())
    assert np.allclose(after(target=target.astype(np.float32)), codes + (target - codes) @ projector, atol=1e-5)
    assert np.allclose(after(center=center), codes + (center - codes) @ projector)
    assert np.allclose(after(weights=weights), codes - codes @ v.basis @ np.diag(weights) @ v.basis.T)
    assert np.allclose(np.linalg.norm(after(keep_norms=True), axis=1), np.linalg.norm(codes, axis=1))
    assert np.array_equal(after(padding=[7, 8])[7:9], codes[7:9])
    normalised = after(metric="cosine")
    assert np.allclose(normalised @ subspace, 0) and np.allclose(np.linalg.norm(normalised, axis=1), np.linalg.norm(codes, axis=1))
    out = codes.copy()
    isic.remap(out, target=target, strength=strength)
    assert np.allclose(out, codes + strength[:, None] * (target - codes))


@pytest.mark.parametrize(("policy", "expected"), [("zero", [0, 0]), ("skip", [5, 0.01]), ("nearest_safe", [0, 1])])
def test_near_zero_policy(policy, expected):
    codes = np.array([[5, 0.01], [0, 1.0], [0.0, 3.0]])
    edit = isic.project_out(codes, isic.span_of([[1.0], [0.0]]), near_zero=policy)
    assert codes[0].tolist() == expected and edit.summary.near_zero == 1
    with pytest.raises(isic.NumericError, match="rows"):
        isic.project_out(np.array([[5, 0.01], [0, 1.0]]), isic.span_of([[1.0], [0.0]]), near_zero="error")


def test_harmfulness():
    usage = isic.CodeUsage(np.array([8.0, 2, 0, 0]), np.array([1.0, 2, 17, 0]))
    pi = (usage.harmful + usage.safe + 0.5) / (30 + 4 * 0.5)
    prior_h, prior_s = 4 * 10 / 30, 4 * 20 / 30  # 2 A = 2 * 0.5 * 4, in proportion to the tokens
    h, s = (usage.harmful + prior_h * pi) / (10 + prior_h), (usage.safe + prior_s * pi) / (20 + prior_s)
    scores = isic.code_harmfulness(usage)
    assert np.allclose(scores.harmfulness, h / (h + s)) and scores.harmfulness[3] == pytest.approx(0.5)
    assert np.allclose(isic.code_strength(scores), np.clip((h / (h + s) - 0.6) / 0.3, 0, 1))
    assert np.allclose(isic.excess_strength(scores), np.maximum(0, 1 - s / h))
    assert isic.gate_strength(scores.z, threshold=1.0).tolist() == [1, 0, 0, 0]


def test_counterpart_targets(case):
    codes, _, h, s = case
    goals = isic.CounterpartTargets(codes)
    goals.add(h, s)
    mu = codes[s].mean(0)
    expected = np.array([(codes[s[h == k]].sum(0) + 2 * mu) / ((h == k).sum() + 2) for k in range(60)])
    assert np.allclose(goals.targets(), expected)
    assert np.array_equal(goals.counts, np.bincount(h, minlength=60))


@pytest.mark.parametrize("dtype", DTYPES)
def test_updates(rng, dtype):
    codes = as_dtype(rng.standard_normal((6, 4)), dtype)
    vectors, ids = rng.standard_normal((40, 4)), rng.integers(0, 5, 40)
    batch = isic.assign(vectors, ids, codes=6)
    old, tolerance = codes.astype(float), 8 * UNIT[dtype]
    v = isic.span_of(rng.standard_normal((4, 1)))
    keep = np.eye(4) - v.basis @ v.basis.T
    locked = np.array([True, False, False, False, False, False])
    summary = isic.ridge_update(codes, batch, weight=1.0, constraint=isic.Constraint(orthogonal_to=v, locked=locked))
    step = (batch.sums - batch.counts[:, None] * old) / (batch.counts + 1)[:, None] @ keep
    step[0] = 0
    assert summary.moved == 4
    assert np.allclose(codes.astype(float), old + step, atol=tolerance * 4)

    old = codes.astype(float)
    state = isic.EmaState()
    isic.ema_update(codes, state, batch, decay=0.5)
    n, sums = 0.5 + 0.5 * batch.counts, 0.5 * old + 0.5 * batch.sums
    assert np.allclose(codes.astype(float), sums / n[:, None], atol=tolerance * 4)
    assert np.allclose(state.counts, n) and np.allclose(state.sums, sums)


def test_sgd_and_adam(rng):
    codes, gradients = rng.standard_normal((5, 4)), rng.standard_normal((3, 5, 4))
    v = isic.span_of(rng.standard_normal((4, 2)))
    keep = np.eye(4) - v.basis @ v.basis.T
    limits = isic.Constraint(orthogonal_to=v)

    ours, expected, velocity = codes.copy(), codes.copy(), np.zeros((5, 4))
    state = isic.SgdState()
    for g in gradients:
        isic.sgd_update(ours, g, state, rate=0.1, momentum=0.9, constraint=limits)
        velocity = 0.9 * velocity + g
        expected = expected - 0.1 * velocity @ keep
    assert np.allclose(ours, expected) and np.allclose(state.velocity, velocity)

    ours, expected, m, q = codes.copy(), codes.copy(), np.zeros((5, 4)), np.zeros((5, 4))
    adam = isic.AdamState()
    for t, g in enumerate(gradients, 1):
        isic.adam_update(ours, g, adam, rate=0.1, constraint=limits)
        m, q = 0.9 * m + 0.1 * (g @ keep), 0.999 * q + 0.001 * (g @ keep) ** 2
        expected = expected - 0.1 * (m / (1 - 0.9**t) / (np.sqrt(q / (1 - 0.999**t)) + 1e-8)) @ keep
    assert np.allclose(ours, expected) and adam.steps == 3

    resumed = isic.AdamState()
    resumed.mean, resumed.square, resumed.steps = adam.mean, adam.square, adam.steps
    a, b = ours.copy(), ours.copy()
    isic.adam_update(a, gradients[0], adam)
    isic.adam_update(b, gradients[0], resumed)
    assert np.array_equal(a, b)


def test_within_a_radius(rng):
    codes = rng.standard_normal((5, 4))
    anchor = codes.copy()
    isic.sgd_update(codes, rng.standard_normal((5, 4)) * 100, isic.SgdState(), constraint=isic.Constraint(within=0.5, anchor=anchor))
    assert np.allclose(np.linalg.norm(codes - anchor, axis=1), 0.5)


def test_metrics(rng):
    before = rng.standard_normal((30, 4)).astype(np.float32)
    after = (before + 0.3 * rng.standard_normal((30, 4))).astype(np.float16)
    step = after.astype(float) - before
    report = isic.drift(before, after)
    assert report.relative == pytest.approx(np.linalg.norm(step) / np.linalg.norm(before.astype(float)))
    assert report.largest == pytest.approx(np.linalg.norm(step, axis=1).max())
    z = rng.standard_normal((50, 4))

    def nearest(codes):
        return ((z[:, None] - codes.astype(float)) ** 2).sum(2).argmin(1)

    assert np.array_equal(isic.nearest_codes(z, before), nearest(before))
    assert isic.nearest_code_churn(z, before, after) == pytest.approx((nearest(before) != nearest(after)).mean())
    assert isic.collapsed_pairs(np.array([[0.0, 1], [0, 1], [0, 1.05], [5, 5]]), tolerance=0.1) == 3
    counts = np.array([3.0, 1, 4])
    p = counts / counts.sum()
    assert isic.usage_perplexity(counts) == pytest.approx(np.exp(-(p * np.log(p)).sum()))
    assert isic.fingerprint(before) == isic.fingerprint(before.copy()) != isic.fingerprint(after)


@pytest.mark.parametrize("size", [1e-320, 1e-200, 1e-160, 1e155, 1e200, 1e307])
def test_codes_are_told_apart_where_squares_do_not_fit_float64(size):
    codes = np.array([[-1, 0], [0, -1], [1, 1], [0, 1], [1, 0]]) * size
    vectors = np.array([[3, 1], [1, 3], [1, 1], [0.125, -1]]) * size
    assert isic.nearest_codes(vectors, codes).tolist() == isic.CodeIndex(codes).nearest(vectors).tolist() == [2, 2, 2, 1]
    assert isic.nearest_codes(vectors, codes, metric="cosine").tolist() == [4, 3, 2, 1]
    assert isic.nearest_code_churn(vectors, codes, codes[::-1].copy()) == 0.25


def test_edits(tmp_path, rng):
    codes = rng.standard_normal((10, 4)).astype(np.float32)
    original = codes.copy()
    edit = isic.project_out(codes, isic.span_of(rng.standard_normal((4, 1))), strength=[1.0] + [0.0] * 9)
    edited = codes.copy()
    edit.save(tmp_path / "edit.safetensors")
    loaded = isic.load_edit(str(tmp_path / "edit.safetensors"))
    loaded.undo(codes)
    assert np.array_equal(codes, original)
    loaded.apply(codes)
    assert np.array_equal(codes, edited)
    assert loaded.to_dict() == edit.to_dict() and json.dumps(edit.to_dict())
    assert isic.Edit.between(original, edited).ids.tolist() == [0]
    with pytest.raises(isic.ValueError, match="original codebook"):
        loaded.apply(codes)
    with pytest.raises(TypeError, match="pass it"):
        loaded.undo()
    (tmp_path / "bad").write_bytes(b"no file of isic")
    with pytest.raises(isic.IoError) as caught:
        isic.load_edit(tmp_path / "bad")
    assert isinstance(caught.value, OSError)


def test_a_with_block_undoes(rng):
    codes = rng.standard_normal((10, 4)).astype(np.float16)
    original, subspace = codes.copy(), isic.span_of(rng.standard_normal((4, 1)))
    with isic.project_out(codes, subspace) as edit:
        assert edit.summary.moved == 10 and not np.array_equal(codes, original)
    assert codes.tobytes() == original.tobytes()
    with pytest.raises(RuntimeError, match="inside"), isic.project_out(codes, subspace):
        raise RuntimeError("inside")
    with isic.project_out(codes, subspace) as edit:
        edit.undo()
    with pytest.raises(isic.ValueError, match="edited codebook"), isic.project_out(codes, subspace) as edit:
        codes[0] = 7
    codes[:] = original
    assert codes.tobytes() == original.tobytes()


def test_results_print_and_become_dictionaries(rng):
    subspace = isic.fit_subspace(rng.standard_normal((9, 4)), rank=2)
    assert repr(subspace).startswith("Subspace(width=4, rank=2, energy=0.") and len(repr(subspace)) < 100
    as_dict = subspace.to_dict()
    assert np.allclose(as_dict["basis"], subspace.basis) and as_dict["chosen"] == {"rank": 2, "decided_by": "fixed"}
    assert json.loads(json.dumps(as_dict)) == as_dict
    again = isic.Subspace(np.array(as_dict["basis"]), np.array(as_dict["singular_values"]), as_dict["energy"], isic.RankChoice(2, "fixed"))
    assert isic.principal_angles(subspace, again).max() < 1e-12


def pickled(value):
    return pickle.loads(pickle.dumps(value))


COPIES = pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, pickled], ids=["copy", "deepcopy", "pickle"])


@COPIES
@pytest.mark.parametrize("name", ["EmaState", "SgdState", "AdamState", "fused.EmaState", "fused.AdamState"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_copied_states_go_on(name, dtype, again, rng):
    codes, gradient = rng.standard_normal((2, 5, 4)).astype(dtype)
    ids = [0, 1, 1, 4, 4]
    step = {"EmaState": lambda c, s: isic.ema_update(c, s, isic.assign(gradient, ids, codes=5), decay=0.5),
            "SgdState": lambda c, s: isic.sgd_update(c, gradient, s, momentum=0.5),
            "AdamState": lambda c, s: isic.adam_update(c, gradient, s),
            "fused.EmaState": lambda c, s: isic.fused.ema_update(c, gradient, ids, s, decay=0.5),
            "fused.AdamState": lambda c, s: isic.fused.adam_update(c, gradient, s)}[name]
    state = operator.attrgetter(name)(isic)(*[dtype] * name.startswith("fused."))
    for _ in range(2):  # empty at first
        other, ours = again(state), codes.copy()
        assert type(other) is type(state) and repr(other) == repr(state)
        step(ours, other)
        step(codes, state)
        assert np.array_equal(ours, codes)
    kept = again(state)
    step(codes, state)
    assert not all(np.array_equal(getattr(kept, part), getattr(state, part)) for part in dir(state) if part in ("counts", "velocity", "mean", "square"))


@COPIES
def test_copied_values(again, rng):
    codes = rng.standard_normal((9, 4))
    pairs = isic.DifferenceAccumulator(codes)
    pairs.add([0, 1, 2], [3, 4, 5])
    subspace = isic.fit_subspace(pairs, rank=2)
    for value in (subspace, isic.FittedSubspace(subspace, usage=pairs.usage), isic.code_harmfulness(pairs.usage), isic.Constraint(orthogonal_to=subspace),
                  isic.assign(codes, range(9), codes=9), isic.leakage(codes, subspace), isic.wilson(1, 2)):
        assert type(again(value)) is type(value) and again(value).to_dict() == value.to_dict()
    basis = again(isic.fused.Basis(subspace))
    assert repr(basis) == "Basis(width=4, rank=2)"
    for dtype in ("float32", "float64"):
        ours, expected = codes.astype(dtype), codes.astype(dtype)
        isic.fused.project_out(ours, basis)
        isic.fused.project_out(expected, isic.fused.Basis(subspace))
        assert np.array_equal(ours, expected)


@COPIES
@pytest.mark.parametrize("dtype", DTYPES)
def test_copied_edits(again, dtype, rng):
    codes = as_dtype(rng.standard_normal((9, 4)), dtype)
    original, subspace = codes.copy(), isic.span_of(rng.standard_normal((4, 1)))
    edit = isic.project_out(codes, subspace, center=[0.5, 0, 0, 0], strength=[0.0] + [1.0] * 8)
    other = again(edit)
    assert other.to_dict() == edit.to_dict() and repr(other) == repr(edit)
    with pytest.raises(TypeError, match="refer to no codebook, pass it"):
        other.undo()
    other.undo(codes)
    assert codes.tobytes() == original.tobytes()
    other.apply(codes)
    edit.undo()
    assert codes.tobytes() == original.tobytes()
    empty = again(isic.Edit.between(codes, codes))
    assert empty.ids.size == 0 and empty.rows == 9


def test_a_pickled_edit_is_checked(rng):
    codes = rng.standard_normal((9, 4))
    tensors, metadata = isic.project_out(codes, isic.span_of(np.eye(4)[:, :1]), center=[0.5, 0, 0, 0])._record.__getstate__()

    def make(*state):
        isic._isic.Edit.__new__(isic._isic.Edit).__setstate__(state)

    make(tensors, metadata)
    for name, (kind, shape, values) in tensors.items():
        with pytest.raises(isic.IoError, match="a pickled edit"):
            make({**tensors, name: (kind, shape, values[:-1])}, metadata)
    with pytest.raises(isic.IoError, match="a pickled edit: checksum"):
        make(tensors, {**metadata, "fingerprint_after": "0" * 16})
    with pytest.raises(isic.IoError, match="expected types of safetensors, got F5"):
        make({**tensors, "ids": ("F5", [1], b"")}, metadata)


@COPIES
def test_copied_indexes(again, rng):
    codes, vectors = rng.standard_normal((50, 4)).astype(np.float32), rng.standard_normal((20, 4))
    index = isic.CodeIndex(codes, metric="cosine", padding=[3])
    assert repr(index) == "CodeIndex(50 x 4 f32, metric='cosine')" == repr(again(index))
    assert np.array_equal(again(index).nearest(vectors), index.nearest(vectors))
    both = again({"codes": codes, "index": index})
    if again is not copy.copy:
        assert both["index"].__getstate__()[0] is both["codes"] is not codes  # one codebook, as before


@pytest.mark.parametrize("array", ["float64", "int8", "bool", "uint16", "float16", "bfloat16"])
def test_safetensors(tmp_path, array):
    values = as_dtype(np.arange(6).reshape(2, 3), array)
    isic.write_safetensors(tmp_path / "t", {"a": values, "empty": np.zeros((0, 3), np.float32)}, {"key": "Wert"})
    tensors, metadata = isic.read_safetensors(tmp_path / "t")
    assert tensors["a"].dtype == values.dtype and np.array_equal(tensors["a"], values)
    assert tensors["empty"].shape == (0, 3) and metadata == {"key": "Wert"}
