# SPDX-License-Identifier: Apache-2.0
"""Two processes edit one checkpoint: one fails with a message, and the other's edit can be undone."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest

import isic
from isic import checkpoint
from isic.checkpoint._lock import only_editor

PROGRAM = """
import pathlib, sys
from isic import checkpoint, Error
try:
    checkpoint.apply(sys.argv[1], sys.argv[2])
except Error as error:
    print(error)
    sys.exit(1)
"""


@pytest.fixture
def model(tmp_path):
    codes = np.random.default_rng(0).standard_normal((4000, 16)).astype(np.float32)
    isic.write_safetensors(tmp_path / "model.safetensors", {"quantize.embedding.weight": codes})
    for i in range(3):
        isic.save_subspace(tmp_path / f"harm{i}.safetensors", isic.span_of(np.eye(16)[:, i:i + 1]))
    return tmp_path / "model.safetensors"


def test_the_second_fails_and_nothing_changes(model):
    before = model.read_bytes()
    with only_editor(model):
        for edit in (lambda: checkpoint.apply(model, model.parent / "harm0.safetensors"), lambda: checkpoint.undo(model)):
            with pytest.raises(isic.IoError, match="expected no other edit of .*try again when it has ended"):
                edit()
    assert model.read_bytes() == before
    checkpoint.apply(model, model.parent / "harm0.safetensors")
    assert model.read_bytes() != before
    checkpoint.undo(model)
    assert model.read_bytes() == before
    assert not list(model.parent.glob("*.isic-lock"))


def test_whoever_comes_first_can_be_undone(model):
    """Three processes with different subspaces: the file has at most one edit, and the undo file belongs to it."""
    before = model.read_bytes()
    for _ in range(4):
        all_of_them = [subprocess.Popen([sys.executable, "-c", PROGRAM, model, model.parent / f"harm{i}.safetensors"], stdout=subprocess.PIPE)
                       for i in range(3)]
        outputs = [process.communicate()[0].decode() for process in all_of_them]
        codes = [process.returncode for process in all_of_them]
        assert codes.count(0) == 1, outputs
        assert all("another process" in text or "undo that edit first" in text for text, code in zip(outputs, codes) if code), outputs
        assert checkpoint.verify(model).state == "edited"
        assert checkpoint.undo(model).state == "undone"
        assert model.read_bytes() == before


def test_a_key_that_the_undo_file_is_not_of(model):
    checkpoint.apply(model, model.parent / "harm0.safetensors")
    for call in (checkpoint.undo, checkpoint.verify):
        with pytest.raises(isic.ValueError, match="expected a key of .* .quantize.embedding.weight., got 'bogus'"):
            call(model, key="bogus")
    assert checkpoint.undo(model, key="quantize.embedding.weight").state == "undone"


def test_a_wrong_key_is_answered_with_the_right_ones(model):
    with pytest.raises(isic.ValueError, match="codebooks: quantize.embedding.weight.*got 'nokey'"):
        checkpoint.apply(model, model.parent / "harm0.safetensors", key="nokey")


def test_a_folder_that_cannot_be_written(model):
    with pytest.raises(isic.IoError, match="expected a writable folder of"), only_editor(pathlib.Path("/proc/model.safetensors")):
        pass
