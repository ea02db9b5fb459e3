"""What commands share."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any, Callable

from .. import checkpoint
from .._results import Value

LINKS = ("The file is patched where it is: hard links and symbolic links to it (such as a download cache's) see the change too.\n"
         "Use -o to edit a copy. A journal beside the file repairs it at the next command if this one is killed.")


def command(subparsers: Any, name: str, run: Callable[[argparse.Namespace], int], *, summary: str, example: str,
            more: str = "") -> argparse.ArgumentParser:
    """A command's parser, with --json and an example."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name, help=summary, description=summary[0].upper() + summary[1:] + ".", formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n\n".join(part for part in (more, "example:\n  " + example.replace("\n", "\n  ")) if part))
    parser.add_argument("--json", action="store_true", help="print one JSON object, for machines")
    parser.set_defaults(run=run)
    return parser


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT[:KEY]", help="a .safetensors, .pt, .pth, .ckpt, .bin, .npz or .npy file, a "
                        "sharded index.json, or a folder with one of them; KEY names the codebook if there are several")


def opened(text: str) -> tuple[str, str | None]:
    """CHECKPOINT and KEY; an interrupted edit of it is repaired first, and told."""
    path, key = split(text)
    done = checkpoint.open(path).recovered
    if done == "completed":
        print(f"isic: an interrupted edit of {path} was completed", file=sys.stderr)
    elif done == "discarded":
        print(f"isic: an interrupted edit of {path} was discarded before it had changed anything", file=sys.stderr)
    return path, key


def split(text: str) -> tuple[str, str | None]:
    """FILE[:KEY]; a file whose own name has a colon wins."""
    path, colon, key = text.rpartition(":")
    if not colon or os.path.exists(text) or not os.path.exists(path):
        return text, None
    return path, key


def emit(args: argparse.Namespace, value: Value) -> None:
    print(json.dumps(value.to_dict()) if args.json else value)


def progress(args: argparse.Namespace) -> Callable[[str, int, int], None] | None:
    """A bar on a terminal, nothing elsewhere."""
    if args.json or not sys.stderr.isatty():
        return None

    def show(stage: str, done: int, total: int) -> None:
        share = done / total if total else 1.0
        bar = "#" * int(30 * share)
        print(f"\r{stage} [{bar:<30}] {100 * share:3.0f} %", end="\n" if done >= total else "", file=sys.stderr, flush=True)

    return show
