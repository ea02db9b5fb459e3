#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Plants bugs in the CUDA backend, one at a time, and checks that the tests over the stand-in fail.

  mutants.py BUILD_DIR            all; BUILD_DIR has been configured with -DISIC_CUDA=ON and built
  mutants.py BUILD_DIR 3 7        only these
  mutants.py BUILD_DIR barriers   every kernel without one of its barriers; the tests that are watched for races must notice

Each needs a build of one file and a run of the tests, about half a minute. Sources are put back in the end.
"""
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
SOURCES = ROOT / "src" / "cuda"

SLOW = "*every failing call*"  # run last

# what is wrong, file, text, text with the bug
MUTANTS = [
    ("dsyrk fills the other triangle", "subspace.cpp", "cublasDsyrk_v2(s->blas(), CUBLAS_FILL_MODE_LOWER", "cublasDsyrk_v2(s->blas(), CUBLAS_FILL_MODE_UPPER"),
    ("dsyrk of the transposed chunk", "subspace.cpp", "CUBLAS_FILL_MODE_LOWER, CUBLAS_OP_N, width, static_cast<int>(n), &one, chunk.data(), width",
     "CUBLAS_FILL_MODE_LOWER, CUBLAS_OP_T, width, static_cast<int>(n), &one, chunk.data(), width"),
    ("leading dimension of the chunk one short", "subspace.cpp", "static_cast<int>(n), &one, chunk.data(), width, &one",
     "static_cast<int>(n), &one, chunk.data(), width - 1, &one"),
    ("sums of parts of rows are not added up", "subspace.cpp", "out[at % static_cast<std::size_t>(d)] += out[at];", ""),
    ("sums are never cleared", "subspace.cpp", "        fill_bytes(*s, out.data(), 0, out.bytes());\n        return out;", "        return out;"),
    ("check flags are not read", "subspace.cpp", "    p.throw_if_flagged();\n    const std::size_t bytes", "    const std::size_t bytes"),
    ("the solver gets the accumulator's own memory", "subspace.cpp", "leading_eigenpairs(p.s, gram.data(), d, isic", "leading_eigenpairs(p.s, p.second.data(), d, isic"),
    ("the last chunk is dropped", "subspace.cpp", "for (index_t first = 0; first < harmful.rows; first += chunk_rows)",
     "for (index_t first = 0; first + chunk_rows <= harmful.rows; first += chunk_rows)"),
    ("a chunk starts at the wrong row", "subspace.cpp", "first * m.stride * isic::detail::size_of(m.type)", "first * m.cols * isic::detail::size_of(m.type)"),
    ("trace of the wrong diagonal", "subspace.cpp", "column_bytes(d + 1)", "column_bytes(d)"),
    ("syevd's workspace is one byte short", "eigensolver.cpp", "const scratch<std::byte> device_work(s, static_cast<index_t>(device_bytes));",
     "const scratch<std::byte> device_work(s, static_cast<index_t>(device_bytes) - 1);"),
    ("host workspace is null", "eigensolver.cpp", "device_work.data(), device_bytes, host_work.data(), host_bytes", "device_work.data(), device_bytes, nullptr, host_bytes"),
    ("host workspace dies before the work that uses it", "eigensolver.cpp", "    const wait_on_exit wait(*s);\n", ""),
    ("info is ignored", "eigensolver.cpp", "    check_device_info(*s, info, \"cusolverDnXsyevd\");\n", ""),
    ("smallest eigenvectors instead of largest", "eigensolver.cpp", "columns_to_host(*s, a, d, d - wanted, wanted)", "columns_to_host(*s, a, d, 0, wanted)"),
    ("ascending order forgotten", "eigensolver.cpp", "vectors.rowwise().reverse()};", "vectors};"),
    ("the upper triangle is garbage for gesvdj", "eigensolver.cpp",
     "    check(mirror_lower(a, d, s->stream()), caller, \"mirror_lower\");\n    const int n = as_int(d);", "    const int n = as_int(d);"),
    ("gesvdj's options leak", "eigensolver.cpp", "const unique_handle<gesvdjInfo_t, cusolverDnDestroyGesvdjInfo> options(raw);",
     "const std::unique_ptr<std::remove_pointer_t<gesvdjInfo_t>, void (*)(gesvdjInfo_t)> options(raw, [](gesvdjInfo_t) {});"),
    ("subspace iteration never converges early", "eigensolver.cpp", "residual <= 1e-12", "residual <= 1e-32"),
    ("columns are not made orthonormal", "eigensolver.cpp", "return scale.asDiagonal() * factor.matrixU().solve(identity);", "return scale.asDiagonal() * identity;"),
    ("a host pointer where a device pointer belongs", "runtime.hpp", "copy_to_device(*s, out.data(), host.size_bytes(), host.data()",
     "copy_on_device(*s, out.data(), host.size_bytes(), host.data()"),
    ("elements for bytes", "runtime.cpp", "check(cudaMemcpyAsync(to, from, width * rows, kind", "check(cudaMemcpyAsync(to, from, width * rows / 2, kind"),
    ("pitches swapped", "runtime.cpp", "cudaMemcpy2DAsync(to, to_pitch, from, from_pitch,", "cudaMemcpy2DAsync(to, from_pitch, from, to_pitch,"),
    ("the host reads before the copy is there", "runtime.cpp",
     "    copy(s, to, to_pitch, from, from_pitch, width, rows, cudaMemcpyDeviceToHost);\n    s.synchronize();", "    copy(s, to, to_pitch, from, from_pitch, width, rows, cudaMemcpyDeviceToHost);"),
    ("an upload does not wait", "runtime.cpp", "    s.synchronize();  // pinned memory would still be read\n", ""),
    ("memory is never freed", "runtime.cpp", "        owner_->release(data_, size_);\n", ""),
    ("a stream is made on the wrong device", "runtime.cpp", "        check(cudaSetDevice(device), \"cuda_backend\", \"cudaSetDevice\");\n", ""),
    ("the caller's stream is ignored", "runtime.cpp", "stream_ = static_cast<cudaStream_t>(*options.stream);",
     "check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), \"\", \"\"); own_stream_.reset(stream_);"),
    ("old rows are not kept for a failure", "projection.cpp", "        keep_old_rows();  // for a failure half-way, too\n",
     "        record_.before = buffer(s_, row_bytes(codes_) * static_cast<std::size_t>(codes_.rows));\n"),
    ("a failed edit is left half-done", "projection.cpp", "            restore_rows();\n", ""),
    ("undo takes any codebook", "projection.cpp", "require<value_error>(hash == record.hash_after,", "require<value_error>(hash != 1,"),
    ("padding may be chosen for a near-zero row", "projection.cpp", "return norms[at] > 0 && !is_padding[at];", "return norms[at] > 0;"),
    ("the projection forgets its second pass", "projection.cu", "if (a.weights == nullptr && strength == 1) {", "if (false) {"),
    ("a row that does not fit is written", "projection.cu", "        record_first(&a.flags->overflow, static_cast<std::uint64_t>(k));\n        return row_status::stays;",
     "        record_first(&a.flags->overflow, static_cast<std::uint64_t>(k));"),
    ("rows are read with the wrong stride", "projection.cu", "static_cast<const T*>(a.codes.data) + k * a.codes.stride;", "static_cast<const T*>(a.codes.data) + k * a.codes.cols;"),
    ("a warp's sum without its last step", "warp.cuh", "for (int step = warp_lanes / 2; step > 0; step /= 2)", "for (int step = warp_lanes / 2; step > 1; step /= 2)"),
    ("warps share their working memory", "projection.cu", "static_cast<index_t>(threadIdx.x) / warp_lanes * (2 * d + a.rank)", "static_cast<index_t>(threadIdx.x) / warp_lanes * d"),
    ("no wait for the coefficients", "warp.cuh", "            coefficients[j] = part;\n        }\n    }\n    __syncwarp();", "            coefficients[j] = part;\n        }\n    }"),
    ("half rounds twice", "warp.cuh", "return float_of(bits | 1U);", "return near;"),
    ("no barrier before the tile is read", "exact_search.cuh", "code + i : index_t{-1}; });\n            __syncthreads();", "code + i : index_t{-1}; });"),
    ("no barrier before the tile is overwritten", "exact_search.cuh", "add_squares(queries, codes, x, y, distance);\n            __syncthreads();", "add_squares(queries, codes, x, y, distance);"),
    ("ties go to the highest id", "exact_search.cuh", "(distance == than && id < than_id)", "(distance == than && id > than_id)"),
    ("codes past the last one win", "exact_search.cuh", "return k < l.codes.rows.rows && (", "return ("),
    ("ambiguous queries are searched in the first split only", "exact_search.cuh", "const index_t split = item % work.splits;", "const index_t split = 0;"),
    ("a query takes the first split's group", "exact_search.cuh", "            best.group = other.group;\n", ""),
    ("the second least of another split is forgotten", "exact_search.cuh",
     "best.second = fminf(fminf(best.second, other.second), fmaxf(best.least, other.least));", "best.second = fminf(best.second, other.second);"),
    ("every query counts as unambiguous", "exact_search.cuh", "static_cast<double>(best.least) > margin;", "static_cast<double>(best.least) >= 0;"),
    ("of a group the lowest id wins", "exact_search.cuh", "if (better(other, other_id, distance, id)) {", "if (other_id < id) {"),
    ("queries that are not finite are searched for", "exact_search.cuh", "} else if (margin != margin) {", "} else if (false) {"),
    ("the second least is the last least", "scores.cuh", "second = fminf(second, fmaxf(least, low));", "second = low < least ? least : second;"),
    ("the error of scores is a hundredth", "../../include/isic/detail/score_error.hpp", "return terms * (Rounding::unit * size", "return 0.01 * terms * (Rounding::unit * size"),
    ("scores that overflow are believed", "../../include/isic/detail/score_error.hpp", "if (!(size < largest_safe_score))", "if (false)"),
    ("a code lies in the other half of its panel", "scores.cuh", "(i % codes_per_group < 4 ? 0 : panel_rows / 2)", "(i % codes_per_group < 4 ? panel_rows / 2 : 0)"),
    ("padding is packed like any code", "scores.cuh", "const bool empty = k >= m.rows.rows || (skip != nullptr && skip[k] != 0);",
     "const bool empty = k >= m.rows.rows || (skip != nullptr && skip[k] > 1);"),
    ("no barrier before a panel is overwritten", "scores.cuh", "    __syncthreads();  // the previous panel has been read\n", ""),
    ("no barrier between the pieces of a panel", "scores.cuh", "            put_in(codes[1 - now], thread, next_code);\n        }\n        __syncthreads();",
     "            put_in(codes[1 - now], thread, next_code);\n        }"),
    ("the pieces of the query panel go on past its end", "scores.cuh", "query_panel[last_piece ? 0 : (at + 1) * threads_per_block]", "query_panel[(step + 1) * threads_per_block]"),
    ("the mean is taken off the codes only", "scores.cuh", "static_cast<float>(x.at[j] - static_cast<double>(center[c + j]))",
     "static_cast<float>(x.at[j] - (sign < 0 ? 0.0 : static_cast<double>(center[c + j])))"),
    ("a lane gives away the half that it keeps", "row_tile.cuh", "const A given = upper ? value[i] : value[i + half];", "const A given = upper ? value[i + half] : value[i];"),
    ("no wait for the tile's coefficients", "row_tile.cuh", ": A(0);\n        __syncwarp();", ": A(0);"),
    ("no barrier before a slab is overwritten", "row_tile.cuh", "        __syncthreads();  // the previous slab has been read\n", ""),
    ("a slab is staged once for all", "row_tile.cuh", "if (first == first_staged_) {", "if (first_staged_ >= 0) {"),
    ("unaligned rows are read in vectors", "row_tile.cuh", "if (Tile::only_aligned || is_aligned<typename Tile::arithmetic, T>(m)) {", "if (true) {"),
    ("vectors are written past the end of a row", "row_tile.cuh", "i < size && p * step + i < cols_; ++i) {\n                to[i]", "i < size; ++i) {\n                to[i]"),
    ("rows of strength 0 are written", "fused.cu", "moves[r] = strength_of(r) != 0;", "moves[r] = strength_of(r) != 2;"),
    ("the centre is forgotten", "fused.cu", "weight * (offsets[j] - product)", "weight * -product"),
    ("a step of Adam is not projected", "fused.cu", "        });\n        project_out_of(g);\n        add_steps(a.codes, g, free.may_move);\n    });\n}\n\n/// The new count",
     "        });\n        add_steps(a.codes, g, free.may_move);\n    });\n}\n\n/// The new count"),
    ("the state of locked rows goes on", "fused.cu", "if (free.may_move[r]) {\n                                    means.store",
     "if (free.may_move[r] || r >= 0) {\n                                    means.store"),
    ("locked rows move in inner loops", "fused.cu", "locked[first + r] == 0", "locked[first + r] <= 1"),
    ("the count is not decayed", "fused.cu", "const A count = a.decay * a.counts[k] +", "const A count = a.counts[k] +"),
    ("counts fade to denormals", "fused.cu", "return count < isic::detail::count_floor<A> ? A(0) : count;", "return count;"),
    ("counts of ema_update fade to denormals", "update.cu", "decayed < isic::detail::count_floor<double> ? 0.0 : decayed", "decayed"),
    ("Adam's moments are of the whole gradient", "update.cu", "    project_out(r.step, a.limits.orthogonal_to, r.coefficients);\n    bool any = false;", "    bool any = false;"),
    ("the step is not projected", "update.cu", "    project_out(r.step, a.limits.orthogonal_to, r.coefficients);\n    double old_square", "    double old_square"),
    ("locked rows move", "update.cu", "if (!moves || (a.limits.locked != nullptr && a.limits.locked[k] != 0))", "if (!moves)"),
    ("the last vector of a code is left out", "update.cu", "i < starts[k + 1]; ++i", "i + 1 < starts[k + 1]; ++i"),
    ("parts add up only the first warp", "metrics.cu", "for (int w = 0; w < warps_per_partial; ++w)", "for (int w = 0; w < 1; ++w)"),
]

# Planted where they cannot be seen, with the reason: the tests need not notice.
EQUIVALENT = {"a row that does not fit is written": "the edit fails of it, and puts the old rows back"}


BARRIER = re.compile(r"__sync(?:threads|warp)\(\);")


def listed(n):
    """What is wrong, the file, and its text with the bug."""
    what, name, text, bug = MUTANTS[n]
    path = SOURCES / name
    before = path.read_text()
    if before.count(text) < 1:
        sys.exit(f"{n}: {name} does not hold the text to replace: {text!r}")
    return what, path, before.replace(text, bug, 1)


def without_barriers():
    for path in sorted(SOURCES.glob("*.cu*")):
        text = path.read_text()
        for barrier in BARRIER.finditer(text):
            line = text.count("\n", 0, barrier.start()) + 1
            yield f"no {barrier.group()[:-1]} in {path.name}:{line}", path, text[: barrier.start()] + ";" + text[barrier.end() :]


def run(command):
    return subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)


def build_of(build, program):
    return run(["cmake", "--build", str(build), "--target", program]).returncode == 0


def noticed_by_tests(build):
    """How the tests noticed, or nothing."""
    if not build_of(build, "isic_cuda_stand_in_tests"):
        return "does not compile"
    for part in ("--test-case-exclude=" + SLOW, "--test-case=" + SLOW):
        try:
            tests = subprocess.run([str(build / "tests" / "cuda" / "isic_cuda_stand_in_tests"), "--abort-after=1", part], capture_output=True,
                                   text=True, errors="replace", check=False, timeout=300)
        except subprocess.TimeoutExpired:
            return "does not end"
        if tests.returncode != 0:
            break
    else:
        return ""
    text = tests.stdout + tests.stderr
    found = [line for line in text.splitlines() if "ERROR:" in line or "runtime error" in line or "SIGSEGV" in line]
    return found[0].strip()[-150:] if found else f"exit status {tests.returncode}"


def noticed_as_race(build):
    """The first race that is found, or nothing."""
    if not build_of(build, "isic_cuda_race_tests"):
        return "does not compile"
    with subprocess.Popen([str(build / "tests" / "cuda" / "isic_cuda_race_tests")], stdout=subprocess.PIPE, text=True, errors="replace") as tests:
        for line in tests.stdout:
            if ": race: " in line:
                tests.kill()
                return line.split(": race: ")[1].strip()
    return ""


def main():
    build = pathlib.Path(sys.argv[1]).resolve()
    if sys.argv[2:] == ["barriers"]:
        noticed, planted = noticed_as_race, list(without_barriers())
    else:
        noticed, planted = noticed_by_tests, [listed(n) for n in [int(n) for n in sys.argv[2:]] or range(len(MUTANTS))]
    if noticed(build):
        sys.exit("the tests fail before anything is planted")
    missed = 0
    for what, path, bug in planted:
        before = path.read_text()
        try:
            path.write_text(bug)
            how = noticed(build)
        finally:
            path.write_text(before)
        seen = how not in ("", "does not compile")
        verdict = "noticed" if seen else "equal  " if what in EQUIVALENT else "MISSED "
        missed += verdict == "MISSED "
        print(f"{verdict} {what}: {how or EQUIVALENT.get(what, '')}", flush=True)
    print(f"{len(planted)} planted, {missed} missed")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
