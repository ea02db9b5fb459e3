// SPDX-License-Identifier: Apache-2.0
// Subspaces: spans, fits, merges, angles, leakage.
#include <isic/subspace.hpp>

#include <array>
#include <numbers>
#include <tuple>

#include "support/data.hpp"
#include "support/errors.hpp"
#include "support/reference.hpp"

using isic::index_t;
using isic::rank_rule;
using isic_test::axis;
using isic_test::check_throws;
using isic_test::dense;
using isic_test::infinity;
using isic_test::largest_entries_positive;
using isic_test::not_a_number;
using isic_test::product;
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
    check_throws<isic::shape_error>("leakage", [&] { isic::leakage(dice.matrix(5, 4), v); },
                                    {"4 rows in the basis", "got 3"});
    check_throws<isic::shape_error>("leakage", [&] { isic::leakage(isic::matrix<float>(0, 3), v); });
    check_throws<isic::shape_error>("leakage", [&] { isic::leakage(book, v, std::vector<double>(2)); });
    check_throws<isic::numeric_error>("leakage", [&] { isic::leakage(book, v, std::vector<double>(3, not_a_number)); });
    check_throws<isic::numeric_error>("leakage", [&] { isic::leakage(isic::matrix<double>(2, 3, infinity), v); });
    check_throws<isic::numeric_error>("leakage", [&] { isic::leakage(isic::matrix<double>(2, 3, 1e200), v); },
                                      {"squares fit float64", "got inf"});
    check_throws<isic::value_error>("leakage", [&] { isic::leakage(book, v, {}, std::vector<index_t>{5}); });
    check_throws<isic::value_error>("leakage", [&] { isic::leakage(book, v, {}, {}, {.threads = -1}); },
                                    {"threads >= 0", "got -1"});
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

namespace {

isic::fit_options fixed(index_t r) {
    return {.rank = {.fixed = r}};
}

/// n x d with the given singular values and random singular vectors.
dense with_spectrum(isic_test::random& dice, index_t n, index_t d, const std::vector<double>& sigma) {
    const auto r = static_cast<index_t>(sigma.size());
    const Eigen::Map<const Eigen::VectorXd> s(sigma.data(), r);
    const dense u = isic_test::random_basis(dice, n, r);
    return product(u * s.asDiagonal(), isic_test::random_basis(dice, d, r).transpose());
}

/// 1, factor, factor^2, ...
std::vector<double> falling(index_t size, double factor) {
    std::vector<double> out(static_cast<std::size_t>(size), 1.0);
    for (std::size_t i = 1; i < out.size(); ++i) {
        out[i] = out[i - 1] * factor;
    }
    return out;
}

dense right_vectors(const dense& m, index_t r) {
    return isic_test::svd(m).v.leftCols(r);
}

}  // namespace

TEST_CASE("a fit spans the top right singular vectors, orthonormal to 1e-12, whatever the shape") {
    isic_test::random dice(1);
    for (const auto& shape : {std::pair{1, 1},
                              {1, 4},
                              {6, 1},
                              {5, 4},
                              {3, 8},
                              {50, 8},
                              {20, 32},
                              {100, 32},
                              {10, 200},
                              {199, 200},
                              {300, 200}}) {
        const index_t n = shape.first, d = shape.second;
        const index_t small = std::min(n, d);
        const dense m = with_spectrum(dice, n, d, falling(small, small > 50 ? 0.97 : 0.8));
        const isic_test::svd svd(m);
        const Eigen::VectorXd& sigma = svd.values;
        for (const index_t r : {index_t{1}, std::min<index_t>(3, small), std::max<index_t>(1, small / 8), small}) {
            INFO(n, " x ", d, ", rank ", r);
            const isic::subspace got = isic::fit_subspace(isic_test::from_dense(m), fixed(r));
            const dense v = to_dense(got.basis);
            REQUIRE(got.rank() == r);
            CHECK(got.width() == d);
            CHECK(got.chosen.rank == r);
            CHECK(got.chosen.decided_by == rank_rule::fixed);
            CHECK(skew(v) < 1e-12);
            CHECK(span_gap(v, svd.v.leftCols(r)) < 1e-9);
            CHECK(largest_entries_positive(v));
            for (index_t i = 0; i < r; ++i) {
                CHECK(std::abs(got.singular_values[static_cast<std::size_t>(i)] - sigma[i]) < 1e-10);
            }
            CHECK(got.energy == doctest::Approx(sigma.head(r).squaredNorm() / sigma.squaredNorm()).epsilon(1e-12));
        }
    }
}

TEST_CASE_TEMPLATE("a fit reads every dtype type, strided or not", T, ISIC_STORAGE) {
    isic_test::random dice(2);
    const auto rows = dice.matrix<T>(40, 12);
    isic_test::strided<T> memory(rows, 3);
    const auto got = isic::fit_subspace(memory.span(), fixed(3));
    CHECK(isic_test::bytes_of(got.basis) == isic_test::bytes_of(isic::fit_subspace(rows, fixed(3)).basis));
    CHECK(span_gap(to_dense(got.basis), right_vectors(to_dense(rows), 3)) < 1e-10);
}

TEST_CASE("signs do not depend on the signs of the data, and a fit repeats bit for bit") {
    isic_test::random dice(3);
    for (const auto& [n, d] : {std::pair{30, 8}, {4, 9}, {400, 160}}) {
        dense m = with_spectrum(dice, n, d, falling(std::min(n, d), 0.9));
        const isic::fit_options options{.rank = {.fixed = 3, .gavish_donoho = false}};
        const auto first = isic::fit_subspace(isic_test::from_dense(m), options);
        CHECK(isic_test::bytes_of(isic::fit_subspace(isic_test::from_dense(m), options).basis) ==
              isic_test::bytes_of(first.basis));
        CHECK(isic_test::bytes_of(isic::fit_subspace(isic_test::from_dense(-m), options).basis) ==
              isic_test::bytes_of(first.basis));
        for (index_t i = 0; i < n; i += 2) {
            m.row(i) *= -1;
        }
        CHECK((to_dense(isic::fit_subspace(isic_test::from_dense(m), options).basis) - to_dense(first.basis)).norm() <
              1e-9);
    }
}

TEST_CASE("entries of equal size: the first is made positive") {
    for (const double sign : {1.0, -1.0}) {
        const auto got =
            isic::fit_subspace(isic_test::from_rows<double>({{sign, -sign}, {2 * sign, -2 * sign}}), fixed(1));
        CHECK(got.basis(0, 0) == doctest::Approx(std::sqrt(0.5)));
        CHECK(got.basis(1, 0) == doctest::Approx(-std::sqrt(0.5)));
    }
}

TEST_CASE("no more directions than the data have") {
    isic_test::random dice(4);
    for (const auto& [n, d, r] : {std::tuple{40, 16, 3}, {5, 16, 2}, {300, 200, 5}, {30, 200, 4}, {1, 6, 1}}) {
        const auto rows = isic_test::from_dense(with_spectrum(dice, n, d, falling(r, 0.7)));
        for (const index_t asked : {r + 1, r + 6}) {
            if (asked <= d) {
                const auto got = isic::fit_subspace(rows, fixed(asked));
                CHECK(got.rank() == r);
                CHECK(got.chosen.decided_by == rank_rule::data);
                CHECK(got.energy == doctest::Approx(1.0));
                CHECK(skew(to_dense(got.basis)) < 1e-12);
            }
        }
        CHECK(isic::fit_subspace(rows, fixed(r)).chosen.decided_by == rank_rule::fixed);
    }
}

TEST_CASE("block Krylov above width 128 finds what JacobiSVD finds") {
    isic_test::random dice(5);
    for (const index_t d : {129, 200, 256}) {
        for (const double factor : {0.5, 0.9, 0.995}) {
            const dense m = with_spectrum(dice, 300, d, falling(d, factor));
            const isic_test::svd svd(m);
            for (const index_t r : {index_t{1}, index_t{4}, d / 8}) {
                const auto got =
                    isic::fit_subspace(isic_test::from_dense(m), {.rank = {.fixed = r, .gavish_donoho = false}});
                const index_t seen = std::min(r, static_cast<index_t>((svd.values.array() > 1e-7).count()));
                INFO("d ", d, ", r ", r, ", factor ", factor);
                REQUIRE(got.rank() == seen);
                CHECK(skew(to_dense(got.basis)) < 1e-12);
                // What the Gram matrix can tell apart: eps / relative gap of the squares.
                const double last = std::pow(svd.values[seen - 1], 2);
                CHECK(span_gap(to_dense(got.basis), svd.v.leftCols(seen)) <
                      1e-12 / (last * (1 - factor * factor)) + 1e-12);
                const auto whole = svd.values.squaredNorm();
                CHECK(got.energy == doctest::Approx(svd.values.head(seen).squaredNorm() / whole).epsilon(1e-10));
            }
        }
    }
}

TEST_CASE("block Krylov stays inside a repeated eigenvalue's space") {
    isic_test::random dice(6);
    constexpr index_t d = 200;
    for (const index_t repeats : {2, 10, 30, 200}) {
        const dense q = isic_test::random_basis(dice, d, d);
        Eigen::VectorXd sigma = Eigen::VectorXd::Constant(d, 2.0);
        for (index_t i = repeats; i < d; ++i) {
            sigma[i] = std::pow(0.95, static_cast<double>(i - repeats));
        }
        const dense m = sigma.asDiagonal() * q.transpose();
        for (const index_t r : {1, 8, 25}) {
            const auto got =
                isic::fit_subspace(isic_test::from_dense(m), {.rank = {.fixed = r, .gavish_donoho = false}});
            const dense v = to_dense(got.basis);
            INFO(repeats, " equal, rank ", r);
            REQUIRE(got.rank() == r);
            CHECK(skew(v) < 1e-12);
            const dense inside = q.leftCols(std::max(repeats, r));
            CHECK((v - inside * (inside.transpose() * v)).norm() < 1e-9);
            if (r >= repeats) {
                CHECK(span_gap(v, inside) < 1e-9);
            }
            for (index_t i = 0; i < r; ++i) {
                CHECK(got.singular_values[static_cast<std::size_t>(i)] == doctest::Approx(sigma[i]).epsilon(1e-10));
            }
        }
    }
    // Coordinate axes, exactly repeated: the Krylov space closes early.
    dense m = dense::Zero(d, d);
    m.diagonal().head(6).setConstant(3);
    m.diagonal().segment(6, 5).setConstant(1);
    const auto got = isic::fit_subspace(isic_test::from_dense(m), {.rank = {.fixed = 8, .gavish_donoho = false}});
    const dense v = to_dense(got.basis);
    CHECK(v.bottomRows(d - 11).norm() < 1e-12);
    CHECK(v.topRows(6).squaredNorm() == doctest::Approx(6).epsilon(1e-12));
}

TEST_CASE("the energy rule knows the whole spectrum although only the top is computed") {
    isic_test::random dice(7);
    for (const double factor : {0.3, 0.7, 0.9, 0.97}) {
        const dense m = with_spectrum(dice, 250, 200, falling(200, factor));
        const Eigen::VectorXd square = isic_test::svd(m).values.cwiseAbs2();
        for (const double share : {0.2, 0.6, 0.9}) {
            index_t expected = 1;
            while (square.head(expected).sum() < share * square.sum()) {
                ++expected;
            }
            const auto got = isic::fit_subspace(isic_test::from_dense(m),
                                                {.rank = {.energy = share, .gavish_donoho = false, .max_rank = 20}});
            CHECK(got.rank() == std::min<index_t>(expected, 20));
            CHECK(got.chosen.decided_by == (expected <= 20 ? rank_rule::energy : rank_rule::budget));
        }
    }
}

TEST_CASE("the rule that allows least decides, and says so") {
    isic_test::random dice(8);
    const auto rows = isic_test::from_dense(with_spectrum(dice, 60, 16, falling(16, 0.6)) * 100 +
                                            to_dense(dice.matrix(60, 16, 1e-3)));
    const auto decided = [&](const isic::rank_options& o) { return isic::fit_subspace(rows, {.rank = o}).chosen; };
    CHECK(decided({.fixed = 5, .max_rank = 2}).rank == 5);
    CHECK(decided({.energy = 0.3}).decided_by == rank_rule::energy);
    CHECK(decided({.energy = 0.3}).rank == 1);
    CHECK(decided({.energy = 0, .gavish_donoho = false}).decided_by == rank_rule::budget);
    CHECK(decided({.energy = 0, .gavish_donoho = false}).rank == 4);
    CHECK(decided({.energy = 0, .gavish_donoho = false, .max_rank = 15}).rank == 15);
    const auto noise = isic_test::from_dense(with_spectrum(dice, 60, 16, {60, 50}) + to_dense(dice.matrix(60, 16)));
    CHECK(isic::fit_subspace(noise, {.rank = {.energy = 0, .max_rank = 10}}).chosen.decided_by ==
          rank_rule::gavish_donoho);
    CHECK(isic::fit_subspace(noise, {.rank = {.energy = 0, .max_rank = 10}}).rank() == 2);
    const isic::rank_options flips{.energy = 0, .gavish_donoho = false, .sign_flips = 50, .max_rank = 10};
    CHECK(isic::fit_subspace(noise, {.rank = flips}).chosen.decided_by == rank_rule::sign_flip);
    CHECK(isic::fit_subspace(noise, {.rank = flips}).rank() == 2);
}

TEST_CASE("white noise fits rank 0, which every later step accepts") {
    isic_test::random dice(9);
    const auto none = isic::fit_subspace(dice.matrix(200, 40), {});
    CHECK(none.rank() == 0);
    CHECK(none.width() == 40);
    CHECK(none.energy == 0);
    CHECK(none.chosen.decided_by == rank_rule::gavish_donoho);
    CHECK(isic::leakage(dice.matrix<float>(3, 40), none).total == 0);
    CHECK(isic::leakage(dice.matrix<float>(3, 40), none).largest == 0);
    const auto some = isic::span_of(dice.matrix(40, 2));
    CHECK(isic_test::bytes_of(isic::merge(none, some).basis) == isic_test::bytes_of(some.basis));
    CHECK(isic_test::bytes_of(isic::merge(some, none).basis) == isic_test::bytes_of(some.basis));
    CHECK(isic::merge(some, isic::subspace{}).rank() == 2);
    CHECK(isic::merge(isic::subspace{}, some).rank() == 2);
    CHECK(isic::merge(none, isic::subspace{}).width() == 40);
    CHECK(isic::merge(isic::subspace{}, none).width() == 40);
    check_throws<isic::shape_error>("principal_angles", [&] { isic::principal_angles(some, none); }, {"2 and 0"});
}

TEST_CASE("flipping whole rows leaves every singular value as it was") {
    isic_test::random dice(10);
    for (int trial = 0; trial < 10; ++trial) {
        const dense m = to_dense(dice.matrix(20, 6));
        dense flipped = m;
        for (index_t i = 0; i < 20; ++i) {
            flipped.row(i) *= dice.below(2) == 0 ? 1 : -1;
        }
        CHECK((flipped - m).norm() > 0);
        CHECK((isic_test::svd(flipped).values - isic_test::svd(m).values).norm() < 1e-12);
        const auto values = [](const dense& x) {
            return isic::fit_subspace(isic_test::from_dense(x), fixed(2)).singular_values;
        };
        const auto a = values(m);
        const auto b = values(flipped);
        for (std::size_t i = 0; i < a.size(); ++i) {
            CHECK(a[i] == doctest::Approx(b[i]).epsilon(1e-10));
        }
    }
}

TEST_CASE("the sign-flip rule finds the planted rank, also along one coordinate axis") {
    isic_test::random dice(11);
    for (const auto& [n, d] : {std::pair{40, 4}, {40, 8}, {100, 32}, {20, 32}}) {
        for (int trial = 0; trial < 5; ++trial) {
            const isic::rank_options flips{.energy = 0,
                                           .gavish_donoho = false,
                                           .sign_flips = 60,
                                           .seed = static_cast<std::uint64_t>(trial),
                                           .max_rank = d - 1};
            const dense noise = to_dense(dice.matrix(n, d, 0.1));
            dense along_axis = noise;
            along_axis.col(d / 2) += to_dense(dice.matrix(n, 1)).col(0);
            const auto one = isic::fit_subspace(isic_test::from_dense(along_axis), {.rank = flips});
            REQUIRE(one.rank() == 1);
            CHECK(one.basis(d / 2, 0) > 0.95);
            const dense shift =
                noise.rowwise() + isic_test::random_basis(dice, d, 1).col(0).transpose();  // a mean difference
            CHECK(isic::fit_subspace(isic_test::from_dense(shift), {.rank = flips}).rank() == 1);
            // Flipping spreads the signal over all d columns: two strong directions out of four leave too little between them.
            if (d < 8) {
                continue;
            }
            const dense two = noise + to_dense(dice.matrix(n, 2)) * isic_test::random_basis(dice, d, 2).transpose();
            CHECK(isic::fit_subspace(isic_test::from_dense(two), {.rank = flips}).rank() == 2);
        }
    }
}

TEST_CASE("the sign-flip rule finds nothing in noise, at the level it was asked for") {
    isic_test::random dice(12);
    for (const auto& [n, d] : {std::pair{40, 6}, {12, 24}}) {
        int alarms = 0;
        constexpr int trials = 150;
        for (int trial = 0; trial < trials; ++trial) {
            const isic::rank_options flips{.energy = 0,
                                           .gavish_donoho = false,
                                           .sign_flips = 40,
                                           .seed = 1000U * static_cast<std::uint64_t>(trial),
                                           .max_rank = d - 1};
            const auto got = isic::fit_subspace(dice.matrix(n, d), {.rank = flips});
            alarms += got.rank() > 0;
        }
        CHECK(alarms <= trials * 0.1);  // 5 % asked; 15 of 150 has a chance below 1 %
    }
}

TEST_CASE("sign flips repeat for one seed") {
    isic_test::random dice(13);
    const auto rows = isic_test::from_dense(to_dense(dice.matrix(15, 5)) + with_spectrum(dice, 15, 5, {8}));
    const isic::rank_options flips{.energy = 0, .gavish_donoho = false, .sign_flips = 20, .seed = 5, .max_rank = 4};
    const auto first = isic::fit_subspace(rows, {.rank = flips});
    CHECK(isic_test::bytes_of(isic::fit_subspace(rows, {.rank = flips}).basis) == isic_test::bytes_of(first.basis));
}

TEST_CASE("streamed differences fit what the stored rows fit, n < d included") {
    isic_test::random dice(14);
    for (const auto& shape : {std::pair{1, 4}, {3, 8}, {10, 32}, {60, 32}, {25, 200}, {260, 200}}) {
        const index_t n = shape.first, d = shape.second;
        for (const bool gavish_donoho : {true, false}) {
            const dense rows =
                with_spectrum(dice, n, d, falling(std::min(n, d), 0.6)) * 50 + to_dense(dice.matrix(n, d, 0.01));
            isic::difference_accumulator pairs(d);
            const auto safe = dice.matrix(n, d);
            pairs.add_rows(isic_test::from_dense(rows + to_dense(safe)), safe);
            const isic::fit_options options{
                .rank = {.gavish_donoho = gavish_donoho, .max_rank = std::min<index_t>(d - 1, 6)}};
            const auto streamed = isic::fit_subspace(pairs, options);
            const auto stored = isic::fit_subspace(isic_test::from_dense(rows), options);
            INFO(n, " x ", d, " gd ", gavish_donoho);
            REQUIRE(streamed.rank() == stored.rank());
            REQUIRE(streamed.rank() > 0);
            CHECK(streamed.chosen.decided_by == stored.chosen.decided_by);
            CHECK(streamed.energy == doctest::Approx(stored.energy).epsilon(1e-9));
            CHECK(span_gap(to_dense(streamed.basis), right_vectors(rows, streamed.rank())) < 1e-8);
            CHECK(static_cast<index_t>(streamed.singular_values.size()) <= std::min(n, d));
        }
    }
}

TEST_CASE("token ids, merged in any split, fit what the SVD of the gathered differences fits") {
    isic_test::random dice(15);
    const auto book = dice.matrix<float>(50, 8);
    isic::difference_accumulator left(book);
    isic::difference_accumulator right(book);
    dense rows(0, 8);
    for (int image = 0; image < 6; ++image) {
        auto h = dice.ids<int>(20, 50);
        const auto s = dice.ids<int>(20, 50);
        h[3] = s[3];
        (image % 2 == 0 ? left : right).add(h, s);
        for (std::size_t t = 0; t < h.size(); ++t) {
            rows.conservativeResize(rows.rows() + 1, 8);
            rows.bottomRows(1) = to_dense(book).row(h[t]) - to_dense(book).row(s[t]);
        }
    }
    left.merge(right);
    const auto got = isic::fit_subspace(left, fixed(3));
    CHECK(span_gap(to_dense(got.basis), right_vectors(rows, 3)) < 1e-10);
    const Eigen::VectorXd sigma = isic_test::svd(rows).values;
    for (index_t i = 0; i < 8; ++i) {
        CHECK(got.singular_values[static_cast<std::size_t>(i)] == doctest::Approx(sigma[i]).epsilon(1e-9));
    }
}

TEST_CASE("centring removes the mean difference, from rows and from moments") {
    isic_test::random dice(16);
    dense rows = to_dense(dice.matrix(30, 6));
    rows.rowwise() += 5 * isic_test::random_basis(dice, 6, 1).col(0).transpose();
    const dense centred = rows.rowwise() - rows.colwise().mean();
    isic::difference_accumulator pairs(6);
    pairs.add_rows(isic_test::from_dense(rows), isic::matrix<double>(30, 6));
    const isic::fit_options options{.rank = {.fixed = 2}, .center = isic::centering::mean};
    CHECK(span_gap(right_vectors(rows, 2), right_vectors(centred, 2)) > 0.1);
    CHECK(span_gap(to_dense(isic::fit_subspace(isic_test::from_dense(rows), options).basis),
                   right_vectors(centred, 2)) < 1e-10);
    CHECK(span_gap(to_dense(isic::fit_subspace(pairs, options).basis), right_vectors(centred, 2)) < 1e-9);
}

TEST_CASE("centring on the safe axis removes the safe embeddings' first direction") {
    isic_test::random dice(17);
    dense safe = to_dense(dice.matrix(40, 5));
    safe.rowwise() += 4 * isic_test::random_basis(dice, 5, 1).col(0).transpose();
    const dense diffs = to_dense(dice.matrix(40, 5)) + dense::Constant(40, 1, 3.0) * right_vectors(safe, 1).transpose();
    isic::difference_accumulator pairs(5);
    pairs.add_rows(isic_test::from_dense(safe + diffs), isic_test::from_dense(safe));
    const auto plain = isic::fit_subspace(pairs, fixed(1));
    const auto without = isic::fit_subspace(pairs, {.rank = {.fixed = 1}, .center = isic::centering::safe_axis});
    const dense u = right_vectors(safe, 1);
    CHECK((u.transpose() * to_dense(plain.basis)).norm() > 0.9);
    CHECK((u.transpose() * to_dense(without.basis)).norm() < 1e-7);
    CHECK(span_gap(to_dense(without.basis), right_vectors(diffs - diffs * u * u.transpose(), 1)) < 1e-8);
}

TEST_CASE("equal differences have nothing left once their mean is out") {
    const auto same = isic_test::from_rows<double>({{0.1, 0.7, 0.3}, {0.1, 0.7, 0.3}, {0.1, 0.7, 0.3}});
    CHECK(isic::fit_subspace(same).rank() == 1);
    const isic::fit_options centred{.center = isic::centering::mean};
    check_throws<isic::numeric_error>("fit_subspace", [&] { isic::fit_subspace(same, centred); }, {"zeros only"});
    isic::difference_accumulator pairs(3);
    pairs.add_rows(same, isic::matrix<double>(3, 3));
    check_throws<isic::numeric_error>("fit_subspace", [&] { isic::fit_subspace(pairs, centred); }, {"zeros only"});
}

TEST_CASE("a fit refuses what it cannot use") {
    isic_test::random dice(18);
    const auto rows = dice.matrix(10, 4);
    const auto fit = [&](const isic::rank_options& o) { return [&rows, o] { isic::fit_subspace(rows, {.rank = o}); }; };
    check_throws<isic::shape_error>("fit_subspace", [] { isic::fit_subspace(isic::matrix<float>(0, 4)); }, {"0 x 4"});
    check_throws<isic::shape_error>("fit_subspace", [] { isic::fit_subspace(isic::matrix<float>(4, 0)); });
    check_throws<isic::numeric_error>("fit_subspace", [] { isic::fit_subspace(isic::matrix<float>(4, 4)); },
                                      {"zeros only"});
    for (const double wrong : {not_a_number, infinity, -infinity}) {
        auto bad = rows;
        bad(9, 3) = wrong;
        check_throws<isic::numeric_error>("fit_subspace", [&] { isic::fit_subspace(bad); }, {"row 9, column 3"});
    }
    for (const auto& shape : {std::pair{3, 2}, {2, 5}, {20, 9}}) {
        const index_t n = shape.first, d = shape.second;
        check_throws<isic::numeric_error>("fit_subspace",
                                          [&] { isic::fit_subspace(isic::matrix<double>(n, d, 1e200)); }, {"infinity"});
    }
    check_throws<isic::value_error>("fit_subspace", fit({.fixed = 5}), {"[0, d = 4]", "got 5"});
    check_throws<isic::value_error>("fit_subspace", fit({.fixed = -1}));
    check_throws<isic::value_error>("fit_subspace", fit({.max_rank = 4}), {"[0, 3]", "got 4"});
    check_throws<isic::value_error>("fit_subspace", fit({.max_rank = -1}));
    check_throws<isic::value_error>("fit_subspace", fit({.energy = 1.1}));
    check_throws<isic::value_error>("fit_subspace", fit({.energy = not_a_number}));
    check_throws<isic::value_error>("fit_subspace", fit({.sign_flips = -1}));
    check_throws<isic::value_error>("fit_subspace", [&] { isic::fit_subspace(rows, {.execution = {.threads = -1}}); },
                                    {"threads >= 0", "got -1"});
    check_throws<isic::value_error>("fit_subspace", fit({.quantile = 1.0}));
    check_throws<isic::value_error>("fit_subspace", fit({.quantile = not_a_number}));
    check_throws<isic::value_error>("fit_subspace",
                                    [&] { isic::fit_subspace(rows, {.center = isic::centering::safe_axis}); },
                                    {"accumulator", "for the safe axis"});
    isic::difference_accumulator empty(3);
    check_throws<isic::shape_error>("fit_subspace", [&] { isic::fit_subspace(empty); }, {"empty accumulator"});
    isic::difference_accumulator zero(3);
    zero.add_rows(dice.matrix(1, 3), isic::matrix<double>(1, 3));
    check_throws<isic::value_error>(
        "fit_subspace", [&] { isic::fit_subspace(zero, {.center = isic::centering::safe_axis}); }, {"only zeros"});
    check_throws<isic::value_error>("fit_subspace", [&] { isic::fit_subspace(zero, {.rank = {.sign_flips = 10}}); },
                                    {"only moments"});
    check_throws<isic::value_error>("fit_subspace", [&] { isic::fit_subspace(zero, {.execution = {.threads = -1}}); },
                                    {"threads >= 0", "got -1"});
    isic::difference_accumulator flat(2);
    flat.add_rows(dice.matrix(1, 2), dice.matrix(1, 2));
    check_throws<isic::shape_error>(
        "fit_subspace", [&] { isic::fit_subspace(flat, {.center = isic::centering::safe_axis}); }, {"d >= 3"});
    isic::difference_accumulator huge(2);
    huge.add_rows(isic::matrix<double>(1, 2, 1e200), isic::matrix<double>(1, 2));
    check_throws<isic::numeric_error>("fit_subspace", [&] { isic::fit_subspace(huge); });
    isic::difference_accumulator same(2);
    same.add_rows(isic::matrix<double>(1, 2), isic::matrix<double>(1, 2));
    check_throws<isic::numeric_error>("fit_subspace", [&] { isic::fit_subspace(same); }, {"zeros only"});
}

TEST_CASE("spectral weights do not depend on how much of the spectrum was computed") {
    isic_test::random dice(25);
    const auto rows = isic_test::from_dense(with_spectrum(dice, 250, 200, falling(200, 0.9)));
    const auto some = isic::fit_subspace(rows, {.rank = {.fixed = 4, .gavish_donoho = false}});
    const auto all = isic::fit_subspace(rows, {.rank = {.energy = 0, .max_rank = 4}});
    REQUIRE(some.singular_values.size() < 200);
    REQUIRE(all.singular_values.size() == 200);
    REQUIRE(all.rank() == 4);
    const auto a = isic::spectral_weights(some, 2);
    const auto b = isic::spectral_weights(all, 2);
    for (std::size_t i = 0; i < 4; ++i) {
        CHECK(a[i] == doctest::Approx(b[i]).epsilon(1e-9));
    }
}

TEST_CASE("a merge spans both, adds only what is new, and leaves the first's columns as they are") {
    isic_test::random dice(20);
    for (const auto& [d, r1, shared, r2] : {std::tuple{4, 1, 0, 1},
                                            {4, 2, 1, 2},
                                            {8, 3, 0, 5},
                                            {8, 2, 2, 2},
                                            {32, 6, 3, 10},
                                            {200, 10, 2, 12},
                                            {5, 5, 3, 3}}) {
        const dense a = isic_test::random_basis(dice, d, r1);
        dense b(d, r2);
        b << a.leftCols(shared), to_dense(dice.matrix(d, r2 - shared));
        b = b * to_dense(dice.matrix(r2, r2));
        const dense second = isic_test::orthonormal(b);
        const auto got = isic::merge(subspace_of(a), subspace_of(second));
        const dense v = to_dense(got.basis);
        REQUIRE(got.rank() == std::min(d, r1 + r2 - shared));
        CHECK(v.leftCols(r1) == a);
        CHECK(skew(v) < 1e-12);
        CHECK((a - v * (v.transpose() * a)).norm() < 1e-12);
        CHECK((second - v * (v.transpose() * second)).norm() < 1e-10);
        CHECK((second - a * (a.transpose() * second)).norm() > (shared == r2 ? -1.0 : 0.1));
        CHECK(got.chosen.rank == got.rank());
        CHECK(static_cast<index_t>(got.singular_values.size()) == got.rank());
        CHECK(isic::merge(got, subspace_of(second)).rank() == got.rank());
        CHECK(isic_test::bytes_of(isic::merge(got, subspace_of(a)).basis) == isic_test::bytes_of(got.basis));
    }
}

TEST_CASE("nearly shared directions count by their angle") {
    const dense a = axis(6, {0});
    for (const double angle : {1e-3, 1e-6, 1e-7}) {
        dense b = std::cos(angle) * axis(6, {0}) + std::sin(angle) * axis(6, {3});
        const auto both = isic::merge(subspace_of(a), subspace_of(b));
        REQUIRE(both.rank() == 2);
        CHECK(skew(to_dense(both.basis)) < 1e-12);
        CHECK(std::abs(both.basis(3, 1) - 1) < 1e-8);
        CHECK(isic::merge(subspace_of(a), subspace_of(b), 2 * angle).rank() == 1);
    }
    CHECK(isic::merge(subspace_of(a), subspace_of(std::cos(1e-9) * axis(6, {0}) + std::sin(1e-9) * axis(6, {3})))
              .rank() == 1);
}

TEST_CASE("merged singular values belong to the columns they stand for") {
    isic_test::random dice(21);
    const dense first_rows =
        10 * to_dense(dice.matrix(30, 1)) * axis(8, {0}).transpose() + to_dense(dice.matrix(30, 8, 0.1));
    const dense second_rows =
        3 * to_dense(dice.matrix(30, 1)) * axis(8, {5}).transpose() + to_dense(dice.matrix(30, 8, 0.1));
    const auto first = isic::fit_subspace(isic_test::from_dense(first_rows), {.rank = {.fixed = 1}});
    const auto second = isic::fit_subspace(isic_test::from_dense(second_rows), {.rank = {.fixed = 1}});
    const auto both = isic::merge(first, second);
    REQUIRE(both.singular_values.size() == 2);
    CHECK(both.singular_values[0] == doctest::Approx(first.singular_values[0]).epsilon(0.01));
    CHECK(both.singular_values[1] == doctest::Approx(second.singular_values[0]).epsilon(0.01));
    const auto weights = isic::spectral_weights(both, 5);
    CHECK(weights[0] > weights[1]);
    CHECK(weights[1] > 0.1);  // 9 % of the energy; by the first's own second value it would be near 0
    CHECK(both.energy ==
          doctest::Approx((first_rows.squaredNorm() * first.energy + second_rows.squaredNorm() * second.energy) /
                          (first_rows.squaredNorm() + second_rows.squaredNorm()))
              .epsilon(0.01));
}

TEST_CASE("a merge counts what both hold of the directions that they share") {
    isic_test::random dice(22);
    // Of rank 3, so that the fits hold all of them; the third direction of the one is the first of the other.
    const dense q = isic_test::random_basis(dice, 9, 5);
    const dense first_rows = to_dense(dice.matrix(40, 3)) * q.leftCols(3).transpose();
    const dense second_rows = 2 * to_dense(dice.matrix(40, 3)) * q.rightCols(3).transpose();
    const auto fit = [](const dense& rows, index_t rank) {
        return isic::fit_subspace(isic_test::from_dense(rows), {.rank = {.fixed = rank}});
    };
    const auto both = isic::merge(fit(first_rows, 3), fit(second_rows, 3));
    REQUIRE(both.rank() == 5);
    CHECK(both.energy == doctest::Approx(1));
    const dense v = to_dense(both.basis);
    for (index_t j = 0; j < 5; ++j) {
        const double along = (first_rows * v.col(j)).squaredNorm() + (second_rows * v.col(j)).squaredNorm();
        CHECK(both.singular_values[static_cast<std::size_t>(j)] == doctest::Approx(std::sqrt(along)));
    }
    // Where a basis leaves something out, merging it with itself leaves out the same share.
    for (const index_t rank : {1, 2, 3}) {
        const auto part = fit(first_rows, rank);
        const auto twice = isic::merge(part, part);
        CHECK(twice.energy == doctest::Approx(part.energy));
        CHECK(isic::merge(twice, part).energy == doctest::Approx(part.energy));
        const auto weights = isic::spectral_weights(part, 2);
        const auto again = isic::spectral_weights(twice, 2);
        for (std::size_t i = 0; i < weights.size(); ++i) {
            CHECK(again[i] == doctest::Approx(weights[i]));
        }
    }
    CHECK(isic::merge(fit(first_rows, 1), fit(first_rows, 3)).energy <= 1);
}

TEST_CASE("a merge refuses other widths, a rank over its budget and a senseless tolerance") {
    const auto a = subspace_of(axis(4, {0}));
    const auto b = subspace_of(axis(4, {1, 2}));
    check_throws<isic::shape_error>("merge", [&] { isic::merge(a, subspace_of(axis(5, {0}))); }, {"got 5"});
    check_throws<isic::value_error>("merge", [&] { isic::merge(a, b, 1e-8, 2); }, {"at most 2", "1 + 2"});
    check_throws<isic::value_error>("merge", [&] { isic::merge(isic::subspace{}, b, 1e-8, 1); }, {"at most 1"});
    check_throws<isic::value_error>("merge", [&] { isic::merge(a, b, 1e-8, -1); }, {"max_rank >= 0", "got -1"});
    CHECK(isic::merge(a, b, 1e-8, 3).rank() == 3);
    for (const double tolerance : {-1e-9, 1.0, not_a_number}) {
        check_throws<isic::value_error>("merge", [&] { isic::merge(a, b, tolerance); });
    }
    isic::subspace none;
    none.basis = isic::matrix<double>(5, 0);
    check_throws<isic::shape_error>("merge", [&] { isic::merge(a, none); });
    check_throws<isic::shape_error>("merge", [&] { isic::merge(none, a); });
}

TEST_CASE("principal angles are the planted ones, from 1e-9 to a right angle") {
    isic_test::random dice(22);
    const std::vector<std::vector<double>> plans{{0.0},
                                                 {1e-9},
                                                 {1e-9, 1e-8, 1e-7},
                                                 {1e-9, 1e-3, 0.7},
                                                 {0.3, 0.3, 1.2},
                                                 {0.5, std::numbers::pi / 2 - 1e-9, std::numbers::pi / 2}};
    for (const auto& plan : plans) {
        for (const index_t extra : {0, 2}) {
            const auto r = static_cast<index_t>(plan.size());
            const dense q = isic_test::random_basis(dice, 16, 2 * r + extra);
            dense b(16, r);
            for (index_t i = 0; i < r; ++i) {
                const double angle = plan[static_cast<std::size_t>(i)];
                b.col(i) = std::cos(angle) * q.col(i) + std::sin(angle) * q.col(r + i);
            }
            dense a(16, r + extra);
            a << q.leftCols(r), q.rightCols(extra);
            // Any other basis of the same spaces.
            const auto first = subspace_of(a * isic_test::random_basis(dice, r + extra, r + extra));
            const auto second = subspace_of(b * isic_test::random_basis(dice, r, r));
            for (const auto& got : {isic::principal_angles(first, second), isic::principal_angles(second, first)}) {
                REQUIRE(got.size() == plan.size());
                for (std::size_t i = 0; i < plan.size(); ++i) {
                    CHECK(std::abs(got[i] - plan[i]) < 1e-14);
                }
            }
        }
    }
    check_throws<isic::shape_error>(
        "principal_angles", [] { isic::principal_angles(subspace_of(axis(3, {0})), subspace_of(axis(4, {0}))); });
}
