// SPDX-License-Identifier: Apache-2.0
/// \file
/// Kernels of differences.cu: differences as float64 rows, ready for a Gram matrix.
#pragma once

#include "checks_kernels.hpp"

namespace isic::inline ISIC_ABI::cuda::detail {

/// Number of rows whose differences are summed together.
constexpr index_t rows_per_difference_part = 64;

/// out = harmful - safe, [n x d] float64 (safe.data null: zero); sums [ceil(n / rows_per_difference_part) x d] += the sums of each
/// part. A difference that is not finite is written as 0; not_finite counts rows from `first`.
cudaError_t subtract_rows(any_device_view harmful, any_device_view safe, index_t first, double* out, double* sums,
                          check_flags* flags, cudaStream_t stream);
/// out row t = codes[harmful[first + t]] - codes[safe[first + t]], t < n, and sums as above. A bad id sets bad_id and gives zeros.
cudaError_t subtract_codes(any_device_view codes, device_ids harmful, device_ids safe, index_t first, index_t n,
                           double* out, double* sums, check_flags* flags, cudaStream_t stream);
/// out row k = sqrt(counts[k]) * codes[k], [K x d] float64: its Gram matrix is the second moment of the counted codes.
cudaError_t weigh_codes(any_device_view codes, const unsigned long long* counts, double* out, cudaStream_t stream);
/// Copies the lower triangle of a column-major n x n matrix to the upper.
cudaError_t mirror_lower(double* a, index_t n, cudaStream_t stream);

}  // namespace isic::inline ISIC_ABI::cuda::detail
