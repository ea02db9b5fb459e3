// SPDX-License-Identifier: Apache-2.0
/// \file
/// Kernels of metrics.cu: one partial result per block of rows, so that every run gives the same sums.
#pragma once

#include "kernel_types.hpp"

namespace isic::inline ISIC_ABI::cuda::detail {

/// Rows per partial result.
constexpr index_t rows_per_partial = 256;

/// A partial result of measure_leakage.
struct leakage_part {
    double inside;   ///< sum ||(c - center) V||^2
    double all;      ///< sum ||c - center||^2
    double largest;  ///< largest inside / all of a row
};
/// parts [ceil(K / rows_per_partial)]. Rows are divided by their norms first if `normalise`.
cudaError_t measure_leakage(any_device_view codes, basis_view<double> basis, const double* center,
                            const std::uint8_t* padding, bool normalise, leakage_part* parts, cudaStream_t stream);

/// norms [rows].
cudaError_t measure_norms(any_device_view m, double* norms, cudaStream_t stream);

/// A partial result of measure_drift.
struct drift_part {
    double change;    ///< sum ||after - before||^2
    double whole;     ///< sum ||before||^2
    double distance;  ///< sum ||after - before||
    double largest;   ///< max ||after - before||
    double moved;     ///< number of rows that differ
};
/// parts [ceil(K / rows_per_partial)].
cudaError_t measure_drift(any_device_view before, any_device_view after, const std::uint8_t* padding, drift_part* parts,
                          cudaStream_t stream);
/// *differing += number of positions where a and b differ.
cudaError_t count_differing(const std::int64_t* a, const std::int64_t* b, index_t n, unsigned long long* differing,
                            cudaStream_t stream);

}  // namespace isic::inline ISIC_ABI::cuda::detail
