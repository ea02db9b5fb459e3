/// \file
/// self_improve: generate, judge, pair, fit, project, update, judge again, until nothing improves.
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
    below_target,      ///< the judged rate fell below stop_below
    nothing_unsafe,    ///< no image was judged unsafe before a round: there is nothing to learn from
    no_counterparts,   ///< no unsafe image has a counterpart that is judged safe
    no_improvement,    ///< `patience` rounds without a significant drop
    rank_budget,       ///< the merged subspace has all the rank it may have
    damage_budget,     ///< the codebook changed more than damage_budget; that round was undone
    max_rounds,        ///< all rounds done
    cancelled,         ///< on_progress said so
    failed             ///< the generator, the judge or a callback threw; `message` says what
};

/// The reason's name as it appears in reports.
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
    origin,       ///< to zero, as published
    safe_mean,    ///< to the mean of the safe images' codes (affine)
    counterparts  ///< to the mean of what stands at the code's positions in the safe counterparts
};

/// Everything about one round; round 0 is before any edit.
struct round_report {
    index_t round = 0;                     ///< 0, 1, ...
    rate self_unsafe = {};                 ///< images of the unsafe prompts that the judge calls unsafe, after this round
    std::optional<rate> corrected_unsafe;  ///< the same, corrected for the judge's known errors
    index_t pairs = 0;                     ///< unsafe images with a safe counterpart that this round learnt from
    index_t dropped = 0;                   ///< unsafe images without one
    index_t rank = 0;                      ///< rank fitted in this round
    rank_rule decided_by = rank_rule::data;  ///< the rule that chose it
    std::vector<double> singular_values = {};  ///< of this round's differences, descending; all that were computed
    index_t merged_rank = 0;               ///< rank of all rounds together
    edit_summary projection = {};          ///< what projecting did
    index_t tuning_steps = 0;              ///< gradient steps taken
    double first_loss = 0;                 ///< tuning loss at the first step
    double last_loss = 0;                  ///< mean of the last tenth of the steps
    double relative_change = 0;            ///< ||C - C_0||_F / ||C_0||_F after this round
    double seconds = 0;                    ///< wall clock
    std::map<std::string, double> metrics;  ///< what on_round adds
};

/// Where the loop is.
struct progress {
    index_t round = 0;             ///< the round at work
    std::string_view stage;        ///< "draw", "judge", "pair", "project", "tune"
    index_t done = 0;              ///< of this stage
    index_t total = 0;             ///< of this stage
};

/// Options of `self_improve`.
struct self_improve_options {
    std::vector<std::string> unsafe_prompts;  ///< drawn, judged and learnt from; at least one
    std::vector<std::string> safe_prompts;    ///< drawn for the usage of safe codes; at least one
    std::function<std::string(const std::string&)> rewrite;  ///< unsafe prompt -> safe counterpart prompt: a lexicon, or a model

    index_t max_rounds = 5;               ///< at most so many
    double stop_below = 0.015;            ///< judged rate at which it is good enough
    double min_improvement = 0.0;         ///< a round must lower the judged rate by more than this ...
    double significance = 1.64;           ///< ... and by more than this many standard errors of the paired difference
    index_t patience = 1;                 ///< rounds in a row that may miss it
    double damage_budget = std::numeric_limits<double>::infinity();  ///< largest ||C - C_0|| / ||C_0||

    double unsafe_above = 0.5;            ///< P(unsafe) above which an image counts as unsafe
    double safe_below = 0.5;              ///< P(unsafe) below which a counterpart or safe image counts as safe
    index_t counterpart_attempts = 3;     ///< draws of a counterpart before the pair is dropped
    double judge_sensitivity = 1.0;       ///< with judge_specificity: corrected rates are reported if either is below 1
    double judge_specificity = 1.0;       ///< share of safe images that the judge calls safe
    bool resample = true;                 ///< draw new images every round; false: tokens are drawn once and decoded again

    fit_options fit = {.rank = {.max_rank = 2}};  ///< subspace of a round; max_rank is the rank per round
    index_t rank_budget = 0;              ///< of all rounds merged; 0: max(1, d / 4); d: no limit, as for remaps
    edit_target target = edit_target::counterparts;  ///< where codes go
    double target_weight = 2.0;           ///< lambda of `counterpart_targets::targets`
    bool per_code_strength = true;        ///< strength by harmfulness; false: the published uniform projection
    harmfulness_options harmfulness = {};  ///< prior
    ramp_options ramp = {};               ///< harmfulness -> strength
    isic::metric metric = isic::metric::l2;          ///< how the model reads its codebook
    std::vector<index_t> padding = {};    ///< rows that are no codes

    index_t tuning_steps = 0;             ///< gradient steps in the first round, if the generator offers a loss
    double tuning_growth = 1.0;           ///< each round takes so many times the steps of the one before; at least 1
    adam_options tuning = {.rate = 0.12, .beta2 = 0.98};  ///< the rate falls linearly to a thousandth
    bool constrain_tuning = true;         ///< keep steps orthogonal to the merged subspace
    double lock_above = 2.0;              ///< codes of at least this harmfulness do not move while tuning
    double tuning_radius = std::numeric_limits<double>::infinity();  ///< around the projected codebook, per code

    std::uint64_t seed = 0;               ///< of everything random
    std::function<bool(const progress&)> on_progress;       ///< returns false to cancel
    std::function<void(round_report&)> on_round;            ///< after every round, the codebook as it is then
    std::function<double(const round_report&)> score;       ///< lower is better; default: self_unsafe.value
};

/// What the loop did. The codebook is left at the best completed round.
struct self_improve_report {
    std::vector<round_report> rounds;        ///< round 0 first
    index_t best_round = 0;                  ///< the round whose codebook was kept
    stop_reason reason = stop_reason::max_rounds;  ///< why it ended
    std::string message;                     ///< the exception's text if it failed, else empty
    subspace merged;                         ///< harmful subspace of the rounds up to the best
    std::vector<double> harmfulness;         ///< [K], the last estimate
    token_grid harmful;                      ///< unsafe images learnt from, in order of rounds
    token_grid counterparts;                 ///< their safe counterparts
    std::vector<std::string> prompts;        ///< their prompts
    edit change;                             ///< original -> kept codebook; change.undo(codebook) takes everything back
};

namespace detail {

/// A caller's generator and judge, whatever their types.
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

template <generator G, judge_of<G> J>
class loop_model_of final : public loop_model {
public:
    loop_model_of(G& model, J& judge) : model_(model), judge_(judge) {}

    any_span codebook() override {
        auto&& book = model_.codebook();
        return as_span(book);
    }
    token_grid generate(std::span<const std::string> prompts, std::uint64_t seed) override { return model_.generate(prompts, seed); }
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
            // Shared: what the generator returns need not be copyable.
            const auto loss = std::make_shared<std::remove_cvref_t<decltype(model_.tuning_loss(set))>>(model_.tuning_loss(set));
            return [loss](index_t step, matrix<double>& gradient) { return static_cast<double>((*loss)(step, gradient)); };
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

/// Lets a generator judge its own images and takes what is harmful out of its codebook, round by round.
///
/// A round: draw images of the unsafe prompts and judge them; find a safe counterpart of each unsafe one (repaired
/// tokens if the model redraws, else the image of the rewritten prompt) and keep it if it is judged safe; fit the
/// subspace of the differences; project the codebook; tune it under the constraint if the model offers a loss; judge
/// again. The best round is kept, not the last. A generator or judge that throws, a judge that returns NaN, and a
/// cancel end the loop with the codebook at the best completed round; the report says so. Not thread-safe in `model`.
///
/// Errors: shape_error and value_error on options, before anything is drawn. Cost: the caller's model, plus O(n T d^2)
/// per round. Source: Safe-CB; the equations are reconstructed, strengths, targets, stop and roll-back rules our choice.
template <generator G, judge_of<G> J>
self_improve_report self_improve(G& model, J&& judge, const self_improve_options& options) {
    detail::loop_model_of<G, std::remove_reference_t<J>> both(model, judge);
    return detail::self_improve(both, options);
}

}  // namespace isic::inline ISIC_ABI

#ifdef ISIC_HEADER_ONLY
#include <isic/detail/loop-inl.hpp>
#endif
