// SPDX-License-Identifier: Apache-2.0
/// \file
/// A subspace from the eigenpairs of a second moment; shared by every backend.
#pragma once

#include <optional>

#include <isic/subspace.hpp>

#include <isic/detail/gram_schmidt.hpp>

namespace isic::inline ISIC_ABI::detail {

/// The last step of `fit_subspace`: the rank by the rules, the basis and the energy, from the leading eigenpairs of a
/// second moment of n differences and its trace.
ISIC_INTERNAL_API subspace subspace_of_pairs(const eigen_pairs& pairs, double trace, index_t n, const rank_options& o,
                                             std::optional<index_t> flips_allow);

}  // namespace isic::inline ISIC_ABI::detail
