// The SIMD kernels against plain float64 loops, at every level that this machine has: odd widths and counts, gaps between
// rows, memory that is not aligned, rows of NaN, near ties, several threads.
#include <isic/detail/kernels/kernels.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include <doctest/doctest.h>

namespace kernels = isic::detail::kernels;
using isic::execution;
using isic::index_t;
using isic::simd;
using isic::detail::kernels::code_packing;

namespace {

constexpr index_t widths[] = {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 100, 256, 1000};
constexpr index_t counts[] = {0, 1, 2, 3, 7, 8, 9, 63, 64, 65, 1000};

std::vector<simd> levels() {
    std::vector<simd> out;
    for (const simd level : {simd::baseline, simd::avx2, simd::avx512, simd::avx512_vnni}) {
        if (level <= isic::best_simd()) {
            out.push_back(level);
        }
    }
    return out;
}

/// Whether a shape is small enough for a loop over everything else.
bool affordable(index_t n, index_t d) {
    return n * d <= 20'000;
}

std::size_t at(index_t i) {
    return static_cast<std::size_t>(i);
}

/// A matrix with gaps between its rows, one value off alignment, with guards in the gaps and around.
template <class T>
struct guarded {
    guarded(index_t n, index_t d, unsigned seed, double scale = 1, double shift = 0, index_t gap = 3)
        : rows(n), cols(d), stride(d + gap) {
        memory.assign(at(1 + n * stride + 5), guard);
        std::mt19937 random(seed);
        std::normal_distribution<double> draw;
        for (index_t i = 0; i < n; ++i) {
            for (index_t k = 0; k < d; ++k) {
                (*this)(i, k) = static_cast<T>(shift + scale * draw(random));
            }
        }
    }

    T* data() { return memory.data() + 1; }
    const T* data() const { return memory.data() + 1; }
    T& operator()(index_t i, index_t k) { return data()[i * stride + k]; }
    double operator()(index_t i, index_t k) const { return static_cast<double>(data()[i * stride + k]); }
    const T* row(index_t i) const { return data() + i * stride; }

    void set_row(index_t i, T value) { std::fill_n(data() + i * stride, cols, value); }

    bool guards_untouched() const {
        bool kept = memory[0] == guard;
        for (std::size_t k = 1; k < memory.size(); ++k) {
            const auto place = static_cast<index_t>(k) - 1;
            const bool inside = place < rows * stride && place % stride < cols;
            kept = kept && (inside || memory[k] == guard);
        }
        return kept;
    }

    bool same_row(const guarded& other, index_t i) const {
        return std::memcmp(row(i), other.row(i), sizeof(T) * at(cols)) == 0;
    }

    static constexpr T guard = T(12345);
    index_t rows;
    index_t cols;
    index_t stride;
    std::vector<T> memory;
};

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
        const bool wide = d > 100 && r != 1 && r != 5 && r != 40;  // enough there
        if (r <= d && !wide) {
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
            for (const index_t r : {1, 2, 4, 8, 11}) {  // as many rows as steps are apart, and some more or fewer
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

TEST_CASE_TEMPLATE("kernels: rows project to the same bytes wherever in a cache line they begin", T, float, double) {
    constexpr index_t line = 64 / static_cast<index_t>(sizeof(T));
    const auto same = [](T a, T b) { return std::isnan(a) ? std::isnan(b) : std::memcmp(&a, &b, sizeof(T)) == 0; };
    for (const simd level : levels()) {
        for (const auto& [n, d, r] :
             {std::tuple{1, 128, 1}, {2, 128, 2}, {9, 256, 1}, {12, 256, 2}, {7, 192, 2}, {5, 1024, 1}, {3, 128, 4}, {11, 256, 4},
              {13, 512, 3}, {10, 256, 8}, {7, 4096, 4}, {16500, 256, 3}}) {
            const index_t count = n;
            const index_t width = d;
            CAPTURE(count);
            CAPTURE(width);
            CAPTURE(static_cast<int>(level));
            const guarded<T> some(n, d, 5, 1, 0.3, 0);
            std::vector<T> start(some.data(), some.data() + n * d);
            if (n > 3) {  // disturbs no other row
                start[at(2 * d)] = std::numeric_limits<T>::quiet_NaN();
                start[at(3 * d - 1)] = std::numeric_limits<T>::infinity();
            }
            const std::vector<T> basis = orthonormal<T>(r, d);
            isic::detail::buffer<T> memory(at(n * d + 3 * line));  // begins with a line
            std::vector<T> expected;
            for (const index_t place : {index_t{0}, index_t{4}, line - 1}) {
                std::ranges::fill(memory, T(7));
                T* const rows = memory.data() + line + place;
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
index_t plain_nearest(const guarded<T>& vectors, index_t i, const guarded<T>& codes,
                      const std::vector<std::uint8_t>& padding) {
    index_t best = -1;
    double least = INFINITY;
    for (index_t k = 0; k < codes.rows; ++k) {
        double distance = 0;
        for (index_t j = 0; j < codes.cols; ++j) {
            const double step = vectors(i, j) - codes(k, j);
            distance += step * step;
        }
        if (padding[at(k)] == 0 && distance < least) {
            least = distance;
            best = k;
        }
    }
    return best;
}

template <class T>
void check_nearest(const guarded<T>& vectors, const guarded<T>& codes, const std::vector<std::uint8_t>& padding,
                   simd level) {
    CAPTURE(vectors.rows);
    CAPTURE(codes.rows);
    CAPTURE(codes.cols);
    CAPTURE(static_cast<int>(level));
    for (const auto& way : {std::pair(code_packing::plain, 1), {code_packing::plain, 3}, {code_packing::indexed, 2}}) {
        const code_packing packing = way.first;
        const int threads = way.second;
        CAPTURE(static_cast<int>(packing));
        const kernels::packed_codes<T> packed(codes.data(), codes.rows, codes.cols, codes.stride, padding.data(), level, packing);
        std::vector<index_t> ids(at(vectors.rows), -7);
        std::vector<double> distances(at(vectors.rows));
        packed.nearest(vectors.data(), vectors.rows, vectors.stride, ids.data(), distances.data(),
                       execution{.threads = threads});
        index_t wrong = 0;
        for (index_t i = 0; i < vectors.rows; ++i) {
            const index_t expected = plain_nearest(vectors, i, codes, padding);
            if (expected < 0) {
                wrong += ids[at(i)] >= 0 && padding[at(ids[at(i)])] == 0 ? 0 : 1;
                continue;
            }
            double distance = 0;
            for (index_t j = 0; j < codes.cols; ++j) {
                const double step = vectors(i, j) - codes(expected, j);
                distance += step * step;
            }
            wrong += ids[at(i)] == expected && distances[at(i)] == distance ? 0 : 1;
        }
        CHECK(wrong == 0);
    }
}

}  // namespace

TEST_CASE_TEMPLATE("kernels: nearest codes are those of float64", T, float, double) {
    for (const simd level : levels()) {
        for (const index_t d : widths) {
            for (const index_t n : counts) {
                if (!affordable(n, d)) {
                    continue;
                }
                const index_t codes = n % 2 == 0 ? 1 + n % 100 : 101;
                guarded<T> vectors(n, d, 2);
                guarded<T> book(codes, d, 3);
                std::vector<std::uint8_t> padding(at(codes));
                if (codes > 50) {
                    padding[0] = padding[49] = 1;
                    book.set_row(49, T(0));
                    book.set_row(20, std::numeric_limits<T>::quiet_NaN());
                    book.set_row(21, std::numeric_limits<T>::infinity());
                }
                if (n > 5) {
                    vectors.set_row(4, std::numeric_limits<T>::quiet_NaN());
                }
                check_nearest(vectors, book, padding, level);
            }
        }
    }
}

TEST_CASE_TEMPLATE("kernels: codes packed by place are found as if all were compared with", T, float, double) {
    for (const simd level : levels()) {
        for (const index_t d : {1, 3, 4, 5, 8}) {
            guarded<T> vectors(150, d, 2);
            guarded<T> book(3000, d, 3);
            std::vector<std::uint8_t> padding(3000);
            check_nearest(vectors, book, padding, level);

            // Clusters far apart, with codes that occur several times, some of which may not win.
            for (index_t k = 0; k < book.rows; ++k) {
                for (index_t j = 0; j < d; ++j) {
                    book(k, j) = static_cast<T>(k % 7 * 100) + (k % 3 == 0 ? T(0.5) : book(k, j));
                }
                padding[at(k)] = k % 11 == 0 ? 1 : 0;
            }
            for (index_t i = 0; i < vectors.rows; ++i) {
                for (index_t j = 0; j < d; ++j) {
                    vectors(i, j) += static_cast<T>(i % 9 * 90);
                }
            }
            check_nearest(vectors, book, padding, level);
        }
    }
}

TEST_CASE_TEMPLATE("kernels: a search finds what rounding to units hides or puts out of reach", T, float, double) {
    for (const simd level : levels()) {
        for (const index_t d : {1, 2, 4, 7, 8}) {
            CAPTURE(d);
            // Two codes far out make the unit one; within it there are few codes, some, or a crowd.
            for (const index_t crowd : {5, 40, 1000}) {
                guarded<T> vectors(130, d, 2);
                guarded<T> book(1200, d, 3);
                for (index_t j = 0; j < d; ++j) {
                    for (index_t k = 0; k < book.rows; ++k) {
                        book(k, j) *= k < crowd ? T(0.3) : T(400);
                    }
                    book(1, j) = 4095;
                    book(2, j) = -4095;
                    for (index_t i = 0; i < vectors.rows; ++i) {
                        vectors(i, j) *= i % 3 == 0 ? T(0.3) : i % 3 == 1 ? T(400) : T(3);
                    }
                }
                check_nearest(vectors, book, std::vector<std::uint8_t>(1200), level);
            }
            // Vectors at and beyond the values that are searched for.
            guarded<T> vectors(90, d, 2);
            guarded<T> book(1200, d, 3);
            for (index_t i = 0; i < vectors.rows; ++i) {
                for (index_t j = 0; j < d; ++j) {
                    vectors(i, j) *= static_cast<T>(std::pow(10.0, static_cast<double>(i % 7 - 1) / 2));
                }
            }
            check_nearest(vectors, book, std::vector<std::uint8_t>(1200), level);
            // Codes too small and too large for units, and one alone.
            for (const double size : {1e-36, 1e-30, 1e30, 1e36}) {
                guarded<T> small_vectors(40, d, 4);
                guarded<T> small_book(300, d, 5);
                for (index_t j = 0; j < d; ++j) {
                    for (index_t i = 0; i < small_vectors.rows; ++i) {
                        small_vectors(i, j) = static_cast<T>(small_vectors(i, j) * size);
                    }
                    for (index_t k = 0; k < small_book.rows; ++k) {
                        small_book(k, j) = static_cast<T>(small_book(k, j) * size);
                    }
                }
                check_nearest(small_vectors, small_book, std::vector<std::uint8_t>(300), level);
            }
            std::vector<std::uint8_t> all_but_one(1200, 1);
            all_but_one[777] = 0;
            check_nearest(vectors, book, all_but_one, level);
        }
    }
}

TEST_CASE_TEMPLATE("kernels: a code is found though rounding to units moves it away, and all else nearer", T, float, double) {
    // The mean is zero and the unit is one. 0.49 is rounded down, 100.51 away from it, -100.49 towards it.
    for (const simd level : levels()) {
        for (const index_t d : {4, 8}) {
            guarded<T> vectors(1, d, 2);
            guarded<T> book(4, d, 3);
            for (index_t j = 0; j < d; ++j) {
                vectors(0, j) = T(0.49);
                book(0, j) = T(-100.49);
                book(1, j) = T(100.51);
                book(2, j) = T(4094.98);
                book(3, j) = T(-4095);
            }
            REQUIRE(plain_nearest(vectors, 0, book, std::vector<std::uint8_t>(4)) == 1);
            check_nearest(vectors, book, std::vector<std::uint8_t>(4), level);
        }
    }
}

TEST_CASE_TEMPLATE("kernels: codes that scores in bytes rule out are not the nearest", T, float, double) {
    for (const simd level : levels()) {
        for (const index_t d : {16, 31, 100}) {
            CAPTURE(d);
            // Vectors of all sizes beside codes of all sizes, some of which may not win or come twice; one vector is zero.
            guarded<T> vectors(90, d, 2);
            guarded<T> book(700, d, 3);
            std::vector<std::uint8_t> padding(700);
            for (index_t i = 0; i < vectors.rows; ++i) {
                const double size = i == 7 ? 0 : std::pow(10.0, static_cast<double>(i % 9 - 4));
                for (index_t j = 0; j < d; ++j) {
                    vectors(i, j) = static_cast<T>((vectors(i, j) + (i % 4 == 1 ? 3 : 0)) * size * (j % 16 == 3 ? 30 : 1));
                }
            }
            for (index_t k = 0; k < book.rows; ++k) {
                for (index_t j = 0; j < d; ++j) {
                    book(k, j) = k % 50 == 49 ? book(k - 10, j) : static_cast<T>(book(k, j) * std::pow(4.0, static_cast<double>(k % 7 - 3)));
                }
                padding[at(k)] = k % 13 == 0 || k < 60 ? 1 : 0;
            }
            check_nearest(vectors, book, padding, level);

            // More codes as near as bytes can tell than a list holds, for every third vector: those are compared in float32.
            for (index_t k = 0; k < book.rows; ++k) {
                for (index_t j = 0; j < d; ++j) {
                    book(k, j) = static_cast<T>(k % 2 == 0 ? book(k, j) + 50 : 1 + 1e-4 * book(k, j));
                }
            }
            guarded<T> many(400, d, 4);
            for (index_t i = 0; i < many.rows; i += 3) {
                for (index_t j = 0; j < d; ++j) {
                    many(i, j) = static_cast<T>(many(i, j) * 1e-3 + 1);
                }
            }
            check_nearest(many, book, std::vector<std::uint8_t>(700), level);
        }
    }
}

TEST_CASE_TEMPLATE("kernels: a code is found though rounding to bytes hides what brings it near", T, float, double) {
    constexpr index_t d = 100;
    const auto row = [](guarded<T>& m, index_t i, double first, double others) {
        for (index_t j = 0; j < d; ++j) {
            m(i, j) = static_cast<T>(j == 0 ? first : others);
        }
    };
    // Pairs around zero, so that the centre is zero. All but the first columns of (127, 0.49, ...) round to zero.
    for (const simd level : levels()) {
        guarded<T> vectors(1, d, 2);
        guarded<T> book(4, d, 3);
        row(vectors, 0, 127, 0.49);
        row(book, 0, 0.05, 0);
        row(book, 1, -0.05, 0);
        row(book, 2, 0, 0.5);
        row(book, 3, 0, -0.5);
        REQUIRE(plain_nearest(vectors, 0, book, std::vector<std::uint8_t>(4)) == 2);
        check_nearest(vectors, book, std::vector<std::uint8_t>(4), level);

        row(vectors, 0, 0, 10);
        row(book, 0, 0, 0.002);
        row(book, 1, 0, -0.002);
        row(book, 2, 1.27, 0.0049);
        row(book, 3, -1.27, -0.0049);
        REQUIRE(plain_nearest(vectors, 0, book, std::vector<std::uint8_t>(4)) == 2);
        check_nearest(vectors, book, std::vector<std::uint8_t>(4), level);

        // Columns of one sign, beside codes whose scales differ.
        row(vectors, 0, 10, 10);
        row(book, 2, 1e-4, 1e-4);
        row(book, 3, -1e-4, -1e-4);
        for (index_t j = 0; j < d; ++j) {
            book(0, j) = static_cast<T>(j % 2 == 0 ? 0.05 : -0.05);
            book(1, j) = -book(0, j);
        }
        REQUIRE(plain_nearest(vectors, 0, book, std::vector<std::uint8_t>(4)) == 2);
        check_nearest(vectors, book, std::vector<std::uint8_t>(4), level);
    }
}

TEST_CASE_TEMPLATE("kernels: ties go to the lowest code, and rounding decides nothing", T, float, double) {
    for (const simd level : levels()) {
        for (const index_t d : {3, 8, 40}) {
            guarded<T> vectors(50, d, 2);
            guarded<T> book(200, d, 3);
            for (index_t k = 100; k < 200; ++k) {  // every code twice
                std::copy_n(book.row(k - 100), d, book.data() + k * book.stride);
            }
            check_nearest(vectors, book, std::vector<std::uint8_t>(200), level);

            // Distances far below what rounding leaves of products of the norms, around several centres.
            const double far = sizeof(T) == sizeof(float) ? 1e4 : 1e12;
            guarded<T> close(300, d, 4, 1, far);
            guarded<T> near_by(60, d, 5, 1, far);
            for (index_t k = 0; k < 300; k += 2) {
                for (index_t j = 0; j < d; ++j) {
                    close(k, j) = -close(k, j);
                }
            }
            check_nearest(near_by, close, std::vector<std::uint8_t>(300), level);

            guarded<T> huge(70, d, 6, static_cast<double>(std::numeric_limits<T>::max()) * 1e-10);
            guarded<T> small(70, d, 7, static_cast<double>(std::numeric_limits<T>::min()) * 100);
            if (sizeof(T) == sizeof(float)) {  // squares of such doubles overflow in the reference too
                check_nearest(huge, huge, std::vector<std::uint8_t>(70), level);
                check_nearest(small, small, std::vector<std::uint8_t>(70), level);
                check_nearest(small, huge, std::vector<std::uint8_t>(70), level);
            } else {  // beyond float32, in which scores are, on either side
                guarded<T> large(70, d, 6, 1e60);
                guarded<T> tiny(70, d, 7, 1e-60);
                check_nearest(large, large, std::vector<std::uint8_t>(70), level);
                check_nearest(tiny, tiny, std::vector<std::uint8_t>(70), level);
                check_nearest(tiny, large, std::vector<std::uint8_t>(70), level);
                check_nearest(large, tiny, std::vector<std::uint8_t>(70), level);
            }
        }
    }
}

namespace {

/// The same in long double, whose exponents go further.
index_t nearest_in_long_double(const guarded<double>& vectors, index_t i, const guarded<double>& codes) {
    index_t best = 0;
    long double least = INFINITY;
    for (index_t k = 0; k < codes.rows; ++k) {
        long double distance = 0;
        for (index_t j = 0; j < codes.cols; ++j) {
            const long double step = static_cast<long double>(vectors(i, j)) - static_cast<long double>(codes(k, j));
            distance += step * step;
        }
        if (distance < least) {
            least = distance;
            best = k;
        }
    }
    return best;
}

void check_extreme(const guarded<double>& vectors, const guarded<double>& codes) {
    CAPTURE(codes.rows);
    CAPTURE(codes.cols);
    std::vector<index_t> expected(at(vectors.rows));
    for (index_t i = 0; i < vectors.rows; ++i) {
        expected[at(i)] = nearest_in_long_double(vectors, i, codes);
    }
    for (const simd level : levels()) {
        for (const code_packing packing : {code_packing::plain, code_packing::indexed}) {
            CAPTURE(static_cast<int>(level));
            CAPTURE(static_cast<int>(packing));
            const kernels::packed_codes<double> packed(codes.data(), codes.rows, codes.cols, codes.stride, nullptr, level, packing);
            std::vector<index_t> ids(at(vectors.rows), -7);
            std::vector<double> distances(at(vectors.rows), -7);
            packed.nearest(vectors.data(), vectors.rows, vectors.stride, ids.data(), nullptr);
            CHECK(ids == expected);
            packed.nearest(vectors.data(), vectors.rows, vectors.stride, ids.data(), distances.data());
            CHECK(ids == expected);
            CHECK(std::ranges::all_of(distances, [](double x) { return x >= 0; }));
        }
    }
}

}  // namespace

TEST_CASE("kernels: codes are told apart where squares do not fit float64") {
    if (std::numeric_limits<long double>::max_exponent < 2 * std::numeric_limits<double>::max_exponent) {
        MESSAGE("skipped: long double is no wider than double");
        return;
    }
    for (const auto& [count, d] : {std::pair<index_t, index_t>{70, 3}, {4500, 3}, {1500, 8}, {50, 40}, {400, 100}}) {
        for (const double size : {1e-320, 1e-200, 1e-160, 1e-155, 1e153, 1e155, 1e200, 4e307}) {
            CAPTURE(size);
            const double shrunk = size < 1 ? size : size / 5;  // so that all values fit
            check_extreme(guarded<double>(9, d, 1, shrunk), guarded<double>(count, d, 2, shrunk));
            check_extreme(guarded<double>(9, d, 1), guarded<double>(count, d, 2, shrunk));
            check_extreme(guarded<double>(9, d, 1, shrunk), guarded<double>(count, d, 2));
        }

        // Codes that differ in one column by next to nothing, and vectors that are one of them.
        guarded<double> book(count, d, 3);
        guarded<double> vectors(9, d, 4);
        for (index_t k = 0; k < count; ++k) {
            if (k % 3 > 0) {
                std::copy_n(book.row(k - k % 3), d, book.data() + k * book.stride);
            }
            book(k, d - 1) = static_cast<double>(k % 3) * 1e-170;
        }
        for (index_t i = 0; i < vectors.rows; ++i) {
            std::copy_n(book.row(3 * i + i % 3), d, vectors.data() + i * vectors.stride);
        }
        check_extreme(vectors, book);
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
                kernels::add_difference_gram(harmful.data(), harmful.stride, safe.data(), safe.stride, n, d, g, s, exec);
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
    kernels::adam(codes.data(), codes.stride, gradient.data(), gradient.stride, mean.data(), square.data(), mean.stride,
                  n, d, step, execution{.threads = threads, .simd = level});
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

TEST_CASE("kernels: adam forgets moments before they are denormal") {
    for (const simd level : levels()) {
        for (const index_t d : {5, 8, 40}) {
            std::vector<float> codes(at(d), 1.0f);
            const std::vector<float> gradient(at(d), 0.0f);
            std::vector<float> mean(at(d), 1e-30f);
            mean[0] = -1e-30f;
            std::vector<float> square(at(d), 1e-30f);
            kernels::adam(codes.data(), d, gradient.data(), d, mean.data(), square.data(), d, 1, d,
                          kernels::adam_step<float>{}, execution{.threads = 1, .simd = level});
            CHECK(mean == gradient);
            CHECK(square == gradient);
        }
    }
}

TEST_CASE_TEMPLATE("kernels: adam does not move where the square of a gradient is infinite, and elsewhere as ever", T, float, double) {
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
            kernels::adam(codes.data(), d, gradient.data(), d, mean.data(), square.data(), d, n, d, kernels::adam_step<T>{},
                          execution{.threads = 1, .simd = level});
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
        weights[k] = static_cast<T>(k % 3);  // 0: a code that stays unless a vector comes
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
        kernels::ema(moved.data(), moved.stride, totals.data(), sums.data(), sums.stride, codes, d, vectors.data(),
                     vectors.stride, ids.data(), n, step, space, execution{.threads = threads, .simd = level});
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
        check_ema<T, std::int64_t>(300, 400, 1000, 12, level);  // sums beyond the cache: vectors are sorted
    }
}

TEST_CASE("kernels: work is shared among threads when there is enough of it") {
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
