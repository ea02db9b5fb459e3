// SPDX-License-Identifier: Apache-2.0
/// \file
/// Validation of device values. Errors are those of the CPU functions.
#pragma once

#include <vector>

#include "checks_kernels.hpp"
#include "runtime.hpp"

namespace isic::inline ISIC_ABI::cuda::detail {

/// Flags that no check has set.
scratch<check_flags> make_check_flags(const std::shared_ptr<state>& s);

/// The flags on the host. Waits.
check_flags read_check_flags(state& s, const scratch<check_flags>& flags);

/// A host view of the same shape and type, without an address: for checks of shapes.
inline any_view shape_of(any_device_view m) {
    return {nullptr, m.rows, m.cols, m.stride, m.type};
}

/// Throws value_error unless rows fit the working memory of a block.
void require_width(std::string_view function, index_t width);

/// Throws numeric_error naming the first value that is not finite; returns whether any is not zero. Waits.
bool require_finite_rows(const std::shared_ptr<state>& s, any_device_view m, const std::uint8_t* skip,
                         std::string_view function, std::string_view name);

/// Throws value_error naming the first id outside [0, codes). Waits.
void require_ids_inside(const std::shared_ptr<state>& s, device_ids ids, index_t codes, std::string_view function);

/// Hash of the values' bytes. Waits.
std::uint64_t hash_of(const std::shared_ptr<state>& s, any_device_view m);

/// Padding ids as a mask on the device; empty if there are none. Errors: value_error on ids. Waits.
scratch<std::uint8_t> padding_mask_of(const std::shared_ptr<state>& s, std::span<const index_t> padding, index_t codes,
                                      std::string_view function);

}  // namespace isic::inline ISIC_ABI::cuda::detail
