# SPDX-License-Identifier: Apache-2.0
"""isic apply: projects a subspace out of the codebook in a file."""

from __future__ import annotations

import argparse
from typing import Any

from .. import checkpoint
from ._common import LINKS, command, emit, opened, progress
from .plan import add_surgery, surgery


def add_parser(subparsers: Any) -> None:
    parser = command(subparsers, "apply", run, summary="project a subspace out of a checkpoint's codebook", more=LINKS,
                     example="isic apply model.safetensors subspace.safetensors\n"
                             "isic apply model.safetensors subspace.safetensors -o safer.safetensors")
    add_surgery(parser)
    parser.add_argument("--undo", metavar="FILE", help="file for the old rows (default: CHECKPOINT.isic-undo.safetensors)")
    parser.add_argument("-o", "--output", metavar="OUT", help="edit a copy: a new file, or a new folder for a sharded checkpoint")


def run(args: argparse.Namespace) -> int:
    path, key = opened(args.checkpoint)
    emit(args, checkpoint.apply(path, args.subspace, key=key, undo=args.undo, output=args.output, on_progress=progress(args),
                                **surgery(args)))
    return 0
