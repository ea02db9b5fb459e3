# SPDX-License-Identifier: Apache-2.0
"""What a run is made of: the machine, versions, and the kernels that each BLAS took for this processor."""
from __future__ import annotations

import os
import platform
from typing import Any

import faiss
import numpy
import sklearn
import threadpoolctl
import torch

from library import Library

OWNERS = {"numpy.libs": "numpy", "scipy.libs": "sklearn", "faiss_cpu.libs": "faiss"}


def set_threads(threads: int) -> None:
    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)


def cpu_info(key: str) -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as stream:
            return next((line.split(":", 1)[1].strip() for line in stream if line.startswith(key)), "")
    except OSError:
        return ""


def open_blas() -> dict[str, dict[str, Any]]:
    """OpenBLAS by the peer that brings it."""
    found = {}
    for pool in threadpoolctl.threadpool_info():
        owner = OWNERS.get(os.path.basename(os.path.dirname(pool["filepath"])))
        if pool["internal_api"] == "openblas" and owner:
            found[owner] = pool
    return found


def best_core() -> str | None:
    """OpenBLAS' name of the widest kernels that this processor runs."""
    flags = set(cpu_info("flags").split())
    if {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= flags:
        return "SkylakeX"
    return "Haswell" if {"avx2", "fma"} <= flags else None


def peers_with_other_kernels(core: str | None) -> list[str]:
    return [peer for peer, pool in open_blas().items() if pool.get("architecture") != core]


def describe(library: Library, threads: int) -> dict[str, Any]:
    versions = {"numpy": numpy, "torch": torch, "scikit-learn": sklearn, "faiss": faiss}
    blas = [f"{owner} {pool['version']} {pool.get('architecture')}" for owner, pool in open_blas().items()]
    return {
        "processor": f"{cpu_info('model name') or platform.machine()}, {os.cpu_count()} cores",
        "system": platform.platform(),
        "isic": f"{library.call('isic_bench_simd').decode()}, {library.call('isic_bench_compiler').decode()}",
        "versions": ", ".join(f"{name} {module.__version__}" for name, module in versions.items())
        + f", Python {platform.python_version()}",
        "OpenBLAS": "; ".join(blas),
        "torch": torch.backends.cpu.get_cpu_capability() + (", MKL" if "USE_MKL=ON" in torch.__config__.show() else ""),
        "threads": threads,
    }
