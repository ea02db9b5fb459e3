/// \file
/// Leading eigenpairs of a symmetric positive semi-definite matrix on the device.
#pragma once

#include <isic/cuda/subspace.hpp>

#include <isic/detail/gram_schmidt.hpp>

#include "runtime.hpp"

namespace isic::inline ISIC_ABI::cuda::detail {

/// Pairs on the host, and who found them.
struct solved {
    isic::detail::eigen_pairs pairs;
    eigen_solver solver;
};

/// The leading `wanted` eigenpairs of a column-major d x d matrix whose lower triangle counts; its memory is used up.
/// all_values: every solver but `randomised`, and all d values. Errors: cuda_error.
solved leading_eigenpairs(const std::shared_ptr<state>& s, double* a, index_t d, index_t wanted, bool all_values, eigen_solver solver);

}  // namespace isic::inline ISIC_ABI::cuda::detail
