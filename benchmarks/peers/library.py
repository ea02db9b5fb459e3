# SPDX-License-Identifier: Apache-2.0
"""The library, the machine's limits and Eigen, out of the shared library isic_bench_peers."""
from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

POINTER, INDEX, INT = ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int

# name: what it returns, and what it takes
FUNCTIONS: dict[str, list[Any]] = {
    "isic_bench_compiler": [ctypes.c_char_p],
    "isic_bench_simd": [ctypes.c_char_p],
    "isic_bench_free": [None, POINTER],
    "isic_bench_basis": [POINTER, POINTER, INDEX, INDEX],
    "isic_bench_project": [None, POINTER, POINTER, INDEX, INDEX, INT, INDEX],
    "isic_bench_index": [POINTER, POINTER, INDEX, INDEX],
    "isic_bench_nearest": [None, POINTER, POINTER, INDEX, INDEX, POINTER, INT, INDEX],
    "isic_bench_adam_state": [POINTER],
    "isic_bench_adam": [None, POINTER, POINTER, INDEX, INDEX, POINTER, POINTER, INT, INDEX],
    "isic_bench_ema_state": [POINTER],
    "isic_bench_ema": [None, POINTER, INDEX, INDEX, POINTER, POINTER, INDEX, POINTER, POINTER, INT, INDEX],
    "isic_bench_subspace": [None, POINTER, INDEX, INDEX, INDEX, POINTER, INT, INDEX],
    "isic_bench_gram": [None, POINTER, INDEX, INDEX, POINTER, INT, INDEX],
    "isic_bench_limit_scale": [None, POINTER, INDEX, INDEX],
    "isic_bench_limit_copy": [None, POINTER, POINTER, INDEX, INDEX],
    "isic_bench_limit_read": [ctypes.c_float, POINTER, INDEX, INDEX],
    "isic_bench_limit_update": [None, POINTER, POINTER, POINTER, POINTER, INDEX, INDEX],
    "isic_bench_fma_flops": [ctypes.c_double, INDEX, INT],
    "isic_bench_limit_fma": [ctypes.c_double, INDEX, INT],
    "eigen_project": [None, POINTER, INDEX, INDEX, POINTER, INDEX, INDEX],
    "eigen_nearest": [None, POINTER, POINTER, INDEX, INDEX, POINTER, INDEX, INDEX, POINTER, INDEX],
    "eigen_adam": [None, POINTER, POINTER, POINTER, POINTER, INDEX, INDEX, POINTER, INDEX, POINTER, INDEX],
    "eigen_ema": [None, POINTER, POINTER, POINTER, INDEX, INDEX, POINTER, POINTER, INDEX, POINTER, INDEX, INDEX],
    "eigen_subspace": [None, POINTER, INDEX, INDEX, INDEX, POINTER, INDEX],
}


class Kept:
    """Something that the library made and Python holds."""

    def __init__(self, library: ctypes.CDLL, pointer: int) -> None:
        self._library = library
        self.pointer = pointer

    def __del__(self) -> None:
        self._library.isic_bench_free(self.pointer)


class Library:
    """Functions under their own names; arrays and kept things are passed as they are."""

    def __init__(self, path: str) -> None:
        self._library = ctypes.CDLL(path)
        for name, (result, *arguments) in FUNCTIONS.items():
            function = getattr(self._library, name)
            function.restype = result
            function.argtypes = arguments

    def call(self, name: str, *arguments: Any) -> Any:
        return getattr(self._library, name)(*[_plain(a) for a in arguments])

    def make(self, name: str, *arguments: Any) -> Kept:
        return Kept(self._library, self.call(name, *arguments))


def _plain(argument: Any) -> Any:
    if isinstance(argument, np.ndarray):
        assert argument.flags.c_contiguous
        return argument.ctypes.data
    return argument.pointer if isinstance(argument, Kept) else argument
