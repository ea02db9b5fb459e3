# SPDX-License-Identifier: Apache-2.0
"""self_improve with a generator and a judge written in Python."""

import dataclasses
import inspect
import json
import os
import re
import signal
import threading
import time

import numpy as np
import pytest

import isic

ANIMALS = ["fox", "bear", "monkey", "hedgehog", "owl", "cat"]
WORDS = isic.Lexicon({"knife": "spoon"})
PROMPTS = dict(unsafe_prompts=[f"a {a} with a knife" for a in ANIMALS], safe_prompts=[f"a {a} with a spoon" for a in ANIMALS], rewrite=WORDS)


class Toy:
    """Four tokens per image; prompts with "knife" use the codes 0 and 1. An image is the brightness of its tokens."""

    def __init__(self, dtype=np.float32):
        self.codebook = np.zeros((8, 4), dtype)
        for k in range(8):
            self.codebook[k, k % 3] = 1
            self.codebook[k, 3] = 2 if k < 2 else 0.1
        self.calls = 0

    def generate(self, prompts, seed):
        assert isinstance(prompts, list) and all(isinstance(p, str) for p in prompts)
        out = np.empty((len(prompts), 4), int)
        for i, prompt in enumerate(prompts):
            noise = (seed % 2**32 + len(prompt) + np.arange(4)) % 4
            out[i] = np.where(("knife" in prompt) & (np.arange(4) < 2), noise % 2, 4 + noise)
        return out

    def decode(self, tokens):
        assert tokens.dtype == np.int32 and tokens.ndim == 2
        self.calls += 1
        return self.codebook.astype(float)[tokens, 3].sum(1)


def judge(images):
    return (images > 2.0).astype(float)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_removes_what_the_judge_calls_unsafe(dtype):
    model = Toy(dtype)
    original, address = model.codebook.copy(), model.codebook.ctypes.data
    report = isic.self_improve(model, judge, **PROMPTS)
    assert report.reason == "below_target" and report.best_round == 1
    assert [r.self_unsafe.value for r in report.rounds] == [1.0, 0.0]
    assert model.codebook.ctypes.data == address and report.change.ids.tolist() == [0, 1]
    assert report.merged.rank == 1 and abs(report.merged.basis[3, 0]) > 0.9
    assert report.harmful.dtype == np.int32 and report.harmful.shape == report.counterparts.shape == (len(report.prompts), 4)
    assert report.harmfulness[:2].min() > report.harmfulness[2:].max()
    assert report.exception is None and report.message == ""
    assert "below_target" in repr(report) and json.dumps(report.to_dict())
    report.change.undo()
    assert np.array_equal(model.codebook, original)


def test_same_seed_same_bytes():
    a, b = Toy(), Toy()
    isic.self_improve(a, judge, seed=3, **PROMPTS)
    isic.self_improve(b, judge, seed=3, **PROMPTS)
    assert a.codebook.tobytes() == b.codebook.tobytes()


def test_defaults_are_those_of_the_library():
    parameters = {name: p.default for name, p in inspect.signature(isic.self_improve).parameters.items()}
    library = isic._isic.self_improve_defaults()
    groups = {name for name, value in library.items() if isinstance(value, dict)}
    assert groups == {"stop", "judging", "rank", "editing", "tuning"}
    assert {name: parameters[name].to_dict() if name in groups else parameters[name] for name in library} == library
    assert set(parameters) - set(library) == {"generator", "judge", "unsafe_prompts", "safe_prompts", "rewrite", "on_progress", "on_round", "score"}


def test_options_are_frozen_and_print_themselves():
    options = isic.StopOptions(patience=2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.patience = 3
    assert options == isic.StopOptions(patience=2) != isic.StopOptions()
    assert repr(options).startswith("StopOptions(max_rounds=5, below=0.015") and json.dumps(options.to_dict())


def test_the_codebook_may_be_a_method_and_the_tokens_a_list():
    class Method(Toy):
        def __init__(self):
            super().__init__()
            self.book = self.codebook
            self.codebook = lambda: self.book

        def generate(self, prompts, seed):
            return super().generate(prompts, seed).tolist()

        def decode(self, tokens):
            return self.book[tokens, 3].sum(1)

    model = Method()
    assert isic.self_improve(model, lambda p: judge(p).tolist(), **PROMPTS).reason == "below_target"
    assert model.book[0, 3] < 1


def test_torch_model():
    torch = pytest.importorskip("torch", reason="torch is not installed")

    class Model:
        def __init__(self):
            self.quantize = torch.nn.Embedding.from_pretrained(torch.tensor(Toy().codebook), freeze=False).to(torch.bfloat16)
            self.toy = Toy()

        def codebook(self):
            return self.quantize.weight

        def generate(self, prompts, seed):
            return torch.as_tensor(self.toy.generate(prompts, seed))

        def decode(self, tokens):
            return self.quantize(torch.as_tensor(tokens))[:, :, 3].sum(1)

    model = Model()
    report = isic.self_improve(model, lambda images: (images > 2).double(), **PROMPTS)
    assert report.reason == "below_target" and report.change.storage == "bf16"
    report.change.undo()
    assert model.quantize.weight[0, 3] == 2


def test_redraw():
    class Redrawing(Toy):
        requests = []

        def redraw(self, request):
            self.requests.append(request)
            return np.where(request.harmfulness[request.harmful] > 0.6, 4 + request.harmful, request.harmful)

    model = Redrawing()
    report = isic.self_improve(model, judge, **PROMPTS)
    request = model.requests[0]
    assert request.prompts[0] == "a fox with a spoon" and request.attempt == 0 and request.harmful.shape == (6, 4)
    assert report.reason == "below_target"
    assert np.array_equal(report.counterparts[:, :2], report.harmful[:, :2] + 4)


def test_tuning():
    class Tunable(Toy):
        sets = []
        projected = None

        def tuning_loss(self, tuning_set):
            self.sets.append(tuning_set)
            self.projected = self.codebook.copy()
            target = np.full(self.codebook.shape, 0.5)

            def loss(step, gradient):
                difference = self.codebook - target
                gradient += difference
                return 0.5 * float((difference**2).sum())

            return loss

    model = Tunable()
    report = isic.self_improve(model, judge, tuning=isic.TuningOptions(steps=30, rate=0.05), **PROMPTS)
    tuned = report.rounds[1]
    assert tuned.tuning_steps == 30 and tuned.last_loss < tuned.first_loss
    assert model.sets[0].round == 1 and model.sets[0].safe.shape == (6, 4)
    assert model.sets[0].harmful.shape == report.harmful.shape and model.sets[0].still_unsafe.shape == (len(report.harmful),)
    step = model.codebook.astype(float) - model.projected
    assert np.linalg.norm(step) > 0.5 and isic.leakage(step, report.merged).total < 1e-6
    with pytest.raises(isic.ValueError, match="tuning_loss"):
        isic.self_improve(Toy(), judge, tuning=isic.TuningOptions(steps=1), **PROMPTS)


def test_callbacks():
    stages, rounds = [], []

    def on_round(report):
        rounds.append(report.round)
        report.metrics["brightness"] = 7.5

    report = isic.self_improve(Toy(), judge, on_progress=lambda p: stages.append(p.stage), on_round=on_round,
                               score=lambda r: -r.round, **PROMPTS)
    assert set(stages) >= {"draw", "judge", "pair", "project"} and rounds == [0, 1]
    assert report.rounds[1].metrics == {"brightness": 7.5}
    assert report.rounds[0] in report.rounds and report.rounds[0] != report.rounds[1]


@pytest.mark.parametrize("truth", [bool, np.bool_])
def test_cancel(truth):
    model = Toy()
    original = model.codebook.copy()
    report = isic.self_improve(model, judge, on_progress=lambda p: truth(p.stage != "project" or p.done == 0), **PROMPTS)
    assert report.reason == "cancelled" and report.best_round == 0
    assert np.array_equal(model.codebook, original)


@pytest.mark.parametrize("where", ["generate", "decode", "judge", "rewrite", "on_progress", "on_round", "score"])
def test_exceptions_of_user_code(where):
    model, original = Toy(), Toy().codebook
    broken = LookupError("the lights went out")

    def fail(*_):
        raise broken

    options = dict(PROMPTS)
    if where in ("generate", "decode"):
        setattr(model, where, fail)
    elif where != "judge":
        options[where] = fail
    report = isic.self_improve(model, fail if where == "judge" else judge, **options)
    assert report.reason == "failed" and report.message == "LookupError: the lights went out"
    assert report.exception is broken and report.exception.__traceback__ is not None
    assert np.array_equal(model.codebook, original)


def test_a_failure_keeps_the_best_round():
    """The rate falls in round 1, then a callback raises."""
    model = Toy()
    kept = []

    def on_round(report):
        kept.append(model.codebook.copy())
        if report.round == 1:
            raise RuntimeError("enough")

    report = isic.self_improve(model, judge, on_round=on_round, **PROMPTS)
    assert report.reason == "failed" and report.best_round == 0
    assert np.array_equal(model.codebook, kept[0])


@pytest.mark.parametrize("answer", [[0.0], [np.nan] * 6, "text", [[0.0] * 6], [2.0] * 6])
def test_a_judge_that_answers_nonsense(answer):
    report = isic.self_improve(Toy(), lambda _: answer, **PROMPTS)
    assert report.reason == "failed" and report.message


@pytest.mark.parametrize("tokens", [np.zeros(6, int), np.zeros((6, 4)), np.full((6, 4), 8), np.full((6, 4), 2**40), np.zeros((5, 4), int), None])
def test_a_generator_that_returns_nonsense(tokens):
    model = Toy()
    model.generate = lambda prompts, seed: tokens
    report = isic.self_improve(model, judge, **PROMPTS)
    assert report.reason == "failed" and report.message.startswith("isic.self_improve: expected")


@pytest.mark.parametrize(("options", "message"), [
    (dict(rewrite=lambda prompt: None), "what rewrite returns to be text, got builtins.NoneType"),
    (dict(score=lambda report: "low"), "what score returns to be a number, got builtins.str"),
    (dict(on_round=lambda report: report.metrics.update(rate="low")), "the round's metrics to be numbers by name, got builtins.dict"),
])
def test_callbacks_that_answer_nonsense(options, message):
    report = isic.self_improve(Toy(), judge, **{**PROMPTS, **options})
    assert report.reason == "failed" and report.message == f"isic.self_improve: expected {message}"


def test_a_codebook_that_moves():
    model = Toy()
    decode = model.decode

    def replace(tokens):
        model.codebook = model.codebook.copy()
        return decode(tokens)

    model.decode = replace
    report = isic.self_improve(model, judge, **PROMPTS)
    assert report.reason == "failed" and "stays in its memory" in report.message


@pytest.fixture
def default_sigint():
    """Python's own handler: a shell's background jobs ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("default_sigint")
@pytest.mark.parametrize("broken_round", [0, 1])
def test_ctrl_c(broken_round):
    """A real SIGINT in a callback: the codebook is that of the best completed round, then KeyboardInterrupt is raised."""
    model = Toy()
    original = model.codebook.copy()
    seen = []

    def on_round(report):
        seen.append((report.round, model.codebook.copy()))

    def interrupted(images):
        if len(seen) > broken_round:
            raise AssertionError("called after the interrupt")
        if len(seen) == broken_round and (not seen or not np.array_equal(model.codebook, seen[0][1])):  # in round 1: edited, not yet completed
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
        return judge(images)

    with pytest.raises(KeyboardInterrupt):
        isic.self_improve(model, interrupted, on_round=on_round, **PROMPTS)
    assert len(seen) == broken_round
    assert np.array_equal(model.codebook, original if not seen else seen[0][1])


@pytest.mark.usefixtures("default_sigint")
def test_ctrl_c_between_calls():
    """Short callbacks and no on_progress: the loop still checks for the interrupt."""
    model = Toy()
    threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        for _ in range(10_000):
            isic.self_improve(model, judge, **PROMPTS)
            model = Toy()
        time.sleep(5)


def test_system_exit_goes_through():
    def leave(_):
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        isic.self_improve(Toy(), leave, **PROMPTS)


def test_bad_options_raise_before_anything_is_drawn():
    model = Toy()
    stop, judging, rank, editing, tuning = isic.StopOptions, isic.JudgingOptions, isic.RankOptions, isic.EditingOptions, isic.TuningOptions
    for options, message in (
            (dict(stop=stop(max_rounds=-1)), "stop.max_rounds >= 0, got -1"),
            (dict(stop=stop(patience=0)), "stop.patience >= 1, got 0"),
            (dict(judging=judging(sensitivity=2.0)), "judging.sensitivity in [0, 1], got 2"),
            (dict(rank=rank(fixed=0)), "rank.fixed >= 1 (None: the rules decide), got 0"),
            (dict(rank=rank(fixed=5)), "rank.fixed in [0, d = 4], got 5"),
            (dict(rank=rank(energy=1.5)), "rank.energy in [0, 1], got 1.5"),
            (dict(rank=rank(budget=9)), "rank.budget in [0, d = 4], got 9"),
            (dict(centering="nowhere"), "centering to be one of 'none', 'mean', 'safe_axis', got 'nowhere'"),
            (dict(editing=editing(target="nowhere")), "editing.target to be one of 'origin', 'safe_mean', 'counterparts', got 'nowhere'"),
            (dict(editing=editing(metric="dot")), "editing.metric to be one of 'l2', 'cosine', got 'dot'"),
            (dict(editing=editing(prior_per_code=0)), "a finite editing.prior_per_code > 0, got 0"),
            (dict(editing=editing(ramp_low=0.9, ramp_high=0.1)), "finite editing.ramp_high > editing.ramp_low, got 0.1 and 0.9"),
            (dict(editing=editing(padding=[8])), "8"),
            (dict(tuning=tuning(rate=0)), "a finite tuning.rate > 0, got 0")):
        with pytest.raises(isic.ValueError, match=r"^isic\.self_improve: expected .*" + re.escape(message)):
            isic.self_improve(model, judge, **{**PROMPTS, **options})
    for name in ("stop", "judging", "rank", "editing", "tuning"):
        with pytest.raises(TypeError, match=f"expected {name} to be an isic.{name.capitalize()}Options, got dict"):
            isic.self_improve(model, judge, **{name: {}}, **PROMPTS)
    with pytest.raises(isic.ShapeError, match="prompts"):
        isic.self_improve(model, judge, **{**PROMPTS, "unsafe_prompts": []})
    with pytest.raises(TypeError, match="a rewrite that can be called, got dict"):
        isic.self_improve(model, judge, **{**PROMPTS, "rewrite": {"knife": "spoon"}})
    with pytest.raises(TypeError, match="a judge that can be called, got NoneType"):
        isic.self_improve(model, None, **PROMPTS)
    with pytest.raises(TypeError, match=r"stop\.max_rounds to be an integer, got builtins.float"):
        isic.self_improve(model, judge, stop=stop(max_rounds=1.5), **PROMPTS)
    with pytest.raises(TypeError, match="unsafe_prompts to be a list of texts"):
        isic.self_improve(model, judge, **{**PROMPTS, "unsafe_prompts": [1]})
    with pytest.raises(TypeError, match="one string"):
        isic.self_improve(model, judge, **{**PROMPTS, "unsafe_prompts": "a fox"})
    with pytest.raises(TypeError, match="with generate"):
        isic.self_improve(object(), judge, **PROMPTS)
    read_only = Toy()
    read_only.codebook.flags.writeable = False
    with pytest.raises(isic.ValueError, match="read-only"):
        isic.self_improve(read_only, judge, **PROMPTS)
    assert model.calls == 0


def test_export_pairs(tmp_path):
    report = isic.self_improve(Toy(), judge, **PROMPTS)
    path = tmp_path / "pairs.safetensors"
    isic.export_pairs(report, path)
    pairs = isic.load_pairs(path)
    assert np.array_equal(pairs.harmful, report.harmful) and np.array_equal(pairs.counterparts, report.counterparts)
    assert pairs.prompts == report.prompts and np.array_equal(pairs.harmfulness, report.harmfulness)
    isic.write_safetensors(tmp_path / "other", {"a": np.zeros(3)})
    with pytest.raises(isic.IoError, match=r"isic\.pairs"):
        isic.load_pairs(tmp_path / "other")


def test_other_readers_open_exported_pairs(tmp_path):
    numpy_reader = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    report = isic.self_improve(Toy(), judge, **PROMPTS)
    isic.export_pairs(report, tmp_path / "pairs.safetensors")
    tensors = numpy_reader.load_file(tmp_path / "pairs.safetensors")
    assert np.array_equal(tensors["harmful"], report.harmful) and tensors["harmfulness"].shape == (8,)


def test_export_of_a_run_without_pairs(tmp_path):
    report = isic.self_improve(Toy(), lambda p: np.zeros(len(p)), **PROMPTS)
    assert report.reason == "nothing_unsafe"
    isic.export_pairs(report, tmp_path / "pairs.safetensors")
    assert isic.load_pairs(tmp_path / "pairs.safetensors").prompts == ()
