#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Puts benchmark results side by side: table.py FILE..., each with one JSON object a line (isic_cuda_bench, peers.py).

A line has `case` and `name`, and either `ms`, the median, with optional `error` (against float64) and `rate`, or `failed`.
`floor_ms`, where a line has it, is the least time that the device's memory or arithmetic allows by calculation.
"""
import json
import pathlib
import sys


def lines(paths):
    for path in map(pathlib.Path, paths):
        if not path.is_file():
            print(f"{path} is missing")
            continue
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                print(f"{path}: not JSON: {line[:80]}")


def main(paths):
    cases = {}
    for line in lines(paths):
        cases.setdefault(line["case"], []).append(line)
    print(f"{'case':28} {'by':28} {'ms':>9} {'x floor':>8} {'error':>9}  rate")
    for case, results in cases.items():
        floor = next((r["floor_ms"] for r in results if "floor_ms" in r), None)
        for r in sorted(results, key=lambda r: r.get("ms", float("inf"))):
            if "failed" in r:
                print(f"{case:28} {r['name']:28} {'failed':>9}  {r['failed'][:70]}")
                continue
            times = f"{r['ms'] / floor:.2f}" if floor else ""
            error = f"{r['error']:.1e}" if "error" in r else ""
            print(f"{case:28} {r['name']:28} {r['ms']:9.3f} {times:>8} {error:>9}  {r.get('rate', '')}")
    return 0 if cases else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
