/// \file
/// Two subspaces: merged, over rounds or concepts, and compared by the angles between them.
#pragma once

#include <vector>

#include <isic/matrix.hpp>
#include <isic/subspace.hpp>

namespace isic {

/// The smallest subspace that contains both: rounds, or concepts. The first's columns come first, unchanged.
///
/// Directions of `second` within `tolerance` (sine of the angle) of `first` add nothing. The result's singular_values
/// are one per column: the size along it of both's differences, as far as these lie in their own bases; its energy is the
/// share that they are of all squared singular values of both: merged with itself, a subspace keeps its energy. A subspace
/// of rank 0 adds nothing, whatever its width if it is `subspace{}`. Errors: shape_error if the widths differ; value_error unless
/// tolerance is in [0, 1) and max_rank >= 0, or if the merged rank exceeds max_rank (0: no limit but d).
subspace merge(const subspace& first, const subspace& second, double tolerance = 1e-8, index_t max_rank = 0);

/// Principal angles between two subspaces in radians, ascending, min(r1, r2) of them.
///
/// Small angles come from sines, large ones from cosines, so both ends are accurate. Errors: shape_error if the widths
/// differ or a rank is zero. Source: Knyazev and Argentati (2002).
std::vector<double> principal_angles(const subspace& first, const subspace& second);

}  // namespace isic
