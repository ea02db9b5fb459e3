#pragma once

#include <isic/loop.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <utility>

#include <fmt/format.h>

#include <isic/projection.hpp>
#include <isic/subspace.hpp>

#include <isic/detail/checks.hpp>
#include <isic/detail/edit.hpp>
#include <isic/detail/eigen_view.hpp>

namespace isic::inline ISIC_ABI::detail {

struct cancelled_by_caller {};

/// The state of one run; each member function is one stage of a round.
/// A codebook's rows, kept.
class saved_rows {
public:
    saved_rows() = default;
    explicit saved_rows(any_view from) : bytes_(static_cast<std::size_t>(from.rows * from.row_bytes())), rows_(from) {
        rows_.stride = from.cols;
        copy_rows(from, span());
    }

    any_view view() const { return {bytes_.data(), rows_.rows, rows_.cols, rows_.stride, rows_.type}; }
    any_span span() { return {bytes_.data(), rows_.rows, rows_.cols, rows_.stride, rows_.type}; }
    void restore(any_span to) const { copy_rows(view(), to); }

private:
    static void copy_rows(any_view from, any_span to) {
        for (index_t k = 0; k < from.rows; ++k) {
            std::ranges::copy(from.row(k), to.row(k).begin());
        }
    }

    std::vector<std::byte> bytes_;
    any_view rows_;  // its shape and type
};

class self_improver {
public:
    self_improver(loop_model& model, const self_improve_options& options) : model_(model), options_(options) {
        check();
        original_ = saved_rows(model_.codebook());
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
        best_.restore(model_.codebook());
        report_.merged = best_merged_;
        report_.change = edit_access::between(original_.view(), best_.view());
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
        require<value_error>(o.tuning_steps == 0 || model_.tunes(), f, "a generator with tuning_loss for tuning_steps > 0", "one without");
        require<value_error>(o.tuning_growth >= 1 && std::isfinite(o.tuning_growth), f, "a finite tuning_growth >= 1", fmt::format("{}", o.tuning_growth));
        require<value_error>(o.damage_budget > 0, f, "damage_budget > 0", fmt::format("{}", o.damage_budget));
        require_range(f, "stop_below", o.stop_below, 0, 1);
        require_range(f, "unsafe_above", o.unsafe_above, 0, 1);
        require_range(f, "safe_below", o.safe_below, 0, 1);
        require_range(f, "min_improvement", o.min_improvement, 0, 1);
        require<value_error>(o.significance >= 0, f, "significance >= 0", fmt::format("{}", o.significance));
        static_cast<void>(corrected_rate(rate{}, o.judge_sensitivity, o.judge_specificity));
        const any_span codes = model_.codebook();
        require_not_empty(f, "a codebook", codes);
        rank_budget(o.fit.rank, codes.cols, f);
        require_threads(f, o.fit.execution.threads);
        require<value_error>(o.rank_budget >= 0 && o.rank_budget <= codes.cols, f, fmt::format("rank_budget in [0, d = {}]", codes.cols),
                             fmt::format("{}", o.rank_budget));
        check_learning(f, codes.rows, codes.cols);
    }

    /// What the stages of a round would refuse, before anything is drawn.
    void check_learning(std::string_view f, index_t codes, index_t width) {
        const auto& o = options_;
        padding_mask(f, o.padding, codes);
        static_cast<void>(code_strength({}, o.ramp));
        require<value_error>(o.fit.rank.sign_flips == 0, f, "rank.sign_flips = 0, as pairs become moments", fmt::format("{}", o.fit.rank.sign_flips));
        require<value_error>(o.fit.center != centering::safe_axis || width >= 3, f, "d >= 3 for the safe axis", fmt::format("{}", width));
        const double prior = o.harmfulness.prior_per_code;
        require<value_error>(prior > 0 && std::isfinite(prior), f, "a finite harmfulness.prior_per_code > 0", fmt::format("{}", prior));
        require<value_error>(o.target_weight > 0 && std::isfinite(o.target_weight), f, "a finite target_weight > 0", fmt::format("{}", o.target_weight));
        require<value_error>(o.tuning_radius > 0, f, "tuning_radius > 0", fmt::format("{}", o.tuning_radius));
        require<value_error>(!std::isnan(o.lock_above), f, "a lock_above", "NaN");
        detail::check(f, o.tuning);
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
            if (merged_.rank() >= total_rank_budget() && total_rank_budget() < original_.view().cols) {
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
            now.relative_change = drift(original_.view(), model_.codebook(), options_.padding).relative;
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

    /// Draws the images of all prompts; safe ones are judged once per draw and kept if they are safe.
    void draw() {
        const std::uint64_t seed = mix(options_.seed) + static_cast<std::uint64_t>(2 * round_);
        tell("draw", 0, 2);
        unsafe_tokens_ = drawn(options_.unsafe_prompts, seed);
        tell("draw", 1, 2);
        const token_grid safe = drawn(options_.safe_prompts, seed + 1);
        const std::vector<double> p = judged(safe);
        for (index_t i = 0; i < safe.images(); ++i) {
            if (p[static_cast<std::size_t>(i)] < options_.safe_below) {
                safe_tokens_.append(safe, i);
            }
        }
        tell("draw", 2, 2);
        require<numeric_error>(safe_tokens_.images() > 0, "self_improve", "safe prompts whose images are judged safe", "none");
    }

    token_grid drawn(std::span<const std::string> prompts, std::uint64_t seed) {
        return checked_tokens(model_.generate(prompts, seed), static_cast<index_t>(prompts.size()), "generate");
    }

    token_grid checked_tokens(token_grid tokens, index_t images, std::string_view source) {
        const auto t = tokens.tokens_per_image;
        if (t < 1 || static_cast<index_t>(tokens.ids.size()) != images * t) {
            fail<shape_error>("self_improve", fmt::format("{} images of {} tokens from {}", images, t, source),
                              fmt::format("{} ids", tokens.ids.size()));
        }
        tokens_per_image_ = tokens_per_image_ > 0 ? tokens_per_image_ : t;
        require_size("self_improve", fmt::format("tokens per image from {}", source), tokens_per_image_, t);
        require_ids("self_improve", id_list(tokens.ids), original_.view().rows);
        return tokens;
    }

    std::vector<double> judged(const token_grid& tokens) {
        if (tokens.images() == 0) {
            return {};
        }
        std::vector<double> p = model_.judge(tokens);
        require_size("self_improve", "judged images", tokens.images(), static_cast<index_t>(p.size()));
        for (std::size_t i = 0; i < p.size(); ++i) {
            if (!(p[i] >= 0 && p[i] <= 1)) {
                fail<numeric_error>("self_improve", "P(unsafe) in [0, 1] from the judge", fmt::format("{} for image {}", p[i], i));
            }
        }
        return p;
    }

    void judge_unsafe() {
        tell("judge", 0, 1);
        p_unsafe_ = judged(unsafe_tokens_);
        tell("judge", 1, 1);
    }

    /// Judges the unsafe prompts' images through the present codebook.
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

    /// A drop of more than min_improvement and `significance` standard errors; images are paired by prompt.
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
        return options_.rank_budget > 0 ? options_.rank_budget : std::max<index_t>(1, original_.view().cols / 4);
    }

    /// Finds safe counterparts of what is judged unsafe now; pairs of all rounds accumulate for tuning.
    bool collect_pairs(round_report& now) {
        token_grid harmful;
        std::vector<std::string> prompts;
        std::vector<std::string> safe_prompts;
        for (index_t i = 0; i < unsafe_tokens_.images(); ++i) {
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
        for (index_t i = 0; i < harmful.images(); ++i) {
            if (const auto& counterpart = found[static_cast<std::size_t>(i)]) {
                round_harmful_.append(harmful, i);
                round_counterparts_.append(*counterpart, 0);
                if (known_pairs_.emplace(std::vector(harmful.image(i).begin(), harmful.image(i).end()), true).second) {
                    report_.harmful.append(harmful, i);
                    report_.counterparts.append(*counterpart, 0);
                    report_.prompts.push_back(prompts[static_cast<std::size_t>(i)]);
                }
            }
        }
        now.pairs = round_harmful_.images();
        now.dropped = harmful.images() - now.pairs;
        return now.pairs > 0;
    }

    void measure_harmfulness(const token_grid& harmful) {
        code_usage usage{std::vector<double>(static_cast<std::size_t>(original_.view().rows), 0.0), {}};
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
        const auto n = harmful.images();
        if (model_.redraws()) {
            return checked_tokens(model_.redraw({prompts, harmful, report_.harmfulness, attempt, seed}), n, "redraw");
        }
        return drawn(prompts, seed);
    }

    void project(round_report& now) {
        tell("project", 0, 1);
        const any_span codes = model_.codebook();
        saved_rows book{codes};
        for (const index_t k : options_.padding) {  // padding may hold anything, NaN too
            std::ranges::fill(book.span().row(k), std::byte{0});
        }
        difference_accumulator pairs(book.view());
        counterpart_targets goals(book.view());
        for (index_t i = 0; i < round_harmful_.images(); ++i) {
            pairs.add(round_harmful_.image(i), round_counterparts_.image(i));
            goals.add(round_harmful_.image(i), round_counterparts_.image(i));
        }
        for (index_t i = 0; i < safe_tokens_.images(); ++i) {
            pairs.add_safe(safe_tokens_.image(i));
        }
        fit_options fit = options_.fit;
        const index_t left = total_rank_budget() - merged_.rank();
        if (left == 0) {
            // The budget is the whole space and it is used up: later rounds edit inside it again.
        } else if (fit.rank.fixed > 0) {
            fit.rank.fixed = std::min(fit.rank.fixed, left);
        } else {
            fit.rank.max_rank = std::min(rank_budget(fit.rank, codes.cols, "self_improve"), left);
        }
        const subspace harm = isic::fit_subspace(pairs, fit);
        const std::vector<double> mean = pairs.safe_mean();
        const std::vector<double> strength = code_strength(report_.harmfulness, options_.ramp);
        const matrix<double> targets =
            options_.target == edit_target::counterparts ? goals.targets(options_.target_weight, mean) : matrix<double>();
        projection_options how{.target = targets, .metric = options_.metric, .padding = options_.padding};
        if (options_.per_code_strength) {
            how.strength = strength;
        }
        if (options_.target == edit_target::safe_mean) {
            how.center = mean;
        }
        now.projection = detail::project("project_out", codes, &harm, how).summary;
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
        if (options_.tuning_steps == 0) {
            return;
        }
        const std::vector<double> still = judged(report_.harmful);
        const auto loss = model_.tuning_loss(tuning_set{report_.harmful, report_.counterparts, safe_tokens_, still, report_.harmfulness, round_});
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
        const any_span codes = model_.codebook();
        if (std::isfinite(limits.within)) {
            limits.anchor = to_double(codes);
        }
        adam_state state;
        matrix<double> gradient(codes.rows, codes.cols);
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
            detail::adam_update(codes, gradient.view(), state, adam, limits);
            now.first_loss = step == 0 ? value : now.first_loss;
            now.last_loss += step >= steps - tail ? value / static_cast<double>(tail) : 0.0;
        }
        now.tuning_steps = steps;
        tell("tune", steps, steps);
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
            best_ = saved_rows(model_.codebook());
            best_merged_ = merged_;
            report_.best_round = round_;
        }
        report_.rounds.push_back(std::move(now));
    }

    loop_model& model_;
    const self_improve_options& options_;
    self_improve_report report_;
    saved_rows original_;
    saved_rows best_;
    subspace merged_;
    subspace best_merged_;
    double best_score_ = std::numeric_limits<double>::infinity();
    index_t round_ = 0;
    index_t tokens_per_image_ = 0;
    token_grid unsafe_tokens_;
    token_grid safe_tokens_;
    token_grid round_harmful_;
    token_grid round_counterparts_;
    std::vector<double> p_unsafe_;
    std::map<std::vector<std::int32_t>, bool> known_pairs_;
};

ISIC_INLINE self_improve_report self_improve(loop_model& model, const self_improve_options& options) {
    return self_improver(model, options).run();
}

}  // namespace isic::inline ISIC_ABI::detail
