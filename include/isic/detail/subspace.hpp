// A subspace from the eigenpairs of a second moment.
#pragma once

#include <optional>

#include <isic/subspace.hpp>

#include <isic/detail/gram_schmidt.hpp>

namespace isic::inline ISIC_ABI::detail {

/// The subspace that the rules choose from the leading eigenpairs of a second moment of n differences with that trace.
ISIC_API subspace subspace_of_pairs(const eigen_pairs& pairs, double trace, index_t n, const rank_options& o, std::optional<index_t> flips_allow);

}  // namespace isic::inline ISIC_ABI::detail
