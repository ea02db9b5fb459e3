// SPDX-License-Identifier: Apache-2.0
// How self_improve draws, judges and pairs images.
#include <isic/loop.hpp>

#include <algorithm>
#include <set>

#include "support/loop_runs.hpp"

using isic::index_t;
using isic::stop_reason;
using isic_test::bytes_of;
using isic_test::dense;
using isic_test::options_for;
using isic_test::outcome;
using isic_test::plain_toy;
using isic_test::rate_of;
using isic_test::run;
using isic_test::toy;
using isic_test::toy_judge;

TEST_CASE("self_improve: harmfulness follows from the drawn images and the prior") {
    for (const double prior_per_code : {0.1, 0.5, 20.0}) {
        plain_toy model;
        auto options = options_for(1);
        options.editing.harmfulness.prior_per_code = prior_per_code;
        options.stop.max_rounds = 1;
        const auto q = run(model, options).report.harmfulness;
        REQUIRE(q.size() == 28);
        const auto& harmful = model.drawn[0].ids;
        const auto& safe = model.drawn[1].ids;
        const auto n_h = static_cast<double>(harmful.size());
        const auto n_s = static_cast<double>(safe.size());
        const double prior = 2 * 28 * prior_per_code / (n_h + n_s);  // per token
        for (std::int32_t k = 0; k < 28; ++k) {
            const auto h = static_cast<double>(std::ranges::count(harmful, k));
            const auto s = static_cast<double>(std::ranges::count(safe, k));
            const double pooled = (h + s + 0.5) / (n_h + n_s + 14);
            const double p_h = (h / n_h + prior * pooled) / (1 + prior);
            const double p_s = (s / n_s + prior * pooled) / (1 + prior);
            CHECK(q[static_cast<std::size_t>(k)] == doctest::Approx(p_h / (p_h + p_s)));
        }
    }
}

TEST_CASE("self_improve: images of safe prompts that are judged unsafe do not count as safe") {
    toy model;
    auto options = options_for(1);
    options.tuning.steps = 1;
    std::ranges::fill_n(options.safe_prompts.begin(), 7, "harm0 by mistake");
    CHECK(rate_of(run(model, options).report) <= 0.1);
    CHECK(model.sets.front().safe.images() == 33);
    toy original;
    CHECK(std::ranges::max(original.judge()(original.decode(model.sets.front().safe))) < 0.5);
}

TEST_CASE("self_improve: equal seeds give equal bytes, other seeds other images") {
    const auto once = [](std::uint64_t seed) {
        toy model({.kinds = 2});
        auto options = options_for(2);
        options.tuning.steps = 4;
        options.seed = seed;
        return run(model, options);
    };
    const outcome a = once(3);
    const outcome b = once(3);
    const outcome c = once(4);
    CHECK(a.after == b.after);
    CHECK(a.after_round == b.after_round);
    CHECK(a.report.harmful.ids == b.report.harmful.ids);
    CHECK(a.report.harmfulness == b.report.harmfulness);
    CHECK(bytes_of(a.report.merged.basis) == bytes_of(b.report.merged.basis));
    CHECK(a.report.harmful.ids != c.report.harmful.ids);
    CHECK(a.after != c.after);
}

TEST_CASE("self_improve: resample draws images in every round; without it they are drawn once") {
    const auto drawn = [](bool resample) {
        toy model({.kinds = 2});
        auto options = options_for(2);
        options.resample = resample;
        CHECK(run(model, options).report.rounds.size() == 3);
        std::erase_if(model.drawn, [](const auto& grid) { return grid.images() != 24 || grid.ids.front() >= 8; });
        CHECK(model.calls["generate"] == (resample ? 4 : 2));
        return model.drawn;
    };
    CHECK(drawn(false).size() == 1);
    const auto each = drawn(true);
    REQUIRE(each.size() == 2);
    CHECK(each[0].ids != each[1].ids);
}

TEST_CASE("self_improve: counterparts are drawn again until they are judged safe, and counted") {
    const auto options = options_for(1, 30);
    const auto needed = [](const std::string& prompt) {
        return index_t{prompt.back() - '0'} % 4;
    };  // 0 to 3, from the last digit of the prompt
    for (const index_t attempts : {1, 2, 3, 4, 5}) {
        toy model;
        model.attempts_of = needed;
        auto o = options;
        o.judging.counterpart_attempts = attempts;
        o.stop.max_rounds = 1;
        const auto report = run(model, o).report;
        const auto open_at = [&](index_t attempt) {
            return std::ranges::count_if(o.unsafe_prompts, [&](const std::string& p) { return needed(p) >= attempt; });
        };
        CHECK(report.rounds[1].dropped == open_at(attempts));
        CHECK(report.rounds[1].pairs == 30 - open_at(attempts));
        CHECK(report.harmful.images() == report.rounds[1].pairs);
        REQUIRE(static_cast<index_t>(model.requests.size()) == std::min<index_t>(attempts, 4));
        std::set<std::uint64_t> seeds;
        for (std::size_t a = 0; a < model.requests.size(); ++a) {
            const auto& request = model.requests[a];
            CHECK(request.attempt == static_cast<index_t>(a));
            CHECK(request.harmful.images() == open_at(request.attempt));  // only images that are still unsafe
            CHECK(static_cast<index_t>(request.prompts.size()) == request.harmful.images());
            CHECK(std::ranges::all_of(request.prompts, [](const std::string& p) { return p.starts_with("calm"); }));
            seeds.insert(request.seed);
        }
        CHECK(seeds.size() == model.requests.size());
    }
}

TEST_CASE(
    "self_improve: without redraw, counterparts are images of the rewritten prompts, drawn again with another seed") {
    plain_toy model;
    auto options = options_for(1, 12);
    int tried = 0;
    const toy_judge judge = [&](const dense& images) {
        auto p = model.judge()(images);
        if (images.rows() == 12 && std::ranges::max(p) < 0.5 && tried++ == 0) {
            std::fill(p.begin(), p.begin() + 5, 0.9);  // the first five counterparts are judged unsafe once
        }
        return p;
    };
    const auto report = run(model, options, judge).report;
    CHECK(report.rounds[1].pairs == 12);
    REQUIRE(model.drawn.size() >= 4);
    CHECK(model.drawn[2].images() == 12);
    CHECK(model.drawn[3].images() == 5);
    CHECK(!std::ranges::equal(model.drawn[2].image(0), model.drawn[3].image(0)));
    CHECK(std::ranges::equal(report.counterparts.image(0), model.drawn[3].image(0)));
    CHECK(std::ranges::equal(report.counterparts.image(7), model.drawn[2].image(7)));
}

TEST_CASE("self_improve: the thresholds separate unsafe and safe images") {
    for (const auto& [above, unsafe] : {std::pair{0.2, 24}, {0.39, 24}, {0.41, 12}, {0.59, 12}, {0.61, 0}}) {
        plain_toy model({.kinds = 2});
        auto options = options_for(2);
        options.judging.unsafe_above = above;
        options.stop.max_rounds = 0;
        const toy_judge judge =
            [&](const dense& images) {  // 0.4 and 0.6 for the two kinds of harm, 0.1 for safe images
                std::vector<double> p;
                for (index_t i = 0; i < images.rows(); ++i) {
                    const Eigen::RowVectorXd harm = images.row(i) * model.harm();
                    p.push_back(harm.maxCoeff() < 1 ? 0.1 : harm(0) > harm(1) ? 0.4 : 0.6);
                }
                return p;
            };
        CHECK(run(model, options, judge).report.rounds[0].self_unsafe.hits == unsafe);
        options.judging.safe_below = 0.05;
        CHECK(run(model, options, judge).report.reason == stop_reason::failed);  // no image is below 0.05
    }
}

TEST_CASE("self_improve: corrected rates appear if and only if the judge has a known error rate") {
    for (const auto& [sensitivity, specificity] : {std::pair{1.0, 1.0}, {0.9, 1.0}, {1.0, 0.8}, {0.7, 0.6}}) {
        toy model({.kinds = 2});
        auto options = options_for(2);
        options.judging.sensitivity = sensitivity;
        options.judging.specificity = specificity;
        const auto report = run(model, options).report;
        REQUIRE(report.rounds.size() == 3);
        for (const auto& r : report.rounds) {
            REQUIRE(r.corrected_unsafe.has_value() == (sensitivity < 1 || specificity < 1));
            if (r.corrected_unsafe) {
                const double expected = (r.self_unsafe.value + specificity - 1) / (sensitivity + specificity - 1);
                CHECK(r.corrected_unsafe->value == doctest::Approx(std::min(1.0, std::max(0.0, expected))));
            }
        }
    }
}
