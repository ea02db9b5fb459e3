# SPDX-License-Identifier: Apache-2.0
"""Positions of tensors in files: safetensors, sharded indexes, .npy, .npz and torch archives. Reads headers, not values."""

from __future__ import annotations

import io
import json
import math
import os
import pickle
import struct
import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from .._errors import IoError
from .._isic import safetensors_layout

Array = npt.NDArray[Any]
Patch = tuple[str, int, bytes, bytes]
"""(file, offset, old bytes, new bytes)."""
Place = tuple[str, int, int, tuple[int, ...]]

NUMPY_NAMES = {"F64": "f8", "F32": "f4", "F16": "f2", "I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1", "U64": "u8", "U32": "u4",
               "U16": "u2", "U8": "u1", "BOOL": "?"}
FLOATS = ("F64", "F32", "F16", "BF16")

_TORCH_NAMES = {"DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16", "LongStorage": "I64",
                "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8", "BoolStorage": "BOOL"}
_CHUNK = 1 << 22


def numpy_type(dtype: str) -> np.dtype[Any]:
    """The numpy type of a dtype in a file. Raises ImportError for bfloat16 without ml_dtypes, IoError if numpy has no such type."""
    if dtype == "BF16":
        try:
            import ml_dtypes
        except ImportError:
            raise ImportError("isic.checkpoint: expected ml_dtypes for bfloat16, got no such package; pip install ml_dtypes") from None
        bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return bfloat16
    if dtype not in NUMPY_NAMES:
        raise IoError(f"isic.checkpoint: expected a tensor of {', '.join(FLOATS)} or integers, got {dtype}")
    return np.dtype("<" + NUMPY_NAMES[dtype])


@dataclass(frozen=True)
class Tensor:
    """A tensor in a file: little-endian, contiguous and row-major unless it has strides."""

    key: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int
    """Bytes from the start of the file; -1: compressed."""
    nbytes: int
    member: str = ""
    """Its name in the zip archive, if the file is one."""
    strides: tuple[int, ...] = ()
    """In elements, if torch saved the tensor transposed or with gaps; such a tensor is read but not edited."""

    @property
    def place(self) -> Place:
        """Identity of the storage, equal for all its keys."""
        return str(self.path), self.offset, self.nbytes, self.strides

    def chunks(self) -> Iterator[bytes]:
        """The bytes in row-major order, in chunks of a few megabytes; with strides in one chunk."""
        if self.strides:
            size = self.nbytes // math.prod(self.shape)
            whole = replace(self, nbytes=(1 + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides))) * size, strides=())
            raw = np.frombuffer(b"".join(whole.chunks()), dtype=np.uint8)
            steps = (*(stride * size for stride in self.strides), 1)
            yield np.lib.stride_tricks.as_strided(raw, (*self.shape, size), steps, writeable=False).tobytes()
            return
        if self.offset < 0:
            raise IoError(f"isic.checkpoint: expected {self.key} stored without compression (numpy.savez), got a compressed {self.path}")
        with open(self.path, "rb") as f:
            f.seek(self.offset)
            for start in range(0, self.nbytes, _CHUNK):
                chunk = f.read(min(_CHUNK, self.nbytes - start))
                if not chunk:
                    raise IoError(f"isic.checkpoint: expected {self.nbytes} bytes of {self.key}, got {start} in {self.path}")
                yield chunk

    def read(self) -> Array:
        """A copy of the values."""
        kind = numpy_type(self.dtype)
        values = np.empty(self.nbytes, dtype=np.uint8)
        done = 0
        for chunk in self.chunks():
            values[done:done + len(chunk)] = np.frombuffer(chunk, dtype=np.uint8)
            done += len(chunk)
        return values.view(kind).reshape(self.shape)


def tensors_of(path: Path) -> tuple[str, dict[str, Tensor]]:
    """The format of a file, or of a folder with one checkpoint, and its tensors by key. Raises IoError."""
    with open(path, "rb") as f:
        start = f.read(16)
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= 100_000_000:  # first: the length may equal another format's magic
        return _safetensors(path)
    if start.startswith(b"\x93NUMPY"):
        return "npy", {"array": _npy(path)}
    if start.startswith(b"PK\x03\x04"):
        return _archive(path)
    if start.startswith(b"\x80\x02"):
        raise IoError(f"isic.checkpoint: expected a torch file of the zip format, got {path} of torch < 1.6; "
                      "torch.load and torch.save it again")
    if start.lstrip()[:1] == b"{" and path.suffix == ".json":
        return _index(path)
    return _safetensors(path)


def _safetensors(path: Path) -> tuple[str, dict[str, Tensor]]:
    layout, _ = safetensors_layout(path)
    return "safetensors", {key: Tensor(key, dtype, shape, path, offset, nbytes) for key, (dtype, shape, offset, nbytes) in layout.items()}


def checkpoint_in(path: Path) -> Path:
    """The file of a path: the path itself, or the only index or checkpoint of a folder. Raises IoError."""
    if not path.is_dir():
        if not path.exists():
            raise IoError(f"isic.checkpoint: expected a checkpoint, found no {path}")
        return path
    for pattern in ("*.safetensors.index.json", "*.bin.index.json", "*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.npz", "*.npy"):
        found = sorted(p for p in path.glob(pattern) if ".isic-undo" not in p.name)
        if len(found) == 1:
            return found[0]
        if found:
            raise IoError(f"isic.checkpoint: expected one checkpoint in {path}, got {', '.join(p.name for p in found)}; name one of them")
    raise IoError(f"isic.checkpoint: expected a checkpoint in {path}, got none of .safetensors, .pt, .pth, .ckpt, .bin, .npz, .npy")


def _index(path: Path) -> tuple[str, dict[str, Tensor]]:
    try:
        where = dict(json.loads(path.read_text(encoding="utf-8"))["weight_map"])
        shards = {name: tensors_of(path.parent / name)[1] for name in sorted(set(where.values()))}
        return "sharded", {key: shards[name][key] for key, name in where.items()}
    except FileNotFoundError as missing:
        raise IoError(f"isic.checkpoint: expected the shards that {path} names, found no {missing.filename}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise IoError(f"isic.checkpoint: expected a weight_map of tensors that its shards hold in {path}, got {error!r}") from None


def _npy(path: Path) -> Tensor:
    with open(path, "rb") as f:
        return _npy_tensor(f, path, "array", "")


def _npy_tensor(f: Any, path: Path, key: str, member: str) -> Tensor:
    from numpy.lib import format as npy

    try:
        version = npy.read_magic(f)
        shape, fortran, kind = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(f)
    except Exception as error:  # numpy evaluates the header, and a malformed one may raise anything
        raise IoError(f"isic.checkpoint: expected an .npy header in {path}, got {error}") from None
    name = {np.dtype("<" + numpy): file for file, numpy in NUMPY_NAMES.items()}.get(kind, "")
    if kind.str[1:] == "V2":
        name = "BF16"  # how numpy writes bfloat16 of ml_dtypes
    if not name or (fortran and len(shape) > 1):
        order = " in column-major order" if fortran else ""
        raise IoError(f"isic.checkpoint: expected numbers in row-major order in {path}, got {kind.str}{order}")
    return Tensor(key, name, tuple(shape), path, f.tell(), math.prod(shape) * kind.itemsize, member)


# Zip archives: torch and .npz. Uncompressed members can be edited in place.


def _archive(path: Path) -> tuple[str, dict[str, Tensor]]:
    try:
        with zipfile.ZipFile(path) as archive:
            pickles = [m.filename for m in archive.infolist() if m.filename.endswith("/data.pkl")]
            if pickles:
                return "torch", _torch(path, archive, pickles[0])
            members = [m for m in archive.infolist() if m.filename.endswith(".npy")]
            if not members:
                raise IoError(f"isic.checkpoint: expected a torch or .npz archive, got a zip file without data.pkl or .npy in {path}")
            return "npz", {m.filename[:-4]: _npz_member(path, archive, m) for m in members}
    except IoError:
        raise
    except Exception as error:  # a malformed archive may raise anything
        raise IoError(f"isic.checkpoint: expected a complete archive in {path}, got {error!r}") from None


def _npz_member(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Tensor:
    if member.compress_type != zipfile.ZIP_STORED:
        with archive.open(member) as compressed:
            return replace(_npy_tensor(compressed, path, member.filename[:-4], member.filename), offset=-1)
    with open(path, "rb") as f:
        f.seek(_start(path, member))
        return _npy_tensor(f, path, member.filename[:-4], member.filename)


def _start(path: Path, member: zipfile.ZipInfo) -> int:
    with open(path, "rb") as f:
        f.seek(member.header_offset + 26)
        name, extra = struct.unpack("<2H", f.read(4))
    return member.header_offset + 30 + int(name) + int(extra)


class _Ignored:
    """Placeholder for every object of a pickle that is not a tensor. Nothing is imported or called."""

    def __new__(cls, *args: Any, **options: Any) -> _Ignored:
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None: ...
    def __setitem__(self, key: Any, value: Any) -> None: ...
    def append(self, value: Any) -> None: ...
    def extend(self, values: Any) -> None: ...
    def add(self, value: Any) -> None: ...


class _Dictionary(dict):  # type: ignore[type-arg]
    """An OrderedDict, whose pickle may have attributes."""


@dataclass(frozen=True)
class _View:
    storage: Any
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _TensorUnpickler(pickle.Unpickler):
    """Reads the structure of a state dict. Stricter than torch's weights_only: it imports no name."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return _Dictionary
        if module == "torch._utils" and name == "_rebuild_tensor_v2":
            return lambda storage, offset, shape, strides, *rest: _View(storage, offset, tuple(shape), tuple(strides))
        if module == "torch._utils" and name in ("_rebuild_parameter", "_rebuild_parameter_with_state"):
            return lambda view, *rest: view
        return _TORCH_NAMES.get(name, name) if module == "torch" and name.endswith("Storage") else _Ignored

    def persistent_load(self, pid: Any) -> Any:
        return pid


def _torch(path: Path, archive: zipfile.ZipFile, data: str) -> dict[str, Tensor]:
    folder = data[:-len("data.pkl")]
    members = {m.filename: m for m in archive.infolist()}
    if folder + "byteorder" in members and archive.read(folder + "byteorder") != b"little":
        raise IoError(f"isic.checkpoint: expected little-endian tensors, got big-endian ones in {path}")
    try:
        root = _TensorUnpickler(io.BytesIO(archive.read(data))).load()
    except Exception as error:  # a malformed pickle may raise anything
        raise IoError(f"isic.checkpoint: expected a state dict in {path}, got {error!r}") from None
    starts: dict[str, int] = {}
    out = {}
    for key, view in _views(root, ""):
        tensor = _torch_tensor(path, key, view, folder, members, starts)
        if tensor is not None:
            out[key] = tensor
    return out


def _views(node: Any, prefix: str) -> Iterator[tuple[str, _View]]:
    if isinstance(node, _View):
        yield prefix, node
    elif isinstance(node, dict):
        for key, value in node.items():
            yield from _views(value, f"{prefix}.{key}" if prefix else str(key))


def _torch_tensor(path: Path, key: str, view: _View, folder: str, members: dict[str, zipfile.ZipInfo],
                  starts: dict[str, int]) -> Tensor | None:
    """A tensor; None for dtypes without a numpy type and for views outside their storage."""
    numbers = (view.offset, *view.shape, *view.strides)
    if len(view.shape) != len(view.strides) or not all(isinstance(n, int) and n >= 0 for n in numbers):
        return None
    try:
        _, dtype, number, _, _ = view.storage
        member = members[f"{folder}data/{number}"]
        size = numpy_type(dtype).itemsize if dtype != "BF16" else 2
    except (IoError, KeyError, TypeError, ValueError):
        return None
    row_major = [math.prod(view.shape[i + 1:]) for i in range(len(view.shape))]
    nbytes = math.prod(view.shape) * size
    adjacent = nbytes == 0 or all(n == 1 or stride == wanted for n, stride, wanted in zip(view.shape, view.strides, row_major))
    end = nbytes if adjacent else (1 + sum((n - 1) * stride for n, stride in zip(view.shape, view.strides))) * size
    if member.compress_type != zipfile.ZIP_STORED or view.offset * size + end > member.file_size:
        return None
    if member.filename not in starts:
        starts[member.filename] = _start(path, member)
    return Tensor(key, dtype, view.shape, path, starts[member.filename] + view.offset * size, nbytes, member.filename,
                  () if adjacent else view.strides)


def checksum_patches(path: Path, name: str, patches: list[Patch]) -> list[Patch]:
    """Patches of an archive's checksums for `patches` of its member `name`, wherever the old CRC was right.

    Reads the member once, in chunks of a few megabytes.
    """
    with zipfile.ZipFile(path) as archive, open(path, "rb") as f:
        member = archive.getinfo(name)
        start = _start(path, member)
        old, new = (struct.pack("<L", _crc(f, start, member.file_size, pieces))
                    for pieces in ([(at, before) for _, at, before, _ in patches], [(at, after) for _, at, _, after in patches]))
        places = [member.header_offset + 14, _directory_entry(f, archive, name) + 16]
        if member.flag_bits & 8:  # a data descriptor follows, with or without a signature
            end = start + member.file_size
            f.seek(end)
            places.append(end + 4 if f.read(4) == b"PK\x07\x08" else end)
        return [(os.fspath(path), place, old, new) for place in places if _at(f, place) == old]


def _at(f: io.BufferedReader, place: int) -> bytes:
    f.seek(place)
    return f.read(4)


def _crc(f: io.BufferedReader, start: int, size: int, pieces: list[tuple[int, bytes]]) -> int:
    """CRC-32 of the file's bytes with `pieces` written over them."""
    crc = 0
    for at in range(start, start + size, _CHUNK):
        f.seek(at)
        chunk = bytearray(f.read(min(_CHUNK, start + size - at)))
        for offset, piece in pieces:
            low, high = max(at, offset), min(at + len(chunk), offset + len(piece))
            if low < high:
                chunk[low - at:high - at] = piece[low - offset:high - offset]
        crc = zlib.crc32(chunk, crc)
    return crc


def _directory_entry(f: io.BufferedReader, archive: zipfile.ZipFile, name: str) -> int:
    at = archive.start_dir
    for member in archive.infolist():  # in the order of the directory
        f.seek(at)
        entry = f.read(46)
        if entry[:4] != b"PK\x01\x02":
            break
        if member.filename == name:
            return at
        at += 46 + sum(struct.unpack("<3H", entry[28:34]))
    raise IoError(f"isic.checkpoint: expected {name} in the directory of {f.name}, found none")
