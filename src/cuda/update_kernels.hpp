// SPDX-License-Identifier: Apache-2.0
/// \file
/// Kernels of update.cu.
#pragma once

#include "kernel_types.hpp"

namespace isic::inline ISIC_ABI::cuda::detail {

/// A `constraint` on the device.
struct constraint_view {
    const std::uint8_t* locked;  ///< [K]; null: none
    basis_view<double> orthogonal_to;
    bool keep_norms;
    double within;         ///< infinity: no radius
    const double* anchor;  ///< [K x d]; null without a radius
};

/// An `update_summary` on the device. Initialise with 0.
struct update_counts {
    unsigned long long moved;
    unsigned long long overflowed;
    unsigned long long largest_step;  ///< bits of a double >= 0, which order as integers
};

enum class update_kind : int { ridge, ema, sgd, adam };

/// Arguments of update_rows; a rule reads its own fields only.
struct update_arguments {
    update_kind kind;
    any_device_span codes;
    constraint_view limits;
    update_counts* summary;
    // ridge, ema
    const double* counts;  ///< [K]
    const double* sums;    ///< [K x d]
    double lambda;
    double decay;
    // sgd, adam
    any_device_view gradient;
    double rate;
    double momentum;
    double beta1;
    double beta2;
    double epsilon;
    double bias_correction1;
    double bias_correction2;
    // state
    any_device_span first;   ///< [K x d]; ema: sums; sgd: velocity; adam: mean
    any_device_span second;  ///< [K x d]; adam: square
    double* state_counts;    ///< [K]; ema: counts
};
cudaError_t update_rows(const update_arguments& a, cudaStream_t stream);

/// sums [K x d] and counts [K] of vectors by id, added in the order of the vectors: every run gives the same sums.
/// order [n]: positions sorted by id, equal ids in ascending position; starts [K + 1]: the first position of each code.
cudaError_t sum_by_code(any_device_view vectors, const std::int64_t* order, const std::int64_t* starts, index_t codes,
                        double* counts, double* sums, cudaStream_t stream);

}  // namespace isic::inline ISIC_ABI::cuda::detail
