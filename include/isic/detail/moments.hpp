// Second moments in float64 of rows of any storage.
#pragma once

#include <isic/execution.hpp>
#include <isic/matrix.hpp>

namespace isic::inline ISIC_ABI::detail {

/// gram += D^T D, all of it, and sums += the column sums, D the rows [n x d].
ISIC_API void add_moments(any_view rows, matrix<double>& gram, double* sums, const execution& exec);

/// The same with D = harmful - safe.
ISIC_API void add_difference_moments(any_view harmful, any_view safe, matrix<double>& gram, double* sums, const execution& exec);

}  // namespace isic::inline ISIC_ABI::detail

#ifdef ISIC_HEADER_ONLY
#include <isic/detail/moments-inl.hpp>
#endif
