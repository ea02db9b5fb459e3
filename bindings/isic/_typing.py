# SPDX-License-Identifier: Apache-2.0
"""Types of arguments and results."""

from __future__ import annotations

from typing import Any, Literal, Protocol, Union
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


class SupportsDLPack(Protocol):
    """A tensor of any library with DLPack: torch, jax, cupy, ..."""

    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any: ...

    def __dlpack_device__(self) -> tuple[Any, Any]: ...


class SupportsCudaArray(Protocol):
    """An array on a GPU with __cuda_array_interface__, as in numba."""

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]: ...


DeviceLike = Union[SupportsDLPack, SupportsCudaArray]
"""An array on a GPU: a tensor of torch, an array of CuPy, an isic.cuda.DeviceArray, or any object with DLPack or
__cuda_array_interface__. Its memory is never copied."""

Codes = Union[npt.NDArray[Any], SupportsDLPack]
"""A codebook [K, d]: rows of adjacent values of float32, float64, float16 or bfloat16, in memory that is never copied."""

Rows = Union[npt.NDArray[np.float32], npt.NDArray[np.float64], SupportsDLPack]
"""Rows [n, d] of adjacent values of float32 or float64, in memory that is never copied."""

RowType = Literal["float32", "float64"]

Floats = Union[npt.ArrayLike, SupportsDLPack]
"""Real numbers of any type, in arrays, tensors or lists. Rows of a codebook's types are read in place, others are converted."""

Ids = Union[npt.ArrayLike, SupportsDLPack]
"""Integers of any type, in arrays, tensors or lists."""

FloatArray = npt.NDArray[np.float64]
IdArray = npt.NDArray[np.int64]
TokenArray = npt.NDArray[np.int32]

Padding = Union[Sequence[int], npt.NDArray[np.integer[Any]], None]
"""Ids of padding rows: rows of a codebook that are not codes."""

Metric = Literal["l2", "cosine"]
"""The metric of nearest-neighbour search: "l2" reads rows as they are, "cosine" divides them by their norm (LlamaGen, Janus)."""

Centering = Literal["none", "mean", "safe_axis"]
RankRule = Literal["fixed", "energy", "gavish_donoho", "sign_flip", "budget", "data"]
EigenSolver = Literal["automatic", "syevd", "jacobi", "randomised"]
NearZeroPolicy = Literal["nearest_safe", "skip", "zero", "error"]
EditTarget = Literal["origin", "safe_mean", "counterparts"]
StopReason = Literal["below_target", "nothing_unsafe", "no_counterparts", "no_improvement", "rank_budget", "damage_budget", "max_rounds",
                     "cancelled", "failed"]
