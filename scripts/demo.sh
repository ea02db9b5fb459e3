#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds the emoji demo for this machine and runs it; the arguments go to the demo. Try: scripts/demo.sh --help
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=$root/build/demo

"$root/scripts/setup.sh" demo
generator=()
if [ ! -f "$build/CMakeCache.txt" ]; then
    generator=(-G Ninja)
fi
# -O2 is as fast as -O3 here, and compiled sooner. Only the demo speaks on standard output.
{
    cmake -S "$root" -B "$build" "${generator[@]}" -Wno-dev --log-level=WARNING \
        -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_FLAGS_RELEASE="-O2 -DNDEBUG" -DISIC_NATIVE=ON -DISIC_EXAMPLES=ON -DISIC_TESTS=OFF
    cmake --build "$build" --parallel "$(nproc)" --target isic_emoji_demo
} >&2
exec "$build/examples/isic_emoji_demo" "$@"
