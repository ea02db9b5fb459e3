# SPDX-License-Identifier: Apache-2.0
"""check_exports.py NM FOLDER: what the shared library under FOLDER exports is isic's; nothing of Eigen, fmt, Highway or JSON."""

import pathlib
import re
import subprocess
import sys

nm, folder = sys.argv[1:]
libraries = sorted(p for p in pathlib.Path(folder).rglob("libisic.so*") if not p.is_symlink())
if len(libraries) != 1:
    sys.exit(f"expected one libisic.so in {folder}, got {len(libraries)}")
output = subprocess.run([nm, "-DC", "--defined-only", libraries[0]], check=True, capture_output=True, text=True).stdout
symbols = [line.split(" ", 2)[1:] for line in output.splitlines()]
names = [name for _, name in symbols]
# Weak symbols are templates of the standard library, of default visibility in every shared library.
foreign = [name for kind, name in symbols if kind in "TDBRG" and not re.search(r"\bisic::", name)]
private = [name for kind, name in symbols if kind in "TDBRG" and re.search(r"\b(isic_eigen|Eigen|fmt|hwy|nlohmann)::", name)]
if foreign or private:
    sys.exit("exported, and not isic's interface:\n" + "\n".join((foreign + private)[:20]))
if not any("isic::v0::linked_version" in n for n in names):
    sys.exit("isic::v0::linked_version is not exported")
print(f"{len(names)} exported names, all isic's or the standard library's")
