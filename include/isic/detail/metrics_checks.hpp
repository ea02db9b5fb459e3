// SPDX-License-Identifier: Apache-2.0
/// \file
/// Argument checks of leakage, drift and churn; shared by every backend. A view passes its shape only: its values are not read.
#pragma once

#include <span>
#include <string_view>

#include <isic/detail/checks.hpp>
#include <isic/detail/gram_schmidt.hpp>
#include <isic/subspace.hpp>

namespace isic::inline ISIC_ABI::detail {

/// Throws unless subspace and center [d] fit a codebook.
inline void check_leakage(any_view codes, const subspace& harm, std::span<const double> center, int threads = 0) {
    constexpr std::string_view function = "leakage";
    require_not_empty(function, "a codebook", codes);
    require_size(function, "rows in the basis", codes.cols, harm.width());
    require_threads(function, threads);
    if (!center.empty()) {
        require_size(function, "values in the center", codes.cols, static_cast<index_t>(center.size()));
        require_finite(function, "the center", center);
    }
    require_orthonormal(function, harm.basis);
}

/// Throws unless two codebooks have one shape.
inline void check_drift(any_view before, any_view after) {
    constexpr std::string_view function = "drift";
    require_not_empty(function, "a codebook", before);
    require_size(function, "rows after", before.rows, after.rows);
    require_size(function, "columns after", before.cols, after.cols);
}

/// Throws numeric_error if the codebook before is zero: then there is no relative change.
inline void require_nonzero_before(double whole) {
    require<numeric_error>(whole > 0, "drift", "a codebook before that is not zero", "zeros only");
}

/// Throws unless there are vectors, and as many codes after as before.
inline void check_nearest_code_churn(any_view vectors, any_view before, any_view after) {
    constexpr std::string_view function = "nearest_code_churn";
    require_size(function, "codes after", before.rows, after.rows);
    require_not_empty(function, "vectors", vectors);
}

}  // namespace isic::inline ISIC_ABI::detail
