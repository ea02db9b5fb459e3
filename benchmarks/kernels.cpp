// SPDX-License-Identifier: Apache-2.0
// The kernels against the limits of this machine: memory bandwidth and the rate of fused multiply-adds. Kernel and limit run in
// turns; times are CPU times of one thread. Columns: share_pct, time at the limit divided by time of the kernel, in percent;
// limit and reached, GB/s or Gflop/s of the limit and of the kernel.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>
#include <isic/detail/kernels/kernels.hpp>

#include "limits.hpp"

namespace {

namespace kernels = isic::detail::kernels;
using isic::execution;
using isic::index_t;
using isic_bench::thread_seconds;

const execution one_thread{.threads = 1};

std::vector<float> normal(std::size_t n, unsigned seed = 1) {
    std::vector<float> out(n);
    std::mt19937 random(seed);
    std::normal_distribution<float> draw;
    std::generate(out.begin(), out.begin() + static_cast<std::ptrdiff_t>(std::min<std::size_t>(n, 1 << 20)),
                  [&] { return draw(random); });
    for (std::size_t i = 1 << 20; i < n; ++i) {  // longer arrays repeat it, scaled by 1.01
        out[i] = out[i - (1 << 20)] * 1.01f;
    }
    return out;
}

/// Orthonormal rows [r x d].
std::vector<float> orthonormal(index_t r, index_t d) {
    const std::vector<float> start = normal(static_cast<std::size_t>(r * d), 7);
    std::vector<double> v(start.begin(), start.end());
    const auto row = [&](index_t i) { return v.data() + i * d; };
    for (index_t i = 0; i < r; ++i) {
        for (index_t twice = 0; twice < 2; ++twice) {
            for (index_t j = 0; j < i; ++j) {
                double s = 0;
                for (index_t k = 0; k < d; ++k) {
                    s += row(i)[k] * row(j)[k];
                }
                for (index_t k = 0; k < d; ++k) {
                    row(i)[k] -= s * row(j)[k];
                }
            }
        }
        double s = 0;
        for (index_t k = 0; k < d; ++k) {
            s += row(i)[k] * row(i)[k];
        }
        for (index_t k = 0; k < d; ++k) {
            row(i)[k] /= std::sqrt(s);
        }
    }
    return {v.begin(), v.end()};
}

/// A limit that a kernel is compared with.
struct limit {
    std::string unit;
    double work;      ///< bytes or flops per run of the kernel
    double own_work;  ///< bytes or flops per run of the limit
    std::function<void()> run;
};

limit multiply_add_limit(double flops, bool f64 = false) {
    constexpr std::size_t repeats = 100'000;
    return {"Gflop/s", flops, isic_bench::multiply_add_flops(repeats, f64 ? 8 : 4), [f64] {
                if (f64) {
                    benchmark::DoNotOptimize(isic_bench::multiply_add_f64(repeats));
                } else {
                    benchmark::DoNotOptimize(isic_bench::multiply_add_f32(repeats));
                }
            }};
}

limit scale_limit(std::vector<float>& other) {
    const double bytes = 8.0 * static_cast<double>(other.size());
    return {"GB/s", bytes, bytes, [&other] { isic_bench::scale_in_place(other.data(), other.size(), 1.0f); }};
}

limit copy_limit(std::vector<float>& from, std::vector<float>& to) {
    const double bytes = 8.0 * static_cast<double>(from.size());
    return {"GB/s", bytes, bytes, [&] {
                std::memcpy(to.data(), from.data(), 4 * from.size());
                benchmark::ClobberMemory();
            }};
}

limit read_limit(const std::vector<float>& from) {
    const double bytes = 4.0 * static_cast<double>(from.size());
    return {"GB/s", bytes, bytes,
            [&from] { benchmark::DoNotOptimize(isic_bench::read_all(from.data(), from.size())); }};
}

/// Times the limit and the kernel in turns and reports the share. reset: restores the input, untimed.
void measure(benchmark::State& state, const limit& best_case, const std::function<void()>& kernel,
             const std::function<void()>& reset = {}) {
    std::vector<double> limit_times;
    std::vector<double> kernel_times;
    const auto seconds = [](const std::function<void()>& run) {
        int repeats = 0;
        const double start = thread_seconds();
        double end = start;
        do {  // longer than the resolution of the clock
            run();
            ++repeats;
            end = thread_seconds();
        } while (end - start < 2e-4);
        return (end - start) / repeats;
    };
    best_case.run();
    kernel();
    for (auto _ : state) {
        limit_times.push_back(seconds(best_case.run) / best_case.own_work * best_case.work);
        if (reset) {
            reset();
        }
        kernel_times.push_back(seconds(kernel));
        state.SetIterationTime(kernel_times.back());
    }
    const double best = isic_bench::median(limit_times);
    const double taken = isic_bench::median(kernel_times);
    state.counters["share_pct"] = 100 * best / taken;
    state.counters["limit"] = best_case.work / best * 1e-9;
    state.counters["reached"] = best_case.work / taken * 1e-9;
    state.SetLabel(best_case.unit);
}

void require(benchmark::State& state, bool right) {
    if (!right) {
        state.SkipWithError("the result is wrong");
    }
}

enum class against { scale, copy, flops };

void project(benchmark::State& state, index_t n, index_t d, index_t r, against what) {
    const auto size = static_cast<std::size_t>(n * d);
    const std::vector<float> start = normal(size);
    std::vector<float> rows = start;
    std::vector<float> other = start;
    const std::vector<float> basis = orthonormal(r, d);
    const kernels::projection<float> p{.basis = basis.data(), .rank = r};
    kernels::project(rows.data(), n, d, d, p, one_thread);
    bool right = true;
    for (const index_t i : {index_t{0}, n / 2, n - 1}) {
        std::vector<double> expected(start.begin() + i * d, start.begin() + (i + 1) * d);
        for (index_t j = 0; j < r; ++j) {
            double s = 0;
            for (index_t k = 0; k < d; ++k) {
                s += static_cast<double>(start[static_cast<std::size_t>(i * d + k)]) *
                     static_cast<double>(basis[static_cast<std::size_t>(j * d + k)]);
            }
            for (index_t k = 0; k < d; ++k) {
                expected[static_cast<std::size_t>(k)] -=
                    s * static_cast<double>(basis[static_cast<std::size_t>(j * d + k)]);
            }
        }
        for (index_t k = 0; k < d; ++k) {
            right = right && std::abs(expected[static_cast<std::size_t>(k)] -
                                      static_cast<double>(rows[static_cast<std::size_t>(i * d + k)])) < 1e-5;
        }
    }
    require(state, right);
    std::vector<float> to(what == against::copy ? size : 0);
    const double flops = 4.0 * static_cast<double>(n * d * r);
    const limit best_case = what == against::scale  ? scale_limit(other)
                            : what == against::copy ? copy_limit(other, to)
                                                    : multiply_add_limit(flops);
    measure(state, best_case, [&] { kernels::project(rows.data(), n, d, d, p, one_thread); });
}

void nearest(benchmark::State& state, index_t n, index_t codes, index_t d) {
    const std::vector<float> book = normal(static_cast<std::size_t>(codes * d));
    const std::vector<float> vectors = normal(static_cast<std::size_t>(n * d), 2);
    const kernels::packed_codes<float> packed(book.data(), codes, d, d);
    std::vector<index_t> ids(static_cast<std::size_t>(n));
    packed.nearest(vectors.data(), n, d, ids.data(), nullptr, one_thread);
    bool right = true;
    for (const index_t i : {index_t{0}, n / 2, n - 1}) {
        index_t best = 0;
        double least = INFINITY;
        for (index_t k = 0; k < codes; ++k) {
            double distance = 0;
            for (index_t j = 0; j < d; ++j) {
                const double step = static_cast<double>(vectors[static_cast<std::size_t>(i * d + j)]) -
                                    static_cast<double>(book[static_cast<std::size_t>(k * d + j)]);
                distance += step * step;
            }
            best = distance < least ? k : best;
            least = std::min(least, distance);
        }
        right = right && ids[static_cast<std::size_t>(i)] == best;
    }
    require(state, right);
    measure(state, multiply_add_limit(2.0 * static_cast<double>(n * codes * d)),
            [&] { packed.nearest(vectors.data(), n, d, ids.data(), nullptr, one_thread); });
}

void gram(benchmark::State& state, index_t n, index_t d, bool read) {
    const std::vector<float> rows = normal(static_cast<std::size_t>(n * d));
    std::vector<double> sum(static_cast<std::size_t>(d * d));
    std::vector<double> columns(static_cast<std::size_t>(d));
    kernels::add_gram(rows.data(), n, d, d, sum.data(), columns.data(), one_thread);
    double expected = 0;
    for (index_t i = 0; i < n; ++i) {
        expected += static_cast<double>(rows[static_cast<std::size_t>(i * d)]) *
                    static_cast<double>(rows[static_cast<std::size_t>(i * d + d - 1)]);
    }
    require(state, std::abs(sum[static_cast<std::size_t>(d - 1)] - expected) < 1e-8 * static_cast<double>(n));
    measure(state, read ? read_limit(rows) : multiply_add_limit(static_cast<double>(n * d * (d + 1)), true),
            [&] { kernels::add_gram(rows.data(), n, d, d, sum.data(), columns.data(), one_thread); });
}

/// Adam over codes, moments and gradient, against a loop with the same memory streams.
void adam(benchmark::State& state, index_t n, index_t d, index_t r) {
    const auto size = static_cast<std::size_t>(n * d);
    std::vector<float> codes = normal(size);
    const std::vector<float> gradient = normal(size, 2);
    std::vector<float> mean(size);
    std::vector<float> square(size);
    const std::vector<float> basis = orthonormal(r, d);
    const kernels::adam_step<float> step{
        .bias_correction1 = 0.1f, .bias_correction2 = 0.001f, .basis = basis.data(), .rank = r};
    const std::vector<float> old(codes.begin(), codes.begin() + d);
    const kernels::adam_arrays<float> arrays{.codes = codes.data(),
                                             .stride = d,
                                             .gradient = gradient.data(),
                                             .gradient_stride = d,
                                             .mean = mean.data(),
                                             .square = square.data(),
                                             .state_stride = d,
                                             .count = n,
                                             .width = d};
    kernels::adam(arrays, step, one_thread);
    std::vector<double> row(gradient.begin(), gradient.begin() + d);
    const auto project_out = [&] {
        for (index_t j = 0; j < r; ++j) {
            double s = 0;
            for (index_t k = 0; k < d; ++k) {
                s += row[static_cast<std::size_t>(k)] * static_cast<double>(basis[static_cast<std::size_t>(j * d + k)]);
            }
            for (index_t k = 0; k < d; ++k) {
                row[static_cast<std::size_t>(k)] -= s * static_cast<double>(basis[static_cast<std::size_t>(j * d + k)]);
            }
        }
    };
    project_out();
    for (double& x : row) {
        x = -1e-3 * x / (std::abs(x) + 1e-8);
    }
    project_out();
    bool right = true;
    for (std::size_t k = 0; k < row.size(); ++k) {
        right = right && std::abs(static_cast<double>(old[k]) + row[k] - static_cast<double>(codes[k])) < 2e-6;
    }
    require(state, right);
    std::vector<float> c = codes;
    std::vector<float> m = mean;
    std::vector<float> v = square;
    const double bytes = 28.0 * static_cast<double>(size);
    measure(state,
            {"GB/s", bytes, bytes,
             [&] { isic_bench::update_streams(c.data(), m.data(), v.data(), gradient.data(), size); }},
            [&] { kernels::adam(arrays, step, one_thread); });
}

/// Held against reading the vectors and sums and writing sums and codes once.
void ema(benchmark::State& state, index_t count, index_t d, index_t r) {
    constexpr index_t n = 65536;
    std::vector<float> codes = normal(static_cast<std::size_t>(count * d));
    std::vector<float> sums = codes;
    std::vector<float> counts(static_cast<std::size_t>(count), 1.0f);
    const std::vector<float> vectors = normal(static_cast<std::size_t>(n * d), 2);
    std::vector<std::int32_t> ids(static_cast<std::size_t>(n));
    std::mt19937 random(3);
    std::generate(ids.begin(), ids.end(),
                  [&] { return static_cast<std::int32_t>(random() % static_cast<unsigned>(count)); });
    const std::vector<float> basis = orthonormal(r, d);
    const kernels::ema_step<float> step{.basis = basis.data(), .rank = r};
    isic::detail::ema_workspace<float> space;
    const kernels::ema_arrays<float> arrays{.codes = codes.data(),
                                            .stride = d,
                                            .counts = counts.data(),
                                            .sums = sums.data(),
                                            .sums_stride = d,
                                            .count = count,
                                            .width = d,
                                            .vectors = vectors.data(),
                                            .vectors_stride = d,
                                            .vector_count = n};
    std::vector<float> other(static_cast<std::size_t>((n / 2 + 2 * count) * d));
    measure(state, scale_limit(other), [&] { kernels::ema(arrays, ids.data(), step, space, one_thread); });
}

void add(const std::string& name, const std::function<void(benchmark::State&)>& run) {
    benchmark::RegisterBenchmark(name.c_str(), run)->UseManualTime()->Unit(benchmark::kMicrosecond);
}

void add_project(index_t n, index_t d, index_t r, against what) {
    const char* names[] = {"scale", "memcpy", "fma"};
    add("project/" + std::to_string(n) + "x" + std::to_string(d) + "/r" + std::to_string(r) + "/" +
            names[static_cast<int>(what)],
        [=](benchmark::State& state) { project(state, n, d, r, what); });
}

void add_nearest(index_t n, index_t codes, index_t d) {
    add("nearest/" + std::to_string(n) + "of" + std::to_string(codes) + "x" + std::to_string(d) + "/fma",
        [=](benchmark::State& state) { nearest(state, n, codes, d); });
}

}  // namespace

int main(int argc, char** argv) {
    for (const index_t r : {1, 4, 16}) {
        for (const index_t n : {8192, 262144}) {
            add_project(n, 256, r, against::scale);
            add_project(n, 256, r, against::flops);
        }
    }
    for (const index_t r : {1, 4}) {
        add_project(16384, 8, r, against::copy);
        add_project(16384, 8, r, against::scale);
        add_project(32768, 4, r, against::copy);
    }
    add_nearest(2048, 16384, 8);
    add_nearest(2048, 32768, 4);
    add_nearest(2048, 8192, 256);
    add_nearest(512, 262144, 256);
    for (const auto& [n, d] : {std::pair<index_t, index_t>{16384, 8}, {8192, 256}, {262144, 256}}) {
        add("adam/" + std::to_string(n) + "x" + std::to_string(d) + "/r4/streams",
            [n = n, d = d](benchmark::State& state) { adam(state, n, d, 4); });
        add("ema/" + std::to_string(n) + "x" + std::to_string(d) + "/r4/scale",
            [n = n, d = d](benchmark::State& state) { ema(state, n, d, 4); });
    }
    for (const bool read : {true, false}) {
        for (const auto& [n, d] : {std::pair<index_t, index_t>{1'000'000, 8}, {1'000'000, 32}, {100'000, 256}}) {
            add("gram/" + std::to_string(n) + "x" + std::to_string(d) + (read ? "/read" : "/fma64"),
                [n = n, d = d, read](benchmark::State& state) { gram(state, n, d, read); });
        }
    }
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv)) {
        return 1;
    }
    benchmark::RunSpecifiedBenchmarks();
}
