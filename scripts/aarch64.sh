#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds isic and the tests of its kernels for 64-bit ARM and runs them under qemu, with NEON. Needs a Debian or Ubuntu; installs
# the cross compiler and qemu-user where they are missing. Takes minutes. Skipped, with a reason, where they cannot be installed.
#
#   scripts/aarch64.sh                  all kernel tests
#   scripts/aarch64.sh fused_test       these tests only
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=$root/build/aarch64
headers=$build/include
tests=(row_kernels_test search_kernels_test fused_test)
if [ $# -gt 0 ]; then
    tests=("$@")
fi

skip() {
    echo "scripts/aarch64.sh: skipped: $1"
    exit 0
}

install_tools() {
    command -v aarch64-linux-gnu-g++ >/dev/null && command -v qemu-aarch64 >/dev/null && return
    command -v apt-get >/dev/null || skip "aarch64-linux-gnu-g++ and qemu-aarch64 are not installed, and there is no apt-get"
    local sudo=
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || skip "aarch64-linux-gnu-g++ and qemu-aarch64 are not installed, and this user is not root"
        sudo=sudo
    fi
    $sudo apt-get update -qq >&2 || skip "apt-get update failed"
    $sudo apt-get install -y -qq g++-aarch64-linux-gnu qemu-user >&2 || skip "apt-get cannot install g++-aarch64-linux-gnu and qemu-user"
}

# Links the header-only dependencies into one folder: /usr/include itself holds the C library of the host.
link_headers() {
    rm -rf "$headers"
    mkdir -p "$headers"
    local header place
    for header in Eigen/Core fmt/format.h hwy/highway.h xxhash.h nlohmann/json.hpp doctest/doctest.h; do
        for place in /usr/include/eigen3 /usr/include /usr/local/include/eigen3 /usr/local/include; do
            if [ -f "$place/$header" ]; then
                ln -s "$place/${header%%/*}" "$headers/"
                continue 2
            fi
        done
        skip "$header is not installed; scripts/setup.sh installs what the tests need"
    done
}

install_tools
link_headers
cmake -S "$root" -B "$build" -G Ninja --toolchain "$root/cmake/aarch64-linux-gnu.cmake" \
    -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_FLAGS_RELEASE="-O1 -DNDEBUG" \
    -DISIC_DEPS_DIR="$headers" -DISIC_TESTS=ON -DISIC_LIBRARY_TESTS=OFF -DISIC_EXAMPLES=OFF -DISIC_INSTALL=OFF >"$build/configure.log"
cmake --build "$build" --target "${tests[@]}" >"$build/build.log" || {
    tail -n 40 "$build/build.log" >&2
    exit 1
}

failed=0
for test in "${tests[@]}"; do
    echo "$test, aarch64:"
    qemu-aarch64 -L /usr/aarch64-linux-gnu "$build/tests/$test" || failed=1
done
exit $failed
