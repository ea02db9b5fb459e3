#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Times isic beside numpy, torch, FAISS, scikit-learn and Eigen, in turns, in one run; scripts/bench.sh calls it.

Ratios are medians of the quotients of neighbouring times: CPU time of one thread, or wall time with `--threads all`. Above 1,
ours is faster. Each result that is timed is compared with float64 arithmetic first.
"""
from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
from typing import Any


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", required=True, help="isic_bench_peers, the shared library")
    parser.add_argument("--quick", action="store_true", help="smaller cases, fewer pairs")
    parser.add_argument("--json", metavar="FILE", help="write the rows here")
    parser.add_argument("--case", metavar="SUBSTRING", default="", help="only cases whose name has this")
    parser.add_argument("--threads", choices=["1", "all"], default="1", help="all: wall time, and no limits")
    parser.add_argument("--slopes", action="store_true", help="how times grow with the sizes, and nothing else")
    parser.add_argument("--list", action="store_true", help="print the names of the cases")
    parser.add_argument("--peers", metavar="A,B", help=argparse.SUPPRESS)  # of a child: prefixes of names
    return parser.parse_args()


options = arguments()
threads = os.cpu_count() or 1 if options.threads == "all" else 1
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = str(threads)  # read when the libraries are loaded

import cases  # noqa: E402
import environment  # noqa: E402
import slopes  # noqa: E402
import table  # noqa: E402
from library import Library  # noqa: E402
from timing import Clock, Pairs, take_pairs  # noqa: E402

Row = dict[str, Any]

# The cases that use a peer's BLAS.
PRODUCTS = {"numpy": ("project", "nearest", "adam", "subspace"), "sklearn": ("nearest", "subspace"), "faiss": ("nearest",)}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run_case(name: str, case: cases.Case, clock: Clock, only: list[str] | None) -> Row:
    ours = case.make_ours()
    row: Row = {"case": name, "ours_ms": None, "limit": "", "limit_share": None, "peers": {}, "error": ours.error,
                "peer_error": {}, "accuracy": case.accuracy, "note": case.note}
    series: list[Pairs] = []
    if case.timed and case.make_limit and not clock.wall and only is None:
        pairs = take_pairs(clock, ours, case.make_limit())
        row["limit"], row["limit_share"] = case.limit, pairs.ratio()
        series.append(pairs)
    for peer, make in case.peers.items():
        if only is not None and not peer.startswith(tuple(only)):
            continue
        other = make()
        row["peer_error"][peer] = other.error
        if case.timed:
            pairs = take_pairs(clock, ours, other)
            row["peers"][peer] = {"ms": statistics.median(pairs.other), "ratio": pairs.ratio(),
                                  "wall_ms": statistics.median(pairs.other_wall),
                                  "less_accurate": other.error is not None and other.error > case.accuracy}
            series.append(pairs)
        del other
    if series:
        row["ours_ms"] = statistics.median(t for pairs in series for t in pairs.ours)
        row["ours_wall_ms"] = statistics.median(t for pairs in series for t in pairs.ours_wall)
    return row


def run_cases(setting: cases.Setting, clock: Clock, only: list[str] | None = None) -> list[Row]:
    rows = []
    for name, make in cases.all_cases(setting).items():
        wanted = only is None or any(name.startswith(PRODUCTS[peer]) for peer in only)
        if options.case in name and wanted:
            say(f"{name} ...")
            rows.append(run_case(name, make(), clock, only))
    return rows


def run_child(core: str, peers: list[str]) -> list[Row]:
    """The same cases for peers whose OpenBLAS is told what core this is, in a process of its own, with ours again."""
    say(f"again with OPENBLAS_CORETYPE={core}: {', '.join(peers)}")
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "rows.json")
        command = [sys.executable, __file__, "--library", options.library, "--case", options.case, "--threads", options.threads,
                   "--json", file, "--peers", ",".join(peers), *(["--quick"] if options.quick else [])]
        subprocess.run(command, check=True, env={**os.environ, "OPENBLAS_CORETYPE": core}, stdout=subprocess.DEVNULL)
        with open(file, encoding="utf-8") as stream:
            rows: list[Row] = json.load(stream)["rows"]
            return rows


def merge(rows: list[Row], more: list[Row], core: str) -> None:
    by_case = {row["case"]: row for row in rows}
    for row in more:
        for key in ("peers", "peer_error"):
            by_case[row["case"]][key].update({f"{name} ({core})": value for name, value in row[key].items()})


def show(rows: list[Row], about: dict[str, Any]) -> None:
    timed = [row for row in rows if row["ours_ms"] is not None]
    exact = [row for row in rows if row["ours_ms"] is None]
    print("\n".join(f"{key}: {value}" for key, value in about.items()))
    if timed:
        print(f"\nHow many times slower the peers are, the fastest way of each\n\n{table.overview(timed)}")
        print(f"\nEvery peer (* less accurate, and no equal)\n\n{table.details(timed)}")
        for row in timed:
            if row["note"]:
                print(f"\n{row['case']}: {row['note']}")
    if exact:
        print(f"\nAccuracy of a subspace: sine of the largest principal angle\n\n{table.errors(exact)}")
    if timed:
        print(f"\nShort of what is wished for\n\n{table.shortfalls(timed)}")


def wrong(rows: list[Row]) -> list[str]:
    return [row["case"] for row in rows if row["error"] is None or not row["error"] <= row["accuracy"]]


def main() -> int:
    setting = cases.Setting(Library(options.library), threads=1 if threads == 1 else 0, quick=options.quick)
    clock = Clock(wall=threads > 1, pairs=5 if options.quick else 7)
    if options.list:
        print("\n".join(cases.all_cases(setting)))
        return 0
    environment.set_threads(threads)
    about = environment.describe(setting.library, threads)
    about["started"] = datetime.datetime.now().isoformat(sep=" ", timespec="minutes")
    about["load before"] = f"{os.getloadavg()[0]:.1f}"
    result: dict[str, Any] = {"environment": about, "rows": []}
    if options.slopes:
        result["slopes"] = slopes.measure(clock, setting)
        print(table.slopes(result["slopes"]))
    elif options.peers:
        result["rows"] = run_cases(setting, clock, options.peers.split(","))
    else:
        rows = result["rows"] = run_cases(setting, clock)
        core = environment.best_core()
        behind = [peer for peer in environment.peers_with_other_kernels(core)
                  if any(row["case"].startswith(PRODUCTS[peer]) for row in rows)]
        if core and behind:
            about["OpenBLAS again"] = f"OPENBLAS_CORETYPE={core} for {', '.join(behind)}"
            merge(rows, run_child(core, behind), core)
        show(rows, about)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as stream:
            json.dump(result, stream, indent=1)
    bad = wrong(result["rows"])
    if bad:
        say(f"wrong results: {', '.join(bad)}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
