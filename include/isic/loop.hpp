/// \file
/// self_improve: generate, judge, pair, fit, project, update, judge again, until nothing improves.
#pragma once

#include <chrono>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <isic/constraint.hpp>
#include <isic/differences.hpp>
#include <isic/edit.hpp>
#include <isic/fit.hpp>
#include <isic/generator.hpp>
#include <isic/harmfulness.hpp>
#include <isic/merge.hpp>
#include <isic/metrics.hpp>
#include <isic/projection.hpp>
#include <isic/subspace.hpp>
#include <isic/update.hpp>

namespace isic {

/// Why the loop ended.
enum class stop_reason {
    below_target,      ///< the judged rate fell below stop_below
    nothing_unsafe,    ///< no picture was judged unsafe before a round: there is nothing to learn from
    no_counterparts,   ///< no unsafe picture has a counterpart that is judged safe
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
    safe_mean,    ///< to the mean of the safe pictures' codes (affine)
    counterparts  ///< to the mean of what stands at the code's positions in the safe counterparts
};

/// Everything about one round; round 0 is before any edit.
struct round_report {
    index_t round = 0;                     ///< 0, 1, ...
    rate self_unsafe = {};                 ///< pictures of the unsafe prompts that the judge calls unsafe, after this round
    std::optional<rate> corrected_unsafe;  ///< the same, corrected for the judge's known errors
    index_t pairs = 0;                     ///< unsafe pictures with a safe counterpart that this round learnt from
    index_t dropped = 0;                   ///< unsafe pictures without one
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

    double unsafe_above = 0.5;            ///< P(unsafe) above which a picture counts as unsafe
    double safe_below = 0.5;              ///< P(unsafe) below which a counterpart or safe picture counts as safe
    index_t counterpart_attempts = 3;     ///< draws of a counterpart before the pair is dropped
    double judge_sensitivity = 1.0;       ///< with judge_specificity: corrected rates are reported if either is below 1
    double judge_specificity = 1.0;       ///< share of safe pictures that the judge calls safe
    bool resample = true;                 ///< draw new pictures every round; false: tokens are drawn once and decoded again

    fit_options fit = {.rank = {.max_rank = 2}};  ///< subspace of a round; max_rank is the rank per round
    index_t rank_budget = 0;              ///< of all rounds merged; 0: max(1, d / 4); d: no limit, as for remaps
    edit_target target = edit_target::counterparts;  ///< where codes go
    double target_weight = 2.0;           ///< lambda of `counterpart_targets::targets`
    bool per_code_strength = true;        ///< strength by harmfulness; false: the published uniform projection
    harmfulness_options harmfulness = {};  ///< prior
    ramp_options ramp = {};               ///< harmfulness -> strength
    lookup rule = lookup::plain;          ///< how the model reads its codebook
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
    token_grid harmful;                      ///< unsafe pictures learnt from, in order of rounds
    token_grid counterparts;                 ///< their safe counterparts
    std::vector<std::string> prompts;        ///< their prompts
    edit change;                             ///< original -> kept codebook; change.undo(codebook) takes everything back
};

namespace detail {

struct cancelled_by_caller {};

/// The state of one run; each member function is one stage of a round.
template <class G, class J>
class self_improver {
    using storage = scalar_of<std::remove_reference_t<decltype(std::declval<G&>().codebook())>>;

public:
    self_improver(G& model, J& judge, const self_improve_options& options) : model_(model), judge_(judge), options_(options) {
        check();
        original_ = copy();
        best_ = original_;
    }

    self_improve_report run() {
        try {
            report_.reason = rounds();
        } catch (const cancelled_by_caller&) {
            report_.reason = stop_reason::cancelled;
        } catch (const std::exception& e) {
            report_.reason = stop_reason::failed;
            report_.message = e.what();
        } catch (...) {
            report_.reason = stop_reason::failed;
            report_.message = "an exception that is no std::exception";
        }
        restore(best_);
        report_.merged = best_merged_;
        report_.change = edit::between(original_, best_);
        report_.change.removed = best_merged_;
        return std::move(report_);
    }

private:
    void check() {
        constexpr std::string_view f = "self_improve";
        const auto& o = options_;
        require<shape_error>(!o.unsafe_prompts.empty() && !o.safe_prompts.empty(), f, "unsafe and safe prompts",
                             fmt::format("{} and {}", o.unsafe_prompts.size(), o.safe_prompts.size()));
        require<value_error>(static_cast<bool>(o.rewrite), f, "options.rewrite", "none");
        require<value_error>(o.max_rounds >= 0, f, "max_rounds >= 0", fmt::format("{}", o.max_rounds));
        require<value_error>(o.patience >= 1, f, "patience >= 1", fmt::format("{}", o.patience));
        require<value_error>(o.counterpart_attempts >= 1, f, "counterpart_attempts >= 1", fmt::format("{}", o.counterpart_attempts));
        require<value_error>(o.tuning_steps >= 0, f, "tuning_steps >= 0", fmt::format("{}", o.tuning_steps));
        require<value_error>(o.tuning_steps == 0 || tunes_codebook<G>, f, "a generator with tuning_loss for tuning_steps > 0", "one without");
        require<value_error>(o.tuning_growth >= 1 && std::isfinite(o.tuning_growth), f, "tuning_growth >= 1", fmt::format("{}", o.tuning_growth));
        require<value_error>(o.damage_budget > 0, f, "damage_budget > 0", fmt::format("{}", o.damage_budget));
        require_range(f, "stop_below", o.stop_below, 0, 1);
        require_range(f, "unsafe_above", o.unsafe_above, 0, 1);
        require_range(f, "safe_below", o.safe_below, 0, 1);
        require_range(f, "min_improvement", o.min_improvement, 0, 1);
        require<value_error>(o.significance >= 0, f, "significance >= 0", fmt::format("{}", o.significance));
        corrected_rate(rate{}, o.judge_sensitivity, o.judge_specificity);
        const auto codes = as_span_of_model();
        require_not_empty(f, "a codebook", matrix_view<storage>(codes));
        rank_budget(o.fit.rank, codes.cols(), f);
        require<value_error>(o.rank_budget >= 0 && o.rank_budget <= codes.cols(), f, fmt::format("rank_budget in [0, d = {}]", codes.cols()),
                             fmt::format("{}", o.rank_budget));
        check_learning(f, codes.rows(), codes.cols());
    }

    /// What the stages of a round would refuse, before anything is drawn.
    void check_learning(std::string_view f, index_t codes, index_t width) {
        const auto& o = options_;
        padding_mask(f, o.padding, codes);
        code_strength({}, o.ramp);
        require<value_error>(o.fit.rank.sign_flips == 0, f, "rank.sign_flips = 0, as pairs become moments", fmt::format("{}", o.fit.rank.sign_flips));
        require<value_error>(o.fit.center != centering::safe_axis || width >= 3, f, "d >= 3 for centering::safe_axis", fmt::format("{}", width));
        const double prior = o.harmfulness.prior_per_code;
        require<value_error>(prior > 0 && std::isfinite(prior), f, "harmfulness.prior_per_code > 0", fmt::format("{}", prior));
        require<value_error>(o.target_weight > 0 && std::isfinite(o.target_weight), f, "target_weight > 0", fmt::format("{}", o.target_weight));
        require<value_error>(o.tuning_radius > 0, f, "tuning_radius > 0", fmt::format("{}", o.tuning_radius));
        require<value_error>(!std::isnan(o.lock_above), f, "a lock_above", "NaN");
        o.tuning.check(f);
    }

    matrix_span<storage> as_span_of_model() {
        auto&& book = model_.codebook();
        return as_span(book);
    }

    matrix<storage> copy() {
        const auto codes = as_span_of_model();
        matrix<storage> out(codes.rows(), codes.cols());
        for (index_t k = 0; k < codes.rows(); ++k) {
            std::ranges::copy(codes.row(k), out.row(k).begin());
        }
        return out;
    }

    void restore(const matrix<storage>& saved) {
        const auto codes = as_span_of_model();
        for (index_t k = 0; k < codes.rows(); ++k) {
            std::ranges::copy(saved.row(k), codes.row(k).begin());
        }
    }

    void tell(std::string_view stage, index_t done, index_t total) {
        if (options_.on_progress && !options_.on_progress({round_, stage, done, total})) {
            throw cancelled_by_caller{};
        }
    }

    stop_reason rounds() {
        auto start = std::chrono::steady_clock::now();
        draw();
        evaluate();
        finish(round_report{}, start);
        index_t missed = 0;
        for (round_ = 1; round_ <= options_.max_rounds; ++round_) {
            const bool below = report_.rounds.back().self_unsafe.value < options_.stop_below;
            if (below && (round_ > 1 || unsafe_count() > 0)) {
                return stop_reason::below_target;
            }
            if (unsafe_count() == 0) {
                return stop_reason::nothing_unsafe;
            }
            if (merged_.rank() >= total_rank_budget() && total_rank_budget() < original_.cols()) {
                return stop_reason::rank_budget;
            }
            start = std::chrono::steady_clock::now();
            round_report now;
            if (round_ > 1 && options_.resample) {
                draw();
                judge_unsafe();
                if (unsafe_count() == 0) {
                    return stop_reason::nothing_unsafe;
                }
            }
            const std::vector<bool> before = is_unsafe();
            if (!collect_pairs(now)) {
                return stop_reason::no_counterparts;
            }
            project(now);
            tune(now);
            now.relative_change = drift(original_, as_span_of_model(), options_.padding).relative;
            if (now.relative_change > options_.damage_budget) {
                return stop_reason::damage_budget;
            }
            evaluate();
            missed = improved(before) ? 0 : missed + 1;
            finish(std::move(now), start);
            if (missed >= options_.patience && report_.rounds.back().self_unsafe.value >= options_.stop_below) {
                return stop_reason::no_improvement;
            }
        }
        round_ = options_.max_rounds;
        return report_.rounds.back().self_unsafe.value < options_.stop_below ? stop_reason::below_target : stop_reason::max_rounds;
    }

    /// Draws the pictures of all prompts; safe ones are judged once per draw and kept if they are safe.
    void draw() {
        const std::uint64_t seed = mix(options_.seed) + static_cast<std::uint64_t>(2 * round_);
        tell("draw", 0, 2);
        unsafe_tokens_ = drawn(options_.unsafe_prompts, seed);
        tell("draw", 1, 2);
        const token_grid safe = drawn(options_.safe_prompts, seed + 1);
        const std::vector<double> p = judged(safe);
        for (index_t i = 0; i < safe.pictures(); ++i) {
            if (p[static_cast<std::size_t>(i)] < options_.safe_below) {
                safe_tokens_.append(safe, i);
            }
        }
        tell("draw", 2, 2);
        require<numeric_error>(safe_tokens_.pictures() > 0, "self_improve", "safe prompts whose pictures are judged safe", "none");
    }

    token_grid drawn(std::span<const std::string> prompts, std::uint64_t seed) {
        return checked_tokens(model_.generate(prompts, seed), static_cast<index_t>(prompts.size()), "generate");
    }

    token_grid checked_tokens(token_grid tokens, index_t pictures, std::string_view source) {
        const auto t = tokens.tokens_per_picture;
        if (t < 1 || static_cast<index_t>(tokens.ids.size()) != pictures * t) {
            fail<shape_error>("self_improve", fmt::format("{} pictures of {} tokens from {}", pictures, t, source),
                              fmt::format("{} ids", tokens.ids.size()));
        }
        tokens_per_picture_ = tokens_per_picture_ > 0 ? tokens_per_picture_ : t;
        require_size("self_improve", fmt::format("tokens per picture from {}", source), tokens_per_picture_, t);
        require_ids("self_improve", std::span<const std::int32_t>(tokens.ids), original_.rows());
        return tokens;
    }

    std::vector<double> judged(const token_grid& tokens) {
        if (tokens.pictures() == 0) {
            return {};
        }
        std::vector<double> p = judge_(model_.decode(tokens));
        require_size("self_improve", "judged pictures", tokens.pictures(), static_cast<index_t>(p.size()));
        for (std::size_t i = 0; i < p.size(); ++i) {
            if (!(p[i] >= 0 && p[i] <= 1)) {
                fail<numeric_error>("self_improve", "P(unsafe) in [0, 1] from the judge", fmt::format("{} for picture {}", p[i], i));
            }
        }
        return p;
    }

    void judge_unsafe() {
        tell("judge", 0, 1);
        p_unsafe_ = judged(unsafe_tokens_);
        tell("judge", 1, 1);
    }

    /// Judges the unsafe prompts' pictures through the present codebook.
    void evaluate() { judge_unsafe(); }

    std::vector<bool> is_unsafe() const {
        std::vector<bool> out;
        for (const double p : p_unsafe_) {
            out.push_back(p > options_.unsafe_above);
        }
        return out;
    }
    index_t unsafe_count() const {
        return std::ranges::count_if(p_unsafe_, [&](double p) { return p > options_.unsafe_above; });
    }

    /// A drop of more than min_improvement and `significance` standard errors; pictures are paired by prompt.
    bool improved(const std::vector<bool>& before) const {
        const std::vector<bool> after = is_unsafe();
        double better = 0;
        double worse = 0;
        for (std::size_t i = 0; i < after.size(); ++i) {
            better += before[i] && !after[i] ? 1 : 0;
            worse += !before[i] && after[i] ? 1 : 0;
        }
        const double n = static_cast<double>(after.size());
        return (better - worse) / n > std::max(options_.min_improvement, options_.significance * std::sqrt(better + worse) / n);
    }

    index_t total_rank_budget() const {
        return options_.rank_budget > 0 ? options_.rank_budget : std::max<index_t>(1, original_.cols() / 4);
    }

    /// Finds safe counterparts of what is judged unsafe now; pairs of all rounds accumulate for tuning.
    bool collect_pairs(round_report& now) {
        token_grid harmful;
        std::vector<std::string> prompts;
        std::vector<std::string> safe_prompts;
        for (index_t i = 0; i < unsafe_tokens_.pictures(); ++i) {
            if (p_unsafe_[static_cast<std::size_t>(i)] > options_.unsafe_above) {
                harmful.append(unsafe_tokens_, i);
                prompts.push_back(options_.unsafe_prompts[static_cast<std::size_t>(i)]);
                safe_prompts.push_back(options_.rewrite(prompts.back()));
            }
        }
        measure_harmfulness(harmful);
        const std::vector<std::optional<token_grid>> found = counterparts(harmful, safe_prompts);
        round_harmful_ = {};
        round_counterparts_ = {};
        for (index_t i = 0; i < harmful.pictures(); ++i) {
            if (const auto& counterpart = found[static_cast<std::size_t>(i)]) {
                round_harmful_.append(harmful, i);
                round_counterparts_.append(*counterpart, 0);
                if (known_pairs_.emplace(std::vector(harmful.picture(i).begin(), harmful.picture(i).end()), true).second) {
                    report_.harmful.append(harmful, i);
                    report_.counterparts.append(*counterpart, 0);
                    report_.prompts.push_back(prompts[static_cast<std::size_t>(i)]);
                }
            }
        }
        now.pairs = round_harmful_.pictures();
        now.dropped = harmful.pictures() - now.pairs;
        return now.pairs > 0;
    }

    void measure_harmfulness(const token_grid& harmful) {
        code_usage usage{std::vector<double>(static_cast<std::size_t>(original_.rows()), 0.0), {}};
        usage.safe = usage.harmful;
        for (const auto id : harmful.ids) {
            usage.harmful[static_cast<std::size_t>(id)] += 1;
        }
        for (const auto id : safe_tokens_.ids) {
            usage.safe[static_cast<std::size_t>(id)] += 1;
        }
        report_.harmfulness = code_harmfulness(usage, options_.harmfulness).harmfulness;
    }

    /// Draws until each counterpart is judged safe, or the attempts are used up.
    std::vector<std::optional<token_grid>> counterparts(const token_grid& harmful, const std::vector<std::string>& prompts) {
        std::vector<std::optional<token_grid>> out(prompts.size());
        std::vector<index_t> open(prompts.size());
        std::iota(open.begin(), open.end(), index_t{0});
        for (index_t attempt = 0; attempt < options_.counterpart_attempts && !open.empty(); ++attempt) {
            tell("pair", attempt, options_.counterpart_attempts);
            token_grid part;
            std::vector<std::string> part_prompts;
            for (const index_t i : open) {
                part.append(harmful, i);
                part_prompts.push_back(prompts[static_cast<std::size_t>(i)]);
            }
            const token_grid fresh = counterpart_attempt(part, part_prompts, attempt);
            const std::vector<double> p = judged(fresh);
            std::vector<index_t> left;
            for (std::size_t j = 0; j < open.size(); ++j) {
                if (p[j] < options_.safe_below) {
                    out[static_cast<std::size_t>(open[j])].emplace();
                    out[static_cast<std::size_t>(open[j])]->append(fresh, static_cast<index_t>(j));
                } else {
                    left.push_back(open[j]);
                }
            }
            open = std::move(left);
        }
        tell("pair", options_.counterpart_attempts, options_.counterpart_attempts);
        return out;
    }

    token_grid counterpart_attempt(const token_grid& harmful, const std::vector<std::string>& prompts, index_t attempt) {
        const std::uint64_t seed = mix(options_.seed + 77) + static_cast<std::uint64_t>(1000 * round_ + attempt);
        const auto n = harmful.pictures();
        if constexpr (redraws_tokens<G>) {
            return checked_tokens(model_.redraw({prompts, harmful, report_.harmfulness, attempt, seed}), n, "redraw");
        } else {
            return drawn(prompts, seed);
        }
    }

    void project(round_report& now) {
        tell("project", 0, 1);
        const auto codes = as_span_of_model();
        matrix<storage> book = copy();
        for (const index_t k : options_.padding) {  // padding may hold anything, NaN too
            std::ranges::fill(book.row(k), storage(0));
        }
        difference_accumulator<storage> pairs(book);
        counterpart_targets<storage> goals(book);
        for (index_t i = 0; i < round_harmful_.pictures(); ++i) {
            pairs.add(round_harmful_.picture(i), round_counterparts_.picture(i));
            goals.add(round_harmful_.picture(i), round_counterparts_.picture(i));
        }
        for (index_t i = 0; i < safe_tokens_.pictures(); ++i) {
            pairs.add_safe(safe_tokens_.picture(i));
        }
        fit_options fit = options_.fit;
        const index_t left = total_rank_budget() - merged_.rank();
        if (left == 0) {
            // The budget is the whole space and it is used up: later rounds edit inside it again.
        } else if (fit.rank.fixed > 0) {
            fit.rank.fixed = std::min(fit.rank.fixed, left);
        } else {
            fit.rank.max_rank = std::min(rank_budget(fit.rank, codes.cols(), "self_improve"), left);
        }
        const subspace harm = fit_subspace(pairs, fit);
        const std::vector<double> mean = pairs.safe_mean();
        const std::vector<double> strength = code_strength(report_.harmfulness, options_.ramp);
        const matrix<double> targets =
            options_.target == edit_target::counterparts ? goals.targets(options_.target_weight, mean) : matrix<double>();
        projection_options how{.target = targets, .rule = options_.rule, .padding = options_.padding};
        if (options_.per_code_strength) {
            how.strength = strength;
        }
        if (options_.target == edit_target::safe_mean) {
            how.center = mean;
        }
        now.projection = project_out(codes, harm, how).summary;
        merged_ = merge(merged_, harm);
        now.rank = harm.rank();
        now.decided_by = harm.chosen.decided_by;
        now.singular_values = harm.singular_values;
        now.merged_rank = merged_.rank();
        tell("project", 1, 1);
    }

    index_t tuning_steps() const {
        const double steps = static_cast<double>(options_.tuning_steps) * std::pow(options_.tuning_growth, static_cast<double>(round_ - 1));
        return static_cast<index_t>(std::min(steps, 1e15));  // whatever the growth, a number
    }

    void tune(round_report& now) {
        if constexpr (tunes_codebook<G>) {
            if (options_.tuning_steps == 0) {
                return;
            }
            const std::vector<double> still = judged(report_.harmful);
            auto loss = model_.tuning_loss(tuning_set{report_.harmful, report_.counterparts, safe_tokens_, still, report_.harmfulness, round_});
            constraint limits;
            for (const double q : report_.harmfulness) {
                limits.locked.push_back(q >= options_.lock_above);
            }
            for (const index_t k : options_.padding) {
                limits.locked[static_cast<std::size_t>(k)] = true;
            }
            if (options_.constrain_tuning) {
                limits.orthogonal_to = merged_;
            }
            limits.within = options_.tuning_radius;
            const auto codes = as_span_of_model();
            if (std::isfinite(limits.within)) {
                limits.anchor = to_double(matrix_view<storage>(codes));
            }
            adam_state state;
            matrix<double> gradient(codes.rows(), codes.cols());
            const index_t steps = tuning_steps();
            const index_t tail = std::max<index_t>(1, steps / 10);
            for (index_t step = 0; step < steps; ++step) {
                tell("tune", step, steps);
                map(gradient).setZero();
                const double value = loss(step, gradient);
                require<numeric_error>(std::isfinite(value), "self_improve", "a finite tuning loss", fmt::format("{} at step {}", value, step));
                adam_options adam = options_.tuning;
                const double left = 1.0 - static_cast<double>(step) / static_cast<double>(steps);
                adam.rate *= std::max(left, 1e-3);
                adam_update(codes, gradient, state, adam, limits);
                now.first_loss = step == 0 ? value : now.first_loss;
                now.last_loss += step >= steps - tail ? value / static_cast<double>(tail) : 0.0;
            }
            now.tuning_steps = steps;
            tell("tune", steps, steps);
        }
    }

    /// Completes a round: it counts from here on, and may be the best so far.
    void finish(round_report now, std::chrono::steady_clock::time_point start) {
        now.round = round_;
        now.self_unsafe = wilson(unsafe_count(), static_cast<index_t>(p_unsafe_.size()));
        if (options_.judge_sensitivity < 1 || options_.judge_specificity < 1) {
            now.corrected_unsafe = corrected_rate(now.self_unsafe, options_.judge_sensitivity, options_.judge_specificity);
        }
        now.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
        if (options_.on_round) {
            options_.on_round(now);
        }
        const double score = options_.score ? options_.score(now) : now.self_unsafe.value;
        require<numeric_error>(!std::isnan(score), "self_improve", "a score that is a number", "NaN");
        if (report_.rounds.empty() || score < best_score_) {
            best_score_ = score;
            best_ = copy();
            best_merged_ = merged_;
            report_.best_round = round_;
        }
        report_.rounds.push_back(std::move(now));
    }

    G& model_;
    J& judge_;
    const self_improve_options& options_;
    self_improve_report report_;
    matrix<storage> original_;
    matrix<storage> best_;
    subspace merged_;
    subspace best_merged_;
    double best_score_ = std::numeric_limits<double>::infinity();
    index_t round_ = 0;
    index_t tokens_per_picture_ = 0;
    token_grid unsafe_tokens_;
    token_grid safe_tokens_;
    token_grid round_harmful_;
    token_grid round_counterparts_;
    std::vector<double> p_unsafe_;
    std::map<std::vector<std::int32_t>, bool> known_pairs_;
};

}  // namespace detail

/// Lets a generator judge its own pictures and takes what is harmful out of its codebook, round by round.
///
/// A round: draw pictures of the unsafe prompts and judge them; find a safe counterpart of each unsafe one (repaired
/// tokens if the model redraws, else the picture of the rewritten prompt) and keep it if it is judged safe; fit the
/// subspace of the differences; project the codebook; tune it under the constraint if the model offers a loss; judge
/// again. The best round is kept, not the last. A generator or judge that throws, a judge that returns NaN, and a
/// cancel end the loop with the codebook at the best completed round; the report says so. Not thread-safe in `model`.
///
/// Errors: shape_error and value_error on options, before anything is drawn. Cost: the caller's model, plus O(n T d^2)
/// per round. Source: Safe-CB; the equations are reconstructed, strengths, targets, stop and roll-back rules our choice.
template <generator G, judge_of<G> J>
self_improve_report self_improve(G& model, J&& judge, const self_improve_options& options) {
    return detail::self_improver<G, std::remove_reference_t<J>>(model, judge, options).run();
}

}  // namespace isic
