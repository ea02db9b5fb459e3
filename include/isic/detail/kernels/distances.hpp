/// \file
/// Distances in float64, and how far rounded scores may be off.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include <isic/detail/kernels/nearest.hpp>
#include <isic/detail/score_error.hpp>

namespace isic::inline ISIC_ABI::detail::kernels {

/// Squared distances from several rows, each summed in order; side by side, for an addition waits for the one before.
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

/// ||x - y||, a little too large rather than too small; not finite if x is not, or if its square is beyond float64.
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

/// x - y in float32; what does not fit becomes the largest number.
template <class T>
float packed_difference(T x, T y) {
    if constexpr (sizeof(T) == sizeof(float)) {
        return x - y;
    } else {
        constexpr T largest = std::numeric_limits<float>::max();
        return static_cast<float>(std::clamp(x - y, -largest, largest));
    }
}

template <class T>
void difference(const T* x, const T* y, index_t n, float* to) {
    for (index_t k = 0; k < n; ++k) {
        to[k] = packed_difference(x[k], y[k]);
    }
}

/// Bound of the error of a score.
inline double score_error(double norm, double largest_norm, index_t width) {
    return detail::score_error<cpu_score_rounding>(norm, largest_norm, width);
}

/// A float32 no less than x, and little more.
inline float rounded_up(double x) {
    const double more = x + std::abs(x) * std::numeric_limits<float>::epsilon() + std::numeric_limits<float>::denorm_min();
    const bool fits = more < static_cast<double>(std::numeric_limits<float>::max());
    return fits ? static_cast<float>(more) : std::numeric_limits<float>::infinity();
}

/// What a row lost when it was rounded to bytes, in units of its scale, and what the float32 sums may have lost of that.
inline double lost_by(const rounded_row& row, index_t width) {
    return std::sqrt(static_cast<double>(row.lost)) * 1.001 + std::sqrt(static_cast<double>(width)) * 4e-5;
}

}  // namespace isic::inline ISIC_ABI::detail::kernels
