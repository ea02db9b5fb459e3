// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <isic/loop.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <optional>
#include <tuple>
#include <utility>

#include <fmt/format.h>

#include <isic/projection.hpp>
#include <isic/subspace.hpp>

#include <isic/detail/checks.hpp>
#include <isic/detail/edit.hpp>
#include <isic/detail/eigen_view.hpp>

namespace isic::inline ISIC_ABI::detail {

/// Thrown when on_progress returns false.
struct cancelled_by_caller {};

/// A copy of a codebook's rows, without the gaps between them.
class saved_rows {
public:
    saved_rows() = default;
    explicit saved_rows(any_view from) : bytes_(static_cast<std::size_t>(from.rows * from.row_bytes())), shape_(from) {
        shape_.stride = from.cols;
        copy_rows(from, span());
    }

    any_view view() const { return {bytes_.data(), shape_.rows, shape_.cols, shape_.stride, shape_.type}; }
    any_span span() { return {bytes_.data(), shape_.rows, shape_.cols, shape_.stride, shape_.type}; }
    void restore(any_span to) const { copy_rows(view(), to); }

private:
    static void copy_rows(any_view from, any_span to) {
        for (index_t k = 0; k < from.rows; ++k) {
            std::ranges::copy(from.row(k), to.row(k).begin());
        }
    }

    std::vector<std::byte> bytes_;
    any_view shape_;  // rows, columns and type only; its pointer is that of the source
};

/// Decides from the reports of completed rounds when the loop stops.
class stop_rule {
public:
    explicit stop_rule(const stop_options& options) : options_(options) {}

    /// The reason not to start a round; none if it should start.
    std::optional<stop_reason> before_round(index_t round, const round_report& last, bool rank_left) const {
        const bool all_safe = last.self_unsafe.hits == 0;
        if (round > options_.max_rounds) {
            return is_below(last) ? stop_reason::below_target : stop_reason::max_rounds;
        }
        if (is_below(last) && !(round == 1 && all_safe)) {
            return stop_reason::below_target;
        }
        if (all_safe) {
            return stop_reason::nothing_unsafe;
        }
        if (!rank_left) {
            return stop_reason::rank_budget;
        }
        return std::nullopt;
    }

    /// The reason to stop after a round; none if another may follow. Counts the rounds in a row without improvement.
    std::optional<stop_reason> after_round(const round_report& now, bool improved) {
        missed_ = improved ? 0 : missed_ + 1;
        if (missed_ >= options_.patience && !is_below(now)) {
            return stop_reason::no_improvement;
        }
        return std::nullopt;
    }

    /// True if the codebook of a round is too far from the original.
    bool exceeds_damage_budget(const round_report& now) const { return now.relative_change > options_.damage_budget; }

    /// True if the judged rate fell by more than min_improvement and by more than `significance` standard errors. The
    /// arguments have one entry per unsafe prompt, true for an unsafe image: the standard error is that of paired images.
    bool is_improvement(const std::vector<bool>& before, const std::vector<bool>& after) const {
        double better = 0;
        double worse = 0;
        for (std::size_t i = 0; i < after.size(); ++i) {
            better += before[i] && !after[i] ? 1 : 0;
            worse += !before[i] && after[i] ? 1 : 0;
        }
        const double n = static_cast<double>(after.size());
        return (better - worse) / n >
               std::max(options_.min_improvement, options_.significance * std::sqrt(better + worse) / n);
    }

private:
    bool is_below(const round_report& report) const { return report.self_unsafe.value < options_.below; }

    const stop_options& options_;
    index_t missed_ = 0;  // rounds in a row without improvement
};

/// The state of one run. Each member function is one stage of a round.
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
            report_.message = "an exception that is not a std::exception";
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
        require<value_error>(o.stop.max_rounds >= 0, f, "stop.max_rounds >= 0", fmt::format("{}", o.stop.max_rounds));
        require<value_error>(o.stop.patience >= 1, f, "stop.patience >= 1", fmt::format("{}", o.stop.patience));
        require<value_error>(o.judging.counterpart_attempts >= 1, f, "judging.counterpart_attempts >= 1",
                             fmt::format("{}", o.judging.counterpart_attempts));
        require<value_error>(o.tuning.steps >= 0, f, "tuning.steps >= 0", fmt::format("{}", o.tuning.steps));
        require<value_error>(o.tuning.steps == 0 || model_.tunes(), f,
                             "a generator with tuning_loss for tuning.steps > 0", "one without");
        require<value_error>(o.tuning.growth >= 1 && std::isfinite(o.tuning.growth), f, "a finite tuning.growth >= 1",
                             fmt::format("{}", o.tuning.growth));
        require<value_error>(o.stop.damage_budget > 0, f, "stop.damage_budget > 0",
                             fmt::format("{}", o.stop.damage_budget));
        require_range(f, "stop.below", o.stop.below, 0, 1);
        require_range(f, "judging.unsafe_above", o.judging.unsafe_above, 0, 1);
        require_range(f, "judging.safe_below", o.judging.safe_below, 0, 1);
        require_range(f, "stop.min_improvement", o.stop.min_improvement, 0, 1);
        require<value_error>(o.stop.significance >= 0, f, "stop.significance >= 0",
                             fmt::format("{}", o.stop.significance));
        check_error_rates(f, o.judging);
        const any_span codes = model_.codebook();
        require_not_empty(f, "a codebook", codes);
        rank_budget(o.fit.rank, codes.cols, f, "fit.rank.");
        require_threads(f, o.fit.execution.threads);
        require<value_error>(o.rank_budget >= 0 && o.rank_budget <= codes.cols, f,
                             fmt::format("rank_budget in [0, d = {}]", codes.cols), fmt::format("{}", o.rank_budget));
        check_learning(f, codes.rows, codes.cols);
    }

    static void check_error_rates(std::string_view f, const judging_options& judging) {
        const auto [sensitivity, specificity] = std::pair(judging.sensitivity, judging.specificity);
        require_range(f, "judging.sensitivity", sensitivity, 0, 1);
        require_range(f, "judging.specificity", specificity, 0, 1);
        require<value_error>(sensitivity + specificity > 1, f, "judging.sensitivity + judging.specificity > 1",
                             fmt::format("{} + {}: the judge does not discriminate", sensitivity, specificity));
    }

    /// Checks the options of the later stages, so that a wrong one throws before the first image is drawn.
    void check_learning(std::string_view f, index_t codes, index_t width) {
        const auto& [fit, editing, tuning] = std::tie(options_.fit, options_.editing, options_.tuning);
        padding_mask(f, editing.padding, codes);
        require<value_error>(fit.rank.sign_flips == 0, f, "fit.rank.sign_flips = 0, because pairs are kept as moments",
                             fmt::format("{}", fit.rank.sign_flips));
        require<value_error>(fit.center != centering::safe_axis || width >= 3, f, "d >= 3 for the safe axis",
                             fmt::format("{}", width));
        const auto [low, high] = editing.ramp;
        require<value_error>(high > low && std::isfinite(high - low), f, "finite editing.ramp.high > editing.ramp.low",
                             fmt::format("{} and {}", high, low));
        const double prior = editing.harmfulness.prior_per_code;
        require<value_error>(prior > 0 && std::isfinite(prior), f, "a finite editing.harmfulness.prior_per_code > 0",
                             fmt::format("{}", prior));
        require<value_error>(editing.target_weight > 0 && std::isfinite(editing.target_weight), f,
                             "a finite editing.target_weight > 0", fmt::format("{}", editing.target_weight));
        require<value_error>(tuning.radius > 0, f, "tuning.radius > 0", fmt::format("{}", tuning.radius));
        require<value_error>(!std::isnan(tuning.lock_above), f, "tuning.lock_above to be a number", "NaN");
        detail::check(f, tuning.adam, "tuning.adam.");
    }

    void report_progress(std::string_view stage, index_t done, index_t total) {
        if (options_.on_progress && !options_.on_progress({round_, stage, done, total})) {
            throw cancelled_by_caller{};
        }
    }

    stop_reason rounds() {
        const auto start = std::chrono::steady_clock::now();
        draw();
        judge_unsafe();
        finish(round_report{}, start);
        stop_rule rule(options_.stop);
        for (round_ = 1;; ++round_) {
            if (const auto reason = rule.before_round(round_, report_.rounds.back(), rank_left())) {
                return *reason;
            }
            if (const auto reason = one_round(rule)) {
                return *reason;
            }
        }
    }

    /// Runs one round. Returns the reason if the loop ends with it.
    std::optional<stop_reason> one_round(stop_rule& rule) {
        const auto start = std::chrono::steady_clock::now();
        round_report now;
        if (round_ > 1 && options_.resample) {
            draw();
            judge_unsafe();
            if (unsafe_count() == 0) {
                return stop_reason::nothing_unsafe;
            }
        }
        const std::vector<bool> unsafe_before = is_unsafe();
        if (!collect_pairs(now)) {
            return stop_reason::no_counterparts;
        }
        project(now);
        tune(now);
        now.relative_change = drift(original_.view(), model_.codebook(), options_.editing.padding).relative;
        if (rule.exceeds_damage_budget(now)) {
            return stop_reason::damage_budget;
        }
        judge_unsafe();
        const bool improved = rule.is_improvement(unsafe_before, is_unsafe());
        finish(std::move(now), start);
        return rule.after_round(report_.rounds.back(), improved);
    }

    /// Draws the images of all prompts. Images of safe prompts are judged once and kept if they are safe.
    void draw() {
        const std::uint64_t seed = mix(options_.seed) + static_cast<std::uint64_t>(2 * round_);
        report_progress("draw", 0, 2);
        unsafe_tokens_ = drawn(options_.unsafe_prompts, seed);
        report_progress("draw", 1, 2);
        const token_grid safe = drawn(options_.safe_prompts, seed + 1);
        const std::vector<double> p = judged(safe);
        for (index_t i = 0; i < safe.images(); ++i) {
            if (p[static_cast<std::size_t>(i)] < options_.judging.safe_below) {
                safe_tokens_.append(safe, i);
            }
        }
        report_progress("draw", 2, 2);
        require<numeric_error>(safe_tokens_.images() > 0, "self_improve", "images of safe prompts that are judged safe",
                               "none");
    }

    token_grid drawn(std::span<const std::string> prompts, std::uint64_t seed) {
        return checked_tokens(model_.generate(prompts, seed), static_cast<index_t>(prompts.size()), "generate");
    }

    /// Token ids from the generator, with shape and range checked.
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

    /// P(unsafe) of images through the current codebook, [images], checked.
    std::vector<double> judged(const token_grid& tokens) {
        if (tokens.images() == 0) {
            return {};
        }
        std::vector<double> p = model_.judge(tokens);
        require_size("self_improve", "judged images", tokens.images(), static_cast<index_t>(p.size()));
        for (std::size_t i = 0; i < p.size(); ++i) {
            if (!(p[i] >= 0 && p[i] <= 1)) {
                fail<numeric_error>("self_improve", "P(unsafe) in [0, 1] from the judge",
                                    fmt::format("{} for image {}", p[i], i));
            }
        }
        return p;
    }

    /// Judges the images of the unsafe prompts through the current codebook.
    void judge_unsafe() {
        report_progress("judge", 0, 1);
        p_unsafe_ = judged(unsafe_tokens_);
        report_progress("judge", 1, 1);
    }

    std::vector<bool> is_unsafe() const {
        std::vector<bool> out;
        for (const double p : p_unsafe_) {
            out.push_back(p > options_.judging.unsafe_above);
        }
        return out;
    }
    index_t unsafe_count() const {
        return std::ranges::count_if(p_unsafe_, [&](double p) { return p > options_.judging.unsafe_above; });
    }

    index_t total_rank_budget() const {
        return options_.rank_budget > 0 ? options_.rank_budget : std::max<index_t>(1, original_.view().cols / 4);
    }

    /// True if another round may add a direction, or if the budget is the whole space, in which rounds may edit again.
    bool rank_left() const {
        return merged_.rank() < total_rank_budget() || total_rank_budget() >= original_.view().cols;
    }

    /// Finds safe counterparts of the images that are judged unsafe. Pairs of all rounds accumulate for tuning. Returns
    /// false if no image has a counterpart.
    bool collect_pairs(round_report& now) {
        token_grid harmful;
        std::vector<std::string> prompts;
        std::vector<std::string> safe_prompts;
        for (index_t i = 0; i < unsafe_tokens_.images(); ++i) {
            if (p_unsafe_[static_cast<std::size_t>(i)] > options_.judging.unsafe_above) {
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

    /// Estimates the harmfulness of each code from its use in unsafe and in safe images.
    void measure_harmfulness(const token_grid& harmful) {
        code_usage usage{std::vector<double>(static_cast<std::size_t>(original_.view().rows), 0.0), {}};
        usage.safe = usage.harmful;
        for (const auto id : harmful.ids) {
            usage.harmful[static_cast<std::size_t>(id)] += 1;
        }
        for (const auto id : safe_tokens_.ids) {
            usage.safe[static_cast<std::size_t>(id)] += 1;
        }
        report_.harmfulness = code_harmfulness(usage, options_.editing.harmfulness).harmfulness;
    }

    /// Draws counterparts until each is judged safe or the attempts are used up. Empty for an image without one.
    std::vector<std::optional<token_grid>> counterparts(const token_grid& harmful,
                                                        const std::vector<std::string>& prompts) {
        std::vector<std::optional<token_grid>> out(prompts.size());
        std::vector<index_t> pending(prompts.size());
        std::iota(pending.begin(), pending.end(), index_t{0});
        for (index_t attempt = 0; attempt < options_.judging.counterpart_attempts && !pending.empty(); ++attempt) {
            report_progress("pair", attempt, options_.judging.counterpart_attempts);
            token_grid part;
            std::vector<std::string> part_prompts;
            for (const index_t i : pending) {
                part.append(harmful, i);
                part_prompts.push_back(prompts[static_cast<std::size_t>(i)]);
            }
            const token_grid fresh = counterpart_attempt(part, part_prompts, attempt);
            const std::vector<double> p = judged(fresh);
            std::vector<index_t> unsafe;
            for (std::size_t j = 0; j < pending.size(); ++j) {
                if (p[j] < options_.judging.safe_below) {
                    out[static_cast<std::size_t>(pending[j])].emplace();
                    out[static_cast<std::size_t>(pending[j])]->append(fresh, static_cast<index_t>(j));
                } else {
                    unsafe.push_back(pending[j]);
                }
            }
            pending = std::move(unsafe);
        }
        report_progress("pair", options_.judging.counterpart_attempts, options_.judging.counterpart_attempts);
        return out;
    }

    /// One counterpart of each image: redrawn tokens, or a new image of the rewritten prompt.
    token_grid counterpart_attempt(const token_grid& harmful, const std::vector<std::string>& prompts,
                                   index_t attempt) {
        const std::uint64_t seed = mix(options_.seed + 77) + static_cast<std::uint64_t>(1000 * round_ + attempt);
        const auto n = harmful.images();
        if (model_.redraws()) {
            return checked_tokens(model_.redraw({prompts, harmful, report_.harmfulness, attempt, seed}), n, "redraw");
        }
        return drawn(prompts, seed);
    }

    /// Fits the subspace of this round's pairs and moves the codebook out of it.
    void project(round_report& now) {
        report_progress("project", 0, 1);
        const any_span codes = model_.codebook();
        saved_rows codes_of_pairs = without_padding(codes);
        const difference_accumulator pairs = moments_of_pairs(codes_of_pairs.view());
        const subspace harm = isic::fit_subspace(pairs, fit_within_budget(codes.cols));
        now.projection =
            move_codes(codes, harm, targets_of_pairs(codes_of_pairs.view(), pairs.safe_mean()), pairs.safe_mean());
        merged_ = merge(merged_, harm);
        now.rank = harm.rank();
        now.decided_by = harm.chosen.decided_by;
        now.singular_values = harm.singular_values;
        now.merged_rank = merged_.rank();
        report_progress("project", 1, 1);
    }

    /// A copy of the codebook with zeros in the padding rows, which may hold any bytes, NaN included.
    saved_rows without_padding(any_view codes) const {
        saved_rows out(codes);
        for (const index_t k : options_.editing.padding) {
            std::ranges::fill(out.span().row(k), std::byte{0});
        }
        return out;
    }

    /// Moments of the differences between this round's unsafe images and their counterparts.
    difference_accumulator moments_of_pairs(any_view codes) const {
        difference_accumulator out(codes);
        for (index_t i = 0; i < round_harmful_.images(); ++i) {
            out.add(round_harmful_.image(i), round_counterparts_.image(i));
        }
        for (index_t i = 0; i < safe_tokens_.images(); ++i) {
            out.add_safe(safe_tokens_.image(i));
        }
        return out;
    }

    /// Targets of the codes, [K x d], from this round's counterparts; empty unless codes move to their counterparts.
    matrix<double> targets_of_pairs(any_view codes, const std::vector<double>& safe_mean) const {
        if (options_.editing.target != edit_target::counterparts) {
            return {};
        }
        counterpart_targets sums(codes);
        for (index_t i = 0; i < round_harmful_.images(); ++i) {
            sums.add(round_harmful_.image(i), round_counterparts_.image(i));
        }
        return sums.targets(options_.editing.target_weight, safe_mean);
    }

    /// Options of this round's fit: its rank is at most the rank that the budget leaves.
    fit_options fit_within_budget(index_t width) const {
        fit_options fit = options_.fit;
        const index_t left = total_rank_budget() - merged_.rank();
        if (left == 0) {
            // The budget is the whole space and is used up: later rounds edit in the same space again.
        } else if (fit.rank.fixed > 0) {
            fit.rank.fixed = std::min(fit.rank.fixed, left);
        } else {
            fit.rank.max_rank = std::min(rank_budget(fit.rank, width, "self_improve"), left);
        }
        return fit;
    }

    edit_summary move_codes(any_span codes, const subspace& harm, const matrix<double>& targets,
                            const std::vector<double>& safe_mean) const {
        const editing_options& editing = options_.editing;
        const std::vector<double> strength = code_strength(report_.harmfulness, editing.ramp);
        projection_options how{.target = targets, .metric = editing.metric, .padding = editing.padding};
        if (editing.per_code_strength) {
            how.strength = strength;
        }
        if (editing.target == edit_target::safe_mean) {
            how.center = safe_mean;
        }
        return detail::project("project_out", codes, &harm, how).summary;
    }

    index_t tuning_steps() const {
        const tuning_options& tuning = options_.tuning;
        const double steps =
            static_cast<double>(tuning.steps) * std::pow(tuning.growth, static_cast<double>(round_ - 1));
        return static_cast<index_t>(std::min(steps, 1e15));  // keeps the conversion defined for any growth
    }

    /// Tunes the codebook by Adam on the generator's loss.
    void tune(round_report& now) {
        if (options_.tuning.steps == 0) {
            return;
        }
        const std::vector<double> still_unsafe = judged(report_.harmful);
        const auto loss = model_.tuning_loss(
            tuning_set{report_.harmful, report_.counterparts, safe_tokens_, still_unsafe, report_.harmfulness, round_});
        const any_span codes = model_.codebook();
        const constraint limits = tuning_limits(codes);
        adam_state state;
        matrix<double> gradient(codes.rows, codes.cols);
        const index_t steps = tuning_steps();
        const index_t tail = std::max<index_t>(1, steps / 10);
        for (index_t step = 0; step < steps; ++step) {
            report_progress("tune", step, steps);
            map(gradient).setZero();
            const double value = loss(step, gradient);
            require<numeric_error>(std::isfinite(value), "self_improve", "a finite tuning loss",
                                   fmt::format("{} at step {}", value, step));
            adam_options adam = options_.tuning.adam;
            const double left = 1.0 - static_cast<double>(step) / static_cast<double>(steps);
            adam.rate *= std::max(left, 1e-3);
            detail::adam_update(codes, gradient.view(), state, adam, limits);
            now.first_loss = step == 0 ? value : now.first_loss;
            now.last_loss += step >= steps - tail ? value / static_cast<double>(tail) : 0.0;
        }
        now.tuning_steps = steps;
        report_progress("tune", steps, steps);
    }

    /// The constraint of this round's tuning: locked codes and padding, the merged subspace, the radius.
    constraint tuning_limits(any_view codes) const {
        const tuning_options& tuning = options_.tuning;
        constraint limits;
        for (const double q : report_.harmfulness) {
            limits.locked.push_back(q >= tuning.lock_above);
        }
        for (const index_t k : options_.editing.padding) {
            limits.locked[static_cast<std::size_t>(k)] = true;
        }
        if (tuning.constrained) {
            limits.orthogonal_to = merged_;
        }
        limits.within = tuning.radius;
        if (std::isfinite(limits.within)) {
            limits.anchor = to_double(codes);
        }
        return limits;
    }

    /// Completes a round: adds its report, and saves the codebook if its score is the lowest so far.
    void finish(round_report now, std::chrono::steady_clock::time_point start) {
        now.round = round_;
        now.self_unsafe = wilson(unsafe_count(), static_cast<index_t>(p_unsafe_.size()));
        const auto& [sensitivity, specificity] = std::tie(options_.judging.sensitivity, options_.judging.specificity);
        if (sensitivity < 1 || specificity < 1) {
            now.corrected_unsafe = corrected_rate(now.self_unsafe, sensitivity, specificity);
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
