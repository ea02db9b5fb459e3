#include <isic/subspace.hpp>

#include <isic/subspace.hpp>

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
using isic_test::to_dense;

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
    for (const auto& shape : {std::pair{1, 1}, {1, 4}, {6, 1}, {5, 4}, {3, 8}, {50, 8}, {20, 32}, {100, 32}, {10, 200}, {199, 200}, {300, 200}}) {
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
        CHECK(isic_test::bytes_of(isic::fit_subspace(isic_test::from_dense(m), options).basis) == isic_test::bytes_of(first.basis));
        CHECK(isic_test::bytes_of(isic::fit_subspace(isic_test::from_dense(-m), options).basis) == isic_test::bytes_of(first.basis));
        for (index_t i = 0; i < n; i += 2) {
            m.row(i) *= -1;
        }
        CHECK((to_dense(isic::fit_subspace(isic_test::from_dense(m), options).basis) - to_dense(first.basis)).norm() < 1e-9);
    }
}

TEST_CASE("entries of equal size: the first is made positive") {
    for (const double sign : {1.0, -1.0}) {
        const auto got = isic::fit_subspace(isic_test::from_rows<double>({{sign, -sign}, {2 * sign, -2 * sign}}), fixed(1));
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
                const auto got = isic::fit_subspace(isic_test::from_dense(m), {.rank = {.fixed = r, .gavish_donoho = false}});
                const index_t seen = std::min(r, static_cast<index_t>((svd.values.array() > 1e-7).count()));
                INFO("d ", d, ", r ", r, ", factor ", factor);
                REQUIRE(got.rank() == seen);
                CHECK(skew(to_dense(got.basis)) < 1e-12);
                // What the Gram matrix can tell apart: eps / relative gap of the squares.
                const double last = std::pow(svd.values[seen - 1], 2);
                CHECK(span_gap(to_dense(got.basis), svd.v.leftCols(seen)) < 1e-12 / (last * (1 - factor * factor)) + 1e-12);
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
            const auto got = isic::fit_subspace(isic_test::from_dense(m), {.rank = {.fixed = r, .gavish_donoho = false}});
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
            const auto got = isic::fit_subspace(isic_test::from_dense(m), {.rank = {.energy = share, .gavish_donoho = false, .max_rank = 20}});
            CHECK(got.rank() == std::min<index_t>(expected, 20));
            CHECK(got.chosen.decided_by == (expected <= 20 ? rank_rule::energy : rank_rule::budget));
        }
    }
}

TEST_CASE("the rule that allows least decides, and says so") {
    isic_test::random dice(8);
    const auto rows = isic_test::from_dense(with_spectrum(dice, 60, 16, falling(16, 0.6)) * 100 + to_dense(dice.matrix(60, 16, 1e-3)));
    const auto decided = [&](const isic::rank_options& o) { return isic::fit_subspace(rows, {.rank = o}).chosen; };
    CHECK(decided({.fixed = 5, .max_rank = 2}).rank == 5);
    CHECK(decided({.energy = 0.3}).decided_by == rank_rule::energy);
    CHECK(decided({.energy = 0.3}).rank == 1);
    CHECK(decided({.energy = 0, .gavish_donoho = false}).decided_by == rank_rule::budget);
    CHECK(decided({.energy = 0, .gavish_donoho = false}).rank == 4);
    CHECK(decided({.energy = 0, .gavish_donoho = false, .max_rank = 15}).rank == 15);
    const auto noise = isic_test::from_dense(with_spectrum(dice, 60, 16, {60, 50}) + to_dense(dice.matrix(60, 16)));
    CHECK(isic::fit_subspace(noise, {.rank = {.energy = 0, .max_rank = 10}}).chosen.decided_by == rank_rule::gavish_donoho);
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
        const auto values = [](const dense& x) { return isic::fit_subspace(isic_test::from_dense(x), fixed(2)).singular_values; };
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
            const isic::rank_options flips{.energy = 0, .gavish_donoho = false, .sign_flips = 60, .seed = static_cast<std::uint64_t>(trial), .max_rank = d - 1};
            const dense noise = to_dense(dice.matrix(n, d, 0.1));
            dense along_axis = noise;
            along_axis.col(d / 2) += to_dense(dice.matrix(n, 1)).col(0);
            const auto one = isic::fit_subspace(isic_test::from_dense(along_axis), {.rank = flips});
            REQUIRE(one.rank() == 1);
            CHECK(one.basis(d / 2, 0) > 0.95);
            const dense shift = noise.rowwise() + isic_test::random_basis(dice, d, 1).col(0).transpose();  // a mean difference
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
            const isic::rank_options flips{.energy = 0, .gavish_donoho = false, .sign_flips = 40, .seed = 1000U * static_cast<std::uint64_t>(trial), .max_rank = d - 1};
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
            const dense rows = with_spectrum(dice, n, d, falling(std::min(n, d), 0.6)) * 50 + to_dense(dice.matrix(n, d, 0.01));
            isic::difference_accumulator pairs(d);
            const auto safe = dice.matrix(n, d);
            pairs.add_rows(isic_test::from_dense(rows + to_dense(safe)), safe);
            const isic::fit_options options{.rank = {.gavish_donoho = gavish_donoho, .max_rank = std::min<index_t>(d - 1, 6)}};
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
    CHECK(span_gap(to_dense(isic::fit_subspace(isic_test::from_dense(rows), options).basis), right_vectors(centred, 2)) < 1e-10);
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
    check_throws<isic::numeric_error>("fit_subspace", [] { isic::fit_subspace(isic::matrix<float>(4, 4)); }, {"zeros only"});
    for (const double wrong : {not_a_number, infinity, -infinity}) {
        auto bad = rows;
        bad(9, 3) = wrong;
        check_throws<isic::numeric_error>("fit_subspace", [&] { isic::fit_subspace(bad); }, {"row 9, column 3"});
    }
    for (const auto& shape : {std::pair{3, 2}, {2, 5}, {20, 9}}) {
        const index_t n = shape.first, d = shape.second;
        check_throws<isic::numeric_error>("fit_subspace", [&] { isic::fit_subspace(isic::matrix<double>(n, d, 1e200)); }, {"infinity"});
    }
    check_throws<isic::value_error>("fit_subspace", fit({.fixed = 5}), {"[0, d = 4]", "got 5"});
    check_throws<isic::value_error>("fit_subspace", fit({.fixed = -1}));
    check_throws<isic::value_error>("fit_subspace", fit({.max_rank = 4}), {"[0, 3]", "got 4"});
    check_throws<isic::value_error>("fit_subspace", fit({.max_rank = -1}));
    check_throws<isic::value_error>("fit_subspace", fit({.energy = 1.1}));
    check_throws<isic::value_error>("fit_subspace", fit({.energy = not_a_number}));
    check_throws<isic::value_error>("fit_subspace", fit({.sign_flips = -1}));
    check_throws<isic::value_error>("fit_subspace", [&] { isic::fit_subspace(rows, {.execution = {.threads = -1}}); }, {"threads >= 0", "got -1"});
    check_throws<isic::value_error>("fit_subspace", fit({.quantile = 1.0}));
    check_throws<isic::value_error>("fit_subspace", fit({.quantile = not_a_number}));
    check_throws<isic::value_error>("fit_subspace", [&] { isic::fit_subspace(rows, {.center = isic::centering::safe_axis}); }, {"accumulator", "for the safe axis"});
    isic::difference_accumulator empty(3);
    check_throws<isic::shape_error>("fit_subspace", [&] { isic::fit_subspace(empty); }, {"empty accumulator"});
    isic::difference_accumulator zero(3);
    zero.add_rows(dice.matrix(1, 3), isic::matrix<double>(1, 3));
    check_throws<isic::value_error>("fit_subspace", [&] { isic::fit_subspace(zero, {.center = isic::centering::safe_axis}); }, {"only zeros"});
    check_throws<isic::value_error>("fit_subspace", [&] { isic::fit_subspace(zero, {.rank = {.sign_flips = 10}}); }, {"only moments"});
    check_throws<isic::value_error>("fit_subspace", [&] { isic::fit_subspace(zero, {.execution = {.threads = -1}}); }, {"threads >= 0", "got -1"});
    isic::difference_accumulator flat(2);
    flat.add_rows(dice.matrix(1, 2), dice.matrix(1, 2));
    check_throws<isic::shape_error>("fit_subspace", [&] { isic::fit_subspace(flat, {.center = isic::centering::safe_axis}); }, {"d >= 3"});
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
