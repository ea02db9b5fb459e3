"""The exceptions of isic. A caller's mistake raises before anything is written; a numerical outcome is a result's field."""

import builtins


class Error(Exception):
    """Base of everything isic raises, but for TypeError on an object of a wrong kind."""


class ShapeError(Error, builtins.ValueError):
    """Rows, columns, lengths or strides that do not fit together."""


class ValueError(Error, builtins.ValueError):
    """A value outside its range: an option, an id, a probability, a dtype, read-only or overlapping memory."""


class NumericError(Error, ArithmeticError):
    """NaN, infinity, or data from which nothing can be computed."""


class IoError(Error, OSError):
    """A file that cannot be read, written or trusted."""


class BackendError(Error, RuntimeError):
    """A device or its libraries failed, or the memory is a device's that this build cannot reach."""


def require_class(function: str, name: str, value: object, kind: type) -> None:
    """TypeError in the words of the compiled part unless value is of a class of isic's, or of isic.cuda's if the function is."""
    if not isinstance(value, kind):
        package = "isic.cuda" if function.startswith("cuda.") else "isic"
        raise TypeError(f"isic.{function}: expected {name} to be an {package}.{kind.__name__}, got {type(value).__qualname__}")


for _error in (Error, ShapeError, ValueError, NumericError, IoError, BackendError):
    _error.__module__ = "isic"
