// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <isic/harmfulness.hpp>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include <fmt/format.h>

#include <isic/detail/checks.hpp>
#include <isic/detail/eigen_view.hpp>

namespace isic::inline ISIC_ABI {

ISIC_INLINE code_scores code_harmfulness(const code_usage& usage, const harmfulness_options& options) {
    const auto codes = static_cast<index_t>(usage.harmful.size());
    detail::require<shape_error>(codes > 0, "code_harmfulness", "counts of at least one code", "none");
    detail::require_size("code_harmfulness", "safe counts", codes, static_cast<index_t>(usage.safe.size()));
    detail::require<value_error>(options.prior_per_code > 0 && std::isfinite(options.prior_per_code),
                                 "code_harmfulness", "a finite prior_per_code > 0",
                                 fmt::format("{}", options.prior_per_code));
    detail::require_counts("code_harmfulness", usage.harmful);
    detail::require_counts("code_harmfulness", usage.safe);
    const double total_h = std::accumulate(usage.harmful.begin(), usage.harmful.end(), 0.0);
    const double total_s = std::accumulate(usage.safe.begin(), usage.safe.end(), 0.0);
    detail::require<numeric_error>(total_h > 0 && total_s > 0, "code_harmfulness", "both harmful and safe tokens",
                                   fmt::format("{} harmful and {} safe", total_h, total_s));
    const double prior = 2 * options.prior_per_code * static_cast<double>(codes);
    const double prior_h = prior * (total_h / (total_h + total_s));
    const double prior_s = prior * (total_s / (total_h + total_s));
    // Half a count per code: unused codes keep a positive share.
    const double pool = total_h + total_s + 0.5 * static_cast<double>(codes);
    code_scores out;
    for (std::size_t k = 0; k < usage.harmful.size(); ++k) {
        const double pi = (usage.harmful[k] + usage.safe[k] + 0.5) / pool;
        const double h = usage.harmful[k] + prior_h * pi;
        const double s = usage.safe[k] + prior_s * pi;
        const double p_h = h / (total_h + prior_h);
        const double p_s = s / (total_s + prior_s);
        out.p_harmful.push_back(p_h);
        out.p_safe.push_back(p_s);
        out.harmfulness.push_back(p_h / (p_h + p_s));
        const double log_odds = std::log(h / (total_h + prior_h - h)) - std::log(s / (total_s + prior_s - s));
        out.z.push_back(codes > 1 ? log_odds / std::sqrt(1 / h + 1 / s) : 0.0);
    }
    return out;
}

ISIC_INLINE std::vector<double> code_strength(std::span<const double> harmfulness, const ramp_options& ramp) {
    detail::require<value_error>(ramp.high > ramp.low && std::isfinite(ramp.high - ramp.low), "code_strength",
                                 "finite high > low", fmt::format("low {} and high {}", ramp.low, ramp.high));
    detail::require_shares("code_strength", "harmfulness", harmfulness, static_cast<index_t>(harmfulness.size()));
    std::vector<double> out;
    for (const double q : harmfulness) {
        out.push_back(std::clamp((q - ramp.low) / (ramp.high - ramp.low), 0.0, 1.0));
    }
    return out;
}

ISIC_INLINE std::vector<double> excess_strength(const code_scores& scores) {
    detail::require_size("excess_strength", "values of p_safe", static_cast<index_t>(scores.p_harmful.size()),
                         static_cast<index_t>(scores.p_safe.size()));
    std::vector<double> out;
    for (std::size_t k = 0; k < scores.p_harmful.size(); ++k) {
        out.push_back(scores.p_harmful[k] > 0 ? std::max(0.0, 1 - scores.p_safe[k] / scores.p_harmful[k]) : 0.0);
    }
    return out;
}

ISIC_INLINE std::vector<double> gate_strength(std::span<const double> score, double threshold) {
    detail::require<numeric_error>(
        !std::isnan(threshold) && std::ranges::none_of(score, [](double q) { return std::isnan(q); }), "gate_strength",
        "a threshold and scores that are numbers", "NaN");
    std::vector<double> out;
    for (const double q : score) {
        out.push_back(q > threshold ? 1.0 : 0.0);
    }
    return out;
}

ISIC_INLINE counterpart_targets::counterpart_targets(any_view codes) : codes_(codes), sums_(codes.rows, codes.cols) {
    detail::require_not_empty("counterpart_targets", "a codebook", codes);
    detail::require_finite("counterpart_targets", "the codebook", codes);
    counts_.assign(static_cast<std::size_t>(codes.rows), 0.0);
    safe_sum_.assign(static_cast<std::size_t>(codes.cols), 0.0);
}

ISIC_INLINE void counterpart_targets::add_ids(const detail::id_list& harmful, const detail::id_list& safe) {
    detail::require_size("counterpart_targets::add", "safe ids", harmful.size(), safe.size());
    detail::require_ids("counterpart_targets::add", harmful, codes_.rows);
    detail::require_ids("counterpart_targets::add", safe, codes_.rows);
    visit(codes_, [&](auto book) {
        for (index_t t = 0; t < harmful.size(); ++t) {
            counts_[static_cast<std::size_t>(harmful[t])] += 1;
            positions_ += 1;
            for (index_t j = 0; j < book.cols(); ++j) {
                const double x = static_cast<double>(book(safe[t], j));
                sums_(harmful[t], j) += x;
                safe_sum_[static_cast<std::size_t>(j)] += x;
            }
        }
    });
}

ISIC_INLINE void counterpart_targets::merge(const counterpart_targets& other) {
    detail::require_size("counterpart_targets::merge", "codes", codes_.rows, other.codes_.rows);
    detail::require_size("counterpart_targets::merge", "columns", codes_.cols, other.codes_.cols);
    detail::map(sums_) += detail::map(other.sums_);
    std::ranges::transform(counts_, other.counts_, counts_.begin(), std::plus{});
    std::ranges::transform(safe_sum_, other.safe_sum_, safe_sum_.begin(), std::plus{});
    positions_ += other.positions_;
}

ISIC_INLINE matrix<double> counterpart_targets::targets(double lambda, std::span<const double> prior) const {
    detail::require<value_error>(lambda > 0 && std::isfinite(lambda), "counterpart_targets::targets",
                                 "a finite lambda > 0", fmt::format("{}", lambda));
    if (!prior.empty()) {
        detail::require_size("counterpart_targets::targets", "values in the prior", codes_.cols,
                             static_cast<index_t>(prior.size()));
        detail::require_finite("counterpart_targets::targets", "the prior", prior);
    }
    detail::require<numeric_error>(positions_ > 0 || !prior.empty(), "counterpart_targets::targets",
                                   "a pair or a prior", "neither");
    matrix<double> out = sums_;
    for (index_t k = 0; k < out.rows(); ++k) {
        const double n = counts_[static_cast<std::size_t>(k)];
        for (index_t j = 0; j < out.cols(); ++j) {
            const auto column = static_cast<std::size_t>(j);
            const double mu = prior.empty() ? safe_sum_[column] / positions_ : prior[column];
            out(k, j) = (out(k, j) + lambda * mu) / (n + lambda);
        }
    }
    return out;
}

}  // namespace isic::inline ISIC_ABI
