# SPDX-License-Identifier: Apache-2.0
"""Results and options: frozen dataclasses with a short repr and to_dict()."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from ._typing import FloatArray, Floats, RankRule, StopReason, TokenArray

if TYPE_CHECKING:
    from ._edit import Edit


def plain(value: Any) -> Any:
    """A value as lists, dictionaries, numbers and text, ready for json."""
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
    """A value in a repr: numbers to six digits, larger arrays by dtype and shape."""
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
    """Base of results: to_dict and repr."""

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, as lists, dictionaries, numbers and text, ready for json."""
        return {f.name: plain(getattr(self, f.name)) for f in fields(cast(Any, self))}

    def __repr__(self) -> str:
        shown = ", ".join(f"{f.name}={short(getattr(self, f.name))}" for f in fields(cast(Any, self)))
        return f"{type(self).__name__}({shown})"


@dataclass(frozen=True, repr=False, eq=False)
class CodeUsage(Value):
    """Usage counts of each code, [K] each."""

    harmful: FloatArray
    """Occurrences in images judged harmful."""
    safe: FloatArray
    """Occurrences in safe images."""


@dataclass(frozen=True, repr=False, eq=False)
class CodeScores(Value):
    """Harmfulness of each code and the evidence for it, [K] each."""

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
    """The rule with the smallest rank."""


@dataclass(frozen=True, repr=False)
class LeakageReport(Value):
    """Share of a codebook inside a subspace, measured on the stored (rounded) values, in [0, 1]."""

    total: float
    """||(C - center) V||_F / ||C - center||_F."""
    largest: float
    """The same for the worst single row."""


@dataclass(frozen=True, repr=False)
class EditSummary(Value):
    """Numbers of an edit."""

    moved: int
    """Rows whose stored bytes changed."""
    near_zero: int
    """Rows that the projection left near zero, handled by the policy."""
    relative_change: float
    """||C - C_before||_F / ||C_before||_F."""
    before: LeakageReport
    """Leakage of all rows before; zero for a full remap."""
    after: LeakageReport
    """Leakage of all rows as stored, after rounding."""


@dataclass(frozen=True, repr=False)
class UpdateSummary(Value):
    """Numbers of an update."""

    moved: int
    """Rows whose values changed."""
    overflowed: int
    """Rows left unchanged because the new values overflowed the dtype."""
    largest_step: float
    """Largest ||c_k' - c_k|| of the moved rows, in units of the embedding."""


@dataclass(frozen=True, repr=False)
class DriftReport(Value):
    """Distance between two versions of a codebook."""

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
    """Number of hits."""
    n: int
    """Number of trials; 0: the interval is [0, 1]."""


@dataclass(frozen=True, repr=False, eq=False)
class Subspace(Value):
    """An orthonormal basis of the subspace to remove, and the rule that chose its rank.

    `fit_subspace`, `span_of` and `merge` return one.
    """

    basis: FloatArray
    """V, [d, r]; columns orthonormal to 1e-12, the largest entry of each positive."""
    singular_values: FloatArray
    """Singular values of the differences, descending; all that were computed."""
    energy: float
    """Share of the squared singular values in the basis, in [0, 1]."""
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
    """Counts and sums of vectors by their code, for ridge and EMA updates. `assign` returns one."""

    counts: FloatArray
    """n_k, [K]."""
    sums: FloatArray
    """Sum of the vectors assigned to code k, [K, d]."""


@dataclass(frozen=True, repr=False, eq=False)
class Constraint(Value):
    """Limits on an update, applied to the finished step in the order of the fields. Everything is off by default."""

    locked: npt.ArrayLike | None = None
    """[K] of bool, true: the code may not move; None: none."""
    orthogonal_to: Subspace | None = None
    """Projected out of the steps; use the merged subspace of all rounds."""
    keep_norms: bool = False
    """Moved rows are scaled back to the norm they had."""
    within: float = math.inf
    """Radius: ||c_k - anchor_k|| <= within, applied last; in units of the embedding."""
    anchor: Floats | None = None
    """[K, d], required with `within`: the projected codebook. Copied."""
    threads: int = 0
    """CPU threads; 0: every core where the work is worth it, else one. The bytes do not depend on it."""


@dataclass(frozen=True, repr=False)
class RewrittenPrompt(Value):
    """A rewritten prompt and the terms that were replaced, in order."""

    text: str
    """The counterpart prompt."""
    replaced: tuple[str, ...]
    """Unsafe terms of the lexicon, in lower case; empty: none was found."""


@dataclass(frozen=True, repr=False)
class Progress(Value):
    """Progress of `self_improve`."""

    round: int
    """The current round."""
    stage: str
    """"draw", "judge", "pair", "project" or "tune"."""
    done: int
    """Items done in this stage."""
    total: int
    """Items of this stage."""


@dataclass(frozen=True, repr=False, eq=False)
class RedrawRequest(Value):
    """Argument of a generator's `redraw`: images judged unsafe, and the harmfulness of each code."""

    prompts: list[str]
    """The safe counterpart prompts, one per image."""
    harmful: TokenArray
    """The images to repair, [n, T]."""
    harmfulness: FloatArray
    """[K], in [0, 1]: redraw tokens with harmful codes, and avoid those codes."""
    attempt: int
    """0 at first; images that are still judged unsafe are passed again with 1, 2, ..."""
    seed: int
    """Seed of this attempt."""


@dataclass(frozen=True, repr=False, eq=False)
class TuningSet(Value):
    """Argument of a generator's `tuning_loss`: the images of its terms."""

    harmful: TokenArray
    """Images judged unsafe in any round, [n, T]."""
    counterparts: TokenArray
    """Their safe counterparts, row by row."""
    safe: TokenArray
    """Images of safe prompts, judged safe."""
    still_unsafe: FloatArray
    """P(unsafe) of each harmful image decoded with the present codebook, [n]."""
    harmfulness: FloatArray
    """Harmfulness in this round, [K]."""
    round: int
    """Round number; the first is 1."""


@dataclass(frozen=True, repr=False, eq=False)
class RoundReport(Value):
    """Measurements of one round; round 0 is before any edit."""

    round: int
    """0, 1, ..."""
    self_unsafe: Rate
    """Images of the unsafe prompts that the judge calls unsafe, after this round."""
    corrected_unsafe: Rate | None
    """The same rate, corrected for the judge's known error rates."""
    pairs: int
    """Pairs of an unsafe image and a safe counterpart used in this round."""
    dropped: int
    """Unsafe images without a safe counterpart."""
    rank: int
    """Rank fitted in this round."""
    decided_by: RankRule
    """The rule that chose it."""
    singular_values: FloatArray
    """Singular values of this round's differences, descending; all that were computed."""
    merged_rank: int
    """Rank of the merged subspace of all rounds."""
    projection: EditSummary
    """Summary of the projection."""
    tuning_steps: int
    """Number of gradient steps."""
    first_loss: float
    """Tuning loss at the first step."""
    last_loss: float
    """Mean tuning loss of the last tenth of the steps."""
    relative_change: float
    """||C - C_0||_F / ||C_0||_F after this round."""
    seconds: float
    """Wall-clock time, s."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Metrics that `on_round` added, by name."""


@dataclass(frozen=True, repr=False, eq=False)
class SelfImproveReport(Value):
    """Result of `self_improve`. The codebook is that of the best completed round."""

    rounds: tuple[RoundReport, ...]
    """Round 0 first."""
    best_round: int
    """The round whose codebook was kept."""
    reason: StopReason
    """Stop reason."""
    message: str
    """The exception's text if it failed, else empty."""
    merged: Subspace
    """Harmful subspace of the rounds up to the best."""
    harmfulness: FloatArray
    """Last estimate of the harmfulness, [K]."""
    harmful: TokenArray
    """Unsafe images of all pairs, [n, T], in order of rounds."""
    counterparts: TokenArray
    """Their safe counterparts, [n, T]."""
    prompts: tuple[str, ...]
    """Prompts of the unsafe images, n."""
    change: Edit
    """Edit from the original to the kept codebook; `change.undo()` restores the original."""
    exception: BaseException | None = None
    """Exception of the generator, the judge or a callback, if the reason is "failed"."""

    def __repr__(self) -> str:
        rates = ", ".join(f"{r.self_unsafe.value:.3g}" for r in self.rounds)
        text = f"SelfImproveReport(reason={self.reason!r}, best_round={self.best_round}, self_unsafe=[{rates}], codes_changed={len(self.change.ids)}"
        return text + (f", message={self.message!r})" if self.message else ")")


@dataclass(frozen=True, repr=False, eq=False)
class Pairs(Value):
    """The pairs of a report, as `export_pairs` writes them."""

    harmful: TokenArray
    """Unsafe images, [n, T]."""
    counterparts: TokenArray
    """Their safe counterparts, [n, T]."""
    prompts: tuple[str, ...]
    """The prompts of the unsafe images, n."""
    harmfulness: FloatArray
    """Harmfulness of each code, [K], in [0, 1]."""


for _value in Value.__subclasses__():
    _value.__module__ = "isic"
