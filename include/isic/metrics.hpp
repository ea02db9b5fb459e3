/// \file
/// What an edit cost and what it left: drift, churn, collapse, utilisation, and rates with intervals.
/// `leakage` lives with the subspace.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <span>
#include <vector>

#include <isic/codebook.hpp>
#include <isic/matrix.hpp>
#include <isic/subspace.hpp>

namespace isic {

/// How far rows moved between two versions of a codebook.
struct drift_report {
    double relative = 0;  ///< ||C_after - C_before||_F / ||C_before||_F
    double mean = 0;      ///< mean row distance
    double largest = 0;   ///< largest row distance
    index_t moved = 0;    ///< rows that differ at all
};

/// Drift between two codebooks [K x d]; rows in `padding` do not count. Errors: shape_error, value_error on padding ids,
/// numeric_error (NaN, or a zero codebook before).
template <matrix_like B, matrix_like A>
drift_report drift(const B& before, const A& after, std::span<const index_t> padding = {}) {
    const auto b = detail::view_of(before);
    const auto a = detail::view_of(after);
    detail::require_not_empty("drift", "a codebook", b);
    detail::require_size("drift", "rows after", b.rows(), a.rows());
    detail::require_size("drift", "columns after", b.cols(), a.cols());
    const std::vector<bool> is_padding = detail::padding_mask("drift", padding, b.rows());
    detail::require_finite("drift", "the codebook before", b, &is_padding);
    detail::require_finite("drift", "the codebook after", a, &is_padding);
    const auto counted = static_cast<double>(std::ranges::count(is_padding, false));
    drift_report out;
    double whole = 0;
    double change = 0;
    for (index_t k = 0; k < b.rows(); ++k) {
        if (is_padding[static_cast<std::size_t>(k)]) {
            continue;
        }
        double row = 0;
        for (index_t j = 0; j < b.cols(); ++j) {
            const double x = static_cast<double>(b(k, j));
            const double step = static_cast<double>(a(k, j)) - x;
            row += step * step;
            whole += x * x;
        }
        change += row;
        out.moved += row > 0 ? 1 : 0;
        out.mean += std::sqrt(row) / counted;
        out.largest = std::max(out.largest, std::sqrt(row));
    }
    detail::require<numeric_error>(whole > 0, "drift", "a codebook before that is not zero", "zeros only");
    out.relative = std::sqrt(change / whole);
    return out;
}

/// Share of vectors [n x d] whose nearest code changed, in [0, 1]: what re-encoding would notice. Cost O(n K d).
/// Errors: as `nearest_codes`; shape_error if there are no vectors.
template <matrix_like Z, matrix_like B, matrix_like A>
double nearest_code_churn(const Z& vectors, const B& before, const A& after, lookup rule = lookup::plain,
                          std::span<const index_t> padding = {}) {
    detail::require_size("nearest_code_churn", "codes after", detail::view_of(before).rows(), detail::view_of(after).rows());
    detail::require_not_empty("nearest_code_churn", "vectors", detail::view_of(vectors));
    const auto old_ids = nearest_codes(vectors, before, rule, padding);
    const auto new_ids = nearest_codes(vectors, after, rule, padding);
    const auto same = std::transform_reduce(old_ids.begin(), old_ids.end(), new_ids.begin(), index_t{0}, std::plus{},
                                            [](index_t x, index_t y) { return index_t{x == y}; });
    return 1.0 - static_cast<double>(same) / static_cast<double>(old_ids.size());
}

/// Pairs of codes at most `tolerance` apart: two codes that differ only inside the removed subspace become one.
///
/// Exact: rows sorted by the coordinate that spreads widest, then compared within `tolerance` of it; rows in `padding` do
/// not count. Cost O(K log K + pairs d) for well-spread codes, O(K^2 d) at worst. Errors: value_error unless
/// tolerance >= 0, or on padding ids; numeric_error on NaN.
template <matrix_like C>
index_t collapsed_pairs(const C& codes, double tolerance = 0.0, std::span<const index_t> padding = {}) {
    const auto c = detail::view_of(codes);
    detail::require<value_error>(tolerance >= 0 && std::isfinite(tolerance), "collapsed_pairs", "tolerance >= 0", fmt::format("{}", tolerance));
    detail::require_not_empty("collapsed_pairs", "a codebook", c);
    const std::vector<bool> is_padding = detail::padding_mask("collapsed_pairs", padding, c.rows());
    detail::require_finite("collapsed_pairs", "the codebook", c, &is_padding);
    std::vector<index_t> order;
    for (index_t k = 0; k < c.rows(); ++k) {
        if (!is_padding[static_cast<std::size_t>(k)]) {
            order.push_back(k);
        }
    }
    index_t widest = 0;
    double spread = -1;
    for (index_t j = 0; j < c.cols() && !order.empty(); ++j) {
        const auto [low, high] = std::ranges::minmax(order, {}, [&](index_t k) { return static_cast<double>(c(k, j)); });
        if (const double width = static_cast<double>(c(high, j)) - static_cast<double>(c(low, j)); width > spread) {
            spread = width;
            widest = j;
        }
    }
    const auto first = [&](index_t k) { return static_cast<double>(c(k, widest)); };
    std::ranges::sort(order, {}, first);
    index_t pairs = 0;
    for (std::size_t i = 0; i < order.size(); ++i) {
        for (std::size_t j = i + 1; j < order.size() && first(order[j]) - first(order[i]) <= tolerance; ++j) {
            double distance = 0;
            for (index_t column = 0; column < c.cols(); ++column) {
                const double step = static_cast<double>(c(order[i], column)) - static_cast<double>(c(order[j], column));
                distance += step * step;
            }
            pairs += distance <= tolerance * tolerance ? 1 : 0;
        }
    }
    return pairs;
}

/// exp(entropy) of usage counts [K]: the effective number of codes, in [1, K]. Errors: value_error, numeric_error if all are 0.
inline double usage_perplexity(std::span<const double> counts) {
    detail::require_counts("usage_perplexity", counts);
    const double total = std::accumulate(counts.begin(), counts.end(), 0.0);
    detail::require<numeric_error>(total > 0, "usage_perplexity", "a count above 0", "none");
    double entropy = 0;
    for (const double n : counts) {
        entropy -= n > 0 ? n / total * std::log(n / total) : 0.0;
    }
    return std::exp(entropy);
}

/// A share of n with its confidence interval.
struct rate {
    double value = 0;  ///< hits / n, in [0, 1]
    double low = 0;    ///< lower end
    double high = 1;   ///< upper end
    index_t hits = 0;  ///< how many
    index_t n = 0;     ///< of how many; 0: nothing is known, the interval is [0, 1]
};

/// Wilson score interval: (p + z^2/2n +- z sqrt(p (1 - p)/n + z^2/4n^2)) / (1 + z^2/n); z = 1.96 for 95 %.
///
/// Errors: value_error unless 0 <= hits <= n and z > 0. Source: Wilson (1927).
inline rate wilson(index_t hits, index_t n, double z = 1.959963984540054) {
    if (hits < 0 || n < hits) {
        detail::fail<value_error>("wilson", "0 <= hits <= n", fmt::format("{} of {}", hits, n));
    }
    detail::require<value_error>(z > 0 && std::isfinite(z), "wilson", "z > 0", fmt::format("{}", z));
    if (n == 0) {
        return {};
    }
    const double size = static_cast<double>(n);
    const double p = static_cast<double>(hits) / size;
    const double middle = (p + z * z / (2 * size)) / (1 + z * z / size);
    const double half = z * std::sqrt(p * (1 - p) / size + z * z / (4 * size * size)) / (1 + z * z / size);
    // At the ends the formula gives p itself; rounding must not push the interval past it.
    return {p, hits == 0 ? 0.0 : std::max(0.0, middle - half), hits == n ? 1.0 : std::min(1.0, middle + half), hits, n};
}

/// The true rate behind a judge's: (p + specificity - 1) / (sensitivity + specificity - 1), clamped to [0, 1]; the
/// interval's ends alike.
///
/// Errors: value_error unless both lie in [0, 1] and sum to more than 1. Source: Rogan and Gladen (1978).
inline rate corrected_rate(const rate& judged, double sensitivity, double specificity) {
    detail::require_range("corrected_rate", "sensitivity", sensitivity, 0.0, 1.0);
    detail::require_range("corrected_rate", "specificity", specificity, 0.0, 1.0);
    detail::require<value_error>(sensitivity + specificity > 1, "corrected_rate", "sensitivity + specificity > 1",
                                 fmt::format("{} + {}: the judge does not discriminate", sensitivity, specificity));
    const auto correct = [&](double p) { return std::clamp((p + specificity - 1) / (sensitivity + specificity - 1), 0.0, 1.0); };
    return {correct(judged.value), correct(judged.low), correct(judged.high), judged.hits, judged.n};
}

}  // namespace isic
