// SPDX-License-Identifier: Apache-2.0
// The row kernels against plain float64 loops, at every SIMD level of this machine: odd widths and counts, gaps between rows,
// unaligned memory, rows of NaN, several threads.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include <doctest/doctest.h>
#include <isic/detail/kernels/kernels.hpp>

#include "support/kernels.hpp"

namespace kernels = isic::detail::kernels;
using isic::execution;
using isic::index_t;
using isic::simd;
using namespace isic_test::kernels;

namespace {

/// Orthonormal rows [r x d], rounded to T.
template <class T>
std::vector<T> orthonormal(index_t r, index_t d, unsigned seed = 5) {
    std::mt19937 random(seed);
    std::normal_distribution<double> draw;
    std::vector<double> v(at(r * d));
    for (index_t i = 0; i < r; ++i) {
        double* const row = v.data() + i * d;
        std::generate_n(row, d, [&] { return draw(random); });
        const auto product = [&](const double* other) { return std::inner_product(row, row + d, other, 0.0); };
        for (int twice = 0; twice < 2; ++twice) {
            for (index_t j = 0; j < i; ++j) {
                const double s = product(v.data() + j * d);
                for (index_t k = 0; k < d; ++k) {
                    row[k] -= s * v[at(j * d + k)];
                }
            }
            const double norm = std::sqrt(product(row));
            for (index_t k = 0; k < d; ++k) {
                row[k] /= norm;
            }
        }
    }
    return {v.begin(), v.end()};
}

/// x + s sum_j w_j (t - x) . v_j v_j
template <class T>
std::vector<double> projected(const std::vector<double>& x, const std::vector<T>& basis, index_t r, double s,
                              const std::vector<T>& target = {}, const std::vector<T>& weights = {}) {
    const auto d = static_cast<index_t>(x.size());
    std::vector<double> out = x;
    for (index_t j = 0; j < r; ++j) {
        double product = 0;
        for (index_t k = 0; k < d; ++k) {
            product += ((target.empty() ? 0.0 : static_cast<double>(target[at(k)])) - x[at(k)]) *
                       static_cast<double>(basis[at(j * d + k)]);
        }
        for (index_t k = 0; k < d; ++k) {
            out[at(k)] += s * (weights.empty() ? 1.0 : static_cast<double>(weights[at(j)])) * product *
                          static_cast<double>(basis[at(j * d + k)]);
        }
    }
    return out;
}

template <class T>
double tolerance(index_t d, double scale = 1) {
    return 20 * scale * static_cast<double>(std::numeric_limits<T>::epsilon()) *
           (4 + std::sqrt(static_cast<double>(d)));
}

template <class T>
std::vector<double> row_of(const guarded<T>& m, index_t i) {
    std::vector<double> out;
    for (index_t k = 0; k < m.cols; ++k) {
        out.push_back(m(i, k));
    }
    return out;
}

/// Largest |row i - expected|; NaN counts as infinite.
template <class T>
double distance(const guarded<T>& m, index_t i, const std::vector<double>& expected) {
    double most = 0;
    for (index_t k = 0; k < m.cols; ++k) {
        const double off = std::abs(m(i, k) - expected[at(k)]);
        most = off <= std::numeric_limits<double>::max() ? std::max(most, off) : INFINITY;
    }
    return most;
}

std::vector<index_t> ranks_for(index_t d) {
    std::vector<index_t> out;
    for (const index_t r : {1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 40}) {
        const bool skipped = d > 100 && r != 1 && r != 5 && r != 40;  // these three suffice for large d
        if (r <= d && !skipped) {
            out.push_back(r);
        }
    }
    return out;
}

template <class T>
void check_project(index_t n, index_t d, index_t r, simd level, bool all_options) {
    CAPTURE(n);
    CAPTURE(d);
    CAPTURE(r);
    CAPTURE(static_cast<int>(level));
    guarded<T> rows(n, d, 1);
    if (n > 4) {
        rows.set_row(3, std::numeric_limits<T>::quiet_NaN());
    }
    const guarded<T> before = rows;
    const std::vector<T> basis = orthonormal<T>(r, d);
    std::vector<T> target(at(all_options ? d : 0));
    std::vector<T> weights(at(all_options ? r : 0));
    std::vector<T> strength(at(all_options ? n : 0));
    for (std::size_t k = 0; k < target.size(); ++k) {
        target[k] = static_cast<T>(0.1 * static_cast<double>(k % 7));
    }
    for (std::size_t j = 0; j < weights.size(); ++j) {
        weights[j] = static_cast<T>(1.0 / (1.0 + static_cast<double>(j % 3)));
    }
    for (std::size_t i = 0; i < strength.size(); ++i) {
        strength[i] = static_cast<T>(static_cast<double>(i % 4) / 3);  // 0 for every fourth
    }
    kernels::projection<T> p{.basis = basis.data(), .rank = r};
    if (all_options) {
        p.center = target.data();
        p.weights = weights.data();
        p.strength = n > 0 ? strength.data() : nullptr;
    }
    kernels::project(rows.data(), n, d, rows.stride, p, execution{.threads = 1, .simd = level});
    CHECK(rows.guards_untouched());
    double worst = 0;
    bool kept = true;
    for (index_t i = 0; i < n; ++i) {
        const double s = strength.empty() ? 1.0 : static_cast<double>(strength[at(i)]);
        if (s == 0) {
            kept = kept && rows.same_row(before, i);
        } else if (n > 4 && i == 3) {
            kept = kept && std::isnan(rows(i, 0));
        } else {
            worst = std::max(worst, distance(rows, i, projected(row_of(before, i), basis, r, s, target, weights)));
        }
    }
    CHECK(kept);
    CHECK(worst < tolerance<T>(d));
    for (const int threads : {2, 3}) {
        guarded<T> again = before;
        kernels::project(again.data(), n, d, again.stride, p, execution{.threads = threads, .simd = level});
        CHECK(std::memcmp(again.memory.data(), rows.memory.data(), sizeof(T) * rows.memory.size()) == 0);
    }
}

}  // namespace

TEST_CASE_TEMPLATE("kernels: project", T, float, double) {
    for (const simd level : levels()) {
        for (const index_t d : widths) {
            for (const index_t r : ranks_for(d)) {
                check_project<T>(9, d, r, level, false);
                check_project<T>(affordable(65, d) ? 65 : 17, d, r, level, true);
            }
        }
        for (const index_t n : counts) {
            for (const index_t d : {4, 8, 33}) {
                check_project<T>(n, d, 1, level, false);
                check_project<T>(n, d, 3, level, true);
            }
            for (const index_t r : {1, 2, 4, 8, 11}) {  // about as many rows as the pipeline's lag
                check_project<T>(n, 40, r, level, n % 2 == 0);
            }
        }
    }
}

TEST_CASE_TEMPLATE("kernels: rows of strength 0 keep their bytes", T, float, double) {
    for (const simd level : levels()) {
        for (const index_t d : {4, 7, 8, 40}) {
            constexpr index_t n = 70;
            std::vector<T> rows(at(n * d), T(1));
            std::vector<T> strength(at(n), T(1));
            for (const index_t i : {0, 3, 64, 69}) {
                strength[at(i)] = 0;
                rows[at(i * d)] = T(-0.0);
                rows[at(i * d + 1)] = std::numeric_limits<T>::quiet_NaN();
            }
            const std::vector<T> before = rows;
            const std::vector<T> basis = orthonormal<T>(3, d);
            kernels::project(rows.data(), n, d, d, {.basis = basis.data(), .rank = 3, .strength = strength.data()},
                             execution{.threads = 1, .simd = level});
            bool right = true;
            for (index_t i = 0; i < n; ++i) {
                const auto bytes = at(d) * sizeof(T);
                const bool same = std::memcmp(rows.data() + i * d, before.data() + i * d, bytes) == 0;
                right = right && same == (strength[at(i)] == 0);
            }
            CHECK(right);
        }
    }
}

TEST_CASE("kernels: project rows of four and eight floats without gaps") {
    for (const simd level : levels()) {
        for (const index_t d : {4, 8}) {
            for (const index_t r : {1, 3}) {
                for (const index_t n : counts) {
                    std::vector<float> rows(at(n * d));
                    for (std::size_t i = 0; i < rows.size(); ++i) {
                        rows[i] = static_cast<float>(i % 11) - 5;
                    }
                    const std::vector<float> before = rows;
                    std::vector<float> strength(at(n));
                    for (std::size_t i = 0; i < strength.size(); ++i) {
                        strength[i] = static_cast<float>(i % 3) / 2;
                    }
                    const std::vector<float> basis = orthonormal<float>(r, d);
                    kernels::projection<float> p{.basis = basis.data(), .rank = r};
                    p.strength = n % 2 == 0 || n == 0 ? nullptr : strength.data();
                    kernels::project(rows.data(), n, d, d, p, execution{.threads = 1, .simd = level});
                    bool right = true;
                    for (index_t i = 0; i < n; ++i) {
                        const double s = p.strength == nullptr ? 1.0 : static_cast<double>(strength[at(i)]);
                        const std::vector<double> old(before.begin() + i * d, before.begin() + (i + 1) * d);
                        const std::vector<double> expected = projected(old, basis, r, s);
                        for (index_t k = 0; k < d; ++k) {
                            const double now = static_cast<double>(rows[at(i * d + k)]);
                            right = right && (s == 0 ? now == old[at(k)] : std::abs(now - expected[at(k)]) < 1e-5);
                        }
                    }
                    CHECK(right);
                }
            }
        }
    }
}

TEST_CASE_TEMPLATE("kernels: rows project to the same bytes at any alignment offset", T, float, double) {
    constexpr index_t line = 64 / static_cast<index_t>(sizeof(T));
    const auto same = [](T a, T b) { return std::isnan(a) ? std::isnan(b) : std::memcmp(&a, &b, sizeof(T)) == 0; };
    for (const simd level : levels()) {
        for (const auto& [n, d, r] : {std::tuple{1, 128, 1},
                                      {2, 128, 2},
                                      {9, 256, 1},
                                      {12, 256, 2},
                                      {7, 192, 2},
                                      {5, 1024, 1},
                                      {3, 128, 4},
                                      {11, 256, 4},
                                      {13, 512, 3},
                                      {10, 256, 8},
                                      {7, 4096, 4},
                                      {16500, 256, 3}}) {
            const index_t count = n;
            const index_t width = d;
            CAPTURE(count);
            CAPTURE(width);
            CAPTURE(static_cast<int>(level));
            const guarded<T> some(n, d, 5, 1, 0.3, 0);
            std::vector<T> start(some.data(), some.data() + n * d);
            if (n > 3) {  // affects no other row
                start[at(2 * d)] = std::numeric_limits<T>::quiet_NaN();
                start[at(3 * d - 1)] = std::numeric_limits<T>::infinity();
            }
            const std::vector<T> basis = orthonormal<T>(r, d);
            isic::detail::buffer<T> memory(at(n * d + 3 * line));  // begins a cache line
            std::vector<T> expected;
            for (const index_t offset : {index_t{0}, index_t{4}, line - 1}) {
                std::ranges::fill(memory, T(7));
                T* const rows = memory.data() + line + offset;
                std::ranges::copy(start, rows);
                kernels::project(rows, n, d, d, {.basis = basis.data(), .rank = r, .uniform = T(0.75)},
                                 execution{.threads = n < 9 ? 1 : 3, .simd = level});
                if (expected.empty()) {
                    expected.assign(rows, rows + n * d);
                }
                CHECK(std::equal(expected.begin(), expected.end(), rows, same));
                const auto is_guard = [](T x) { return x == 7; };
                CHECK(std::all_of(memory.data(), rows, is_guard));
                CHECK(std::all_of(rows + n * d, memory.data() + memory.size(), is_guard));
            }
            bool right = true;
            for (index_t i = 0; i < n; i += n < 20 ? 1 : 97) {
                const std::vector<double> old(start.begin() + i * d, start.begin() + (i + 1) * d);
                const std::vector<double> moved = projected(old, basis, r, 0.75);
                for (index_t k = 0; k < d && !(n > 3 && i == 2); ++k) {
                    right = right && std::abs(static_cast<double>(expected[at(i * d + k)]) - moved[at(k)]) < 1e-5;
                }
            }
            CHECK(right);
        }
    }
}

namespace {

template <class T>
void check_gram(index_t n, index_t d, simd level, int threads) {
    CAPTURE(n);
    CAPTURE(d);
    CAPTURE(static_cast<int>(level));
    CAPTURE(threads);
    const guarded<T> harmful(n, d, 1);
    const guarded<T> safe(n, d, 2);
    for (const bool difference : {false, true}) {
        std::vector<double> gram(at(d * d), 0.5);
        std::vector<double> sums(at(d), 0.25);
        const execution exec{.threads = threads, .simd = level};
        const auto run = [&](double* g, double* s) {
            if (difference) {
                kernels::add_difference_gram(harmful.data(), harmful.stride, safe.data(), safe.stride, n, d, g, s,
                                             exec);
            } else {
                kernels::add_gram(harmful.data(), n, d, harmful.stride, g, s, exec);
            }
        };
        run(gram.data(), sums.data());
        double worst = 0;
        for (index_t i = 0; i < d; ++i) {
            double sum = 0.25;
            for (index_t row = 0; row < n; ++row) {
                sum += harmful(row, i) - (difference ? safe(row, i) : 0);
            }
            worst = std::max(worst, std::abs(sum - sums[at(i)]));
            for (index_t j = 0; j < d; ++j) {
                double expected = 0.5;
                for (index_t row = 0; row < n && j >= i; ++row) {
                    const double x = harmful(row, i) - (difference ? safe(row, i) : 0);
                    const double y = harmful(row, j) - (difference ? safe(row, j) : 0);
                    expected += x * y;
                }
                worst = std::max(worst, std::abs(expected - gram[at(i * d + j)]));
            }
        }
        CHECK(worst < 1e-11);
        std::vector<double> again(at(d * d), 0.5);
        run(again.data(), nullptr);
        CHECK(again == gram);
    }
}

}  // namespace

TEST_CASE_TEMPLATE("kernels: gram", T, float, double) {
    for (const simd level : levels()) {
        for (const index_t d : widths) {
            for (const index_t n : {0, 1, 9, 97, 200}) {
                if (n * d * d <= 2'000'000) {
                    check_gram<T>(n, d, level, 1);
                }
            }
        }
        check_gram<T>(300, 8, level, 2);
        check_gram<T>(500, 33, level, 3);
    }
    std::vector<double> small{1, 2, 0, 4};
    kernels::mirror_upper(small.data(), 2);
    CHECK(small == std::vector<double>{1, 2, 2, 4});
}

namespace {

template <class T>
void check_adam(index_t n, index_t d, index_t r, simd level, int threads, index_t gap = 3) {
    CAPTURE(n);
    CAPTURE(d);
    CAPTURE(r);
    CAPTURE(static_cast<int>(level));
    guarded<T> codes(n, d, 1, 1, 0, gap);
    guarded<T> gradient(n, d, 2, 1, 0, gap);
    guarded<T> mean(n, d, 3, 0.1, 0, gap);
    guarded<T> square(n, d, 4, 0.1, 0, gap);
    for (index_t i = 0; i < n; ++i) {
        for (index_t k = 0; k < d; ++k) {
            square(i, k) = std::abs(square(i, k)) + T(0.05);
        }
    }
    if (n > 4) {
        gradient.set_row(3, std::numeric_limits<T>::quiet_NaN());
    }
    const guarded<T> codes_before = codes;
    const guarded<T> mean_before = mean;
    const guarded<T> square_before = square;
    const std::vector<T> basis = orthonormal<T>(r, d);
    std::vector<std::uint8_t> locked(at(n));
    for (std::size_t i = 5; i < locked.size(); i += 7) {
        locked[i] = 1;
    }
    kernels::adam_step<T> step{.rate = T(0.01), .basis = basis.data(), .rank = r};
    step.bias_correction1 = T(0.19);
    step.bias_correction2 = T(0.002);
    step.locked = n > 0 ? locked.data() : nullptr;
    kernels::adam<T>({.codes = codes.data(),
                      .stride = codes.stride,
                      .gradient = gradient.data(),
                      .gradient_stride = gradient.stride,
                      .mean = mean.data(),
                      .square = square.data(),
                      .state_stride = mean.stride,
                      .count = n,
                      .width = d},
                     step, execution{.threads = threads, .simd = level});
    CHECK(codes.guards_untouched());
    CHECK(mean.guards_untouched());
    CHECK(square.guards_untouched());
    double worst = 0;
    bool kept = true;
    for (index_t i = 0; i < n; ++i) {
        if (locked[at(i)] != 0) {
            kept = kept && codes.same_row(codes_before, i) && mean.same_row(mean_before, i) &&
                   square.same_row(square_before, i);
            continue;
        }
        if (n > 4 && i == 3) {
            continue;
        }
        const std::vector<double> g = projected(row_of(gradient, i), basis, r, 1.0);
        std::vector<double> m(at(d));
        std::vector<double> v(at(d));
        std::vector<double> move(at(d));
        for (index_t k = 0; k < d; ++k) {
            const double b1 = static_cast<double>(step.beta1);
            const double b2 = static_cast<double>(step.beta2);
            m[at(k)] = b1 * mean_before(i, k) + (1 - b1) * g[at(k)];
            v[at(k)] = b2 * square_before(i, k) + (1 - b2) * g[at(k)] * g[at(k)];
            move[at(k)] = -0.01 * (m[at(k)] / 0.19) / (std::sqrt(v[at(k)] / 0.002) + 1e-8);
        }
        std::vector<double> expected = projected(move, basis, r, 1.0);
        for (index_t k = 0; k < d; ++k) {
            expected[at(k)] += codes_before(i, k);
        }
        worst = std::max({worst, distance(codes, i, expected), distance(mean, i, m), distance(square, i, v)});
    }
    CHECK(kept);
    CHECK(worst < tolerance<T>(d));
}

}  // namespace

TEST_CASE_TEMPLATE("kernels: adam", T, float, double) {
    for (const simd level : levels()) {
        for (const index_t d : widths) {
            check_adam<T>(9, d, 0, level, 1);
            for (const index_t r : ranks_for(d)) {
                check_adam<T>(9, d, r, level, 1);
            }
        }
        for (const index_t n : counts) {
            for (const int threads : {1, 2, 3}) {
                check_adam<T>(n, 8, 2, level, threads);
                check_adam<T>(n, 17, 3, level, threads);
                for (const index_t d : {4, 8}) {  // several rows in a vector
                    for (const index_t r : {0, 1, 3}) {
                        check_adam<T>(n, d, r, level, threads, 0);
                    }
                }
            }
        }
    }
}

namespace {

/// A step of plain Adam for contiguous rows.
template <class T>
void adam_without_gaps(std::vector<T>& codes, const std::vector<T>& gradient, std::vector<T>& mean,
                       std::vector<T>& square, index_t d, simd level) {
    kernels::adam<T>({.codes = codes.data(),
                      .stride = d,
                      .gradient = gradient.data(),
                      .gradient_stride = d,
                      .mean = mean.data(),
                      .square = square.data(),
                      .state_stride = d,
                      .count = static_cast<index_t>(codes.size()) / d,
                      .width = d},
                     {}, execution{.threads = 1, .simd = level});
}

}  // namespace

TEST_CASE("kernels: adam flushes moments to zero before they are denormal") {
    for (const simd level : levels()) {
        for (const index_t d : {5, 8, 40}) {
            std::vector<float> codes(at(d), 1.0f);
            const std::vector<float> gradient(at(d), 0.0f);
            std::vector<float> mean(at(d), 1e-30f);
            mean[0] = -1e-30f;
            std::vector<float> square(at(d), 1e-30f);
            adam_without_gaps<float>(codes, gradient, mean, square, d, level);
            CHECK(mean == gradient);
            CHECK(square == gradient);
        }
    }
}

TEST_CASE_TEMPLATE("kernels: adam keeps values whose squared gradient is infinite, and moves all others as usual", T,
                   float, double) {
    const T huge = std::sqrt(std::numeric_limits<T>::max()) * 100;
    for (const simd level : levels()) {
        for (const index_t d : {4, 5, 8, 40}) {
            constexpr index_t n = 40;
            std::vector<T> gradient(at(n * d), T(0.5));
            gradient[at(7 * d + 1)] = huge;
            gradient[at(39 * d + 3)] = -huge;
            std::vector<T> codes(at(n * d), T(1));
            std::vector<T> mean(at(n * d));
            std::vector<T> square(at(n * d));
            adam_without_gaps<T>(codes, gradient, mean, square, d, level);
            const T moved = codes[0];
            CHECK(moved < 1);
            bool right = true;
            for (std::size_t i = 0; i < codes.size(); ++i) {
                right = right && codes[i] == (std::abs(gradient[i]) == huge ? T(1) : moved);
            }
            CHECK(right);
            CHECK(std::isinf(square[at(7 * d + 1)]));
        }
    }
}

namespace {

template <class T, class Id>
void check_ema(index_t codes, index_t n, index_t d, index_t r, simd level, index_t gap = 3) {
    CAPTURE(codes);
    CAPTURE(n);
    CAPTURE(d);
    CAPTURE(r);
    CAPTURE(static_cast<int>(level));
    const guarded<T> book(codes, d, 1, 1, 0, gap);
    const guarded<T> start(codes, d, 2, 1, 0, gap);
    const guarded<T> vectors(n, d, 3);
    std::vector<T> weights(at(codes));
    for (std::size_t k = 0; k < weights.size(); ++k) {
        weights[k] = static_cast<T>(k % 3);  // 0: a code that moves only if a vector is assigned to it
    }
    std::vector<Id> ids(at(n));
    std::mt19937 random(4);
    for (Id& id : ids) {
        id = static_cast<Id>(random() % static_cast<unsigned>(codes));
    }
    std::vector<std::uint8_t> locked(at(codes));
    locked[0] = 1;
    const std::vector<T> basis = orthonormal<T>(r, d);
    const kernels::ema_step<T> step{.decay = T(0.75), .basis = basis.data(), .rank = r, .locked = locked.data()};
    isic::detail::ema_workspace<T> space;
    for (const int threads : {1, 2, 3}) {
        guarded<T> moved = book;
        guarded<T> sums = start;
        std::vector<T> totals = weights;
        const kernels::ema_arrays<T> arrays{.codes = moved.data(),
                                            .stride = moved.stride,
                                            .counts = totals.data(),
                                            .sums = sums.data(),
                                            .sums_stride = sums.stride,
                                            .count = codes,
                                            .width = d,
                                            .vectors = vectors.data(),
                                            .vectors_stride = vectors.stride,
                                            .vector_count = n};
        kernels::ema(arrays, ids.data(), step, space, execution{.threads = threads, .simd = level});
        CHECK(moved.guards_untouched());
        CHECK(sums.guards_untouched());
        double worst = 0;
        bool kept = moved.same_row(book, 0);
        for (index_t k = 0; k < codes; ++k) {
            double count = 0;
            std::vector<double> sum(at(d));
            for (index_t i = 0; i < n; ++i) {
                if (static_cast<index_t>(ids[at(i)]) == k) {
                    count += 1;
                    for (index_t j = 0; j < d; ++j) {
                        sum[at(j)] += vectors(i, j);
                    }
                }
            }
            count = 0.75 * static_cast<double>(weights[at(k)]) + 0.25 * count;
            std::vector<double> move(at(d));
            for (index_t j = 0; j < d; ++j) {
                sum[at(j)] = count == 0 ? 0.0 : 0.75 * start(k, j) + 0.25 * sum[at(j)];
                move[at(j)] = sum[at(j)] / count - book(k, j);
            }
            worst = std::max({worst, distance(sums, k, sum), std::abs(count - static_cast<double>(totals[at(k)]))});
            if (count == 0) {
                kept = kept && moved.same_row(book, k);
            } else if (k > 0) {
                std::vector<double> expected = projected(move, basis, r, 1.0);
                for (index_t j = 0; j < d; ++j) {
                    expected[at(j)] += book(k, j);
                }
                worst = std::max(worst, distance(moved, k, expected));
            }
        }
        CHECK(kept);
        CHECK(worst < tolerance<T>(d, 20));
    }
}

}  // namespace

TEST_CASE_TEMPLATE("kernels: ema", T, float, double) {
    for (const simd level : levels()) {
        for (const index_t d : widths) {
            check_ema<T, std::int32_t>(10, 30, d, std::min<index_t>(d, 3), level);
        }
        for (const index_t d : {4, 8}) {  // several rows in a vector
            for (const index_t codes : {1, 2, 65, 200}) {
                check_ema<T, std::int64_t>(codes, 150, d, 2, level, 0);
            }
        }
        check_ema<T, std::int64_t>(100, 0, 8, 0, level);
        check_ema<T, std::int64_t>(70, 500, 9, 9, level);
        check_ema<T, std::int64_t>(300, 400, 1000, 12, level);  // the sums exceed the cache: vectors are sorted
    }
}

TEST_CASE("kernels: large work is split among threads") {
    const index_t n = 40'000;
    const index_t d = 16;
    guarded<float> rows(n, d, 1);
    guarded<float> again = rows;
    const std::vector<float> basis = orthonormal<float>(2, d);
    const kernels::projection<float> p{.basis = basis.data(), .rank = 2};
    kernels::project(rows.data(), n, d, rows.stride, p);
    kernels::project(again.data(), n, d, again.stride, p, execution{.threads = 1});
    CHECK(rows.memory == again.memory);
}
