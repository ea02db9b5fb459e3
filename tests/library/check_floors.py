#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The floors of isic: a file includes files of its own floor or of lower ones, and no include is circular.

  check_floors.py ROOT              check ROOT/include and ROOT/src
  check_floors.py ROOT --self-test  check that planted faults in a copy of them are found

Five floors: types, matrix, primitives, edits and updates, loop. The SIMD kernels stand between matrix and primitives. io/ and
cuda/ stand beside the floors: the floors do not include them.
"""
import pathlib
import re
import shutil
import tempfile

import report

# From the ground up, the subjects of each floor. <isic/subject.hpp> and its implementation <isic/detail/subject...> share one.
FLOORS = {
    "types": ["version", "types", "error", "execution"],
    "matrix": ["matrix"],
    "kernels": [],
    "primitives": ["differences", "harmfulness", "rank", "subspace", "codebook", "metrics", "lexicon"],
    "edits and updates": ["edit", "projection", "update", "fused"],
    "loop": ["generator", "loop"],
}
# Files of include/isic/detail whose name begins with no subject.
DETAIL = {
    "types": ["config", "byte_hash", "count_floor", "ema_workspace", "row_status", "score_error"],
    "matrix": ["checks", "eigen_view", "id_list", "rounding"],
    "kernels": ["row_blocks"],
    "primitives": ["gram_schmidt", "eigensolver", "moments"],
}
# Files of src/ that compile the implementation.
SOURCES = {"isic": "loop", "io": "io", "codebook": "kernels", "differences": "kernels", "projection": "kernels", "update": "kernels"}
ORDER = list(FLOORS)
BESIDE = {"io": "edits and updates", "cuda": "loop"}  # the highest floor that each may include
UMBRELLAS = {"include/isic/isic.hpp": r"include/isic/(?!cuda)(io/)?\w+\.hpp", "include/isic/cuda.hpp": r"include/isic/cuda/\w+\.hpp"}
SUFFIXES = {".hpp", ".cpp", ".cu", ".cuh"}

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*(?:<(isic/[^>]+)>|"([^"]+)")', re.MULTILINE)
# What a header appends where there is no library: the implementation of its own floor.
TAIL = re.compile(r"^#ifdef ISIC_HEADER_ONLY\n((?:#include <[^>]+>\n)+)#endif\n\Z", re.MULTILINE)


def floor_of(path):
    """The floor of a path below the root, "io" or "cuda"; None if it has none."""
    if match := re.fullmatch(r"src/(\w+)\.cpp", path):
        return SOURCES.get(match[1])
    if match := re.fullmatch(r"(?:include/isic/(?:detail/)?|src/)(io|cuda|kernels)/[\w-]+\.(?:hpp|cpp|cu|cuh)", path):
        return match[1]
    match = re.fullmatch(r"include/isic/(detail/)?(\w+?)(-inl)?\.hpp", path)
    if not match:
        return None
    detail, name = match[1], match[2]
    for floor in ORDER:
        if name in FLOORS[floor] or detail and name in DETAIL.get(floor, []):
            return floor
    subjects = [(subject, floor) for floor in ORDER for subject in FLOORS[floor] if detail and name.startswith(subject + "_")]
    return max(subjects, key=lambda pair: len(pair[0]))[1] if subjects else None


def may_include(floor, other):
    if floor in BESIDE:
        return other == floor or other in ORDER and ORDER.index(other) <= ORDER.index(BESIDE[floor])
    return other in ORDER and ORDER.index(other) <= ORDER.index(floor)


def resolve(root, path, angled, quoted):
    """The path below the root of an included file."""
    if angled:
        return "include/" + angled
    return (pathlib.PurePosixPath(path).parent / quoted).as_posix()


def circles(includes):
    """One line for every include that closes a circle."""
    found, state = [], {}

    def visit(path, trail):
        state[path] = "open"
        for other in includes.get(path, ()):
            if state.get(other) == "open":
                found.append(f"{path}: the includes are circular: {' -> '.join(trail[trail.index(other):] + [other])}")
            elif other not in state:
                visit(other, trail + [other])
        state[path] = "done"

    for path in includes:
        if path not in state:
            visit(path, [path])
    return found


def faults(root):
    """One line of text for every fault found."""
    found, includes = [], {}
    paths = sorted(p.relative_to(root).as_posix() for folder in ("include/isic", "src") for p in (root / folder).rglob("*")
                   if p.is_file() and p.name != "CMakeLists.txt")
    if not paths:
        return [f"no files in {root}"]
    for floor in ORDER:
        for subject in FLOORS[floor]:
            if f"include/isic/{subject}.hpp" not in paths:
                found.append(f"include/isic/{subject}.hpp: has a floor and does not exist")
    for path in paths:
        text = (root / path).read_text(encoding="utf-8")
        floor = "umbrella" if path in UMBRELLAS else floor_of(path)
        if floor is None or pathlib.PurePosixPath(path).suffix not in SUFFIXES:
            found.append(f"{path}: has no floor; give it one in tests/library/check_floors.py")
            continue
        tail = TAIL.search(text)
        includes[path] = []
        for match in INCLUDE.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            if match[2] and floor != "cuda":
                found.append(f'{path}:{line}: write <isic/...>, not "{match[2]}"')
                continue
            other = resolve(root, path, match[1], match[2])
            in_tail = tail is not None and match.start() >= tail.start()
            if not in_tail:
                includes[path].append(other)
            other_floor = "umbrella" if other in UMBRELLAS else floor_of(other)
            if other not in paths or other_floor is None:
                found.append(f"{path}:{line}: includes {other}, which has no floor or does not exist")
            elif in_tail and (other_floor != floor or not other.endswith("-inl.hpp")):
                found.append(f"{path}:{line}: appends {other}, which is not an implementation of its floor")
            elif other_floor == "umbrella" and path.startswith("src/") or floor == "umbrella":
                pass  # sources may begin with an umbrella, which includes all
            elif not may_include(floor, other_floor):
                found.append(f"{path}:{line}: {floor} includes {other} of {other_floor}")
    for umbrella, pattern in UMBRELLAS.items():
        for path in paths:
            if umbrella in paths and path not in UMBRELLAS and re.fullmatch(pattern, path) and path not in includes.get(umbrella, []):
                found.append(f"{umbrella}: does not include {path}")
    return found + circles(includes)


def self_test(root):
    """Plants one fault at a time; returns the number of faults that were not found."""

    def append(name, line):
        def plant(copy):
            path = copy / name
            path.write_text(path.read_text(encoding="utf-8").replace("#pragma once\n", f"#pragma once\n{line}\n", 1), encoding="utf-8")
        return plant

    def create(name, text="#pragma once\n"):
        def plant(copy):
            (copy / name).parent.mkdir(exist_ok=True)
            (copy / name).write_text(text, encoding="utf-8")
        return plant

    isic = "include/isic/"
    plants = [
        ("an upward include of a public header", append(isic + "error.hpp", "#include <isic/matrix.hpp>"), "types includes"),
        ("an upward include of an implementation", append(isic + "detail/subspace-inl.hpp", "#include <isic/projection.hpp>"), "primitives includes"),
        ("an upward include of a kernel", append(isic + "detail/kernels/parallel.hpp", "#include <isic/subspace.hpp>"), "kernels includes"),
        ("the loop in the projection", append(isic + "detail/projection-inl.hpp", "#  include <isic/loop.hpp>"), "edits and updates includes"),
        ("files in the loop", append(isic + "loop.hpp", "#include <isic/io/edit.hpp>"), "of io"),
        ("the loop in files", append(isic + "io/edit.hpp", "#include <isic/loop.hpp>"), "io includes"),
        ("a device in an update", append(isic + "update.hpp", "#include <isic/cuda/backend.hpp>"), "of cuda"),
        ("a circle on one floor", append(isic + "rank.hpp", "#include <isic/subspace.hpp>"), "circular"),
        ("a circle of a header and its details", append(isic + "edit.hpp", "#include <isic/detail/edit.hpp>"), "circular"),
        ("a quoted include", append(isic + "error.hpp", '#include "version.hpp"'), "write <isic/...>"),
        ("an include of nothing", append(isic + "error.hpp", "#include <isic/nowhere.hpp>"), "does not exist"),
        ("a header without a floor", create(isic + "attic.hpp"), "has no floor"),
        ("an implementation without a floor", create(isic + "detail/attic-inl.hpp"), "has no floor"),
        ("a source without a floor", create("src/attic.cpp", ""), "has no floor"),
        ("a header in another folder", create(isic + "attic/error.hpp"), "has no floor"),
        ("a floor without a header", lambda copy: (copy / isic / "lexicon.hpp").unlink(), "has a floor and does not exist"),
        ("a header that the umbrella lacks", create(isic + "isic.hpp"), f"does not include {isic}error.hpp"),
        ("a CUDA header that the umbrella lacks", create(isic + "cuda.hpp"), f"does not include {isic}cuda/backend.hpp"),
        ("the implementation of another header", lambda copy: (copy / isic / "rank.hpp").write_text(
            (copy / isic / "rank.hpp").read_text(encoding="utf-8").replace("detail/rank-inl.hpp", "detail/loop-inl.hpp"), encoding="utf-8"), "appends"),
    ]
    missed = 0
    with tempfile.TemporaryDirectory() as scratch:
        for number, (what, plant, message) in enumerate(plants):
            copy = pathlib.Path(scratch) / str(number)
            for folder in ("include", "src"):
                shutil.copytree(root / folder, copy / folder)
            before = set(faults(copy))
            plant(copy)
            caught = any(message in fault for fault in set(faults(copy)) - before)
            print(f"{'found ' if caught else 'MISSED'}  {what}")
            missed += not caught
    return missed


if __name__ == "__main__":
    report.main(__doc__, 1, faults, self_test)
