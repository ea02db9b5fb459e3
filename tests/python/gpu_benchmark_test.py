# SPDX-License-Identifier: Apache-2.0
"""The benchmark of isic.cuda, torch and CuPy, run with isic on the CPU."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

import isic

PEERS = pathlib.Path(__file__).parents[2] / "benchmarks" / "cuda" / "peers.py"
pytestmark = pytest.mark.skipif(not PEERS.is_file(), reason="benchmarks/ is not here")


def test_every_case_runs_and_isic_is_no_further_from_float64_than_torch():
    pytest.importorskip("torch", reason="torch is not installed")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(pathlib.Path(isic.__file__).parents[1])}
    result = subprocess.run([sys.executable, str(PEERS), "--cpu"], capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert not [line for line in lines if "failed" in line]
    cases = {line["case"] for line in lines if line["name"].startswith("isic")}
    assert {case.split()[0] for case in cases} == {"project", "adam", "gram", "top", "nearest"}
    for case in cases:
        errors = {line["name"]: line["error"] for line in lines if line["case"] == case}
        mine, theirs = ([error for name, error in errors.items() if name.startswith(by)] for by in ("isic", "torch"))
        assert mine and max(mine) <= min(theirs) + 1e-7
