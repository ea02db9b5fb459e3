# SPDX-License-Identifier: Apache-2.0
"""The command line: output, exit codes, and one line per error without writes."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest

import isic
from isic._cli import demo, main

KEY = "gen_vision_model.quantize.embedding.weight"


@pytest.fixture
def folder(rng, tmp_path, monkeypatch):
    """A checkpoint, paired token ids, and embeddings, in the working folder."""
    monkeypatch.chdir(tmp_path)
    codes = rng.standard_normal((40, 8)).astype(np.float32)
    isic.write_safetensors("model.safetensors", {KEY: codes, "gen_embed.weight": rng.standard_normal((40, 8)).astype(np.float32)})
    h, s = rng.integers(0, 10, (30, 12)), rng.integers(10, 40, (30, 12))
    np.save("harmful.npy", h)
    np.save("safe.npy", s)
    isic.write_safetensors("rows.safetensors", {"harmful": rng.standard_normal((50, 8)) + 2, "safe": rng.standard_normal((50, 8))})
    isic.save_subspace("harm.safetensors", isic.span_of(np.eye(8)[:, :1]))
    return tmp_path


@pytest.fixture
def command(folder, capsys):
    """Runs a command in this process: (exit code, stdout, stderr)."""
    def run(*arguments):
        capsys.readouterr()
        try:
            code = main([str(a) for a in arguments])
        except SystemExit as stop:
            code = stop.code
        return (code, *capsys.readouterr())
    return run


def test_the_whole_way(command, folder):
    original = (folder / "model.safetensors").read_bytes()
    code, out, err = command("inspect", "model.safetensors")
    assert (code, err) == (0, "") and KEY in out and "Janus" in out and "40 x 8" in out and "gen_embed.weight" in out
    code, out, _ = command("fit", "--harmful", "harmful.npy", "--safe", "safe.npy", "--codebook", "model.safetensors", "--rank", 2,
                           "-o", "h.st")
    assert code == 0 and "rank 2 of 8" in out and "10 of 40 codes would move" in out
    code, out, _ = command("plan", "model.safetensors", "h.st")
    assert code == 0 and "10 of 40 codes move" in out and (folder / "model.safetensors").read_bytes() == original
    code, out, _ = command("apply", "model.safetensors", "h.st")
    assert code == 0 and "undo file: model.safetensors.isic-undo.safetensors" in out
    assert (folder / "model.safetensors").read_bytes() != original
    assert command("verify", "model.safetensors")[:2][0] == 0
    assert command("undo", "model.safetensors")[0] == 0 and (folder / "model.safetensors").read_bytes() == original
    code, out, _ = command("undo", "model.safetensors")
    assert code == 0 and "already undone" in out
    code, out, _ = command("verify", "model.safetensors")
    assert code == 1 and "original" in out


def test_json_is_for_machines(command):
    parsed = {}
    for arguments in (["inspect", "model.safetensors"], ["plan", "model.safetensors", "harm.safetensors"],
                      ["fit", "--harmful", "rows.safetensors:harmful", "--safe", "rows.safetensors:safe", "-o", "h.st"],
                      ["apply", "model.safetensors", "harm.safetensors"], ["verify", "model.safetensors"], ["undo", "model.safetensors"]):
        code, out, err = command(*arguments, "--json")
        assert (code, err) == (0, "")
        parsed[arguments[0]] = json.loads(out)
    assert parsed["inspect"]["codebooks"][0]["key"] == KEY and parsed["plan"]["levels"][0]["moved"] == 40
    assert parsed["apply"]["plan"] == parsed["plan"] and parsed["verify"]["state"] == "edited" and parsed["undo"]["state"] == "undone"
    assert len(parsed["fit"]["subspace"]["basis"]) == 8


def test_tables_are_aligned(command):
    _, out, _ = command("plan", "model.safetensors", "harm.safetensors")
    header, row = out.splitlines()[-2:]
    assert [m.end() for m in re.finditer(r"\S+", header)][1:] == [m.end() for m in re.finditer(r"\S+", row)][1:]


def test_fit_takes_embeddings_and_pairs(command, rng):
    code, out, _ = command("fit", "--harmful", "rows.safetensors:harmful", "--safe", "rows.safetensors:safe", "-o", "h.st")
    assert code == 0 and "harmfulness" not in out and isic.load_subspace("h.st").harmfulness is None
    ids = np.load("harmful.npy").astype(np.int32), np.load("safe.npy").astype(np.int32)
    isic.write_safetensors("pairs.safetensors", {"harmful": ids[0], "counterparts": ids[1], "harmfulness": np.zeros(40)},
                           {"format": "isic.pairs", "version": "1", "prompts": json.dumps(["p"] * 30)})
    assert command("fit", "--pairs", "pairs.safetensors", "--codebook", f"model.safetensors:{KEY}", "--rank", 1, "-o", "p.st")[0] == 0
    command("fit", "--harmful", "harmful.npy", "--safe", "safe.npy", "--codebook", "model.safetensors", "--rank", 1, "-o", "i.st")
    assert np.array_equal(isic.load_subspace("p.st").subspace.basis, isic.load_subspace("i.st").subspace.basis)


def test_fit_reports_noise(command, rng):
    np.save("noise.npy", rng.standard_normal((200, 16)))
    np.save("other.npy", rng.standard_normal((200, 16)))
    code, out, _ = command("fit", "--harmful", "noise.npy", "--safe", "other.npy", "-o", "h.st")
    assert code == 0 and "no direction exceeds the noise" in out


def test_options_of_surgery(command, folder):
    command("fit", "--harmful", "harmful.npy", "--safe", "safe.npy", "--codebook", "model.safetensors", "--rank", 2, "-o", "h.st")

    def moved(*options):
        code, out, err = command("plan", "model.safetensors", "h.st", "--json", *options)
        assert code == 0, err
        return json.loads(out)

    assert moved()["levels"][0]["moved"] == 10 and moved("--uniform")["levels"][0]["moved"] == 40
    half, full = (moved("--uniform", s)["levels"][0]["after"]["total"] for s in (0.5, 1))
    assert full < 1e-6 < half
    assert moved("--rank", 1)["rank"] == 1 and moved("--remap")["levels"][0]["after"] != moved()["levels"][0]["after"]
    assert moved("--metric", "l2")["codebook"]["metric"] == "l2"
    assert command("apply", "model.safetensors", "h.st", "-o", "copy.safetensors", "--undo", "u")[0] == 0
    assert {"copy.safetensors", "u"} <= {p.name for p in folder.iterdir()} and command("verify", "copy.safetensors", "--undo", "u")[0] == 0


def test_verify_fails_above_a_leakage(command):
    command("apply", "model.safetensors", "harm.safetensors", "--uniform", 0.5)
    assert command("verify", "model.safetensors")[0] == 0
    code, _, err = command("verify", "model.safetensors", "--max-leakage", 0.01)
    assert code == 1 and re.search(rf"{re.escape(KEY)} leaks 0\.\d+, more than 0\.01", err)
    assert command("verify", f"model.safetensors:{KEY}", "--subspace", "harm.safetensors", "--max-leakage", 0.9)[0] == 0


def test_an_interrupted_edit_is_reported(command, folder, monkeypatch):
    from isic.checkpoint import _checkpoint

    for done, says in (("completed", "was completed"), ("discarded", "it had changed nothing")):
        with monkeypatch.context() as patch:
            patch.setattr(_checkpoint, "recover_files", lambda journal: done)
            code, out, err = command("inspect", "model.safetensors", "--json")
        assert code == 0 and says in err and json.loads(out)["recovered"] == done


@pytest.mark.parametrize(("arguments", "message"), [
    (["inspect", "nowhere.safetensors"], "found no nowhere.safetensors"),
    (["inspect", "harmful.npy:array"], "expected a codebook [K, d] of floats, got array of shape (30, 12), I64"),
    (["inspect", "model.safetensors:quantize"], "(codebooks: gen_vision_model.quantize.embedding.weight), got 'quantize'"),
    (["plan", "model.safetensors", "nowhere"], "nowhere"),
    (["plan", "model.safetensors", "model.safetensors"], "expected a file of isic.subspace version 1"),
    (["plan", "model.safetensors", "harm.safetensors", "--rank", "2"], "rank in [1, 1], got 2"),
    (["plan", "model.safetensors", "harm.safetensors", "--remap"], "expected targets of 40 codes"),
    (["apply", "model.safetensors", "harm.safetensors", "--uniform", "2"], "strength"),
    (["apply", "model.safetensors", "harm.safetensors", "-o", "harm.safetensors"], "exists"),
    (["apply", "model.safetensors", "harm.safetensors", "--undo", "nowhere/u"], "nowhere/u"),
    (["apply", "model.safetensors", "harm.safetensors", "-o", "nowhere/m.safetensors"], "nowhere/m.safetensors"),
    (["undo", "model.safetensors"], "found no model.safetensors.isic-undo.safetensors"),
    (["verify", "model.safetensors"], "expected an undo file or a subspace"),
    (["fit", "--harmful", "harmful.npy", "--safe", "safe.npy", "-o", "h"], "--codebook CHECKPOINT[:KEY]"),
    (["fit", "--harmful", "harmful.npy", "--safe", "rows.safetensors:safe", "-o", "h"], "two sets of token ids, or two of embeddings"),
    (["fit", "--harmful", "rows.safetensors", "--safe", "rows.safetensors:safe", "-o", "h"], "one of harmful, safe"),
    (["fit", "--harmful", "nowhere", "--safe", "safe.npy", "-o", "h"], "No such file or directory: nowhere"),
    (["fit", "--harmful", "rows.safetensors:harmful", "--safe", "rows.safetensors:safe", "-o", "nowhere/h"], "nowhere/h"),
])
def test_failures_are_one_line_and_write_nothing(arguments, message, command, folder):
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    code, out, err = command(*arguments)
    assert (code, out) == (1, "") and err.startswith("isic: error: ") and err.count("\n") == 1 and message in err
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


@pytest.mark.parametrize("arguments", [[], ["aply"], ["apply"], ["apply", "model.safetensors"], ["fit", "-o", "x"],
                                       ["fit", "--harmful", "harmful.npy", "-o", "x"], ["plan", "a", "b", "--rank", "two"],
                                       ["plan", "a", "b", "--near-zero", "hide"]])
def test_wrong_usage(arguments, command):
    code, out, err = command(*arguments)
    assert (code, out) == (2, "") and err.startswith("isic: error: ") and err.count("\n") == 1 and "--help" in err


@pytest.mark.parametrize("name", ["inspect", "fit", "plan", "apply", "verify", "undo"])
def test_help_has_an_example(name, command):
    code, out, _ = command(name, "--help")
    assert code == 0 and f"example:\n  isic {name} " in out and "--json" in out
    assert all(len(line) <= 140 for line in out.splitlines())
    if name == "apply":
        assert "hard and symbolic links" in out


def test_as_a_program(folder):
    def program(*arguments):
        return subprocess.run([sys.executable, "-m", "isic", *arguments], capture_output=True, text=True, check=False)

    assert program("--version").stdout == f"isic {isic.__version__}\n"
    assert program("inspect", "model.safetensors").returncode == 0
    assert program("inspect", "nowhere").returncode == 1 and program("nowhere").returncode == 2
    closed = f"{sys.executable} -m isic inspect model.safetensors | true"
    assert subprocess.run(closed, shell=True, capture_output=True, text=True, check=False).stderr == ""


def test_a_bar_is_drawn_on_a_terminal_only(command, monkeypatch):
    code, _, err = command("apply", "model.safetensors", "harm.safetensors", "-o", "a.safetensors")
    assert (code, err) == (0, "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    code, _, err = command("apply", "model.safetensors", "harm.safetensors", "-o", "b.safetensors")
    assert code == 0 and "copy [" in err and "100 %" in err


def test_demo_came_with_the_package():
    program = demo.FOLDER / "isic_emoji_demo"
    if not program.exists():
        pytest.skip("isic was built without CLI11 and stb")
    done = subprocess.run([program, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "--rounds" in done.stdout
    assert {"emoji.safetensors", "sprites.safetensors", "world.json", "LICENSE-sprites.txt"} <= {f.name for f in (demo.FOLDER / "data").iterdir()}


def test_demo_says_how_to_get_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "FOLDER", tmp_path)
    assert main(["demo"]) == 1
    assert "libcli11-dev" in capsys.readouterr().err
