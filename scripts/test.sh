#!/usr/bin/env bash
# shellcheck disable=SC2317  # the parts are called by name
# Everything that must pass before a change goes in. All it builds is under build/.
#
#   scripts/test.sh                 all parts
#   scripts/test.sh gcc sanitize    only these parts
#
# Parts: size      no tracked file is larger than 6.2 MB
#        gcc       g++, optimised: unit tests, library tests, examples
#        sanitize  clang++ with the address and undefined-behaviour sanitizers: unit tests, examples
#        docs      every public name is documented
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
jobs=$(nproc)
export CMAKE_BUILD_PARALLEL_LEVEL=$jobs
parts=(size gcc sanitize docs)

if command -v ccache >/dev/null 2>&1; then
    export CMAKE_CXX_COMPILER_LAUNCHER=${CMAKE_CXX_COMPILER_LAUNCHER-ccache}
fi

# configure_and_build PRESET OPTIONS...: into build/test-PRESET
configure_and_build() {
    local preset=$1 build=build/test-$1
    shift
    cmake --preset "$preset" -B "$build" -DISIC_WERROR=ON "$@"
    cmake --build "$build"
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
    configure_and_build release -DCMAKE_CXX_COMPILER=g++ -DCMAKE_CXX_FLAGS_RELEASE="-O1 -DNDEBUG"
    run_tests release
}

part_sanitize() {
    configure_and_build sanitize
    run_tests sanitize
}

part_docs() {
    mkdir -p build/docs
    doxygen Doxyfile
    echo "every public name is documented"
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
verdict=0
results=()
for part in "${parts[@]}"; do
    echo "== $part"
    start=$SECONDS
    result=passed
    if ! "${BASH_SOURCE[0]}" --part "$part" 2>&1 | tee "$logs/$part.log"; then
        result=FAILED
        verdict=1
    fi
    results+=("$part|$result|$((SECONDS - start))")
done

echo "== summary"
for entry in "${results[@]}"; do
    IFS='|' read -r part result seconds <<<"$entry"
    echo "$part: $result in $seconds s"
    # the test runners' own last words
    grep -aE '^[0-9]+% tests passed|^\[doctest\] (test cases|assertions):' "$logs/$part.log" | uniq | sed 's/^/    /' ||
        true
done
exit "$verdict"
