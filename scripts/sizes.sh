#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Prints what isic costs a consumer, as a Markdown table for docs/performance.md: user time of the compiler in seconds, and bytes.
#
#   scripts/sizes.sh [COMPILER]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
compiler=${1:-g++}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
eigen=${EIGEN_INCLUDE:-/usr/include/eigen3}
TIMEFORMAT=%U

echo 'int main() {}' >"$work/nothing.cpp"
printf '#include <isic/isic.hpp>\nint main() {}\n' >"$work/include.cpp"
printf '#include <Eigen/Dense>\nint main() {}\n' >"$work/eigen.cpp"

# The command's own output must not mix with the time, so it goes to a file, which is shown if the command fails.
seconds() { { time "$@" >"$work/log" 2>&1; } 2>&1 || { cat "$work/log" >&2; return 1; }; }
compile() { seconds "$compiler" -std=c++20 "$@" -c -o "$work/out.o"; }
row() { printf '| %s | %s | %s |\n' "$1" "$2" "${3:-}"; }

printf '%s\n\n' "$("$compiler" --version | head -n 1)"
echo '| what | seconds | bytes |'
echo '| --- | ---: | ---: |'
time=$(compile -O0 "$work/nothing.cpp")
row 'an empty program, -O0' "$time"
time=$(compile -O0 -Iinclude "$work/include.cpp")
# shellcheck disable=SC2016  # the backticks are Markdown's
row '`#include <isic/isic.hpp>`, -O0' "$time"
time=$(compile -O0 -isystem "$eigen" "$work/eigen.cpp")
# shellcheck disable=SC2016
row '`#include <Eigen/Dense>`, for comparison, -O0' "$time"
time=$(compile -O0 -DISIC_HEADER_ONLY -Iinclude -isystem "$eigen" "$work/include.cpp")
row 'header-only translation unit, -O0' "$time"
time=$(compile -O2 -DISIC_HEADER_ONLY -ffp-contract=off -Iinclude -isystem "$eigen" tests/library/everything.cpp)
row 'header-only translation unit with every function in use, -O2' "$time" "$(stat -c %s "$work/out.o")"
for kind in static shared; do
    shared=OFF
    if [ "$kind" = shared ]; then shared=ON; fi
    # Without a compiler cache, which would be timed instead.
    cmake -S . -B "$work/$kind" -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_COMPILER="$compiler" -DCMAKE_CXX_COMPILER_LAUNCHER= \
        -DBUILD_SHARED_LIBS=$shared -DISIC_TESTS=OFF -DISIC_EXAMPLES=OFF -DISIC_INSTALL=OFF >/dev/null
    time=$(seconds cmake --build "$work/$kind" --target isic)
    library=$(find "$work/$kind/src" -name libisic.a -o -name 'libisic.so.*.*.*')
    strip -g "$library"
    row "the $kind library, all instruction sets" "$time" "$(stat -c %s "$library")"
done
time=$(compile -O2 -Iinclude tests/library/consumer.cpp)
"$compiler" -std=c++20 -O2 -Iinclude tests/library/consumer.cpp "$work/static/src/libisic.a" -pthread -s -o "$work/consumer"
row 'a program that projects one codebook, static, stripped' "$time" "$(stat -c %s "$work/consumer")"
