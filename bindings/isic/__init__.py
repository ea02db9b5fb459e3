"""Codebook surgery: take a harmful concept out of the codebook of an autoregressive image generator.

Codebooks are edited in the memory that you have: numpy arrays, torch tensors and parameters, or anything that speaks
DLPack; float32, float64, float16 or bfloat16. Nothing is copied behind your back: what cannot be edited in place raises.

>>> codes = np.array([[3, 1, 0], [3, 0, 1], [0, 1, 0], [0, 0, 1], [0, 1, 1], [1, 1, 1]], dtype=np.float32)
>>> pairs = isic.DifferenceAccumulator(codes)
>>> pairs.add([0, 1, 4, 5], [2, 3, 4, 5])  # an unsafe image's tokens, its safe counterpart's
>>> pairs.add([1, 5, 0, 2], [3, 5, 2, 2])
>>> harm = isic.fit_subspace(pairs, rank=1)
>>> strength = isic.code_strength(isic.code_harmfulness(pairs.usage, prior_per_code=0.02))
>>> edit = isic.project_out(codes, harm, strength=strength)
>>> edit
Edit(6 x 3 f32, moved=2, near_zero=0, leakage 0.839 -> 0.333)
>>> edit.undo()  # every byte as it was
"""

from typing import TYPE_CHECKING, Any

from . import checkpoint as checkpoint
from ._differences import (CounterpartTargets, DifferenceAccumulator, bag_of_codes_differences, code_harmfulness, code_strength, differences,
                           excess_strength, gate_strength, histograms, pooled_differences)
from ._edit import Edit, load_edit, project_out, remap, save_edit
from ._errors import BackendError, Error, IoError, NumericError, ShapeError
from ._errors import ValueError as ValueError  # not in __all__, where it would shadow the builtin one
from ._io import export_pairs, load_pairs, read_safetensors, write_safetensors
from ._isic import AdamRowState, AdamState, EmaRowState, EmaState, RowBasis, SgdState
from ._isic import version as __version__
from ._lexicon import Lexicon
from ._loop import Generator, Judge, RedrawingGenerator, TunableGenerator, TuningLoss, self_improve
from ._metrics import (CodeIndex, collapsed_pairs, corrected_rate, drift, fingerprint, nearest_code_churn, nearest_codes, usage_perplexity,
                       wilson)
from ._rows import adam_rows, ema_rows, project_rows
from ._subspace import (FittedSubspace, fit_subspace, leakage, load_subspace, merge, principal_angles, save_subspace, span_of,
                        spectral_weights)
from ._update import adam_update, assign, ema_update, ridge_update, sgd_update
from ._values import (Assignments, CodeScores, CodeUsage, Constraint, DriftReport, EditSummary, LeakageReport, Pairs, Progress, RankChoice,
                      Rate, RedrawRequest, RewrittenPrompt, RoundReport, SelfImproveReport, Subspace, TuningSet, UpdateSummary)

__all__ = [
    "AdamRowState", "AdamState", "Assignments", "BackendError", "CodeIndex", "CodeScores", "CodeUsage", "Constraint",
    "CounterpartTargets", "DifferenceAccumulator", "DriftReport", "Edit", "EditSummary", "EmaRowState", "EmaState", "Error",
    "FittedSubspace", "Generator", "IoError", "Judge", "LeakageReport", "Lexicon", "NumericError", "Pairs", "Progress", "RankChoice",
    "Rate", "RedrawRequest", "RedrawingGenerator", "RewrittenPrompt", "RoundReport", "RowBasis", "SelfImproveReport", "SgdState",
    "ShapeError", "Subspace", "TunableGenerator", "TuningLoss", "TuningSet", "UpdateSummary", "adam_rows", "adam_update", "assign",
    "bag_of_codes_differences", "code_harmfulness", "code_strength", "collapsed_pairs", "corrected_rate", "differences", "drift",
    "ema_rows", "ema_update", "excess_strength", "export_pairs", "fingerprint", "fit_subspace", "gate_strength", "histograms",
    "leakage", "load_edit", "load_pairs", "load_subspace", "merge", "nearest_code_churn", "nearest_codes", "pooled_differences",
    "principal_angles", "project_out", "project_rows", "read_safetensors", "remap", "ridge_update", "save_edit", "save_subspace",
    "self_improve", "sgd_update", "span_of", "spectral_weights", "usage_perplexity", "wilson", "write_safetensors",
]

if TYPE_CHECKING:
    from . import cuda as cuda
    from . import report as report


def __getattr__(name: str) -> Any:
    if name in ("cuda", "report"):  # nothing of CUDA or of pages is loaded before somebody asks
        import importlib

        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
