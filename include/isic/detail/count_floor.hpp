// SPDX-License-Identifier: Apache-2.0
/// \file
/// The count below which a moving average is flushed to zero; shared by every backend.
#pragma once

#include <isic/detail/config.hpp>

namespace isic::inline ISIC_ABI::detail {

/// Smaller counts and their sums are flushed to zero before they become denormal.
template <class T>
inline constexpr T count_floor = sizeof(T) == sizeof(float) ? T(1e-30) : T(1e-290);

}  // namespace isic::inline ISIC_ABI::detail
