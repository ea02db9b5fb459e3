# SPDX-License-Identifier: Apache-2.0
"""The build backend of the Python package: scikit-build-core, plus NVIDIA's wheels as build requirements of CUDA builds.

The CUDA module is built if nvcc is found. A CUDA toolkit from PyPI lacks cuBLAS and cuSOLVER; then their wheels are build
requirements. A backend cannot see which extras were requested, so the extra `cuda` does not decide it.
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
    """Whether CUDA is enabled; -C cmake.define.ISIC_CUDA=OFF disables it."""
    return str(settings.get("cmake.define.ISIC_CUDA", "AUTO")).upper() not in ("OFF", "0", "NO", "FALSE", "N")


def _nvcc() -> str | None:
    """The path of nvcc, found as in cmake/isicCuda.cmake."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda", "/opt/cuda"]
    for place in (os.environ.get("CUDACXX"), shutil.which("nvcc"), *(f"{home}/bin/nvcc" for home in homes if home)):
        if place and os.access(place, os.X_OK):
            return place
    return None


def _lacks_libraries(nvcc: str) -> bool:
    """Whether nvcc is of CUDA 13 and its toolkit lacks cuBLAS or cuSOLVER."""
    def output(*arguments: str) -> str:
        done = subprocess.run([nvcc, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        return done.stdout

    if "release 13." not in output("--version"):
        return False
    folders = re.findall(r'"-I([^"]*)"', output("--dryrun", "-E", "-x", "cu", os.devnull))
    return not all(any(os.path.exists(f"{folder}/{header}") for folder in folders) for header in ("cublas_v2.h", "cusolverDn.h"))


def _requirements(settings: dict[str, Any] | None) -> list[str]:
    nvcc = _nvcc() if _wanted(settings or {}) else None
    return LIBRARIES if nvcc and _lacks_libraries(nvcc) else []


def get_requires_for_build_wheel(config_settings: dict[str, Any] | None = None) -> list[str]:
    return _build.get_requires_for_build_wheel(config_settings) + _requirements(config_settings)


def get_requires_for_build_editable(config_settings: dict[str, Any] | None = None) -> list[str]:
    return _build.get_requires_for_build_editable(config_settings) + _requirements(config_settings)
