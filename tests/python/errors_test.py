# SPDX-License-Identifier: Apache-2.0
"""A caller's mistake raises an isic exception with Python names, before anything is written."""

import builtins
import os

import numpy as np
import pytest

import isic


def test_hierarchy():
    assert issubclass(isic.ValueError, isic.Error) and issubclass(isic.ValueError, builtins.ValueError)
    assert issubclass(isic.ShapeError, builtins.ValueError) and issubclass(isic.IoError, OSError)
    assert issubclass(isic.NumericError, ArithmeticError) and issubclass(isic.BackendError, RuntimeError)
    for error in (isic.ShapeError, isic.NumericError, isic.IoError, isic.BackendError):
        assert issubclass(error, isic.Error) and error.__module__ == "isic"


def test_a_file_name_that_is_not_utf8_can_be_told(tmp_path):
    with pytest.raises(isic.IoError, match=r"\\xff"):
        isic.read_safetensors(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.safetensors"))


def test_star_import_leaves_builtins_alone():
    names = {}
    exec("from isic import *", names)
    assert "ValueError" not in names and "project_out" in names


CODES = np.arange(12.0).reshape(4, 3)


def with_locked(locked):
    """Every update with locked codes."""
    limits = isic.Constraint(locked=locked)
    state, ids = isic.fused.AdamState("float64"), [0, 1, 2, 3]
    return [lambda c: isic.sgd_update(c, c + 1, isic.SgdState(), constraint=limits),
            lambda c: isic.adam_update(c, c + 1, isic.AdamState(), constraint=limits),
            lambda c: isic.ema_update(c, isic.EmaState(), isic.assign(c + 1, ids, codes=4), decay=0.5, constraint=limits),
            lambda c: isic.ridge_update(c, isic.assign(c + 1, ids, codes=4), weight=1.0, constraint=limits),
            lambda c: isic.fused.adam_update(c, c + 1, state, locked=locked),
            lambda c: isic.fused.ema_update(c, c + 1, ids, isic.fused.EmaState("float64"), decay=0.5, locked=locked)]


@pytest.mark.parametrize("locked", [[False, False, True, True], np.array([0, 0, 1, 1], bool), None, [], np.zeros(0)])
def test_locked_is_a_mask(locked):
    stays = [2, 3] if locked is not None and len(locked) else []
    for update in with_locked(locked):
        codes = CODES.copy()
        update(codes)
        assert [k for k in range(4) if np.array_equal(codes[k], CODES[k])] == stays


@pytest.mark.parametrize(("locked", "error", "message"), [
    ([2, 3], isic.ValueError, r"True or False per code in (constraint\.)?locked, got int64; .* row numbers by numpy\.isin\(range\(K\), ids\)"),
    ([0, 1, 2, 3], isic.ValueError, "True or False per code .* got int64"),
    ([0, 1, 1, 0], isic.ValueError, r"got int64; convert zeros and ones by astype\(bool\)"),
    (np.array([0, 1, 1, 0], np.uint8), isic.ValueError, "got uint8"),
    ([0.0, 1.0, 1.0, 0.0], isic.ValueError, "got float64"),
    (["no", "no", "yes", "yes"], isic.ValueError, "got <U3"),
    ([True, False], isic.ShapeError, r"4 values in (constraint\.)?locked, got 2"),
    ([[True] * 4], isic.ShapeError, "locked of 1 dimension, got 2"),
    (True, isic.ShapeError, "locked of 1 dimension, got 0"),
])
def test_no_other_mask_is_taken(locked, error, message):
    for update in with_locked(locked):
        codes = CODES.copy()
        with pytest.raises(error, match=message):
            update(codes)
        assert np.array_equal(codes, CODES)


@pytest.mark.parametrize(("error", "message", "call"), [
    (isic.ShapeError, r"isic\.differences: expected 2 columns in safe, got 1", lambda: isic.differences([[1.0, 2.0]], [[1.0]])),
    (isic.ShapeError, "2 dimensions", lambda: isic.differences([1.0], [1.0])),
    (isic.NumericError, "nan at row 0", lambda: isic.differences([[np.nan]], [[1.0]])),
    (isic.ValueError, "real numbers", lambda: isic.differences([["a"]], [["b"]])),
    (isic.ValueError, r"isic\.DifferenceAccumulator\.add: expected token ids in \[0, 4\), got 4",
     lambda: isic.DifferenceAccumulator(CODES).add([4], [0])),
    (isic.ValueError, "integers", lambda: isic.DifferenceAccumulator(CODES).add([0.5], [0])),
    (isic.ValueError, "integers in padding, got bool; convert a mask to row numbers by numpy.flatnonzero",
     lambda: isic.nearest_codes(CODES, CODES, padding=[True, False, False, False])),
    (isic.ValueError, r"add: expected integers below 2\^63 in harmful_ids, got 9223372036854775808",
     lambda: isic.DifferenceAccumulator(CODES).add(np.array([2**63], np.uint64), [0])),
    (isic.ValueError, r"merge: expected max_rank >= 0, got -1", lambda: isic.merge(isic.span_of(np.eye(3)), isic.span_of(np.eye(3)), max_rank=-1)),
    (isic.ShapeError, "safe ids of shape", lambda: isic.DifferenceAccumulator(CODES).add([[0, 1]], [[0], [1]])),
    (TypeError, "codebook or a width", lambda: isic.DifferenceAccumulator()),
    (isic.ShapeError, "at least one pair", lambda: isic.fit_subspace(isic.DifferenceAccumulator(CODES))),
    (isic.ValueError, "'none', 'mean', 'safe_axis'", lambda: isic.fit_subspace(CODES, center="median")),
    (isic.ValueError, "'l2', 'cosine'", lambda: isic.project_out(CODES, isic.span_of(np.eye(3)[:, :1]), metric="dot")),
    (isic.ValueError, "strength", lambda: isic.project_out(CODES, isic.span_of(np.eye(3)[:, :1]), strength=1.5)),
    (isic.ShapeError, "strength", lambda: isic.project_out(CODES, isic.span_of(np.eye(3)[:, :1]), strength=[1.0])),
    (isic.ShapeError, "rows in the basis", lambda: isic.project_out(CODES, isic.span_of(np.eye(4)[:, :1]))),
    (isic.ValueError, "overlapping", lambda: isic.project_out(CODES, isic.span_of(np.eye(3)[:, :1]), target=CODES)),
    (TypeError, "isic.Subspace, got ndarray", lambda: isic.project_out(CODES, np.eye(3))),
    (TypeError, "subspace to be an isic.Subspace, got NoneType", lambda: isic.project_out(CODES, None)),
    (isic.ValueError, "real numbers in strength", lambda: isic.project_out(CODES, isic.span_of(np.eye(3)), strength=None)),
    (TypeError, r"isic\.project_out: expected threads to be an integer, got builtins\.float",
     lambda: isic.project_out(CODES, isic.span_of(np.eye(3)), threads=1.5)),
    (TypeError, "keep_norms to be True or False, got builtins.str", lambda: isic.project_out(CODES, isic.span_of(np.eye(3)), keep_norms="no")),
    (TypeError, "metric to be text, got builtins.int", lambda: isic.project_out(CODES, isic.span_of(np.eye(3)), metric=1)),
    (TypeError, "rank to be an integer", lambda: isic.fit_subspace(CODES, rank=1.5)),
    (TypeError, "energy to be a number", lambda: isic.fit_subspace(CODES, energy="all")),
    (isic.ValueError, r"seed in \[0, 18446744073709551615\], got -1", lambda: isic.fit_subspace(CODES, seed=-1)),
    (TypeError, "constraint.threads to be an integer", lambda: isic.sgd_update(CODES, CODES + 1, isic.SgdState(), constraint=isic.Constraint(threads=0.5))),
    (isic.ValueError, r"isic\.fit_subspace: expected rank in \[0, d = 3\], got 4", lambda: isic.fit_subspace(CODES, rank=4)),
    (isic.ValueError, r"fit_subspace: expected max_rank in \[0, 2\] for d = 3, got 9", lambda: isic.fit_subspace(CODES, max_rank=9)),
    (isic.ValueError, "safe embeddings for the safe axis", lambda: isic.fit_subspace(CODES, center="safe_axis")),
    (isic.ValueError, r"ridge_update: expected a finite weight >= 0, got -1",
     lambda: isic.ridge_update(CODES, isic.assign([[1.0, 2.0, 3.0]], [0], codes=4), weight=-1.0)),
    (isic.ShapeError, r"isic\.DifferenceAccumulator: expected a width >= 1, got 0", lambda: isic.DifferenceAccumulator(width=0)),
    (isic.ValueError, r"isic\.fused\.AdamState: ", lambda: isic.fused.AdamState("float16")),
    (TypeError, "positional", lambda: isic.project_out(CODES, isic.span_of(np.eye(3)), 1.0)),
    (TypeError, "strenght", lambda: isic.project_out(CODES, isic.span_of(np.eye(3)), strenght=1.0)),
    (isic.ValueError, "one dtype", lambda: isic.Edit.between(CODES, CODES.astype(np.float32))),
    (isic.ValueError, "codebooks of one dtype", lambda: isic.DifferenceAccumulator(CODES).merge(isic.DifferenceAccumulator(CODES.astype(np.float32)))),
    (TypeError, r"isic\.DifferenceAccumulator\.merge: expected other to be an isic\.DifferenceAccumulator, got NoneType",
     lambda: isic.DifferenceAccumulator(CODES).merge(None)),
    (TypeError, r"isic\.CounterpartTargets\.merge: expected other to be an isic\.CounterpartTargets, got DifferenceAccumulator",
     lambda: isic.CounterpartTargets(CODES).merge(isic.DifferenceAccumulator(CODES))),
    (TypeError, r"isic\.excess_strength: expected scores to be an isic\.CodeScores, got ndarray", lambda: isic.excess_strength(CODES)),
    (TypeError, r"isic\.save_edit: expected edit to be an isic\.Edit, got str", lambda: isic.save_edit(isic.Edit.between(CODES, CODES), "file")),
    (TypeError, r"isic\.export_pairs: expected report to be an isic\.SelfImproveReport, got NoneType", lambda: isic.export_pairs(None, "/nowhere/t")),
    (TypeError, r"isic\.save_subspace: expected subspace to be an isic\.Subspace, got ndarray", lambda: isic.save_subspace("/nowhere/t", CODES)),
    (TypeError, r"isic\.save_subspace: expected usage to be an isic\.CodeUsage, got ndarray",
     lambda: isic.save_subspace("/nowhere/t", isic.span_of(np.eye(3)), usage=CODES)),
    (TypeError, r"isic\.write_safetensors: expected tensors to be arrays by name, got ndarray", lambda: isic.write_safetensors("/nowhere/t", CODES)),
    (isic.ValueError, "rate > 0", lambda: isic.sgd_update(CODES, CODES + 1, isic.SgdState(), rate=-1.0)),
    (TypeError, "isic.Constraint", lambda: isic.sgd_update(CODES, CODES + 1, isic.SgdState(), constraint={})),
    (TypeError, r"isic\.Edit\.undo: expected codes", lambda: isic.Edit.between(CODES, CODES + 1).undo("codes")),
    (isic.ShapeError, r"isic\.AdamState\.mean", lambda: setattr(isic.AdamState(), "mean", [1.0])),
    (isic.IoError, "found none", lambda: isic.load_edit("/nowhere/edit.safetensors")),
    (isic.IoError, "found a folder", lambda: isic.load_edit("/")),
    (isic.ValueError, "'a' of bool, integers or floats", lambda: isic.write_safetensors("/nowhere/t", {"a": np.array(["x"])})),
    (isic.ValueError, "byte order, got >f4", lambda: isic.write_safetensors("/nowhere/t", {"a": np.array([1.0], ">f4")})),
    (isic.ValueError, r"isic\.Lexicon: expected each term once", lambda: isic.Lexicon([("gun", "a"), ("Gun", "b")])),
])
def test_mistakes(error, message, call):
    before = CODES.tobytes()
    with pytest.raises(error, match=message) as caught:
        call()
    assert type(caught.value) is error
    assert "::" not in str(caught.value)
    assert CODES.tobytes() == before
