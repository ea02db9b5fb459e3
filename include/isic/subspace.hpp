/// \file
/// What is to be removed: an orthonormal basis, and what a codebook has inside it.
#pragma once

#include <span>
#include <vector>

#include <isic/differences.hpp>
#include <isic/matrix.hpp>
#include <isic/rank.hpp>

namespace isic::inline ISIC_ABI {

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
ISIC_API double total_energy(const subspace& s);

ISIC_API subspace span_of(any_view directions);
ISIC_API leakage_report leakage(any_view codes, const subspace& harm, std::span<const double> center, std::span<const index_t> padding,
                       const execution& exec = {});

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
                       std::span<const index_t> padding = {}, const execution& exec = {}) {
    return detail::leakage(detail::view_of(codes), harm, center, padding, exec);
}

/// CURE weights f_i = alpha r_i / ((alpha - 1) r_i + 1), r_i = sigma_i^2 / sum sigma^2, one per basis vector, in [0, 1].
///
/// alpha = 1 gives the energies, alpha -> infinity the hard projection. Errors: value_error unless alpha > 0.
/// Source: CURE, arXiv 2505.12677.
ISIC_API std::vector<double> spectral_weights(const subspace& harm, double alpha);

/// What is taken out of the differences before they are decomposed.
enum class centering {
    none,      ///< plain second moment: the mean difference, usually the strongest direction, stays
    mean,      ///< the mean difference; keeps only how pairs vary
    safe_axis  ///< the top right singular vector of the safe embeddings (ProFS, arXiv 2405.13967); needs d >= 3
};

/// Options of `fit_subspace`.
struct fit_options {
    rank_options rank = {};                  ///< rank rules
    centering center = centering::none;      ///< what to take out first
    isic::execution execution = {};             ///< threads and instructions of the second moment; the GPU has its own
};

namespace detail {

ISIC_API subspace fit_subspace(any_view difference_rows, const fit_options& options);
ISIC_API subspace fit_subspace(const difference_moments& pairs, const fit_options& options);

}  // namespace detail

/// Fits the harmful subspace to difference rows D [n x d]: V = top right singular vectors, by the float64 Gram matrix
/// on the smaller side and a symmetric eigen-solver (block Krylov for the top of a large one).
///
/// Rank by `options.rank`; result.chosen says which rule decided. Sign-flip parallel analysis flips single entries
/// (FlipPA, arXiv 2012.02985), after a random rotation (our addition): flipping whole rows would leave D^T D, hence
/// every singular value, unchanged.
/// Cost O(n d min(n, d)). Errors: shape_error if D is empty; numeric_error on NaN, infinity or D = 0; value_error for
/// a rank outside [0, d], or centering::safe_axis, which needs an accumulator.
/// Source: Safe-CB step 1, published in words ("top-k singular vectors of embedding differences").
template <matrix_like M>
subspace fit_subspace(const M& difference_rows, const fit_options& options = {}) {
    return detail::fit_subspace(any_view(detail::view_of(difference_rows)), options);
}

/// Fits the harmful subspace to streamed differences: as above, from their second moment [d x d]. Cost O(d^3).
///
/// Errors: shape_error before the first pair; numeric_error if every difference was zero; value_error for sign flips,
/// which need the rows themselves.
template <scalar T>
subspace fit_subspace(const difference_accumulator<T>& pairs, const fit_options& options = {}) {
    return detail::fit_subspace(pairs.moments(), options);
}

/// The smallest subspace that contains both: rounds, or concepts. The first's columns come first, unchanged.
///
/// Directions of `second` within `tolerance` (sine of the angle) of `first` add nothing. The result's singular_values
/// are one per column: the size along it of both's differences, as far as these lie in their own bases; its energy is the
/// share that they are of all squared singular values of both: merged with itself, a subspace keeps its energy. A subspace
/// of rank 0 adds nothing, whatever its width if it is `subspace{}`. Errors: shape_error if the widths differ; value_error unless
/// tolerance is in [0, 1) and max_rank >= 0, or if the merged rank exceeds max_rank (0: no limit but d).
ISIC_API subspace merge(const subspace& first, const subspace& second, double tolerance = 1e-8, index_t max_rank = 0);

/// Principal angles between two subspaces in radians, ascending, min(r1, r2) of them.
///
/// Small angles come from sines, large ones from cosines, so both ends are accurate. Errors: shape_error if the widths
/// differ or a rank is zero. Source: Knyazev and Argentati (2002).
ISIC_API std::vector<double> principal_angles(const subspace& first, const subspace& second);

}  // namespace isic::inline ISIC_ABI

#ifdef ISIC_HEADER_ONLY
#include <isic/detail/subspace-inl.hpp>
#include <isic/detail/fit-inl.hpp>
#include <isic/detail/merge-inl.hpp>
#endif
