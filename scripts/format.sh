#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Formats the sources in place: clang-format over C++ and CUDA, ruff's safe repairs over Python, the licence line where it is missing.
# A second run changes nothing. `scripts/lint.sh format ruff licence` checks the same and changes nothing.
#
#   scripts/format.sh           all sources
#   scripts/format.sh FILE...   only these C++ and CUDA sources, by clang-format alone
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/sources.sh
. scripts/sources.sh
bin=build/lint/venv/bin

scripts/lint.sh --fetch
if [ $# -gt 0 ]; then
    "$bin/clang-format" -i "$@"
    exit
fi
sources cpp hpp cu cuh py pyi sh cmake CMakeLists.txt | xargs -0 python3 scripts/licence.py --fix
for _ in 1 2; do  # it aligns some comments in a second run
    sources cpp hpp cu cuh | xargs -0 -P "$(nproc)" -n 32 "$bin/clang-format" -i
done
"$bin/ruff" check --quiet --cache-dir build/lint/ruff --fix-only .
