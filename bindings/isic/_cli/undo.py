# SPDX-License-Identifier: Apache-2.0
"""isic undo: restores the bytes before apply."""

from __future__ import annotations

import argparse
from typing import Any

from .. import checkpoint
from ._common import add_checkpoint, command, emit, opened


def add_parser(subparsers: Any) -> None:
    parser = command(subparsers, "undo", run, summary="restore every byte that apply overwrote",
                     example="isic undo model.safetensors")
    add_checkpoint(parser)
    parser.add_argument("--undo", metavar="FILE", help="the undo file (default: CHECKPOINT.isic-undo.safetensors)")


def run(args: argparse.Namespace) -> int:
    path, key = opened(args.checkpoint)
    emit(args, checkpoint.undo(path, key=key, undo=args.undo))
    return 0
