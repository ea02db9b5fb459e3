# SPDX-License-Identifier: Apache-2.0
"""Availability of CUDA. The native module and NVIDIA's libraries are loaded on first use."""

from __future__ import annotations

import importlib.util
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .._errors import BackendError


def load() -> ModuleType:
    """isic._cuda. Raises BackendError where it was not built or cannot be loaded."""
    try:
        from .. import _cuda
    except ImportError as error:
        raise BackendError(f"isic.cuda: {_why_not(error)}") from error
    return _cuda


def _why_not(error: ImportError) -> str:
    if importlib.util.find_spec("isic._cuda") is None:
        return ("isic was built without CUDA; with nvcc 12.0 or later, pip install '.[cuda]' -C cmake.define.ISIC_CUDA=ON in its "
                "sources builds it or reports what is missing")
    return (f"it cannot be loaded ({error}); pip install 'isic[cuda]' installs NVIDIA's libraries, as does "
            "pip install 'nvidia-cublas==13.*' 'nvidia-cusolver==12.*'")


def available() -> bool:
    """Whether a device can be used: isic built with CUDA, NVIDIA's libraries, a matching driver, and a device. Never raises."""
    return not unavailable_reason()


def unavailable_reason() -> str:
    """Why `available()` is False and how to fix it; empty if it is True. Never raises."""
    try:
        reason: str = load().unavailable_reason()
    except BackendError as error:
        return str(error)
    return f"isic.cuda: no device can be used: {reason}" if reason else ""


def device_count() -> int:
    """Number of usable devices; 0 if `available()` is False."""
    return int(load().device_count()) if available() else 0


class _Lazy:
    """isic._cuda, loaded on first access."""

    def __getattr__(self, name: str) -> Any:
        return getattr(load(), name)


if TYPE_CHECKING:
    from .. import _cuda

    native = _cuda
else:
    native = _Lazy()
