#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What <isic/isic.hpp> costs a consumer: no third-party header, and only the standard headers of the list below.

  check_includes.py COMPILER INCLUDE_DIR              check COMPILER -M of <isic/isic.hpp>
  check_includes.py COMPILER INCLUDE_DIR --self-test  check that planted includes are found
"""
import pathlib
import re
import subprocess
import tempfile

import report

# Of these <filesystem>, <functional>, <memory>, <map> and <memory_resource> cost the most. <ranges>, <algorithm>, <iostream>,
# <random>, <regex>, <thread> and <chrono> would add up to half of the total.
STANDARD = {
    "array", "bit", "concepts", "cstddef", "cstdint", "cstring", "filesystem", "functional", "initializer_list",
    "iterator", "limits", "map", "memory", "memory_resource", "new", "optional", "span", "stdexcept", "string",
    "string_view", "type_traits", "utility", "vector",
}
THIRD_PARTY = re.compile(r"/(Eigen|eigen3|unsupported|fmt|hwy|nlohmann|xxhash\.h|pybind11|torch|cuda[a-z_]*\.h)(/|$)", re.IGNORECASE)
DIRECT = re.compile(r"^[ \t]*#[ \t]*include[ \t]*[<\"]([^>\"]+)[>\"]", re.MULTILINE)


def faults(compiler, include_dir):
    """One line of text for every fault found."""
    unit = "#include <isic/isic.hpp>\n"
    rule = subprocess.run([compiler, "-x", "c++", "-std=c++20", "-M", "-I", str(include_dir), "-"], input=unit, check=True,
                          capture_output=True, text=True).stdout
    files = rule.replace("\\\n", " ").split()[1:]
    found = [f"isic.hpp includes {name}" for name in files if THIRD_PARTY.search(name)]
    for name in files:
        path = pathlib.Path(name)
        if "isic" in path.parts and path.is_relative_to(include_dir):
            text = re.sub(r"^#ifdef ISIC_HEADER_ONLY\n(?:#include .*\n)+#endif\n", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
            found += [f"{path.relative_to(include_dir)}: includes <{other}>" for other in DIRECT.findall(text)
                      if not other.startswith("isic/") and other not in STANDARD]
    return found


def self_test(compiler, include_dir):
    """Plants one include at a time; returns the number of those that were not found."""
    missed = 0
    for header, message in (("Eigen/Core", "Eigen"), ("fmt/format.h", "fmt"), ("hwy/highway.h", "hwy"), ("nlohmann/json.hpp", "nlohmann"),
                            ("ranges", "<ranges>"), ("iostream", "<iostream>")):
        with tempfile.TemporaryDirectory() as scratch:
            copy = pathlib.Path(scratch)
            for path in (include_dir / "isic").rglob("*.hpp"):
                to = copy / path.relative_to(include_dir)
                to.parent.mkdir(parents=True, exist_ok=True)
                to.write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
            (copy / header).parent.mkdir(parents=True, exist_ok=True)
            if "/" in header:  # a stand-in, as the machine may lack the package
                (copy / header).write_text("#pragma once\n", encoding="utf-8")
            planted = copy / "isic" / "rank.hpp"
            planted.write_text(planted.read_text(encoding="utf-8").replace("#pragma once\n", f"#pragma once\n#include <{header}>\n", 1),
                               encoding="utf-8")
            caught = any(message in fault for fault in faults(compiler, copy))
        print(f"{'found ' if caught else 'MISSED'}  <{header}>")
        missed += not caught
    return missed


if __name__ == "__main__":
    report.main(__doc__, 2, faults, self_test)
