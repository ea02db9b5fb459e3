// SPDX-License-Identifier: Apache-2.0
#include <isic/detail/count_floor.hpp>
#include <isic/fused.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>

#include <isic/codebook.hpp>
#include <isic/differences.hpp>
#include <isic/projection.hpp>

#include "support/allocations.hpp"
#include "support/data.hpp"
#include "support/errors.hpp"
#include "support/reference.hpp"

using isic::index_t;
using isic_test::bytes_of;
using isic_test::check_throws;
using isic_test::dense;
using isic_test::to_dense;
using isic_test::unit;

namespace {

struct row_shape {
    index_t codes;
    index_t width;
    index_t rank;
};
constexpr row_shape row_shapes[] = {{1, 1, 1},  {3, 2, 1},    {70, 8, 1},  {70, 8, 3},
                                    {40, 5, 4}, {130, 33, 8}, {65, 64, 20}};

isic::subspace drawn(isic_test::random& dice, index_t d, index_t r) {
    return isic_test::subspace_of(isic_test::random_basis(dice, d, r));
}

double largest_gap(const dense& a, const dense& b) {
    return (a - b).cwiseAbs().maxCoeff();
}

/// Roundings of T that a row's arithmetic may take.
template <class T>
double tolerance(const dense& m) {
    return 64 * unit<T> * (1 + m.cwiseAbs().maxCoeff());
}

}  // namespace

TEST_CASE_TEMPLATE("fused::project_out is the formula, whatever the options", T, float, double) {
    isic_test::random dice(1);
    for (const row_shape& s : row_shapes) {
        const index_t codes = s.codes, width = s.width, rank = s.rank;
        INFO(codes, " x ", width, ", rank ", rank);
        const isic::subspace harm = drawn(dice, width, rank);
        const dense v = to_dense(harm.basis);
        const auto book = dice.matrix<T>(codes, width);
        const auto strength = dice.matrix<T>(1, codes);
        const auto center = dice.matrix<T>(1, width);
        const auto weights = dice.matrix<T>(1, rank);
        auto got = book;
        isic::fused::project_out(got, isic::fused::basis<T>(harm),
                                 {.strength = strength.row(0), .center = center.row(0), .weights = weights.row(0)});
        const dense c = to_dense(book);
        const dense away = to_dense(center).replicate(codes, 1) - c;
        const dense step = away * v * to_dense(weights).row(0).asDiagonal() * v.transpose();
        const dense expected = c + to_dense(strength).row(0).asDiagonal() * step;
        CHECK(largest_gap(to_dense(got), expected) < tolerance<T>(expected));
    }
}

TEST_CASE_TEMPLATE("fused::project_out projects the subspace out, and rows of strength 0 keep their bytes", T, float,
                   double) {
    isic_test::random dice(2);
    const isic::subspace harm = drawn(dice, 16, 3);
    const auto book = dice.matrix<T>(50, 16);
    CHECK(isic::leakage(book, harm).total > 0.1);
    auto got = book;
    isic::fused::project_out(got, isic::fused::basis<T>(harm));
    CHECK(isic::leakage(got, harm).total < 8 * unit<T>);
    got = book;
    std::vector<T> strength(50, T(1));
    strength[7] = 0;
    isic::fused::project_out(got, isic::fused::basis<T>(harm), {.strength = strength});
    CHECK(bytes_of(got.row(7)) == bytes_of(book.row(7)));
    CHECK(bytes_of(got.row(8)) != bytes_of(book.row(8)));
    got = book;
    isic::fused::project_out(got, isic::fused::basis<T>());
    CHECK(bytes_of(got.view().row(0)) == bytes_of(book.view().row(0)));
}

TEST_CASE_TEMPLATE("fused::adam_update does what adam_update does in float64", T, float, double) {
    isic_test::random dice(3);
    for (const row_shape& s : row_shapes) {
        const index_t codes = s.codes, width = s.width, rank = s.rank;
        INFO(codes, " x ", width, ", rank ", rank);
        const isic::subspace harm = drawn(dice, width, rank);
        auto fast = dice.matrix<T>(codes, width);
        isic::matrix<double> slow(codes, width);
        std::ranges::copy(std::span(fast.data(), static_cast<std::size_t>(codes * width)), slow.data());
        isic::adam_state<T> fast_state;
        isic::adam_state slow_state;
        const isic::fused::basis<T> basis(harm);
        for (int step = 0; step < 5; ++step) {
            const auto gradient = dice.matrix<T>(codes, width);
            isic::fused::adam_update(fast, gradient, fast_state, {.rate = 0.05}, {.orthogonal_to = basis});
            isic::adam_update(slow, gradient, slow_state, {.rate = 0.05}, {.orthogonal_to = harm});
        }
        CHECK(fast_state.steps == 5);
        if (rank < width) {  // else nothing may move, and the moments are rounding
            CHECK(largest_gap(to_dense(fast), to_dense(slow)) < (sizeof(T) == 4 ? 1e-3 : 1e-9));
        }
    }
}

TEST_CASE_TEMPLATE("the first step of fused::adam_update is the rate, to rounding", T, float, double) {
    isic::matrix<T> codes(3, 9);
    isic::adam_state<T> state;
    const isic::fused::basis<T> none;
    isic::fused::adam_update(codes, isic::matrix<T>(3, 9, T(2)), state, {.rate = 0.25, .epsilon = 1e-30},
                             {.orthogonal_to = none});
    for (index_t k = 0; k < 3; ++k) {
        for (const T x : codes.row(k)) {
            CHECK(std::abs(static_cast<double>(x) + 0.25) < 4 * unit<T>);
        }
    }
}

TEST_CASE_TEMPLATE("a step of fused::adam_update does not leak, and plain Adam's does", T, float, double) {
    isic_test::random dice(4);
    const isic::subspace harm = drawn(dice, 24, 4);
    const auto leak_of_step = [&](const isic::fused::basis<T>& basis) {
        isic::matrix<T> codes(40, 24);
        isic::adam_state<T> state;
        isic::fused::adam_update(codes, dice.matrix<T>(40, 24), state, {.rate = 0.1}, {.orthogonal_to = basis});
        return isic::leakage(codes, harm).total;
    };
    CHECK(leak_of_step(isic::fused::basis<T>()) > 0.1);
    CHECK(leak_of_step(isic::fused::basis<T>(harm)) < 16 * unit<T>);
}

TEST_CASE_TEMPLATE("fused::ema_update does what ema_update does in float64, for both kinds of ids", T, float, double) {
    isic_test::random dice(5);
    for (const row_shape& s : row_shapes) {
        const index_t codes = s.codes, width = s.width, rank = s.rank;
        INFO(codes, " x ", width, ", rank ", rank);
        const isic::subspace harm = drawn(dice, width, rank);
        auto fast = dice.matrix<T>(codes, width);
        isic::matrix<double> slow(codes, width);
        std::ranges::copy(std::span(fast.data(), static_cast<std::size_t>(codes * width)), slow.data());
        isic::ema_state<T> fast_state;
        isic::ema_state slow_state;
        const isic::fused::basis<T> basis(harm);
        for (int step = 0; step < 4; ++step) {
            const auto vectors = dice.matrix<T>(3 * codes, width);
            const auto ids = dice.ids<std::int64_t>(3 * codes, codes);
            const std::vector<std::int32_t> narrow(ids.begin(), ids.end());
            if (step % 2 == 0) {
                isic::fused::ema_update(fast, vectors, ids, fast_state, 0.9, {.orthogonal_to = basis});
            } else {
                isic::fused::ema_update(fast, vectors, narrow, fast_state, 0.9, {.orthogonal_to = basis});
            }
            isic::ema_update(slow, slow_state, isic::assign(vectors, ids, codes), 0.9, {.orthogonal_to = harm});
        }
        CHECK(largest_gap(to_dense(fast), to_dense(slow)) < 4 * tolerance<T>(to_dense(slow)));
    }
}

// Denormal counts and sums have lost their digits: their quotient is anything.
TEST_CASE_TEMPLATE("a code that nothing has been assigned to for long stays, until something is", T, float, double) {
    isic_test::random dice(8);
    const isic::fused::basis<T> none;
    const T count = 2 * isic::detail::count_floor<T>;
    for (const index_t width : {4, 8, 40}) {
        CAPTURE(width);
        const auto book = dice.matrix<T>(20, width);
        isic::ema_state<T> state;
        state.counts.assign(20, count);
        state.sums = book;
        for (index_t k = 0; k < 20; ++k) {
            std::ranges::for_each(state.sums.row(k), [&](T& x) { x *= count; });
        }
        auto got = book;
        for (int step = 0; step < 300; ++step) {
            isic::fused::ema_update(got, isic::matrix<T>(0, width), std::vector<int>(), state, 0.5,
                                    {.orthogonal_to = none});
        }
        CHECK(largest_gap(to_dense(got), to_dense(book)) < 4 * tolerance<T>(to_dense(book)));
        CHECK(std::ranges::all_of(state.counts, [](T n) { return n == 0; }));
        CHECK(to_dense(state.sums).isZero(0));
        const auto vectors = dice.matrix<T>(1, width);
        isic::fused::ema_update(got, vectors, std::vector<int>{7}, state, 0.5, {.orthogonal_to = none});
        CHECK(largest_gap(to_dense(got).row(7), to_dense(vectors)) < 4 * tolerance<T>(to_dense(vectors)));
        CHECK(bytes_of(got.row(8)) != bytes_of(got.row(7)));
    }
}

TEST_CASE("locked rows keep their bytes in every inner loop") {
    isic_test::random dice(6);
    const isic::fused::basis<float> none;
    const std::vector<std::uint8_t> locked{0, 1, 0};
    const auto book = dice.matrix<float>(3, 5);
    auto got = book;
    isic::adam_state<float> adam;
    isic::fused::adam_update(got, dice.matrix<float>(3, 5), adam, {}, {.orthogonal_to = none, .locked = locked});
    CHECK(bytes_of(got.row(1)) == bytes_of(book.row(1)));
    CHECK(bytes_of(got.row(2)) != bytes_of(book.row(2)));
    got = book;
    isic::ema_state<float> ema;
    isic::fused::ema_update(got, dice.matrix<float>(4, 5), std::vector<int>{0, 1, 1, 2}, ema, 0.5,
                            {.orthogonal_to = none, .locked = locked});
    CHECK(bytes_of(got.row(1)) == bytes_of(book.row(1)));
    CHECK(bytes_of(got.row(2)) != bytes_of(book.row(2)));
}

TEST_CASE("the inner loops refuse shapes, ids and options that do not fit, and write nothing") {
    isic_test::random dice(7);
    const isic::subspace harm = drawn(dice, 6, 2);
    const isic::fused::basis<float> basis(harm);
    const auto book = dice.matrix<float>(4, 6);
    auto got = book;
    const std::vector<float> three(3);
    check_throws<isic::shape_error>(
        "fused::project_out", [&] { isic::fused::project_out(got, isic::fused::basis<float>(drawn(dice, 5, 2))); },
        {"6", "5"});
    check_throws<isic::shape_error>("fused::project_out",
                                    [&] { isic::fused::project_out(got, basis, {.strength = three}); }, {"4", "3"});
    check_throws<isic::value_error>("fused::project_out",
                                    [&] { isic::fused::project_out(got, basis, {.execution = {.threads = -1}}); },
                                    {"threads >= 0", "got -1"});
    check_throws<isic::shape_error>("fused::project_out",
                                    [&] { isic::fused::project_out(got, basis, {.center = three}); }, {"6", "3"});
    check_throws<isic::shape_error>("fused::project_out",
                                    [&] { isic::fused::project_out(got, basis, {.weights = three}); }, {"2", "3"});
    isic::adam_state<float> adam;
    check_throws<isic::shape_error>("fused::adam_update", [&] {
        isic::fused::adam_update(got, dice.matrix<float>(3, 6), adam, {}, {.orthogonal_to = basis});
    });
    check_throws<isic::value_error>(
        "fused::adam_update", [&] { isic::fused::adam_update(got, book, adam, {.rate = 0}, {.orthogonal_to = basis}); },
        {"rate > 0"});
    CHECK(adam.steps == 0);
    isic::adam_state<float> before_the_first{.mean = {}, .square = {}, .steps = -2};
    check_throws<isic::value_error>(
        "fused::adam_update",
        [&] { isic::fused::adam_update(got, book, before_the_first, {}, {.orthogonal_to = basis}); }, {"got -2"});
    isic::ema_state<float> ema;
    const auto ema_with = [&](const std::vector<int>& ids, double decay) {
        isic::fused::ema_update(got, dice.matrix<float>(2, 6), ids, ema, decay, {.orthogonal_to = basis});
    };
    check_throws<isic::value_error>(
        "fused::adam_update",
        [&] { isic::fused::adam_update(got, book, adam, {}, {.orthogonal_to = basis, .execution = {.threads = -1}}); },
        {"threads >= 0", "got -1"});
    check_throws<isic::value_error>("fused::ema_update", [&] { ema_with({0, 4}, 0.5); }, {"[0, 4)", "4 at position 1"});
    check_throws<isic::shape_error>("fused::ema_update", [&] { ema_with({0}, 0.5); });
    check_throws<isic::value_error>("fused::ema_update", [&] { ema_with({0, 1}, 1.0); }, {"decay in [0, 1)"});
    isic::subspace skewed = harm;
    skewed.basis(0, 0) += 0.5;
    check_throws<isic::value_error>("fused::basis", [&] { isic::fused::basis<float>{skewed}; }, {"orthonormal"});
    CHECK(bytes_of(got.view().row(0)) == bytes_of(book.view().row(0)));
}

TEST_CASE("NaN stays in its row") {
    isic_test::random dice(8);
    const isic::fused::basis<float> basis(drawn(dice, 12, 3));
    auto whole = dice.matrix<float>(9, 12);
    auto broken = whole;
    broken(4, 2) = static_cast<float>(isic_test::not_a_number);
    isic::fused::project_out(whole, basis);
    isic::fused::project_out(broken, basis);
    for (index_t k = 0; k < 9; ++k) {
        CHECK((bytes_of(whole.row(k)) == bytes_of(broken.row(k))) == (k != 4));
    }
}

TEST_CASE("a warm call allocates nothing when the caller keeps the scratch memory") {
    isic_test::random dice(9);
    constexpr index_t codes = 300, width = 24;
    const isic::fused::basis<float> basis(drawn(dice, width, 3));
    auto book = dice.matrix<float>(codes, width);
    const auto fixed = book;
    const isic::code_index index(fixed);
    const auto vectors = dice.matrix<float>(100, width);
    const auto ids = dice.ids<std::int32_t>(100, codes);
    std::vector<index_t> nearest(100);
    isic::adam_state<float> adam;
    isic::ema_state<float> ema;
    isic::difference_accumulator moments(width);
    isic::scratch_memory scratch;
    const auto allocations = [&](const isic::execution& exec) {
        const isic_test::allocation_count count;
        isic::fused::project_out(book, basis, {.execution = exec});
        isic::fused::adam_update(book, fixed, adam, {}, {.orthogonal_to = basis, .execution = exec});
        isic::fused::ema_update(book, vectors, ids, ema, 0.9, {.orthogonal_to = basis, .execution = exec});
        index.nearest(vectors, nearest, exec);
        moments.add_rows(book, fixed, exec);
        return count.so_far();
    };
    if (!isic_test::allocation_count::works()) {
        MESSAGE("skipped: a sanitizer counts allocations in its own way");
        return;
    }
    const isic::execution kept{.threads = 1, .scratch = &scratch};
    CHECK(allocations(kept) > 0);
    CHECK(allocations({.threads = 1}) > 0);
    CHECK(allocations(kept) == 0);
    CHECK(allocations(kept) == 0);
}
