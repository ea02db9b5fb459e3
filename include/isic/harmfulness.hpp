/// \file
/// From usage counts to per-code harmfulness, edit strength, and targets drawn from safe counterparts.
#pragma once

#include <span>
#include <vector>

#include <isic/detail/id_list.hpp>
#include <isic/differences.hpp>
#include <isic/matrix.hpp>

namespace isic::inline ISIC_ABI {

/// The prior of `code_harmfulness`.
struct harmfulness_options {
    double prior_per_code = 0.5;  ///< Dirichlet mass A / K, spread by pooled exec; > 0
};

/// How exclusively each code is used by harmful images, and how sure that is; [K] each.
struct code_scores {
    std::vector<double> harmfulness;  ///< q = p_h / (p_h + p_s) in [0, 1]; 0.5 for an unused code
    std::vector<double> z;            ///< log-odds over its standard error: evidence, not exclusivity
    std::vector<double> p_harmful;    ///< smoothed share of the code in harmful images
    std::vector<double> p_safe;       ///< smoothed share of the code in safe images
};

/// q_k = p_h / (p_h + p_s), p_h = (n_h + A_h pi_k) / (N_h + A_h), p_s alike; pi = pooled share.
///
/// The prior's mass 2 A, A = prior_per_code K, is shared out in proportion to the tokens: A_h = 2 A N_h / (N_h + N_s).
/// With A on both sides an unused code would look harmful wherever safe images are in the majority. z is the log-odds
/// z-score with the same prior (Monroe, Colaresi and Quinn 2008). Use q for strengths: z grows with counts alone.
/// Cost O(K). Errors: shape_error if the lengths differ or are zero; value_error on a negative or infinite count, or
/// prior <= 0; numeric_error if one side has no counts at all.
/// Source: our choice; the prior form follows "fightin' words".
ISIC_API code_scores code_harmfulness(const code_usage& usage, const harmfulness_options& options = {});

/// Where the ramp of `code_strength` starts and ends.
struct ramp_options {
    double low = 0.6;   ///< harmfulness at which a code begins to move
    double high = 0.9;  ///< harmfulness from which it moves fully; high > low
};

/// Ramp: s_k = clamp((q_k - low) / (high - low), 0, 1), [K]. Errors: value_error on q outside [0, 1] or high <= low.
ISIC_API std::vector<double> code_strength(std::span<const double> harmfulness, const ramp_options& ramp = {});

/// Excess share: s_k = max(0, 1 - p_s / p_h), the ridge solution; no thresholds, safer and more damaging. [K]
/// Errors: shape_error if there are not as many p_safe as p_harmful.
ISIC_API std::vector<double> excess_strength(const code_scores& scores);

/// Gate: strength 1 for codes whose harmfulness (or z) exceeds `threshold`, else 0. [K] Errors: numeric_error on NaN,
/// which would pass for harmless.
ISIC_API std::vector<double> gate_strength(std::span<const double> score, double threshold);

namespace detail {

/// What `counterpart_targets` collects, whatever the storage of the codebook.
class ISIC_API target_sums {
public:
    explicit target_sums(any_view codes);
    void add(const id_list& harmful, const id_list& safe);
    void merge(const target_sums& other);
    matrix<double> targets(double lambda, std::span<const double> prior) const;
    const std::vector<double>& counts() const { return counts_; }

private:
    any_view codes_;
    matrix<double> sums_;
    std::vector<double> counts_;
    std::vector<double> safe_sum_;
    double seen_ = 0;
};

}  // namespace detail

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
    explicit counterpart_targets(const C& codes) : sums_(detail::view_of(codes)) {}

    /// The same for a run-time type.
    explicit counterpart_targets(any_view codes) : sums_(codes) {}

    explicit counterpart_targets(const matrix<T>&&) = delete;  // the codebook must outlive the object

    /// An image and its safe counterpart. Errors: shape_error if lengths differ, value_error on ids; nothing is added then.
    template <token_ids H, token_ids S>
    void add(const H& harmful_ids, const S& safe_ids) {
        sums_.add(detail::id_list(harmful_ids), detail::id_list(safe_ids));
    }

    /// Adds what another object over the same codebook saw. Errors: shape_error.
    void merge(const counterpart_targets& other) { sums_.merge(other.sums_); }

    /// t, [K x d]; a code never seen gets mu. `prior` is mu [d] (empty: the mean of the counterparts' codes), `lambda`
    /// its weight in counts, > 0. Errors: value_error on lambda, shape_error on mu, numeric_error without pairs or mu.
    matrix<double> targets(double lambda = 2.0, std::span<const double> prior = {}) const { return sums_.targets(lambda, prior); }

    const std::vector<double>& counts() const { return sums_.counts(); }  ///< n_k, positions seen per harmful code

private:
    detail::target_sums sums_;
};

/// The codebook's dtype type.
template <matrix_like C>
    requires(!detail::is_any_matrix<C>)
counterpart_targets(const C&) -> counterpart_targets<scalar_of<C>>;

}  // namespace isic::inline ISIC_ABI

#ifdef ISIC_HEADER_ONLY
#include <isic/detail/harmfulness-inl.hpp>
#endif
