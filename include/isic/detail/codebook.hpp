// SPDX-License-Identifier: Apache-2.0
// Rows of a codebook in float64, prepared for a metric.
#pragma once

#include <isic/codebook.hpp>
#include <isic/detail/eigen_view.hpp>

namespace isic::inline ISIC_ABI::detail {

/// Rows in float64, divided by their norms for the cosine metric; zero rows stay zero. Sums are in column order, so
/// that equal rows give equal values at any address.
row_matrix read_rows(any_view m, metric metric = metric::l2);

}  // namespace isic::inline ISIC_ABI::detail
