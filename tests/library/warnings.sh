#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# warnings.sh ALL INCLUDE_FLAGS INCLUDE_FOLDER SOURCE
#
# Compiles SOURCE over the headers as non-system headers, over the library and header-only, with every warning an error.
# ALL = 1: with each of g++ and clang++ 14 to 19 that is installed, as C++20 and C++23; else with g++ and clang++ as C++20.
set -eu
all=$1 include_flags=$2 include=$3 source=$4
warnings="-Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror"
compilers="g++ clang++"
standards="c++20"
if [ "$all" = 1 ]; then
    compilers="$compilers clang++-14 clang++-15 clang++-16 clang++-17 clang++-18 clang++-19"
    standards="c++20 c++2b"
fi
count=0
for compiler in $compilers; do
    command -v "$compiler" >/dev/null 2>&1 || continue
    for standard in $standards; do
        for mode in "" "-DISIC_HEADER_ONLY"; do
            # shellcheck disable=SC2086  # the flags are words
            "$compiler" -std=$standard -O0 -fsyntax-only $warnings $mode -I"$include" $include_flags "$source" ||
                { echo "$compiler -std=$standard $mode warns"; exit 1; }
            count=$((count + 1))
        done
    done
done
echo "$count compilations without a warning"
