# SPDX-License-Identifier: Apache-2.0
"""Codebook surgery: remove a harmful concept from the codebook of an autoregressive image generator.

Codebooks are edited in place: numpy arrays, torch tensors and parameters, or any DLPack producer; float32, float64, float16
or bfloat16. No codebook is copied silently: memory that cannot be edited in place raises an error.

>>> codes = np.array([[3, 1, 0], [3, 0, 1], [0, 1, 0], [0, 0, 1], [0, 1, 1], [1, 1, 1]], dtype=np.float32)
>>> pairs = isic.DifferenceAccumulator(codes)
>>> pairs.add([0, 1, 4, 5], [2, 3, 4, 5])  # tokens of an unsafe image and of its safe counterpart
>>> pairs.add([1, 5, 0, 2], [3, 5, 2, 2])
>>> subspace = isic.fit_subspace(pairs, rank=1)
>>> strength = isic.code_strength(isic.code_harmfulness(pairs.usage, prior_per_code=0.02))
>>> edit = isic.project_out(codes, subspace, strength=strength)
>>> edit
Edit(6 x 3 f32, moved=2, near_zero=0, leakage 0.839 -> 0.333)
>>> edit.undo()  # restores every byte
"""

from typing import TYPE_CHECKING, Any

from . import checkpoint as checkpoint
from . import fused as fused
from ._differences import (CounterpartTargets, DifferenceAccumulator, bag_of_codes_differences, code_harmfulness, code_strength, differences,
                           excess_strength, gate_strength, histograms, pooled_differences)
from ._edit import Edit, load_edit, project_out, remap, save_edit
from ._errors import BackendError, Error, IoError, NumericError, ShapeError
from ._errors import ValueError as ValueError  # not in __all__: it would shadow the builtin
from ._io import export_pairs, load_pairs, read_safetensors, write_safetensors
from ._isic import AdamState, EmaState, SgdState
from ._isic import version as __version__  # noqa: F401
from ._lexicon import Lexicon
from ._loop import (EditingOptions, Generator, Judge, JudgingOptions, RankOptions, RedrawingGenerator, StopOptions, TunableGenerator,
                    TuningLoss, TuningOptions, self_improve)
from ._metrics import (CodeIndex, collapsed_pairs, corrected_rate, drift, fingerprint, nearest_code_churn, nearest_codes, usage_perplexity,
                       wilson)
from ._results import (Assignments, CodeScores, CodeUsage, Constraint, DriftReport, EditSummary, LeakageReport, Pairs, Progress, RankChoice,
                       Rate, RedrawRequest, RewrittenPrompt, RoundReport, SelfImproveReport, Subspace, TuningSet, UpdateSummary)
from ._subspace import (FittedSubspace, fit_subspace, leakage, load_subspace, merge, principal_angles, save_subspace, span_of,
                        spectral_weights)
from ._update import adam_update, assign, ema_update, ridge_update, sgd_update

__all__ = [
    "AdamState", "Assignments", "BackendError", "CodeIndex", "CodeScores", "CodeUsage", "Constraint",
    "CounterpartTargets", "DifferenceAccumulator", "DriftReport", "Edit", "EditSummary", "EditingOptions",
    "EmaState", "Error", "FittedSubspace", "Generator", "IoError", "Judge", "JudgingOptions", "LeakageReport",
    "Lexicon", "NumericError", "Pairs", "Progress", "RankChoice", "RankOptions", "Rate", "RedrawRequest",
    "RedrawingGenerator", "RewrittenPrompt", "RoundReport", "SelfImproveReport", "SgdState", "ShapeError",
    "StopOptions", "Subspace", "TunableGenerator", "TuningLoss", "TuningOptions", "TuningSet", "UpdateSummary",
    "adam_update", "assign", "bag_of_codes_differences", "code_harmfulness", "code_strength", "collapsed_pairs",
    "corrected_rate", "differences", "drift", "ema_update", "excess_strength", "export_pairs", "fingerprint",
    "fit_subspace", "gate_strength", "histograms", "leakage", "load_edit", "load_pairs", "load_subspace",
    "merge", "nearest_code_churn", "nearest_codes", "pooled_differences", "principal_angles", "project_out",
    "read_safetensors", "remap", "ridge_update", "save_edit", "save_subspace", "self_improve", "sgd_update",
    "span_of", "spectral_weights", "usage_perplexity", "wilson", "write_safetensors",
]

if TYPE_CHECKING:
    from . import cuda as cuda
    from . import report as report


def __getattr__(name: str) -> Any:
    if name in ("cuda", "report"):  # imported on first use
        import importlib

        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
