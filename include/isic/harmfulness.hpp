// SPDX-License-Identifier: Apache-2.0
/// \file
/// Per-code harmfulness, edit strengths and targets from token usage.
#pragma once

#include <span>
#include <vector>

#include <isic/detail/id_list.hpp>
#include <isic/differences.hpp>
#include <isic/matrix.hpp>

namespace isic::inline ISIC_ABI {

/// The prior of `code_harmfulness`.
struct harmfulness_options {
    double prior_per_code = 0.5;  ///< Dirichlet mass A / K, distributed by pooled usage; > 0
};

/// Harmfulness of each code and its evidence, [K] each.
struct code_scores {
    std::vector<double> harmfulness;  ///< q = p_h / (p_h + p_s) in [0, 1]; 0.5 for an unused code
    std::vector<double> z;            ///< log-odds in units of its standard error
    std::vector<double> p_harmful;    ///< smoothed share of the code in harmful images
    std::vector<double> p_safe;       ///< smoothed share of the code in safe images
};

/// q_k = p_h / (p_h + p_s), p_h = (n_h + A_h pi_k) / (N_h + A_h), p_s alike; pi = pooled share.
///
/// The prior mass 2 A, A = prior_per_code K, is split in proportion to the tokens, A_h = 2 A N_h / (N_h + N_s): with A
/// on both sides an unused code would be harmful where safe images are the majority. z is the log-odds z-score with the
/// same prior (Monroe, Colaresi and Quinn 2008). Derive strengths from q: z grows with the counts. Cost O(K). Errors:
/// shape_error if the lengths differ or are zero; value_error on a negative or infinite count, or prior <= 0;
/// numeric_error if one side has no counts at all. Source: our choice; the prior form follows "fightin' words".
///
/// \snippet snippets.cpp harmfulness
[[nodiscard]] ISIC_API code_scores code_harmfulness(const code_usage& usage, const harmfulness_options& options = {});

/// The ramp of `code_strength`.
struct ramp_options {
    double low = 0.6;   ///< harmfulness of strength 0
    double high = 0.9;  ///< harmfulness of strength 1; high > low
};

/// Ramp strength: s_k = clamp((q_k - low) / (high - low), 0, 1), [K].
///
/// Cost O(K). Errors: value_error on q outside [0, 1] or unless high > low. Source: our choice.
[[nodiscard]] ISIC_API std::vector<double> code_strength(std::span<const double> harmfulness,
                                                         const ramp_options& ramp = {});

/// Excess strength: s_k = max(0, 1 - p_s / p_h), [K], the ridge solution. It needs no thresholds; it removes more harm
/// and changes more of the codebook than the ramp.
///
/// Cost O(K). Errors: shape_error if the lengths of p_safe and p_harmful differ. Source: ours.
[[nodiscard]] ISIC_API std::vector<double> excess_strength(const code_scores& scores);

/// Gate strength: s_k = 1 if score_k > threshold, else 0, [K]; the score is q or z.
///
/// Cost O(K). Errors: numeric_error on NaN, which would compare as harmless. Source: our choice.
[[nodiscard]] ISIC_API std::vector<double> gate_strength(std::span<const double> score, double threshold);

/// Per-code targets: the mean of the codes at the same positions of the safe counterparts, streamed in O(K d) memory.
///
/// t_k = (sum of c_(safe id) over positions with harmful id k + lambda mu) / (n_k + lambda); mu is the mean of the safe
/// codes added, or the caller's prior. The codebook must outlive the object and stay unchanged. Source: our choice.
///
/// Thread-safety: const members may run concurrently; `add` and `merge` need exclusive access.
class ISIC_API counterpart_targets {
public:
    /// Over a codebook [K x d] of any dtype. Errors: shape_error if it is empty, numeric_error on NaN or infinity.
    explicit counterpart_targets(any_view codes);
    /// The same for a typed codebook.
    template <matrix_like C>
        requires(!detail::is_any_matrix<C>)
    explicit counterpart_targets(const C& codes) : counterpart_targets(any_view(detail::view_of(codes))) {}

    /// Deleted: the codebook must outlive the object.
    template <scalar T>
    explicit counterpart_targets(const matrix<T>&&) = delete;

    /// Adds an image and its safe counterpart as token ids, position by position. Cost O(T d).
    ///
    /// Errors: shape_error if the lengths differ, value_error on an id outside [0, K). On an error nothing is added.
    template <token_ids H, token_ids S>
    void add(const H& harmful_ids, const S& safe_ids) {
        add_ids(detail::id_list(harmful_ids), detail::id_list(safe_ids));
    }

    /// Adds the sums of another object over the same codebook. Errors: shape_error if the shapes of the codebooks
    /// differ.
    void merge(const counterpart_targets& other);

    /// The targets t, [K x d]; a code that never occurred gets mu. Cost O(K d).
    ///
    /// `prior` is mu [d] (empty: the mean of the counterparts' codes); `lambda` is its weight in counts, > 0. Errors:
    /// value_error on lambda, shape_error on the length of mu, numeric_error if mu is not finite, or without pairs and
    /// prior.
    [[nodiscard]] matrix<double> targets(double lambda = 2.0, std::span<const double> prior = {}) const;

    [[nodiscard]] const std::vector<double>& counts() const noexcept {
        return counts_;
    }  ///< n_k, [K]: positions per code

private:
    void add_ids(const detail::id_list& harmful, const detail::id_list& safe);

    any_view codes_;
    matrix<double> sums_;           // of counterparts' codes, [K x d]
    std::vector<double> counts_;    // [K]
    std::vector<double> safe_sum_;  // of all counterparts' codes, [d]
    double positions_ = 0;
};

}  // namespace isic::inline ISIC_ABI

#ifdef ISIC_HEADER_ONLY
#include <isic/detail/harmfulness-inl.hpp>
#endif
