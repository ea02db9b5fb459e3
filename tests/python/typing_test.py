# SPDX-License-Identifier: Apache-2.0
"""The package is typed: a program passes mypy --strict, and wrong calls fail."""

import pathlib
import subprocess
import sys

import pytest

import isic
import typed_example

EXAMPLE = pathlib.Path(__file__).with_name("typed_example.py")

WRONG = """
import numpy as np
import isic
codes = np.eye(3)
subspace = isic.span_of(codes)
isic.project_out(codes, subspace, near_zero="ignore")
isic.project_out(codes, codes)
isic.fit_subspace(codes, max_ranks=2)
isic.self_improve(object(), lambda p: p, unsafe_prompts=["a"], safe_prompts=["b"], rewrite=str)
isic.fused.adam_update(codes, codes, isic.AdamState())
isic.fused.AdamState("float16")
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """The cache of mypy, so that numpy's stubs are read once."""
    return tmp_path_factory.mktemp("mypy")


def mypy(cache, *what):
    pytest.importorskip("mypy", reason="mypy is not installed")
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(cache), *what]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_example_is_typed(cache):
    result = mypy(cache, str(EXAMPLE))
    assert result.returncode == 0, result.stdout


def test_wrong_calls_are_found(cache, tmp_path):
    wrong = tmp_path / "wrong.py"
    wrong.write_text(WRONG)
    result = mypy(cache, str(wrong))
    for line in (6, 7, 8, 9, 10, 11):
        assert f"wrong.py:{line}: error" in result.stdout, result.stdout


def test_the_package_itself_is_typed(cache):
    result = mypy(cache, "-p", "isic")
    assert result.returncode == 0, result.stdout


def test_the_stub_names_what_is_compiled():
    """The native module and its stub have the same names."""
    stub = (pathlib.Path(isic.__file__).parent / "_isic.pyi").read_text()
    declared = {line.split("(")[0].split(":")[0].split()[1] for line in stub.splitlines() if line.startswith(("def ", "class "))}
    assert declared == {name for name in dir(isic._isic) if not name.startswith("_")} - {"version"}


def test_the_example_runs(capsys):
    typed_example.main()
    assert "below_target" in capsys.readouterr().out
