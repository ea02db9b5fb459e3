#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Packs the headers that isic's build needs (Eigen, fmt, Highway, xxHash, nlohmann-json, doctest) into .gpu-deps/include, which git
# ignores, to take them to a machine without those packages: there, configure with -DISIC_DEPS_DIR=.gpu-deps/include. scripts/gpu.sh
# does.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
packed=$root/.gpu-deps/include
rm -rf "$packed"
mkdir -p "$packed"
for header in Eigen/Core fmt/format.h hwy/highway.h xxhash.h nlohmann/json.hpp doctest/doctest.h; do
    for place in /usr/include/eigen3 /usr/include /usr/local/include/eigen3 /usr/local/include; do
        if [ -f "$place/$header" ]; then
            cp -R "$place/${header%%/*}" "$packed/"
            continue 2
        fi
    done
    echo "scripts/gpu-deps.sh: $header is not installed; scripts/setup.sh installs what the tests need" >&2
    exit 1
done
du -sh "$packed"
