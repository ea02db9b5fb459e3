# SPDX-License-Identifier: Apache-2.0
"""The command line of the checks in this folder: CHECK ARGUMENTS... FOLDER [--self-test]."""

import pathlib
import sys


def main(usage, count, faults, self_test):
    """Prints what faults(*arguments) finds, or runs self_test(*arguments), which returns how many plants were missed; exits."""
    arguments = [a for a in sys.argv[1:] if a != "--self-test"]
    if len(arguments) != count:
        sys.exit(usage)
    arguments[-1] = pathlib.Path(arguments[-1])
    if "--self-test" in sys.argv:
        sys.exit(1 if self_test(*arguments) else 0)
    found = faults(*arguments)
    for fault in found:
        print(fault)
    print(f"{len(found)} faults in {arguments[-1]}")
    sys.exit(1 if found else 0)
