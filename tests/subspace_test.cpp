#include <isic/subspace.hpp>

#include <array>

#include "support/data.hpp"
#include "support/errors.hpp"
#include "support/reference.hpp"

using isic::index_t;
using isic_test::axis;
using isic_test::check_throws;
using isic_test::dense;
using isic_test::infinity;
using isic_test::largest_entries_positive;
using isic_test::not_a_number;
using isic_test::skew;
using isic_test::span_gap;
using isic_test::subspace_of;
using isic_test::to_dense;

TEST_CASE("span_of makes any directions orthonormal and keeps their span") {
    isic_test::random dice(19);
    for (const auto& [d, m] : {std::pair{1, 1}, {4, 2}, {8, 8}, {32, 5}, {200, 20}, {5, 9}}) {
        const dense directions = to_dense(dice.matrix(d, m, 100));
        const auto got = isic::span_of(isic_test::from_dense(directions));
        CHECK(got.rank() == std::min(d, m));
        CHECK(skew(to_dense(got.basis)) < 1e-12);
        CHECK(largest_entries_positive(to_dense(got.basis)));
        const isic_test::svd svd(directions);
        CHECK(span_gap(to_dense(got.basis), svd.u.leftCols(got.rank())) < 1e-8);
    }
    // Dependent and nearly dependent columns.
    dense directions = to_dense(dice.matrix(10, 4));
    directions.col(2) = directions.col(0) + directions.col(1);
    directions.col(3) = directions.col(0) + 1e-6 * to_dense(dice.matrix(10, 1));
    const auto got = isic::span_of(isic_test::from_dense(directions));
    CHECK(got.rank() == 3);
    CHECK(skew(to_dense(got.basis)) < 1e-12);
    check_throws<isic::numeric_error>("span_of", [] { isic::span_of(isic::matrix<float>(3, 2)); }, {"zeros only"});
    check_throws<isic::numeric_error>("span_of", [] { isic::span_of(isic::matrix<double>(3, 2, not_a_number)); });
    check_throws<isic::shape_error>("span_of", [] { isic::span_of(isic::matrix<double>(3, 0)); });
}

TEST_CASE_TEMPLATE("leakage is the share of the norm inside, by hand and by reference", T, ISIC_STORAGE) {
    const auto codes = isic_test::from_rows<T>({{3, 4, 0}, {0, 0, 2}, {0, 0, 0}});
    const auto got = isic::leakage(codes, subspace_of(axis(3, {0})));
    CHECK(got.total == doctest::Approx(std::sqrt(9.0 / 29)));
    CHECK(got.largest == doctest::Approx(0.6));
    const auto around = isic::leakage(codes, subspace_of(axis(3, {0})), std::vector<double>{0, 4, 0});
    CHECK(around.total == doctest::Approx(std::sqrt(9.0 / (9 + 20 + 16))));
    CHECK(around.largest == doctest::Approx(1.0));
    const std::vector<index_t> padding{0};
    CHECK(isic::leakage(codes, subspace_of(axis(3, {0})), {}, padding).total == 0);
    isic_test::random dice(23);
    const auto book = dice.matrix<T>(30, 9);
    const dense v = isic_test::random_basis(dice, 9, 4);
    isic_test::strided<T> memory(book, 2);
    CHECK(isic::leakage(memory.span(), subspace_of(v)).total == doctest::Approx(isic_test::leak(to_dense(book), v)));
    CHECK(isic::leakage(book, subspace_of(isic_test::random_basis(dice, 9, 9))).total == doctest::Approx(1.0));
}

TEST_CASE("leakage refuses what does not fit") {
    isic_test::random dice(24);
    const auto book = dice.matrix(5, 3);
    const auto v = subspace_of(axis(3, {0}));
    check_throws<isic::shape_error>("leakage", [&] { isic::leakage(dice.matrix(5, 4), v); }, {"4 rows in the basis", "got 3"});
    check_throws<isic::shape_error>("leakage", [&] { isic::leakage(isic::matrix<float>(0, 3), v); });
    check_throws<isic::shape_error>("leakage", [&] { isic::leakage(book, v, std::vector<double>(2)); });
    check_throws<isic::numeric_error>("leakage", [&] { isic::leakage(book, v, std::vector<double>(3, not_a_number)); });
    check_throws<isic::numeric_error>("leakage", [&] { isic::leakage(isic::matrix<double>(2, 3, infinity), v); });
    check_throws<isic::numeric_error>("leakage", [&] { isic::leakage(isic::matrix<double>(2, 3, 1e200), v); }, {"squares fit float64", "got inf"});
    check_throws<isic::value_error>("leakage", [&] { isic::leakage(book, v, {}, std::vector<index_t>{5}); });
    check_throws<isic::value_error>("leakage", [&] { isic::leakage(book, v, {}, {}, {.threads = -1}); }, {"threads >= 0", "got -1"});
    auto long_column = v;
    long_column.basis(0, 0) = 1.1;
    check_throws<isic::value_error>("leakage", [&] { isic::leakage(book, long_column); }, {"orthonormal"});
}

TEST_CASE("spectral weights meet the reference values") {
    isic::subspace s = subspace_of(axis(4, {0, 1, 2, 3}));
    s.singular_values = {4, 2, 1, 0.5};
    const std::vector<std::pair<double, std::array<double, 4>>> table{
        {1, {0.75294118, 0.18823529, 0.04705882, 0.01176471}},
        {2, {0.8590604, 0.31683168, 0.08988764, 0.02325581}},
        {5, {0.93841642, 0.53691275, 0.1980198, 0.05617978}},
        {100, {0.99672948, 0.95865788, 0.83160083, 0.54347826}}};
    for (const auto& [alpha, expected] : table) {
        const auto got = isic::spectral_weights(s, alpha);
        REQUIRE(got.size() == 4);
        for (std::size_t i = 0; i < 4; ++i) {
            CHECK(std::abs(got[i] - expected[i]) < 1e-8);
        }
    }
    for (const double w : isic::spectral_weights(s, 1e12)) {
        CHECK(w > 1 - 1e-9);
    }
    for (const double alpha : {0.0, -1.0, not_a_number, infinity}) {
        check_throws<isic::value_error>("spectral_weights", [&] { isic::spectral_weights(s, alpha); });
    }
    s.singular_values = {1};
    check_throws<isic::shape_error>("spectral_weights", [&] { isic::spectral_weights(s, 1); });
    s.singular_values = {0, 0, 0, 0};
    s.energy = 0;
    check_throws<isic::numeric_error>("spectral_weights", [&] { isic::spectral_weights(s, 1); });
}
