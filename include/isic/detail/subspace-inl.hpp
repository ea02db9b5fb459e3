// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <isic/detail/checks.hpp>
#include <isic/detail/subspace.hpp>

#include <algorithm>
#include <cmath>
#include <vector>

#include <fmt/format.h>

#include <isic/detail/kernels/kernels.hpp>
#include <isic/detail/metrics_checks.hpp>
#include <isic/detail/row_blocks.hpp>

namespace isic::inline ISIC_ABI {
namespace detail {

ISIC_INLINE double total_energy(const subspace& s) {
    double held = 0;
    double sum = 0;
    for (std::size_t i = 0; i < s.singular_values.size(); ++i) {
        sum += s.singular_values[i] * s.singular_values[i];
        held = static_cast<index_t>(i) < s.rank() ? sum : held;
    }
    return s.energy > 0 ? std::max(sum, held / s.energy) : sum;
}

ISIC_INLINE subspace subspace_of_pairs(const eigen_pairs& pairs, double trace, index_t n, const rank_options& o,
                                       std::optional<index_t> flips_allow) {
    const index_t d = pairs.vectors.rows();
    subspace out;
    const index_t meaningful = std::min(n, pairs.values.size());
    for (index_t i = 0; i < meaningful; ++i) {
        out.singular_values.push_back(std::sqrt(std::max(0.0, pairs.values[i])));
    }
    // The energy rule needs the sum of the whole spectrum. Beyond the computed pairs it is the remainder of the trace,
    // distributed over values that do not exceed the last one.
    std::vector<double> sigma = out.singular_values;
    if (const double rest = trace - pairs.values.head(meaningful).sum();
        pairs.values.size() < d && rest > 1e-14 * trace) {
        const double last = sigma.empty() ? 0.0 : sigma.back();
        double left = rest;
        while (left > 0 && last > 0 && static_cast<index_t>(sigma.size()) < d) {
            sigma.push_back(std::min(last, std::sqrt(left)));
            left -= last * last;
        }
    }
    out.chosen = choose_rank(sigma, n, d, o, flips_allow, "fit_subspace");
    Eigen::MatrixXd v = pairs.vectors.leftCols(out.chosen.rank);
    fix_signs(v);
    out.basis = from_eigen(v);
    out.energy = trace > 0 ? std::min(1.0, pairs.values.head(out.chosen.rank).sum() / trace) : 0.0;
    return out;
}

ISIC_INLINE subspace span_of(any_view directions) {
    require_not_empty("span_of", "directions", directions);
    require_finite("span_of", "the directions", directions);
    Eigen::MatrixXd v = orthonormalise(map(to_double(directions)));
    require<numeric_error>(v.cols() > 0, "span_of", "a direction that is not zero", "zeros only");
    fix_signs(v);
    subspace out;
    out.basis = from_eigen(v);
    out.singular_values.assign(static_cast<std::size_t>(v.cols()), 1.0);
    out.energy = 1;
    out.chosen = {v.cols(), rank_rule::fixed};
    return out;
}

struct leakage_sums {
    double inside = 0;   // sum ||V^T (c - center)||^2
    double all = 0;      // sum ||c - center||^2
    double largest = 0;  // max of the squared shares of rows
};

inline leakage_sums sum_leakage(any_view codes, const matrix<double>& basis, std::span<const double> center,
                                const std::vector<bool>& is_padding, const execution& exec) {
    const index_t d = codes.cols;
    const blocks_of_rows blocks(codes.rows, d);
    struct thread_memory {
        row_block rows;
        row_matrix coefficients;
    };
    const auto make = [&] {
        return thread_memory{row_block(blocks.length, d), row_matrix(blocks.length, basis.cols())};
    };
    const auto sum_block = [&](thread_memory& at, index_t start, index_t n) {
        read_rows(codes.block(start, n), at.rows.data(), at.rows.stride());
        for (index_t i = 0; i < n; ++i) {
            if (is_padding[static_cast<std::size_t>(start + i)]) {  // of any value
                at.rows.row(i).setZero();
            } else if (!center.empty()) {
                at.rows.row(i) -= map(center);
            }
        }
        at.coefficients.topRows(n).noalias() = at.rows.top(n) * map(basis);
        leakage_sums sums;
        for (index_t i = 0; i < n; ++i) {
            const double inside = at.coefficients.row(i).squaredNorm();
            const double all = at.rows.row(i).squaredNorm();
            sums.inside += inside;
            sums.all += all;
            sums.largest = std::max(sums.largest, all > 0 ? inside / all : 0.0);
        }
        return sums;
    };
    leakage_sums out;
    const double bytes = static_cast<double>(codes.rows * codes.row_bytes());
    const double flops = static_cast<double>(codes.rows * d * (2 * basis.cols() + 4));
    for (const leakage_sums& sums :
         results_of_blocks(blocks, kernels::threads_for(exec, bytes, flops), make, sum_block)) {
        out.inside += sums.inside;
        out.all += sums.all;
        out.largest = std::max(out.largest, sums.largest);
    }
    return out;
}

ISIC_INLINE leakage_report leakage(any_view codes, const subspace& harm, std::span<const double> center,
                                   std::span<const index_t> padding, const execution& exec) {
    check_leakage(codes, harm, center, exec.threads);
    const std::vector<bool> is_padding = padding_mask("leakage", padding, codes.rows);
    require_finite("leakage", "the codebook", codes, &is_padding);
    const leakage_sums sums = sum_leakage(codes, harm.basis, center, is_padding, exec);
    require<numeric_error>(std::isfinite(sums.all), "leakage", "a codebook whose squares fit float64",
                           fmt::format("{}", sums.all));
    return {sums.all > 0 ? std::sqrt(sums.inside / sums.all) : 0.0, std::sqrt(sums.largest)};
}

}  // namespace detail

ISIC_INLINE std::vector<double> spectral_weights(const subspace& harm, double alpha) {
    detail::require<value_error>(alpha > 0 && std::isfinite(alpha), "spectral_weights", "a finite alpha > 0",
                                 fmt::format("{}", alpha));
    detail::require<shape_error>(static_cast<index_t>(harm.singular_values.size()) >= harm.rank(), "spectral_weights",
                                 "a singular value per basis vector", fmt::format("{}", harm.singular_values.size()));
    const double total = detail::total_energy(harm);
    detail::require<numeric_error>(total > 0, "spectral_weights", "a singular value above 0", "none");
    std::vector<double> out;
    for (index_t i = 0; i < harm.rank(); ++i) {
        const double sigma = harm.singular_values[static_cast<std::size_t>(i)];
        const double share = sigma * sigma / total;
        out.push_back(alpha * share / ((alpha - 1) * share + 1));
    }
    return out;
}

}  // namespace isic::inline ISIC_ABI
