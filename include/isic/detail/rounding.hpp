/// \file
/// Rounding from float64 to the storage types.
#pragma once

#include <bit>
#include <cmath>
#include <limits>

#include <isic/types.hpp>

namespace isic::inline ISIC_ABI::detail {

/// x as T, rounded once to nearest. A detour through float would round twice; rounding to an odd float first keeps what the
/// second rounding needs.
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

/// Half the spacing of T at 1: the relative error of one rounding.
template <scalar T>
double rounding_unit() {
    return std::ldexp(1.0, -std::numeric_limits<T>::digits);
}

/// Largest finite value of T as float64.
template <scalar T>
double largest() {
    return static_cast<double>(std::numeric_limits<T>::max());
}

}  // namespace isic::inline ISIC_ABI::detail
