"""Names for what isic takes and gives."""

from __future__ import annotations

from typing import Any, Literal, Protocol, Sequence, Union

import numpy as np
import numpy.typing as npt


class SupportsDLPack(Protocol):
    """A tensor of any library that speaks DLPack: torch, jax, cupy, ..."""

    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any: ...

    def __dlpack_device__(self) -> tuple[Any, Any]: ...


Codes = Union[npt.NDArray[Any], SupportsDLPack]
"""A codebook [K, d]: rows of adjacent values of float32, float64, float16 or bfloat16, in memory that is never copied."""

Floats = Union[npt.ArrayLike, SupportsDLPack]
"""Real numbers of any type, in arrays, tensors or lists."""

Ids = Union[npt.ArrayLike, SupportsDLPack]
"""Integers of any type, in arrays, tensors or lists."""

FloatArray = npt.NDArray[np.float64]
IdArray = npt.NDArray[np.int64]
TokenArray = npt.NDArray[np.int32]

Padding = Union[Sequence[int], npt.NDArray[np.integer[Any]], None]
"""Rows of a codebook that are no codes."""

Lookup = Literal["plain", "l2_normalised"]
"""How a model reads a row: as it is, or divided by its norm (LlamaGen, Janus)."""

Centering = Literal["none", "mean", "safe_axis"]
RankRule = Literal["fixed", "energy", "gavish_donoho", "sign_flip", "budget", "data"]
VanishedRows = Literal["nearest_safe", "skip", "zero", "error"]
EditTarget = Literal["origin", "safe_mean", "counterparts"]
StopReason = Literal["below_target", "nothing_unsafe", "no_counterparts", "no_improvement", "rank_budget", "damage_budget", "max_rounds",
                     "cancelled", "failed"]
