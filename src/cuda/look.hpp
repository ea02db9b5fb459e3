/// \file
/// Looking through device values before they are used; the errors are those of the CPU functions.
#pragma once

#include <vector>

#include "kernels.hpp"
#include "runtime.hpp"

namespace isic::inline ISIC_ABI::cuda {

/// Bytes of one value.
inline index_t bytes_of(dtype type) {
    return type == dtype::f64 ? 8 : type == dtype::f32 ? 4 : 2;
}

/// Nothing found yet.
scratch<findings> nothing(const std::shared_ptr<state>& s);

/// What the kernels found. Waits.
findings found_by(state& s, const scratch<findings>& found);

/// Throws numeric_error naming the first value that is not finite; returns whether any is not zero. Waits.
bool require_finite_rows(const std::shared_ptr<state>& s, rows_in m, const std::uint8_t* skip, std::string_view function, std::string_view name);

/// Throws value_error naming the first id outside [0, codes). Waits.
void require_ids_inside(const std::shared_ptr<state>& s, ids_in ids, index_t codes, std::string_view function);

/// Hash of the values' bytes. Waits.
std::uint64_t hash_of(const std::shared_ptr<state>& s, rows_in m);

/// Padding ids as a mask on the device; empty if there are none. Errors: value_error on ids. Waits.
scratch<std::uint8_t> padding_mask_of(const std::shared_ptr<state>& s, std::span<const index_t> padding, index_t codes, std::string_view function);

}  // namespace isic::inline ISIC_ABI::cuda
