# SPDX-License-Identifier: Apache-2.0
"""What is timed. Every case knows ours, a limit of the machine and the peers, and checks each against float64."""
from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from library import Library
from timing import Contestant, nothing

QUERIES = 65536  # nearest codes are reported for this many vectors
VECTORS = 65536  # assigned in one step of EMA
RANK = 4  # of updates and subspaces
EPSILON = 1e-3  # of Adam
IN_CACHE = 1 << 25  # bytes of a codebook that is brought into the cache before it is timed

Array = np.ndarray[Any, Any]


@dataclasses.dataclass
class Setting:
    library: Library
    threads: int  # as isic's functions take it: 1, or 0 for all
    quick: bool


@dataclasses.dataclass
class Case:
    make_ours: Callable[[], Contestant]
    peers: dict[str, Callable[[], Contestant]]
    accuracy: float  # results with larger errors are no equals
    limit: str = ""
    make_limit: Callable[[], Contestant] | None = None
    timed: bool = True
    note: str = ""


# ---------------------------------------------------------------------------------------------------------------- inputs


def normal(*shape: int, seed: int = 1) -> Array:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def orthonormal(d: int, r: int, seed: int = 7) -> Array:
    """Columns [d x r], float64."""
    return np.ascontiguousarray(np.linalg.qr(np.random.default_rng(seed).standard_normal((d, r)))[0])


def without(rows: Array, v: Array) -> Array:
    """Rows less their part in the columns of v."""
    left: Array = (rows - (rows @ v) @ v.T).astype(np.float32)
    return left


def sample(n: int, most: int) -> Array:
    return np.unique(np.linspace(0, n - 1, min(n, most)).astype(np.int64))


def largest(a: Array) -> float:
    return float(np.max(np.abs(a)))


def torch_of(a: Array) -> Any:
    import torch

    return torch.from_numpy(a)


def repeated(step: Callable[[], object]) -> Callable[[int], None]:
    def run(repeats: int) -> None:
        for _ in range(repeats):
            step()

    return run


# ---------------------------------------------------------------------------------------------------------------- limits


def scale_limit(s: Setting, array: Array, prepare: Callable[[], object]) -> Contestant:
    """Multiplies in place by 1: an array that it does not change."""
    return Contestant(lambda k: s.library.call("isic_bench_limit_scale", array, array.size, k), prepare)


def copy_limit(s: Setting, array: Array, prepare: Callable[[], object]) -> Contestant:
    to = np.empty_like(array)
    return Contestant(lambda k: s.library.call("isic_bench_limit_copy", to, array, array.size, k), prepare)


def read_limit(s: Setting, array: Array) -> Contestant:
    return Contestant(lambda k: s.library.call("isic_bench_limit_read", array, array.size, k))


def fma_limit(s: Setting, flops: float, f64: bool = False) -> Contestant:
    rounds = 100_000
    own = s.library.call("isic_bench_fma_flops", rounds, f64)
    return Contestant(lambda k: s.library.call("isic_bench_limit_fma", rounds * k, f64), share=own / flops)


# --------------------------------------------------------------------------------------------------------------- project


def project(s: Setting, n: int, d: int, r: int, limit: str) -> Case:
    start = normal(n, d)
    work = start.copy()
    v = orthonormal(d, r)
    v32 = v.astype(np.float32)
    rows = sample(n, 4096)
    wide = start[rows].astype(np.float64)
    expected = wide - (wide @ v) @ v.T

    def restore() -> None:
        np.copyto(work, start)

    def contestant(run: Callable[[int], object]) -> Contestant:
        restore()
        run(1)
        return Contestant(run, restore, error=largest(work[rows] - expected))

    def ours() -> Contestant:
        basis = s.library.make("isic_bench_basis", v, d, r)
        return contestant(lambda k: s.library.call("isic_bench_project", basis, work, n, d, s.threads, k))

    def with_numpy() -> Contestant:
        def step() -> None:
            nonlocal work
            work -= (work @ v32) @ v32.T

        return contestant(repeated(step))

    def with_torch() -> Contestant:
        c, t = torch_of(work), torch_of(v32)
        return contestant(repeated(lambda: c.addmm_(c @ t, t.T, alpha=-1)))

    def with_eigen() -> Contestant:
        return contestant(lambda k: s.library.call("eigen_project", work, n, d, v32, r, k))

    limits = {
        "in-place scale": lambda: scale_limit(s, work, restore),
        "memcpy": lambda: copy_limit(s, work, restore),
        "float32 FMA": lambda: fma_limit(s, 4.0 * n * d * r),
    }
    return Case(ours, {"numpy": with_numpy, "torch addmm_": with_torch, "Eigen": with_eigen}, 1e-5, limit, limits[limit])


# --------------------------------------------------------------------------------------------------------------- nearest


def fastest_block(run: Callable[[int], object]) -> int:
    """How many vectors' scores to make at a time: with few of them the codes are read often, with many the scores are."""
    times = {}
    for block in (16, 64, 256, 512):
        start = time.process_time()
        run(block)
        times[block] = time.process_time() - start
    return min(times, key=lambda block: times[block])


def nearest(s: Setting, count: int, d: int, total: int, n: int, few: int) -> Case:
    """Times are for `total` vectors. Ours and FAISS, whose way depends on their number, take n; the others take few."""
    codes = normal(count, d)
    z = normal(n, d, seed=2)
    half = (0.5 * np.einsum("ij,ij->i", codes, codes, dtype=np.float64)).astype(np.float32)
    ids = np.empty(n, np.int64)
    rows = sample(few, max(16, (1 << 25) // count))
    z64 = z[rows].astype(np.float64)
    distances = np.einsum("ij,ij->i", codes, codes, dtype=np.float64) - 2 * z64 @ codes.astype(np.float64).T
    distances += np.einsum("ij,ij->i", z64, z64)[:, None]
    least = distances.min(axis=1)

    def contestant(run: Callable[[int], object], vectors: int) -> Contestant:
        """The error is the largest excess over the least squared distance, relative to it."""
        ids.fill(-1)
        run(1)
        excess = (distances[np.arange(rows.size), ids[rows]] - least) / least
        return Contestant(run, error=float(excess.max()), share=vectors / total)

    def ours() -> Contestant:
        index = s.library.make("isic_bench_index", codes, count, d)
        return contestant(lambda k: s.library.call("isic_bench_nearest", index, z, n, d, ids, s.threads, k), n)

    def with_faiss() -> Contestant:
        import faiss

        index = faiss.IndexFlatL2(d)
        index.add(codes)

        def step() -> None:
            ids[:] = index.search(z, 1)[1][:, 0]

        return contestant(repeated(step), n)

    def with_numpy() -> Contestant:
        scores = np.ones((512, count), np.float32)

        def step(block: int) -> None:
            for a in range(0, few, block):
                part = scores[: min(block, few - a)]
                np.matmul(z[a : a + len(part)], codes.T, out=part)
                np.subtract(half, part, out=part)
                ids[a : a + len(part)] = part.argmin(axis=1)

        block = fastest_block(step)
        return contestant(repeated(lambda: step(block)), few)

    def with_torch() -> Contestant:
        import torch

        c, x, h, out = torch_of(codes), torch_of(z), torch_of(half), torch_of(ids)
        scores = torch.ones(512, count)

        def step(block: int) -> None:
            for a in range(0, few, block):
                part = scores[: min(block, few - a)]
                torch.addmm(h, x[a : a + len(part)], c.T, alpha=-1, out=part)
                torch.argmin(part, 1, out=out[a : a + len(part)])

        block = fastest_block(step)
        return contestant(repeated(lambda: step(block)), few)

    def with_sklearn() -> Contestant:
        from sklearn.metrics import pairwise_distances_argmin

        def step() -> None:
            ids[:few] = pairwise_distances_argmin(z[:few], codes)

        return contestant(repeated(step), few)

    def with_eigen() -> Contestant:
        def run(block: int, repeats: int = 1) -> None:
            s.library.call("eigen_nearest", codes, half, count, d, z, few, block, ids, repeats)

        block = fastest_block(run)
        return contestant(lambda k: run(block, k), few)

    peers = {"numpy": with_numpy, "torch addmm, argmin": with_torch, "faiss IndexFlatL2": with_faiss,
             "sklearn": with_sklearn, "Eigen": with_eigen}
    note = "" if few == total else f"{'' if n == few else 'not isic and FAISS: '}{few} of {total} vectors, scaled"
    return Case(ours, peers, 1e-5, "float32 FMA", lambda: fma_limit(s, 2.0 * total * count * d), note=note)


# --------------------------------------------------------------------------------------------------------------- updates
# Codes, and Adam's gradient, begin without a part in the subspace: projecting the codes after a step is then the same as
# projecting gradient and step, which is what ours does, and the peers have the shorter way. Epsilon is large enough that
# Adam's first step, which is the gradient's sign with a small one, can be compared.


def warm(codes: Array, run: Callable[[int], object]) -> Callable[[], object]:
    """A step that is not timed, which brings codes and state into the cache where they fit."""
    return (lambda: run(1)) if codes.nbytes <= IN_CACHE else nothing


def adam(s: Setting, count: int, d: int) -> Case:
    v = orthonormal(d, RANK)
    v32 = v.astype(np.float32)
    start = without(normal(count, d), v)
    gradient = without(normal(count, d, seed=2), v)
    rows = sample(count, 4096)
    g = gradient[rows].astype(np.float64)
    g -= (g @ v) @ v.T
    step64 = 1e-3 * g / (np.abs(g) + EPSILON)
    expected = start[rows] - (step64 - (step64 @ v) @ v.T)

    def contestant(codes: Array, run: Callable[[int], object]) -> Contestant:
        run(1)
        return Contestant(run, warm(start, run), error=largest(codes[rows] - expected))

    def state() -> tuple[Array, Array, Array]:
        return start.copy(), np.zeros_like(start), np.zeros_like(start)

    def ours() -> Contestant:
        codes = start.copy()
        basis = s.library.make("isic_bench_basis", v, d, RANK)
        kept = s.library.make("isic_bench_adam_state")
        return contestant(codes, lambda k: s.library.call("isic_bench_adam", codes, gradient, count, d, basis, kept,
                                                          s.threads, k))

    def with_torch(**how: Any) -> Contestant:
        import torch

        codes = start.copy()
        p = torch.nn.Parameter(torch_of(codes))
        p.grad = torch_of(gradient)
        t = torch_of(v32)
        adam = torch.optim.Adam([p], lr=1e-3, eps=EPSILON, **how)

        def step() -> None:
            adam.step()
            with torch.no_grad():
                p.addmm_(p @ t, t.T, alpha=-1)

        return contestant(codes, repeated(step))

    def with_numpy() -> Contestant:
        codes, m, q = state()
        steps = 0

        def step() -> None:
            nonlocal codes, m, q, steps
            steps += 1
            m *= 0.9
            m += 0.1 * gradient
            q *= 0.999
            q += 0.001 * gradient * gradient
            codes -= 1e-3 / (1 - 0.9**steps) * m / (np.sqrt(q / (1 - 0.999**steps)) + EPSILON)
            codes -= (codes @ v32) @ v32.T

        return contestant(codes, repeated(step))

    def with_eigen() -> Contestant:
        codes, m, q = state()
        steps = np.zeros(1, np.int64)
        return contestant(codes, lambda k: s.library.call("eigen_adam", codes, m, q, gradient, count, d, v32, RANK, steps, k))

    def streams() -> Contestant:
        c, m, q = state()
        run: Callable[[int], object] = lambda k: s.library.call("isic_bench_limit_update", c, m, q, gradient, c.size, k)
        return Contestant(run, warm(start, run))

    peers = {"numpy": with_numpy, "torch Adam foreach": lambda: with_torch(foreach=True),
             "torch Adam fused": lambda: with_torch(fused=True), "Eigen": with_eigen}
    return Case(ours, peers, 1e-6, "4 reads, 3 writes", streams)


def ema(s: Setting, count: int, d: int) -> Case:
    decay = 0.99
    v = orthonormal(d, RANK)
    v32 = v.astype(np.float32)
    start = without(normal(count, d), v)
    z = normal(VECTORS, d, seed=2)
    ids = np.random.default_rng(3).integers(0, count, VECTORS)
    rows = sample(count, 2048)
    expected = ema_expected(start, z, ids, rows, decay, v)

    def contestant(codes: Array, run: Callable[[int], object]) -> Contestant:
        run(1)
        return Contestant(run, warm(start, run), error=largest(codes[rows] - expected))

    def ours() -> Contestant:
        codes = start.copy()
        basis = s.library.make("isic_bench_basis", v, d, RANK)
        kept = s.library.make("isic_bench_ema_state")
        return contestant(codes, lambda k: s.library.call("isic_bench_ema", codes, count, d, z, ids, VECTORS, basis, kept,
                                                          s.threads, k))

    def with_torch(scatter: bool) -> Contestant:
        import torch

        codes = start.copy()
        c, x, i, t = torch_of(codes), torch_of(z), torch_of(ids), torch_of(v32)
        counts, sums = torch.ones(count), c.clone()

        def step() -> None:
            counts.mul_(decay).add_(torch.bincount(i, minlength=count), alpha=1 - decay)
            if scatter:
                batch = torch.zeros(count, d).scatter_add_(0, i[:, None].expand(-1, d), x)
                sums.mul_(decay).add_(batch, alpha=1 - decay)
            else:
                sums.mul_(decay).index_add_(0, i, x, alpha=1 - decay)
            torch.div(sums, counts[:, None], out=c)
            c.addmm_(c @ t, t.T, alpha=-1)

        return contestant(codes, repeated(step))

    few = max(64, min(4096, (1 << 24) // count))

    def one_hot() -> Contestant:
        """The sums alone, of a few vectors: the rest of the step is left out."""
        import torch

        x, i = torch_of(z[:few]), torch_of(ids[:few])
        sums = torch.nn.functional.one_hot(i, count).float().T @ x
        exact = torch.zeros(count, d, dtype=torch.float64).index_add_(0, i, x.double())
        return Contestant(repeated(lambda: torch.nn.functional.one_hot(i, count).float().T @ x),
                          error=float((sums - exact).abs().max()), share=few / VECTORS)

    def with_eigen() -> Contestant:
        codes, counts, sums = start.copy(), np.ones(count, np.float32), start.copy()
        return contestant(codes, lambda k: s.library.call("eigen_ema", codes, counts, sums, count, d, z, ids, VECTORS, v32,
                                                          RANK, k))

    peers = {"torch scatter_add": lambda: with_torch(True), "torch index_add": lambda: with_torch(False),
             "one-hot matmul (torch)": one_hot, "Eigen": with_eigen}

    def streams() -> Contestant:
        """Vectors and sums are read, sums and codes read and written, at least once."""
        array = np.ones((VECTORS // 2 + 2 * count, d), np.float32)
        return scale_limit(s, array, nothing)

    return Case(ours, peers, 1e-5, "in-place scale", streams, note=f"one-hot matmul: {few} of {VECTORS} vectors, scaled")


def ema_expected(start: Array, z: Array, ids: Array, rows: Array, decay: float, v: Array) -> Array:
    order = np.argsort(ids, kind="stable")
    begin = np.searchsorted(ids[order], rows)
    end = np.searchsorted(ids[order], rows + 1)
    sums = np.stack([z[order[a:b]].sum(axis=0, dtype=np.float64) for a, b in zip(begin, end)])
    counts = decay + (1 - decay) * (end - begin)
    codes = start[rows].astype(np.float64)
    step = (decay * codes + (1 - decay) * sums) / counts[:, None] - codes
    return codes + step - (step @ v) @ v.T


# -------------------------------------------------------------------------------------------------------------- subspace


def top_columns(gram: Array, r: int) -> Array:
    return np.linalg.eigh(gram)[1][:, : -r - 1 : -1]


def angle(found: Array, truth: Array) -> float:
    """The sine of the largest principal angle."""
    v = np.linalg.qr(found.astype(np.float64))[0]
    return float(np.linalg.norm(v - truth @ (truth.T @ v), 2))


def subspace_case(s: Setting, rows: Array, r: int) -> Case:
    n, d = rows.shape
    # LAPACK in float64; the triangle of QR has the same right singular vectors
    truth = np.linalg.svd(np.linalg.qr(rows.astype(np.float64), mode="r"))[2][:r].T
    columns = np.empty((d, r))

    def contestant(run: Callable[[int], object]) -> Contestant:
        columns.fill(0)
        run(1)
        return Contestant(run, error=angle(columns, truth))

    def ours() -> Contestant:
        return contestant(lambda k: s.library.call("isic_bench_subspace", rows, n, d, r, columns, s.threads, k))

    def with_numpy(dtype: Any) -> Contestant:
        def step() -> None:
            x = rows.astype(dtype, copy=False)
            columns[:] = top_columns(x.T @ x, r)

        return contestant(repeated(step))

    def with_torch_gram() -> Contestant:
        import torch

        def step() -> None:
            x = torch_of(rows).double()
            columns[:] = torch.linalg.eigh(x.T @ x)[1][:, -r:].numpy()

        return contestant(repeated(step))

    def with_torch() -> Contestant:
        import torch

        def step() -> None:
            columns[:] = torch.linalg.svd(torch_of(rows), full_matrices=False)[2][:r].T.numpy()

        return contestant(repeated(step))

    def with_sklearn() -> Contestant:
        from sklearn.utils.extmath import randomized_svd

        def step() -> None:
            columns[:] = randomized_svd(rows, r, random_state=0)[2].T

        return contestant(repeated(step))

    def with_eigen() -> Contestant:
        return contestant(lambda k: s.library.call("eigen_subspace", rows, n, d, r, columns, k))

    peers = {"numpy float64 Gram, eigh": lambda: with_numpy(np.float64),
             "numpy float32 Gram, eigh": lambda: with_numpy(np.float32),
             "torch.linalg.svd": with_torch, "torch float64 Gram, eigh": with_torch_gram,
             "sklearn randomized_svd": with_sklearn, "Eigen": with_eigen}
    return Case(ours, peers, 1e-7)


def subspace(s: Setting, n: int, d: int) -> Case:
    """Directions that become weaker by a fifth each, in noise."""
    strong = min(16, d)
    weights = (4 * 0.8 ** np.arange(strong)).astype(np.float32)
    rows = 0.1 * normal(n, d, seed=3) + (normal(n, strong) * weights) @ orthonormal(d, strong).astype(np.float32).T
    case = subspace_case(s, rows, RANK)
    if d <= 32:
        case.limit, case.make_limit = "read", lambda: read_limit(s, rows)
    else:
        case.limit, case.make_limit = "float64 FMA", lambda: fma_limit(s, float(n) * d * (d + 1), f64=True)
    return case


def accuracy(s: Setting, n: int, d: int, r: int, ratio: float) -> Case:
    """Singular values in a geometric row, the r-th of them `ratio` times the first; only errors are of interest."""
    singular = ratio ** (np.arange(d) / (r - 1))
    left = np.linalg.qr(np.random.default_rng(4).standard_normal((n, d)))[0]
    rows = ((left * (singular * np.sqrt(n))) @ orthonormal(d, d).T).astype(np.float32)
    case = subspace_case(s, rows, r)
    case.timed, case.accuracy = False, 1e-5
    return case


# ------------------------------------------------------------------------------------------------------------------ list


def all_cases(s: Setting) -> dict[str, Callable[[], Case]]:
    """Cases by name, made when they are run."""
    cases: dict[str, Callable[[], Case]] = {}
    scale, copy, fma = "in-place scale", "memcpy", "float32 FMA"
    projections = [(16384, 8, 1, copy), (16384, 8, 4, copy), (32768, 4, 1, copy), (32768, 4, 2, copy),
                   (8192, 256, 1, scale), (8192, 256, 4, fma), (8192, 256, 16, fma)]
    if not s.quick:
        projections += [(262144, 256, 1, scale), (262144, 256, 4, scale), (262144, 256, 16, fma),
                        (131072, 1024, 1, scale), (131072, 1024, 4, scale), (131072, 1024, 16, fma)]
    for n, d, r, limit in projections:
        cases[f"project {n}x{d} r={r}"] = functools.partial(project, s, n, d, r, limit)

    lookups = [(16384, 8, QUERIES, QUERIES, 2048), (16384, 8, 1024, 1024, 1024), (32768, 4, QUERIES, QUERIES, 2048),
               (32768, 4, 1024, 1024, 1024), (8192, 256, QUERIES, 2048, 2048)]
    if not s.quick:
        lookups += [(262144, 256, QUERIES, 512, 512)]
    for k, d, total, n, few in lookups:
        of = f" of {total}" if total != QUERIES else ""
        cases[f"nearest {k}x{d}{of}"] = functools.partial(nearest, s, k, d, total, n, few)

    for k, d in [(16384, 8), (8192, 256)] if s.quick else [(16384, 8), (8192, 256), (262144, 256)]:
        cases[f"adam {k}x{d} r={RANK}"] = functools.partial(adam, s, k, d)
        cases[f"ema {k}x{d} r={RANK}"] = functools.partial(ema, s, k, d)

    fits = [(1_000_000, 8), (100_000, 32)] if s.quick else [(1_000_000, 8), (1_000_000, 32), (100_000, 256), (10_000, 1024)]
    for n, d in fits:
        cases[f"subspace {n}x{d} r={RANK}"] = functools.partial(subspace, s, n, d)

    for ratio in (1e-1, 1e-2, 1e-3, 1e-4, 1e-5):
        n = 20_000 if s.quick else 100_000
        cases[f"accuracy {n}x32 r=16 ratio={ratio:.0e}"] = functools.partial(accuracy, s, n, 32, 16, ratio)
    return cases
