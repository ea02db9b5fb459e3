# SPDX-License-Identifier: Apache-2.0
"""The command line `isic`: one module per command, each with add_parser(subparsers) and run(args) -> exit code."""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import re
import sys
from typing import NoReturn
from collections.abc import Sequence

from .._errors import Error
from .._isic import version

_ORDER = ("inspect", "fit", "plan", "apply", "verify", "undo")


class _Parser(argparse.ArgumentParser):
    """Prints errors on one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"isic: error: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command. Exit codes: 0 success, 1 failure, 2 usage error, 130 interrupted."""
    args = _parser().parse_args(arguments)
    try:
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("isic: interrupted", file=sys.stderr)
        return 130
    except (Error, OSError, ImportError, MemoryError) as error:
        print(f"isic: error: {_one_line(error)}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="isic", description="Remove a harmful concept from the codebook of an image generator.",
                     epilog="example:\n  isic inspect model.safetensors\n\nEach command has a --help with an example.",
                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"isic {version}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in _commands():
        module = importlib.import_module(f"{__name__}.{name}")
        module.add_parser(subparsers)
    return parser


def _commands() -> list[str]:
    names = [m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")]
    return sorted(names, key=lambda name: (_ORDER.index(name) if name in _ORDER else len(_ORDER), name))


def _one_line(error: BaseException) -> str:
    text = str(error)
    if isinstance(error, OSError) and not isinstance(error, Error) and error.filename:
        text = f"{error.strerror}: {error.filename}"
    return " ".join(re.sub(r"^isic[.:\w]*: ", "", text or repr(error)).split())
