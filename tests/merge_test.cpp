#include <isic/subspace.hpp>

#include <numbers>
#include <tuple>

#include <isic/subspace.hpp>

#include "support/data.hpp"
#include "support/errors.hpp"
#include "support/reference.hpp"

using isic::index_t;
using isic_test::axis;
using isic_test::check_throws;
using isic_test::dense;
using isic_test::not_a_number;
using isic_test::skew;
using isic_test::subspace_of;
using isic_test::to_dense;

TEST_CASE("a merge spans both, adds only what is new, and leaves the first's columns as they are") {
    isic_test::random dice(20);
    for (const auto& [d, r1, shared, r2] : {std::tuple{4, 1, 0, 1}, {4, 2, 1, 2}, {8, 3, 0, 5}, {8, 2, 2, 2}, {32, 6, 3, 10}, {200, 10, 2, 12}, {5, 5, 3, 3}}) {
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
    CHECK(isic::merge(subspace_of(a), subspace_of(std::cos(1e-9) * axis(6, {0}) + std::sin(1e-9) * axis(6, {3}))).rank() == 1);
}

TEST_CASE("merged singular values belong to the columns they stand for") {
    isic_test::random dice(21);
    const dense first_rows = 10 * to_dense(dice.matrix(30, 1)) * axis(8, {0}).transpose() + to_dense(dice.matrix(30, 8, 0.1));
    const dense second_rows = 3 * to_dense(dice.matrix(30, 1)) * axis(8, {5}).transpose() + to_dense(dice.matrix(30, 8, 0.1));
    const auto first = isic::fit_subspace(isic_test::from_dense(first_rows), {.rank = {.fixed = 1}});
    const auto second = isic::fit_subspace(isic_test::from_dense(second_rows), {.rank = {.fixed = 1}});
    const auto both = isic::merge(first, second);
    REQUIRE(both.singular_values.size() == 2);
    CHECK(both.singular_values[0] == doctest::Approx(first.singular_values[0]).epsilon(0.01));
    CHECK(both.singular_values[1] == doctest::Approx(second.singular_values[0]).epsilon(0.01));
    const auto weights = isic::spectral_weights(both, 5);
    CHECK(weights[0] > weights[1]);
    CHECK(weights[1] > 0.1);  // 9 % of the energy; by the first's own second value it would be near 0
    CHECK(both.energy == doctest::Approx((first_rows.squaredNorm() * first.energy + second_rows.squaredNorm() * second.energy) /
                                         (first_rows.squaredNorm() + second_rows.squaredNorm())).epsilon(0.01));
}

TEST_CASE("a merge counts what both hold of the directions that they share") {
    isic_test::random dice(22);
    // Of rank 3, so that the fits hold all of them; the third direction of the one is the first of the other.
    const dense q = isic_test::random_basis(dice, 9, 5);
    const dense first_rows = to_dense(dice.matrix(40, 3)) * q.leftCols(3).transpose();
    const dense second_rows = 2 * to_dense(dice.matrix(40, 3)) * q.rightCols(3).transpose();
    const auto fit = [](const dense& rows, index_t rank) { return isic::fit_subspace(isic_test::from_dense(rows), {.rank = {.fixed = rank}}); };
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
    const std::vector<std::vector<double>> plans{{0.0}, {1e-9}, {1e-9, 1e-8, 1e-7}, {1e-9, 1e-3, 0.7}, {0.3, 0.3, 1.2}, {0.5, std::numbers::pi / 2 - 1e-9, std::numbers::pi / 2}};
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
    check_throws<isic::shape_error>("principal_angles", [] { isic::principal_angles(subspace_of(axis(3, {0})), subspace_of(axis(4, {0}))); });
}
