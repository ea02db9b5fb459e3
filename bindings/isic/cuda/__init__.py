# SPDX-License-Identifier: Apache-2.0
"""isic on a GPU: differences, subspaces, projection, updates, metrics and the loop.

Codebooks are edited in place: torch tensors, CuPy arrays, or any object on the GPU with DLPack or __cuda_array_interface__;
float32, float64, float16 or bfloat16. Nothing is copied between CPU and GPU silently: `upload` and `download` copy. ::

    gpu = isic.cuda.Backend.of(model.codebook)  # its device and torch's current stream
    pairs = isic.cuda.DifferenceAccumulator(gpu, model.codebook)
    pairs.add(harmful_ids, safe_ids)
    subspace = isic.cuda.fit_subspace(gpu, pairs)
    edit = isic.cuda.project_out(gpu, model.codebook, subspace)
    edit.undo()  # restores every byte

Subspaces, summaries and reports are those of isic, on the CPU. Importing this module does not load CUDA. `available`
returns whether a device can be used, `unavailable_reason` why not.
"""

from . import fused as fused
from ._backend import Backend, DeviceArray, Stream, download, upload, write
from ._edit import Edit, project_out, remap
from ._errors import CudaError
from ._fit import DifferenceAccumulator, FoundSubspace, fit_subspace
from ._load import available, device_count, unavailable_reason
from ._loop import LoopEdit, self_improve
from ._metrics import CodeIndex, drift, leakage, nearest_code_churn, nearest_codes, usage_counts
from ._update import (AdamState, Assignments, Constraint, EmaState, PendingSummary, SgdState, adam_update, assign, ema_update,
                      ridge_update, sgd_update)

__all__ = [
    "AdamState", "Assignments", "Backend", "CodeIndex", "Constraint", "CudaError", "DeviceArray",
    "DifferenceAccumulator", "Edit", "EmaState", "FoundSubspace", "LoopEdit", "PendingSummary", "SgdState",
    "Stream", "adam_update", "assign", "available", "device_count", "download", "drift", "ema_update",
    "fit_subspace", "leakage", "nearest_code_churn", "nearest_codes", "project_out", "remap", "ridge_update",
    "self_improve", "sgd_update", "unavailable_reason", "upload", "usage_counts", "write",
]

for _thing in (AdamState, Assignments, Backend, CodeIndex, Constraint, DeviceArray, DifferenceAccumulator, Edit, EmaState,
               FoundSubspace, LoopEdit, PendingSummary, SgdState):
    _thing.__module__ = "isic.cuda"
