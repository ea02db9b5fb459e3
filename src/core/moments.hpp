// Second moments in float64 of rows of any storage.
#pragma once

#include <isic/kernels.hpp>
#include <isic/matrix.hpp>

namespace isic::detail {

/// gram += D^T D, all of it, and sums += the column sums, D the rows [n x d].
void add_moments(any_view rows, matrix<double>& gram, double* sums, const kernels::resources& use);

/// The same with D = harmful - safe.
void add_difference_moments(any_view harmful, any_view safe, matrix<double>& gram, double* sums, const kernels::resources& use);

}  // namespace isic::detail
