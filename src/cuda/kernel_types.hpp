// SPDX-License-Identifier: Apache-2.0
/// \file
/// Types that several kernels take. Pointers are device pointers. nvcc compiles this file: no Eigen, no fmt.
///
/// Every function of the *_kernels.hpp headers queues kernels on a stream and returns the status of the launch.
#pragma once

#include <cstddef>
#include <cstdint>

#include <cuda_runtime_api.h>

#include <isic/cuda/matrix.hpp>

namespace isic::inline ISIC_ABI::cuda::detail {

/// An orthonormal basis V^T [rank x width], one basis vector per row; rank 0 removes nothing.
template <class A>
struct basis_view {
    const A* data;
    index_t rank;
    index_t width;
};

/// Largest width of the projection and of the updates: a row's working values must fit shared memory.
constexpr index_t widest_row = 4096;

/// Rows that are divided by their norms when read; rows of norm 0 are not.
struct scaled_rows {
    any_device_view rows;
    const double* norms;  ///< [rows]; null: rows are read as stored
};

}  // namespace isic::inline ISIC_ABI::cuda::detail
