/// \file
/// From usage counts to per-code harmfulness, edit strength, and targets drawn from safe counterparts.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <span>
#include <vector>

#include <isic/differences.hpp>
#include <isic/matrix.hpp>

namespace isic {

/// The prior of `code_harmfulness`.
struct harmfulness_options {
    double prior_per_code = 0.5;  ///< Dirichlet mass A / K, spread by pooled use; > 0
};

/// How exclusively each code is used by harmful pictures, and how sure that is; [K] each.
struct code_scores {
    std::vector<double> harmfulness;  ///< q = p_h / (p_h + p_s) in [0, 1]; 0.5 for an unused code
    std::vector<double> z;            ///< log-odds over its standard error: evidence, not exclusivity
    std::vector<double> p_harmful;    ///< smoothed share of the code in harmful pictures
    std::vector<double> p_safe;       ///< smoothed share of the code in safe pictures
};

/// q_k = p_h / (p_h + p_s), p_h = (n_h + A_h pi_k) / (N_h + A_h), p_s alike; pi = pooled share.
///
/// The prior's mass 2 A, A = prior_per_code K, is shared out in proportion to the tokens: A_h = 2 A N_h / (N_h + N_s).
/// With A on both sides an unused code would look harmful wherever safe pictures are in the majority. z is the log-odds
/// z-score with the same prior (Monroe, Colaresi and Quinn 2008). Use q for strengths: z grows with counts alone.
/// Cost O(K). Errors: shape_error if the lengths differ or are zero; value_error on a negative or infinite count, or
/// prior <= 0; numeric_error if one side has no counts at all.
/// Source: our choice; the prior form follows "fightin' words".
inline code_scores code_harmfulness(const code_usage& usage, const harmfulness_options& options = {}) {
    const auto codes = static_cast<index_t>(usage.harmful.size());
    detail::require<shape_error>(codes > 0, "code_harmfulness", "counts of at least one code", "none");
    detail::require_size("code_harmfulness", "safe counts", codes, static_cast<index_t>(usage.safe.size()));
    detail::require<value_error>(options.prior_per_code > 0 && std::isfinite(options.prior_per_code), "code_harmfulness",
                                 "prior_per_code > 0", fmt::format("{}", options.prior_per_code));
    detail::require_counts("code_harmfulness", usage.harmful);
    detail::require_counts("code_harmfulness", usage.safe);
    const double total_h = std::accumulate(usage.harmful.begin(), usage.harmful.end(), 0.0);
    const double total_s = std::accumulate(usage.safe.begin(), usage.safe.end(), 0.0);
    detail::require<numeric_error>(total_h > 0 && total_s > 0, "code_harmfulness", "both harmful and safe tokens",
                                   fmt::format("{} harmful and {} safe", total_h, total_s));
    const double prior = 2 * options.prior_per_code * static_cast<double>(codes);
    const double prior_h = prior * (total_h / (total_h + total_s));
    const double prior_s = prior * (total_s / (total_h + total_s));
    // Every code gets half a count in the pool, so that unused ones keep a share.
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

/// Where the ramp of `code_strength` starts and ends.
struct ramp_options {
    double low = 0.6;   ///< harmfulness at which a code begins to move
    double high = 0.9;  ///< harmfulness from which it moves fully; high > low
};

/// Ramp: s_k = clamp((q_k - low) / (high - low), 0, 1), [K]. Errors: value_error on q outside [0, 1] or high <= low.
inline std::vector<double> code_strength(std::span<const double> harmfulness, const ramp_options& ramp = {}) {
    detail::require<value_error>(ramp.high > ramp.low && std::isfinite(ramp.high - ramp.low), "code_strength", "finite high > low",
                                 fmt::format("low {} and high {}", ramp.low, ramp.high));
    detail::require_shares("code_strength", "harmfulness", harmfulness, static_cast<index_t>(harmfulness.size()));
    std::vector<double> out;
    for (const double q : harmfulness) {
        out.push_back(std::clamp((q - ramp.low) / (ramp.high - ramp.low), 0.0, 1.0));
    }
    return out;
}

/// Excess share: s_k = max(0, 1 - p_s / p_h), the ridge solution; no thresholds, safer and more damaging. [K]
inline std::vector<double> excess_strength(const code_scores& scores) {
    detail::require_size("excess_strength", "p_safe", static_cast<index_t>(scores.p_harmful.size()),
                         static_cast<index_t>(scores.p_safe.size()));
    std::vector<double> out;
    for (std::size_t k = 0; k < scores.p_harmful.size(); ++k) {
        out.push_back(scores.p_harmful[k] > 0 ? std::max(0.0, 1 - scores.p_safe[k] / scores.p_harmful[k]) : 0.0);
    }
    return out;
}

/// Gate: strength 1 for codes whose harmfulness (or z) exceeds `threshold`, else 0. [K] Errors: numeric_error on NaN,
/// which would pass for harmless.
inline std::vector<double> gate_strength(std::span<const double> score, double threshold) {
    detail::require<numeric_error>(!std::isnan(threshold) && std::ranges::none_of(score, [](double q) { return std::isnan(q); }),
                                   "gate_strength", "a threshold and scores that are numbers", "NaN");
    std::vector<double> out;
    for (const double q : score) {
        out.push_back(q > threshold ? 1.0 : 0.0);
    }
    return out;
}

/// Where each code should go: the mean of what stands at its positions in the safe counterparts. Streaming; K x d memory.
///
/// t_k = (sum over positions with harmful id k of c_(safe id) + lambda mu) / (n_k + lambda), mu the mean of the safe
/// codes seen here (or given). The codebook must outlive the object. Source: our choice.
template <scalar T>
class counterpart_targets {
public:
    /// Over a codebook [K x d]. Errors: shape_error if empty, numeric_error if not finite.
    template <matrix_like C>
        requires std::same_as<scalar_of<C>, T>
    explicit counterpart_targets(const C& codes) : codes_(detail::view_of(codes)), sums_(codes_.rows(), codes_.cols()) {
        detail::require_not_empty("counterpart_targets", "a codebook", codes_);
        detail::require_finite("counterpart_targets", "the codebook", codes_);
        counts_.assign(static_cast<std::size_t>(codes_.rows()), 0.0);
        safe_sum_.assign(static_cast<std::size_t>(codes_.cols()), 0.0);
    }

    explicit counterpart_targets(const matrix<T>&&) = delete;  // the codebook must outlive the object

    /// A picture and its safe counterpart. Errors: shape_error if lengths differ, value_error on ids; nothing is added then.
    template <token_ids H, token_ids S>
    void add(const H& harmful_ids, const S& safe_ids) {
        const auto h = detail::ids_of(harmful_ids);
        const auto s = detail::ids_of(safe_ids);
        detail::require_size("counterpart_targets::add", "safe ids", static_cast<index_t>(h.size()), static_cast<index_t>(s.size()));
        detail::require_ids("counterpart_targets::add", h, codes_.rows());
        detail::require_ids("counterpart_targets::add", s, codes_.rows());
        for (std::size_t t = 0; t < h.size(); ++t) {
            const auto safe = codes_.row(static_cast<index_t>(s[t]));
            counts_[static_cast<std::size_t>(h[t])] += 1;
            seen_ += 1;
            for (std::size_t j = 0; j < safe.size(); ++j) {
                sums_(static_cast<index_t>(h[t]), static_cast<index_t>(j)) += static_cast<double>(safe[j]);
                safe_sum_[j] += static_cast<double>(safe[j]);
            }
        }
    }

    /// Adds what another object over the same codebook saw. Errors: shape_error.
    void merge(const counterpart_targets& other) {
        detail::require_size("counterpart_targets::merge", "codes", codes_.rows(), other.codes_.rows());
        detail::require_size("counterpart_targets::merge", "columns", codes_.cols(), other.codes_.cols());
        detail::map(sums_) += detail::map(other.sums_);
        std::ranges::transform(counts_, other.counts_, counts_.begin(), std::plus{});
        std::ranges::transform(safe_sum_, other.safe_sum_, safe_sum_.begin(), std::plus{});
        seen_ += other.seen_;
    }

    /// t, [K x d]; a code never seen gets mu. `prior` is mu [d] (empty: the mean of the counterparts' codes), `lambda`
    /// its weight in counts, > 0. Errors: value_error on lambda, shape_error on mu, numeric_error without pairs or mu.
    matrix<double> targets(double lambda = 2.0, std::span<const double> prior = {}) const {
        detail::require<value_error>(lambda > 0 && std::isfinite(lambda), "counterpart_targets::targets", "lambda > 0",
                                     fmt::format("{}", lambda));
        if (!prior.empty()) {
            detail::require_size("counterpart_targets::targets", "values in the prior", codes_.cols(), static_cast<index_t>(prior.size()));
            detail::require_finite("counterpart_targets::targets", "the prior", prior);
        }
        detail::require<numeric_error>(seen_ > 0 || !prior.empty(), "counterpart_targets::targets", "a pair or a prior", "neither");
        matrix<double> out = sums_;
        for (index_t k = 0; k < out.rows(); ++k) {
            const double n = counts_[static_cast<std::size_t>(k)];
            for (index_t j = 0; j < out.cols(); ++j) {
                const auto column = static_cast<std::size_t>(j);
                const double mu = prior.empty() ? safe_sum_[column] / seen_ : prior[column];
                out(k, j) = (out(k, j) + lambda * mu) / (n + lambda);
            }
        }
        return out;
    }

    const std::vector<double>& counts() const { return counts_; }  ///< n_k, positions seen per harmful code

private:
    matrix_view<T> codes_;
    matrix<double> sums_;
    std::vector<double> counts_;
    std::vector<double> safe_sum_;
    double seen_ = 0;
};

/// The codebook's storage type.
template <matrix_like C>
counterpart_targets(const C&) -> counterpart_targets<scalar_of<C>>;

}  // namespace isic
