#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# shellcheck disable=SC2317,SC2329  # the steps are called by name
# Everything that needs a GPU, in one go: builds, runs the tests, compute-sanitizer and the benchmarks; the table comes last.
#
#   scripts/gpu-deps.sh    first, where Eigen, fmt, Highway, xxHash, nlohmann-json and doctest are installed, if they are not on the GPU machine
#   scripts/gpu.sh         on the GPU machine: needs nvcc, CMake, g++, cuBLAS and cuSOLVER (docs/gpu.md)
#
# Here a test that is skipped has failed. Settings: OUT, the folder for logs and figures (build/gpu/out); DEADLINE, seconds for
# everything (560); ARCH, CMAKE_CUDA_ARCHITECTURES (the card's own). Fails if a step that must pass fails or has no time left.
set -uo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
export OUT=${OUT:-$PWD/build/gpu/out} BUILD=$PWD/build/gpu DEADLINE=${DEADLINE:-560}
export ISIC_REQUIRE_GPU=1 PYTHONUNBUFFERED=1
export PATH=$PATH:${CUDA_HOME:-/usr/local/cuda}/bin
mkdir -p "$OUT" "$BUILD"
rm -f "$OUT"/*.jsonl
: >"$OUT/log.txt"

if [ -z "${ARCH:-}" ]; then
    ARCH=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1 | tr -d '. ')
    ARCH=${ARCH:-90}-real
fi
export ARCH

steps=()
failed=0

# step NAME SECONDS must|may COMMAND...: what must pass fails the whole; 77 means skipped, which must does not allow either.
step() {
    local name=$1 limit=$2 kind=$3 start=$SECONDS left=$((DEADLINE - SECONDS)) status=0 verdict=passed
    shift 3
    if [ "$left" -lt 5 ]; then
        verdict="no time left"
        status=124
    else
        timeout -k 5 "$((limit < left ? limit : left))" bash -c '"$@"' step "$@" >"$BUILD/step.log" 2>&1 || status=$?
        { echo "##### $name: exit status $status"; cat "$BUILD/step.log"; } >>"$OUT/log.txt"
        case $status in
            0) ;;
            77) verdict=skipped ;;
            124 | 137) verdict="out of time" ;;
            *) verdict="failed ($status)" ;;
        esac
    fi
    steps+=("$(printf '%-16s %-4s %4d s  %s' "$name" "$kind" $((SECONDS - start)) "$verdict")")
    echo "${steps[-1]}"
    [ "$status" -eq 0 ] && return
    [ "$kind" = must ] && failed=$((failed + 1))
    [ "$verdict" = "no time left" ] || tail -n 25 "$BUILD/step.log" | sed 's/^/    /'
    return "$status"
}

finish() {
    echo "== steps, $SECONDS s in all; the log is $OUT/log.txt"
    printf '%s\n' "${steps[@]}"
    timeout 10 python3 benchmarks/cuda/table.py "$OUT/bench.jsonl" "$OUT/peers.jsonl" 2>&1 | tee "$OUT/table.txt"
    if [ "$failed" -gt 0 ]; then
        echo "GPU: FAILED, $failed steps"
        exit 1
    fi
    echo "GPU: passed"
    exit 0
}

environment() {
    nvidia-smi --query-gpu=name,compute_cap,driver_version,memory.total,memory.used,power.limit --format=csv
    nvcc --version | tail -n 2
    cmake --version | head -n 1
    g++ --version | head -n 1
    command -v compute-sanitizer cuobjdump ncu
    python3 -c '
import importlib
for name in "torch", "cupy", "numpy":
    try:
        print(name, importlib.import_module(name).__version__)
    except Exception as error:
        print(name, "is not usable:", error)'
}

# isic.cuda is built and tested, also with torch and CuPy, where pybind11, pytest, numpy and Python's headers are.
python_can_be_built() {
    python3 -c '
import os, sysconfig
import numpy, pybind11, pytest
open(os.path.join(sysconfig.get_path("include"), "Python.h")).close()'
}

# Warnings are no errors: the compiler here may have some that no other has.
configure() {
    local options=()
    if command -v ninja >/dev/null; then options+=(-G Ninja); fi
    if [ -d .gpu-deps/include ]; then options+=(-DISIC_DEPS_DIR=.gpu-deps/include); fi
    if python_can_be_built; then
        options+=(-DISIC_PYTHON=ON -DPython_EXECUTABLE="$(python3 -c 'import sys; print(sys.executable)')" -Dpybind11_DIR="$(python3 -m pybind11 --cmakedir)")
    fi
    cmake -S . -B "$BUILD" "${options[@]}" -DCMAKE_BUILD_TYPE=Release -DISIC_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES="$ARCH" \
        -DISIC_WERROR=OFF -DISIC_BENCHMARKS=ON -DISIC_EXAMPLES=OFF -DISIC_LIBRARY_TESTS=OFF
}

build() { cmake --build "$BUILD" --parallel "$(nproc)" --target isic_cuda_programs; }

# CTest calls it a success when everything was skipped.
tests() {
    ctest --test-dir "$BUILD" -L "$1" --no-tests=error --output-on-failure --output-junit "$OUT/tests-$1.xml" || return 1
    ! grep -q '<skipped' "$OUT/tests-$1.xml"
}

# sanitizer TOOL OPTIONS...: all but memcheck look at isic's kernels only, not at the libraries', which take a while to load.
sanitizer() {
    local tool=$1
    shift
    if [ "$tool" != memcheck ] && compute-sanitizer --help | grep -q -e --kernel-name; then set -- "$@" --kernel-name kns=isic; fi
    compute-sanitizer --tool "$tool" --launch-timeout 60 --report-api-errors no --error-exitcode 99 "$@" "$BUILD/tests/cuda/isic_cuda_gpu_tests"
}

bench() {
    local program=$BUILD/benchmarks/cuda/isic_cuda_bench
    if [ ! -x "$program" ]; then
        echo "no benchmark program was built"
        return 77
    fi
    "$program" >"$OUT/bench.jsonl"
}

peers() { PYTHONPATH=$BUILD/tests/cuda/python_gpu:${PYTHONPATH:-} python3 benchmarks/cuda/peers.py >"$OUT/peers.jsonl"; }  # isic.cuda too

export -f environment python_can_be_built configure build tests sanitizer bench peers

step environment 30 may environment
step configure 60 must configure || finish
python_can_be_built 2>/dev/null || steps+=("isic.cuda is not built: numpy, pybind11, pytest or Python's headers are not there")
step build 240 must build || finish
step cpu-tests 90 must tests cpu
step gpu-tests 120 must tests gpu
if command -v compute-sanitizer >/dev/null; then
    step memcheck 90 must sanitizer memcheck --leak-check full
    step racecheck 60 must sanitizer racecheck
else
    steps+=("compute-sanitizer is not installed")
fi
step bench 90 may bench
step peers 120 may peers
if command -v compute-sanitizer >/dev/null; then
    step synccheck 45 may sanitizer synccheck
    step initcheck 45 may sanitizer initcheck
fi
finish
