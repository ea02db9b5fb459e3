// SPDX-License-Identifier: Apache-2.0
/// \file
/// Leading eigenpairs of a symmetric positive semi-definite matrix on the device.
#pragma once

#include <isic/cuda/subspace.hpp>

#include <isic/detail/gram_schmidt.hpp>

#include "runtime.hpp"

namespace isic::inline ISIC_ABI::cuda::detail {

/// Eigenpairs on the host, and the solver that computed them.
struct solved {
    isic::detail::eigen_pairs pairs;
    eigen_solver solver;
};

/// The leading `wanted` eigenpairs of a column-major d x d matrix, of which the lower triangle is read; overwrites it.
/// all_values: all d values, by any solver but `randomised`. Errors: cuda_error.
solved leading_eigenpairs(const std::shared_ptr<state>& s, double* a, index_t d, index_t wanted, bool all_values,
                          eigen_solver solver);

}  // namespace isic::inline ISIC_ABI::cuda::detail
