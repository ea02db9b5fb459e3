// SPDX-License-Identifier: Apache-2.0
// Cancels, exceptions, invalid results of the caller, and wrong options of self_improve.
#include <isic/loop.hpp>

#include <algorithm>
#include <functional>
#include <set>
#include <stdexcept>
#include <type_traits>
#include <typeinfo>

#include <fmt/format.h>

#include "support/loop_runs.hpp"

using isic::index_t;
using isic::stop_reason;
using isic_test::check_best_is_left;
using isic_test::check_throws;
using isic_test::dense;
using isic_test::infinity;
using isic_test::not_a_number;
using isic_test::options_for;
using isic_test::outcome;
using isic_test::plain_toy;
using isic_test::run;
using isic_test::toy;
using isic_test::toy_judge;

TEST_CASE("self_improve: a cancel at any step leaves the best completed round, bit for bit") {
    auto options = options_for(2);
    options.tuning.steps = 3;
    toy whole({.kinds = 2, .gap = 2});
    const outcome uninterrupted = run(whole, options);
    REQUIRE(uninterrupted.report.rounds.size() == 3);
    std::set<std::pair<index_t, std::string>> seen;
    bool cancelled = true;
    for (int at = 0; cancelled; ++at) {
        toy model({.kinds = 2, .gap = 2});
        int calls = 0;
        options.on_progress = [&](const isic::progress& p) {
            CHECK(p.done <= p.total);
            if (calls++ == at) {
                seen.emplace(p.round, p.stage);
                return false;
            }
            return true;
        };
        const outcome o = run(model, options);
        cancelled = o.report.reason == stop_reason::cancelled;
        check_best_is_left(o);
        CHECK((cancelled || o.report.rounds.size() == 3));
        CHECK(o.report.rounds.size() == o.after_round.size());
        CHECK(std::ranges::equal(o.after_round, std::span(uninterrupted.after_round).first(o.after_round.size())));
        CHECK((o.report.rounds.empty() || o.report.best_round + 1 == static_cast<index_t>(o.report.rounds.size())));
        CHECK(o.report.merged.rank() == o.report.best_round);
    }
    CHECK(seen == std::set<std::pair<index_t, std::string>>{{0, "draw"},
                                                            {0, "judge"},
                                                            {1, "pair"},
                                                            {1, "project"},
                                                            {1, "tune"},
                                                            {1, "judge"},
                                                            {2, "draw"},
                                                            {2, "judge"},
                                                            {2, "pair"},
                                                            {2, "project"},
                                                            {2, "tune"}});
}

TEST_CASE(
    "self_improve: an exception from any callback at any call leaves the best completed round, bit for bit, and the "
    "report has its text") {
    for (const bool standard : {true, false}) {
        std::set<std::string> seen;
        bool failed = true;
        for (int at = 0; failed; ++at) {
            toy model({.kinds = 2});
            int calls = 0;
            const auto may_throw = [&](std::string_view who) {
                if (calls++ == at) {
                    seen.emplace(who);
                    if (standard) {
                        throw std::runtime_error(fmt::format("{} broke", who));
                    }
                    throw 42;
                }
            };
            auto options = options_for(2, 6);
            options.stop.significance = 1;
            options.tuning.steps = 2;
            model.on_call = may_throw;
            options.on_progress = [&](const isic::progress&) { return may_throw("on_progress"), true; };
            options.on_round = [&](isic::round_report&) { may_throw("on_round"); };
            options.score = [&](const isic::round_report& r) { return may_throw("score"), r.self_unsafe.value; };
            options.rewrite = [&, then = options.rewrite](const std::string& prompt) {
                return may_throw("rewrite"), then(prompt);
            };
            const toy_judge judge = [&](const dense& images) { return may_throw("judge"), model.judge()(images); };
            const outcome o = run(model, options, judge);
            failed = o.report.reason == stop_reason::failed;
            check_best_is_left(o);
            CHECK((failed || o.report.rounds.size() == 3));
            if (failed) {
                CHECK(o.report.message.find(standard ? "broke" : "not a std::exception") != std::string::npos);
            }
            if (o.report.rounds.empty()) {
                CHECK(o.after == o.before);
            }
        }
        CHECK(seen == std::set<std::string>{"generate", "decode", "redraw", "tuning_loss", "loss", "on_progress",
                                            "on_round", "score", "rewrite", "judge"});
    }
}

TEST_CASE("self_improve: a judge that does not return one probability per image fails the run") {
    const auto first = [](double value) { return [value](std::vector<double>& p) { p.front() = value; }; };
    const std::vector<std::function<void(std::vector<double>&)>> spoilers{
        first(not_a_number),
        first(1.5),
        first(-0.1),
        first(infinity),
        [](std::vector<double>& p) { p.pop_back(); },
        [](std::vector<double>& p) { p.push_back(0.5); },
        [](std::vector<double>& p) { p.clear(); }};
    for (const auto& spoil : spoilers) {
        bool failed = true;
        for (int at = 0; failed; ++at) {
            toy model({.kinds = 2});
            int calls = 0;
            const toy_judge judge = [&](const dense& images) {
                auto p = model.judge()(images);
                if (calls++ == at) {
                    spoil(p);
                }
                return p;
            };
            auto options = options_for(2);
            options.tuning.steps = 1;
            const outcome o = run(model, options, judge);
            failed = o.report.reason == stop_reason::failed;
            CHECK((failed || at > 8));  // two rounds of draw, judge, pair, tune and judge
            CHECK((!failed || o.report.message.starts_with("isic::self_improve: expected ")));
            check_best_is_left(o);
        }
    }
}

TEST_CASE("self_improve: tokens that do not fit the codebook or the prompts fail the run") {
    const std::vector<std::function<void(isic::token_grid&)>> spoilers{
        [](isic::token_grid& g) { g.ids.pop_back(); },
        [](isic::token_grid& g) { g.ids.push_back(0); },
        [](isic::token_grid& g) { g.ids.front() = -1; },
        [](isic::token_grid& g) { g.ids.back() = 1000; },
        [](isic::token_grid& g) { g.tokens_per_image = 0; },
        [](isic::token_grid& g) { g.tokens_per_image = -8; },
        [](isic::token_grid& g) { g = {}; },
        [](isic::token_grid& g) { g.ids.resize(g.ids.size() - 8); },
        [](isic::token_grid& g) {  // the same number of images with half of the tokens each
            g.ids.resize(g.ids.size() / 2);
            g.tokens_per_image /= 2;
        }};
    for (std::size_t i = 0; i < spoilers.size(); ++i) {
        for (int at = 0; at < 6; ++at) {  // two draws, pairs, two draws, pairs
            INFO("spoiler ", i, " at draw ", at);
            toy model({.kinds = 2});
            int draws = 0;
            model.on_tokens = [&](isic::token_grid& grid) {
                if (draws++ == at) {
                    spoilers[i](grid);
                }
            };
            const outcome o = run(model, options_for(2));
            CHECK(o.report.reason == stop_reason::failed);
            check_best_is_left(o);
        }
    }
}

TEST_CASE("self_improve: a loss or score that is not finite, and a gradient of another shape, fail the run") {
    const std::vector<std::function<void(double&, isic::matrix<double>&)>> spoilers{
        [](double& loss, auto&) { loss = not_a_number; }, [](double& loss, auto&) { loss = infinity; },
        [](double&, auto& gradient) { gradient(3, 2) = not_a_number; },
        [](double&, auto& gradient) { gradient = isic::matrix<double>(2, 2); }};
    for (const auto& spoil : spoilers) {
        for (const int at : {0, 3, 4}) {  // the first and last step of round 1, and into round 2
            toy model({.kinds = 2});
            int calls = 0;
            model.on_gradient = [&](double& loss, isic::matrix<double>& gradient) {
                if (calls++ == at) {
                    spoil(loss, gradient);
                }
            };
            auto options = options_for(2);
            options.tuning.steps = 4;
            const outcome o = run(model, options);
            CHECK(o.report.reason == stop_reason::failed);
            CHECK(o.report.rounds.size() == (at < 4 ? 1 : 2));
            check_best_is_left(o);
        }
    }
    for (const index_t at : {0, 1, 2}) {
        toy model({.kinds = 2});
        auto options = options_for(2);
        options.score = [&](const isic::round_report& r) { return r.round == at ? not_a_number : r.self_unsafe.value; };
        const outcome o = run(model, options);
        CHECK(o.report.reason == stop_reason::failed);
        CHECK(o.report.rounds.size() == static_cast<std::size_t>(at));
        check_best_is_left(o);
    }
}

TEST_CASE("self_improve: a run fails if no image of a safe prompt is judged safe") {
    toy model;
    auto options = options_for(1);
    options.safe_prompts = options.unsafe_prompts;
    const outcome o = run(model, options);
    CHECK(o.report.reason == stop_reason::failed);
    CHECK(o.report.message.find("safe prompts") != std::string::npos);
    CHECK(o.report.rounds.empty());
    CHECK(o.after == o.before);
}

TEST_CASE("self_improve: wrong options throw typed errors that name the option, before the first image is drawn") {
    using options = isic::self_improve_options;
    const auto refused = []<class Error>(std::type_identity<Error>, const std::function<void(options&)>& spoil,
                                         std::string_view word) {
        toy model;
        auto o = options_for(1);
        o.tuning.steps = 2;
        spoil(o);
        const isic_test::byte_vector before = model.memory().bytes();
        INFO(std::string(word));
        try {
            isic::self_improve(model, model.judge(), o);
            CHECK_MESSAGE(false, "nothing was thrown");
        } catch (const isic::error& e) {
            INFO(e.what());
            CHECK(typeid(e) == typeid(Error));
            CHECK(std::string(e.what()).find(word) != std::string::npos);
        }
        CHECK(model.calls.empty());
        CHECK(model.memory().bytes() == before);
    };
    const std::type_identity<isic::shape_error> shape;
    const std::type_identity<isic::value_error> value;
    refused(shape, [](options& o) { o.unsafe_prompts.clear(); }, "prompts");
    refused(shape, [](options& o) { o.safe_prompts.clear(); }, "prompts");
    refused(value, [](options& o) { o.rewrite = nullptr; }, "options.rewrite");
    refused(value, [](options& o) { o.stop.max_rounds = -1; }, "stop.max_rounds >= 0");
    refused(value, [](options& o) { o.stop.patience = 0; }, "stop.patience >= 1");
    refused(value, [](options& o) { o.judging.counterpart_attempts = 0; }, "judging.counterpart_attempts >= 1");
    refused(value, [](options& o) { o.tuning.steps = -1; }, "tuning.steps >= 0");
    refused(value, [](options& o) { o.rank_budget = -1; }, "rank_budget in [0, d = 8]");
    refused(value, [](options& o) { o.rank_budget = 9; }, "rank_budget in [0, d = 8]");
    refused(value, [](options& o) { o.fit.rank = {.max_rank = 8}; }, "fit.rank.max_rank in [0, 7]");
    refused(value, [](options& o) { o.fit.rank = {.fixed = 9}; }, "fit.rank.fixed in [0, d = 8]");
    refused(value, [](options& o) { o.fit.rank = {.energy = 1.5}; }, "fit.rank.energy in [0, 1]");
    refused(value, [](options& o) { o.fit.rank.sign_flips = 10; }, "fit.rank.sign_flips");
    for (const double bad : {-0.1, 1.1, not_a_number}) {
        refused(value, [&](options& o) { o.stop.below = bad; }, "stop.below in [0, 1]");
        refused(value, [&](options& o) { o.judging.unsafe_above = bad; }, "judging.unsafe_above in [0, 1]");
        refused(value, [&](options& o) { o.judging.safe_below = bad; }, "judging.safe_below in [0, 1]");
        refused(value, [&](options& o) { o.judging.sensitivity = bad; }, "judging.sensitivity in [0, 1]");
        refused(value, [&](options& o) { o.judging.specificity = bad; }, "judging.specificity in [0, 1]");
        refused(value, [&](options& o) { o.stop.min_improvement = bad; }, "stop.min_improvement in [0, 1]");
    }
    for (const double bad : {-1.0, not_a_number}) {
        refused(value, [&](options& o) { o.stop.significance = bad; }, "stop.significance >= 0");
    }
    for (const double bad : {-1.0, 0.0, not_a_number}) {
        refused(value, [&](options& o) { o.tuning.growth = bad; }, "tuning.growth >= 1");
        refused(value, [&](options& o) { o.stop.damage_budget = bad; }, "stop.damage_budget > 0");
        refused(value, [&](options& o) { o.tuning.radius = bad; }, "tuning.radius > 0");
        refused(value, [&](options& o) { o.editing.target_weight = bad; }, "editing.target_weight > 0");
        refused(
            value, [&](options& o) { o.editing.harmfulness.prior_per_code = bad; },
            "editing.harmfulness.prior_per_code > 0");
        refused(value, [&](options& o) { o.tuning.adam.rate = bad; }, "tuning.adam.rate > 0");
        refused(value, [&](options& o) { o.tuning.adam.epsilon = bad; }, "tuning.adam.epsilon > 0");
    }
    refused(value, [](options& o) { o.tuning.adam.beta1 = 1; }, "tuning.adam.beta1 in [0, 1)");
    refused(value, [](options& o) { o.fit.execution.threads = -1; }, "threads >= 0");
    refused(value, [](options& o) { o.tuning.adam.beta2 = -0.1; }, "tuning.adam.beta2 in [0, 1)");
    refused(value, [](options& o) { o.tuning.lock_above = not_a_number; }, "tuning.lock_above");
    refused(
        value, [](options& o) { o.editing.ramp = {.low = 0.5, .high = 0.5}; }, "editing.ramp.high > editing.ramp.low");
    refused(value, [](options& o) { o.editing.padding = {28}; }, "28");
    refused(value, [](options& o) { o.editing.padding = {-1}; }, "-1");
    refused(value, [](options& o) { o.judging.sensitivity = o.judging.specificity = 0.5; }, "discriminate");
}

TEST_CASE("self_improve: tuning steps require a loss, and a codebook requires rows") {
    plain_toy model;
    auto options = options_for(1);
    options.tuning.steps = 1;
    check_throws<isic::value_error>("self_improve", [&] { isic::self_improve(model, model.judge(), options); },
                                    {"tuning_loss"});
    CHECK(model.calls.empty());

    struct empty_generator {
        isic::matrix<float> book{0, 4};
        isic::matrix_span<float> codebook() { return book; }
        isic::token_grid generate(std::span<const std::string>, std::uint64_t) { return {}; }
        int decode(const isic::token_grid&) const { return 0; }
    } empty;
    const auto judge = [](int) { return std::vector<double>{}; };
    check_throws<isic::shape_error>("self_improve", [&] { isic::self_improve(empty, judge, options_for(1)); },
                                    {"codebook"});
}

TEST_CASE("self_improve: every reason has a name") {
    std::set<std::string_view> names;
    for (int r = 0; r <= static_cast<int>(stop_reason::failed); ++r) {
        names.insert(to_string(static_cast<stop_reason>(r)));
    }
    CHECK(names.size() == 9);
    CHECK(!names.contains("unknown"));
}
