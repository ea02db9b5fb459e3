#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The cases of isic_cuda_bench done by torch, by CuPy and by isic.cuda on the same device and numbers. One JSON object a line;
table.py shows them.

  peers.py           times everything on the CUDA device
  peers.py --small   smaller cases
  peers.py --cpu     tiny cases on the CPU, without CuPy and by isic's CPU functions: whether this script works

`ms` is the median of CUDA events, after warming up, of inputs that are rotated past the cache where the case is about memory.
`error` is relative to the same in float64 (Frobenius norm; of a subspace, the norm of the difference of the projectors; of
nearest codes, the largest excess of a squared distance). `floor_ms` is by this device's own measured rates: bytes by its
copies and multiply-adds by its float32 matrix product.
"""
import argparse
import contextlib
import functools
import json
import statistics
import time

import torch

RANK = 32


def emit(**line):
    print(json.dumps(line), flush=True)


class Isic:
    """The functions and classes of isic.cuda on torch's stream, or those of isic."""

    def __init__(self, device):
        import isic

        self.span_of = isic.span_of
        if device.type == "cuda":
            self._module, self._first = isic.cuda, [isic.cuda.Backend.of(torch.empty(1, device=device))]
        else:
            self._module, self._first = isic, []
        self.adam_state = self._module.fused.AdamState

    def __getattr__(self, name):
        """`fused_f` is fused.f."""
        module = self._module.fused if name.startswith("fused_") else self._module
        return functools.partial(getattr(module, name.removeprefix("fused_")), *self._first)


class Bench:
    def __init__(self, device):
        self.device = torch.device(device)
        self.cuda = self.device.type == "cuda"
        self.bytes_per_ms = self.flop_per_ms = None
        self.cupy = self.isic = None
        try:
            self.isic = Isic(self.device)
        except Exception as error:  # not built, or its libraries are not there
            emit(case="environment", name="isic", failed=f"{type(error).__name__}: {error}"[:200])
        if self.cuda:
            try:
                import cupy

                self.cupy = cupy
            except ImportError as error:
                emit(case="environment", name="cupy", failed=str(error))

    def synchronize(self):
        if self.cuda:
            torch.cuda.synchronize()

    def once(self, work):
        """Milliseconds."""
        if not self.cuda:
            start = time.perf_counter()
            work()
            return (time.perf_counter() - start) * 1e3
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        work()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)

    def median(self, work, budget_ms=500.0):
        for _ in range(2):
            work()
        self.synchronize()
        runs = int(budget_ms / max(1e-3, self.once(work)))
        return statistics.median(self.once(work) for _ in range(min(100, max(5, runs)) if self.cuda else 3))

    def floor(self, moved=0, flop=0):
        return max(moved / self.bytes_per_ms, flop / self.flop_per_ms)

    def run(self, case, name, work, error=None, **more):
        """Times work(); error(result), if given, is what the result is off by."""
        try:
            if error is not None:
                more["error"] = float(error(work()))
            emit(case=case, name=name, ms=self.median(work), **more)
        except Exception as failure:  # out of memory, or not there in this version: the other lines still count
            emit(case=case, name=name, failed=f"{type(failure).__name__}: {failure}"[:200])
        if self.cuda:
            torch.cuda.empty_cache()

    def in_cupy(self, work):
        """work() on torch's stream."""
        stream = self.cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream)

        def run():
            with stream:
                return torch.from_dlpack(work())

        return run

    def random(self, *shape):
        return torch.randn(*shape, device=self.device)


@contextlib.contextmanager
def tf32():
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False


def relative(result, truth):
    return (result.double() - truth).norm() / truth.norm()


def rates(bench, values, width):
    """What the device can do at most, and the rates that the floors are taken from."""
    source = bench.random(values)
    target = torch.empty_like(source)
    ms = bench.median(lambda: target.copy_(source))
    bench.bytes_per_ms = 8 * values / ms
    emit(case="rates", name="copy, read and written", ms=ms, rate=f"{bench.bytes_per_ms / 1e9:.2f} TB/s")
    if bench.cuda:
        pinned = torch.empty(values, pin_memory=True)
        ms = bench.median(lambda: source.copy_(pinned, non_blocking=True))
        emit(case="rates", name="from pinned host memory", ms=ms, rate=f"{4 * values / ms / 1e6:.1f} GB/s")

    def product(name, dtype):
        a, b = bench.random(width, width).to(dtype), bench.random(width, width).to(dtype)
        ms = bench.median(lambda: a @ b)
        emit(case="rates", name=f"matrix product, {name}", ms=ms, rate=f"{2 * width**3 / ms / 1e9:.1f} TFLOP/s")
        return 2 * width**3 / ms

    bench.flop_per_ms = product("float32", torch.float32)
    if bench.cuda:
        with tf32():
            product("TF32", torch.float32)
        product("float64", torch.float64)
        product("bfloat16", torch.bfloat16)


def project(bench, rows, width, rank):
    """Rows times a basis."""
    case = f"project {rows}x{width} rank {rank}"
    inputs = [bench.random(rows, width) for _ in range(4)]
    basis = torch.linalg.qr(bench.random(width, rank))[0].contiguous()
    turn = iter(range(1 << 30))
    floor = bench.floor(4 * rows * (width + rank), 2 * rows * width * rank)

    def error(result, truth=inputs[0].double() @ basis.double()):
        return relative(result, truth)

    for name, context in (("torch float32", contextlib.nullcontext()), ("torch TF32", tf32())):
        with context:
            off = float(error(inputs[0] @ basis))
            bench.run(case, name, lambda: inputs[next(turn) % 4] @ basis, error=lambda _, off=off: off, floor_ms=floor)
    if bench.cupy:
        theirs, their_basis = [bench.cupy.from_dlpack(x) for x in inputs], bench.cupy.from_dlpack(basis)
        off = float(error(bench.in_cupy(lambda: theirs[0] @ their_basis)()))
        work = bench.in_cupy(lambda: theirs[next(turn) % 4] @ their_basis)
        bench.run(case, "cupy float32", work, error=lambda _: off, floor_ms=floor)


def project_in_place(bench, rows, width, rank):
    """Rows lose their part along a basis."""
    case = f"project in place {rows}x{width} rank {rank}"
    source = bench.random(rows, width)
    data = source.clone()
    exact = torch.linalg.qr(bench.random(width, rank).double())[0].contiguous()
    basis = exact.float()
    floor = bench.floor(8 * rows * width, 4 * rows * width * rank)
    truth = source.double() - (source.double() @ exact) @ exact.T

    def error(_):
        return relative(source - (source @ basis) @ basis.T, truth)

    bench.run(case, "torch float32", lambda: data.addmm_(data @ basis, basis.T, alpha=-1), error, floor_ms=floor)
    if bench.isic:
        basis = bench.isic.fused_Basis(bench.isic.span_of(exact.cpu().numpy()))
        done = source.clone()
        bench.isic.fused_project_out(done, basis)
        off = float(relative(done, truth))
        bench.run(case, "isic fused.project_out, Python", lambda: bench.isic.fused_project_out(data, basis), lambda _: off, floor_ms=floor)


def adam(bench, rows, width, rank):
    """A step of Adam that leaves a subspace alone."""
    case = f"adam {rows}x{width} rank {rank}"
    start, gradient = bench.random(rows, width), bench.random(rows, width)
    exact = torch.linalg.qr(bench.random(width, rank).double())[0].contiguous()
    floor = bench.floor(28 * rows * width, 8 * rows * width * rank)

    def step(codes, gradient, mean, square, basis):
        gradient = gradient - (gradient @ basis) @ basis.T
        mean.mul_(0.9).add_(gradient, alpha=0.1)
        square.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        move = mean / 0.1 / ((square / 0.001).sqrt_().add_(1e-8))
        codes.sub_(0.1 * (move - (move @ basis) @ basis.T))
        return codes

    def first_step(dtype):
        moments = [torch.zeros_like(start, dtype=dtype) for _ in range(2)]
        return step(start.to(dtype, copy=True), gradient.to(dtype), *moments, exact.to(dtype))

    truth = first_step(torch.float64)
    codes, mean, square, basis = start.clone(), torch.zeros_like(start), torch.zeros_like(start), exact.float()
    off = float(relative(first_step(torch.float32), truth))
    bench.run(case, "torch float32", lambda: step(codes, gradient, mean, square, basis), lambda _: off, floor_ms=floor)
    if bench.isic:
        basis = bench.isic.fused_Basis(bench.isic.span_of(exact.cpu().numpy()))
        state = bench.isic.adam_state()
        done = start.clone()
        bench.isic.fused_adam_update(done, gradient, state, rate=0.1, orthogonal_to=basis)
        isic_off = float(relative(done, truth))
        work = functools.partial(bench.isic.fused_adam_update, done, gradient, state, rate=0.1, orthogonal_to=basis)
        bench.run(case, "isic fused.adam_update, Python", work, lambda _: isic_off, floor_ms=floor)


def gram(bench, rows, width):
    """The Gram matrix of a tall matrix; returns it in float64, and isic's sums that it comes from."""
    case = f"gram {rows}x{width}"
    data = bench.random(rows, width) * (0.99 ** torch.arange(width, device=bench.device))
    truth = sum(part.double().T @ part.double() for part in data.split(65536))
    floor = bench.floor(4 * rows * width, rows * width * width)  # one triangle

    def error(result):
        return relative(result, truth)

    def in_float64():
        total = torch.zeros(width, width, dtype=torch.float64, device=bench.device)
        for part in data.split(4096):
            wide = part.double()
            total.addmm_(wide.T, wide)
        return total

    bench.run(case, "torch float32", lambda: data.T @ data, error, floor_ms=floor)
    with tf32():
        bench.run(case, "torch TF32", lambda: data.T @ data, error, floor_ms=floor)
    bench.run(case, "torch float64, 4096 rows", in_float64, error, floor_ms=floor)
    if bench.cupy:
        theirs = bench.cupy.from_dlpack(data)
        bench.run(case, "cupy float32", bench.in_cupy(lambda: theirs.T @ theirs), error, floor_ms=floor)
        syrk = bench.cupy.cublas.syrk

        def by_ssyrk():
            return syrk("T", theirs, out=bench.cupy.zeros((width, width), dtype="float32"))

        def by_dsyrk():
            total = bench.cupy.zeros((width, width))
            for first in range(0, rows, 4096):
                syrk("T", theirs[first : first + 4096].astype("float64"), out=total, beta=1.0)
            return total

        def error_of_triangle(result):
            return error(result + result.T - torch.diag(result.diagonal()))

        bench.run(case, "cublas ssyrk", bench.in_cupy(by_ssyrk), error_of_triangle, floor_ms=floor)
        bench.run(case, "cublas dsyrk, 4096 rows", bench.in_cupy(by_dsyrk), error_of_triangle, floor_ms=floor)
    if bench.isic is None:
        return truth, None
    zeros = torch.zeros_like(data)

    def by_isic():
        sums = bench.isic.DifferenceAccumulator(width=width)
        sums.add_rows(data, zeros)
        return sums

    def error_of_sums(sums):
        return error(torch.from_numpy(sums.second_moment()).to(bench.device))

    bench.run(case, "isic float64 chunks, Python", by_isic, error_of_sums, floor_ms=floor)
    return truth, by_isic()


def top(bench, gram_matrix, sums, rank):
    """The leading eigenvectors of a Gram matrix."""
    case = f"top {rank} of {gram_matrix.shape[0]}"
    matrix = gram_matrix.float()
    leading = torch.linalg.eigh(gram_matrix)[1][:, -rank:]
    projector = leading @ leading.T

    def error(vectors):
        vectors = vectors.double()
        return (vectors @ vectors.T - projector).norm()

    def lowrank():
        return torch.svd_lowrank(matrix, q=2 * rank, niter=4)[0][:, :rank]

    bench.run(case, "torch eigh", lambda: torch.linalg.eigh(matrix)[1][:, -rank:], error)
    bench.run(case, "torch eigh float64", lambda: torch.linalg.eigh(gram_matrix)[1][:, -rank:], error)
    bench.run(case, f"torch svd_lowrank q={2 * rank}", lowrank, error)
    bench.run(case, "torch lobpcg", lambda: torch.lobpcg(matrix, k=rank, largest=True)[1], error)
    if bench.cupy:
        theirs = bench.cupy.from_dlpack(matrix)
        bench.run(case, "cupy eigh", bench.in_cupy(lambda: bench.cupy.linalg.eigh(theirs)[1][:, -rank:]), error)
    if sums is not None:
        fit = functools.partial(bench.isic.fit_subspace, sums, rank=rank)
        name = f"isic {getattr(fit(), 'solver', 'eigen')}, Python"
        bench.run(case, name, fit, lambda found: error(torch.from_numpy(found.basis).to(bench.device)))


def nearest(bench, queries, codes, width):
    """The nearest of many codes."""
    case = f"nearest {queries}x{codes} width {width}"
    q, c = bench.random(queries, width), bench.random(codes, width)
    half_norms = 0.5 * (c * c).sum(1)
    floor = bench.floor(4 * (queries + codes) * width, 2 * queries * codes * width)
    q64, c64 = q.double(), c.double()
    half_norms64 = 0.5 * (c64 * c64).sum(1)
    best = torch.cat([(half_norms64 - part @ c64.T).min(1)[0] for part in q64.split(4096)])

    def error(ids):
        return 2 * (half_norms64[ids] - (q64 * c64[ids]).sum(1) - best).max()

    def in_parts(rows):
        return torch.cat([torch.addmm(half_norms, part, c.T, alpha=-1).argmin(1) for part in q.split(rows)])

    bench.run(case, "torch cdist", lambda: torch.cdist(q, c).argmin(1), error, floor_ms=floor)
    bench.run(case, "torch addmm", lambda: in_parts(queries), error, floor_ms=floor)
    bench.run(case, "torch addmm, 1024 rows", lambda: in_parts(1024), error, floor_ms=floor)
    with tf32():
        bench.run(case, "torch addmm TF32", lambda: in_parts(queries), error, floor_ms=floor)
    if bench.cupy:
        theirs, their_codes, their_norms = (bench.cupy.from_dlpack(x) for x in (q, c, half_norms))
        work = bench.in_cupy(lambda: (their_norms[None, :] - theirs @ their_codes.T).argmin(axis=1))
        bench.run(case, "cupy float32", work, error, floor_ms=floor)
    if bench.isic:
        index = bench.isic.CodeIndex(c)
        bench.run(case, "isic CodeIndex, Python", lambda: torch.from_dlpack(index.nearest(q)), error, floor_ms=floor)


def main():
    parser = argparse.ArgumentParser(description="torch and CuPy beside isic_cuda_bench")
    parser.add_argument("--small", action="store_true", help="smaller cases")
    parser.add_argument("--cpu", action="store_true", help="tiny cases on the CPU")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    bench = Bench("cpu" if arguments.cpu else "cuda")
    if arguments.cpu:
        rates(bench, 1 << 16, 64)
        project(bench, 256, 64, 8)
        project_in_place(bench, 256, 64, 8)
        adam(bench, 256, 64, 8)
        top(bench, *gram(bench, 512, 96), 8)
        nearest(bench, 128, 64, 8)
        return
    rates(bench, 1 << (26 if arguments.small else 28), 4096 if arguments.small else 8192)
    project(bench, 262144, 256, 16)
    project_in_place(bench, 262144, 256, 16)
    project_in_place(bench, 16384, 8, 4)
    adam(bench, 262144, 256, 16)
    top(bench, *gram(bench, 100_000 if arguments.small else 1_000_000, 1024), RANK)
    nearest(bench, 65536, 16384, 8)
    nearest(bench, 65536, 16384, 256)


if __name__ == "__main__":
    main()
