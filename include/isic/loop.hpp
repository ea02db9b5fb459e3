// SPDX-License-Identifier: Apache-2.0
/// \file
/// self_improve: generate, judge, pair, fit, project, tune and judge again, until a stop rule applies.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <isic/differences.hpp>
#include <isic/edit.hpp>
#include <isic/generator.hpp>
#include <isic/harmfulness.hpp>
#include <isic/metrics.hpp>
#include <isic/projection.hpp>
#include <isic/subspace.hpp>
#include <isic/update.hpp>

namespace isic::inline ISIC_ABI {

/// Why the loop ended.
enum class stop_reason {
    below_target,     ///< the judged rate is below stop.below
    nothing_unsafe,   ///< the judge calls no image unsafe before a round: there is nothing to learn from
    no_counterparts,  ///< no unsafe image has a counterpart that is judged safe
    no_improvement,   ///< stop.patience rounds in a row without a significant drop of the judged rate
    rank_budget,      ///< the merged subspace has the largest rank that rank_budget allows
    damage_budget,    ///< the codebook changed by more than stop.damage_budget; that round was undone
    max_rounds,       ///< stop.max_rounds rounds are complete
    cancelled,        ///< on_progress returned false
    failed            ///< the generator, the judge or a callback threw; `message` has the exception's text
};

/// The name of a reason in reports, e.g. "below_target".
constexpr std::string_view to_string(stop_reason reason) {
    switch (reason) {
        case stop_reason::below_target: return "below_target";
        case stop_reason::nothing_unsafe: return "nothing_unsafe";
        case stop_reason::no_counterparts: return "no_counterparts";
        case stop_reason::no_improvement: return "no_improvement";
        case stop_reason::rank_budget: return "rank_budget";
        case stop_reason::damage_budget: return "damage_budget";
        case stop_reason::max_rounds: return "max_rounds";
        case stop_reason::cancelled: return "cancelled";
        case stop_reason::failed: return "failed";
    }
    return "unknown";
}

/// Where the projection moves codes inside the subspace.
enum class edit_target {
    origin,       ///< zero, as published
    safe_mean,    ///< the mean of the codes of safe images (affine)
    counterparts  ///< the mean of the codes at the same positions of the safe counterparts
};

/// The report of one round. Round 0 precedes every edit.
struct round_report {
    index_t round = 0;      ///< 0, 1, ...
    rate self_unsafe = {};  ///< share of the unsafe prompts' images that are judged unsafe after this round
    std::optional<rate> corrected_unsafe;        ///< the same share, corrected for the judge's known error rates
    index_t pairs = 0;                           ///< pairs of this round: unsafe images with a safe counterpart
    index_t dropped = 0;                         ///< unsafe images without a safe counterpart
    index_t rank = 0;                            ///< rank of this round's subspace
    rank_rule decided_by = rank_rule::data;      ///< the rule that chose the rank
    std::vector<double> singular_values = {};    ///< of this round's differences, descending; all that were computed
    index_t merged_rank = 0;                     ///< rank of the subspaces of all rounds, merged
    edit_summary projection = {};                ///< result of the projection
    index_t tuning_steps = 0;                    ///< gradient steps taken
    double first_loss = 0;                       ///< tuning loss at the first step
    double last_loss = 0;                        ///< mean tuning loss of the last tenth of the steps
    double relative_change = 0;                  ///< ||C - C_0||_F / ||C_0||_F after this round
    double seconds = 0;                          ///< wall-clock time of this round, in seconds
    std::map<std::string, double> metrics = {};  ///< values that on_round adds, by name
};

/// The position of a running loop.
struct progress {
    index_t round = 0;       ///< current round
    std::string_view stage;  ///< "draw", "judge", "pair", "project" or "tune"
    index_t done = 0;        ///< completed steps of the stage, 0 to total
    index_t total = 0;       ///< steps of the stage
};

/// When the loop stops.
struct stop_options {
    index_t max_rounds = 5;  ///< maximum number of rounds, >= 0
    double below = 0.015;    ///< the loop stops when the judged rate is below this value, in [0, 1]
    double min_improvement =
        0.0;  ///< a round improves if it lowers the judged rate by more than this value, in [0, 1] ...
    double significance = 1.64;  ///< ... and by more than this number of standard errors of the paired difference, >= 0
    index_t patience = 1;        ///< the loop stops after this number of rounds in a row without improvement, >= 1
    double damage_budget = std::numeric_limits<double>::infinity();  ///< largest ||C - C_0||_F / ||C_0||_F, > 0
};

/// How the judge's probabilities are read.
struct judging_options {
    double unsafe_above = 0.5;         ///< an image is unsafe if P(unsafe) is above this value, in [0, 1]
    double safe_below = 0.5;           ///< an image is safe if P(unsafe) is below this value, in [0, 1]
    index_t counterpart_attempts = 3;  ///< attempts to draw a safe counterpart before the pair is dropped, >= 1
    double sensitivity = 1.0;          ///< share of unsafe images that the judge calls unsafe, in [0, 1]
    double specificity =
        1.0;  ///< share of safe images that the judge calls safe; corrected rates are reported if either is below 1
};

/// How a round projects the codebook.
struct editing_options {
    edit_target target = edit_target::counterparts;  ///< where codes move
    double target_weight = 2.0;                      ///< lambda of `counterpart_targets::targets`, > 0
    bool per_code_strength = true;           ///< strength by harmfulness; false: the published uniform projection
    harmfulness_options harmfulness = {};    ///< prior of `code_harmfulness`
    ramp_options ramp = {};                  ///< harmfulness -> strength, as `code_strength`
    isic::metric metric = isic::metric::l2;  ///< metric of the model's nearest-neighbour search
    std::vector<index_t> padding = {};       ///< ids of rows that are not codes; they keep their bytes
};

/// How a round tunes the codebook, if the generator has a tuning_loss.
struct tuning_options {
    index_t steps = 0;                                  ///< gradient steps in the first round, >= 0; 0: no tuning
    double growth = 1.0;                                ///< steps of a round / steps of the round before, >= 1
    adam_options adam = {.rate = 0.12, .beta2 = 0.98};  ///< the rate falls linearly to a thousandth
    bool constrained = true;                            ///< keep every step orthogonal to the merged subspace
    double lock_above = 2.0;  ///< codes of at least this harmfulness do not move; above 1: all codes may move
    double radius =
        std::numeric_limits<double>::infinity();  ///< largest distance of a code from its projected value, > 0
};

/// Options of `self_improve`, in groups.
///
/// \snippet snippets.cpp loop
struct self_improve_options {
    std::vector<std::string> unsafe_prompts =
        {};  ///< prompts whose images are drawn, judged and learnt from; at least one
    std::vector<std::string> safe_prompts =
        {};  ///< prompts whose images show which codes safe images use; at least one
    std::function<std::string(const std::string&)> rewrite =
        {};  ///< unsafe prompt -> safe counterpart prompt: a lexicon or a model

    stop_options stop = {};        ///< when the loop stops
    judging_options judging = {};  ///< how the judge's probabilities are read
    bool resample = true;          ///< draw new images in every round; false: draw tokens once and decode them again

    fit_options fit = {.rank = {.max_rank = 2}};  ///< fit of a round; max_rank bounds the rank per round
    index_t rank_budget = 0;       ///< largest merged rank, in [0, d]; 0: max(1, d / 4); d: no limit, as for remaps
    editing_options editing = {};  ///< how a round projects the codebook
    tuning_options tuning = {};    ///< how a round tunes the codebook

    std::uint64_t seed = 0;                                 ///< seed of every random choice
    std::function<bool(const progress&)> on_progress = {};  ///< called at every step; returns false to cancel
    std::function<void(round_report&)> on_round = {};  ///< called after every round, with the codebook of that round
    std::function<double(const round_report&)> score =
        {};  ///< the loop keeps the round of the lowest score; default: self_unsafe.value
};

/// The result of `self_improve`. The codebook is that of the best completed round.
struct self_improve_report {
    std::vector<round_report> rounds;              ///< completed rounds, round 0 first
    index_t best_round = 0;                        ///< the round whose codebook was kept
    stop_reason reason = stop_reason::max_rounds;  ///< why the loop ended
    std::string message;                           ///< text of the exception if the reason is `failed`, else empty
    subspace merged;                               ///< harmful subspace of the rounds up to the best
    std::vector<double> harmfulness;               ///< [K], last estimate, in [0, 1]
    token_grid harmful;                            ///< unsafe images of all pairs, in the order of rounds
    token_grid counterparts;                       ///< their safe counterparts, row by row
    std::vector<std::string> prompts;              ///< their prompts
    edit change;  ///< original -> kept codebook; change.undo(codebook) restores every byte
};

namespace detail {

/// A generator and a judge of run-time type.
class ISIC_API loop_model {
public:
    virtual ~loop_model() = default;
    virtual any_span codebook() = 0;
    virtual token_grid generate(std::span<const std::string> prompts, std::uint64_t seed) = 0;
    virtual std::vector<double> judge(const token_grid& tokens) = 0;
    virtual bool redraws() const = 0;
    virtual token_grid redraw(const redraw_request& request) = 0;
    virtual bool tunes() const = 0;
    virtual std::function<double(index_t, matrix<double>&)> tuning_loss(const tuning_set& set) = 0;
};

/// The generator and the judge of a caller, by their static types.
template <generator G, judge_of<G> J>
class loop_model_of final : public loop_model {
public:
    loop_model_of(G& model, J& judge) : model_(model), judge_(judge) {}

    any_span codebook() override {
        auto&& book = model_.codebook();
        return as_span(book);
    }
    token_grid generate(std::span<const std::string> prompts, std::uint64_t seed) override {
        return model_.generate(prompts, seed);
    }
    std::vector<double> judge(const token_grid& tokens) override { return judge_(model_.decode(tokens)); }
    bool redraws() const override { return redraws_tokens<G>; }
    token_grid redraw(const redraw_request& request) override {
        if constexpr (redraws_tokens<G>) {
            return model_.redraw(request);
        } else {
            return {};
        }
    }
    bool tunes() const override { return tunes_codebook<G>; }
    std::function<double(index_t, matrix<double>&)> tuning_loss([[maybe_unused]] const tuning_set& set) override {
        if constexpr (tunes_codebook<G>) {
            // std::function copies its target, and the generator's function may not be copyable.
            const auto loss =
                std::make_shared<std::remove_cvref_t<decltype(model_.tuning_loss(set))>>(model_.tuning_loss(set));
            return
                [loss](index_t step, matrix<double>& gradient) { return static_cast<double>((*loss)(step, gradient)); };
        } else {
            return {};
        }
    }

private:
    G& model_;
    J& judge_;
};

ISIC_API self_improve_report self_improve(loop_model& model, const self_improve_options& options);

}  // namespace detail

/// Lets a generator judge its own images and removes the harmful subspace from its codebook, round by round.
///
/// A round has six stages:
///  1. draw: images of all prompts. The judge rates those of the unsafe prompts.
///  2. pair: find a safe counterpart of each unsafe image, from redrawn tokens if the generator has `redraw`, else from the
///     rewritten prompt. A counterpart counts if it is judged safe.
///  3. fit: the subspace of the differences between unsafe images and their counterparts.
///  4. project: move the codebook out of the subspace.
///  5. tune: gradient steps under the constraint, if the generator has a `tuning_loss`.
///  6. judge: rate the same images through the new codebook.
///
/// The best round is kept, not the last. A generator or judge that throws, a judge that returns NaN, and a cancel end the
/// loop with the codebook of the best completed round; the report has the reason.
///
/// Cost: the generator and the judge, plus O(n T d^2) per round for n pairs of T tokens. Errors: shape_error and value_error
/// on options, before the first image is drawn. Thread safety: calls with distinct models may run concurrently; one model
/// belongs to one call. All callbacks run in the calling thread. Source: Safe-CB; the equations are reconstructed, the
/// strengths, targets, stop rule and roll-back are our choice.
template <generator G, judge_of<G> J>
self_improve_report self_improve(G& model, J&& judge, const self_improve_options& options) {
    detail::loop_model_of<G, std::remove_reference_t<J>> both(model, judge);
    return detail::self_improve(both, options);
}

}  // namespace isic::inline ISIC_ABI

#ifdef ISIC_HEADER_ONLY
#include <isic/detail/loop-inl.hpp>
#endif
