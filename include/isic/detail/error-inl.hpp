// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fmt/format.h>

#include <isic/error.hpp>

namespace isic::inline ISIC_ABI::detail {

ISIC_INLINE std::string message(std::string_view function, std::string_view expected, std::string_view got) {
    return fmt::format("isic::{}: expected {}, got {}", function, expected, got);
}

}  // namespace isic::inline ISIC_ABI::detail
