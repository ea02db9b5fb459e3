# SPDX-License-Identifier: Apache-2.0
"""isic plan: the numbers of an apply, without writing."""

from __future__ import annotations

import argparse
from typing import Any

from .. import checkpoint
from ._common import add_checkpoint, command, emit, opened


def add_parser(subparsers: Any) -> None:
    parser = command(subparsers, "plan", run, summary="show the numbers of an apply, without writing",
                     example="isic plan model.safetensors subspace.safetensors --rank 2")
    add_surgery(parser)


def add_surgery(parser: argparse.ArgumentParser) -> None:
    """The options that plan and apply share."""
    add_checkpoint(parser)
    parser.add_argument("subspace", metavar="SUBSPACE", help="a file of isic fit or isic.save_subspace")
    parser.add_argument("--uniform", metavar="S", nargs="?", type=float, const=1.0,
                        help="one strength in [0, 1] for all codes (1 without S); default: per code, by the harmfulness in SUBSPACE")
    parser.add_argument("--remap", action="store_true", help="move codes to the targets in SUBSPACE, also outside the subspace")
    parser.add_argument("--rank", metavar="R", type=int, help="use only the first R basis vectors")
    parser.add_argument("--metric", choices=("l2", "cosine"), help="how the decoder reads rows (default: as the family does)")
    parser.add_argument("--near-zero", choices=("nearest_safe", "skip", "zero", "error"), default="nearest_safe",
                        help="policy for rows left near zero: copy the nearest other row (default), keep, zero, or fail")
    parser.add_argument("--near-zero-below", metavar="X", type=float, default=0.1,
                        help="a row is near zero below this share of its norm (default 0.1)")
    parser.add_argument("--also", metavar="KEY|FILE", action="append", default=[],
                        help="also edit this tensor of equal bytes, or the copy in this other checkpoint; may be repeated")
    parser.add_argument("--leave", metavar="KEY", action="append", default=[],
                        help="do not edit this tensor of equal bytes; may be repeated")


def surgery(args: argparse.Namespace) -> dict[str, Any]:
    """The options as keywords of `isic.checkpoint.plan` and `apply`."""
    return dict(strength=args.uniform, remap=args.remap, rank=args.rank, metric=args.metric, near_zero=args.near_zero,
                near_zero_below=args.near_zero_below, also=args.also, leave=args.leave)


def run(args: argparse.Namespace) -> int:
    path, key = opened(args.checkpoint)
    emit(args, checkpoint.plan(path, args.subspace, key=key, **surgery(args)))
    return 0
