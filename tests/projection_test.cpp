// SPDX-License-Identifier: Apache-2.0
// Projection: the formula, the guarantees that hold after it and not before, and what it refuses without writing.
#include <isic/projection.hpp>

#include <functional>
#include <new>
#include <optional>
#include <string>

#include "support/allocations.hpp"
#include "support/data.hpp"
#include "support/errors.hpp"
#include "support/reference.hpp"

using isic::index_t;
using isic::matrix;
using isic::metric;
using isic::near_zero_policy;
using isic::projection_options;
using isic_test::bytes_of;
using isic_test::check_throws;
using isic_test::dense;
using isic_test::infinity;
using isic_test::not_a_number;
using isic_test::subspace_of;
using isic_test::to_dense;
using isic_test::unit;

namespace {

struct projection_shape {
    index_t codes;
    index_t width;
    index_t rank;
};
constexpr projection_shape projection_shapes[] = {{1, 2, 1},  {3, 4, 1},   {70, 8, 2},
                                                  {65, 5, 4}, {80, 33, 7}, {20, 48, 12}};

/// What an option asks for in plain loops: read, project, rescale. Nothing is rounded and no row is near zero.
dense expected_rows(dense codes, const dense& v, const dense& targets, const std::vector<double>& strength,
                    const std::vector<double>& weights, bool keep_norms, metric metric) {
    std::vector<double> norms;
    for (index_t k = 0; k < codes.rows(); ++k) {
        double square = 0;
        for (index_t j = 0; j < codes.cols(); ++j) {
            square += codes(k, j) * codes(k, j);
        }
        norms.push_back(std::sqrt(square));
        for (index_t j = 0; j < codes.cols() && metric == metric::cosine; ++j) {
            codes(k, j) /= norms.back();
        }
    }
    dense out = isic_test::projected(codes, v, targets, strength, weights);
    for (index_t k = 0; k < out.rows() && (keep_norms || metric == metric::cosine); ++k) {
        out.row(k) *= norms[static_cast<std::size_t>(k)] / std::sqrt(out.row(k).squaredNorm());
    }
    return out;
}

/// The stored rows are the expected ones rounded once; rows that keep their bytes had next to nothing to do.
template <class T>
void check_rows(const matrix<T>& before, const dense& after, const dense& expected, const dense& targets) {
    const dense old = to_dense(before);
    for (index_t k = 0; k < old.rows(); ++k) {
        const double scale = std::max({old.row(k).norm(), targets.row(k).norm(), 1.0});
        if (after.row(k) == old.row(k)) {
            CHECK((expected.row(k) - old.row(k)).norm() <= 5 * unit<T> * scale * std::max(1.0, old.row(k).norm()));
            continue;
        }
        const double slack = 2e-12 * scale + static_cast<double>(std::numeric_limits<T>::denorm_min());
        const auto error = (after.row(k) - expected.row(k)).array().abs();
        CHECK((error <= unit<T> * expected.row(k).array().abs() + slack).all());
    }
}

template <class T>
double worst_row_leak(const matrix<T>& codes, const dense& v) {
    const dense c = to_dense(codes);
    double worst = 0;
    for (index_t k = 0; k < c.rows(); ++k) {
        worst = c.row(k).norm() > 0 ? std::max(worst, (c.row(k) * v).norm() / c.row(k).norm()) : worst;
    }
    return worst;
}

std::vector<index_t> changed_rows(const dense& before, const dense& after) {
    std::vector<index_t> out;
    for (index_t k = 0; k < before.rows(); ++k) {
        if (before.row(k) != after.row(k)) {
            out.push_back(k);
        }
    }
    return out;
}

std::vector<double> gate(isic_test::random& dice, index_t codes) {
    std::vector<double> out = dice.numbers(codes);
    std::ranges::transform(out, out.begin(), [](double x) { return x < 0.5 ? 0.0 : 1.0; });
    return out;
}

/// A row with `inside` in the first direction and `outside` in the second, of width 4.
template <class T>
void set_row(matrix<T>& codes, index_t k, double inside, double outside, double third = 0) {
    const double values[] = {inside, outside, third, 0};
    for (index_t j = 0; j < 4; ++j) {
        codes(k, j) = static_cast<T>(values[j]);
    }
}

isic::subspace first_axis(index_t width = 4) {
    return subspace_of(dense::Identity(width, 1));
}

}  // namespace

TEST_CASE_TEMPLATE("every kind of projection is c + s (t - c) V diag(w) V^T, rounded once", T, ISIC_STORAGE) {
    isic_test::random dice(1);
    for (const auto& [codes, width, rank] : projection_shapes) {
        const dense v = isic_test::random_basis(dice, width, rank);
        const auto weights = dice.numbers(rank);
        const auto center = dice.numbers(width);
        const auto graded = dice.numbers(codes);
        const auto gated = gate(dice, codes);
        const matrix<double> target = dice.matrix(codes, width);
        for (const metric metric : {metric::l2, metric::cosine}) {
            const std::vector<std::pair<const char*, projection_options>> kinds{
                {"hard", {}},
                {"part", {.strength = 0.3}},
                {"graded", {.strength = graded}},
                {"gated", {.strength = std::span(gated)}},
                {"soft", {.weights = weights}},
                {"norms", {.keep_norms = true}},
                {"affine", {.center = center}},
                {"counterparts", {.target = target}},
                {"a target beats a center", {.target = target, .center = center}},
                {"all", {.strength = graded, .target = target, .weights = weights, .keep_norms = true}}};
            for (const auto& kind : kinds) {
                INFO(std::string(kind.first));
                projection_options options = kind.second;
                options.metric = metric;
                options.near_zero_below = 0;
                const auto before = dice.matrix<T>(codes, width);
                dense targets = dense::Zero(codes, width);
                for (index_t k = 0; k < codes && !options.center.empty(); ++k) {
                    targets.row(k) = Eigen::Map<const Eigen::RowVectorXd>(center.data(), width);
                }
                targets = options.target.empty() ? targets : to_dense(target);
                std::vector<double> strength;
                for (index_t k = 0; k < codes; ++k) {
                    strength.push_back(options.strength[k]);
                }
                const dense expected =
                    expected_rows(to_dense(before), v, targets, strength,
                                  {options.weights.begin(), options.weights.end()}, options.keep_norms, metric);
                isic_test::strided<T> memory(before, 3);
                const isic::edit e = isic::project_out(memory.span(), subspace_of(v), options);
                const dense after = to_dense(memory.span());
                check_rows(before, after, expected, targets);
                CHECK(memory.gaps_intact());
                CHECK(e.ids() == changed_rows(to_dense(before), after));
                CHECK(e.summary.moved == static_cast<index_t>(e.ids().size()));
                CHECK(e.summary.near_zero == 0);
                const dense step = after - to_dense(before);
                CHECK(e.summary.relative_change ==
                      doctest::Approx(step.norm() / to_dense(before).norm()).epsilon(1e-9));
                CHECK(e.center.size() == options.center.size());
                for (const index_t k : e.ids()) {
                    CHECK(strength[static_cast<std::size_t>(k)] > 0);
                }
            }
        }
    }
}

TEST_CASE_TEMPLATE("a hard projection empties the subspace and leaves the rest alone", T, ISIC_STORAGE) {
    for (const std::uint64_t seed : {2U, 3U, 4U}) {
        isic_test::random dice(seed);
        for (const auto& [codes, width, rank] : projection_shapes) {
            const dense v = isic_test::random_basis(dice, width, rank);
            auto book = dice.matrix<T>(codes, width);
            const dense before = to_dense(book);
            CHECK(isic_test::leak(before, v) > 0.01);
            const isic::edit e = isic::project_out(book, subspace_of(v), {.near_zero_below = 0});
            const dense after = to_dense(book);
            CHECK(worst_row_leak(book, v) <= 5 * unit<T>);
            const dense across = (after - before) - (after - before) * v * v.transpose();
            CHECK(across.norm() <= 1.01 * unit<T> * before.norm() + 1e-14 * before.norm());
            CHECK(e.summary.before.total == doctest::Approx(isic_test::leak(before, v)).epsilon(1e-9));
            CHECK(e.summary.after.total == doctest::Approx(isic_test::leak(after, v))
                                               .epsilon(1e-6)
                                               .scale(1e-10));  // 1e-16: noise of the measuring
            CHECK(e.summary.after.largest <= 5 * unit<T>);
            CHECK(e.summary.before.largest > e.summary.after.largest);
            CHECK(to_dense(e.removed.basis) == v);
        }
    }
}

TEST_CASE_TEMPLATE("an affine projection empties the subspace around its center only", T, ISIC_STORAGE) {
    isic_test::random dice(5);
    const dense v = isic_test::random_basis(dice, 8, 2);
    std::vector<double> center = dice.numbers(8);
    const Eigen::Map<const Eigen::RowVectorXd> mu(center.data(), 8);
    auto book = dice.matrix<T>(60, 8);
    const auto around = [&](const matrix<T>& m) { return isic_test::leak(to_dense(m).rowwise() - mu, v); };
    CHECK(around(book) > 0.2);
    const isic::edit e = isic::project_out(book, subspace_of(v), {.center = center});
    CHECK(around(book) < 8 * unit<T>);
    CHECK(isic_test::leak(to_dense(book), v) > 0.1);
    CHECK(e.summary.after.total == doctest::Approx(around(book)).scale(1e-9));
    CHECK(e.center == center);
}

TEST_CASE_TEMPLATE("codes meet their targets inside the subspace and stay outside it", T, ISIC_STORAGE) {
    isic_test::random dice(6);
    const dense v = isic_test::random_basis(dice, 9, 3);
    auto book = dice.matrix<T>(40, 9);
    const auto target = dice.matrix(40, 9);
    const dense before = to_dense(book);
    CHECK(((before - to_dense(target)) * v).norm() > 1);
    isic::project_out(book, subspace_of(v), {.target = target});
    const dense after = to_dense(book);
    const double rounding = 5 * unit<T> * (before.norm() + to_dense(target).norm());
    CHECK(((after - to_dense(target)) * v).norm() < rounding);
    CHECK(((after - before) - (after - before) * v * v.transpose()).norm() < rounding);
    CHECK((after - to_dense(target)).norm() > 1);
}

TEST_CASE_TEMPLATE("keep_norms keeps norms, and the subspace empty; without it they shrink", T, ISIC_STORAGE) {
    isic_test::random dice(7);
    const dense v = isic_test::random_basis(dice, 8, 2);
    const auto original = dice.matrix<T>(50, 8);
    const auto norms = [](const matrix<T>& m) { return dense(to_dense(m).rowwise().norm()); };
    auto kept = original;
    auto shrunk = original;
    isic::project_out(kept, subspace_of(v), {.keep_norms = true, .near_zero_below = 0});
    isic::project_out(shrunk, subspace_of(v), {.near_zero_below = 0});
    CHECK(worst_row_leak(original, v) > 0.5);
    CHECK(worst_row_leak(kept, v) < 5 * unit<T>);
    CHECK(((norms(kept) - norms(original)).array().abs() <= (2 * unit<T> + 1e-15) * norms(original).array()).all());
    CHECK((norms(shrunk).array() < norms(original).array() * (1 + unit<T>)).all());
    CHECK(norms(shrunk).sum() < 0.95 * norms(original).sum());
}

TEST_CASE_TEMPLATE("a hard projection done twice changes nothing the second time", T, ISIC_STORAGE) {
    for (const std::uint64_t seed : {8U, 9U}) {
        isic_test::random dice(seed);
        for (const auto& [codes, width, rank] : projection_shapes) {
            const dense v = isic_test::random_basis(dice, width, rank);
            const std::vector<index_t> padding{0};
            for (const double scale : {1.0, 1e-3, 300.0}) {
                const std::vector<projection_options> kinds{{},
                                                            {.keep_norms = true},
                                                            {.metric = metric::cosine},
                                                            {.near_zero = near_zero_policy::skip},
                                                            {.near_zero = near_zero_policy::zero},
                                                            {.keep_norms = true, .near_zero = near_zero_policy::zero},
                                                            {.near_zero_below = 0}};
                for (projection_options options : kinds) {
                    auto book = dice.matrix<T>(codes, width, scale);
                    options.near_zero_below =
                        codes > 2 ? std::min(options.near_zero_below, 0.01) : 0;  // small codebooks must keep a row
                    if (codes > 2) {
                        options.padding = padding;
                        std::ranges::fill(book.row(0), std::numeric_limits<T>::quiet_NaN());
                        for (index_t j = 0; j < width; ++j) {  // a near-zero row
                            book(1, j) = static_cast<T>(scale * v(j, 0));
                        }
                    }
                    const isic::edit first = isic::project_out(book, subspace_of(v), options);
                    CHECK((codes == 1 || !first.ids().empty()));
                    const auto once = bytes_of(book);
                    const isic::edit second = isic::project_out(book, subspace_of(v), options);
                    CHECK(bytes_of(book) == once);
                    CHECK(second.ids().empty());
                    CHECK(second.summary.moved == 0);
                    CHECK(second.summary.relative_change == 0);
                }
            }
        }
    }
}

TEST_CASE_TEMPLATE("toward a center or targets, twice is once too; half a projection twice is not", T, ISIC_STORAGE) {
    isic_test::random dice(10);
    for (const auto& [codes, width, rank] : projection_shapes) {
        const dense v = isic_test::random_basis(dice, width, rank);
        const auto center = dice.numbers(width);
        const auto target = dice.matrix(codes, width);
        for (const projection_options& options :
             {projection_options{.center = center, .near_zero_below = 0}, {.target = target}}) {
            auto book = dice.matrix<T>(codes, width);
            CHECK(!isic::project_out(book, subspace_of(v), options).ids().empty());
            const auto once = bytes_of(book);
            CHECK(isic::project_out(book, subspace_of(v), options).ids().empty());
            CHECK(bytes_of(book) == once);
        }
        auto book = dice.matrix<T>(codes, width);
        const projection_options half{.strength = 0.5, .near_zero_below = 0};
        isic::project_out(book, subspace_of(v), half);
        CHECK(!isic::project_out(book, subspace_of(v), half).ids().empty());
    }
}

TEST_CASE("a basis that was rounded to float leaks no more than an exact one") {
    isic_test::random dice(11);
    for (const auto& [codes, width, rank] : projection_shapes) {
        const dense v = isic_test::random_basis(dice, width, rank).cast<float>().cast<double>();
        const dense exact = isic_test::orthonormal(v);
        REQUIRE(isic_test::skew(v) > 1e-10);
        auto book = dice.matrix<double>(codes, width);
        isic::project_out(book, subspace_of(v), {.near_zero_below = 0});
        CHECK(worst_row_leak(book, exact) < 5e-16);
        CHECK(isic::project_out(book, subspace_of(v), {.near_zero_below = 0}).ids().empty());
    }
}

TEST_CASE_TEMPLATE("weights of 1 are a hard projection and weights of 0 none", T, ISIC_STORAGE) {
    isic_test::random dice(12);
    const dense v = isic_test::random_basis(dice, 8, 2);
    const auto original = dice.matrix<T>(40, 8);
    auto hard = original;
    isic::project_out(hard, subspace_of(v));
    auto soft = original;
    isic::project_out(soft, subspace_of(v), {.weights = std::vector<double>{1, 1}});
    CHECK((to_dense(soft) - to_dense(hard)).norm() <= 2 * unit<T> * to_dense(hard).norm());
    auto none = original;
    CHECK(isic::project_out(none, subspace_of(v), {.weights = std::vector<double>{0, 0}}).ids().empty());
    CHECK(bytes_of(none) == bytes_of(original));
    auto first_only = original;
    isic::project_out(first_only, subspace_of(v), {.weights = std::vector<double>{1, 0}, .near_zero_below = 0});
    CHECK(worst_row_leak(first_only, v.leftCols(1)) < 5 * unit<T>);
    CHECK((to_dense(first_only) * v.col(1) - to_dense(original) * v.col(1)).norm() <
          2 * unit<T> * to_dense(original).norm());
}

TEST_CASE("spectral weights leave 1 - w of each direction") {
    isic_test::random dice(13);
    const dense v = isic_test::random_basis(dice, 6, 3);
    isic::subspace harm = subspace_of(v);
    harm.singular_values = {4, 2, 1, 0.5};
    harm.energy = 21.0 / 21.25;
    const double published[] = {.8590604, .31683168, .08988764};  // CURE, alpha = 2
    const auto weights = isic::spectral_weights(harm, 2);
    auto book = dice.matrix(30, 6);
    const dense before = to_dense(book) * v;
    isic::project_out(book, harm, {.weights = weights, .near_zero_below = 0});
    const dense after = to_dense(book) * v;
    for (index_t i = 0; i < 3; ++i) {
        CHECK(weights[static_cast<std::size_t>(i)] == doctest::Approx(published[i]).epsilon(1e-7));
        CHECK((after.col(i) - (1 - published[i]) * before.col(i)).norm() < 1e-6);
    }
}

TEST_CASE("projection does not care how the codebook is turned, ordered, or in how many steps it is done") {
    isic_test::random dice(14);
    const dense v = isic_test::random_basis(dice, 7, 3);
    const dense turn = isic_test::random_basis(dice, 7, 7);
    const auto original = dice.matrix(30, 7);
    const projection_options all{.near_zero_below = 0};
    auto plain = original;
    isic::project_out(plain, subspace_of(v), all);

    auto turned = isic_test::from_dense(to_dense(original) * turn);
    isic::project_out(turned, subspace_of(turn.transpose() * v), all);
    CHECK((to_dense(turned) - to_dense(plain) * turn).norm() < 1e-13);

    auto other_basis = original;
    isic::project_out(other_basis, subspace_of(v * isic_test::random_basis(dice, 3, 3)), all);
    CHECK((to_dense(other_basis) - to_dense(plain)).norm() < 1e-13);

    auto reversed = isic_test::from_dense(to_dense(original).colwise().reverse());
    isic::project_out(reversed, subspace_of(v), all);
    CHECK((to_dense(reversed).colwise().reverse() - to_dense(plain)).norm() < 1e-13);

    auto stepwise = original;
    for (index_t i = 0; i < 3; ++i) {
        isic::project_out(stepwise, subspace_of(v.col(i)), all);
    }
    CHECK((to_dense(stepwise) - to_dense(plain)).norm() < 1e-13);

    auto halves = original;  // two halves leave a quarter
    isic::project_out(halves, subspace_of(v), {.strength = 0.5, .near_zero_below = 0});
    isic::project_out(halves, subspace_of(v), {.strength = 0.5, .near_zero_below = 0});
    CHECK((to_dense(halves) * v - 0.25 * to_dense(original) * v).norm() < 1e-13);
}

TEST_CASE_TEMPLATE("several threads edit a codebook as one does, and as its pieces are edited", T, float, isic::half) {
    isic_test::random dice(51);
    constexpr index_t codes = 3000, width = 48, piece = 500;
    const dense v = isic_test::random_basis(dice, width, 3);
    auto whole = dice.matrix<T>(codes, width);
    const auto original = whole;
    std::vector<double> strength = dice.numbers(codes);
    for (index_t k = 0; k < codes; k += 3) {
        strength[static_cast<std::size_t>(k)] = 0;
        strength[static_cast<std::size_t>(k + 1)] = 1;
    }
    auto pieces = whole;
    index_t moved = 0;
    for (index_t start = 0; start < codes; start += piece) {
        const std::vector<double> of_piece(strength.begin() + start, strength.begin() + start + piece);
        const isic::matrix_span<T> rows(pieces.row(start).data(), piece, width);
        moved += isic::project_out(rows, subspace_of(v), {.strength = of_piece}).summary.moved;
    }
    isic::edit e;
    for (const int threads : {0, 1, 2, 3, 20}) {
        INFO(threads, " threads");
        whole = original;
        e = isic::project_out(whole, subspace_of(v), {.strength = strength, .execution = {.threads = threads}});
        CHECK(bytes_of(whole) == bytes_of(pieces));
        const isic::leakage_report left = isic::leakage(whole, subspace_of(v), {}, {}, {.threads = threads});
        CHECK(left.total == e.summary.after.total);
        CHECK(left.largest == e.summary.after.largest);
    }
    CHECK(e.summary.moved == moved);
    CHECK(moved > codes / 2);
    CHECK(e.summary.relative_change ==
          doctest::Approx((to_dense(whole) - to_dense(original)).norm() / to_dense(original).norm()));
    CHECK(e.summary.after.total == doctest::Approx(isic_test::leak(to_dense(whole), v)));
    e.undo(whole);
    CHECK(bytes_of(whole) == bytes_of(original));
}

TEST_CASE_TEMPLATE("cosine metric: norms are kept, directions projected, scales do not matter", T, ISIC_STORAGE) {
    isic_test::random dice(15);
    const dense v = isic_test::random_basis(dice, 8, 2);
    auto book = dice.matrix<T>(40, 8);
    std::ranges::fill(book.row(7), static_cast<T>(0.0F));
    auto scaled = book;
    for (index_t k = 0; k < 40; ++k) {
        for (T& x : scaled.row(k)) {
            x = static_cast<T>(std::ldexp(static_cast<double>(x), static_cast<int>(k % 5) - 2));
        }
    }
    const dense before = to_dense(book);
    const projection_options options{.metric = metric::cosine, .near_zero_below = 0};
    const isic::edit e = isic::project_out(book, subspace_of(v), options);
    const isic::edit scaled_edit = isic::project_out(scaled, subspace_of(v), options);
    CHECK(e.summary.before.total == doctest::Approx(scaled_edit.summary.before.total));
    CHECK(e.summary.after.total <= 5 * unit<T>);
    double square = 0;  // leakage of the directions, not of the rows
    for (index_t k = 0; k < 40; ++k) {
        square += before.row(k).norm() > 0 ? (before.row(k) * v).squaredNorm() / before.row(k).squaredNorm() : 0.0;
        // Every entry is rounded once to T; the two norms and the scale are sums of 8 squares in float64.
        CHECK(to_dense(book).row(k).norm() ==
              doctest::Approx(before.row(k).norm()).epsilon(unit<T> + 12 * unit<double>));
        CHECK(to_dense(scaled).row(k) == std::ldexp(1.0, static_cast<int>(k % 5) - 2) * to_dense(book).row(k));
    }
    CHECK(e.summary.before.total == doctest::Approx(std::sqrt(square / 39)));
    CHECK(to_dense(book).row(7).isZero(0));
    CHECK(!std::ranges::binary_search(e.ids(), 7));
    // A row without direction has nowhere to go.
    const auto target = dice.matrix(40, 8);
    CHECK(!std::ranges::binary_search(
        isic::project_out(book, subspace_of(v), {.target = target, .metric = metric::cosine}).ids(), 7));
    CHECK(std::ranges::binary_search(isic::project_out(book, subspace_of(v), {.target = target}).ids(), 7));
}

TEST_CASE_TEMPLATE("a full remap mixes codes with their targets", T, ISIC_STORAGE) {
    isic_test::random dice(16);
    const auto original = dice.matrix<T>(30, 5);
    const auto rounded = dice.matrix<T>(30, 5);
    const matrix<double> target = isic_test::from_dense(to_dense(rounded));
    auto book = original;
    const isic::edit e = isic::remap(book, {.target = target});
    CHECK(bytes_of(book) == bytes_of(rounded));
    CHECK(e.removed.rank() == 0);
    CHECK(e.summary.before.total == 0);
    e.undo(book);
    CHECK(bytes_of(book) == bytes_of(original));

    const auto strength = gate(dice, 30);
    isic::remap(book, {.strength = strength, .target = target});
    for (index_t k = 0; k < 30; ++k) {
        CHECK(bytes_of(book.row(k)) ==
              bytes_of(strength[static_cast<std::size_t>(k)] > 0 ? rounded.row(k) : original.row(k)));
    }
    auto mixed = original;
    isic::remap(mixed, {.strength = 0.25, .target = target});
    CHECK((to_dense(mixed) - 0.75 * to_dense(original) - 0.25 * to_dense(target)).norm() <=
          2 * unit<T> * (to_dense(original).norm() + 1));

    auto untouched = original;  // V = I written out does the same
    isic::project_out(untouched, subspace_of(dense::Identity(5, 5)), {.strength = 0.25, .target = target});
    CHECK((to_dense(untouched) - to_dense(mixed)).norm() <= 4 * unit<T> * to_dense(mixed).norm());
}

TEST_CASE_TEMPLATE("what becomes of a row that lies in the subspace is the caller's choice", T, ISIC_STORAGE) {
    matrix<T> original(6, 4);
    set_row(original, 0, 0, 1);           // safe
    set_row(original, 1, 8, 0.5);         // near zero; row 0 is the nearest unmoved row
    set_row(original, 2, 4, 3);           // moves, not near zero
    set_row(original, 3, 0, 0);           // zero
    set_row(original, 4, -2, 0, -0.125);  // near zero; row 5 is the nearest
    set_row(original, 5, 0, 0, -0.5);     // safe
    const auto run = [&](near_zero_policy policy, isic::edit& e) {
        auto book = original;
        e = isic::project_out(book, first_axis(), {.near_zero = policy});
        CHECK(e.summary.near_zero == 2);
        CHECK(to_dense(book).row(0) == to_dense(original).row(0));
        CHECK(to_dense(book)(2, 0) == 0);
        CHECK(to_dense(book)(2, 1) == 3);
        CHECK(to_dense(book).row(3).isZero(0));
        return to_dense(book);
    };
    isic::edit e;
    const dense nearest = run(near_zero_policy::nearest_safe, e);
    CHECK(nearest.row(1) == nearest.row(0));
    CHECK(nearest.row(4) == nearest.row(5));
    CHECK(e.ids() == std::vector<index_t>{1, 2, 4});
    const dense skipped = run(near_zero_policy::skip, e);
    CHECK(skipped.row(1) == to_dense(original).row(1));
    CHECK(skipped.row(4) == to_dense(original).row(4));
    CHECK(e.ids() == std::vector<index_t>{2});
    const dense zero = run(near_zero_policy::zero, e);
    CHECK(zero.row(1).isZero(0));
    CHECK(zero.row(4).isZero(0));
    CHECK(e.ids() == std::vector<index_t>{1, 2, 4});
    auto book = original;
    check_throws<isic::numeric_error>(
        "project_out", [&] { isic::project_out(book, first_axis(), {.near_zero = near_zero_policy::error}); },
        {"at least 0.1 of each row's norm", "less in 2 rows, the first 1"});
    CHECK(bytes_of(book) == bytes_of(original));
}

TEST_CASE("a row is near zero below the threshold and not at it") {
    matrix<double> original(3, 4);
    set_row(original, 0, 0, 1);
    set_row(original, 1, 4, 3);   // 3 of 5 is left
    set_row(original, 2, 12, 5);  // 5 of 13
    for (const auto& [threshold, count] : {std::pair{0.0, 0}, {0.38, 0}, {0.39, 1}, {0.59, 1}, {0.61, 2}, {1.0, 2}}) {
        auto book = original;
        CHECK(isic::project_out(book, first_axis(), {.near_zero_below = threshold}).summary.near_zero == count);
        CHECK(to_dense(book)(1, 1) == (count == 2 ? 1 : 3));
        CHECK(to_dense(book)(2, 1) == (count == 0 ? 5 : 1));
    }
    auto inside = original;  // where nothing but rounding is left, no threshold is low enough
    set_row(inside, 1, 1e3, 1e-13);
    CHECK(isic::project_out(inside, first_axis(), {.near_zero_below = 0}).summary.near_zero == 1);
    CHECK(to_dense(inside)(1, 1) == 1);
    auto book = original;  // with targets no row is near zero
    CHECK(isic::project_out(book, first_axis(), {.target = matrix<double>(3, 4), .near_zero_below = 1})
              .summary.near_zero == 0);
    book = original;  // half a step leaves more
    CHECK(isic::project_out(book, first_axis(), {.strength = 0.5, .near_zero_below = 0.39}).summary.near_zero == 0);
}

TEST_CASE_TEMPLATE("near_zero rows take the new value of the nearest row, unmoved ones first", T, ISIC_STORAGE) {
    matrix<T> book(5, 4);
    set_row(book, 0, 8, 0);     // near zero
    set_row(book, 1, 7, 1);     // nearest, but near zero itself
    set_row(book, 2, 6, 2);     // the next, but moves
    set_row(book, 3, 0, -4);    // far, unmoved
    set_row(book, 4, 8, 0.25);  // nearest of all, but padding
    const std::vector<index_t> padding{4};
    auto still = book;
    const projection_options options{.padding = padding, .near_zero_below = 0.2};
    CHECK(isic::project_out(still, first_axis(), options).summary.near_zero == 2);
    CHECK(to_dense(still).row(0) == to_dense(book).row(3));
    CHECK(to_dense(still).row(1) == to_dense(book).row(3));
    CHECK(to_dense(still).row(4) == to_dense(book).row(4));

    set_row(book, 3, -9, -4);  // now every row moves
    auto moving = book;
    CHECK(isic::project_out(moving, first_axis(), options).summary.near_zero == 2);
    CHECK(to_dense(moving).row(0) == to_dense(moving).row(2));
    CHECK(to_dense(moving).row(1) == to_dense(moving).row(2));
    CHECK(to_dense(moving)(2, 0) == 0);
    CHECK(to_dense(moving)(2, 1) == 2);

    auto none = book;  // nobody is left
    check_throws<isic::numeric_error>("project_out",
                                      [&] { isic::project_out(none, first_axis(), {.near_zero_below = 1}); },
                                      {"a row that is not near zero", "choose another policy"});
    CHECK(bytes_of(none) == bytes_of(book));
}

TEST_CASE("the nearest safe row is nearest by direction for the cosine metric") {
    matrix<double> book(3, 4);
    set_row(book, 0, 10, 0.5, 0);
    set_row(book, 1, 0, 0.01, 0);  // the same side, short
    set_row(book, 2, 0, -0.2, 9);  // the other side
    auto normalised = book;
    isic::project_out(normalised, first_axis(), {.metric = metric::cosine});
    CHECK(to_dense(normalised).row(0) == to_dense(book).row(1));
    matrix<double> near(3, 4);
    set_row(near, 0, 10, 0.5, 0);
    set_row(near, 1, 0, 100, 0);  // the right direction, far away
    set_row(near, 2, 0, -1, 0);
    auto plain = near;
    isic::project_out(plain, first_axis());
    CHECK(to_dense(plain).row(0) == to_dense(near).row(2));
    isic::project_out(near, first_axis(), {.metric = metric::cosine});
    CHECK(to_dense(near)(0, 1) == 100);
}

TEST_CASE_TEMPLATE("padding is not touched, not counted, and may hold NaN", T, ISIC_STORAGE) {
    isic_test::random dice(17);
    const dense v = isic_test::random_basis(dice, 6, 2);
    const std::vector<index_t> padding{0, 11, 11, 31};
    const auto target = dice.matrix(32, 6);
    const auto center = dice.numbers(6);
    for (projection_options options : {projection_options{},
                                       {.target = target},
                                       {.center = center},
                                       {.keep_norms = true},
                                       {.metric = metric::cosine},
                                       {.weights = center, .near_zero_below = 0}}) {
        options.padding = padding;
        options.weights = options.weights.empty() ? options.weights : options.weights.first(2);
        auto book = dice.matrix<T>(32, 6);
        auto clean = book;
        for (const index_t k : padding) {
            book(k, 0) = std::numeric_limits<T>::quiet_NaN();
            book(k, 3) = static_cast<T>(-isic_test::infinity);
            std::ranges::fill(clean.row(k), static_cast<T>(0.0F));
        }
        const auto original = book;
        const isic::edit e = isic::project_out(book, subspace_of(v), options);
        const isic::edit of_clean = isic::project_out(clean, subspace_of(v), options);
        CHECK(!e.ids().empty());
        for (index_t k = 0; k < 32; ++k) {
            const bool padded = std::ranges::count(padding, k) > 0;
            CHECK(bytes_of(book.row(k)) == bytes_of(padded ? original.row(k) : clean.row(k)));
        }
        CHECK(e.ids() == of_clean.ids());
        CHECK(e.summary.relative_change == of_clean.summary.relative_change);
        CHECK(e.summary.before.total == of_clean.summary.before.total);
        CHECK(e.summary.after.largest == of_clean.summary.after.largest);
        auto undone = book;
        e.undo(undone);
        CHECK(bytes_of(undone) == bytes_of(original));
    }
}

TEST_CASE("rows of zeros, a subspace of rank 0 and strength 0 move nothing") {
    isic_test::random dice(18);
    auto book = dice.matrix<float>(5, 4);
    std::ranges::fill(book.row(2), 0.0F);
    const auto original = bytes_of(book);
    CHECK(isic::project_out(book, subspace_of(dense(4, 0))).ids().empty());
    CHECK(isic::project_out(book, first_axis(), {.strength = 0.0}).ids().empty());
    CHECK(isic::project_out(book, first_axis(), {.strength = std::vector<double>(5, 0.0)}).ids().empty());
    CHECK(isic::remap(book, {.strength = 0.0, .target = dice.matrix(5, 4)}).ids().empty());
    CHECK(bytes_of(book) == original);
    const isic::edit e = isic::project_out(book, first_axis());
    CHECK(!std::ranges::binary_search(e.ids(), 2));
    CHECK(e.summary.near_zero == 0);
}

TEST_CASE("Eigen's matrices are edited in place") {
    isic_test::random dice(19);
    const dense v = isic_test::random_basis(dice, 4, 1);
    auto book = dice.matrix<float>(6, 4);
    Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> eigen = to_dense(book).cast<float>();
    isic::project_out(book, subspace_of(v));
    isic::project_out(eigen, subspace_of(v));
    CHECK(eigen.cast<double>() == to_dense(book));
}

TEST_CASE("columns of one wide matrix may be read and edited side by side, shared bytes may not") {
    isic_test::random dice(20);
    auto wide = dice.matrix(10, 8);
    wide(0, 4) = 0.5;
    const isic::matrix_span<double> left(wide.data(), 10, 4, 8);
    const isic::matrix_view<double> right(wide.data() + 4, 10, 4, 8);
    const dense targets = to_dense(right);
    isic::remap(left, {.target = right});
    CHECK(to_dense(left) == targets);
    CHECK(to_dense(right) == targets);

    const auto original = bytes_of(wide);
    const auto refused = [&](const projection_options& options) {
        check_throws<isic::value_error>("project_out", [&] { isic::project_out(left, first_axis(), options); },
                                        {"overlapping memory"});
        CHECK(bytes_of(wide) == original);
    };
    refused({.target = left});
    refused({.target = isic::matrix_view<double>(wide.data() + 3, 10, 4, 8)});
    refused({.target = isic::matrix_view<double>(wide.data() + 4, 10, 4, 4)});
    refused({.center = std::span<const double>(wide.data() + 8, 4)});
    refused({.weights = std::span<const double>(wide.data(), 1)});
    isic::subspace harm = first_axis();
    check_throws<isic::value_error>(
        "project_out", [&] { isic::project_out(harm.basis, first_axis(1), {.target = harm.basis}); }, {"overlapping"});
    check_throws<isic::value_error>("project_out", [&] {
        isic::project_out(harm.basis, subspace_of(dense::Identity(1, 1)), {.target = harm.basis});
    });
    auto square = subspace_of(dense::Identity(3, 3));
    check_throws<isic::value_error>("project_out", [&] { isic::project_out(square.basis, square); }, {"overlapping"});
    CHECK(to_dense(square.basis) == dense::Identity(3, 3));
}

TEST_CASE_TEMPLATE("what does not fit is refused and no byte is written", T, ISIC_STORAGE) {
    isic_test::random dice(21);
    const auto book = dice.matrix<T>(6, 4);
    isic_test::strided<T> memory(book, 2);
    const auto original = memory.bytes();
    const auto refused = [&]<class Error>(std::type_identity<Error>, const isic::subspace& harm,
                                          const projection_options& options,
                                          std::initializer_list<std::string_view> words) {
        check_throws<Error>("project_out", [&] { isic::project_out(memory.span(), harm, options); }, words);
        CHECK(memory.bytes() == original);
    };
    const std::type_identity<isic::shape_error> shape_error;
    const std::type_identity<isic::value_error> value_error;
    const std::type_identity<isic::numeric_error> numeric_error;
    const isic::subspace harm = subspace_of(isic_test::random_basis(dice, 4, 2));

    refused(shape_error, isic::subspace{}, {}, {"4 rows in the basis", "got 0"});
    refused(shape_error, first_axis(5), {}, {"4 rows in the basis", "got 5"});
    refused(value_error, subspace_of(dense::Identity(4, 5)), {}, {"a rank of at most d", "5 > 4"});
    refused(value_error, subspace_of(2 * dense::Identity(4, 2)), {}, {"orthonormal columns"});
    refused(value_error, subspace_of(dense::Ones(4, 2) / 2), {}, {"orthonormal columns"});
    refused(numeric_error, subspace_of(dense::Constant(4, 1, not_a_number)), {}, {"the basis"});

    for (const double wrong : {-0.001, 1.001, not_a_number, infinity}) {
        std::vector<double> each(6, 1.0);
        each[5] = wrong;
        refused(value_error, harm, {.strength = wrong}, {"strength in [0, 1]"});
        refused(value_error, harm, {.strength = each}, {"strength of code 5 in [0, 1]"});
        refused(value_error, harm, {.weights = std::vector<double>{1, wrong}}, {"weights in [0, 1]"});
        refused(value_error, harm, {.near_zero_below = wrong}, {"near_zero_below in [0, 1]"});
    }
    for (const index_t size : {0, 1, 5, 7}) {
        refused(shape_error, harm, {.strength = std::vector<double>(static_cast<std::size_t>(size), 1.0)},
                {"6 values of strength"});
    }
    refused(shape_error, harm, {.weights = std::vector<double>(3, 1.0)}, {"2 weights", "got 3"});
    refused(value_error, harm, {.execution = {.threads = -1}}, {"threads >= 0", "got -1"});
    refused(shape_error, harm, {.center = std::vector<double>(3, 1.0)}, {"4 values in the center", "got 3"});
    refused(numeric_error, harm, {.center = std::vector<double>{0, 0, infinity, 0}}, {"the center"});
    refused(shape_error, harm, {.target = matrix<double>(5, 4)}, {"6 target rows", "got 5"});
    refused(shape_error, harm, {.target = matrix<double>(6, 3)}, {"4 target columns", "got 3"});
    refused(numeric_error, harm, {.target = matrix<double>(6, 4, not_a_number)}, {"the targets"});
    refused(value_error, harm, {.padding = std::vector<index_t>{6}}, {"[0, 6)"});
    refused(value_error, harm, {.padding = std::vector<index_t>{-1}}, {"-1 at position 0"});
    refused(numeric_error, harm, {.padding = std::vector<index_t>{0, 1, 2, 3, 4, 5}}, {"zeros only"});

    check_throws<isic::shape_error>("remap", [&] { isic::remap(memory.span(), {}); }, {"a target per code"});
    check_throws<isic::value_error>(
        "remap",
        [&] { isic::remap(memory.span(), {.target = matrix<double>(6, 4), .weights = std::vector<double>{1}}); },
        {"no weights"});
    CHECK(memory.bytes() == original);

    matrix<T> none(0, 4);
    check_throws<isic::shape_error>("project_out", [&] { isic::project_out(none, harm); },
                                    {"a codebook with rows and columns"});
    matrix<T> zeros(3, 4);
    check_throws<isic::numeric_error>("project_out", [&] { isic::project_out(zeros, harm); }, {"zeros only"});
    if constexpr (std::same_as<T, double>) {
        for (const double size : {1e200, 1e-200}) {  // norms would be infinite, or 0, and every row seem to lie outside
            matrix<double> extreme(3, 4, size);
            const auto bytes = bytes_of(extreme);
            for (const auto metric : {isic::metric::l2, isic::metric::cosine}) {
                check_throws<isic::numeric_error>("project_out",
                                                  [&] { isic::project_out(extreme, harm, {.metric = metric}); },
                                                  {"squares fit float64"});
            }
            CHECK(bytes_of(extreme) == bytes);
        }
    }
    for (const T wrong : {std::numeric_limits<T>::quiet_NaN(), std::numeric_limits<T>::infinity()}) {
        auto bad = book;
        bad(5, 3) = wrong;
        const auto bytes = bytes_of(bad);
        check_throws<isic::numeric_error>("project_out", [&] { isic::project_out(bad, harm); },
                                          {"the codebook", "row 5, column 3"});
        CHECK(bytes_of(bad) == bytes);
    }
}

TEST_CASE("wherever memory runs out, no byte is written") {
    if (!isic_test::allocation_count::works()) {
        MESSAGE("skipped: a sanitizer's heap cannot be told to fail");
        return;
    }
    isic_test::random dice(52);
    const isic::subspace harm = subspace_of(isic_test::random_basis(dice, 8, 2));
    const auto original = dice.matrix<float>(300, 8);
    int failures = 0;
    for (bool out_of_memory = true; out_of_memory; ++failures) {
        auto codes = original;
        out_of_memory = false;
        try {
            const isic_test::failing_allocation next(failures + 1);
            isic::project_out(codes, harm, {.near_zero_below = 0.6});  // some rows are near zero and are replaced
        } catch (const std::bad_alloc&) {
            out_of_memory = true;
        }
        CAPTURE(failures);
        CHECK((bytes_of(codes) == bytes_of(original)) == out_of_memory);
    }
    CHECK(failures > 20);
}

TEST_CASE_TEMPLATE("rows that would not fit the dtype are refused, all of them", T, float, isic::half, isic::bfloat16) {
    isic_test::random dice(22);
    auto book = dice.matrix<T>(6, 4);
    const auto original = bytes_of(book);
    matrix<double> target(6, 4, 1.0);
    target(5, 2) = 1e39;
    check_throws<isic::numeric_error>("remap", [&] { isic::remap(book, {.target = target}); },
                                      {"edited rows that fit", "in row 5"});
    CHECK(bytes_of(book) == original);
    target(5, 2) = 1;
    CHECK(isic::remap(book, {.target = target}).summary.moved == 6);
}
