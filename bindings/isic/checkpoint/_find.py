# SPDX-License-Identifier: Apache-2.0
"""The codebooks of a checkpoint and the tensors that belong to each."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field, replace
from functools import lru_cache, cache
from typing import Callable
from collections.abc import Mapping

import numpy as np

from .._results import Value
from .._typing import Metric
from ._families import FAMILIES, GUESS, SUMS, Family
from ._formats import FLOATS, Array, Place, Tensor

_READABLE = 1 << 29
"""Largest candidate, in bytes, whose values are read."""


@dataclass(frozen=True, repr=False)
class Codebook(Value):
    """A codebook of a checkpoint: storage, reading, and the tensors edited with it."""

    key: str
    """Key of its first tensor."""
    keys: tuple[str, ...]
    """Keys of its tensors: one, or one per residual level."""
    family: str
    """The convention of its key and neighbours."""
    codes: int
    """K, without padding rows."""
    width: int
    """d."""
    dtype: str
    """Name in the file: "F32", "BF16", ..."""
    metric: Metric
    """How a decoder reads a row."""
    assignment: str
    """How the model assigns a code to a vector."""
    readers: str
    """The parts of the model that read the rows."""
    levels: int = 1
    """Number of tables that share one subspace: residual levels, or heads."""
    padding: tuple[int, ...] = ()
    """Ids of padding rows."""
    aliases: tuple[str, ...] = ()
    """Further keys of the same storage."""
    copies: tuple[str, ...] = ()
    """Tensors with the same bytes whose keys name codebooks; edited with it."""
    twins: tuple[str, ...] = ()
    """Tensors with the same bytes under unknown keys; name each in `also` or `leave`."""
    sums: tuple[str, ...] = ()
    """Running sums of training, edited with it."""
    divided_by: tuple[str, ...] = ()
    """Tensors [K] that the stored sums are divided by to give the codes, per level."""
    input_tables: tuple[str, ...] = ()
    """Tables that a transformer reads instead; not edited."""
    notes: tuple[str, ...] = ()
    """Limits of an edit, and properties of the rows."""
    refusal: str = ""
    """Why it cannot be edited; empty: it can."""
    known: bool = True
    """Whether its family is known; False: found by name and shape."""

    def __str__(self) -> str:
        levels = f"{self.levels} levels of " if self.levels > 1 else ""
        return f"{self.key} ({self.family}, {levels}{self.codes} x {self.width} {self.dtype})"


@cache
def _pattern(key: str) -> re.Pattern[str]:
    return re.compile(rf"(?:^|.*?[.:])(?:{key})$")


@dataclass
class _Group:
    family: Family
    keys: list[str] = field(default_factory=list)


def find(tensors: Mapping[str, Tensor]) -> tuple[Codebook, ...]:
    """All codebooks, known families first. Reads the values of candidates only."""
    known = [_codebook(tensors, group) for group in _groups(tensors)]
    known = _without_copies(tensors, known)
    taken = {key for book in known for key in (*book.keys, *book.aliases, *book.copies, *book.twins, *book.sums, *book.input_tables)}
    guesses = [_codebook(tensors, _Group(GUESS, [key])) for key, t in tensors.items() if key not in taken and _is_candidate(key, t)]
    return tuple(known + guesses)


def named(tensors: Mapping[str, Tensor], key: str) -> Codebook:
    """The codebook of a tensor, whatever its key."""
    return _without_copies(tensors, [_codebook(tensors, _Group(GUESS, [key]))])[0]


def digest(tensor: Tensor) -> str:
    """SHA-256 of its bytes."""
    sha = hashlib.sha256()
    for chunk in tensor.chunks():
        sha.update(chunk)
    return sha.hexdigest()


def _groups(tensors: Mapping[str, Tensor]) -> list[_Group]:
    groups: dict[tuple[str, ...], _Group] = {}
    present = lru_cache(maxsize=None)(lambda pattern: any(_pattern(pattern).match(key) for key in tensors))
    for key, tensor in tensors.items():
        for family in FAMILIES:
            match = _pattern(family.key).match(key)
            if not match or (family.beside and not present(family.beside)) or (family.without and present(family.without)):
                continue
            stem = key
            if "level" in match.groupdict() and match.group("level") is not None:
                stem = key[:match.start("level")] + "*" + key[match.end("level"):]
            groups.setdefault((family.name, stem, str(tensor.shape), tensor.dtype), _Group(family)).keys.append(key)
            break
    return list(groups.values())


def _level(key: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", key)]


def _codebook(tensors: Mapping[str, Tensor], group: _Group) -> Codebook:
    family, keys = group.family, sorted(group.keys, key=_level)
    places: dict[Place, str] = {}
    for key in keys:
        places.setdefault(tensors[key].place, key)
    own = tuple(places.values())
    first = tensors[own[0]]
    if len(first.shape) not in (2, 3):
        return _implicit(family, first)
    heads = first.shape[0] if len(first.shape) == 3 else 1
    rows, width = first.shape[-2:]
    aliases = [key for key, t in tensors.items() if t.place in places and key not in own]
    divided = tuple(key for key in (_neighbour(tensors, key, family.divided_by) for key in own) if key) if family.divided_by else ()
    book = Codebook(own[0], own, family.name, rows - family.padding_row, width, first.dtype, family.metric, family.assignment, family.readers,
                    levels=heads * len(own), padding=(rows - 1,) if family.padding_row else (), aliases=tuple(aliases),
                    sums=_sums(tensors, (*own, *aliases)) if not divided else (), divided_by=divided,
                    input_tables=tuple(k for k in tensors if family.input_tables and _pattern(family.input_tables).match(k)),
                    notes=(family.caution,) if family.caution else (), refusal=family.refusal or _unusable(tensors, own, family),
                    known=family is not GUESS)
    if heads > 1:
        book = replace(book, notes=(*book.notes, f"{heads} heads: the same subspace is projected out of each"))
    return book if book.refusal else _checked_rows(tensors, book)


def _implicit(family: Family, first: Tensor) -> Codebook:
    codes, width = 0, 0
    if len(first.shape) == 2:
        codes, width = first.shape
    elif family.assignment == "signs" and first.shape:
        codes, width = 2**first.shape[0], first.shape[0]
    elif first.key.endswith("_levels"):
        codes, width = int(np.prod(first.read())), first.shape[0]
    refusal = family.refusal or f"rows of a codebook are expected, got shape {first.shape}"
    return Codebook(first.key, (first.key,), family.name, codes, width, first.dtype, family.metric, family.assignment, family.readers,
                    refusal=refusal)


def _neighbours(tensors: Mapping[str, Tensor], key: str) -> list[str]:
    """Keys of the module that holds `key`, and of the module that this is a parameter of (embedding.weight -> embed_avg)."""
    module = key.rpartition(".")[0]
    stems = {module, module.rpartition(".")[0]} if key.endswith(".weight") else {module}
    return [k for k in tensors if k.rpartition(".")[0] in stems]


def _neighbour(tensors: Mapping[str, Tensor], key: str, name: str) -> str:
    return next((k for k in _neighbours(tensors, key) if k.rpartition(".")[2] == name), "")


def _sums(tensors: Mapping[str, Tensor], keys: tuple[str, ...]) -> tuple[str, ...]:
    """Running sums beside the keys, in their order; one per storage."""
    found: dict[Place, str] = {}
    for key in keys:
        rows, width = tensors[key].shape[-2:]
        for other in _neighbours(tensors, key):
            shape = tensors[other].shape[-2:]
            if other != key and re.fullmatch(SUMS, other.rpartition(".")[2]) and shape in ((rows, width), (rows - 1, width)):
                found.setdefault(tensors[other].place, other)
    return tuple(found.values())


def _unusable(tensors: Mapping[str, Tensor], keys: tuple[str, ...], family: Family) -> str:
    first = tensors[keys[0]]
    if first.dtype not in FLOATS:
        return f"rows of {', '.join(FLOATS)} can be edited, not of {first.dtype}: convert the checkpoint first"
    if first.offset < 0:
        return "its bytes are compressed: write the archive with numpy.savez instead of savez_compressed"
    if any(tensors[key].strides for key in keys):
        return "its rows are not adjacent in the file (torch saved a transposed tensor, or a part of one): save it after .contiguous()"
    if family.divided_by and not all(_neighbour(tensors, key, family.divided_by) for key in keys):
        return f"no {family.divided_by} is stored beside it, which its sums are divided by"
    for key in keys:
        flag = _neighbour(tensors, key, "initted") or _neighbour(tensors, key, "inited")
        if flag and tensors[flag].nbytes <= 8 and not np.any(tensors[flag].read()):
            return f"{flag} is false: the first forward pass would overwrite the rows by k-means"
    return ""


def _checked_rows(tensors: Mapping[str, Tensor], book: Codebook) -> Codebook:
    """The codebook after a check of its values: sign vectors are refused, unit rows are read as cosine."""
    if tensors[book.key].nbytes > _READABLE or book.divided_by or (book.dtype == "BF16" and not _has_ml_dtypes()):
        return book
    rows = tensors[book.key].read().reshape(-1, book.width)
    rows = np.delete(rows, book.padding, axis=0)
    if rows.size == 0:
        return replace(book, refusal="it is empty")
    size = abs(float(rows.flat[0]))
    if size > 0 and book.width > 1 and np.all(np.abs(rows) == rows.dtype.type(size)):
        return replace(book, refusal=f"every entry is {size:g} or {-size:g}: sign vectors (LFQ, BSQ) cannot be edited freely")
    tolerance = 2.0**-6 if book.dtype in ("BF16", "F16") else 1e-4
    if book.metric == "l2" and all(abs(np.linalg.norm(part.astype(np.float64), axis=1) - 1).max() < tolerance for part in _blocks(rows)):
        note = "rows have norm 1 and keep it (metric cosine; --metric l2 lets them shrink)"
        return replace(book, metric="cosine", notes=(*book.notes, note))
    return book


def _blocks(rows: Array) -> list[Array]:
    return [rows[start:start + 65536] for start in range(0, len(rows), 65536)]


def _has_ml_dtypes() -> bool:
    try:
        import ml_dtypes  # noqa: F401
    except ImportError:
        return False
    return True


def _without_copies(tensors: Mapping[str, Tensor], books: list[Codebook]) -> list[Codebook]:
    """Merges tensors with the bytes of a codebook into it: copies if a family names them, else twins, which the user decides on."""
    kept: list[Codebook] = []
    known = {key for book in books for key in book.keys}
    digests: Callable[[str], str] = lru_cache(maxsize=None)(lambda key: digest(tensors[key]))
    for book in books:
        if book.refusal:
            kept.append(book)
            continue
        if any(set(book.keys) <= {*earlier.copies, *earlier.aliases} for earlier in kept):
            continue
        kind = tensors[book.key].dtype, tensors[book.key].shape
        others = [key for key in tensors if key not in (*book.keys, *book.aliases, *book.input_tables)]
        same = [key for key in others if (tensors[key].dtype, tensors[key].shape) == kind and digests(key) in map(digests, book.keys)]
        copies = tuple(key for key in same if key in known)
        sums = () if book.divided_by else _sums(tensors, (*book.keys, *book.aliases, *copies))
        kept.append(replace(book, copies=copies, twins=tuple(key for key in same if key not in known), sums=sums))
    return kept


def _is_candidate(key: str, t: Tensor) -> bool:
    if t.dtype not in FLOATS or len(t.shape) != 2:
        return False
    rows, width = t.shape
    sole = t.path.suffix in (".npy", ".npz")
    return rows > width >= 2 and (sole or (rows >= 16 and _pattern(GUESS.key).match(key) is not None))
