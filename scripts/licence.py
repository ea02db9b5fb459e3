#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The licence line at the top of every source.

  licence.py FILE...        names the files that do not begin with it, after a shebang if they have one
  licence.py --fix FILE...  writes it there
"""
import pathlib
import re
import sys

LINE = "SPDX-License-Identifier: Apache-2.0"
ANY_LICENCE = re.compile(r"\s*(//|#)\s*SPDX-License-Identifier:")


def line_of(path):
    """The licence as a comment of the file's language."""
    return ("// " if path.suffix in {".cpp", ".hpp", ".cu", ".cuh"} else "# ") + LINE


def place_of(path, lines):
    """Index in lines where the licence stands or belongs: below a shebang and what must follow it at once."""
    place = 1 if lines and lines[0].startswith("#!") else 0
    if path.suffix == ".sh" and len(lines) > place and lines[place].startswith("# shellcheck shell="):
        place += 1
    return place


def fix(path, lines, place):
    if place < len(lines) and ANY_LICENCE.match(lines[place]):
        sys.exit(f"{path}: has another licence; this is not for a program to change")
    path.write_bytes("".join([*lines[:place], line_of(path) + "\n", *lines[place:]]).encode())


def main():
    repair = sys.argv[1:2] == ["--fix"]
    paths = [pathlib.Path(name) for name in sys.argv[2 if repair else 1:]]
    if not paths:
        sys.exit(__doc__)
    missing = 0
    for path in paths:
        lines = path.read_bytes().decode().splitlines(keepends=True)
        place = place_of(path, lines)
        if place < len(lines) and lines[place].rstrip("\r\n") == line_of(path):
            continue
        if repair:
            fix(path, lines, place)
        else:
            print(f"{path}:{place + 1}: expected {line_of(path)!r}")
            missing += 1
    print(f"{missing} of {len(paths)} files lack the licence line" if not repair else f"{len(paths)} files have the licence line")
    sys.exit(1 if missing else 0)


if __name__ == "__main__":
    main()
