#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds isic for this machine and times it beside numpy, torch, FAISS, scikit-learn and Eigen (docs/performance.md).
#
#   scripts/bench.sh                     all cases, tens of minutes
#   scripts/bench.sh --quick             smaller cases, within five minutes once it is built
#   scripts/bench.sh --case nearest      only cases whose name has this; --list prints the names
#   scripts/bench.sh --slopes            how the times grow with the sizes
#   scripts/bench.sh --json rows.json    writes the rows too
#   scripts/bench.sh --emoji-loop        the emoji demo's loop beside the same with its networks in torch
#
# --help: all options. Only the tables go to standard output. The kernels alone: build/bench/benchmarks/isic_bench_kernels
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=$root/build/bench
venv=$root/build/bench-venv

torch=torch==2.13.0  # pinned: a bare torch brings gigabytes of CUDA

make_venv() {
    if [ ! -x "$venv/bin/python" ]; then
        python3 -m venv "$venv"
    fi
}

install() {
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
}

if [ "${1:-}" = --emoji-loop ]; then
    {
        "$root/scripts/demo.sh" --help >/dev/null  # builds it
        make_venv
        install "$torch" numpy pillow
        install "$root" -C cmake.define.ISIC_CUDA=OFF -C cmake.define.ISIC_PYTHON_DEMO=OFF
    } >&2
    exec "$venv/bin/python" "$root/benchmarks/peers/emoji_loop.py" --demo "$root/build/demo/examples/isic_emoji_demo" "${@:2}"
fi

"$root/scripts/setup.sh" bench
generator=()
if [ ! -f "$build/CMakeCache.txt" ]; then
    generator=(-G Ninja)
fi
{
    cmake -S "$root" -B "$build" "${generator[@]}" -Wno-dev --log-level=WARNING -DCMAKE_BUILD_TYPE=Release \
        -DISIC_BENCHMARKS=ON -DISIC_TESTS=OFF -DISIC_EXAMPLES=OFF
    cmake --build "$build" --parallel "$(nproc)" --target isic_bench_peers isic_bench_kernels
    make_venv
    install "$torch" numpy scikit-learn faiss-cpu threadpoolctl
} >&2
exec "$venv/bin/python" "$root/benchmarks/peers/bench.py" --library "$build/benchmarks/libisic_bench_peers.so" "$@"
