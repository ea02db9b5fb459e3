#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""No kernel spills registers, has a stack frame or uses local memory, by the word of ptxas.

  check_spills.py compile NVCC ARGUMENT...       runs nvcc -Xptxas -v; what ptxas reports is kept in OBJECT.ptxas
  check_spills.py check OBJECT...                a table of the kernels in those objects; fails if one uses local memory
  check_spills.py self-test NVCC SOURCE          compiles SOURCE, whose kernels with_* use local memory, and wants just these found
"""
import dataclasses
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

START = re.compile(r"Compiling entry function '(\S+)' for '(\w+)'")
FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
LOCAL = re.compile(r"(\d+) bytes lmem")
REGISTERS = re.compile(r"Used (\d+) registers")
SHARED = re.compile(r"(\d+) bytes smem")


@dataclasses.dataclass
class Kernel:
    name: str
    target: str
    registers: int = -1
    shared: int = 0
    stack: int = -1
    spilled: int = 0
    local: int = 0

    def complete(self):
        return self.registers >= 0 and self.stack >= 0

    def clean(self):
        return self.complete() and self.stack == self.spilled == self.local == 0


def kernels_of(report):
    """The kernels that ptxas speaks of. A function that a kernel calls counts as the kernel's."""
    found = []
    for line in report.splitlines():
        start = START.search(line)
        if start:
            found.append(Kernel(*start.groups()))
        if not found:
            continue
        kernel = found[-1]
        for match in FRAME.finditer(line):
            stack, stores, loads = map(int, match.groups())
            kernel.stack = max(kernel.stack, stack)
            kernel.spilled += stores + loads
        for match in LOCAL.finditer(line):
            kernel.local += int(match.group(1))
        for match in REGISTERS.finditer(line):
            kernel.registers = int(match.group(1))
        for match in SHARED.finditer(line):
            kernel.shared = int(match.group(1))
    return found


def from_ptxas(line):
    return line.startswith("ptxas info") or FRAME.search(line) is not None


def report_path(command):
    """OBJECT.ptxas of a compiler's arguments, None if they name no output."""
    return pathlib.Path(command[command.index("-o") + 1] + ".ptxas") if "-o" in command[:-1] else None


def compile_and_keep(command):
    kept = report_path(command)
    if kept:
        kept.unlink(missing_ok=True)
    done = subprocess.run(command, check=False, stderr=subprocess.PIPE, text=True)
    lines = done.stderr.splitlines(keepends=True)
    sys.stderr.write("".join(line for line in lines if not from_ptxas(line)))
    if kept and done.returncode == 0:
        kept.write_text("".join(line for line in lines if from_ptxas(line)), encoding="utf-8")
    return done.returncode


def readable(names):
    """Names as in the source, where there is a c++filt."""
    if not names or not shutil.which("c++filt"):
        return names
    shown = subprocess.run(["c++filt", "-p"], input="\n".join(names), stdout=subprocess.PIPE, text=True, check=True).stdout
    return shown.splitlines()


def check(objects):
    kernels, bad = [], 0
    for name in objects:
        path = pathlib.Path(name + ".ptxas")
        if not path.is_file():
            print(f"{path} is missing: nvcc did not run through this script, or failed")
            return 1
        kernels += kernels_of(path.read_text(encoding="utf-8"))
    if not kernels:
        print(f"ptxas reported no kernel in {len(objects)} objects")
        return 1
    print("registers  shared   stack  spilled   local  target  kernel")
    for kernel, name in zip(kernels, readable([k.name for k in kernels])):
        verdict = "" if kernel.clean() else "   <- uses local memory" if kernel.complete() else "   <- not reported in full"
        bad += not kernel.clean()
        print(f"{kernel.registers:9} {kernel.shared:7} {kernel.stack:7} {kernel.spilled:8} {kernel.local:7}  {kernel.target:6}  {name}{verdict}")
    print(f"{len(kernels)} kernels, {bad} of them with local memory")
    return 1 if bad else 0


def self_test(nvcc, source):
    with tempfile.TemporaryDirectory() as folder:
        built = str(pathlib.Path(folder) / "planted.o")
        if compile_and_keep([nvcc, "-O3", "-arch=sm_90", "-Xptxas", "-v", "-c", source, "-o", built]) != 0:
            return 1
        report = pathlib.Path(built + ".ptxas")
        kernels = {re.sub(r"^_Z\d+(\w*?)P.*", r"\1", k.name): k for k in kernels_of(report.read_text(encoding="utf-8"))}
        print("\n".join(map(str, kernels.values())))
        wrong = [name for name, kernel in kernels.items() if kernel.clean() == name.startswith("with_")]
        expected = set(re.findall(r"\b(\w+)\(float\*", pathlib.Path(source).read_text(encoding="utf-8")))
        faults = [f"{name} is judged wrongly" for name in wrong]
        if set(kernels) != expected:
            faults.append(f"kernels found: {sorted(kernels)}, not {sorted(expected)}")
        if not any(k.spilled for k in kernels.values()) or not any(k.stack and not k.spilled for k in kernels.values()):
            faults.append("the planted kernels do not both spill and have a stack frame")
        if check([built]) == 0:
            faults.append("planted spills pass")
        report.write_text("")
        if check([built]) == 0:
            faults.append("an empty report passes")
        report.unlink()
        if check([built]) == 0:
            faults.append("a missing report passes")
    print("\n".join(faults) or "every planted fault is found")
    return 1 if faults else 0


def main(arguments):
    if len(arguments) >= 2 and arguments[0] == "compile":
        return compile_and_keep(arguments[1:])
    if len(arguments) >= 2 and arguments[0] == "check":
        return check(arguments[1:])
    if len(arguments) == 3 and arguments[0] == "self-test":
        return self_test(*arguments[1:])
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
