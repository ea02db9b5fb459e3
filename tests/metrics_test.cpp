// SPDX-License-Identifier: Apache-2.0
// What an edit cost, against plain loops, published intervals and inverses.
#include <isic/metrics.hpp>

#include <numeric>

#include <isic/projection.hpp>

#include "support/data.hpp"
#include "support/errors.hpp"
#include "support/reference.hpp"

using isic::index_t;
using isic::matrix;
using isic::metric;
using isic_test::check_throws;
using isic_test::dense;
using isic_test::infinity;
using isic_test::not_a_number;
using isic_test::to_dense;

namespace {

index_t looped_pairs(const dense& codes, double tolerance, const std::vector<index_t>& padding = {}) {
    index_t out = 0;
    for (index_t i = 0; i < codes.rows(); ++i) {
        for (index_t j = i + 1; j < codes.rows(); ++j) {
            double square = 0;
            for (index_t column = 0; column < codes.cols(); ++column) {
                square += (codes(i, column) - codes(j, column)) * (codes(i, column) - codes(j, column));
            }
            const bool counts = std::ranges::count(padding, i) + std::ranges::count(padding, j) == 0;
            out += counts && std::sqrt(square) <= tolerance ? 1 : 0;
        }
    }
    return out;
}

index_t looped_nearest(const dense& z, const dense& codes) {
    index_t best = 0;
    double least = infinity;
    for (index_t k = 0; k < codes.rows(); ++k) {
        double square = 0;
        for (index_t j = 0; j < codes.cols(); ++j) {
            square += (z(0, j) - codes(k, j)) * (z(0, j) - codes(k, j));
        }
        best = square < least ? k : best;
        least = std::min(least, square);
    }
    return best;
}

/// Chance of each number of hits among n, each with probability p.
std::vector<double> binomial(int n, double p) {
    std::vector<double> out;
    for (int k = 0; k <= n; ++k) {
        out.push_back(std::exp(std::lgamma(n + 1) - std::lgamma(k + 1) - std::lgamma(n - k + 1) + k * std::log(p) +
                               (n - k) * std::log1p(-p)));
    }
    return out;
}

}  // namespace

TEST_CASE_TEMPLATE("drift is what plain loops measure", T, ISIC_STORAGE) {
    isic_test::random dice(1);
    for (const auto& [codes, width] : {std::pair{1, 1}, {7, 4}, {60, 9}}) {
        const auto before = dice.matrix<T>(codes, width);
        auto after = before;
        for (index_t k = 0; k < codes; k += 2) {
            after(k, k % width) = static_cast<T>(static_cast<double>(after(k, k % width)) + 1 + dice.uniform());
        }
        isic_test::strided<T> memory(after, 3);
        const dense step = to_dense(after) - to_dense(before);
        const isic::drift_report d = isic::drift(before, memory.span());
        double sum = 0;
        double largest = 0;
        for (index_t k = 0; k < codes; ++k) {
            double square = 0;
            for (index_t j = 0; j < width; ++j) {
                square += step(k, j) * step(k, j);
            }
            sum += std::sqrt(square);
            largest = std::max(largest, std::sqrt(square));
        }
        CHECK(d.relative == doctest::Approx(std::sqrt(step.squaredNorm() / to_dense(before).squaredNorm())));
        CHECK(d.mean == doctest::Approx(sum / static_cast<double>(codes)));
        CHECK(d.largest == doctest::Approx(largest));
        CHECK(d.moved == (codes + 1) / 2);
        const isic::drift_report none = isic::drift(before, before);
        CHECK(none.relative == 0);
        CHECK(none.mean == 0);
        CHECK(none.largest == 0);
        CHECK(none.moved == 0);
    }
}

TEST_CASE("drift is what an edit says of itself, and padding does not drift") {
    isic_test::random dice(2);
    const auto before = dice.matrix<float>(40, 8);
    auto after = before;
    const auto edit = isic::project_out(after, isic_test::subspace_of(isic_test::random_basis(dice, 8, 2)));
    const isic::drift_report d = isic::drift(before, after);
    CHECK(d.relative == doctest::Approx(edit.summary.relative_change));
    CHECK(d.moved == edit.summary.moved);

    const std::vector<index_t> padding{0, 39, 39};
    const isic::drift_report expected = isic::drift(matrix<float>(before), after, padding);
    auto b = before;
    auto a = after;
    b(0, 0) = std::numeric_limits<float>::quiet_NaN();
    a(39, 7) = std::numeric_limits<float>::infinity();
    CHECK(isic::drift(b, a, padding).mean == expected.mean);
    CHECK(isic::drift(b, a, padding).relative == expected.relative);
    CHECK(isic::drift(b, a, padding).moved == expected.moved);
    double sum = 0;
    for (index_t k = 1; k < 39; ++k) {
        sum += (to_dense(after) - to_dense(before)).row(k).norm();
    }
    CHECK(expected.mean == doctest::Approx(sum / 38));
    check_throws<isic::numeric_error>("drift", [&] { isic::drift(b, a); }, {"the codebook before", "row 0, column 0"});
    check_throws<isic::numeric_error>("drift", [&] { isic::drift(before, a); },
                                      {"the codebook after", "row 39, column 7"});
    check_throws<isic::shape_error>("drift", [&] { isic::drift(b, matrix<float>(39, 8)); },
                                    {"40 rows after", "got 39"});
    check_throws<isic::shape_error>("drift", [&] { isic::drift(b, matrix<float>(40, 7)); },
                                    {"8 columns after", "got 7"});
    check_throws<isic::shape_error>("drift", [] { isic::drift(matrix<float>(0, 2), matrix<float>(0, 2)); });
    check_throws<isic::numeric_error>("drift", [] { isic::drift(matrix<float>(2, 2), matrix<float>(2, 2, 1.0F)); },
                                      {"zeros only"});
    check_throws<isic::numeric_error>("drift", [] { isic::drift(matrix<double>(2, 2, 1e200), matrix<double>(2, 2)); },
                                      {"squares fit float64"});
    check_throws<isic::value_error>("drift", [&] { isic::drift(before, after, std::vector<index_t>{40}); },
                                    {"[0, 40)"});
}

TEST_CASE_TEMPLATE("churn is the share of vectors that change their code", T, ISIC_STORAGE) {
    isic_test::random dice(3);
    const auto before = dice.matrix<T>(30, 4);
    const auto after = dice.matrix<T>(30, 4);
    const auto z = dice.matrix<float>(97, 4);
    index_t changed = 0;
    for (index_t i = 0; i < 97; ++i) {
        const dense row = to_dense(z).row(i);
        changed += looped_nearest(row, to_dense(before)) != looped_nearest(row, to_dense(after)) ? 1 : 0;
    }
    CHECK(changed > 10);
    CHECK(isic::nearest_code_churn(z, before, after) == doctest::Approx(static_cast<double>(changed) / 97));
    CHECK(isic::nearest_code_churn(z, before, before) == 0);
    CHECK(isic::nearest_code_churn(before, before, isic_test::from_dense(to_dense(before).colwise().reverse())) == 1);
}

TEST_CASE("churn follows the metric and ignores padding") {
    isic_test::random dice(4);
    const auto before = dice.matrix<float>(20, 3);
    auto scaled = before;
    for (index_t k = 0; k < 20; ++k) {
        for (float& x : scaled.row(k)) {
            x *= k % 2 == 0 ? 4.0F : 0.25F;
        }
    }
    const auto z = dice.matrix<float>(50, 3);
    CHECK(isic::nearest_code_churn(z, before, scaled) > 0.1);
    CHECK(isic::nearest_code_churn(z, before, scaled, metric::cosine) == 0);
    auto spoilt = before;
    std::ranges::fill(spoilt.row(3), std::numeric_limits<float>::quiet_NaN());
    const std::vector<index_t> padding{3};
    CHECK(isic::nearest_code_churn(z, before, spoilt, metric::l2, padding) == 0);
    check_throws<isic::numeric_error>("nearest_codes", [&] { isic::nearest_code_churn(z, before, spoilt); });
    check_throws<isic::shape_error>("nearest_code_churn",
                                    [&] { isic::nearest_code_churn(z, before, matrix<float>(19, 3)); },
                                    {"20 codes after", "got 19"});
    check_throws<isic::shape_error>("nearest_code_churn",
                                    [&] { isic::nearest_code_churn(matrix<float>(0, 3), before, before); },
                                    {"vectors with rows"});
    check_throws<isic::shape_error>("nearest_codes",
                                    [&] { isic::nearest_code_churn(z, before, matrix<float>(20, 4, 1.0F)); });
}

TEST_CASE_TEMPLATE("collapsed pairs are all pairs that near, whatever the order", T, ISIC_STORAGE) {
    isic_test::random dice(5);
    for (const auto& [codes, width] : {std::pair{1, 3}, {2, 1}, {50, 2}, {80, 6}}) {
        auto book = dice.matrix<T>(codes, width);
        for (index_t k = 1; k < codes; k += 4) {
            std::ranges::copy(book.row(dice.below(k)), book.row(k).begin());
        }
        isic_test::strided<T> memory(book, 1);
        const std::vector<index_t> padding{codes - 1};
        for (const double tolerance : {0.0, 0.3, 1.0, 100.0}) {
            CHECK(isic::collapsed_pairs(memory.span(), tolerance) == looped_pairs(to_dense(book), tolerance));
            CHECK(isic::collapsed_pairs(book, tolerance, padding) == looped_pairs(to_dense(book), tolerance, padding));
        }
    }
    const matrix<T> equal(7, 3, static_cast<T>(2.0F));
    CHECK(isic::collapsed_pairs(equal) == 21);
}

TEST_CASE("codes that differ only inside the removed subspace collapse, the others do not") {
    isic_test::random dice(6);
    const dense v = isic_test::random_basis(dice, 6, 2);
    dense rows = to_dense(dice.matrix(20, 6));
    rows.row(7) = rows.row(3) + 0.5 * v.col(0).transpose();
    rows.row(9) = rows.row(3) - 0.25 * v.col(1).transpose();
    auto book = isic_test::from_dense(rows);
    CHECK(isic::collapsed_pairs(book, 1e-9) == 0);
    isic::project_out(book, isic_test::subspace_of(v), {.near_zero_below = 0});
    CHECK(isic::collapsed_pairs(book, 1e-9) == 3);
}

TEST_CASE("collapsed pairs refuse what has no distances, except in padding") {
    matrix<float> book(3, 2, 1.0F);
    book(1, 1) = std::numeric_limits<float>::quiet_NaN();
    check_throws<isic::numeric_error>("collapsed_pairs", [&] { isic::collapsed_pairs(book); }, {"row 1, column 1"});
    CHECK(isic::collapsed_pairs(book, 0, std::vector<index_t>{1}) == 1);
    CHECK(isic::collapsed_pairs(book, 0, std::vector<index_t>{0, 1, 2}) == 0);
    for (const double wrong : {-1e-9, not_a_number, infinity}) {
        check_throws<isic::value_error>("collapsed_pairs", [&] { isic::collapsed_pairs(matrix<float>(2, 2), wrong); },
                                        {"a finite tolerance >= 0"});
    }
    check_throws<isic::value_error>("collapsed_pairs",
                                    [&] { isic::collapsed_pairs(book, 0, std::vector<index_t>{3}); });
    check_throws<isic::shape_error>("collapsed_pairs", [] { isic::collapsed_pairs(matrix<float>(0, 2)); });
}

TEST_CASE("perplexity counts the codes in use") {
    for (const std::size_t codes : {1U, 2U, 10U, 1000U}) {
        CHECK(isic::usage_perplexity(std::vector<double>(codes, 3.0)) ==
              doctest::Approx(static_cast<double>(codes)).epsilon(1e-12));
        std::vector<double> one(codes, 0.0);
        one.back() = 8;
        CHECK(isic::usage_perplexity(one) == 1);
        one.front() = 8;
        CHECK(isic::usage_perplexity(one) == doctest::Approx(codes > 1 ? 2.0 : 1.0));
    }
    CHECK(isic::usage_perplexity(std::vector<double>{4, 2, 1, 1}) == doctest::Approx(std::exp2(1.75)));
    isic_test::random dice(7);
    auto counts = dice.numbers(50);
    const double perplexity = isic::usage_perplexity(counts);
    CHECK(perplexity > 1);
    CHECK(perplexity < 50);
    const double total = std::accumulate(counts.begin(), counts.end(), 0.0);
    double product = 1;  // of p^-p
    for (const double n : counts) {
        product *= std::pow(n / total, -n / total);
    }
    CHECK(perplexity == doctest::Approx(product));
    std::ranges::transform(counts, counts.begin(), [](double n) { return 1e6 * n; });
    std::ranges::reverse(counts);
    counts.push_back(0);
    CHECK(isic::usage_perplexity(counts) == doctest::Approx(perplexity));
    for (const double wrong : {-1.0, not_a_number, infinity}) {
        check_throws<isic::value_error>("usage_perplexity", [&] { isic::usage_perplexity(std::vector{1.0, wrong}); },
                                        {"counts >= 0"});
    }
    check_throws<isic::numeric_error>("usage_perplexity", [] { isic::usage_perplexity(std::vector{0.0, 0.0}); },
                                      {"a count above 0"});
    check_throws<isic::numeric_error>("usage_perplexity", [] { isic::usage_perplexity({}); });
}

TEST_CASE("Wilson's interval has the published ends") {
    struct published {
        index_t hits, n;
        double low, high;
    };
    // The last four: Newcombe (1998), method 3.
    for (const auto& [hits, n, low, high] : {published{0, 10, 0, 0.2775},
                                             {5, 10, 0.2366, 0.7634},
                                             {10, 10, 0.7225, 1},
                                             {1, 10, 0.0179, 0.4042},
                                             {81, 263, 0.2553, 0.3662},
                                             {15, 148, 0.0624, 0.1605},
                                             {0, 20, 0, 0.1611},
                                             {1, 29, 0.0061, 0.1718}}) {
        const isic::rate r = isic::wilson(hits, n);
        CHECK(std::abs(r.low - low) < 6e-5);
        CHECK(std::abs(r.high - high) < 6e-5);
        CHECK(r.value == static_cast<double>(hits) / static_cast<double>(n));
        CHECK(r.hits == hits);
        CHECK(r.n == n);
    }
    CHECK(isic::wilson(0, 7).low == 0);
    CHECK(isic::wilson(7, 7).high == 1);
}

TEST_CASE("Wilson's ends are z standard errors away, mirrored, nested, and inside [0, 1]") {
    for (const index_t n : {1, 2, 10, 500, 1000000}) {
        for (const index_t hits : {index_t{0}, index_t{1}, n / 3, n - 1, n}) {
            for (const double z : {0.5, 1.96, 5.0}) {
                const isic::rate r = isic::wilson(hits, n, z);
                CHECK(r.low >= 0);
                CHECK(r.low <= r.value);
                CHECK(r.value <= r.high);
                CHECK(r.high <= 1);
                for (const double end : {r.low, r.high}) {  // (p - end)^2 = z^2 end (1 - end) / n
                    const double variance = z * z * end * (1 - end) / static_cast<double>(n);
                    CHECK((r.value - end) * (r.value - end) == doctest::Approx(variance).epsilon(1e-6).scale(1e-9));
                }
                const isic::rate mirror = isic::wilson(n - hits, n, z);
                CHECK(mirror.low == doctest::Approx(1 - r.high));
                CHECK(isic::wilson(hits, n, 2 * z).high - isic::wilson(hits, n, 2 * z).low > r.high - r.low);
            }
        }
    }
    const isic::rate nothing = isic::wilson(0, 0);
    CHECK(nothing.low == 0);
    CHECK(nothing.high == 1);
    CHECK(nothing.n == 0);
    check_throws<isic::value_error>("wilson", [] { isic::wilson(-1, 10); }, {"-1 of 10"});
    check_throws<isic::value_error>("wilson", [] { isic::wilson(11, 10); }, {"11 of 10"});
    check_throws<isic::value_error>("wilson", [] { isic::wilson(0, -1); });
    for (const double wrong : {0.0, -1.0, not_a_number, infinity}) {
        check_throws<isic::value_error>("wilson", [&] { isic::wilson(1, 2, wrong); }, {"a finite z > 0"});
    }
}

TEST_CASE("Wilson's interval holds the truth about as often as it says") {
    double covered = 0;
    int cases = 0;
    for (double p = 0.02; p < 0.99; p += 0.03) {
        const auto chance = binomial(60, p);
        for (index_t hits = 0; hits <= 60; ++hits) {
            const isic::rate r = isic::wilson(hits, 60);
            covered += r.low <= p && p <= r.high ? chance[static_cast<std::size_t>(hits)] : 0.0;
        }
        ++cases;
    }
    CHECK(covered / cases == doctest::Approx(0.95).epsilon(0.01));
}

TEST_CASE("the corrected rate undoes what a fallible judge does to the truth") {
    for (const auto& [sensitivity, specificity] : {std::pair{1.0, 1.0}, {0.9, 0.8}, {0.51, 0.5}, {1.0, 0.2}}) {
        for (const double truth : {0.0, 0.1, 0.5, 1.0}) {
            const auto judged = [&, sens = sensitivity, spec = specificity](double p) {
                return sens * p + (1 - spec) * (1 - p);
            };
            const isic::rate seen{judged(truth), judged(truth / 2), judged((1 + truth) / 2), 3, 10};
            const isic::rate r = isic::corrected_rate(seen, sensitivity, specificity);
            CHECK(r.value == doctest::Approx(truth).epsilon(1e-9));
            CHECK(r.low == doctest::Approx(truth / 2).epsilon(1e-9));
            CHECK(r.high == doctest::Approx((1 + truth) / 2).epsilon(1e-9));
            CHECK(r.hits == 3);
            CHECK(r.n == 10);
        }
    }
    const isic::rate few = isic::corrected_rate(isic::wilson(1, 100), 0.9, 0.95);  // fewer than the false alarms
    CHECK(few.value == 0);
    CHECK(few.low == 0);
    CHECK(few.high > 0);
    const isic::rate most = isic::corrected_rate(isic::wilson(99, 100), 0.9, 0.95);
    CHECK(most.value == 1);
    CHECK(most.high == 1);
    const isic::rate nothing = isic::corrected_rate(isic::wilson(0, 0), 0.9, 0.95);
    CHECK(nothing.low == 0);
    CHECK(nothing.high == 1);
    for (const double wrong : {-0.1, 1.1, not_a_number}) {
        check_throws<isic::value_error>("corrected_rate", [&] { isic::corrected_rate({}, wrong, 1); },
                                        {"sensitivity in [0, 1]"});
        check_throws<isic::value_error>("corrected_rate", [&] { isic::corrected_rate({}, 1, wrong); },
                                        {"specificity in [0, 1]"});
    }
    check_throws<isic::value_error>("corrected_rate", [] { isic::corrected_rate({}, 0.5, 0.5); },
                                    {"does not discriminate"});
    check_throws<isic::value_error>("corrected_rate", [] { isic::corrected_rate({}, 0.2, 0.3); });
}
