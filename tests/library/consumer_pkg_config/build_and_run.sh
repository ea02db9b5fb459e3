#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# build_and_run.sh COMPILER PKG_CONFIG FOLDER_OF_ISIC_PC WORK_FOLDER
set -eu
here=$(cd "$(dirname "$0")" && pwd)
PKG_CONFIG_PATH="$3${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH}"
export PKG_CONFIG_PATH
mkdir -p "$4"
flags=$("$2" --cflags --libs isic)
# eval, because pkg-config quotes a folder whose name has a space
eval "set -- \"\$1\" \"\$4\" $flags"
compiler=$1 work=$2
shift 2
"$compiler" -std=c++20 -O1 "$here/../consumer.cpp" "$@" -o "$work/consumer"
"$work/consumer"
