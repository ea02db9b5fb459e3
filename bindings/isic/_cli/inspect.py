# SPDX-License-Identifier: Apache-2.0
"""isic inspect: lists the codebooks of a checkpoint."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

from .. import checkpoint
from ._common import add_checkpoint, command, emit, opened


def add_parser(subparsers: Any) -> None:
    parser = command(subparsers, "inspect", run, summary="find the codebooks of a checkpoint and the tensors that belong to them",
                     example="isic inspect janus/model.safetensors.index.json")
    add_checkpoint(parser)


def run(args: argparse.Namespace) -> int:
    path, key = opened(args.checkpoint)
    found = checkpoint.inspect(path)
    if key is not None:
        found = replace(found, codebooks=(checkpoint.open(path).codebook(key),))
    emit(args, found)
    return 0
