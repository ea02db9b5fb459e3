# SPDX-License-Identifier: Apache-2.0
"""`isic apply` killed at random moments: after the next command the file is old or new, never anything else.

100 kills; ISIC_KILLS=1000 for more. Half of them fall anywhere in the run, half right after the journal appears.
"""

import json
import os
import signal
import subprocess
import sys

import pytest

KILLS = int(os.environ.get("ISIC_KILLS", "100"))

PROGRAM = """
import contextlib, io, json, os, pathlib, random, signal, sys, time
import numpy as np
import isic
from isic._cli import main
from isic.checkpoint import Checkpoint

folder, rows, kills = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
hole, width, file = 200_000_000, 16, folder / "model.safetensors"
codes = np.random.default_rng(0).standard_normal((rows, width)).astype(np.float32)
book = {"dtype": "F32", "shape": [rows, width], "data_offsets": [hole, hole + codes.nbytes]}
head = json.dumps({"hole": {"dtype": "U8", "shape": [hole], "data_offsets": [0, hole]}, "quantize.embedding.weight": book}).encode()
start = 8 + len(head) + hole
subspace = folder / "harm.safetensors"
isic.save_subspace(subspace, isic.span_of(np.eye(width)[:, :1]))

def reset():
    for stray in folder.iterdir():
        if stray not in (file, subspace):
            stray.unlink()
    with open(file, "r+b" if file.exists() else "w+b") as f:
        f.write(len(head).to_bytes(8, "little") + head)
        f.seek(start)
        f.write(codes.tobytes())

def command(*arguments):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(a) for a in arguments])
    return code, out.getvalue(), err.getvalue()

def start_apply():
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = command("apply", file, subspace)[0]
        finally:
            os._exit(code)
    return pid

def finished(pid, patience):
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if os.waitpid(pid, os.WNOHANG)[0]:
            return True
        time.sleep(1e-4)
    return False

def stored():
    with open(file, "rb") as f:
        f.seek(start - 65536)
        return f.read()

duration = float("inf")
for warm in range(3):
    reset()
    old = stored()
    begin = time.monotonic()
    assert os.waitpid(start_apply(), 0)[1] == 0
    duration = min(duration, time.monotonic() - begin)
    new = stored()
assert old != new and len(old) == len(new)
undo = pathlib.Path(f"{file}.isic-undo.safetensors")
journal = Checkpoint(file).journal
counts = dict(old=0, new=0, third=0, survived=0, torn=0, completed=0, discarded=0, broken=[])
clock = random.Random(int(sys.argv[4]))
for kill in range(kills):
    reset()
    pid = start_apply()
    done = False
    if kill % 2:
        while not done and not journal.exists():
            done = finished(pid, 0.0002)
    done = done or finished(pid, clock.uniform(0, 0.004 if kill % 2 else duration))
    if not done:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    counts["survived"] += done
    counts["torn"] += stored() not in (old, new)
    code, out, err = command("verify", file, "--json")
    now = stored()
    counts["old"] += now == old
    counts["new"] += now == new
    counts["third"] += now not in (old, new)
    counts["completed"] += "was completed" in err
    counts["discarded"] += "was discarded" in err
    if journal.exists() or (now == new and (code != 0 or json.loads(out)["state"] != "edited")):
        counts["broken"].append([kill, code, out, err])
    if undo.exists():
        code, out, err = command("undo", file)
        if code != 0 or stored() != old:
            counts["broken"].append([kill, code, out, err])
    elif now != old:
        counts["broken"].append([kill, "edited without an undo file"])
with open(file, "rb") as f:
    f.seek(8 + len(head))
    while f.tell() < start:
        counts["third"] += any(f.read(min(1 << 24, start - f.tell())))
print(json.dumps(counts))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system with fork and SIGKILL")
@pytest.mark.parametrize(("rows", "share"), [(2_000, 0.7), (60_000, 0.3)], ids=["small", "large"])
def test_never_a_third_state(rows, share, tmp_path):
    kills = max(10, int(KILLS * share))
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), str(rows), str(kills), "1"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    counts = json.loads(result.stdout)
    assert counts["third"] == 0 and counts["broken"] == [], counts
    assert counts["old"] + counts["new"] == kills and min(counts["old"], counts["new"]) > 0.05 * kills, counts
    assert counts["survived"] < 0.9 * kills, counts
    print(counts)


def test_signals_are_what_they_say():
    """SIGKILL cannot be caught, as the test above requires."""
    with pytest.raises(OSError):
        signal.signal(signal.SIGKILL, signal.SIG_IGN)
