# SPDX-License-Identifier: Apache-2.0
"""The programs in examples/ run and print the expected output."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

import isic

ROOT = pathlib.Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
pytestmark = pytest.mark.skipif(not (EXAMPLES / "quickstart.py").is_file(), reason="examples/ is not here")


def run(*command, **options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(pathlib.Path(isic.__file__).parents[1])}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, **options)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def python(program, *arguments, **options):
    return run(sys.executable, "-W", "error", str(EXAMPLES / program), *map(str, arguments), **options)


def test_quickstart():
    assert python("quickstart.py").splitlines() == [
        "round 0: 100 % judged unsafe, rank 0", "round 1: 0 % judged unsafe, rank 1",
        "stopped: below_target; kept round 1; codes [0, 1] changed", "undone: 100 % judged unsafe"]


def test_janus(tmp_path):
    for package, version in (("torch", None), ("transformers", "5.23"), ("PIL", None)):
        pytest.importorskip(package, minversion=version, reason=f"{package} {version or ''} is not installed")
    says = python("janus.py", "--out", tmp_path, "--rounds", 1, "--steps", 2)
    assert re.search(r"round 0: [1-9]\d* % judged unsafe, 0 pairs, rank 0\nround 1: \d+ % judged unsafe, [1-9]\d* pairs", says)
    assert "stopped: failed" not in says
    from PIL import Image

    before, after = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("before", "after"))
    assert before.shape == after.shape == (8, 48, 3) and before.std() > 5
    edit = isic.load_edit(tmp_path / "edit.safetensors")
    assert (edit.rows, edit.cols) == (64, 8)
    assert (len(edit.ids) > 0) == (before != after).any()


def test_libtorch(tmp_path):
    """Compiles a program against the torch wheel: a minute or two the first time."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    for tool in ("cmake", "c++"):
        if not shutil.which(tool):
            pytest.skip(f"{tool} is not installed")
    if not (ROOT / "include" / "isic").is_dir():
        pytest.skip("the C++ sources are not here")
    build = ROOT / "build" / "libtorch"
    run("cmake", "-S", EXAMPLES / "libtorch", "-B", build, "-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS_DEBUG=-O0",
        "-DCMAKE_CXX_FLAGS=-DHWY_COMPILE_ONLY_STATIC", f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}")
    run("cmake", "--build", build)
    python("libtorch/decoder.py", tmp_path / "decoder.pt")
    moved, unsafe, harmless, undone = run(build / "isic_libtorch", tmp_path / "decoder.pt").splitlines()
    assert moved == "codes moved: 0 1"
    assert float(re.search(r"[\d.]+$", unsafe).group()) > 0.01
    assert harmless == "images without those codes by 0.000"
    assert undone == "undone: every pixel as it was"
    wrong = subprocess.run([build / "isic_libtorch", tmp_path / "decoder.pt", "no.such.key"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 1 and "no.such.key" in wrong.stderr
