# SPDX-License-Identifier: Apache-2.0
"""isic fit: a subspace file from embeddings or token ids."""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import checkpoint
from .._differences import code_strength
from .._errors import IoError
from .._io import load_pairs, read_safetensors
from .._subspace import FittedSubspace, save_subspace
from ._common import command, opened, split


def add_parser(subparsers: Any) -> None:
    parser = command(subparsers, "fit", run, summary="fit a harmful subspace to embeddings or token ids and write it to a file",
                     example="isic fit --harmful unsafe_ids.npy --safe safe_ids.npy --codebook model.safetensors -o subspace.safetensors",
                     more="Rows are paired: row i of --safe is the counterpart of row i of --harmful. Files hold embeddings [n, d],\n"
                          "or token ids [n, T] ([n, T, L] of L residual levels), which need --codebook and give the harmfulness of each code.")
    data = parser.add_argument_group("data")
    data.add_argument("--harmful", metavar="FILE[:NAME]", help=".npy or .safetensors")
    data.add_argument("--safe", metavar="FILE[:NAME]", help=".npy or .safetensors")
    data.add_argument("--pairs", metavar="FILE", help="a file of isic.export_pairs, instead of both")
    data.add_argument("--codebook", metavar="CHECKPOINT[:KEY]", help="the codebook of the token ids")
    parser.add_argument("-o", "--output", metavar="OUT", required=True, help="the subspace file")
    parser.add_argument("--rank", metavar="R", type=int, help="exact rank (default: the rules decide)")
    parser.add_argument("--energy", metavar="E", type=float, default=0.9, help="share of the squared singular values to keep (default 0.9)")
    parser.add_argument("--max-rank", metavar="R", type=int, help="largest rank (default: a quarter of the width)")
    parser.add_argument("--prior-per-code", metavar="N", type=float, default=0.5, help="smoothing of usage counts (default 0.5)")
    parser.set_defaults(usage_error=parser.error)


def run(args: argparse.Namespace) -> int:
    if (args.pairs is None) == (args.harmful is None or args.safe is None) or (args.pairs and (args.harmful or args.safe)):
        args.usage_error("expected --harmful and --safe, or --pairs")
    if args.pairs is not None:
        pairs = load_pairs(args.pairs)
        harmful, safe = pairs.harmful, pairs.counterparts
    else:
        harmful, safe = _array(args.harmful), _array(args.safe)
    path, key = opened(args.codebook) if args.codebook else (None, None)
    fitted = checkpoint.fit(harmful, safe, checkpoint=path, key=key, rank=args.rank, energy=args.energy, max_rank=args.max_rank,
                            prior_per_code=args.prior_per_code)
    save_subspace(args.output, fitted)
    print(json.dumps({"output": args.output, **fitted.to_dict()}) if args.json else _summary(fitted, args.output))
    return 0


def _array(text: str) -> npt.NDArray[Any]:
    path, name = split(text)
    with open(path, "rb") as f:
        start = f.read(6)
    if start == b"\x93NUMPY":
        try:
            return np.asarray(np.load(path, allow_pickle=False))
        except ValueError as error:
            raise IoError(f"isic fit: expected an array of numbers in {path}, got {error}") from None
    tensors, _ = read_safetensors(path)
    if name is None and len(tensors) == 1:
        name = next(iter(tensors))
    if name not in tensors:
        raise IoError(f"isic fit: expected one tensor in {path}, or FILE:NAME of one of {', '.join(tensors)}, got {name or len(tensors)}")
    return tensors[name]


def _summary(fitted: FittedSubspace, output: str) -> str:
    s = fitted.subspace
    values = ", ".join(f"{v:.3g}" for v in s.singular_values[:8]) + (", ..." if len(s.singular_values) > 8 else "")
    lines = [f"rank {s.rank} of {s.width}, decided by {s.chosen.decided_by}; {100 * s.energy:.3g} % of the differences' energy",
             f"singular values: {values}"]
    if fitted.harmfulness is not None:
        strength = code_strength(fitted.harmfulness.ravel())
        lines.append(f"harmfulness: {int((strength > 0).sum())} of {strength.size} codes would move, {int((strength == 1).sum())} fully")
    if s.rank == 0:
        lines.append("no direction exceeds the noise: check that rows are paired, add pairs, or set --rank R")
    return "\n".join([*lines, f"wrote {output}"])
