# SPDX-License-Identifier: Apache-2.0
"""The Python programs and commands of README.md run."""

import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest

import isic

ROOT = pathlib.Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not (ROOT / "examples" / "janus.py").is_file(), reason="the sources are not here")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


def test_the_python_program_prints_what_it_says(capsys):
    (program,) = blocks("python")
    names = {}
    exec(program, names)
    assert capsys.readouterr().out.strip() in program
    assert names["codes"][0].tolist() == [3, 1, 0]


def test_the_commands_edit_a_checkpoint_and_put_it_back(tmp_path):
    for package, version in (("torch", None), ("transformers", "5.23"), ("PIL", None)):
        pytest.importorskip(package, minversion=version, reason=f"{package} {version or ''} is not installed")
    (commands,) = (block.splitlines() for block in blocks("sh") if "isic inspect" in block)
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("emoji", "libtorch"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(pathlib.Path(isic.__file__).parents[1])}
    known = {"python": [sys.executable], "isic": [sys.executable, "-m", "isic"]}
    key = "model.vqmodel.quantize.embedding.weight"
    stored = []
    for line in commands:
        first, *rest = shlex.split(line, comments=True)
        done = subprocess.run([*known[first], *rest], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        stored.append(isic.read_safetensors(tmp_path / "out/janus/model/model.safetensors")[0])
        if rest[0] == "inspect":
            assert "Janus" in done.stdout and key in done.stdout
    names = [shlex.split(line)[1] for line in commands]
    original, edited, undone = (stored[names.index(name)] for name in ("inspect", "apply", "undo"))
    assert {name for name in original if not np.array_equal(original[name], edited[name])} == {key}
    assert all(np.array_equal(original[name], undone[name]) for name in original)
