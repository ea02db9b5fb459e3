// SPDX-License-Identifier: Apache-2.0
// The tuning stage of self_improve.
#include <isic/loop.hpp>

#include <algorithm>

#include "support/loop_runs.hpp"

using isic::index_t;
using isic_test::dense;
using isic_test::full_toy;
using isic_test::infinity;
using isic_test::options_for;
using isic_test::outcome;
using isic_test::plain_toy;
using isic_test::run;
using isic_test::to_dense;
using isic_test::toy;

TEST_CASE("self_improve: pairs, prompts and the tuning set are the unsafe images and their counterparts") {
    toy model({.kinds = 2});
    auto options = options_for(2);
    options.tuning.steps = 2;
    const auto report = run(model, options).report;
    REQUIRE(report.harmful.images() == static_cast<index_t>(report.prompts.size()));
    REQUIRE(report.counterparts.images() == report.harmful.images());
    toy original({.kinds = 2});
    const auto p_harmful = original.judge()(original.decode(report.harmful));
    const auto p_counterparts = original.judge()(original.decode(report.counterparts));
    CHECK(std::ranges::min(p_harmful) > 0.5);
    CHECK(std::ranges::max(p_counterparts) < 0.5);
    for (index_t i = 0; i < report.harmful.images(); ++i) {
        const std::string& prompt = report.prompts[static_cast<std::size_t>(i)];
        const auto first = report.harmful.image(i).front();
        CHECK(first / plain_toy::codes_per_kind == prompt[4] - '0');
    }
    REQUIRE(model.sets.size() == 2);
    for (std::size_t r = 0; r < 2; ++r) {
        const auto& set = model.sets[r];
        CHECK(set.round == static_cast<index_t>(r + 1));
        CHECK(set.counterparts.images() == set.harmful.images());
        CHECK(set.still_unsafe.size() == static_cast<std::size_t>(set.harmful.images()));
        CHECK(std::ranges::max(original.judge()(original.decode(set.safe))) < 0.5);
    }
    CHECK(model.sets[0].harmful.images() == 24);
    CHECK(model.sets[1].harmful.ids == report.harmful.ids);  // of all rounds
    CHECK(model.sets[1].harmful.images() > 24);
    CHECK(model.sets[1].safe.images() == 80);
    CHECK(std::ranges::max(model.sets[0].still_unsafe) > 0.5);  // the second kind of harm remains
    CHECK(std::ranges::max(model.sets[1].still_unsafe) < 0.5);
}

TEST_CASE_TEMPLATE("self_improve: tuning stays orthogonal to the merged subspace, and does not without the constraint",
                   T, ISIC_STORAGE) {
    for (const bool constrained : {true, false}) {
        full_toy<T> model;
        auto options = options_for(1);
        options.tuning.steps = 60;
        options.stop.max_rounds = 1;
        options.tuning.constrained = constrained;
        dense start;
        dense end;
        options.on_progress = [&](const isic::progress& p) {
            if (p.stage == "tune") {
                (p.done == 0 ? start : end) = to_dense(model.codebook());
            }
            return true;
        };
        options.score = [](const isic::round_report& r) { return -static_cast<double>(r.round); };  // keeps round 1
        const outcome o = run(model, options);
        const dense step = end - start;
        const double inside = (step * to_dense(o.report.merged.basis)).norm();
        CHECK(model.losses.back() < 0.9 * model.losses.front());
        if (constrained) {
            // Each of the 60 stores rounds every entry once.
            CHECK(inside <= 60 * isic_test::unit<T> * end.norm());
            CHECK(o.report.rounds[1].self_unsafe.value <= 0.1);
        } else {
            CHECK(inside > 0.5 * step.norm());
            CHECK(o.report.rounds[1].self_unsafe.value >= 0.9);  // the loss restores the harm
        }
    }
}

TEST_CASE("self_improve: the tuning rate falls linearly") {
    toy model;
    auto options = options_for(1);
    options.stop.max_rounds = 1;
    options.tuning.steps = 10;
    options.tuning.constrained = false;
    options.score = [](const isic::round_report& r) { return -static_cast<double>(r.round); };
    dense start;
    options.on_progress = [&](const isic::progress& p) {
        start = p.stage == "tune" && p.done == 0 ? to_dense(model.codebook()) : start;
        return true;
    };
    model.on_gradient = [](double&, isic::matrix<double>& gradient) {
        std::fill_n(gradient.data(), gradient.rows() * gradient.cols(), 3.0);
    };
    run(model, options);
    // On a constant gradient the length of an Adam step is the rate: 0.12 times 1, 0.9, ..., 0.1.
    const dense moved = start - to_dense(model.codebook());
    CHECK((moved.array() - 0.12 * 5.5).abs().maxCoeff() < 1e-4);
}

TEST_CASE("self_improve: tuning.growth is the ratio of the steps of successive rounds") {
    for (const auto& [growth, second] : {std::pair{1.0, 4}, {1.5, 6}, {1.6, 6}, {3.0, 12}}) {
        toy model({.kinds = 2});
        auto options = options_for(2);
        options.tuning.steps = 4;
        options.tuning.growth = growth;
        const auto report = run(model, options).report;
        REQUIRE(report.rounds.size() == 3);
        CHECK(report.rounds[1].tuning_steps == 4);
        CHECK(report.rounds[2].tuning_steps == second);
        CHECK(model.calls["loss"] == 4 + second);
    }
}

TEST_CASE("self_improve: codes above lock_above do not move in tuning, the others do") {
    const auto moved_while_tuning = [](double lock_above) {
        toy model;
        auto options = options_for(1);
        options.tuning.steps = 10;
        options.tuning.lock_above = lock_above;
        dense start;
        options.on_progress = [&](const isic::progress& p) {
            start = p.stage == "tune" && p.done == 0 ? to_dense(model.codebook()) : start;
            return true;
        };
        run(model, options);
        const dense step = to_dense(model.codebook()) - start;
        const auto& q = model.sets.back().harmfulness;
        std::pair<index_t, index_t> moved{0, 0};  // harmful codes, others
        for (index_t k = 0; k < step.rows(); ++k) {
            (q[static_cast<std::size_t>(k)] >= 0.7 ? moved.first : moved.second) += step.row(k).norm() > 0 ? 1 : 0;
        }
        return moved;
    };
    CHECK(moved_while_tuning(0.7).first == 0);
    CHECK(moved_while_tuning(0.7).second > 0);
    CHECK(moved_while_tuning(2.0).first > 0);
    CHECK(moved_while_tuning(0.0) == std::pair<index_t, index_t>{0, 0});
}

TEST_CASE("self_improve: tuning stays within its radius of the projected codebook") {
    const auto farthest = [](double radius) {
        toy model;
        auto options = options_for(1);
        options.tuning.steps = 30;
        options.tuning.radius = radius;
        options.tuning.constrained = false;
        options.score = [](const isic::round_report& r) { return -static_cast<double>(r.round); };
        options.stop.max_rounds = 1;
        dense start;
        options.on_progress = [&](const isic::progress& p) {
            start = p.stage == "tune" && p.done == 0 ? to_dense(model.codebook()) : start;
            return true;
        };
        run(model, options);
        return (to_dense(model.codebook()) - start).rowwise().norm().maxCoeff();
    };
    CHECK(farthest(infinity) > 1);
    CHECK(farthest(0.25) <= 0.25 * (1 + 1e-5));
    CHECK(farthest(0.25) > 0.24);
}
