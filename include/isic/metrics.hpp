// SPDX-License-Identifier: Apache-2.0
/// \file
/// Metrics of an edit: drift, churn, collapsed pairs, perplexity, and rates with confidence intervals. `leakage` is in
/// isic/subspace.hpp.
#pragma once

#include <span>

#include <isic/codebook.hpp>
#include <isic/matrix.hpp>
#include <isic/subspace.hpp>

namespace isic::inline ISIC_ABI {

/// Distances between the rows of two versions of a codebook.
struct drift_report {
    double relative = 0;  ///< ||C_after - C_before||_F / ||C_before||_F
    double mean = 0;      ///< mean row distance
    double largest = 0;   ///< largest row distance
    index_t moved = 0;    ///< rows that differ
};

namespace detail {

ISIC_API drift_report drift(any_view before, any_view after, std::span<const index_t> padding);
ISIC_API double nearest_code_churn(any_view vectors, any_view before, any_view after, metric metric,
                                   std::span<const index_t> padding);
ISIC_API index_t collapsed_pairs(any_view codes, double tolerance, std::span<const index_t> padding);

}  // namespace detail

/// Drift between two codebooks [K x d]; rows in `padding` do not count. Cost O(K d). Errors: shape_error, value_error
/// on padding ids, numeric_error (NaN, infinity, squares that overflow float64, or a zero codebook before).
///
/// \snippet snippets.cpp metrics
template <matrix_like B, matrix_like A>
[[nodiscard]] drift_report drift(const B& before, const A& after, std::span<const index_t> padding = {}) {
    return detail::drift(detail::view_of(before), detail::view_of(after), padding);
}

/// The share of vectors [n x d] whose nearest code differs between two codebooks [K x d], in [0, 1]. Cost O(n K d).
/// Errors: as `nearest_codes`; shape_error if there are no vectors.
template <matrix_like Z, matrix_like B, matrix_like A>
[[nodiscard]] double nearest_code_churn(const Z& vectors, const B& before, const A& after, metric metric = metric::l2,
                                        std::span<const index_t> padding = {}) {
    return detail::nearest_code_churn(detail::view_of(vectors), detail::view_of(before), detail::view_of(after), metric,
                                      padding);
}

/// The number of pairs of codes at distance <= tolerance. Codes that differ only inside the removed subspace collapse
/// into one.
///
/// Exact: the rows are sorted by the column of largest range and compared within `tolerance` of it; rows in `padding`
/// do not count. Cost O(K log K + pairs d) for well-spread codes, O(K^2 d) at worst. Errors: value_error unless
/// tolerance >= 0, or on padding ids; numeric_error on NaN.
template <matrix_like C>
[[nodiscard]] index_t collapsed_pairs(const C& codes, double tolerance = 0.0, std::span<const index_t> padding = {}) {
    return detail::collapsed_pairs(detail::view_of(codes), tolerance, padding);
}

/// The perplexity exp(entropy) of usage counts [K]: the effective number of codes, in [1, K]. Cost O(K). Errors:
/// value_error, numeric_error if all are 0.
[[nodiscard]] ISIC_API double usage_perplexity(std::span<const double> counts);

/// A rate with its confidence interval.
struct rate {
    double value = 0;  ///< hits / n, in [0, 1]
    double low = 0;    ///< lower end
    double high = 1;   ///< upper end
    index_t hits = 0;  ///< numerator
    index_t n = 0;     ///< denominator; 0: the interval is [0, 1]
};

/// The Wilson score interval: (p + z^2/2n +- z sqrt(p (1 - p)/n + z^2/4n^2)) / (1 + z^2/n); z = 1.96 for 95 %.
///
/// Errors: value_error unless 0 <= hits <= n and z > 0. Source: Wilson (1927).
[[nodiscard]] ISIC_API rate wilson(index_t hits, index_t n, double z = 1.959963984540054);

/// The true rate behind a judged one, (p + specificity - 1) / (sensitivity + specificity - 1), clamped to [0, 1];
/// likewise both ends of the interval.
///
/// Errors: value_error unless both lie in [0, 1] and sum to more than 1. Source: Rogan and Gladen (1978).
[[nodiscard]] ISIC_API rate corrected_rate(const rate& judged, double sensitivity, double specificity);

}  // namespace isic::inline ISIC_ABI

#ifdef ISIC_HEADER_ONLY
#include <isic/detail/metrics-inl.hpp>
#endif
