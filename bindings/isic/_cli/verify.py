# SPDX-License-Identifier: Apache-2.0
"""isic verify: state and leakage of a checkpoint."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from .. import checkpoint
from ._common import add_checkpoint, command, emit, opened


def add_parser(subparsers: Any) -> None:
    parser = command(subparsers, "verify", run, summary="report the state of a checkpoint and the leakage of its codebook",
                     example="isic verify model.safetensors\nisic verify model.safetensors --subspace subspace.safetensors --max-leakage 0.01",
                     more="Exit code 0: the checkpoint is edited (or there is no undo file) and leakage is at most --max-leakage; else 1.")
    add_checkpoint(parser)
    parser.add_argument("--subspace", metavar="FILE", help="the subspace to measure (default: that of the undo file)")
    parser.add_argument("--undo", metavar="FILE", help="the undo file (default: CHECKPOINT.isic-undo.safetensors)")
    parser.add_argument("--max-leakage", metavar="X", type=float, default=1.0,
                        help="fail above this leakage of any tensor, in [0, 1] (default 1)")


def run(args: argparse.Namespace) -> int:
    path, key = opened(args.checkpoint)
    found = checkpoint.verify(path, subspace=args.subspace, key=key, undo=args.undo)
    emit(args, found)
    leaking = [level for level in found.leakage if not level.now.total <= args.max_leakage]
    for level in leaking:
        print(f"isic: {level.key} leaks {level.now.total:.3g}, more than {args.max_leakage:g}", file=sys.stderr)
    return 0 if found.state in ("edited", "unknown") and not leaking else 1
