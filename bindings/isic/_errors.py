# SPDX-License-Identifier: Apache-2.0
"""The exceptions of isic. A caller's mistake raises before anything is written; a numerical outcome is a field of the result."""

import builtins


class Error(Exception):
    """Base of all errors of isic except TypeError, which an object of the wrong class raises."""


class ShapeError(Error, builtins.ValueError):
    """Rows, columns, lengths or strides that do not match."""


class ValueError(Error, builtins.ValueError):
    """A value outside its range: an option, an id, a probability, a dtype, read-only or overlapping memory."""


class NumericError(Error, ArithmeticError):
    """NaN, infinity, or data that determine no result."""


class IoError(Error, OSError):
    """A file that cannot be read, written or trusted."""


class BackendError(Error, RuntimeError):
    """A device or its libraries failed, or memory is on a device that the function cannot reach."""


def require_class(function: str, name: str, value: object, kind: type) -> None:
    """Raises TypeError unless value is an instance of kind, with the message of the compiled module."""
    if not isinstance(value, kind):
        package = "isic.cuda" if function.startswith("cuda.") else "isic"
        raise TypeError(f"isic.{function}: expected {name} to be an {package}.{kind.__name__}, got {type(value).__qualname__}")


for _error in (Error, ShapeError, ValueError, NumericError, IoError, BackendError):
    _error.__module__ = "isic"
