# SPDX-License-Identifier: Apache-2.0
"""Arguments and output shared by the commands."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any, Callable

from .. import checkpoint
from .._results import Value

LINKS = ("The file is patched in place: hard and symbolic links to it, e.g. from a download cache, see the change.\n"
         "-o edits a copy. If the command is killed, the next command repairs the file from a journal beside it.")


def command(subparsers: Any, name: str, run: Callable[[argparse.Namespace], int], *, summary: str, example: str,
            more: str = "") -> argparse.ArgumentParser:
    """A command's parser, with --json and an example."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name, help=summary, description=summary[0].upper() + summary[1:] + ".", formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n\n".join(part for part in (more, "example:\n  " + example.replace("\n", "\n  ")) if part))
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)
    return parser


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT[:KEY]", help="a .safetensors, .pt, .pth, .ckpt, .bin, .npz or .npy file, a "
                        "sharded index.json, or a folder with one of them; KEY selects a codebook if there are several")


def opened(text: str) -> tuple[str, str | None]:
    """CHECKPOINT and KEY. Repairs an interrupted edit first and reports it."""
    path, key = split(text)
    done = checkpoint.open(path).recovered
    if done == "completed":
        print(f"isic: an interrupted edit of {path} was completed", file=sys.stderr)
    elif done == "discarded":
        print(f"isic: an interrupted edit of {path} was discarded; it had changed nothing", file=sys.stderr)
    return path, key


def split(text: str) -> tuple[str, str | None]:
    """FILE and KEY of FILE[:KEY]; an existing file whose name has a colon takes precedence."""
    path, colon, key = text.rpartition(":")
    if not colon or os.path.exists(text) or not os.path.exists(path):
        return text, None
    return path, key


def emit(args: argparse.Namespace, value: Value) -> None:
    print(json.dumps(value.to_dict()) if args.json else value)


def progress(args: argparse.Namespace) -> Callable[[str, int, int], None] | None:
    """A progress bar on a terminal, else None."""
    if args.json or not sys.stderr.isatty():
        return None

    def show(stage: str, done: int, total: int) -> None:
        share = done / total if total else 1.0
        bar = "#" * int(30 * share)
        print(f"\r{stage} [{bar:<30}] {100 * share:3.0f} %", end="\n" if done >= total else "", file=sys.stderr, flush=True)

    return show
