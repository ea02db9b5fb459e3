/// \file
/// The harmful subspace of differences.
#pragma once

#include <isic/differences.hpp>
#include <isic/fit_options.hpp>
#include <isic/matrix.hpp>
#include <isic/subspace.hpp>

namespace isic {
namespace detail {

subspace fit_subspace(any_view difference_rows, const fit_options& options);
subspace fit_subspace(const difference_moments& pairs, const fit_options& options);

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
    return detail::fit_subspace(detail::any_view(detail::view_of(difference_rows)), options);
}

/// Fits the harmful subspace to streamed differences: as above, from their second moment [d x d]. Cost O(d^3).
///
/// Errors: shape_error before the first pair; numeric_error if every difference was zero; value_error for sign flips,
/// which need the rows themselves.
template <scalar T>
subspace fit_subspace(const difference_accumulator<T>& pairs, const fit_options& options = {}) {
    return detail::fit_subspace(pairs.moments(), options);
}

}  // namespace isic
