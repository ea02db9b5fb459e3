// SPDX-License-Identifier: Apache-2.0
// The nearest-neighbour kernels against plain float64 loops, at every SIMD level of this machine: odd widths and counts, gaps
// between rows, rows of NaN, near ties, several threads.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include <doctest/doctest.h>
#include <isic/detail/kernels/kernels.hpp>

#include "support/kernels.hpp"

namespace kernels = isic::detail::kernels;
using isic::execution;
using isic::index_t;
using isic::simd;
using kernels::code_packing;
using namespace isic_test::kernels;

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
    for (const auto& mode : {std::pair(code_packing::flat, 1), {code_packing::flat, 3}, {code_packing::indexed, 2}}) {
        const code_packing packing = mode.first;
        const int threads = mode.second;
        CAPTURE(static_cast<int>(packing));
        const kernels::packed_codes<T> packed(codes.data(), codes.rows, codes.cols, codes.stride, padding.data(), level,
                                              packing);
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

TEST_CASE_TEMPLATE("kernels: the k-d tree finds the codes that exhaustive search finds", T, float, double) {
    for (const simd level : levels()) {
        for (const index_t d : {1, 3, 4, 5, 8}) {
            guarded<T> vectors(150, d, 2);
            guarded<T> book(3000, d, 3);
            std::vector<std::uint8_t> padding(3000);
            check_nearest(vectors, book, padding, level);

            // Clusters far apart, with repeated codes, some of them padding.
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

TEST_CASE_TEMPLATE("kernels: the k-d tree finds codes closer than the quantisation step, and beyond the int16 range", T,
                   float, double) {
    for (const simd level : levels()) {
        for (const index_t d : {1, 2, 4, 7, 8}) {
            CAPTURE(d);
            // Two outliers make the quantisation step 1; within one step of zero there are few codes, some, or many.
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
            // Vectors at and beyond the int16 range.
            guarded<T> vectors(90, d, 2);
            guarded<T> book(1200, d, 3);
            for (index_t i = 0; i < vectors.rows; ++i) {
                for (index_t j = 0; j < d; ++j) {
                    vectors(i, j) *= static_cast<T>(std::pow(10.0, static_cast<double>(i % 7 - 1) / 2));
                }
            }
            check_nearest(vectors, book, std::vector<std::uint8_t>(1200), level);
            // Codes too small and too large for an int16 scale, and a single eligible code.
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

TEST_CASE_TEMPLATE("kernels: a code is found though int16 quantisation moves it away and another nearer", T, float,
                   double) {
    // The mean is zero and the quantisation step is 1. 0.49 rounds down, 100.51 away from it, -100.49 towards it.
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

TEST_CASE_TEMPLATE("kernels: int8 scores never prune the nearest code", T, float, double) {
    for (const simd level : levels()) {
        for (const index_t d : {16, 31, 100}) {
            CAPTURE(d);
            // Vectors and codes of many magnitudes, some codes padding or repeated; one vector is zero.
            guarded<T> vectors(90, d, 2);
            guarded<T> book(700, d, 3);
            std::vector<std::uint8_t> padding(700);
            for (index_t i = 0; i < vectors.rows; ++i) {
                const double size = i == 7 ? 0 : std::pow(10.0, static_cast<double>(i % 9 - 4));
                for (index_t j = 0; j < d; ++j) {
                    vectors(i, j) =
                        static_cast<T>((vectors(i, j) + (i % 4 == 1 ? 3 : 0)) * size * (j % 16 == 3 ? 30 : 1));
                }
            }
            for (index_t k = 0; k < book.rows; ++k) {
                for (index_t j = 0; j < d; ++j) {
                    book(k, j) = k % 50 == 49
                                     ? book(k - 10, j)
                                     : static_cast<T>(book(k, j) * std::pow(4.0, static_cast<double>(k % 7 - 3)));
                }
                padding[at(k)] = k % 13 == 0 || k < 60 ? 1 : 0;
            }
            check_nearest(vectors, book, padding, level);

            // For every third vector, more codes within the int8 error than a list holds: float32 scores decide.
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

TEST_CASE_TEMPLATE("kernels: a code is found though int8 quantisation hides the difference", T, float, double) {
    constexpr index_t d = 100;
    const auto row = [](guarded<T>& m, index_t i, double first, double others) {
        for (index_t j = 0; j < d; ++j) {
            m(i, j) = static_cast<T>(j == 0 ? first : others);
        }
    };
    // Pairs of opposite codes, so that the centre is zero. All but the first columns of (127, 0.49, ...) round to zero.
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

        // Columns of one sign, and codes of different scales.
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

TEST_CASE_TEMPLATE("kernels: ties go to the lowest id, and near ties are re-ranked", T, float, double) {
    for (const simd level : levels()) {
        for (const index_t d : {3, 8, 40}) {
            guarded<T> vectors(50, d, 2);
            guarded<T> book(200, d, 3);
            for (index_t k = 100; k < 200; ++k) {  // every code twice
                std::copy_n(book.row(k - 100), d, book.data() + k * book.stride);
            }
            check_nearest(vectors, book, std::vector<std::uint8_t>(200), level);

            // Distances far below the rounding error of products of the norms, around several centres.
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
            } else {  // outside the range of float32 scores, on either side
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

/// Nearest code by long double distances, for their larger exponent range.
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
        for (const code_packing packing : {code_packing::flat, code_packing::indexed}) {
            CAPTURE(static_cast<int>(level));
            CAPTURE(static_cast<int>(packing));
            const kernels::packed_codes<double> packed(codes.data(), codes.rows, codes.cols, codes.stride, nullptr,
                                                       level, packing);
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

        // Codes that differ by 1e-170 in one column, and vectors equal to one of them.
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
