// SPDX-License-Identifier: Apache-2.0
// The stop rule of self_improve and the round that it keeps.
#include <isic/loop.hpp>

#include <algorithm>

#include "support/loop_runs.hpp"

using isic::index_t;
using isic::stop_reason;
using isic_test::check_best_is_left;
using isic_test::dense;
using isic_test::options_for;
using isic_test::outcome;
using isic_test::plain_toy;
using isic_test::rate_of;
using isic_test::run;
using isic_test::toy;
using isic_test::toy_judge;

TEST_CASE("self_improve: the round of the lowest score is kept, not the last") {
    for (const index_t best : {0, 1, 2}) {
        toy model({.kinds = 2});
        auto options = options_for(2);
        options.tuning.steps = 3;
        options.score = [&](const isic::round_report& r) { return std::abs(static_cast<double>(r.round - best)); };
        const outcome o = run(model, options);
        REQUIRE(o.report.rounds.size() == 3);
        CHECK(o.report.best_round == best);
        CHECK(o.report.merged.rank() == best);
        CHECK((o.after == o.after_round[2]) == (best == 2));
        check_best_is_left(o);
    }
}

TEST_CASE(
    "self_improve: the best round is kept when the judge gets worse; a round of equal score does not replace it") {
    toy model({.kinds = 2});
    auto options = options_for(2);
    bool strict = false;
    options.on_round = [&](isic::round_report& r) { strict = r.round == 1; };
    options.stop.patience = 3;
    const toy_judge judge = [&](const dense& images) {
        auto p = model.judge()(images);
        std::ranges::for_each(p, [&](double& x) { x = strict ? std::min(1.0, x + 0.5) : x; });
        return p;
    };
    options.judging.safe_below = 0.7;
    options.resample = false;
    const outcome o = run(model, options, judge);
    REQUIRE(o.report.rounds.size() >= 3);
    CHECK(o.report.rounds[1].self_unsafe.value == doctest::Approx(0.5));
    CHECK(o.report.rounds[2].self_unsafe.value == 1);
    CHECK(o.after_round[1] != o.after_round[2]);
    check_best_is_left(o);
    CHECK(o.report.best_round != 2);

    toy same;
    auto still = options_for(1);
    still.editing.ramp = {.low = 1.0, .high = 2.0};
    still.stop.patience = 3;
    const auto report = run(same, still).report;
    CHECK(report.rounds.size() == 4);
    CHECK(report.best_round == 0);
}

TEST_CASE("self_improve: stops: below target, and not one round earlier") {
    auto options = options_for(1, 22);
    options.unsafe_prompts[0][4] =
        '1';  // 2 of 22 images have another kind of harm, which the first round does not remove
    options.unsafe_prompts[1][4] = '1';
    options.stop.below = 0.2;
    toy model({.kinds = 2});
    const outcome o = run(model, options);
    CHECK(o.report.reason == stop_reason::below_target);
    REQUIRE(o.report.rounds.size() == 2);
    CHECK(rate_of(o.report) == doctest::Approx(2.0 / 22));
    check_best_is_left(o);

    toy further({.kinds = 2});
    options.stop.below = 0.05;
    const outcome p = run(further, options);
    REQUIRE(p.report.rounds.size() == 3);
    CHECK(rate_of(p.report) == 0);

    toy last({.kinds = 2});  // the rate falls below the target in the last round
    options.stop.below = 0.2;
    options.stop.max_rounds = 1;
    CHECK(run(last, options).report.reason == stop_reason::below_target);
}

TEST_CASE("self_improve: stops: nothing unsafe, before any round") {
    toy model;
    auto options = options_for(1);
    options.unsafe_prompts = options.safe_prompts;
    const outcome o = run(model, options);
    CHECK(o.report.reason == stop_reason::nothing_unsafe);
    CHECK(o.report.rounds.size() == 1);
    CHECK(o.after == o.before);
    CHECK(o.report.change.ids().empty());
    check_best_is_left(o);
}

TEST_CASE("self_improve: stops: nothing unsafe in newly drawn images") {
    toy model({.kinds = 2});
    int unsafe_draws = 0;
    model.on_tokens = [&](isic::token_grid& grid) {
        if (grid.images() == 24 && grid.ids.front() < model.first_safe() && ++unsafe_draws == 2) {
            std::ranges::for_each(grid.ids, [&](std::int32_t& id) {
                id = static_cast<std::int32_t>(std::max<index_t>(id, model.first_safe()));
            });
        }
    };
    const outcome o = run(model, options_for(2));
    INFO(o.report.message);
    CHECK(o.report.reason == stop_reason::nothing_unsafe);
    REQUIRE(o.report.rounds.size() == 2);
    CHECK(o.report.rounds[1].self_unsafe.value > 0.1);  // the new draw is safe, the edit has not removed everything
    check_best_is_left(o);
}

TEST_CASE("self_improve: stops: no counterparts") {
    toy model;
    model.attempts_of = [](const std::string&) { return 100; };
    const outcome o = run(model, options_for(1));
    CHECK(o.report.reason == stop_reason::no_counterparts);
    CHECK(o.report.rounds.size() == 1);
    CHECK(o.after == o.before);
    CHECK(o.report.harmful.images() == 0);
    CHECK(model.calls["redraw"] == 3);
    check_best_is_left(o);
}

TEST_CASE("self_improve: stops: no improvement, after `patience` rounds") {
    for (const index_t patience : {1, 2, 3}) {
        toy model;
        auto options = options_for(1);
        options.editing.ramp = {.low = 1.0, .high = 2.0};
        options.stop.patience = patience;
        options.rank_budget = 8;
        const outcome o = run(model, options);
        CHECK(o.report.reason == stop_reason::no_improvement);
        CHECK(o.report.rounds.size() == static_cast<std::size_t>(patience + 1));
        check_best_is_left(o);
    }
}

TEST_CASE("self_improve: an improvement counts only if it is large and significant") {
    const auto rounds = [](double min_improvement, double significance) {
        toy model({.kinds = 2});
        auto options = options_for(2);  // each round makes 12 of 24 images safe
        options.stop.min_improvement = min_improvement;
        options.stop.significance = significance;
        const auto report = run(model, options).report;
        CHECK(report.rounds[1].self_unsafe.value == doctest::Approx(0.5));
        return report.rounds.size();
    };
    CHECK(rounds(0, 1.64) == 3);
    CHECK(rounds(0.45, 1.64) == 3);
    CHECK(rounds(0.55, 1.64) == 2);
    CHECK(rounds(0, 3.4) == 3);  // sqrt(12) = 3.46
    CHECK(rounds(0, 3.5) == 2);
}

TEST_CASE("self_improve: stops: rank budget; the merged rank never exceeds it") {
    for (index_t budget = 1; budget <= 6; ++budget) {
        for (const isic::rank_options& rank : {isic::rank_options{.max_rank = 1}, {.max_rank = 4}, {.fixed = 2}}) {
            toy model({.kinds = 3, .width = 12});
            auto options = options_for(3, 36);
            options.rank_budget = budget;
            options.fit.rank = rank;
            options.stop.max_rounds = 8;
            const outcome o = run(model, options);
            for (const auto& r : o.report.rounds) {
                CHECK(r.merged_rank <= budget);
            }
            CHECK(o.report.merged.rank() <= budget);
            CHECK(o.report.reason == (budget < 3 ? stop_reason::rank_budget : stop_reason::below_target));
            CHECK((rate_of(o.report) <= 0.1) == (budget >= 3));  // each kind of harm costs a direction
            check_best_is_left(o);
        }
    }
}

TEST_CASE("self_improve: the default rank budget is a quarter of the width; a budget of the width is no limit") {
    toy model({.kinds = 3, .width = 8});
    auto options = options_for(3);
    const auto report = run(model, options).report;
    CHECK(report.reason == stop_reason::rank_budget);
    CHECK(report.merged.rank() == 2);

    plain_toy whole({.kinds = 3, .width = 8});
    options.rank_budget = 8;
    options.fit.rank = {.fixed = 8};
    options.editing.ramp = {.low = 1.0, .high = 2.0};
    options.stop.patience = 3;
    const auto full = run(whole, options).report;
    CHECK(full.reason == stop_reason::no_improvement);
    CHECK(full.rounds.back().merged_rank == 8);
    CHECK(full.rounds.size() == 4);
}

TEST_CASE("self_improve: stops: damage budget; the round that exceeds it is undone") {
    toy free({.kinds = 2});
    auto options = options_for(2);
    const outcome whole = run(free, options);
    REQUIRE(whole.report.rounds.size() == 3);
    const double first = whole.report.rounds[1].relative_change;
    const double second = whole.report.rounds[2].relative_change;
    REQUIRE(second > first);
    for (const double budget : {0.5 * first, 0.5 * (first + second), 1.01 * second}) {
        toy model({.kinds = 2});
        options.stop.damage_budget = budget;
        const outcome o = run(model, options);
        const std::size_t completed = budget < first ? 1 : budget < second ? 2 : 3;
        CHECK((o.report.reason == stop_reason::damage_budget) == (completed < 3));
        CHECK(o.report.rounds.size() == completed);
        CHECK(o.report.best_round == static_cast<index_t>(completed) - 1);
        CHECK(o.after == whole.after_round[completed - 1]);
        CHECK(o.report.merged.rank() == static_cast<index_t>(completed) - 1);
        check_best_is_left(o);
    }
}

TEST_CASE("self_improve: stops: max rounds, zero included") {
    for (const index_t most : {0, 1}) {
        toy model({.kinds = 3, .width = 16});
        auto options = options_for(3);
        options.stop.max_rounds = most;
        const outcome o = run(model, options);
        CHECK(o.report.reason == stop_reason::max_rounds);
        CHECK(o.report.rounds.size() == static_cast<std::size_t>(most + 1));
        CHECK((o.after == o.before) == (most == 0));
        check_best_is_left(o);
    }
}
