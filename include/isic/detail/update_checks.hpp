// SPDX-License-Identifier: Apache-2.0
/// \file
/// Argument checks of the updates, checked and fused; shared by every backend.
#pragma once

#include <cmath>
#include <string_view>

#include <fmt/format.h>

#include <isic/detail/checks.hpp>
#include <isic/update.hpp>

namespace isic::inline ISIC_ABI::detail {

/// Throws value_error unless lambda is finite and not negative.
inline void check_lambda(std::string_view function, double lambda) {
    require<value_error>(lambda >= 0 && std::isfinite(lambda), function, "a finite lambda >= 0",
                         fmt::format("{}", lambda));
}

/// Throws value_error unless the decay is in [0, 1).
inline void check_decay(std::string_view function, double decay) {
    require<value_error>(decay >= 0 && decay < 1, function, "decay in [0, 1)", fmt::format("{}", decay));
}

/// Throws value_error if a state has a negative number of steps.
inline void check_steps(std::string_view function, index_t steps) {
    require<value_error>(steps >= 0, function, "steps >= 0 in the state", fmt::format("{}", steps));
}

/// Throws shape_error unless a gradient has the codebook's shape [rows x cols].
inline void check_gradient_shape(std::string_view function, index_t rows, index_t cols, index_t gradient_rows,
                                 index_t gradient_cols) {
    require_size(function, "gradient rows", rows, gradient_rows);
    require_size(function, "gradient columns", cols, gradient_cols);
}

/// Throws shape_error unless assignments have one count and one row of sums per code [rows x cols].
inline void check_assignments_shape(std::string_view function, index_t rows, index_t cols, index_t counts,
                                    index_t sum_rows, index_t sum_cols) {
    require_size(function, "counts", rows, counts);
    require_size(function, "rows of sums", rows, sum_rows);
    require_size(function, "columns of sums", cols, sum_cols);
}

/// Throws shape_error unless a moving average has one count and one row of sums per code [rows x cols].
inline void check_ema_state(std::string_view function, index_t rows, index_t cols, index_t counts, index_t sum_rows,
                            index_t sum_cols) {
    require_size(function, "counts in the state", rows, counts);
    require_size(function, "rows of sums in the state", rows, sum_rows);
    require_size(function, "columns of sums in the state", cols, sum_cols);
}

/// The same for a fused update.
inline void check_fused_ema_state(std::string_view function, index_t rows, index_t cols, index_t counts,
                                  index_t sum_rows, index_t sum_cols) {
    require_size(function, "counts in the state", rows, counts);
    require_size(function, "rows in the state", rows, sum_rows);
    require_size(function, "columns in the state", cols, sum_cols);
}

/// Throws unless `n` vectors of `width` values and `ids` ids fit a fused moving average of width d.
inline void check_fused_ema_batch(std::string_view function, index_t d, index_t n, index_t width, index_t ids) {
    require_size(function, "columns in the vectors", d, width);
    require_size(function, "ids", n, ids);
}

/// Throws shape_error unless a fused step's basis has the codes' width; a basis of rank 0 fits every width.
inline void check_fused_basis(std::string_view function, index_t cols, index_t rank, index_t width) {
    if (rank > 0) {
        require_size(function, "columns in the basis", cols, width);
    }
}

/// Throws shape_error unless there is one id per vector, and at least one code.
inline void check_assign(std::string_view function, index_t codes, index_t vectors, index_t ids) {
    require<shape_error>(codes > 0, function, "at least one code", fmt::format("{}", codes));
    require_size(function, "ids", vectors, ids);
}

}  // namespace isic::inline ISIC_ABI::detail
