#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# conan.sh CHECKOUT WORK_FOLDER PYTHON COMPILER: `conan create` of the recipe and its test package, without a remote.
# Exit status 77: Conan could not be installed.
set -euo pipefail

isic=$1 work=$2 python=$3
export CXX=$4 CONAN_HOME=$2/home
conan=$work/venv/bin/conan
case "$(basename "$CXX")" in
    *clang*) export CC=${CXX/clang++/clang} ;;
    *g++*) export CC=${CXX/g++/gcc} ;;
esac
mkdir -p "$work"

if ! "$conan" --version >/dev/null 2>&1; then
    "$python" -m venv "$work/venv"
    if ! "$work/venv/bin/python" -m pip --quiet --disable-pip-version-check install conan==2.34.0 >"$work/pip.log" 2>&1; then
        echo "[isic] SKIPPED packaging.conan: Conan could not be installed, $work/pip.log says why"
        exit 77
    fi
fi
"$conan" remote disable '*'
"$conan" profile detect --force >/dev/null 2>&1

# Neither optimised nor for several levels of vector instructions: whether it builds is what is asked.
"$conan" create "$isic/packaging/conan" -s compiler.cppstd=20 -s build_type=Debug \
    -c "tools.build:cxxflags=['-O0', '-g0', '-DHWY_COMPILE_ONLY_STATIC']" -c tools.cmake.cmaketoolchain:generator=Ninja \
    -c tools.cmake.cmaketoolchain:user_presets= -c "tools.cmake.cmake_layout:test_folder=$work/test_package"
"$conan" remove --confirm isic
