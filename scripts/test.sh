#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# shellcheck disable=SC2317,SC2329  # the parts are called by name
# Everything that must pass before a change goes in. All it builds is under build/.
#
#   scripts/test.sh                 all parts
#   scripts/test.sh gcc sanitize    only these parts
#
# Two parts run at a time; each line says which part it comes from, and build/test-logs/ has each part's log.
#
# Parts: size      no tracked file is larger than 6.2 MB
#        gcc       g++, optimised: unit tests, library tests, examples
#        sanitize  clang++ with the address and undefined-behaviour sanitizers: unit tests
#        docs      every public name is documented; the documentation builds without a warning
#        lint      formatting, static analysis, spelling, workflows, licence lines: scripts/lint.sh
#        python    the package, built as a wheel from the sdist and installed alone: pytest, mypy
#        header    not by default: the C++ suite over the header-only library, for this machine's instructions; every compiler's warnings
#        aarch64   not by default: the kernel tests for AArch64, under qemu
#        cuda      where nvcc is: the CUDA backend and isic.cuda over a stand-in, sanitized; no kernel spills; on a GPU too if there is one
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
parts=(size sanitize gcc python cuda lint docs)  # the longest first
# Two parts share the processors. More compilers than processors would take a third longer: they fight over the caches.
share=2
if [ $# -eq 1 ]; then
    share=1
fi
jobs=${ISIC_TEST_JOBS:-$((($(nproc) + share - 1) / share))}
export ISIC_TEST_JOBS=$jobs CMAKE_BUILD_PARALLEL_LEVEL=$jobs

# A fifth of a compiler's time is spent on keeping its memory below 128 MB.
gcc_flags=--param=ggc-min-heapsize=1048576
# The virtual environments are installed without byte code, which every test that starts a program would compile anew.
unset PYTHONDONTWRITEBYTECODE
export PYTHONPYCACHEPREFIX=$root/build/test-bytecode

if command -v ccache >/dev/null 2>&1; then
    export CMAKE_CXX_COMPILER_LAUNCHER=${CMAKE_CXX_COMPILER_LAUNCHER-ccache}
    export CMAKE_CUDA_COMPILER_LAUNCHER=${CMAKE_CUDA_COMPILER_LAUNCHER-ccache}
fi

# configure BUILD PRESET OPTIONS...
configure() {
    local build=$1 preset=$2
    shift 2
    cmake --preset "$preset" -B "$build" -DISIC_WERROR=ON "$@"
}

# run_tests BUILD CTEST_OPTIONS...
# The unit tests' own summary is shown, whether they pass or not; of the rest only what fails.
run_tests() {
    local build=$1 status=0
    shift
    ctest --test-dir "$build" --parallel "$jobs" --output-on-failure --no-tests=error "$@" || status=$?
    grep -aE '^\[doctest\] (test cases|assertions):' "$build/Testing/Temporary/LastTest.log" ||
        { echo "the unit tests came to no end"; status=1; }
    return "$status"
}

# Where the gcc part's tests install isic; the python part's libtorch program takes it from there, if it is there in time.
installed=$root/build/test-gcc/tests/library/stage/moved

part_size() {
    local limit=6200000 bad=0 count=0 file size
    if ! git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
        echo "not a git work tree: nothing is tracked"
        return
    fi
    while IFS= read -r -d '' file; do
        [ -f "$file" ] || continue
        count=$((count + 1))
        size=$(stat -c %s -- "$file")
        if [ "$size" -gt "$limit" ]; then
            echo "$file: $size bytes, more than $limit"
            bad=1
        fi
    done < <(git ls-files -z)
    echo "$count tracked files, limit $limit bytes each"
    return "$bad"
}

# The parts gcc and cuda share a build, one at a time. The tests are not optimised, the library is: compiling takes longer
# than running.
configure_gcc() {
    mkdir -p build/test-gcc
    exec 9>build/test-gcc/lock
    flock 9
    configure build/test-gcc release -DCMAKE_CXX_COMPILER=g++ -DCMAKE_CXX_FLAGS="$gcc_flags" \
        -DCMAKE_CXX_FLAGS_RELEASE="-O0 -DNDEBUG" "$@"
}

part_gcc() {
    configure_gcc -DISIC_CUDA=OFF -DISIC_PYTHON=OFF -DISIC_BENCHMARKS=OFF -DISIC_SANITIZE=
    # the emoji demo's program is compiled for the wheel, its parts for the tests
    cmake --build build/test-gcc --target isic_tests
    run_tests build/test-gcc
}

part_header() {
    configure build/test-header release -DISIC_CUDA=OFF -DISIC_PYTHON=OFF -DISIC_BENCHMARKS=OFF -DISIC_WERROR=OFF -DISIC_ALL_COMPILERS=ON
    cmake --build build/test-header --target isic_tests_header_only
    build/test-header/tests/isic_tests_header_only
    ctest --test-dir build/test-header --output-on-failure --no-tests=error -R 'library\.(results|consumer_header_only|warnings)'
}

part_aarch64() {
    scripts/aarch64.sh
}

# Without the examples, which are programs of their own and would be neither sanitized nor new. -O0: without line numbers, a
# fifth of the time; what is undefined ends the program where it is, which compiles in four fifths of the time that saying what
# it is would take: `cmake --preset sanitize` makes a build that says it.
part_sanitize() {
    configure build/test-sanitize sanitize -DISIC_EXAMPLES=OFF -DCMAKE_CXX_FLAGS_DEBUG=-O0 \
        -DCMAKE_CXX_FLAGS=-fsanitize-trap=undefined
    cmake --build build/test-sanitize --target isic_tests
    ASAN_OPTIONS=handle_sigill=1 run_tests build/test-sanitize
}

part_docs() {
    mkdir -p build/docs
    doxygen Doxyfile
    echo "every public name is documented"
}

fetch_lint() {
    scripts/lint.sh --fetch
}

part_lint() {
    fetch_for lint
    scripts/lint.sh
}

# fetch_for PART: what the part takes from a package index, once per run. It is begun when the run begins: most of the time goes
# into waiting.
fetch_for() {
    exec 8>"build/test-logs/$1.fetching"
    flock 8
    if [ ! -e "build/test-logs/$1.fetched" ]; then
        "fetch_$1"
        touch "build/test-logs/$1.fetched"
    fi
    exec 8>&-
}

pip_install() {  # VENV ARGUMENTS...
    "$1/bin/python" -m pip --quiet --disable-pip-version-check install --no-compile "${@:2}"
}

fetch_python() {
    python3 -m venv build/test-python/venv
    # all that the wheel's extras name, and torch of one version: a later one brings gigabytes of CUDA
    local extras='
try:
    import tomllib
except ImportError:  # before Python 3.11
    from pip._vendor import tomli as tomllib
p = tomllib.load(open("pyproject.toml", "rb"))["project"]
print(*p["dependencies"], *p["optional-dependencies"]["test"], *p["optional-dependencies"]["transformers"], sep="\n")'
    build/test-python/venv/bin/python -c "$extras" >build/test-python/requirements.txt
    pip_install build/test-python/venv -r build/test-python/requirements.txt torch==2.13.0 transformers==5.23.0 \
        vector-quantize-pytorch==1.32.0 build scikit-build-core
}

# python -m build makes the sdist, and the wheel from it. Tests run outside the source tree, on what was installed.
part_python() {
    local here=build/test-python venv=build/test-python/venv
    rm -rf "$here/dist"
    mkdir -p "$here"
    fetch_for python
    CXX=g++ CXXFLAGS=$gcc_flags "$venv/bin/python" -m build --outdir "$here/dist" \
        -C cmake.define.ISIC_WERROR=ON -C cmake.define.ISIC_CUDA=OFF .
    local wheel=("$here"/dist/isic-*.whl)
    pip_install "$venv" --force-reinstall --no-deps "${wheel[0]}"
    pip_install "$venv" "${wheel[0]}[test,transformers]"
    (cd "$here" && isic_ROOT=$installed OMP_NUM_THREADS=1 venv/bin/python -m pytest -c ../../pyproject.toml --rootdir ../.. ../../tests/python)
}

nvcc_of_this_machine() {
    local place
    for place in "${CUDACXX:-}" "$(command -v nvcc || true)" "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc"; do
        if [ -x "$place" ]; then
            echo "$place"
            return
        fi
    done
}

# cuBLAS and cuSOLVER are NVIDIA's wheels, of the versions that belong to CUDA 13.0.
fetch_cuda() {
    if [ -z "$(nvcc_of_this_machine)" ]; then
        return
    fi
    python3 -m venv build/test-cuda-venv
    pip_install build/test-cuda-venv nvidia-cublas==13.1.0.3 nvidia-cusolver==12.0.4.66 nvidia-cusparse==12.6.3.3 \
        nvidia-nvjitlink==13.0.88 pybind11 pytest numpy ml_dtypes
}

# What runs over the stand-in is sanitized, the kernels for the GPU are compiled as they are shipped. The GPU tests say
# themselves why they are skipped.
part_cuda() {
    local nvcc venv=build/test-cuda-venv
    nvcc=$(nvcc_of_this_machine)
    if [ -z "$nvcc" ]; then
        echo "skipped: no nvcc"
        return
    fi
    fetch_for cuda
    CUDACXX=$nvcc configure_gcc -DISIC_CUDA=ON -DISIC_PYTHON=ON -DISIC_BENCHMARKS=ON -DISIC_SANITIZE=address,undefined \
        -DISIC_CUDA_WHEELS="$root/$venv" -DCMAKE_CUDA_ARCHITECTURES="80-real;90" -DPython_EXECUTABLE="$root/$venv/bin/python" \
        -Dpybind11_DIR="$("$venv/bin/python" -m pybind11 --cmakedir)"
    cmake --build build/test-gcc --target isic_cuda_programs isic_cuda_race_tests
    run_tests build/test-gcc -L cuda
    grep -ah '^\[isic\] SKIPPED' build/test-gcc/Testing/Temporary/LastTest.log || true
}

# Each part runs in a shell of its own, where the first failing command ends it.
if [ "${1:-}" = --part ]; then
    mkdir -p build/test-logs
    "part_$2"
    exit
fi
if [ "${1:-}" = --fetch ]; then
    for part in "${@:2}"; do
        fetch_for "$part"
    done
    exit
fi

if [ $# -gt 0 ]; then
    parts+=(header aarch64)
    for part in "$@"; do
        if [[ " ${parts[*]} " != *" $part "* ]]; then
            echo "scripts/test.sh: no part is called $part; there are: ${parts[*]}" >&2
            exit 2
        fi
    done
    parts=("$@")
fi

scripts/setup.sh
logs=build/test-logs
mkdir -p "$logs"
rm -rf "$logs"/*.result "$logs"/*.fetched "$installed"

# Each part in a process group of its own, so that one interrupt ends them all.
set -m
interrupted() {
    local group
    trap - INT TERM
    for group in $(jobs -rp); do
        kill -TERM -- "-$group"
    done
    exit 130
}
trap interrupted INT TERM

run_part() {
    local part=$1 start=$SECONDS result=passed
    "${BASH_SOURCE[0]}" --part "$part" 2>&1 | tee "$logs/$part.log" | sed -u "s/^/$part: /" || result=FAILED
    echo "$part: $result in $((SECONDS - start)) s" | tee "$logs/$part.result"
}

fetched=()
for part in "${parts[@]}"; do
    if declare -F "fetch_$part" >/dev/null; then
        fetched+=("$part")
    fi
done
"${BASH_SOURCE[0]}" --fetch "${fetched[@]}" >"$logs/fetch.log" 2>&1 &
fetch=$!

for part in "${parts[@]}"; do
    while [ "$(jobs -rp | grep -cvx "$fetch")" -ge 2 ]; do
        wait -n || true
    done
    run_part "$part" &
done
wait

verdict=0
echo "== summary"
for part in "${parts[@]}"; do
    cat "$logs/$part.result"
    grep -q ": passed in" "$logs/$part.result" || verdict=1
    # the test runners' own last words
    grep -aE '^[0-9]+% tests passed|^\[doctest\] (test cases|assertions):|^=+ [0-9]+ (passed|failed).* =+$|^lint [a-z]+: |^skipped: |^\[isic\] SKIPPED' "$logs/$part.log" | uniq | sed 's/^/    /' ||
        true
done
echo "all in $SECONDS s"
exit "$verdict"
