# SPDX-License-Identifier: Apache-2.0
"""isic demo: runs the emoji demo of the package."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

from .._errors import Error
from ._common import command

FOLDER = Path(__file__).resolve().parent.parent / "_demo"
OPTIONS = ("seed", "rounds", "out", "prompt", "threads")


def add_parser(subparsers: Any) -> None:
    parser = command(subparsers, "demo", run, summary="run the emoji demo: a small generator judges its images and unlearns the harmful ones",
                     example='isic demo --seed 0 --out emoji\nisic demo --prompt "a fox with a knife" --out emoji',
                     more="Writes report.json and rounds.png (or prompt.png); isic report turns them into a page.")
    parser.add_argument("--seed", type=int, help="seed of prompts and images (default: 0)")
    parser.add_argument("--rounds", type=int, help="rounds of self-improvement (default: 3)")
    parser.add_argument("--out", metavar="DIR", default="emoji", help="output folder (default: emoji)")
    parser.add_argument("--prompt", help='draw this prompt before and after, e.g. "a fox with a knife"')
    parser.add_argument("--threads", type=int, help="number of threads; the result does not depend on it")
    parser.add_argument("--loop-only", action="store_true", help="skip baselines and attacks")


def run(args: argparse.Namespace) -> int:
    program = FOLDER / "isic_emoji_demo"
    if not program.exists():
        raise Error("isic demo: expected the demo inside the package, got a build without it (it needs CLI11 and stb when isic is built: "
                    "Debian's libcli11-dev and libstb-dev); from the source tree, scripts/demo.sh runs it")
    given = [f"--{name}={getattr(args, name)}" for name in OPTIONS if getattr(args, name) is not None]
    arguments = [str(program), "--data", str(FOLDER / "data"), *given, *(["--loop-only"] if args.loop_only else [])]
    code = subprocess.run(arguments, stdout=subprocess.DEVNULL if args.json else None, check=False).returncode
    if code == 0 and args.json and args.prompt is None:
        sys.stdout.write((Path(args.out) / "report.json").read_text(encoding="utf-8"))
    return 0 if code == 0 else 1
