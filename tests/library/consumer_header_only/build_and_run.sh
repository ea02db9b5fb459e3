#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# build_and_run.sh INCLUDE_FOLDER RESULTS_OF_LIBRARY WORK_FOLDER INCLUDE_FLAGS COMPILER [FLAGS...]
#
# Copies include/ alone into a foreign tree, compiles two translation units and the program of results there, links and runs
# them, and compares the results with those of a program over the library at the same SIMD level, bit for bit. With flags that
# widen Eigen's vectors (-march=...) the float64 linear algebra rounds differently; the kernels do not.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
include=$1 library=$2 work=$3 include_flags=$4
shift 4
rm -rf "$work"
mkdir -p "$work/third_party"
cp -r "$include/isic" "$work/third_party/isic"
compiler="$* -std=c++20 -O1 -ffp-contract=off -pthread -DISIC_HEADER_ONLY -DFMT_HEADER_ONLY -I$work/third_party $include_flags"
$compiler -O0 -c "$here/two_units_a.cpp" -o "$work/a.o"
$compiler -O0 -c "$here/two_units_b.cpp" -o "$work/b.o"
$compiler "$work/a.o" "$work/b.o" -o "$work/two_units"
"$work/two_units"
$compiler "$here/results.cpp" -o "$work/results"
"$work/results" >"$work/results.txt"
level=$(sed -n 's/^simd //p' "$work/results.txt")
"$library" "$level" >"$work/library.txt"
case "$*" in
    *-march=*)
        for file in results library; do
            grep -v '^float64 ' "$work/$file.txt" >"$work/kernels.txt"
            mv "$work/kernels.txt" "$work/$file.txt"
        done
        ;;
esac
cmp "$work/results.txt" "$work/library.txt" || { diff "$work/results.txt" "$work/library.txt" | head -n 20; exit 1; }
echo "$(wc -l <"$work/results.txt") results at SIMD level $level equal the library's, bit for bit"
