# SPDX-License-Identifier: Apache-2.0
"""A harmful subspace from embeddings, or from token ids of a checkpoint's codebook."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from .._differences import CounterpartTargets, DifferenceAccumulator, code_harmfulness
from .._errors import ShapeError
from .._errors import ValueError as IsicValueError
from .._subspace import FittedSubspace, fit_subspace
from .._results import CodeUsage
from .._typing import FloatArray, Floats, Ids, IdArray
from ._checkpoint import Checkpoint
from ._find import Codebook
from ._surgery import as_read, code_tables


def fit(harmful: Floats | Ids, safe: Floats | Ids, *, checkpoint: str | os.PathLike[str] | Checkpoint | None = None, key: str | None = None,
        rank: int | None = None, energy: float | None = 0.9, max_rank: int | None = None, prior_per_code: float = 0.5,
        weight: float = 2.0) -> FittedSubspace:
    """Fits a harmful subspace to paired data; token ids also give per-code data.

    harmful, safe: embeddings [n, d], or with a checkpoint token ids [n, T] ([n, T, L] for L residual levels). Row i of
    `safe` is the counterpart of row i of `harmful`. Codes are read as the decoder reads them (normalised if it normalises).

    key: key of the codebook; None: the only one. rank, energy, max_rank: as `isic.fit_subspace`.
    prior_per_code: as `isic.code_harmfulness`. weight: as `isic.CounterpartTargets.targets`.

    Raises isic.Error: ShapeError if the shapes differ, ValueError on ids outside the codebook.
    """
    options: dict[str, Any] = dict(rank=rank, energy=energy, max_rank=max_rank)
    h, s = np.asarray(harmful), np.asarray(safe)
    if np.issubdtype(h.dtype, np.integer) != np.issubdtype(s.dtype, np.integer):
        raise IsicValueError(f"isic.checkpoint.fit: expected two sets of token ids, or two of embeddings, got {h.dtype} and {s.dtype}")
    if not np.issubdtype(h.dtype, np.integer):
        pairs = DifferenceAccumulator(width=h.shape[-1] if h.ndim else 0)
        pairs.add_rows(h, s)
        return FittedSubspace(fit_subspace(pairs, **options))
    if checkpoint is None:
        raise IsicValueError("isic.checkpoint.fit: expected the checkpoint of the token ids, got none "
                             "(--codebook CHECKPOINT[:KEY])")
    opened = checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint(checkpoint)
    book = opened.codebook(key)
    tables = [as_read(np.delete(codes, book.padding, axis=0).astype(np.float64), book) for _, codes in code_tables(opened.tensors, book)]
    h, s = _ids_per_level(h, book), _ids_per_level(s, book)
    accumulators = [DifferenceAccumulator(table) for table in tables]
    sums = [CounterpartTargets(table) for table in tables]
    for level, (accumulator, level_sums) in enumerate(zip(accumulators, sums)):
        accumulator.add(h[..., level], s[..., level])
        level_sums.add(h[..., level], s[..., level])
    pairs = accumulators[0] if len(tables) == 1 else _sums_of_levels(tables, h, s)
    usage = [a.usage for a in accumulators]
    harmfulness = [code_harmfulness(u, prior_per_code=prior_per_code).harmfulness for u in usage]
    targets = [s.targets(weight=weight) for s in sums]
    return FittedSubspace(fit_subspace(pairs, **options), _stacked(harmfulness), _stacked(targets),
                          CodeUsage(_stacked([u.harmful for u in usage]), _stacked([u.safe for u in usage])))


def _ids_per_level(ids: IdArray, book: Codebook) -> IdArray:
    """[n, T, L]."""
    one = book.levels == 1
    if ids.ndim not in ((1, 2) if one else (2, 3)) or (not one and ids.shape[-1] != book.levels):
        expected = "[n, T]" if one else f"[n, T, {book.levels}]"
        raise ShapeError(f"isic.checkpoint.fit: expected token ids {expected} of {book}, got shape {ids.shape}")
    return ids[..., None] if one else ids


def _sums_of_levels(tables: list[FloatArray], harmful: IdArray, safe: IdArray) -> DifferenceAccumulator:
    pairs = DifferenceAccumulator(width=tables[0].shape[1])
    rows = [sum(table[ids[..., level].ravel()] for level, table in enumerate(tables)) for ids in (harmful, safe)]
    pairs.add_rows(*rows)
    return pairs


def _stacked(parts: list[FloatArray]) -> FloatArray:
    return parts[0] if len(parts) == 1 else np.stack(parts)
