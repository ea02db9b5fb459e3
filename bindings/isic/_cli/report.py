# SPDX-License-Identifier: Apache-2.0
"""isic report: a run as one page."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ..report import write_report
from ._common import command

MORE = "The page is self-contained. It names data that RUN.json does not contain."


def add_parser(subparsers: Any) -> None:
    parser = command(subparsers, "report", run, summary="write a run of self_improve or of the demo as one HTML page", more=MORE,
                     example="scripts/demo.sh --out out\nisic report out/report.json -o report.html")
    parser.add_argument("file", metavar="RUN.json", help="SelfImproveReport.to_dict() as JSON, or the demo's report.json")
    parser.add_argument("-o", "--output", metavar="FILE", default="report.html", help="the page (default: %(default)s)")
    parser.add_argument("--images", metavar="PNG", nargs="+", default=(),
                        help="images to show (default: those in RUN.json, else rounds.png beside it)")
    parser.add_argument("--title", default="Codebook surgery", help="the page's title (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    write_report(args.file, args.output, images=args.images, title=args.title)
    print(json.dumps({"written": args.output}) if args.json else f"wrote {args.output}")
    return 0
