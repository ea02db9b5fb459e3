// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <isic/version.hpp>

namespace isic::inline ISIC_ABI {

ISIC_INLINE const char* linked_version() noexcept {
    return version_string;
}

}  // namespace isic::inline ISIC_ABI
