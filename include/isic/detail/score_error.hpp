// SPDX-License-Identifier: Apache-2.0
/// \file
/// Bound of the rounding error of float32 scores ||c||^2 / 2 - z.c; compiled by the host's compiler and by nvcc.
#pragma once

#include <limits>

#include <isic/detail/config.hpp>

/// \def ISIC_HOST_DEVICE
/// Before a function that kernels call, too.
#if defined(__CUDACC__) || defined(ISIC_KERNEL_SHIM)
#define ISIC_HOST_DEVICE __host__ __device__
#else
#define ISIC_HOST_DEVICE
#endif

namespace isic::inline ISIC_ABI::detail {

/// Constants of the bound on the CPU: from the limits of float.
struct cpu_score_rounding {
    /// Relative error of one float32 operation: 2^-24 and 1 % more.
    static constexpr double unit = 0.505 * static_cast<double>(std::numeric_limits<float>::epsilon());
    /// Absolute error of one float32 operation.
    static constexpr double underflow = static_cast<double>(std::numeric_limits<float>::min());
};

/// Constants of the bound on a device: the same two in three digits. They differ from the CPU's in the fifth digit. The bound
/// decides which queries are re-ranked, never an id; each backend keeps its constants, so that its work stays the same.
struct cuda_score_rounding {
    static constexpr double unit = 6.02e-8;       ///< relative error of one float32 operation
    static constexpr double underflow = 1.2e-38;  ///< absolute error of one float32 operation
};

/// Larger scores may overflow float32.
inline constexpr double largest_safe_score = 0.25 * static_cast<double>(std::numeric_limits<float>::max());
/// The bound of scores that may overflow.
inline constexpr double unbounded_score_error = std::numeric_limits<double>::infinity();

/// Bound of the error of a score: rounding of the packed values, of the products and of the sum, and of the float64 distances that
/// re-rank. Infinite where scores may overflow. Both norms are of packed vectors.
template <class Rounding>
ISIC_HOST_DEVICE constexpr double score_error(double norm, double largest_norm, long long width) {
    const double terms = static_cast<double>(width + 10);
    const double size = norm * largest_norm + largest_norm * largest_norm / 2;
    if (!(size < largest_safe_score)) {
        return unbounded_score_error;
    }
    const double both = norm + largest_norm;
    return terms * (Rounding::unit * size + 2.5e-16 * both * both + Rounding::underflow);
}

}  // namespace isic::inline ISIC_ABI::detail
