// A subspace from the eigenpairs of a second moment.
#pragma once

#include <optional>

#include <isic/subspace.hpp>

#include "orthonormal.hpp"

namespace isic::detail {

/// The subspace that the rules choose from the leading eigenpairs of a second moment of n differences with that trace.
subspace subspace_of_pairs(const eigen_pairs& pairs, double trace, index_t n, const rank_options& o, std::optional<index_t> flips_allow);

}  // namespace isic::detail
