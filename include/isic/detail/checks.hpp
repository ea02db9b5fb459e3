// SPDX-License-Identifier: Apache-2.0
/// \file
/// Argument checks, shared by all backends. The errors name the function, the expected and the actual value.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include <isic/detail/id_list.hpp>
#include <isic/matrix.hpp>

namespace isic::inline ISIC_ABI::detail {

/// Throws value_error unless low <= value <= high; NaN fails.
ISIC_API void require_range(std::string_view function, std::string_view name, double value, double low, double high);

/// Throws value_error if `threads` is negative.
ISIC_API void require_threads(std::string_view function, int threads);

/// Throws shape_error unless both counts are equal.
ISIC_API void require_size(std::string_view function, std::string_view name, index_t expected, index_t got);

/// Throws numeric_error naming the first value that is not finite; rows marked in `skipped` are not read.
ISIC_API void require_finite(std::string_view function, std::string_view name, any_view m,
                             const std::vector<bool>* skipped = nullptr);
ISIC_API void require_finite(std::string_view function, std::string_view name, std::span<const double> values);

/// Throws shape_error unless the matrix has at least one row and column.
ISIC_API void require_not_empty(std::string_view function, std::string_view name, any_view m);

/// Throws shape_error unless there is one value per code, value_error unless each lies in [0, 1].
ISIC_API void require_shares(std::string_view function, std::string_view name, std::span<const double> values,
                             index_t codes);

/// Throws value_error naming the first id outside [0, codes).
ISIC_API void require_ids(std::string_view function, const id_list& ids, index_t codes);

/// One mark per code: whether it is padding. Throws as `require_ids`.
ISIC_API std::vector<bool> padding_mask(std::string_view function, std::span<const index_t> padding, index_t codes);

/// Throws value_error unless all values are finite and not negative.
ISIC_API void require_counts(std::string_view function, std::span<const double> counts);

/// Throws value_error if two views share bytes. Column blocks of one matrix that do not overlap are apart.
ISIC_API void require_apart(std::string_view function, any_view a, any_view b);
/// The same for a vector.
ISIC_API void require_apart(std::string_view function, any_view a, std::span<const double> b);

}  // namespace isic::inline ISIC_ABI::detail

#ifdef ISIC_HEADER_ONLY
#include <isic/detail/checks-inl.hpp>
#endif
