/// \file
/// What is to be removed: an orthonormal basis, and what a codebook has inside it.
#pragma once

#include <span>
#include <vector>

#include <isic/kernels.hpp>
#include <isic/matrix.hpp>
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

/// What is left of a codebook inside a subspace, measured on the stored (rounded) values.
struct leakage_report {
    double total = 0;    ///< ||(C - center) V||_F / ||C - center||_F
    double largest = 0;  ///< the same for the worst single row; rows equal to the center count as 0
};

namespace detail {

/// Sum of all squared singular values, also where only the largest were computed.
double total_energy(const subspace& s);

subspace span_of(any_view directions);
leakage_report leakage(any_view codes, const subspace& harm, std::span<const double> center, std::span<const index_t> padding,
                       const kernels::resources& use = {});

}  // namespace detail

/// Any orthonormal-ised set of directions as a subspace; columns [d x m] need not be orthogonal or independent.
///
/// Errors: shape_error if empty, numeric_error if not finite or all zero.
template <matrix_like M>
subspace span_of(const M& directions) {
    return detail::span_of(detail::view_of(directions));
}

/// Leakage of codes [K x d] into a subspace around a center [d] (empty: zero); rows in `padding` are no codes and do not
/// count. Cost O(K d r); the result does not depend on the number of threads.
///
/// Errors: shape_error if widths differ or the codebook is empty; value_error on padding ids or a basis that is not
/// orthonormal; numeric_error on NaN, infinity or squares that overflow float64.
template <matrix_like C>
leakage_report leakage(const C& codes, const subspace& harm, std::span<const double> center = {},
                       std::span<const index_t> padding = {}, const kernels::resources& use = {}) {
    return detail::leakage(detail::view_of(codes), harm, center, padding, use);
}

/// CURE weights f_i = alpha r_i / ((alpha - 1) r_i + 1), r_i = sigma_i^2 / sum sigma^2, one per basis vector, in [0, 1].
///
/// alpha = 1 gives the energies, alpha -> infinity the hard projection. Errors: value_error unless alpha > 0.
/// Source: CURE, arXiv 2505.12677.
std::vector<double> spectral_weights(const subspace& harm, double alpha);

}  // namespace isic
