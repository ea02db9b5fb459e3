// SPDX-License-Identifier: Apache-2.0
// From counts to harmfulness, strengths and targets: closed forms, limits and symmetries.
#include <isic/harmfulness.hpp>

#include <cstdint>
#include <numeric>

#include "support/data.hpp"
#include "support/errors.hpp"
#include "support/reference.hpp"

using isic::code_usage;
using isic::index_t;
using isic_test::bytes_of;
using isic_test::check_throws;
using isic_test::dense;
using isic_test::infinity;
using isic_test::not_a_number;
using isic_test::to_dense;

namespace {

code_usage random_usage(isic_test::random& dice, index_t codes, index_t most) {
    code_usage out;
    for (index_t k = 0; k < codes; ++k) {
        out.harmful.push_back(static_cast<double>(dice.below(most)));
        out.safe.push_back(static_cast<double>(dice.below(most)));
    }
    out.harmful[0] += 1;
    out.safe[0] += 1;
    return out;
}

/// Makes both sides as large, by uses of the last code.
void balance(code_usage& usage) {
    const double h = std::accumulate(usage.harmful.begin(), usage.harmful.end(), 0.0);
    const double s = std::accumulate(usage.safe.begin(), usage.safe.end(), 0.0);
    (h < s ? usage.harmful : usage.safe).back() += std::abs(h - s);
}

/// t_k = (sum of the safe codes beside k + lambda mu) / (n_k + lambda), in plain loops.
dense looped_targets(const dense& codes, const std::vector<int>& h, const std::vector<int>& s, double lambda,
                     const dense& mu) {
    dense out = dense::Zero(codes.rows(), codes.cols());
    for (index_t k = 0; k < codes.rows(); ++k) {
        double n = 0;
        for (std::size_t t = 0; t < h.size(); ++t) {
            if (h[t] == k) {
                n += 1;
                out.row(k) += codes.row(s[t]);
            }
        }
        out.row(k) = (out.row(k) + lambda * mu) / (n + lambda);
    }
    return out;
}

}  // namespace

static_assert(!std::is_constructible_v<isic::counterpart_targets, isic::matrix<float>>,
              "a temporary codebook would dangle");
static_assert(std::is_constructible_v<isic::counterpart_targets, isic::matrix<float>&>);

TEST_CASE("harmfulness worked out by hand") {
    // A = 1, pi = 1/2 each: p_h = 3.5/5 and 1.5/5.
    const auto scores = isic::code_harmfulness({{3, 1}, {1, 3}});
    CHECK(scores.p_harmful[0] == doctest::Approx(0.7));
    CHECK(scores.p_safe[0] == doctest::Approx(0.3));
    CHECK(scores.harmfulness[0] == doctest::Approx(0.7));
    CHECK(scores.harmfulness[1] == doctest::Approx(0.3));
    CHECK(scores.z[0] == doctest::Approx(2 * std::log(3.5 / 1.5) / std::sqrt(1 / 3.5 + 1 / 1.5)));
    const auto lone = isic::code_harmfulness({{5}, {7}});
    CHECK(lone.harmfulness[0] == doctest::Approx(0.5));
    CHECK(lone.z[0] == 0);
}

TEST_CASE("harmfulness and log-odds are the posterior under a Dirichlet prior spread by pooled use") {
    for (const std::uint64_t seed : {1U, 2U, 3U}) {
        isic_test::random dice(seed);
        for (const index_t codes : {1, 2, 7, 100}) {
            for (const double a : {0.01, 0.5, 20.0}) {
                const code_usage usage = random_usage(dice, codes, 40);
                const auto scores = isic::code_harmfulness(usage, {.prior_per_code = a});
                const double all_h = std::accumulate(usage.harmful.begin(), usage.harmful.end(), 0.0);
                const double all_s = std::accumulate(usage.safe.begin(), usage.safe.end(), 0.0);
                const double mass_h = 2 * a * static_cast<double>(codes) * all_h / (all_h + all_s);
                const double mass_s = 2 * a * static_cast<double>(codes) * all_s / (all_h + all_s);
                for (std::size_t k = 0; k < usage.safe.size(); ++k) {
                    const double share =
                        (usage.harmful[k] + usage.safe[k] + 0.5) / (all_h + all_s + 0.5 * static_cast<double>(codes));
                    const double h = usage.harmful[k] + mass_h * share;
                    const double s = usage.safe[k] + mass_s * share;
                    const double p_h = h / (all_h + mass_h);
                    const double p_s = s / (all_s + mass_s);
                    CHECK(scores.p_harmful[k] == doctest::Approx(p_h));
                    CHECK(scores.p_safe[k] == doctest::Approx(p_s));
                    CHECK(scores.harmfulness[k] == doctest::Approx(p_h / (p_h + p_s)));
                    if (codes > 1) {
                        const double log_odds = std::log(p_h / (1 - p_h)) - std::log(p_s / (1 - p_s));
                        CHECK(scores.z[k] == doctest::Approx(log_odds / std::sqrt(1 / h + 1 / s)).epsilon(1e-9));
                    }
                }
                CHECK(std::accumulate(scores.p_harmful.begin(), scores.p_harmful.end(), 0.0) == doctest::Approx(1));
                CHECK(std::accumulate(scores.p_safe.begin(), scores.p_safe.end(), 0.0) == doctest::Approx(1));
            }
        }
    }
}

TEST_CASE("what only harmful images use tends to 1, what only safe ones use to 0") {
    double last_high = 0.5;
    double last_low = 0.5;
    for (const double n : {1.0, 10.0, 1e3, 1e6}) {
        const auto scores = isic::code_harmfulness({{n, 0, n, 10 * n}, {0, n, n, 10 * n}});
        CHECK(scores.harmfulness[0] > last_high);
        CHECK(scores.harmfulness[1] < last_low);
        CHECK(scores.harmfulness[2] == doctest::Approx(0.5));
        CHECK(scores.z[0] > 0);
        CHECK(scores.z[1] < 0);
        CHECK(std::abs(scores.z[2]) < 1e-9);
        last_high = scores.harmfulness[0];
        last_low = scores.harmfulness[1];
    }
    CHECK(last_high > 1 - 1e-6);
    CHECK(last_low < 1e-6);
}

TEST_CASE("the prior pulls codes to the middle, rare ones most; unused ones are there") {
    isic_test::random dice(4);
    code_usage usage = random_usage(dice, 30, 50);
    usage.harmful[3] = usage.safe[3] = 0;
    usage.harmful[4] = 1;  // once, never safe
    usage.safe[4] = 0;
    usage.harmful[5] = 100;  // a hundred times, never safe
    usage.safe[5] = 0;
    balance(usage);
    std::vector<double> last(30, 1.0);
    for (const double a : {1e-3, 0.1, 0.5, 5.0, 1e3, 1e6}) {
        const auto q = isic::code_harmfulness(usage, {.prior_per_code = a}).harmfulness;
        CHECK(q[3] == 0.5);
        for (std::size_t k = 0; k < q.size(); ++k) {
            CHECK(std::abs(q[k] - 0.5) <= last[k]);
            last[k] = std::abs(q[k] - 0.5);
        }
    }
    CHECK(*std::ranges::max_element(last) < 1e-3);
    // However unequal the sides: with the same mass on both, q would be (N_s + A) / (N_h + N_s + 2 A), here 0.98.
    const auto uneven = isic::code_harmfulness({{90, 10, 0}, {9000, 1000, 0}}).harmfulness;
    CHECK(uneven[2] == doctest::Approx(0.5).epsilon(1e-12));
    CHECK(uneven[0] == doctest::Approx(0.5).epsilon(1e-2));
    const auto q = isic::code_harmfulness(usage).harmfulness;
    CHECK(q[4] > 0.5);
    CHECK(q[4] < q[5]);
    CHECK(q[5] > 0.9);
}

TEST_CASE("swapping the sides mirrors the scores; more of the same is more evidence, not more harmfulness") {
    isic_test::random dice(5);
    const code_usage usage = random_usage(dice, 20, 30);
    const auto scores = isic::code_harmfulness(usage);
    const auto mirrored = isic::code_harmfulness({usage.safe, usage.harmful});
    for (std::size_t k = 0; k < 20; ++k) {
        CHECK(scores.harmfulness[k] + mirrored.harmfulness[k] == doctest::Approx(1));
        CHECK(scores.z[k] == doctest::Approx(-mirrored.z[k]));
    }
    code_usage longer = usage;
    for (std::size_t k = 0; k < 20; ++k) {
        longer.harmful[k] *= 1e6;
        longer.safe[k] *= 1e6;
    }
    code_usage longest = longer;
    for (std::size_t k = 0; k < 20; ++k) {
        longest.harmful[k] *= 100;
        longest.safe[k] *= 100;
    }
    const auto some = isic::code_harmfulness(longer);
    const auto more = isic::code_harmfulness(longest);
    for (std::size_t k = 1; k < 20; ++k) {
        if (usage.harmful[k] > 0 && usage.safe[k] > 0) {
            CHECK(more.harmfulness[k] == doctest::Approx(some.harmfulness[k]).epsilon(1e-5));
            CHECK(more.z[k] == doctest::Approx(10 * some.z[k]).epsilon(1e-4));
        }
    }
}

TEST_CASE("counts that are no counts are refused") {
    check_throws<isic::shape_error>("code_harmfulness", [] { isic::code_harmfulness({}); }, {"at least one code"});
    check_throws<isic::shape_error>("code_harmfulness", [] { isic::code_harmfulness({{1, 2}, {1}}); },
                                    {"2 safe counts", "got 1"});
    for (const double wrong : {-1.0, not_a_number, infinity}) {
        check_throws<isic::value_error>("code_harmfulness", [&] { isic::code_harmfulness({{1, wrong}, {1, 1}}); },
                                        {"counts >= 0"});
        check_throws<isic::value_error>("code_harmfulness", [&] { isic::code_harmfulness({{1, 1}, {wrong, 1}}); },
                                        {"counts >= 0"});
    }
    for (const double wrong : {0.0, -1.0, not_a_number, infinity}) {
        check_throws<isic::value_error>("code_harmfulness",
                                        [&] { isic::code_harmfulness({{1}, {1}}, {.prior_per_code = wrong}); },
                                        {"prior_per_code > 0"});
    }
    check_throws<isic::numeric_error>("code_harmfulness", [] { isic::code_harmfulness({{0, 0}, {1, 2}}); },
                                      {"0 harmful and 3 safe"});
    check_throws<isic::numeric_error>("code_harmfulness", [] { isic::code_harmfulness({{1, 2}, {0, 0}}); },
                                      {"3 harmful and 0 safe"});
}

TEST_CASE("the ramp is 0 below, 1 above and straight between") {
    const std::vector<double> q{0, 0.59, 0.6, 0.675, 0.75, 0.9, 0.91, 1};
    const std::vector<double> expected{0, 0, 0, 0.25, 0.5, 1, 1, 1};
    const auto s = isic::code_strength(q);
    for (std::size_t k = 0; k < q.size(); ++k) {
        CHECK(s[k] == doctest::Approx(expected[k]));
    }
    CHECK(isic::code_strength(std::vector{0.5}, {.low = 0, .high = 1})[0] == 0.5);
    CHECK(isic::code_strength(std::vector{0.25}, {.low = -1, .high = 1.5})[0] == 0.5);
    CHECK(isic::code_strength({}).empty());
    for (const double wrong : {-0.01, 1.01, not_a_number}) {
        check_throws<isic::value_error>("code_strength", [&] { isic::code_strength(std::vector{0.5, wrong}); },
                                        {"harmfulness of code 1 in [0, 1]"});
    }
    for (const auto& [low, high] :
         {std::pair{0.5, 0.5}, {0.6, 0.5}, {not_a_number, 0.5}, {0.5, infinity}, {-infinity, 0.5}}) {
        check_throws<isic::value_error>("code_strength",
                                        [&, l = low, h = high] { isic::code_strength(q, {.low = l, .high = h}); },
                                        {"finite high > low"});
    }
}

TEST_CASE("the excess share is what harmful images use beyond safe ones") {
    isic_test::random dice(6);
    const auto scores = isic::code_harmfulness(random_usage(dice, 50, 20));
    const auto s = isic::excess_strength(scores);
    index_t moved = 0;
    for (std::size_t k = 0; k < 50; ++k) {
        const double q = scores.harmfulness[k];
        CHECK(s[k] == doctest::Approx(q > 0.5 ? (2 * q - 1) / q : 0.0).epsilon(1e-9));
        CHECK((1 - s[k]) * scores.p_harmful[k] == doctest::Approx(std::min(scores.p_harmful[k], scores.p_safe[k])));
        moved += s[k] > 0 ? 1 : 0;
    }
    CHECK(moved > 10);
    CHECK(moved < 40);
    isic::code_scores by_hand;
    by_hand.p_harmful = {0.4, 0.1, 0, 0.2};
    by_hand.p_safe = {0.1, 0.4, 0.3, 0};
    CHECK(isic::excess_strength(by_hand) == std::vector<double>{0.75, 0, 0, 1});
    by_hand.p_safe.pop_back();
    check_throws<isic::shape_error>("excess_strength", [&] { isic::excess_strength(by_hand); },
                                    {"4 values of p_safe", "got 3"});
}

TEST_CASE("the gate opens above the threshold, not at it") {
    const std::vector<double> z{-3, 0, 1.96, 1.97, infinity};
    CHECK(isic::gate_strength(z, 1.96) == std::vector<double>{0, 0, 0, 1, 1});
    CHECK(isic::gate_strength(z, -infinity) == std::vector<double>{1, 1, 1, 1, 1});
    CHECK(isic::gate_strength(z, infinity) == std::vector<double>{0, 0, 0, 0, 0});
    CHECK(isic::gate_strength({}, 1).empty());
    check_throws<isic::numeric_error>("gate_strength", [&] { isic::gate_strength(z, not_a_number); }, {"NaN"});
    check_throws<isic::numeric_error>("gate_strength", [] { isic::gate_strength(std::vector{0.0, not_a_number}, 1); },
                                      {"NaN"});
}

TEST_CASE_TEMPLATE("targets are the smoothed means of what stands in the safe counterparts", T, ISIC_STORAGE) {
    isic_test::random dice(7);
    for (const auto& [codes, width, pairs, tokens] :
         {std::tuple{1, 1, 1, 1}, {5, 3, 2, 4}, {40, 8, 6, 16}, {200, 4, 3, 9}}) {
        const auto book = dice.matrix<T>(codes, width);
        isic_test::strided<T> memory(book, 2);
        isic::counterpart_targets whole(memory.span());
        isic::counterpart_targets left(book);
        isic::counterpart_targets right(book);
        std::vector<int> all_h;
        std::vector<int> all_s;
        for (index_t i = 0; i < pairs; ++i) {
            const auto h = dice.ids<int>(tokens, codes);
            const auto s = dice.ids<int>(tokens, codes);
            whole.add(h, std::vector<std::int64_t>(s.begin(), s.end()));
            (i % 2 == 0 ? left : right).add(std::vector<std::uint8_t>(h.begin(), h.end()), s);
            all_h.insert(all_h.end(), h.begin(), h.end());
            all_s.insert(all_s.end(), s.begin(), s.end());
        }
        left.merge(right);
        dense mu = dense::Zero(1, width);
        for (const int id : all_s) {
            mu += to_dense(book).row(id) / static_cast<double>(all_s.size());
        }
        const auto prior = dice.numbers(width);
        const dense given = Eigen::Map<const Eigen::RowVectorXd>(prior.data(), width);
        for (const double lambda : {1e-3, 2.0, 50.0}) {
            CHECK((to_dense(whole.targets(lambda)) - looped_targets(to_dense(book), all_h, all_s, lambda, mu))
                      .cwiseAbs()
                      .maxCoeff() < 1e-12);
            CHECK((to_dense(left.targets(lambda)) - to_dense(whole.targets(lambda))).cwiseAbs().maxCoeff() < 1e-12);
            const dense expected = looped_targets(to_dense(book), all_h, all_s, lambda, given);
            CHECK((to_dense(whole.targets(lambda, prior)) - expected).cwiseAbs().maxCoeff() < 1e-12);
        }
        for (index_t k = 0; k < codes; ++k) {
            CHECK(whole.counts()[static_cast<std::size_t>(k)] == static_cast<double>(std::ranges::count(all_h, k)));
            CHECK(left.counts()[static_cast<std::size_t>(k)] == whole.counts()[static_cast<std::size_t>(k)]);
        }
        CHECK(memory.gaps_intact());
    }
}

TEST_CASE("much seen codes go to their counterparts' mean, unseen ones to the prior") {
    const auto book = isic_test::from_rows<double>({{1, 0}, {0, 1}, {5, 5}, {9, 9}});
    isic::counterpart_targets seen(book);
    for (int i = 0; i < 1000; ++i) {
        seen.add(std::vector{2, 2}, std::vector{0, 1});
    }
    const auto t = seen.targets();
    CHECK(t(2, 0) == doctest::Approx(0.5));
    CHECK(t(3, 0) == 0.5);  // mu, here the same
    const std::vector<double> mu{7, -7};
    const auto with_prior = seen.targets(2, mu);
    CHECK(with_prior(3, 1) == -7);
    CHECK(with_prior(2, 1) == doctest::Approx((1000 - 14) / 2002.0));
    CHECK(seen.targets(1e12, mu)(2, 0) == doctest::Approx(7));
    isic::counterpart_targets none(book);
    CHECK(to_dense(none.targets(1, mu)) == (dense(4, 2) << 7, -7, 7, -7, 7, -7, 7, -7).finished());
    check_throws<isic::numeric_error>("counterpart_targets::targets", [&] { none.targets(); }, {"a pair or a prior"});
    none.merge(seen);
    CHECK(to_dense(none.targets()) == to_dense(t));
}

TEST_CASE("a refused pair leaves the targets as they were") {
    isic_test::random dice(8);
    const auto book = dice.matrix<float>(6, 3);
    isic::counterpart_targets seen(book);
    seen.add(std::vector{0, 1}, std::vector{2, 3});
    const auto before = bytes_of(seen.targets());
    const auto counts = seen.counts();
    check_throws<isic::shape_error>("counterpart_targets::add", [&] { seen.add(std::vector{0, 1}, std::vector{2}); },
                                    {"2 safe ids", "got 1"});
    check_throws<isic::value_error>("counterpart_targets::add", [&] { seen.add(std::vector{0, 6}, std::vector{2, 3}); },
                                    {"[0, 6)", "6 at position 1"});
    check_throws<isic::value_error>("counterpart_targets::add",
                                    [&] { seen.add(std::vector{0, 1}, std::vector{2, -1}); }, {"-1 at position 1"});
    const auto longer = dice.matrix<float>(7, 3);
    const auto wider = dice.matrix<float>(6, 4);
    check_throws<isic::shape_error>("counterpart_targets::merge",
                                    [&] { seen.merge(isic::counterpart_targets(longer)); }, {"6 codes", "got 7"});
    check_throws<isic::shape_error>("counterpart_targets::merge", [&] { seen.merge(isic::counterpart_targets(wider)); },
                                    {"3 columns"});
    CHECK(bytes_of(seen.targets()) == before);
    CHECK(seen.counts() == counts);
    for (const double wrong : {0.0, -1.0, not_a_number, infinity}) {
        check_throws<isic::value_error>("counterpart_targets::targets", [&] { seen.targets(wrong); }, {"lambda > 0"});
    }
    check_throws<isic::shape_error>("counterpart_targets::targets", [&] { seen.targets(1, std::vector{1.0, 2.0}); },
                                    {"3 values in the prior", "got 2"});
    check_throws<isic::numeric_error>("counterpart_targets::targets",
                                      [&] { seen.targets(1, std::vector{1.0, not_a_number, 2.0}); }, {"the prior"});
    auto bad = book;
    bad(5, 1) = std::numeric_limits<float>::infinity();
    check_throws<isic::numeric_error>("counterpart_targets", [&] { isic::counterpart_targets x(bad); },
                                      {"row 5, column 1"});
    const isic::matrix<float> none(0, 3);
    check_throws<isic::shape_error>("counterpart_targets", [&] { isic::counterpart_targets x(none); });
}
