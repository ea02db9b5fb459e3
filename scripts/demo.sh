#!/usr/bin/env bash
# Builds the emoji demo for this machine and runs it; the arguments go to the demo. Try: scripts/demo.sh --help
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=$root/build/demo

"$root/scripts/setup.sh" demo
generator=()
if [ ! -f "$build/CMakeCache.txt" ]; then
    generator=(-G Ninja)
fi
# Only the demo speaks on standard output.
{
    cmake -S "$root" -B "$build" "${generator[@]}" -Wno-dev --log-level=WARNING \
        -DCMAKE_BUILD_TYPE=Release -DISIC_NATIVE=ON -DISIC_EXAMPLES=ON -DISIC_TESTS=OFF
    cmake --build "$build" --parallel "$(nproc)" --target isic_emoji_demo
} >&2
exec "$build/examples/isic_emoji_demo" "$@"
