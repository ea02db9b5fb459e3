// SPDX-License-Identifier: Apache-2.0
/// \file
/// Kernels of projection.cu.
#pragma once

#include <isic/detail/row_status.hpp>

#include "checks_kernels.hpp"

namespace isic::inline ISIC_ABI::cuda::detail {

using isic::detail::row_status;

/// Arguments of project_codes.
struct projection_arguments {
    any_device_span codes;  ///< [K x d]
    const double* basis;    ///< V^T [rank x d]; null: the identity, a full remap
    index_t rank;
    const double* weights;    ///< [rank]; null: all 1
    const double* strengths;  ///< [K]; null: `strength` for all
    double strength;
    const double* target;         ///< [K x d] contiguous; null: the centre
    const double* center;         ///< [d]; null: zero
    const std::uint8_t* padding;  ///< [K]; null: none
    bool keep_norms;
    bool normalised;  ///< rows are divided by their norms when read
    double near_zero_below;
    row_status* statuses;  ///< [K], written
    check_flags* flags;    ///< a row that overflows sets `overflow` and keeps its bytes
};

cudaError_t project_codes(const projection_arguments& a, cudaStream_t stream);
/// m row to[i] = m row from[i], byte by byte; statuses[to[i]] is `moved` if bytes changed. No row is in both lists.
cudaError_t replace_rows(any_device_span m, const std::int64_t* to, const std::int64_t* from, index_t n,
                         row_status* statuses, cudaStream_t stream);
/// m row to[i] = 0; statuses[to[i]] is `moved` if bytes changed.
cudaError_t clear_rows(any_device_span m, const std::int64_t* to, index_t n, row_status* statuses, cudaStream_t stream);

}  // namespace isic::inline ISIC_ABI::cuda::detail
