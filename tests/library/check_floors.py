#!/usr/bin/env python3
"""The floors of include/isic: a header includes only headers of lower floors.

  check_floors.py INCLUDE_DIR              check the headers in INCLUDE_DIR/isic
  check_floors.py INCLUDE_DIR --self-test  check that planted faults in a copy of them are found
"""
import pathlib
import re
import shutil
import sys
import tempfile

# From the ground up. A new header gets its place here.
FLOORS = [
    ["version", "error", "kernels"],
    ["matrix"],
    ["backend", "io"],
    ["cpu", "safetensors", "npy", "cuda/layout", "cuda/backend"],
    ["differences", "codebook", "cuda/device_matrix"],
    ["rank", "patch", "cuda/codebook"],
    ["fit_options"],
    ["subspace", "harmfulness"],
    ["fit", "merge", "cuda/fit"],
    ["edit"],  # below projection, which returns one
    ["projection"],
    ["constraint", "cuda/projection"],
    ["update"],
    ["metrics", "rows", "cuda/update"],
    ["cuda/metrics", "cuda/rows"],
    ["generator", "lexicon"],
    ["loop"],
    ["format", "edit_file", "subspace_file", "cuda/loop"],
    ["cuda"],
    ["isic"],
]
FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names}

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*(?:<(isic/[^>]+)>|"([^"]+)")', re.MULTILINE)


def faults(include_dir):
    """One line of text for every fault found."""
    found = []
    folder = include_dir / "isic"
    headers = sorted(path for path in folder.rglob("*") if path.is_file())
    if not headers:
        return [f"no headers in {folder}"]
    included_by = {}
    for path in headers:
        shown = path.relative_to(include_dir).as_posix()
        name = path.relative_to(folder).with_suffix("").as_posix()
        if path.suffix != ".hpp" or name not in FLOOR_OF:
            found.append(f"{shown}: has no floor; give it one in tests/library/check_floors.py")
            continue
        text = path.read_text(encoding="utf-8")
        included = included_by[name] = set()
        for match in INCLUDE.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            if match.group(2):
                found.append(f'{shown}:{line}: write <isic/...>, not "{match.group(2)}"')
                continue
            other = match.group(1).removeprefix("isic/").removesuffix(".hpp")
            included.add(other)
            if not (folder / f"{other}.hpp").is_file() or other not in FLOOR_OF:
                found.append(f"{shown}:{line}: includes <{match.group(1)}>, which has no floor or does not exist")
            elif FLOOR_OF[other] >= FLOOR_OF[name]:
                found.append(f"{shown}:{line}: floor {FLOOR_OF[name]} includes <{match.group(1)}> "
                             f"of floor {FLOOR_OF[other]}")
    for umbrella, in_it in (("isic", lambda name: not name.startswith("cuda")), ("cuda", lambda name: name.startswith("cuda/"))):
        for name in sorted(filter(in_it, included_by.keys() - included_by.get(umbrella, included_by.keys()) - {umbrella})):
            found.append(f"isic/{umbrella}.hpp: does not include <isic/{name}.hpp>")
    return found


def self_test(include_dir):
    """Plants one fault at a time; returns the number of faults that were not found."""

    def append(name, line):
        return lambda folder: (folder / name).write_text((folder / name).read_text() + line, encoding="utf-8")

    plants = [
        ("an upward include", append("error.hpp", "\n#include <isic/matrix.hpp>\n"), "error.hpp", "of floor"),
        ("an include of the same floor", append("version.hpp", "\n#  include <isic/error.hpp>\n"), "version.hpp",
         "of floor"),
        ("a quoted include", append("error.hpp", '\n#include "version.hpp"\n'), "error.hpp", "write <isic/...>"),
        ("an include of nothing", append("error.hpp", "\n#include <isic/nowhere.hpp>\n"), "error.hpp",
         "does not exist"),
        ("an unknown header", lambda folder: (folder / "attic.hpp").write_text("#pragma once\n"), "attic.hpp",
         "has no floor"),
        ("a header in a sub-folder",
         lambda folder: ((folder / "deep").mkdir(), (folder / "deep" / "error.hpp").write_text("#pragma once\n")),
         "deep/error.hpp", "has no floor"),
    ]
    if (include_dir / "isic" / "isic.hpp").is_file():
        plants.append(("a header the umbrella lacks",
                       lambda folder: (folder / "isic.hpp").write_text("#pragma once\n"), "isic.hpp",
                       "does not include <isic/error.hpp>"))
    if (include_dir / "isic" / "cuda.hpp").is_file():
        plants.append(("a CUDA header the umbrella lacks",
                       lambda folder: (folder / "cuda.hpp").write_text("#pragma once\n"), "cuda.hpp",
                       "does not include <isic/cuda/backend.hpp>"))
    missed = 0
    for what, plant, where, message in plants:
        with tempfile.TemporaryDirectory() as scratch:
            copy = pathlib.Path(scratch)
            shutil.copytree(include_dir / "isic", copy / "isic")
            if faults(copy):
                continue  # the plain test already tells
            plant(copy / "isic")
            caught = any(where in fault and message in fault for fault in faults(copy))
        print(f"{'found ' if caught else 'MISSED'}  {what}")
        missed += not caught
    return missed


def main():
    arguments = sys.argv[1:]
    planted = "--self-test" in arguments
    if planted:
        arguments.remove("--self-test")
    if len(arguments) != 1:
        sys.exit(__doc__)
    include_dir = pathlib.Path(arguments[0])
    if planted:
        sys.exit(1 if self_test(include_dir) else 0)
    found = faults(include_dir)
    for fault in found:
        print(fault)
    print(f"{len(found)} faults in {include_dir}/isic")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
