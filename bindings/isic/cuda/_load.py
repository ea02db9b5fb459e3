"""Whether CUDA can be used, and why not. The compiled part, and with it NVIDIA's libraries, is loaded when it is first needed."""

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
        return ("this isic was built without CUDA; where nvcc 12.0 or later is, pip install '.[cuda]' -C cmake.define.ISIC_CUDA=ON in its "
                "sources builds it, or says what is missing")
    return (f"it cannot be loaded ({error}); pip install 'isic[cuda]' brings NVIDIA's libraries, as does "
            "pip install 'nvidia-cublas==13.*' 'nvidia-cusolver==12.*'")


def available() -> bool:
    """Whether a device can be used: isic built with CUDA, NVIDIA's libraries, a driver that fits them, and a device. Never raises."""
    return not unavailable_reason()


def unavailable_reason() -> str:
    """Why `available()` is False, and what helps; empty if it is True. Never raises."""
    try:
        reason: str = load().unavailable_reason()
    except BackendError as error:
        return str(error)
    return f"isic.cuda: no device can be used: {reason}" if reason else ""


def device_count() -> int:
    """Number of usable devices; 0 where `available()` is False."""
    return int(load().device_count()) if available() else 0


class _Lazy:
    """isic._cuda, loaded by the first attribute that is asked of it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(load(), name)


if TYPE_CHECKING:
    from .. import _cuda

    native = _cuda
else:
    native = _Lazy()
