"""Results and options: plain values that print well and turn into dictionaries."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from ._types import FloatArray, Floats, RankRule, StopReason, TokenArray

if TYPE_CHECKING:
    from ._edit import Edit


def plain(value: Any) -> Any:
    """A value as lists, dictionaries, numbers and text, which json can write."""
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, BaseException):
        return repr(value)
    return value


def short(value: Any) -> str:
    """A value in a repr: six digits, and of larger arrays only type and shape."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, np.ndarray):
        if value.ndim == 1 and value.size <= 8:
            return "[" + ", ".join(short(v) for v in value.tolist()) + "]"
        return f"{value.dtype}{list(value.shape)}"
    if isinstance(value, (list, tuple)) and len(value) > 3:
        return f"<{len(value)} {type(value[0]).__name__}>"
    return repr(value)


class Value:
    """What all results have in common."""

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, as lists, dictionaries, numbers and text, which json can write."""
        return {f.name: plain(getattr(self, f.name)) for f in fields(cast(Any, self))}

    def __repr__(self) -> str:
        shown = ", ".join(f"{f.name}={short(getattr(self, f.name))}" for f in fields(cast(Any, self)))
        return f"{type(self).__name__}({shown})"


@dataclass(frozen=True, repr=False, eq=False)
class CodeUsage(Value):
    """How often each code was used; counts, [K] each."""

    harmful: FloatArray
    """Occurrences in images judged harmful."""
    safe: FloatArray
    """Occurrences in safe images."""


@dataclass(frozen=True, repr=False, eq=False)
class CodeScores(Value):
    """How exclusively each code is used by harmful images, and how sure that is; [K] each."""

    harmfulness: FloatArray
    """q = p_h / (p_h + p_s) in [0, 1]; 0.5 for an unused code."""
    z: FloatArray
    """Log-odds over its standard error: evidence, not exclusivity."""
    p_harmful: FloatArray
    """Smoothed share of the code in harmful images."""
    p_safe: FloatArray
    """Smoothed share of the code in safe images."""


@dataclass(frozen=True, repr=False)
class RankChoice(Value):
    """A rank and the rule that decided it."""

    rank: int
    """Singular vectors kept."""
    decided_by: RankRule
    """The rule that allowed the least."""


@dataclass(frozen=True, repr=False)
class LeakageReport(Value):
    """What is left of a codebook inside a subspace, measured on the stored (rounded) values; in [0, 1]."""

    total: float
    """||(C - center) V||_F / ||C - center||_F."""
    largest: float
    """The same for the worst single row."""


@dataclass(frozen=True, repr=False)
class EditSummary(Value):
    """What an edit did, in numbers."""

    moved: int
    """Rows whose stored bytes changed."""
    near_zero: int
    """Rows of which less than the threshold was left, handled by the policy."""
    relative_change: float
    """||C - C_before||_F / ||C_before||_F."""
    before: LeakageReport
    """Leakage of all rows before; zero for a full remap."""
    after: LeakageReport
    """Leakage of all rows as stored, after rounding."""


@dataclass(frozen=True, repr=False)
class UpdateSummary(Value):
    """What an update did."""

    moved: int
    """Rows whose values changed."""
    overflowed: int
    """Rows left as they were because the new values did not fit the storage type."""
    largest_step: float
    """Largest ||c_k' - c_k|| of the moved rows, in units of the embedding."""


@dataclass(frozen=True, repr=False)
class DriftReport(Value):
    """How far rows moved between two versions of a codebook."""

    relative: float
    """||C_after - C_before||_F / ||C_before||_F."""
    mean: float
    """Mean row distance, in units of the embedding."""
    largest: float
    """Largest row distance."""
    moved: int
    """Rows that differ at all."""


@dataclass(frozen=True, repr=False)
class Rate(Value):
    """A share of n with its confidence interval."""

    value: float
    """hits / n, in [0, 1]."""
    low: float
    """Lower end."""
    high: float
    """Upper end."""
    hits: int
    """How many."""
    n: int
    """Of how many; 0: nothing is known, the interval is [0, 1]."""


@dataclass(frozen=True, repr=False, eq=False)
class Subspace(Value):
    """An orthonormal basis of what is to be removed, with how its rank was chosen.

    `fit_subspace`, `span_of` and `merge` make one.
    """

    basis: FloatArray
    """V, [d, r]; columns orthonormal to 1e-12, the largest entry of each positive."""
    singular_values: FloatArray
    """Of the differences, descending; all that were computed."""
    energy: float
    """Share of the squared singular values that the basis holds, in [0, 1]."""
    chosen: RankChoice
    """The rank and the rule that decided it."""

    @property
    def width(self) -> int:
        """d, the width of a code."""
        return int(self.basis.shape[0])

    @property
    def rank(self) -> int:
        """r, the number of basis vectors."""
        return int(self.basis.shape[1])

    def __repr__(self) -> str:
        return f"Subspace(width={self.width}, rank={self.rank}, energy={self.energy:.6g}, decided_by={self.chosen.decided_by!r})"


@dataclass(frozen=True, repr=False, eq=False)
class Assignments(Value):
    """Vectors by the code they were assigned to, what ridge and EMA updates consume. `assign` makes one."""

    counts: FloatArray
    """n_k, [K]."""
    sums: FloatArray
    """Sum of the vectors assigned to code k, [K, d]."""


@dataclass(frozen=True, repr=False, eq=False)
class Constraint(Value):
    """Limits on an update, applied to the finished step in the order of the fields. Everything is off by default."""

    locked: npt.ArrayLike | None = None
    """[K] of bool, true for codes that may not move; None: none."""
    orthogonal_to: Subspace | None = None
    """Steps lose their part in it; use the merged subspace of all rounds."""
    keep_norms: bool = False
    """Moved rows are scaled back to the norm they had."""
    within: float = math.inf
    """Radius: ||c_k - anchor_k|| <= within, applied last; in units of the embedding."""
    anchor: Floats | None = None
    """[K, d], needed for `within`; anchor on the projected codebook. Copied."""
    threads: int = 0
    """0: every core when there is work for them, else one; the bytes do not depend on it. Of the CPU."""


@dataclass(frozen=True, repr=False)
class RewrittenPrompt(Value):
    """A prompt after rewriting, and which terms were replaced, in order."""

    text: str
    """The counterpart prompt."""
    replaced: tuple[str, ...]
    """Unsafe terms of the lexicon, in lower case; empty: nothing was found."""


@dataclass(frozen=True, repr=False)
class Progress(Value):
    """Where `self_improve` is."""

    round: int
    """The round at work."""
    stage: str
    """"draw", "judge", "pair", "project" or "tune"."""
    done: int
    """Of this stage."""
    total: int
    """Of this stage."""


@dataclass(frozen=True, repr=False, eq=False)
class RedrawRequest(Value):
    """What a generator's `redraw` is given: images judged unsafe, and how harmful each code is."""

    prompts: list[str]
    """The safe counterpart prompts, one per image."""
    harmful: TokenArray
    """The images to repair, [n, T]."""
    harmfulness: FloatArray
    """[K]: redraw tokens whose codes are harmful, avoid such codes."""
    attempt: int
    """0 first; images still judged unsafe come again with 1, 2, ..."""
    seed: int
    """Of this attempt."""


@dataclass(frozen=True, repr=False, eq=False)
class TuningSet(Value):
    """What a generator's `tuning_loss` may draw its terms from."""

    harmful: TokenArray
    """Images judged unsafe in any round, [n, T]."""
    counterparts: TokenArray
    """Their safe counterparts, row by row."""
    safe: TokenArray
    """Images of safe prompts, judged safe."""
    still_unsafe: FloatArray
    """P(unsafe) of each harmful image through the present codebook, [n]."""
    harmfulness: FloatArray
    """[K], of this round."""
    round: int
    """1 for the first."""


@dataclass(frozen=True, repr=False, eq=False)
class RoundReport(Value):
    """Everything about one round; round 0 is before any edit."""

    round: int
    """0, 1, ..."""
    self_unsafe: Rate
    """Images of the unsafe prompts that the judge calls unsafe, after this round."""
    corrected_unsafe: Rate | None
    """The same, corrected for the judge's known errors."""
    pairs: int
    """Unsafe images with a safe counterpart that this round learnt from."""
    dropped: int
    """Unsafe images without one."""
    rank: int
    """Rank fitted in this round."""
    decided_by: RankRule
    """The rule that chose it."""
    singular_values: FloatArray
    """Of this round's differences, descending; all that were computed."""
    merged_rank: int
    """Rank of all rounds together."""
    projection: EditSummary
    """What projecting did."""
    tuning_steps: int
    """Gradient steps taken."""
    first_loss: float
    """Tuning loss at the first step."""
    last_loss: float
    """Mean of the last tenth of the steps."""
    relative_change: float
    """||C - C_0||_F / ||C_0||_F after this round."""
    seconds: float
    """Wall clock."""
    metrics: dict[str, float] = field(default_factory=dict)
    """What `on_round` adds."""


@dataclass(frozen=True, repr=False, eq=False)
class SelfImproveReport(Value):
    """What the loop did. The codebook is left at the best completed round."""

    rounds: tuple[RoundReport, ...]
    """Round 0 first."""
    best_round: int
    """The round whose codebook was kept."""
    reason: StopReason
    """Why the loop ended."""
    message: str
    """The exception's text if it failed, else empty."""
    merged: Subspace
    """Harmful subspace of the rounds up to the best."""
    harmfulness: FloatArray
    """[K], the last estimate."""
    harmful: TokenArray
    """Unsafe images learnt from, [n, T], in order of rounds."""
    counterparts: TokenArray
    """Their safe counterparts, [n, T]."""
    prompts: tuple[str, ...]
    """Their prompts, n."""
    change: Edit
    """Original -> kept codebook; `change.undo()` takes everything back."""
    exception: BaseException | None = None
    """What the generator, the judge or a callback raised, if the reason is "failed"."""

    def __repr__(self) -> str:
        rates = ", ".join(f"{r.self_unsafe.value:.3g}" for r in self.rounds)
        text = f"SelfImproveReport(reason={self.reason!r}, best_round={self.best_round}, self_unsafe=[{rates}], codes_changed={len(self.change.ids)}"
        return text + (f", message={self.message!r})" if self.message else ")")


@dataclass(frozen=True, repr=False, eq=False)
class Pairs(Value):
    """What `export_pairs` keeps of a report."""

    harmful: TokenArray
    """Unsafe images, [n, T]."""
    counterparts: TokenArray
    """Their safe counterparts, [n, T]."""
    prompts: tuple[str, ...]
    """The prompts of the unsafe images, n."""
    harmfulness: FloatArray
    """Of each code, [K], in [0, 1]."""


for _value in Value.__subclasses__():
    _value.__module__ = "isic"
