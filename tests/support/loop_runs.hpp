// SPDX-License-Identifier: Apache-2.0
/// \file
/// Runs of self_improve over toy generators, and checks of their results.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <isic/loop.hpp>

#include "support/data.hpp"
#include "support/errors.hpp"
#include "support/reference.hpp"
#include "support/toy_generator.hpp"

namespace isic_test {

using plain_toy = toy_generator<float>;
using toy = full_toy<float>;
using byte_vector = std::vector<std::byte>;

/// Options with prompts of `kinds` kinds of harm in turn; a round fits one direction.
inline isic::self_improve_options options_for(index_t kinds, index_t images = 24) {
    isic::self_improve_options out;
    for (index_t i = 0; i < images; ++i) {
        out.unsafe_prompts.push_back(fmt::format("harm{} in place {}", i % kinds, i));
    }
    for (index_t i = 0; i < 40; ++i) {
        out.safe_prompts.push_back(fmt::format("calm in place {}", 100 + i));
    }
    out.rewrite = [](const std::string& prompt) { return "calm" + prompt.substr(5); };
    out.fit.rank = {.max_rank = 1};
    out.seed = 5;
    return out;
}

/// The report of a run and the bytes of its codebook.
struct outcome {
    isic::self_improve_report report;
    std::vector<byte_vector> after_round;  ///< bytes of the codebook in on_round
    byte_vector before;
    byte_vector after;
    byte_vector undone;
};

/// Runs self_improve, then undoes and applies the edit again.
template <class Toy>
outcome run(Toy& model, isic::self_improve_options options, const toy_judge& judge) {
    outcome out;
    out.before = model.memory().bytes();
    options.on_round = [&, then = options.on_round](isic::round_report& r) {
        out.after_round.push_back(model.memory().bytes());
        if (then) {
            then(r);
        }
    };
    out.report = isic::self_improve(model, judge, options);
    out.after = model.memory().bytes();
    out.report.change.undo(model.codebook());
    out.undone = model.memory().bytes();
    out.report.change.apply(model.codebook());
    CHECK(model.memory().bytes() == out.after);
    CHECK(model.memory().gaps_intact());
    return out;
}

/// The same with the judge of the model.
template <class Toy>
outcome run(Toy& model, const isic::self_improve_options& options) {
    return run(model, options, model.judge());
}

/// Checks what holds for every end of a run: the codebook is that of the best completed round, and undo restores the original.
inline void check_best_is_left(const outcome& o) {
    const auto& rounds = o.report.rounds;
    const auto best = static_cast<std::size_t>(o.report.best_round);
    CHECK(o.after == (rounds.empty() ? o.before : o.after_round[best]));
    CHECK(o.undone == o.before);
    CHECK((rounds.empty() || best < rounds.size()));
    CHECK(o.report.message.empty() == (o.report.reason != isic::stop_reason::failed));
}

/// Share of images with P(unsafe) > 1/2.
inline double unsafe_share(const std::vector<double>& p) {
    return static_cast<double>(std::ranges::count_if(p, [](double x) { return x > 0.5; })) /
           static_cast<double>(p.size());
}

/// The judged rate of the kept round.
inline double rate_of(const isic::self_improve_report& report) {
    return report.rounds[static_cast<std::size_t>(report.best_round)].self_unsafe.value;
}

}  // namespace isic_test
