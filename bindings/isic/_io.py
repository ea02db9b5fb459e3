# SPDX-License-Identifier: Apache-2.0
"""Files: tensors, and the image pairs of a run of self_improve."""

from __future__ import annotations

import json
import os
from typing import Any
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from . import _isic
from ._errors import IoError, require_class
from ._results import Pairs, SelfImproveReport
from ._typing import SupportsDLPack

_FORMAT, _VERSION = "isic.pairs", "1"


def read_safetensors(path: str | os.PathLike[str]) -> tuple[dict[str, npt.NDArray[Any]], dict[str, str]]:
    """The tensors of a safetensors file by name, and its metadata. bfloat16 needs ml_dtypes. Raises IoError."""
    return _isic.read_safetensors(path)


def write_safetensors(path: str | os.PathLike[str], tensors: Mapping[str, npt.ArrayLike | SupportsDLPack],
                      metadata: Mapping[str, str] | None = None) -> None:
    """Writes arrays as a safetensors file, replacing an old file only when the new one is complete.

    Torch tensors keep their dtype, also bfloat16 and float8, and may require gradients. Raises IoError, ValueError for other
    types, BackendError for memory of a GPU.
    """
    if not isinstance(tensors, Mapping):
        raise TypeError(f"isic.write_safetensors: expected tensors to be arrays by name, got {type(tensors).__qualname__}")
    _isic.write_safetensors(path, dict(tensors), dict(metadata or {}))


def read_own(function: str, path: str | os.PathLike[str], form: str, version: str) -> tuple[dict[str, npt.NDArray[Any]], dict[str, str]]:
    """The tensors and metadata of a file that isic wrote. Raises IoError if it is of another format or version."""
    tensors, metadata = _isic.read_safetensors(path)
    if (metadata.get("format"), metadata.get("version")) != (form, version):
        raise IoError(f"isic.{function}: expected a file of {form} version {version}, got {metadata.get('format')!r} in {os.fspath(path)}")
    return tensors, metadata


def export_pairs(report: SelfImproveReport, path: str | os.PathLike[str]) -> None:
    """Writes the pairs of a run as one safetensors file: a data set of unsafe images and their safe counterparts.

    Tensors: "harmful" and "counterparts" [n, T] int32 token ids, "harmfulness" [K] float64 per code; metadata: "format",
    "version" and "prompts", the n prompts as a JSON list. `load_pairs` and any safetensors reader open it. Raises IoError.
    """
    require_class("export_pairs", "report", report, SelfImproveReport)
    _isic.write_safetensors(path, {"harmful": report.harmful, "counterparts": report.counterparts, "harmfulness": report.harmfulness},
                            {"format": _FORMAT, "version": _VERSION, "prompts": json.dumps(list(report.prompts), ensure_ascii=False)})


def load_pairs(path: str | os.PathLike[str]) -> Pairs:
    """Reads a file of `export_pairs`. Raises IoError if the format differs or its shapes do not match."""
    tensors, metadata = read_own("load_pairs", path, _FORMAT, _VERSION)
    try:
        prompts = tuple(json.loads(metadata["prompts"]))
        pairs = Pairs(tensors["harmful"], tensors["counterparts"], prompts, tensors["harmfulness"])
    except (KeyError, ValueError) as missing:
        raise IoError(f"isic.load_pairs: expected harmful, counterparts, harmfulness and prompts in {os.fspath(path)}, got no {missing}") from None
    fits = pairs.harmful.ndim == 2 and pairs.harmful.shape == pairs.counterparts.shape and len(prompts) == len(pairs.harmful)
    if not fits or not pairs.harmful.dtype == pairs.counterparts.dtype == np.int32:
        raise IoError(f"isic.load_pairs: expected as many harmful images, counterparts and prompts in {os.fspath(path)}, got {pairs}")
    return pairs
