"""self_improve: generate, judge, pair, fit, project, update, judge again, until nothing improves."""

from __future__ import annotations

import math
from typing import Any, Callable, Mapping, Protocol, Sequence, TypeVar, runtime_checkable

from . import _isic
from ._edit import Edit
from ._errors import ValueError as IsicValueError
from ._typing import Centering, Codes, EditTarget, FloatArray, Floats, Ids, Metric, Padding, TokenArray
from ._results import Progress, RedrawRequest, RoundReport, SelfImproveReport, TuningSet

Images = TypeVar("Images")
Images_co = TypeVar("Images_co", covariant=True)

TuningLoss = Callable[[int, FloatArray], float]
"""(step, gradient) -> loss; adds d loss / d codebook to gradient [K, d]."""


@runtime_checkable
class Generator(Protocol[Images_co]):
    """What `self_improve` asks of a generator; any object that has these will do, it need not derive from this.

    decode must read the codebook as it is at the time of the call. generate should read a copy of the original: a model
    that looks edited vectors up again degrades (encode and feed with the original, decode with the edited).
    """

    @property
    def codebook(self) -> Any:
        """The codebook [K, d] that isic edits in place: an array or a tensor, or a method that returns it. It stays where it is."""

    def generate(self, prompts: list[str], seed: int) -> Ids:
        """Token ids [n, T], one row per prompt; the same seed gives the same ids."""

    def decode(self, tokens: TokenArray) -> Images_co:
        """Images of token ids [n, T], for the judge; isic never looks inside."""


class RedrawingGenerator(Generator[Images_co], Protocol[Images_co]):
    """A generator that can redraw the harmful tokens of an image and keep the rest."""

    def redraw(self, request: RedrawRequest) -> Ids:
        """Repaired token ids, of the shape of request.harmful."""


class TunableGenerator(Generator[Images_co], Protocol[Images_co]):
    """A generator that offers a loss to tune the codebook with."""

    def tuning_loss(self, tuning_set: TuningSet) -> TuningLoss:
        """A function of (step, gradient) that adds d loss / d codebook to gradient [K, d] and returns the loss."""


def require_generator(function: str, generator: Any) -> None:
    """Raises TypeError unless it has what `Generator` asks."""
    for name in ("generate", "decode", "codebook"):
        if not hasattr(generator, name):
            raise TypeError(f"isic.{function}: expected a generator with {name}, got {type(generator).__qualname__} without one")


def codebook_of(generator: Any) -> Any:
    """The codebook, whether it is an attribute or a method."""
    book = generator.codebook
    return book() if callable(book) and not hasattr(book, "shape") else book


Judge = Callable[[Images], Floats]
"""P(unsafe) in [0, 1] for every image, [n], read from the decoded images through frozen weights."""


def self_improve(generator: Generator[Images], judge: Judge[Images], *, unsafe_prompts: Sequence[str], safe_prompts: Sequence[str],
                 rewrite: Callable[[str], str], max_rounds: int = 5, stop_below: float = 0.015, min_improvement: float = 0.0,
                 significance: float = 1.64, patience: int = 1, damage_budget: float = math.inf, unsafe_above: float = 0.5,
                 safe_below: float = 0.5, counterpart_attempts: int = 3, judge_sensitivity: float = 1.0, judge_specificity: float = 1.0,
                 resample: bool = True, rank: int | None = None, energy: float | None = 0.9, gavish_donoho: bool = True,
                 max_rank: int | None = 2, center: Centering = "none", rank_budget: int | None = None, target: EditTarget = "counterparts",
                 target_weight: float = 2.0, per_code_strength: bool = True, prior_per_code: float = 0.5, ramp_low: float = 0.6,
                 ramp_high: float = 0.9, metric: Metric = "l2", padding: Padding = None, tuning_steps: int = 0, tuning_growth: float = 1.0,
                 tuning_rate: float = 0.12, tuning_beta1: float = 0.9, tuning_beta2: float = 0.98, tuning_epsilon: float = 1e-8,
                 constrain_tuning: bool = True, lock_above: float = 2.0, tuning_radius: float = math.inf, seed: int = 0,
                 on_progress: Callable[[Progress], Any] | None = None, on_round: Callable[[RoundReport], Any] | None = None,
                 score: Callable[[RoundReport], float] | None = None) -> SelfImproveReport:
    """Lets a generator judge its own images and takes what is harmful out of its codebook, round by round.

    A round: draw images of the unsafe prompts and judge them; find a safe counterpart of each unsafe one (repaired
    tokens if the generator redraws, else the image of the rewritten prompt) and keep it if it is judged safe; fit the
    subspace of the differences; project the codebook; tune it under the constraint if the generator offers a loss; judge
    again. The best round is kept, not the last.

    generator: an object as `Generator`; its codebook is edited in place. `redraw` and `tuning_loss` are optional.
    judge: images -> P(unsafe) of each. Let it read decoded pixels: one that re-encodes with the edited codebook goes
        blind and fails open.
    unsafe_prompts: drawn, judged and learnt from. safe_prompts: drawn for the usage of safe codes. At least one each.
    rewrite: unsafe prompt -> safe counterpart prompt: a Lexicon, or a model.

    When to stop:
    max_rounds: at most so many. stop_below: judged rate at which it is good enough, in [0, 1].
    min_improvement, significance: a round must lower the judged rate by more than the one, and by more than the other's
        standard errors of the paired difference; patience: rounds in a row that may miss it.
    damage_budget: largest ||C - C_0|| / ||C_0||; a round that exceeds it is undone.

    Judging and pairing:
    unsafe_above, safe_below: P(unsafe) above and below which an image counts as unsafe and safe.
    counterpart_attempts: draws of a counterpart before the pair is dropped.
    judge_sensitivity, judge_specificity: known rates of the judge; corrected rates are reported if either is below 1.
    resample: draw new images every round; False: tokens are drawn once and decoded again.

    Editing:
    rank, energy, gavish_donoho, max_rank, center: as `fit_subspace`, per round. rank_budget: of all rounds merged; None:
        max(1, d // 4); d: no limit.
    target: where codes go inside the subspace: "origin", as published; "safe_mean", the mean of the safe images' codes;
        "counterparts", the mean of what stands at the code's positions in the safe counterparts, with target_weight
        counts of the safe mean.
    per_code_strength: strength by harmfulness, with prior_per_code and the ramp as `code_harmfulness` and
        `code_strength`; False: the published uniform projection.
    metric, padding: as `project_out`.

    Tuning, if the generator has a tuning_loss:
    tuning_steps: Adam steps in the first round; tuning_growth: each round takes so many times the steps of the one before.
    tuning_rate, tuning_beta1, tuning_beta2, tuning_epsilon: as `adam_update`; the rate falls linearly to a thousandth.
    constrain_tuning: keep steps orthogonal to the merged subspace. lock_above: codes of at least this harmfulness do not
        move. tuning_radius: around the projected codebook, per code, in units of the embedding.

    seed: of everything random.
    on_progress: called often; return False to cancel. on_round: after every round, the codebook as it is then; may add to
        the report's metrics. score: lower is better; default: the judged rate.

    A generator, judge or callback that raises, a judge that returns NaN, and a cancel end the loop with the codebook at
    the best completed round: the report's reason is "failed" or "cancelled", its message says what, and its `exception`
    is the one raised. Ctrl-C does so too, and then raises KeyboardInterrupt. No other Python code runs inside isic's own
    computations, which release the GIL; callbacks run in the calling thread.

    Raises ShapeError, ValueError and TypeError on options, before anything is drawn. Source: Safe-CB; the equations are
    reconstructed, strengths, targets, stop and roll-back rules our choice.

    >>> class Model:
    ...     def __init__(self):
    ...         self.codebook = np.eye(4, 3, dtype=np.float32)
    ...     def generate(self, prompts, seed):
    ...         return [[0 if "knife" in prompt else 1, 2] for prompt in prompts]
    ...     def decode(self, tokens):
    ...         return self.codebook[tokens].sum(axis=1)
    >>> def judge(images):
    ...     return images[:, 0] > 0.9
    >>> model = Model()
    >>> report = isic.self_improve(model, judge, unsafe_prompts=["a fox with a knife"], safe_prompts=["a fox with a spoon"],
    ...                            rewrite=isic.Lexicon({"knife": "spoon"}), prior_per_code=0.05)
    >>> report
    SelfImproveReport(reason='below_target', best_round=1, self_unsafe=[1, 0], codes_changed=1)
    >>> model.codebook[0].round(2)
    array([0.17, 0.83, 0.  ], dtype=float32)
    >>> report.change.undo()  # every byte as it was
    """
    require_generator("self_improve", generator)
    if tuning_steps > 0 and not hasattr(generator, "tuning_loss"):
        raise IsicValueError("isic.self_improve: expected a generator with tuning_loss for tuning_steps > 0, got one without")
    for name, given in (("judge", judge), ("rewrite", rewrite), ("on_progress", on_progress), ("on_round", on_round), ("score", score)):
        if not callable(given) and (given is not None or name in ("judge", "rewrite")):
            raise TypeError(f"isic.self_improve: expected a {name} that can be called, got {type(given).__qualname__}")
    if rank == 0:
        raise IsicValueError("isic.self_improve: expected rank >= 1, or None for the rules to decide, got 0")
    if isinstance(unsafe_prompts, str) or isinstance(safe_prompts, str):
        raise TypeError("isic.self_improve: expected lists of prompts, got one string; put it in a list")
    options: Mapping[str, Any] = dict(
        unsafe_prompts=list(unsafe_prompts), safe_prompts=list(safe_prompts), max_rounds=max_rounds, stop_below=stop_below,
        min_improvement=min_improvement, significance=significance, patience=patience, damage_budget=damage_budget, unsafe_above=unsafe_above,
        safe_below=safe_below, counterpart_attempts=counterpart_attempts, judge_sensitivity=judge_sensitivity,
        judge_specificity=judge_specificity, resample=resample, rank=rank or 0, energy=energy or 0.0, gavish_donoho=gavish_donoho,
        max_rank=max_rank or 0, center=center, rank_budget=rank_budget or 0, target=target, target_weight=target_weight,
        per_code_strength=per_code_strength, prior_per_code=prior_per_code, ramp_low=ramp_low, ramp_high=ramp_high, metric=metric, padding=padding,
        tuning_steps=tuning_steps, tuning_growth=tuning_growth, tuning_rate=tuning_rate, tuning_beta1=tuning_beta1, tuning_beta2=tuning_beta2,
        tuning_epsilon=tuning_epsilon, constrain_tuning=constrain_tuning, lock_above=lock_above, tuning_radius=tuning_radius, seed=seed)

    def codebook() -> Codes:
        return codebook_of(generator)  # type: ignore[no-any-return]

    book = codebook()
    *values, change, exception = _isic.self_improve(generator, judge, codebook, rewrite, on_progress, on_round, score, dict(options))
    if exception is not None and not isinstance(exception, Exception):
        raise exception  # Ctrl-C, or sys.exit: the codebook is in order, and whoever asked to stop shall be obeyed
    values += [Edit(change, book), exception]
    return SelfImproveReport(*values)
