# SPDX-License-Identifier: Apache-2.0
"""The undo file: old rows of every edited tensor, and digests of both states."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import _isic
from .._errors import IoError
from .._io import read_own
from .._results import RankChoice, Subspace
from .._typing import FloatArray
from ._checkpoint import Checkpoint
from ._formats import Array
from ._surgery import Work, moved_rows

_FORMAT, _VERSION = "isic.checkpoint-undo", "1"


@dataclass(frozen=True)
class OldRows:
    """Old rows of one tensor."""

    key: str
    dtype: str
    shape: tuple[int, ...]
    before: str
    after: str
    ids: npt.NDArray[np.int64]
    rows: npt.NDArray[np.uint8]

    def restored(self, now: Array) -> Array:
        """The old tensor, from the edited one."""
        old = now.copy()
        old.view(np.uint8).reshape(-1, self.rows.shape[1])[self.ids] = self.rows
        return old


@dataclass(frozen=True)
class Undo:
    """An undo file in memory."""

    path: Path
    tensors: tuple[OldRows, ...]
    others: tuple[str, ...]
    plan: dict[str, Any]
    basis: FloatArray

    @property
    def subspace(self) -> Subspace:
        """The subspace that was projected out."""
        return Subspace(self.basis, np.zeros(0), float(self.plan["energy"]), RankChoice(self.basis.shape[1], "fixed"))

    def state(self, checkpoint: Checkpoint) -> str:
        """"edited", "original", or a description of the difference."""
        states = {}
        for old in self.tensors:
            tensor = checkpoint.tensors.get(old.key)
            if tensor is None or (tensor.dtype, tensor.shape) != (old.dtype, old.shape):
                return f"{old.key} is {'missing' if tensor is None else f'{tensor.dtype} {list(tensor.shape)}'}"
            found = checkpoint.digest(old.key)
            states[old.key] = "edited" if found == old.after else "original" if found == old.before else "changed by something else"
        if len(set(states.values())) == 1 and "changed by something else" not in states.values():
            return next(iter(states.values()))
        return ", ".join(f"{key} is {state}" for key, state in states.items())


def _sha(values: Array) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).view(np.uint8).tobytes()).hexdigest()


def save_undo(path: Path, checkpoint: Checkpoint, work: Work) -> None:
    """Writes the undo file; call it before the checkpoint changes. Raises IoError."""
    tensors: dict[str, Any] = {"basis": np.ascontiguousarray(work.subspace.basis, dtype=np.float64)}
    entries = []
    for i, (key, before) in enumerate(work.before.items()):
        ids = moved_rows(before, work.after[key])
        tensors[f"{i}.ids"] = ids
        tensors[f"{i}.rows"] = np.ascontiguousarray(before.view(np.uint8).reshape(-1, before.shape[-1] * before.itemsize)[ids])
        entries.append({"key": key, "dtype": checkpoint.tensors[key].dtype, "shape": list(before.shape), "before": _sha(before),
                        "after": _sha(work.after[key])})
    others = [os.path.relpath(other, checkpoint.path.parent) for other in checkpoint.others]
    metadata = {"format": _FORMAT, "version": _VERSION, "tensors": json.dumps(entries), "others": json.dumps(others),
                "plan": json.dumps(work.plan.to_dict())}
    _isic.write_safetensors(path, tensors, metadata)


def load_undo(path: Path) -> Undo:
    """Reads an undo file. Raises IoError if the format differs or its shapes do not match."""
    if not path.exists():
        raise IoError(f"isic.checkpoint: expected an undo file, found no {path}; name it with --undo FILE (undo= in Python)")
    tensors, metadata = read_own("checkpoint", path, _FORMAT, _VERSION)
    try:
        old = tuple(OldRows(str(e["key"]), str(e["dtype"]), tuple(e["shape"]), str(e["before"]), str(e["after"]), tensors[f"{i}.ids"],
                            tensors[f"{i}.rows"]) for i, e in enumerate(json.loads(metadata["tensors"])))
        plan = dict(json.loads(metadata["plan"]))
        undo = Undo(path, old, tuple(json.loads(metadata["others"])), plan, tensors["basis"])
        fits = all(o.rows.ndim == 2 and o.rows.shape[0] == o.ids.size and o.ids.size and o.ids.min() >= 0 and
                   o.ids.max() < np.prod(o.shape[:-1]) for o in old) and bool(old) and isinstance(plan["codebook"], dict)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise IoError(f"isic.checkpoint: expected an undo file in {path}, got no {error}") from None
    if not fits:
        raise IoError(f"isic.checkpoint: expected ids and rows of one length in {path}, got others")
    return undo
