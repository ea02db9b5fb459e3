/// \file
/// The count below which a moving average is empty; shared by every backend.
#pragma once

#include <isic/detail/config.hpp>

namespace isic::inline ISIC_ABI::detail {

/// A smaller count is flushed to zero, and so are its sums: close to the denormals they would lose their digits.
template <class T>
inline constexpr T count_floor = sizeof(T) == sizeof(float) ? T(1e-30) : T(1e-290);

}  // namespace isic::inline ISIC_ABI::detail
