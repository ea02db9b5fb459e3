// SPDX-License-Identifier: Apache-2.0
/// \file
/// Distances in float64, and bounds of rounding errors.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include <isic/detail/kernels/nearest.hpp>
#include <isic/detail/score_error.hpp>

namespace isic::inline ISIC_ABI::detail::kernels {

/// Squared distances of z to `Count` rows, each summed in column order. Independent sums hide the latency of additions.
template <std::size_t Count, class T>
std::array<double, Count> squared_distances(const T* z, const std::array<const T*, Count>& rows, index_t n) {
    std::array<double, Count> sum{};
    for (index_t k = 0; k < n; ++k) {
        for (std::size_t i = 0; i < Count; ++i) {
            const double step = static_cast<double>(z[k]) - static_cast<double>(rows[i][k]);
            sum[i] += step * step;
        }
    }
    return sum;
}

/// Upper bound of ||x - y||, exact to 1e-9; not finite if x is not, or if the square overflows float64.
template <class T>
double distance_bound(const T* x, const T* y, index_t n) {
    const auto square = [&](index_t k) {
        const double step = static_cast<double>(x[k]) - static_cast<double>(y[k]);
        return step * step;
    };
    double sum[8] = {};
    index_t k = 0;
    for (; k + 8 <= n; k += 8) {
        for (index_t j = 0; j < 8; ++j) {
            sum[j] += square(k + j);
        }
    }
    for (; k < n; ++k) {
        sum[0] += square(k);
    }
    return std::sqrt(((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]))) * (1 + 1e-9);
}

template <class T>
bool all_finite(const T* x, index_t n) {
    bool finite = true;
    for (index_t k = 0; k < n; ++k) {
        finite &= std::abs(x[k]) <= std::numeric_limits<T>::max();
    }
    return finite;
}

/// x - y in float32, clamped to its range.
template <class T>
float float32_difference(T x, T y) {
    if constexpr (sizeof(T) == sizeof(float)) {
        return x - y;
    } else {
        constexpr T largest = std::numeric_limits<float>::max();
        return static_cast<float>(std::clamp(x - y, -largest, largest));
    }
}

/// to = x - y [n] in float32.
template <class T>
void float32_difference(const T* x, const T* y, index_t n, float* to) {
    for (index_t k = 0; k < n; ++k) {
        to[k] = float32_difference(x[k], y[k]);
    }
}

/// Bound of the rounding error of a score; see score_error.hpp.
inline double score_error(double norm, double largest_norm, index_t width) {
    return detail::score_error<cpu_score_rounding>(norm, largest_norm, width);
}

/// A float32 value at or slightly above x.
inline float round_up(double x) {
    const double more =
        x + std::abs(x) * std::numeric_limits<float>::epsilon() + std::numeric_limits<float>::denorm_min();
    const bool fits = more < static_cast<double>(std::numeric_limits<float>::max());
    return fits ? static_cast<float>(more) : std::numeric_limits<float>::infinity();
}

/// Upper bound of a row's quantisation error, in units of its scale; it covers the rounding of the float32 sums.
inline double quantisation_error(const int8_row& row, index_t width) {
    return std::sqrt(static_cast<double>(row.squared_error)) * 1.001 + std::sqrt(static_cast<double>(width)) * 4e-5;
}

}  // namespace isic::inline ISIC_ABI::detail::kernels
