/// \file
/// What is to be removed: an orthonormal basis, and what a codebook has inside it.
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
#include <span>
#include <vector>

#include <isic/matrix.hpp>
#include <isic/orthonormal.hpp>
#include <isic/rank.hpp>

namespace isic {

/// An orthonormal basis V [d x r] of what is to be removed, float64, with how its rank was chosen.
struct subspace {
    matrix<double> basis;                 ///< V, [d x r]; columns orthonormal to 1e-12, largest entry of each positive
    std::vector<double> singular_values;  ///< of the differences, descending; all that were computed
    double energy = 0;                    ///< share of the squared singular values that the basis holds
    rank_choice chosen;                   ///< the rank and the rule that decided it

    index_t width() const { return basis.rows(); }  ///< d
    index_t rank() const { return basis.cols(); }   ///< r
};

namespace detail {

/// Sum of all squared singular values, also where only the largest were computed.
inline double total_energy(const subspace& s) {
    double held = 0;
    double sum = 0;
    for (std::size_t i = 0; i < s.singular_values.size(); ++i) {
        sum += s.singular_values[i] * s.singular_values[i];
        held = static_cast<index_t>(i) < s.rank() ? sum : held;
    }
    return s.energy > 0 ? std::max(sum, held / s.energy) : sum;
}

/// The subspace that the rules choose from the leading eigenpairs of a second moment of n differences with that trace.
inline subspace subspace_of_pairs(const eigen_pairs& pairs, double trace, index_t n, const rank_options& o,
                                  std::optional<index_t> flips_allow) {
    const index_t d = pairs.vectors.rows();
    subspace out;
    const index_t meaningful = std::min(n, pairs.values.size());
    for (index_t i = 0; i < meaningful; ++i) {
        out.singular_values.push_back(std::sqrt(std::max(0.0, pairs.values[i])));
    }
    // Energy needs the whole spectrum's sum: pad it with the trace's remainder when only the top was computed.
    std::vector<double> sigma = out.singular_values;
    if (const double rest = trace - pairs.values.head(meaningful).sum(); pairs.values.size() < d && rest > 1e-14 * trace) {
        const double last = sigma.empty() ? 0.0 : sigma.back();
        for (double left = rest; left > 0 && last > 0 && static_cast<index_t>(sigma.size()) < d; left -= last * last) {
            sigma.push_back(std::min(last, std::sqrt(left)));
        }
    }
    out.chosen = choose_rank(sigma, n, d, o, flips_allow, "fit_subspace");
    Eigen::MatrixXd v = pairs.vectors.leftCols(out.chosen.rank);
    fix_signs(v);
    out.basis = from_eigen(v);
    out.energy = trace > 0 ? std::min(1.0, pairs.values.head(out.chosen.rank).sum() / trace) : 0.0;
    return out;
}

}  // namespace detail

/// Any orthonormal-ised set of directions as a subspace; columns [d x m] need not be orthogonal or independent.
///
/// Errors: shape_error if empty, numeric_error if not finite or all zero.
template <matrix_like M>
subspace span_of(const M& directions) {
    const auto view = detail::view_of(directions);
    detail::require_not_empty("span_of", "directions", view);
    detail::require_finite("span_of", "the directions", view);
    const matrix<double> copy = detail::to_double(view);
    subspace out;
    Eigen::MatrixXd v = detail::orthonormal_rest(detail::map(copy), Eigen::MatrixXd(view.rows(), 0));
    detail::require<numeric_error>(v.cols() > 0, "span_of", "a direction that is not zero", "zeros only");
    detail::fix_signs(v);
    out.basis = detail::from_eigen(v);
    out.singular_values.assign(static_cast<std::size_t>(v.cols()), 1.0);
    out.energy = 1;
    out.chosen = {v.cols(), rank_rule::fixed};
    return out;
}

/// What is left of a codebook inside a subspace, measured on the stored (rounded) values.
struct leakage_report {
    double total = 0;    ///< ||(C - center) V||_F / ||C - center||_F
    double largest = 0;  ///< the same for the worst single row; rows equal to the center count as 0
};

/// Leakage of codes [K x d] into a subspace around a center [d] (empty: zero); rows in `padding` are no codes and do not
/// count. Cost O(K d r).
///
/// Errors: shape_error if widths differ or the codebook is empty; value_error on padding ids or a basis that is not
/// orthonormal; numeric_error on NaN or infinity.
template <matrix_like C>
leakage_report leakage(const C& codes, const subspace& harm, std::span<const double> center = {},
                       std::span<const index_t> padding = {}) {
    const auto c = detail::view_of(codes);
    detail::require_not_empty("leakage", "a codebook", c);
    detail::require_size("leakage", "rows in the basis", c.cols(), harm.width());
    if (!center.empty()) {
        detail::require_size("leakage", "values in the center", c.cols(), static_cast<index_t>(center.size()));
        detail::require_finite("leakage", "the center", center);
    }
    detail::require_orthonormal("leakage", harm.basis);
    const std::vector<bool> is_padding = detail::padding_mask("leakage", padding, c.rows());
    detail::require_finite("leakage", "the codebook", c, &is_padding);
    const auto v = detail::map(harm.basis);
    double inside = 0;
    double all = 0;
    leakage_report out;
    detail::vector row;
    for (index_t k = 0; k < c.rows(); ++k) {
        if (is_padding[static_cast<std::size_t>(k)]) {
            continue;
        }
        detail::load(c.row(k), row);
        if (!center.empty()) {
            row -= Eigen::Map<const detail::vector>(center.data(), c.cols());
        }
        const double in = (v.transpose() * row).squaredNorm();
        const double whole = row.squaredNorm();
        inside += in;
        all += whole;
        out.largest = std::max(out.largest, whole > 0 ? std::sqrt(in / whole) : 0.0);
    }
    out.total = all > 0 ? std::sqrt(inside / all) : 0.0;
    return out;
}

/// CURE weights f_i = alpha r_i / ((alpha - 1) r_i + 1), r_i = sigma_i^2 / sum sigma^2, one per basis vector, in [0, 1].
///
/// alpha = 1 gives the energies, alpha -> infinity the hard projection. Errors: value_error unless alpha > 0.
/// Source: CURE, arXiv 2505.12677.
inline std::vector<double> spectral_weights(const subspace& harm, double alpha) {
    detail::require<value_error>(alpha > 0 && std::isfinite(alpha), "spectral_weights", "alpha > 0", fmt::format("{}", alpha));
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

}  // namespace isic
