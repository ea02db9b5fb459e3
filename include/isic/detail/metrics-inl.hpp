// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <isic/metrics.hpp>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <vector>

#include <fmt/format.h>

#include <isic/detail/checks.hpp>
#include <isic/detail/eigen_view.hpp>
#include <isic/detail/metrics_checks.hpp>

namespace isic::inline ISIC_ABI {
namespace detail {

ISIC_INLINE drift_report drift(any_view before, any_view after, std::span<const index_t> padding) {
    check_drift(before, after);
    const std::vector<bool> is_padding = padding_mask("drift", padding, before.rows);
    require_finite("drift", "the codebook before", before, &is_padding);
    require_finite("drift", "the codebook after", after, &is_padding);
    const auto counted = static_cast<double>(std::ranges::count(is_padding, false));
    drift_report out;
    double whole = 0;
    double change = 0;
    constexpr index_t block = 64;
    for (index_t start = 0; start < before.rows; start += block) {
        const index_t n = std::min(block, before.rows - start);
        const row_matrix old = read_rows(before.block(start, n));
        const row_matrix step = read_rows(after.block(start, n)) - old;
        for (index_t i = 0; i < n; ++i) {
            if (is_padding[static_cast<std::size_t>(start + i)]) {
                continue;
            }
            const double distance = step.row(i).norm();
            whole += old.row(i).squaredNorm();
            change += distance * distance;
            out.moved += distance > 0 ? 1 : 0;
            out.mean += distance / counted;
            out.largest = std::max(out.largest, distance);
        }
    }
    require_nonzero_before(whole);
    require<numeric_error>(std::isfinite(whole + change), "drift", "codebooks whose squares fit float64",
                           fmt::format("{}", whole + change));
    out.relative = std::sqrt(change / whole);
    return out;
}

ISIC_INLINE double nearest_code_churn(any_view vectors, any_view before, any_view after, metric metric,
                                      std::span<const index_t> padding) {
    check_nearest_code_churn(vectors, before, after);
    const auto old_ids = nearest_codes(vectors, before, metric, padding);
    const auto new_ids = nearest_codes(vectors, after, metric, padding);
    const auto same = std::transform_reduce(old_ids.begin(), old_ids.end(), new_ids.begin(), index_t{0}, std::plus{},
                                            [](index_t x, index_t y) { return index_t{x == y}; });
    return 1.0 - static_cast<double>(same) / static_cast<double>(old_ids.size());
}

ISIC_INLINE index_t collapsed_pairs(any_view codes, double tolerance, std::span<const index_t> padding) {
    require<value_error>(tolerance >= 0 && std::isfinite(tolerance), "collapsed_pairs", "a finite tolerance >= 0",
                         fmt::format("{}", tolerance));
    require_not_empty("collapsed_pairs", "a codebook", codes);
    const std::vector<bool> is_padding = padding_mask("collapsed_pairs", padding, codes.rows);
    require_finite("collapsed_pairs", "the codebook", codes, &is_padding);
    std::vector<index_t> order;
    for (index_t k = 0; k < codes.rows; ++k) {
        if (!is_padding[static_cast<std::size_t>(k)]) {
            order.push_back(k);
        }
    }
    const matrix<double> c = to_double(codes);
    index_t widest = 0;
    double spread = -1;
    for (index_t j = 0; j < c.cols() && !order.empty(); ++j) {
        const auto [low, high] =
            std::ranges::minmax(order, {}, [&](index_t k) { return static_cast<double>(c(k, j)); });
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

}  // namespace detail

ISIC_INLINE double usage_perplexity(std::span<const double> counts) {
    detail::require_counts("usage_perplexity", counts);
    const double total = std::accumulate(counts.begin(), counts.end(), 0.0);
    detail::require<numeric_error>(total > 0, "usage_perplexity", "a count above 0", "none");
    double entropy = 0;
    for (const double n : counts) {
        entropy -= n > 0 ? n / total * std::log(n / total) : 0.0;
    }
    return std::exp(entropy);
}

ISIC_INLINE rate wilson(index_t hits, index_t n, double z) {
    if (hits < 0 || n < hits) {
        detail::fail<value_error>("wilson", "0 <= hits <= n", fmt::format("{} of {}", hits, n));
    }
    detail::require<value_error>(z > 0 && std::isfinite(z), "wilson", "a finite z > 0", fmt::format("{}", z));
    if (n == 0) {
        return {};
    }
    const double size = static_cast<double>(n);
    const double p = static_cast<double>(hits) / size;
    const double middle = (p + z * z / (2 * size)) / (1 + z * z / size);
    const double half = z * std::sqrt(p * (1 - p) / size + z * z / (4 * size * size)) / (1 + z * z / size);
    // At 0 and n one end equals p exactly; rounding must not exclude it.
    return {p, hits == 0 ? 0.0 : std::max(0.0, middle - half), hits == n ? 1.0 : std::min(1.0, middle + half), hits, n};
}

ISIC_INLINE rate corrected_rate(const rate& judged, double sensitivity, double specificity) {
    detail::require_range("corrected_rate", "sensitivity", sensitivity, 0.0, 1.0);
    detail::require_range("corrected_rate", "specificity", specificity, 0.0, 1.0);
    detail::require<value_error>(sensitivity + specificity > 1, "corrected_rate", "sensitivity + specificity > 1",
                                 fmt::format("{} + {}: the judge does not discriminate", sensitivity, specificity));
    const auto correct = [&](double p) {
        return std::clamp((p + specificity - 1) / (sensitivity + specificity - 1), 0.0, 1.0);
    };
    return {correct(judged.value), correct(judged.low), correct(judged.high), judged.hits, judged.n};
}

}  // namespace isic::inline ISIC_ABI
