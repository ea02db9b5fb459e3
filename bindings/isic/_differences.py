# SPDX-License-Identifier: Apache-2.0
"""Embedding differences, harmful minus safe, and scores of each code from its usage counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import _isic
from ._errors import require_class
from ._results import CodeScores, CodeUsage, short
from ._typing import Codes, FloatArray, Floats, Ids

if TYPE_CHECKING:
    from . import _cuda


def differences(harmful: Floats, safe: Floats) -> FloatArray:
    """Paired differences D_i = harmful_i - safe_i.

    harmful, safe: [n, d]. Returns [n, d] float64. Raises ShapeError unless both are [n, d] and not empty, NumericError on
    NaN or infinity. Source: Safe-CB, step 1 (published in words; the formula is a reconstruction).

    >>> isic.differences([[3.0, 1.0]], [[0.0, 1.0]])
    array([[3., 0.]])
    """
    return _isic.differences(harmful, safe)


def pooled_differences(harmful: Floats, safe: Floats, *, group: int) -> FloatArray:
    """Differences of group means: row i pools the rows i * group ... (i + 1) * group - 1 of both sides.

    With group = T, the positions of one image, this is the difference of pooled embeddings. Returns
    [n / group, d]. Raises as `differences`, and ShapeError unless group >= 1 divides n.

    >>> isic.pooled_differences([[3.0], [1.0]], [[0.0], [0.0]], group=2)
    array([[2.]])
    """
    return _isic.pooled_differences(harmful, safe, group)


def histograms(ids: Ids, *, codes: int) -> FloatArray:
    """Token histograms, [n, K]: entry (i, k) counts code k among row i of ids [n, T].

    codes: K. Raises ValueError on an id outside [0, K).

    >>> isic.histograms([[0, 2, 2]], codes=3)
    array([[1., 0., 2.]])
    """
    return _isic.histograms(ids, codes)


def bag_of_codes_differences(codes: Codes, harmful_ids: Ids, safe_ids: Ids) -> FloatArray:
    """Bag-of-codes differences D_i = C^T (h_i - s_i) / T: computed from token counts, without an encoder.

    codes [K, d]; ids [n, T], or [T] for one image. Returns [n, d]. Raises ShapeError if the shapes of the ids differ,
    ValueError on ids outside [0, K).

    >>> isic.bag_of_codes_differences(np.eye(2), [[0, 0]], [[0, 1]])
    array([[ 0.5, -0.5]])
    """
    return _isic.bag_of_codes_differences(codes, harmful_ids, safe_ids)


class Moments:
    """The moments that an accumulator has collected. On a device, reading them waits for the additions."""

    _pairs: _isic.DifferenceAccumulator | _cuda.DifferenceAccumulator

    @property
    def width(self) -> int:
        """d."""
        return self._pairs.width

    @property
    def count(self) -> int:
        """n, the number of difference rows."""
        return self._pairs.count

    @property
    def usage(self) -> CodeUsage:
        """Counts of each code in harmful and in safe images, [K] each; empty if the accumulator takes rows."""
        return self._pairs.usage()

    def mean(self) -> FloatArray:
        """Mean difference, [d]; zero before the first pair."""
        return self._pairs.mean()

    def safe_mean(self) -> FloatArray:
        """Mean of the safe embeddings, [d]: of safe rows, or of codes weighted by their counts in safe images."""
        return self._pairs.safe_mean()

    def second_moment(self) -> FloatArray:
        """D^T D, [d, d]."""
        return self._pairs.second_moment()

    def safe_second_moment(self) -> FloatArray:
        """Second moment of the safe embeddings, [d, d], not divided by their number; for rows on a device, requires keep_safe_moment."""
        return self._pairs.safe_second_moment()

    def __repr__(self) -> str:
        return f"DifferenceAccumulator(width={self.width}, count={self.count})"


class DifferenceAccumulator(Moments):
    """Moments of differences, added one pair of images at a time. Memory O(d^2 + K), whatever the number of pairs.

    DifferenceAccumulator(codes) takes token ids into a codebook [K, d], which it keeps alive, does not copy and reads at
    each call. DifferenceAccumulator(width=d) takes rows of embeddings. Not thread-safe.

    >>> codes = np.array([[3, 1, 0], [3, 0, 1], [0, 1, 0], [0, 0, 1], [0, 1, 1], [1, 1, 1]], dtype=np.float32)
    >>> pairs = isic.DifferenceAccumulator(codes)
    >>> pairs.add([0, 1, 4, 5], [2, 3, 4, 5])  # tokens of an unsafe image and of its safe counterpart
    >>> pairs
    DifferenceAccumulator(width=3, count=4)
    >>> pairs.mean()
    array([1.5, 0. , 0. ])
    """

    def __init__(self, codes: Codes | None = None, *, width: int | None = None) -> None:
        if (codes is None) == (width is None):
            raise TypeError("isic.DifferenceAccumulator: expected a codebook or a width, got " + ("both" if codes is not None else "neither"))
        self._pairs: _isic.DifferenceAccumulator = _isic.DifferenceAccumulator(codes, width)

    def add(self, harmful_ids: Ids, safe_ids: Ids) -> None:
        """Adds a pair of images as token ids [T], position by position, or n pairs [n, T], and counts their codes.

        Raises ShapeError if the shapes differ or the accumulator takes rows, ValueError on an id outside [0, K); nothing is
        added then.
        """
        self._pairs.add(harmful_ids, safe_ids)

    def add_safe(self, safe_ids: Ids) -> None:
        """Counts the codes of a safe image that has no harmful partner; more counts sharpen harmfulness. Raises as `add`."""
        self._pairs.add_safe(safe_ids)

    def add_rows(self, harmful: Floats, safe: Floats) -> None:
        """Adds paired rows of embeddings, [m, d] each. Raises ShapeError, NumericError; nothing is added then."""
        self._pairs.add_rows(harmful, safe)

    def merge(self, other: DifferenceAccumulator) -> None:
        """Adds the moments of another accumulator. Raises ShapeError if width, codes or kind differ, ValueError if dtypes do."""
        require_class("DifferenceAccumulator.merge", "other", other, DifferenceAccumulator)
        self._pairs.merge(other._pairs)


def code_harmfulness(usage: CodeUsage, *, prior_per_code: float = 0.5) -> CodeScores:
    """How exclusively harmful images use each code: q_k = p_h / (p_h + p_s), smoothed by a Dirichlet prior.

    p_h = (n_h + A_h pi_k) / (N_h + A_h), p_s alike, pi the pooled share; the prior's mass 2 A, A = prior_per_code * K, is
    split in proportion to the tokens: A_h = 2 A N_h / (N_h + N_s). `z` is the log-odds z-score with the same prior
    (Monroe, Colaresi and Quinn 2008). Use q for strengths: z grows with counts alone. Raises ShapeError if the lengths
    differ, ValueError on negative counts or prior_per_code <= 0, NumericError if one side has no counts. Source: our
    choice; the prior's form follows "fightin' words".

    >>> scores = isic.code_harmfulness(isic.CodeUsage(np.array([9.0, 1.0]), np.array([1.0, 9.0])))
    >>> scores
    CodeScores(harmfulness=[0.863636, 0.136364], z=[4.20177, -4.20177], p_harmful=[0.863636, 0.136364], p_safe=[0.136364, 0.863636])
    """
    return _isic.code_harmfulness(usage, prior_per_code)


def code_strength(harmfulness: Floats | CodeScores, *, low: float = 0.6, high: float = 0.9) -> FloatArray:
    """Ramp from harmfulness to edit strength: s_k = clamp((q_k - low) / (high - low), 0, 1), [K].

    low: harmfulness up to which a code stays; high: harmfulness from which it moves fully. Raises ValueError on q outside
    [0, 1] or high <= low.

    >>> isic.code_strength([0.5, 0.75, 1.0])
    array([0. , 0.5, 1. ])
    """
    return _isic.code_strength(harmfulness.harmfulness if isinstance(harmfulness, CodeScores) else harmfulness, low, high)


def excess_strength(scores: CodeScores) -> FloatArray:
    """Excess share s_k = max(0, 1 - p_s / p_h), [K]: the ridge solution, without thresholds; moves more codes. Raises
    ShapeError."""
    require_class("excess_strength", "scores", scores, CodeScores)
    return _isic.excess_strength(scores.p_harmful, scores.p_safe)


def gate_strength(score: Floats, *, threshold: float) -> FloatArray:
    """Strength 1 for codes whose score (harmfulness or z) exceeds the threshold, else 0, [K]. Raises NumericError on NaN.

    >>> isic.gate_strength([0.2, 0.9], threshold=0.5)
    array([0., 1.])
    """
    return _isic.gate_strength(score, threshold)


class CounterpartTargets:
    """Target of each code: the mean of the codes at its positions in the safe counterparts. Memory O(K d).

    codes [K, d] is kept alive and not copied. Not thread-safe. Source: our choice.

    >>> targets = isic.CounterpartTargets(np.eye(2, dtype=np.float32))
    >>> targets.add([0, 0], [1, 1])
    >>> targets.targets(weight=2.0)
    array([[0., 1.],
           [0., 1.]])
    """

    def __init__(self, codes: Codes) -> None:
        self._sums = _isic.CounterpartTargets(codes)

    def add(self, harmful_ids: Ids, safe_ids: Ids) -> None:
        """Adds an image and its safe counterpart as token ids [T], or n pairs [n, T]. Raises as `DifferenceAccumulator.add`."""
        self._sums.add(harmful_ids, safe_ids)

    def merge(self, other: CounterpartTargets) -> None:
        """Adds the sums of another object over the same codebook. Raises ShapeError, ValueError if dtypes differ."""
        require_class("CounterpartTargets.merge", "other", other, CounterpartTargets)
        self._sums.merge(other._sums)

    def targets(self, *, weight: float = 2.0, prior: Floats | None = None) -> FloatArray:
        """t_k = (sum of the counterparts' codes + weight mu) / (n_k + weight), [K, d]; a code without counts gets mu.

        prior: mu, [d]; None: the mean of the counterparts' codes. weight: of mu, in counts, > 0 (`lambda` in C++).
        Raises ValueError, ShapeError, NumericError without pairs or prior.
        """
        return self._sums.targets(weight, prior)

    @property
    def counts(self) -> FloatArray:
        """n_k, the number of positions per harmful code, [K]."""
        return self._sums.counts()

    def __repr__(self) -> str:
        return f"CounterpartTargets(counts={short(self.counts)})"
