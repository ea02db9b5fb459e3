#!/usr/bin/env bash
# Builds isic for this machine and times it beside numpy, torch, FAISS, scikit-learn and Eigen (docs/performance.md).
#
#   scripts/bench.sh                     all cases, tens of minutes
#   scripts/bench.sh --quick             smaller cases, within five minutes once it is built
#   scripts/bench.sh --case nearest      only cases whose name has this; --list prints the names
#   scripts/bench.sh --slopes            how the times grow with the sizes
#   scripts/bench.sh --json rows.json    writes the rows too
#
# --help: all options. Only the tables go to standard output. The kernels alone: build/bench/benchmarks/isic_bench_kernels
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=$root/build/bench
venv=$root/build/bench-venv

"$root/scripts/setup.sh" bench
generator=()
if [ ! -f "$build/CMakeCache.txt" ]; then
    generator=(-G Ninja)
fi
{
    cmake -S "$root" -B "$build" "${generator[@]}" -Wno-dev --log-level=WARNING -DCMAKE_BUILD_TYPE=Release \
        -DISIC_BENCHMARKS=ON -DISIC_TESTS=OFF -DISIC_EXAMPLES=OFF
    cmake --build "$build" --parallel "$(nproc)" --target isic_bench_peers isic_bench_kernels
    if [ ! -x "$venv/bin/python" ]; then
        python3 -m venv "$venv"
    fi
    # pinned: a bare torch brings gigabytes of CUDA
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
        torch==2.13.0 numpy scikit-learn faiss-cpu threadpoolctl
} >&2
exec "$venv/bin/python" "$root/benchmarks/peers/bench.py" --library "$build/benchmarks/libisic_bench_peers.so" "$@"
