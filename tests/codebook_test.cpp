// SPDX-License-Identifier: Apache-2.0
#include <isic/codebook.hpp>

#include <limits>
#include <set>

#include "support/data.hpp"
#include "support/errors.hpp"
#include "support/reference.hpp"

using isic::index_t;
using isic::metric;
using isic_test::check_throws;
using isic_test::dense;
using isic_test::infinity;
using isic_test::not_a_number;

namespace {

/// Nearest codes by exhaustive search in float64; of equal distances, the lowest id.
std::vector<index_t> brute_force(dense z, dense c, metric metric, const std::set<index_t>& padding = {}) {
    const auto normalise = [](dense& m) {
        for (index_t i = 0; i < m.rows(); ++i) {
            double square = 0;
            for (index_t j = 0; j < m.cols(); ++j) {
                square += m(i, j) * m(i, j);
            }
            for (index_t j = 0; j < m.cols() && square > 0; ++j) {
                m(i, j) /= std::sqrt(square);
            }
        }
    };
    if (metric == metric::cosine) {
        normalise(z);
        normalise(c);
    }
    std::vector<index_t> out;
    for (index_t i = 0; i < z.rows(); ++i) {
        index_t best = -1;
        double least = std::numeric_limits<double>::infinity();
        for (index_t k = 0; k < c.rows(); ++k) {
            double distance = 0;
            for (index_t j = 0; j < c.cols(); ++j) {
                distance += (z(i, j) - c(k, j)) * (z(i, j) - c(k, j));
            }
            if (distance < least && !padding.contains(k)) {
                best = k;
                least = distance;
            }
        }
        out.push_back(best);
    }
    return out;
}

}  // namespace

TEST_CASE_TEMPLATE("nearest codes agree with exhaustive search in float64", T, ISIC_STORAGE) {
    isic_test::random dice(1);
    for (const auto& [n, codes, d] :
         {std::tuple{1, 1, 1}, {5, 1, 4}, {130, 70, 3}, {65, 200, 8}, {64, 33, 32}, {3, 20, 200}}) {
        for (const metric metric : {metric::l2, metric::cosine}) {
            auto book = dice.matrix<T>(codes, d);
            for (index_t k = 1; k < codes; k += 3) {  // every third code repeats an earlier one: ties
                std::ranges::copy(book.row(dice.below(k)), book.row(k).begin());
            }
            const auto z = dice.matrix<float>(n, d);
            isic_test::strided<T> memory(book, 5);
            const auto expected = brute_force(isic_test::to_dense(z), isic_test::to_dense(book), metric);
            CHECK(isic::nearest_codes(z, book, metric) == expected);
            CHECK(isic::nearest_codes(z, memory.span(), metric) == expected);
        }
    }
}

TEST_CASE("codes far from the origin are told apart by their distances") {
    isic_test::random dice(2);
    auto book = dice.matrix(60, 5, 1e-3);
    auto z = dice.matrix(40, 5, 1e-3);
    for (double& value : std::span(book.data(), 300)) {
        value += 1e7;
    }
    for (double& value : std::span(z.data(), 200)) {
        value += 1e7;
    }
    CHECK(isic::nearest_codes(z, book) == brute_force(isic_test::to_dense(z), isic_test::to_dense(book), metric::l2));
}

TEST_CASE("exact ties go to the lowest id") {
    const auto book = isic_test::from_rows<double>({{1, 0}, {0, 1}, {-1, 0}, {0, -1}, {1, 0}});
    CHECK(isic::nearest_codes(isic_test::from_rows<double>({{0, 0}, {3, 0}, {2, 2}, {-1, -1}}), book) ==
          std::vector<index_t>{0, 0, 0, 2});
}

TEST_CASE("the cosine metric ignores norms, the l2 metric does not") {
    const auto book = isic_test::from_rows<float>({{10, 0}, {0.6, 0.8}, {0, 0}});
    const auto z = isic_test::from_rows<float>({{0.5, 0.1}});
    CHECK(isic::nearest_codes(z, book, metric::l2).front() == 2);
    CHECK(isic::nearest_codes(z, book, metric::cosine).front() == 0);
}

TEST_CASE("codes are told apart where squares do not fit float64, with either metric") {
    for (const double size : {1e-320, 1e-200, 1e-160, 1.0, 1e155, 1e200, 1e307}) {
        CAPTURE(size);
        const auto book = isic_test::from_rows<double>({{-size, 0}, {0, -size}, {size, size}, {0, size}, {size, 0}});
        const auto z =
            isic_test::from_rows<double>({{3 * size, size}, {size, 3 * size}, {size, size}, {size / 8, -size}});
        CHECK(isic::nearest_codes(z, book) == std::vector<index_t>{2, 2, 2, 1});
        CHECK(isic::code_index(book).nearest(z) == std::vector<index_t>{2, 2, 2, 1});
        CHECK(isic::nearest_codes(z, book, metric::cosine) == std::vector<index_t>{4, 3, 2, 1});
    }
    // Directions that differ by 1e-170, and rows of one direction at both ends of the range of float64.
    const auto book = isic_test::from_rows<double>({{1, 0}, {1, 1e-170}, {1e200, 1e200}, {1e-200, -1e-200}});
    const auto z = isic_test::from_rows<double>({{2, 2e-170}, {2, -1e-170}, {1e-300, 1e-300}, {1e300, -1e300}});
    CHECK(isic::nearest_codes(z, book, metric::cosine) == std::vector<index_t>{1, 0, 2, 3});
}

TEST_CASE("padding is never the nearest and may hold anything") {
    isic_test::random dice(3);
    auto book = dice.matrix<float>(40, 6);
    const auto z = dice.matrix<float>(200, 6);
    const std::vector<index_t> padding{0, 17, 17, 39};
    const auto ids = isic::nearest_codes(z, book);
    CHECK(std::ranges::count(ids, 17) > 0);
    const auto expected = brute_force(isic_test::to_dense(z), isic_test::to_dense(book), metric::l2, {0, 17, 39});
    CHECK(isic::nearest_codes(z, book, metric::l2, padding) == expected);
    for (const index_t k : padding) {
        std::ranges::fill(book.row(k), std::numeric_limits<float>::quiet_NaN());
    }
    CHECK(isic::nearest_codes(z, book, metric::l2, padding) == expected);
    check_throws<isic::numeric_error>("nearest_codes", [&] { return isic::nearest_codes(z, book); });
    const std::vector<index_t> all{0, 1};
    check_throws<isic::value_error>(
        "nearest_codes", [&] { return isic::nearest_codes(dice.matrix(1, 3), dice.matrix(2, 3), metric::l2, all); },
        {"padding only"});
}

TEST_CASE("nearest codes reject mismatched shapes, padding ids, NaN and negative threads") {
    isic_test::random dice(4);
    const auto book = dice.matrix(4, 3);
    check_throws<isic::shape_error>("nearest_codes", [&] { return isic::nearest_codes(dice.matrix(2, 4), book); },
                                    {"3 columns", "got 4"});
    check_throws<isic::shape_error>("nearest_codes",
                                    [&] { return isic::nearest_codes(dice.matrix(2, 3), isic::matrix<float>(0, 3)); });
    for (const index_t k : {-1, 4}) {
        check_throws<isic::value_error>("nearest_codes",
                                        [&] { return isic::nearest_codes(book, book, metric::l2, std::vector{k}); });
    }
    auto bad = book;
    bad(3, 0) = not_a_number;
    check_throws<isic::numeric_error>("nearest_codes", [&] { return isic::nearest_codes(bad, book); }, {"vectors"});
    check_throws<isic::numeric_error>("nearest_codes", [&] { return isic::nearest_codes(book, bad); }, {"codebook"});
    CHECK(isic::nearest_codes(isic::matrix<double>(0, 3), book).empty());
    check_throws<isic::numeric_error>("code_index", [&] { const isic::code_index index(bad); }, {"codebook"});
    check_throws<isic::value_error>("nearest_codes",
                                    [&] { return isic::nearest_codes(book, book, metric::l2, {}, {.threads = -1}); },
                                    {"threads >= 0", "got -1"});
    check_throws<isic::value_error>("code_index::nearest",
                                    [&] { return isic::code_index(book).nearest(book, {.threads = -7}); },
                                    {"threads >= 0", "got -7"});
    check_throws<isic::shape_error>("code_index::nearest",
                                    [&] { return isic::code_index(book).nearest(dice.matrix(2, 4)); },
                                    {"3 columns", "got 4"});
}

static_assert(!std::is_constructible_v<isic::code_index, isic::matrix<float>>, "a temporary codebook would dangle");
static_assert(std::is_constructible_v<isic::code_index, isic::matrix<float>&>);
static_assert(std::is_constructible_v<isic::code_index, isic::matrix_view<float>>);

TEST_CASE_TEMPLATE("the fingerprint depends on every byte of the rows and on the shape, not on gaps", T, ISIC_STORAGE) {
    isic_test::random dice(5);
    auto book = dice.matrix<T>(6, 4);
    const auto original = isic::fingerprint(book);
    CHECK(isic::fingerprint(isic::matrix<T>(book)) == original);
    for (const index_t gap : {1, 4, 9}) {
        isic_test::strided<T> memory(book, gap);
        CHECK(isic::fingerprint(memory.span()) == original);
    }
    for (index_t i = 0; i < 6; ++i) {
        for (index_t j = 0; j < 4; ++j) {
            const T old = book(i, j);
            book(i, j) = static_cast<T>(123.0F);
            CHECK(isic::fingerprint(book) != original);
            book(i, j) = old;
        }
    }
    CHECK(isic::fingerprint(book) == original);
    CHECK(isic::fingerprint(isic::matrix_view<T>(book.data(), 4, 6)) != original);
    CHECK(isic::fingerprint(isic::matrix_view<T>(book.data(), 12, 2)) != original);
    CHECK(isic::fingerprint(isic::matrix_view<T>()) != original);
}

TEST_CASE("a codebook with minus zero has another fingerprint") {
    CHECK(isic::fingerprint(isic_test::from_rows<float>({{0.0, 1.0}})) !=
          isic::fingerprint(isic_test::from_rows<float>({{-0.0, 1.0}})));
}
