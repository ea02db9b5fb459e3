// SPDX-License-Identifier: Apache-2.0
/// \file
/// The result of a projection for one row; shared by every backend.
#pragma once

#include <cstdint>

#include <isic/detail/config.hpp>

namespace isic::inline ISIC_ABI::detail {

/// The result of a projection for one row.
enum class row_status : std::uint8_t {
    stays,     ///< its bytes stay
    moved,     ///< its bytes changed
    near_zero  ///< projection leaves only rounding errors or a small share of its norm; `near_zero_policy` decides
};

}  // namespace isic::inline ISIC_ABI::detail
