#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs what isic needs to be built and tested, if it is missing. May be run again and again.
#
#   scripts/setup.sh        everything: the library, the demo, the tests
#   scripts/setup.sh demo   only what the demo needs
#   scripts/setup.sh bench  only what the benchmarks need
#
# Debian and Ubuntu: by apt-get, as root or through sudo. Elsewhere it says what is missing.
set -euo pipefail

what=${1:-all}
case "$what" in
    all | demo | bench) ;;
    *)
        echo "usage: scripts/setup.sh [all|demo|bench]" >&2
        exit 2
        ;;
esac

has_command() { command -v "$1" >/dev/null 2>&1; }

has_cmake() {
    has_command cmake || return 1
    local version
    version=$(cmake --version | sed -n '1s/[^0-9]*\([0-9.]*\).*/\1/p')
    [ "$(printf '%s\n' 3.25 "$version" | sort -V | head -n 1)" = 3.25 ]
}

# Eigen's headers are in a folder of their own.
has_header() {
    local compiler
    for compiler in g++ clang++ c++; do
        if has_command "$compiler"; then
            echo "#include <$1>" | "$compiler" -std=c++20 -x c++ -E -I/usr/include/eigen3 -I/usr/local/include/eigen3 \
                -o /dev/null - >/dev/null 2>&1
            return
        fi
    done
    return 1
}

# A program compiled and linked with clang++'s address sanitizer.
has_clang_sanitizers() {
    local out works=1
    out=$(mktemp -d)
    echo 'int main() {}' | clang++ -fsanitize=address,undefined -x c++ - -o "$out/program" 2>/dev/null && works=0
    rm -rf "$out"
    return "$works"
}

has_venv() { python3 -c 'import ensurepip, venv' >/dev/null 2>&1; }

has_python_headers() { python3 -c 'import os, sysconfig; open(os.path.join(sysconfig.get_path("include"), "Python.h"))' >/dev/null 2>&1; }

has_chromium() { has_command chromium || has_command chromium-browser || has_command google-chrome; }

# name | Debian package | test | where to get it elsewhere
needs='
CMake 3.25 or later|cmake|has_cmake|https://cmake.org
Ninja|ninja-build|has_command ninja|https://ninja-build.org
a C++20 compiler, g++ 12 or later|g++|has_command g++|https://gcc.gnu.org
Eigen 3.4 or later|libeigen3-dev|has_header Eigen/Core|https://eigen.tuxfamily.org
{fmt} 8 or later|libfmt-dev|has_header fmt/format.h|https://fmt.dev
xxHash 0.8 or later|libxxhash-dev|has_header xxhash.h|https://github.com/Cyan4973/xxHash
Highway 1.0 or later|libhwy-dev|has_header hwy/highway.h|https://github.com/google/highway
nlohmann-json 3.9 or later|nlohmann-json3-dev|has_header nlohmann/json.hpp|https://json.nlohmann.me
'
if [ "$what" != bench ]; then
    needs+='
CLI11 2|libcli11-dev|has_header CLI/CLI.hpp|https://github.com/CLIUtils/CLI11
stb|libstb-dev|has_header stb/stb_image_write.h|https://github.com/nothings/stb
'
fi
if [ "$what" != demo ]; then
    needs+='
Python 3.9 or later|python3|has_command python3|https://www.python.org
its venv|python3-venv|has_venv|https://docs.python.org/3/library/venv.html
'
fi
if [ "$what" = bench ]; then
    needs+='
Google Benchmark|libbenchmark-dev|has_header benchmark/benchmark.h|https://github.com/google/benchmark
'
fi
if [ "$what" = all ]; then
    needs+='
clang++ 14 or later|clang|has_command clang++|https://clang.llvm.org
the sanitizers of clang++|libclang-rt-dev|has_clang_sanitizers|https://compiler-rt.llvm.org
pkg-config|pkg-config|has_command pkg-config|https://www.freedesktop.org/wiki/Software/pkg-config
doctest 2.4 or later|doctest-dev|has_header doctest/doctest.h|https://github.com/doctest/doctest
its headers|python3-dev|has_python_headers|https://www.python.org
Chromium|chromium|has_chromium|https://www.chromium.org
Doxygen 1.9 or later|doxygen|has_command doxygen|https://www.doxygen.nl
'
fi

missing=()
packages=()
look() {
    missing=()
    packages=()
    local name package probe url
    while IFS='|' read -r name package probe url; do
        [ -n "$name" ] || continue
        if ! $probe; then
            missing+=("$name (Debian: $package; $url)")
            packages+=("$package")
        fi
    done <<<"$needs"
}

tell_and_stop() {
    echo "scripts/setup.sh: $1. Missing:" >&2
    printf '  %s\n' "${missing[@]}" >&2
    echo "On Debian or Ubuntu: apt-get install ${packages[*]}" >&2
    exit 1
}

look
if [ "${#missing[@]}" -eq 0 ]; then
    exit 0
fi

has_command apt-get || tell_and_stop "there is no apt-get here"
as_root=()
if [ "$(id -u)" -ne 0 ]; then
    has_command sudo || tell_and_stop "installing needs root, and there is no sudo"
    as_root=(sudo)
fi
export DEBIAN_FRONTEND=noninteractive
apt() { "${as_root[@]}" apt-get -o DPkg::Lock::Timeout=300 "$@" >&2; }

echo "scripts/setup.sh: installing ${packages[*]}" >&2
apt update -qq || tell_and_stop "apt-get update failed"
apt install -y -qq --no-install-recommends "${packages[@]}" || tell_and_stop "apt-get install failed"
look
if [ "${#missing[@]}" -ne 0 ]; then
    tell_and_stop "still not there after apt-get install"
fi
