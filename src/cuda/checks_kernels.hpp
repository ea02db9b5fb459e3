// SPDX-License-Identifier: Apache-2.0
/// \file
/// Kernels of checks.cu: validation, histograms and hashes of rows and ids.
#pragma once

#include "kernel_types.hpp"

namespace isic::inline ISIC_ABI::cuda::detail {

/// The value of a check flag that no row or id has set.
constexpr std::uint64_t no_offender = ~std::uint64_t{0};

/// Results of checks on the device. Initialise every field with no_offender, `any` with 0.
struct check_flags {
    std::uint64_t not_finite;  ///< lowest row * cols + column that holds NaN or infinity
    std::uint64_t bad_id;      ///< lowest position of an id outside its range
    std::uint64_t overflow;    ///< lowest row whose new values exceed the element type
    std::uint64_t any;         ///< 1 if a value is not zero
};

/// Sets not_finite and any. Rows with skip[k] != 0 are left out; skip null: none.
cudaError_t check_finite(any_device_view m, const std::uint8_t* skip, check_flags* flags, cudaStream_t stream);
/// Sets bad_id for ids outside [0, codes).
cudaError_t check_ids(device_ids ids, index_t codes, check_flags* flags, cudaStream_t stream);
/// out row i = m row ids[i] (ids null: row i) as float64, divided by its norm if `normalise`; rows of norm 0 are not divided.
/// out [n x cols] contiguous.
cudaError_t widen_rows(any_device_view m, const std::int64_t* ids, index_t n, bool normalise, double* out,
                       cudaStream_t stream);
/// counts[id] += 1 for ids in [0, codes).
cudaError_t count_codes(device_ids ids, index_t codes, unsigned long long* counts, cudaStream_t stream);
/// to[k] += from[k], k < n.
cudaError_t add_counts(const unsigned long long* from, index_t n, unsigned long long* to, cudaStream_t stream);
/// Merges `from` into `to`.
cudaError_t merge_check_flags(const check_flags* from, check_flags* to, cudaStream_t stream);
/// *hash += hash of the values' bytes and positions, without the gaps between rows. Initialise *hash with 0.
cudaError_t hash_rows(any_device_view m, unsigned long long* hash, cudaStream_t stream);

}  // namespace isic::inline ISIC_ABI::cuda::detail
