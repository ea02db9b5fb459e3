# SPDX-License-Identifier: Apache-2.0
"""check_lists.py ROOT: every source that CMake must build is named in one of its lists, which no pattern makes."""

import pathlib
import re
import sys

root = pathlib.Path(sys.argv[1])
# pattern of sources | file that lists them
LISTED = [
    ("src/*.cpp", "src/CMakeLists.txt"),
    ("src/cuda/*.cpp", "src/cuda/CMakeLists.txt"),
    ("src/cuda/*.cu", "src/cuda/CMakeLists.txt"),
    ("bindings/native/*.cpp", "bindings/native/CMakeLists.txt"),
    ("bindings/native/cuda/*.cpp", "bindings/native/CMakeLists.txt"),
    ("examples/*.cpp", "examples/CMakeLists.txt"),
    ("examples/emoji/*.cpp", "examples/CMakeLists.txt"),
    ("tests/*_test.cpp", "tests/CMakeLists.txt"),
    ("tests/io/*_test.cpp", "tests/CMakeLists.txt"),
    ("tests/library/must_not_compile/*.cpp", "tests/library/CMakeLists.txt"),
    ("include/isic/*.hpp", "tests/library/CMakeLists.txt"),
    ("include/isic/io/*.hpp", "tests/library/CMakeLists.txt"),
]
ELSEWHERE = {"examples/gpu.cpp", "include/isic/cuda.hpp"}  # of the CUDA part

faults = []
for pattern, where in LISTED:
    words = set(re.findall(r"[\w/]+", (root / where).read_text(encoding="utf-8")))
    for source in sorted(root.glob(pattern)):
        name = source.stem.removesuffix("_test") if source.stem.endswith("_test") else source.stem
        names = {name, f"{source.parent.name}/{name}"}
        if str(source.relative_to(root)) not in ELSEWHERE and not names & words:
            faults.append(f"{source.relative_to(root)} is not in a list of {where}")
for path in root.rglob("CMakeLists.txt"):
    if "build" not in path.parts and re.search(r"file\(GLOB", path.read_text(encoding="utf-8")):
        faults.append(f"{path.relative_to(root)} makes a list by pattern")
if faults:
    sys.exit("\n".join(faults))
print("every source is in a list")
