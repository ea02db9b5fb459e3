// SPDX-License-Identifier: Apache-2.0
/// \file
/// Rounding from float64 to the scalar types.
#pragma once

#include <bit>
#include <cmath>
#include <limits>

#include <isic/types.hpp>

namespace isic::inline ISIC_ABI::detail {

/// x rounded once to the nearest T, ties to even. 16-bit types are rounded by way of float, which is rounded to odd:
/// the second rounding is then exact (Boldo and Melquiond 2008).
template <scalar T>
T rounded(double x) {
    if constexpr (sizeof(T) < sizeof(float)) {
        float near = static_cast<float>(x);
        if (std::isfinite(near) && static_cast<double>(near) != x && (std::bit_cast<std::uint32_t>(near) & 1U) == 0) {
            const float infinity = std::numeric_limits<float>::infinity();
            near = std::nextafter(near, x > static_cast<double>(near) ? infinity : -infinity);
        }
        return static_cast<T>(near);
    } else {
        return static_cast<T>(x);
    }
}

/// The unit roundoff of T, half the spacing at 1.
template <scalar T>
double rounding_unit() {
    return std::ldexp(1.0, -std::numeric_limits<T>::digits);
}

/// The largest finite value of T as float64.
template <scalar T>
double largest() {
    return static_cast<double>(std::numeric_limits<T>::max());
}

}  // namespace isic::inline ISIC_ABI::detail
