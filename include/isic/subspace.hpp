// SPDX-License-Identifier: Apache-2.0
/// \file
/// Subspaces: fitted to differences, merged, compared, and the leakage of a codebook into one.
#pragma once

#include <span>
#include <vector>

#include <isic/differences.hpp>
#include <isic/matrix.hpp>
#include <isic/rank.hpp>

namespace isic::inline ISIC_ABI {

/// A subspace of R^d: an orthonormal basis V [d x r] in float64, its spectrum, and how the rank was chosen. A value
/// type: const access is thread-safe.
struct subspace {
    matrix<double> basis;                 ///< V, [d x r]; columns orthonormal to 1e-12, largest entry of each positive
    std::vector<double> singular_values;  ///< of the differences, descending; at least those computed for the basis
    double energy = 0;                    ///< share of the squared singular values inside the basis, in [0, 1]
    rank_choice chosen;                   ///< the rank and the rule that decided it

    [[nodiscard]] index_t width() const noexcept { return basis.rows(); }  ///< d
    [[nodiscard]] index_t rank() const noexcept { return basis.cols(); }   ///< r
};

/// The share of a codebook inside a subspace, in [0, 1], measured on the stored (rounded) values.
struct leakage_report {
    double total = 0;    ///< ||(C - center) V||_F / ||C - center||_F
    double largest = 0;  ///< the largest share of a single row; 0 for a row equal to the center
};

namespace detail {

/// The sum of all squared singular values; estimated from `energy` where only the largest were computed.
ISIC_API double total_energy(const subspace& s);

ISIC_API subspace span_of(any_view directions);
ISIC_API leakage_report leakage(any_view codes, const subspace& harm, std::span<const double> center,
                                std::span<const index_t> padding, const execution& exec = {});

}  // namespace detail

/// The span of directions, the columns of a [d x m] matrix, which may be dependent.
///
/// Gram-Schmidt, twice; cost O(d m^2). Errors: shape_error if empty, numeric_error if not finite or all zero.
template <matrix_like M>
[[nodiscard]] subspace span_of(const M& directions) {
    return detail::span_of(detail::view_of(directions));
}

/// Leakage of codes [K x d] into a subspace around a center [d] (empty: zero): ||(C - center) V||_F / ||C - center||_F.
///
/// Rows in `padding` are not counted. Cost O(K d r); the result does not depend on the number of threads. Errors:
/// shape_error if widths differ or the codebook is empty; value_error on padding ids or a basis that is not
/// orthonormal; numeric_error on NaN, infinity or squares that overflow float64.
template <matrix_like C>
[[nodiscard]] leakage_report leakage(const C& codes, const subspace& harm, std::span<const double> center = {},
                                     std::span<const index_t> padding = {}, const execution& exec = {}) {
    return detail::leakage(detail::view_of(codes), harm, center, padding, exec);
}

/// The CURE weights f_i = alpha r_i / ((alpha - 1) r_i + 1), r_i = sigma_i^2 / sum sigma^2, one per basis vector, in
/// [0, 1].
///
/// alpha = 1 gives the energies, alpha -> infinity the hard projection. Errors: value_error unless alpha > 0;
/// shape_error without a singular value per basis vector; numeric_error if all are zero. Source: CURE, arXiv
/// 2505.12677.
[[nodiscard]] ISIC_API std::vector<double> spectral_weights(const subspace& harm, double alpha);

/// The component removed from the differences before they are decomposed.
enum class centering {
    none,      ///< none: the mean difference, usually the leading direction, stays
    mean,      ///< the mean difference
    safe_axis  ///< the top right singular vector of the safe embeddings (ProFS, arXiv 2405.13967); needs d >= 3
};

/// Options of `fit_subspace`.
struct fit_options {
    rank_options rank = {};              ///< rank rules
    centering center = centering::none;  ///< component removed first
    isic::execution execution = {};      ///< threads and SIMD level of the second moment, on the CPU
};

namespace detail {

ISIC_API subspace fit_subspace(any_view difference_rows, const fit_options& options);

}  // namespace detail

/// Fits the harmful subspace to difference rows D [n x d]: V = leading right singular vectors, by the float64 Gram
/// matrix on the smaller side and a symmetric eigensolver (block Krylov for the leading pairs of a large one).
///
/// The rank is chosen by `options.rank`; result.chosen holds the rule. Sign-flip parallel analysis flips single entries
/// (FlipPA, arXiv 2012.02985), after a random rotation (our addition): flipping whole rows would leave D^T D, hence
/// every singular value, unchanged.
/// Cost O(n d min(n, d)). Errors: shape_error if D is empty; numeric_error on NaN, infinity or D = 0; value_error for
/// a rank outside [0, d], or centering::safe_axis, which needs an accumulator.
/// Source: Safe-CB step 1, published in words ("top-k singular vectors of embedding differences").
template <matrix_like M>
[[nodiscard]] subspace fit_subspace(const M& difference_rows, const fit_options& options = {}) {
    return detail::fit_subspace(any_view(detail::view_of(difference_rows)), options);
}

/// Fits the harmful subspace to streamed differences, by the same method, from their second moment [d x d]. Cost
/// O(d^3).
///
/// Errors: shape_error before the first pair; numeric_error if every difference was zero; value_error for sign flips,
/// which need the rows themselves.
///
/// \snippet snippets.cpp subspace
[[nodiscard]] ISIC_API subspace fit_subspace(const difference_accumulator& pairs, const fit_options& options = {});

/// The sum of two subspaces, of two rounds or two concepts. The columns of `first` come first, unchanged.
///
/// Directions of `second` within `tolerance` (sine of the angle) of `first` are dropped. Singular value j is
/// sqrt(sigma_1j^2 + ||diag(sigma_2) V_2^T v_j||^2), the size of both sets of differences along column v_j, sigma_1j
/// zero for an added column; energy is their squared sum divided by that of all singular values of both. Merged with
/// itself, a subspace keeps its energy. `subspace{}` is the neutral element. Cost O(d r^2). Errors: shape_error if the
/// widths differ; value_error unless tolerance is in [0, 1) and max_rank >= 0, or if the merged rank exceeds max_rank
/// (0: d). Source: ours.
[[nodiscard]] ISIC_API subspace merge(const subspace& first, const subspace& second, double tolerance = 1e-8,
                                      index_t max_rank = 0);

/// The min(r1, r2) principal angles between two subspaces, in radians, ascending.
///
/// Small angles are computed from sines and large ones from cosines, so both are accurate. Cost O(d r1 r2). Errors:
/// shape_error if the widths differ or a rank is zero. Source: Knyazev and Argentati (2002).
[[nodiscard]] ISIC_API std::vector<double> principal_angles(const subspace& first, const subspace& second);

}  // namespace isic::inline ISIC_ABI

#ifdef ISIC_HEADER_ONLY
#include <isic/detail/subspace-inl.hpp>
#include <isic/detail/subspace_fit-inl.hpp>
#include <isic/detail/subspace_merge-inl.hpp>
#endif
