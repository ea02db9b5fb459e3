// SPDX-License-Identifier: Apache-2.0
// Second moments of rows of any dtype, in float64.
#pragma once

#include <isic/execution.hpp>
#include <isic/matrix.hpp>

namespace isic::inline ISIC_ABI::detail {

/// gram += D^T D [d x d], both triangles, and sums += the column sums [d], D = rows [n x d].
ISIC_INTERNAL_API void add_moments(any_view rows, matrix<double>& gram, double* sums, const execution& exec);

/// `add_moments` with D = harmful - safe.
ISIC_INTERNAL_API void add_difference_moments(any_view harmful, any_view safe, matrix<double>& gram, double* sums,
                                              const execution& exec);

}  // namespace isic::inline ISIC_ABI::detail

#ifdef ISIC_HEADER_ONLY
#include <isic/detail/moments-inl.hpp>
#endif
