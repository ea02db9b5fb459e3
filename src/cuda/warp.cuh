// SPDX-License-Identifier: Apache-2.0
/// \file
/// Shared by the kernels: element types, and the work of a warp on one row.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include <isic/detail/count_floor.hpp>

#include "checks_kernels.hpp"
#include "launch.cuh"

namespace isic::inline ISIC_ABI::cuda::detail {

// IEEE half and bfloat16 as bits. Integer arithmetic converts them: every machine gives the same values, rounded once from float64
// as on the CPU.

struct half_bits {
    std::uint16_t bits;
};
struct bfloat_bits {
    std::uint16_t bits;
};
static_assert(sizeof(half_bits) == sizeof(half) && alignof(half_bits) == alignof(half) &&
                  sizeof(bfloat_bits) == sizeof(bfloat16) && alignof(bfloat_bits) == alignof(bfloat16),
              "half and bfloat16 are stored as their bits");

__device__ inline std::uint32_t bits_of(float x) {
    std::uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}
__device__ inline float float_of(std::uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

__device__ inline double widen(float x) {
    return static_cast<double>(x);
}
__device__ inline double widen(double x) {
    return x;
}
__device__ inline double widen(bfloat_bits x) {
    return static_cast<double>(float_of(static_cast<std::uint32_t>(x.bits) << 16));
}
__device__ inline double widen(half_bits x) {
    const std::uint32_t sign = static_cast<std::uint32_t>(x.bits & 0x8000U) << 16;
    const std::uint32_t rest = x.bits & 0x7fffU;
    if (rest >= 0x7c00U) {
        return static_cast<double>(float_of(sign | 0x7f800000U | ((rest & 0x3ffU) << 13)));
    }
    // The exponent's bias differs by 112; the product also normalises subnormal halves.
    const double size = static_cast<double>(float_of(rest << 13)) * 5.192296858534828e33;  // 2^112
    return sign != 0 ? -size : size;
}

/// x rounded to odd: toward zero, the last bit set if inexact. Rounding it once more to fewer bits is then exact rounding.
__device__ inline float cut_to_odd(double x) {
    const float near = static_cast<float>(x);
    const double back = static_cast<double>(near);
    if (!(fabs(back) <= 3.4028234663852886e38) || back == x) {
        return near;
    }
    std::uint32_t bits = bits_of(near);
    if (fabs(back) > fabs(x)) {
        --bits;
    }
    return float_of(bits | 1U);
}

template <class T>
struct rounding;
template <>
struct rounding<double> {
    static constexpr double unit = 1.1102230246251565e-16;
    static constexpr double least = 4.9406564584124654e-324;
    __device__ static double of(double x) { return x; }
};
template <>
struct rounding<float> {
    static constexpr double unit = 5.9604644775390625e-8;
    static constexpr double least = 1.4012984643248171e-45;
    __device__ static float of(double x) { return static_cast<float>(x); }
};
template <>
struct rounding<bfloat_bits> {
    static constexpr double unit = 0.00390625;
    static constexpr double least = 9.183549615799121e-41;
    __device__ static bfloat_bits of(double x) {
        std::uint32_t bits = bits_of(cut_to_odd(x));
        if ((bits & 0x7fffffffU) > 0x7f800000U) {
            return {static_cast<std::uint16_t>((bits >> 16) | 0x40U)};  // NaN stays NaN
        }
        bits += 0x7fffU + ((bits >> 16) & 1U);
        return {static_cast<std::uint16_t>(bits >> 16)};
    }
};
template <>
struct rounding<half_bits> {
    static constexpr double unit = 0.00048828125;
    static constexpr double least = 5.9604644775390625e-8;
    __device__ static half_bits of(double x) {
        const std::uint32_t all = bits_of(cut_to_odd(x));
        const std::uint16_t sign = static_cast<std::uint16_t>((all >> 16) & 0x8000U);
        std::uint32_t bits = all & 0x7fffffffU;
        if (bits > 0x7f800000U) {
            return {static_cast<std::uint16_t>(sign | 0x7e00U)};
        }
        if (bits >= 0x47800000U) {  // 2^16 and more
            return {static_cast<std::uint16_t>(sign | 0x7c00U)};
        }
        if (bits < 0x38800000U) {  // below 2^-14: subnormal; adding 0.5 puts its last bit at 2^-24
            const std::uint32_t sum = bits_of(float_of(bits) + 0.5F);
            return {static_cast<std::uint16_t>(sign | static_cast<std::uint16_t>(sum - 0x3f000000U))};
        }
        bits += 0xc8000000U + 0xfffU + ((bits >> 13) & 1U);  // bias 127 to 15, and half a last place
        return {static_cast<std::uint16_t>(sign | static_cast<std::uint16_t>(bits >> 13))};
    }
};

/// f(T{}) with the element type T.
template <class F>
cudaError_t with_storage(dtype type, F f) {
    switch (type) {
        case dtype::f32: return f(float{});
        case dtype::f64: return f(double{});
        case dtype::f16: return f(half_bits{});
        case dtype::bf16: return f(bfloat_bits{});
        default: return cudaErrorInvalidValue;
    }
}

/// One value of any element type; all threads take the same branch.
__device__ inline double value_at(const any_device_view& m, index_t i, index_t j) {
    const index_t at = i * m.stride + j;
    if (m.type == dtype::f32) {
        return widen(static_cast<const float*>(m.data)[at]);
    }
    if (m.type == dtype::f64) {
        return static_cast<const double*>(m.data)[at];
    }
    return m.type == dtype::f16 ? widen(static_cast<const half_bits*>(m.data)[at])
                                : widen(static_cast<const bfloat_bits*>(m.data)[at]);
}

__device__ inline double value_at(const any_device_span& m, index_t i, index_t j) {
    return value_at(any_device_view{m.data, m.type, m.rows, m.cols, m.stride}, i, j);
}

__device__ inline double scaled_value(const scaled_rows& m, index_t i, index_t j) {
    const double x = value_at(m.rows, i, j);
    return m.norms != nullptr && m.norms[i] > 0 ? x / m.norms[i] : x;
}

/// Whether two values have the same bits.
template <class T>
__device__ bool same_bits(T a, T b) {
    std::uint64_t bits_a = 0;
    std::uint64_t bits_b = 0;
    memcpy(&bits_a, &a, sizeof a);
    memcpy(&bits_b, &b, sizeof b);
    return bits_a == bits_b;
}

/// Stores a value in a matrix of float or double.
__device__ inline void put(const any_device_span& m, index_t i, index_t j, double value) {
    const index_t at = i * m.stride + j;
    if (m.type == dtype::f32) {
        static_cast<float*>(m.data)[at] = static_cast<float>(value);
    } else {
        static_cast<double*>(m.data)[at] = value;
    }
}

__device__ inline std::int64_t id_at(const device_ids& ids, index_t t) {
    return ids.wide ? static_cast<const std::int64_t*>(ids.data)[t] : static_cast<const std::int32_t*>(ids.data)[t];
}

constexpr float largest_float = 3.4028234663852886e38F;

__device__ inline bool is_finite(double x) {
    return fabs(x) <= 1.7976931348623157e308;
}

/// Records the lowest offender: *least = min(*least, position).
__device__ inline void record_first(std::uint64_t* least, std::uint64_t position) {
    static_assert(sizeof(std::uint64_t) == sizeof(unsigned long long));
    atomicMin(reinterpret_cast<unsigned long long*>(least), static_cast<unsigned long long>(position));
}

// The work of a warp on one row

constexpr int warp_lanes = 32;

__device__ inline int lane() {
    return static_cast<int>(threadIdx.x) % warp_lanes;
}

/// The sum over a warp, in every lane.
template <class A>
__device__ A warp_sum(A x) {
    for (int step = warp_lanes / 2; step > 0; step /= 2) {
        x += __shfl_xor_sync(0xffffffffU, x, step);
    }
    return x;
}

/// coefficients = V^T x; x [width] and coefficients [rank] in shared memory. Every lane of the warp calls it.
__device__ inline void coefficients_of(const double* x, const basis_view<double>& basis, double* coefficients) {
    for (index_t j = 0; j < basis.rank; ++j) {
        const double* direction = basis.data + j * basis.width;
        double part = 0;
        for (index_t c = lane(); c < basis.width; c += warp_lanes) {
            part += x[c] * direction[c];
        }
        part = warp_sum(part);
        if (lane() == 0) {
            coefficients[j] = part;
        }
    }
    __syncwarp();
}

/// V times coefficients at one column.
__device__ inline double combined(const basis_view<double>& basis, const double* coefficients, index_t column) {
    double sum = 0;
    for (index_t j = 0; j < basis.rank; ++j) {
        sum += coefficients[j] * basis.data[j * basis.width + column];
    }
    return sum;
}

/// x <- x - V V^T x; the second pass removes what rounding left.
__device__ inline void project_out(double* x, const basis_view<double>& basis, double* coefficients) {
    for (int pass = 0; pass < 2 && basis.rank > 0; ++pass) {
        coefficients_of(x, basis, coefficients);
        for (index_t c = lane(); c < basis.width; c += warp_lanes) {
            x[c] -= combined(basis, coefficients, c);
        }
        __syncwarp();
    }
}

/// ||x|| in every lane.
__device__ inline double norm_of(const double* x, index_t width) {
    double square = 0;
    for (index_t c = lane(); c < width; c += warp_lanes) {
        square += x[c] * x[c];
    }
    return sqrt(warp_sum(square));
}

/// A launch with one warp per row and `values` doubles of shared memory per warp.
struct row_launch {
    dim3 grid;
    dim3 block;
    std::size_t shared;
};

inline row_launch launch_for_rows(index_t rows, index_t values) {
    constexpr std::size_t most = most_dynamic_shared_memory;
    const std::size_t each = static_cast<std::size_t>(values) * sizeof(double);
    std::size_t warps = each == 0 ? 8 : most / each;
    warps = warps < 1 ? 1 : warps > 8 ? 8 : warps;
    const index_t blocks = (rows + static_cast<index_t>(warps) - 1) / static_cast<index_t>(warps);
    return {dim3(static_cast<unsigned>(blocks)), dim3(static_cast<unsigned>(warps) * warp_lanes), warps * each};
}

/// The row of the calling warp.
__device__ inline index_t warp_row() {
    return static_cast<index_t>(blockIdx.x) * (blockDim.x / warp_lanes) + threadIdx.x / warp_lanes;
}

/// Index of this thread in a one-dimensional launch.
__device__ inline index_t thread_number() {
    return static_cast<index_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

constexpr int threads_per_block = 256;

inline dim3 blocks_for(index_t threads) {
    return dim3(static_cast<unsigned>((threads + threads_per_block - 1) / threads_per_block));
}

}  // namespace isic::inline ISIC_ABI::cuda::detail
