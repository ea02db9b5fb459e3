"""The build backend of the Python package: scikit-build-core, and NVIDIA's wheels to build against where they are of use.

The GPU's part is built where nvcc is. A toolkit that pip put together has no cuBLAS and cuSOLVER; then those are build
requirements, as they are requirements of the extra `cuda` at run time. pip does not tell a backend which extras were asked for.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import Any

from scikit_build_core import build as _build
from scikit_build_core.build import (build_editable, build_sdist, build_wheel, get_requires_for_build_sdist, prepare_metadata_for_build_editable,
                                     prepare_metadata_for_build_wheel)

__all__ = ["build_editable", "build_sdist", "build_wheel", "get_requires_for_build_editable", "get_requires_for_build_sdist",
           "get_requires_for_build_wheel", "prepare_metadata_for_build_editable", "prepare_metadata_for_build_wheel"]

LIBRARIES = ["nvidia-cublas==13.*", "nvidia-cusolver==12.*"]  # of CUDA 13


def _wanted(settings: dict[str, Any]) -> bool:
    """Whether CUDA has not been declined: -C cmake.define.ISIC_CUDA=OFF."""
    return str(settings.get("cmake.define.ISIC_CUDA", "AUTO")).upper() not in ("OFF", "0", "NO", "FALSE", "N")


def _nvcc() -> str | None:
    """nvcc as cmake/isicCuda.cmake looks for it."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda", "/opt/cuda"]
    for place in (os.environ.get("CUDACXX"), shutil.which("nvcc"), *(f"{home}/bin/nvcc" for home in homes if home)):
        if place and os.access(place, os.X_OK):
            return place
    return None


def _lacks_libraries(nvcc: str) -> bool:
    """Whether it is nvcc of CUDA 13, whose toolkit comes without cuBLAS or cuSOLVER."""
    def says(*arguments: str) -> str:
        done = subprocess.run([nvcc, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        return done.stdout

    if "release 13." not in says("--version"):
        return False
    folders = re.findall(r'"-I([^"]*)"', says("--dryrun", "-E", "-x", "cu", os.devnull))
    return not all(any(os.path.exists(f"{folder}/{header}") for folder in folders) for header in ("cublas_v2.h", "cusolverDn.h"))


def _requirements(settings: dict[str, Any] | None) -> list[str]:
    nvcc = _nvcc() if _wanted(settings or {}) else None
    return LIBRARIES if nvcc and _lacks_libraries(nvcc) else []


def get_requires_for_build_wheel(config_settings: dict[str, Any] | None = None) -> list[str]:
    return _build.get_requires_for_build_wheel(config_settings) + _requirements(config_settings)


def get_requires_for_build_editable(config_settings: dict[str, Any] | None = None) -> list[str]:
    return _build.get_requires_for_build_editable(config_settings) + _requirements(config_settings)
