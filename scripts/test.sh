#!/usr/bin/env bash
# shellcheck disable=SC2317  # the parts are called by name
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
#        docs      every public name is documented
#        python    the package, built as a wheel from the sdist and installed alone: pytest, mypy
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
jobs=$(nproc)
export CMAKE_BUILD_PARALLEL_LEVEL=$jobs
parts=(size python gcc sanitize docs)

if command -v ccache >/dev/null 2>&1; then
    export CMAKE_CXX_COMPILER_LAUNCHER=${CMAKE_CXX_COMPILER_LAUNCHER-ccache}
fi

# configure PRESET OPTIONS...: into build/test-PRESET
configure() {
    local preset=$1
    shift
    cmake --preset "$preset" -B "build/test-$preset" -DISIC_WERROR=ON "$@"
}

# The unit tests' own summary is shown, whether they pass or not; of the rest only what fails.
run_tests() {
    local build=build/test-$1 status=0
    ctest --test-dir "$build" --parallel "$jobs" --output-on-failure --no-tests=error || status=$?
    grep -aE '^\[doctest\] (test cases|assertions):' "$build/Testing/Temporary/LastTest.log" ||
        { echo "the unit tests came to no end"; status=1; }
    return "$status"
}

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

# -O1: compiling takes longer than running.
part_gcc() {
    configure release -DCMAKE_CXX_COMPILER=g++ -DCMAKE_CXX_FLAGS_RELEASE="-O1 -DNDEBUG"
    cmake --build build/test-release
    run_tests release
}

# Without the examples, which are programs of their own and would be neither sanitized nor new.
part_sanitize() {
    configure sanitize -DISIC_EXAMPLES=OFF
    cmake --build build/test-sanitize --target isic_tests isic_heavy_tests
    run_tests sanitize
}

part_docs() {
    mkdir -p build/docs
    doxygen Doxyfile
    echo "every public name is documented"
}

# python -m build makes the sdist, and the wheel from it. Tests run outside the source tree, on what was installed.
part_python() {
    local here=build/test-python venv=build/test-python/venv
    rm -rf "$here/dist"
    mkdir -p "$here"
    python3 -m venv "$venv"
    local pip=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check)
    "${pip[@]}" torch==2.13.0 build  # pinned: a later torch brings gigabytes of CUDA
    "$venv/bin/python" -m build --outdir "$here/dist" .
    local wheel=("$here"/dist/isic-*.whl)
    "${pip[@]}" --force-reinstall --no-deps "${wheel[0]}"
    "${pip[@]}" "${wheel[0]}[test,transformers]" torch==2.13.0 transformers==5.23.0 vector-quantize-pytorch==1.32.0
    (cd "$here" && OMP_NUM_THREADS=1 venv/bin/python -m pytest -c ../../pyproject.toml --rootdir ../.. ../../tests/python)
}

# Each part runs in a shell of its own, where the first failing command ends it.
if [ "${1:-}" = --part ]; then
    "part_$2"
    exit
fi

if [ $# -gt 0 ]; then
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
rm -f "$logs"/*.result

run_part() {
    local part=$1 start=$SECONDS result=passed
    "${BASH_SOURCE[0]}" --part "$part" 2>&1 | tee "$logs/$part.log" | sed -u "s/^/$part: /" || result=FAILED
    echo "$part: $result in $((SECONDS - start)) s" | tee "$logs/$part.result"
}

for part in "${parts[@]}"; do
    while [ "$(jobs -rp | wc -l)" -ge 2 ]; do
        wait -n
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
    grep -aE '^[0-9]+% tests passed|^\[doctest\] (test cases|assertions):|^=+ [0-9]+ (passed|failed).* =+$' "$logs/$part.log" | uniq | sed 's/^/    /' ||
        true
done
echo "all in $SECONDS s"
exit "$verdict"
