# SPDX-License-Identifier: Apache-2.0
"""self_improve: generate, judge, pair, fit, project, tune and judge again, until a stop rule applies."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Callable, Protocol, TypeVar, runtime_checkable
from collections.abc import Sequence

from . import _isic
from ._edit import Edit
from ._errors import ValueError as IsicValueError
from ._errors import require_class
from ._typing import Centering, Codes, EditTarget, FloatArray, Floats, Ids, Metric, Padding, TokenArray
from ._results import Progress, RedrawRequest, RoundReport, SelfImproveReport, TuningSet, Value

Images = TypeVar("Images")
Images_co = TypeVar("Images_co", covariant=True)

TuningLoss = Callable[[int, FloatArray], float]
"""(step, gradient) -> loss; adds d loss / d codebook to gradient [K, d]."""


@runtime_checkable
class Generator(Protocol[Images_co]):
    """The members of a generator for `self_improve`. Any object with these members is one; it need not derive from this class.

    decode must read the codebook as it is at the time of the call. generate should read a copy of the original: a transformer
    that reads edited vectors degrades. One generator belongs to one call of self_improve at a time.
    """

    @property
    def codebook(self) -> Any:
        """The codebook [K, d] that isic edits in place: an array or a tensor, or a method that returns it. It must not move."""

    def generate(self, prompts: list[str], seed: int) -> Ids:
        """Token ids [n, T], one row per prompt; equal seeds give equal ids."""

    def decode(self, tokens: TokenArray) -> Images_co:
        """Images of token ids [n, T]. isic passes them to the judge and does not inspect them."""


class RedrawingGenerator(Generator[Images_co], Protocol[Images_co]):
    """A generator that can redraw the harmful tokens of an image and keep the rest."""

    def redraw(self, request: RedrawRequest) -> Ids:
        """Token ids of the shape of request.harmful, without the harmful ones."""


class TunableGenerator(Generator[Images_co], Protocol[Images_co]):
    """A generator with a loss that tunes the codebook."""

    def tuning_loss(self, tuning_set: TuningSet) -> TuningLoss:
        """A function of (step, gradient) that adds d loss / d codebook to gradient [K, d] and returns the loss."""


def require_generator(function: str, generator: Any) -> None:
    """Raises TypeError unless the object has the members of `Generator`."""
    for name in ("generate", "decode", "codebook"):
        if not hasattr(generator, name):
            raise TypeError(f"isic.{function}: expected a generator with {name}, got {type(generator).__qualname__} without one")


def codebook_of(generator: Any) -> Any:
    """The codebook, whether it is an attribute or a method."""
    book = generator.codebook
    return book() if callable(book) and not hasattr(book, "shape") else book


Judge = Callable[[Images], Floats]
"""P(unsafe) in [0, 1] for every image, [n], read from the decoded images through frozen weights."""


@dataclass(frozen=True, repr=False)
class StopOptions(Value):
    """When `self_improve` stops."""

    max_rounds: int = 5
    """Maximum number of rounds, >= 0."""
    below: float = 0.015
    """The loop stops when the judged rate is below this value, in [0, 1]."""
    min_improvement: float = 0.0
    """A round improves if it lowers the judged rate by more than this value, in [0, 1], and is significant."""
    significance: float = 1.64
    """A round is significant if the rate falls by more than this number of standard errors of the paired difference, >= 0."""
    patience: int = 1
    """The loop stops after this number of rounds in a row without improvement, >= 1."""
    damage_budget: float = math.inf
    """Largest ||C - C_0||_F / ||C_0||_F, > 0; a round that exceeds it is undone."""


@dataclass(frozen=True, repr=False)
class JudgingOptions(Value):
    """How `self_improve` reads the judge's probabilities."""

    unsafe_above: float = 0.5
    """An image is unsafe if P(unsafe) is above this value, in [0, 1]."""
    safe_below: float = 0.5
    """An image is safe if P(unsafe) is below this value, in [0, 1]."""
    counterpart_attempts: int = 3
    """Attempts to draw a safe counterpart before the pair is dropped, >= 1."""
    sensitivity: float = 1.0
    """Share of unsafe images that the judge calls unsafe, in [0, 1]."""
    specificity: float = 1.0
    """Share of safe images that the judge calls safe, in [0, 1]. Corrected rates are reported if either share is below 1."""


@dataclass(frozen=True, repr=False)
class RankOptions(Value):
    """The rank of a round's subspace, as in `fit_subspace`, and of all rounds together."""

    fixed: int | None = None
    """Exact rank; None: the rules below decide."""
    energy: float | None = 0.9
    """Share of sum sigma^2 to keep, in (0, 1]; None turns the rule off."""
    gavish_donoho: bool = True
    """Keeps singular values above the optimal hard threshold."""
    max_rank: int | None = 2
    """Upper bound of a round's rank; None: max(1, d // 4)."""
    budget: int | None = None
    """Largest rank of all rounds merged; None: max(1, d // 4); d: no limit."""


@dataclass(frozen=True, repr=False)
class EditingOptions(Value):
    """How a round of `self_improve` projects the codebook."""

    target: EditTarget = "counterparts"
    """Where codes move inside the subspace: "origin", zero, as published; "safe_mean", the mean of the codes of safe images;
    "counterparts", the mean of the codes at the same positions of the safe counterparts."""
    target_weight: float = 2.0
    """Counts of the safe mean in a target of "counterparts", > 0."""
    per_code_strength: bool = True
    """Strength by harmfulness; False: the published uniform projection."""
    prior_per_code: float = 0.5
    """As `code_harmfulness`."""
    ramp_low: float = 0.6
    """`low` of `code_strength`."""
    ramp_high: float = 0.9
    """`high` of `code_strength`."""
    metric: Metric = "l2"
    """Metric of the model's nearest-neighbour search, as `project_out`."""
    padding: Padding = None
    """Ids of rows that are not codes; they keep their bytes."""


@dataclass(frozen=True, repr=False)
class TuningOptions(Value):
    """How a round of `self_improve` tunes the codebook, if the generator has a tuning_loss."""

    steps: int = 0
    """Adam steps in the first round, >= 0; 0: no tuning."""
    growth: float = 1.0
    """Steps of a round / steps of the round before, >= 1."""
    rate: float = 0.12
    """As `adam_update`; it falls linearly to a thousandth."""
    beta1: float = 0.9
    """As `adam_update`."""
    beta2: float = 0.98
    """As `adam_update`."""
    epsilon: float = 1e-8
    """As `adam_update`."""
    constrained: bool = True
    """Keep every step orthogonal to the merged subspace."""
    lock_above: float = 2.0
    """Codes of at least this harmfulness do not move; above 1: all codes may move."""
    radius: float = math.inf
    """Largest distance of a code from its projected value, > 0, in units of the embedding."""


for _group in (StopOptions, JudgingOptions, RankOptions, EditingOptions, TuningOptions):
    _group.__module__ = "isic"


def self_improve(generator: Generator[Images], judge: Judge[Images], *, unsafe_prompts: Sequence[str], safe_prompts: Sequence[str],
                 rewrite: Callable[[str], str], stop: StopOptions = StopOptions(), judging: JudgingOptions = JudgingOptions(),
                 rank: RankOptions = RankOptions(), centering: Centering = "none", editing: EditingOptions = EditingOptions(),
                 tuning: TuningOptions = TuningOptions(), resample: bool = True, seed: int = 0,
                 on_progress: Callable[[Progress], Any] | None = None, on_round: Callable[[RoundReport], Any] | None = None,
                 score: Callable[[RoundReport], float] | None = None) -> SelfImproveReport:
    """Lets a generator judge its own images and removes the harmful subspace from its codebook, round by round.

    A round draws images of all prompts and judges them. It finds a safe counterpart of each unsafe image: redrawn tokens if the
    generator has `redraw`, else the image of the rewritten prompt; a counterpart counts if it is judged safe. It fits the
    subspace of the differences, projects the codebook, tunes it under the constraint if the generator has a `tuning_loss`, and
    judges the same images again. The best round is kept, not the last.

    generator: an object as `Generator`; its codebook is edited in place. `redraw` and `tuning_loss` are optional.
    judge: images -> P(unsafe) of each. It should read decoded pixels: a judge that re-encodes with the edited codebook no longer
        sees what was removed.
    unsafe_prompts: prompts whose images are drawn, judged and learnt from. safe_prompts: prompts whose images show which codes
        safe images use. At least one each.
    rewrite: unsafe prompt -> safe counterpart prompt: a Lexicon, or a model.
    stop, judging, rank, editing, tuning: options in groups, see `StopOptions`, `JudgingOptions`, `RankOptions`,
        `EditingOptions` and `TuningOptions`. centering: `center` of `fit_subspace`.
    resample: draw new images in every round; False: draw tokens once and decode them again.
    seed: seed of every random choice.
    on_progress: called at every step; returns False to cancel. on_round: called after every round, with the codebook of that
        round; may add to the report's metrics. score: the loop keeps the round of the lowest score; default: the judged rate.

    A generator, judge or callback that raises, a judge that returns NaN, and a cancel end the loop with the codebook of the best
    completed round: the report's reason is "failed" or "cancelled", its message has the text, and its `exception` is the one
    raised. Ctrl-C ends the loop too and raises KeyboardInterrupt. isic's own computations run no Python code and release the
    GIL; callbacks run in the calling thread. Calls with distinct generators may run in several threads.

    Raises ShapeError, ValueError and TypeError on options, before the first image is drawn. Source: Safe-CB; the equations are
    reconstructed, the strengths, targets, stop rule and roll-back are our choice.

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
    ...                            rewrite=isic.Lexicon({"knife": "spoon"}), editing=isic.EditingOptions(prior_per_code=0.05))
    >>> report
    SelfImproveReport(reason='below_target', best_round=1, self_unsafe=[1, 0], codes_changed=1)
    >>> model.codebook[0].round(2)
    array([0.17, 0.83, 0.  ], dtype=float32)
    >>> report.change.undo()  # restores every byte
    """
    require_generator("self_improve", generator)
    for name, given in (("judge", judge), ("rewrite", rewrite), ("on_progress", on_progress), ("on_round", on_round), ("score", score)):
        if not callable(given) and (given is not None or name in ("judge", "rewrite")):
            raise TypeError(f"isic.self_improve: expected a {name} that can be called, got {type(given).__qualname__}")
    groups = {"stop": (stop, StopOptions), "judging": (judging, JudgingOptions), "rank": (rank, RankOptions),
              "editing": (editing, EditingOptions), "tuning": (tuning, TuningOptions)}
    for name, (group, kind) in groups.items():
        require_class("self_improve", name, group, kind)
    if rank.fixed == 0:
        raise IsicValueError("isic.self_improve: expected rank.fixed >= 1 (None: the rules decide), got 0")
    if isinstance(unsafe_prompts, str) or isinstance(safe_prompts, str):
        raise TypeError("isic.self_improve: expected lists of prompts, got one string; put it in a list")
    options: dict[str, Any] = {name: group for name, (group, _) in groups.items()}
    options.update(unsafe_prompts=list(unsafe_prompts), safe_prompts=list(safe_prompts), centering=centering, resample=resample, seed=seed)

    def codebook() -> Codes:
        return codebook_of(generator)  # type: ignore[no-any-return]

    book = codebook()
    *values, change, exception = _isic.self_improve(generator, judge, codebook, rewrite, on_progress, on_round, score, options)
    if exception is not None and not isinstance(exception, Exception):
        raise exception  # KeyboardInterrupt or SystemExit; the codebook is that of the best round
    values += [Edit(change, book), exception]
    return SelfImproveReport(*values)
