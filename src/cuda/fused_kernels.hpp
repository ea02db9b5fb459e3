// SPDX-License-Identifier: Apache-2.0
/// \file
/// Kernels of fused.cu: fused steps in the arithmetic A of the rows, double for float64, float for every other type.
/// `multiprocessors`: number of SMs of the device.
#pragma once

#include "kernel_types.hpp"

namespace isic::inline ISIC_ABI::cuda::detail {

/// Arguments of queue_projection.
template <class A>
struct projection_step {
    any_device_span rows;
    basis_view<A> basis;
    const A* strength;  ///< [n]; null: `uniform` for all
    A uniform;
    const A* center;   ///< [d]; null: zero
    const A* weights;  ///< [rank]; null: all 1
};
template <class A>
cudaError_t queue_projection(const projection_step<A>& a, int multiprocessors, cudaStream_t stream);

/// Arguments of queue_adam.
template <class A>
struct adam_step {
    any_device_span codes;
    any_device_view gradient;
    any_device_span mean;    ///< [K x d] of A
    any_device_span square;  ///< [K x d] of A
    basis_view<A> basis;
    const std::uint8_t* locked;  ///< [K]; null: none
    A beta1;
    A beta2;
    A epsilon;
    A step_scale;           ///< -rate / bias_correction1
    A inverse_correction2;  ///< 1 / bias_correction2
};
template <class A>
cudaError_t queue_adam(const adam_step<A>& a, int multiprocessors, cudaStream_t stream);

/// Arguments of queue_ema.
template <class A>
struct ema_step {
    any_device_span codes;
    any_device_view vectors;
    const std::int64_t* order;   ///< positions of the vectors, sorted by code
    const std::int64_t* starts;  ///< [K + 1]: the first position of each code
    A* counts;                   ///< [K]
    A* sums;                     ///< [K x d]
    basis_view<A> basis;
    const std::uint8_t* locked;  ///< [K]; null: none
    A decay;
};
template <class A>
cudaError_t queue_ema(const ema_step<A>& a, int multiprocessors, cudaStream_t stream);
/// One count of the present row per code: counts [K], sums [K x d].
template <class A>
cudaError_t start_ema(any_device_view codes, A* counts, A* sums, cudaStream_t stream);

}  // namespace isic::inline ISIC_ABI::cuda::detail
