// SPDX-License-Identifier: Apache-2.0
/// \file
/// Argument checks and near-zero policy of the projection; shared by every backend.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include <isic/detail/checks.hpp>
#include <isic/detail/gram_schmidt.hpp>
#include <isic/detail/row_status.hpp>
#include <isic/projection.hpp>

namespace isic::inline ISIC_ABI::detail {

/// Throws unless the options fit a codebook [rows x d]; harm null: a full remap. require_apart(view) throws if a view of the caller
/// overlaps the codebook; a device's codebook overlaps none.
template <class RequireApart>
void check_projection(std::string_view function, index_t rows, index_t d, const subspace* harm,
                      const projection_options& options, RequireApart require_apart) {
    if (harm != nullptr) {
        require_size(function, "rows in the basis", d, harm->width());
        require<value_error>(harm->rank() <= d, function, "a rank of at most d",
                             fmt::format("{} > {}", harm->rank(), d));
        require_orthonormal(function, harm->basis);
        require_apart(any_view(harm->basis.view()));
        if (!options.weights.empty()) {
            require_size(function, "weights", harm->rank(), static_cast<index_t>(options.weights.size()));
            for (const double w : options.weights) {
                require_range(function, "weights", w, 0.0, 1.0);
            }
            require_apart(
                any_view(matrix_view<double>(options.weights.data(), 1, static_cast<index_t>(options.weights.size()))));
        }
    } else {
        require<shape_error>(!options.target.empty(), function, "a target per code", "none");
        require<value_error>(options.weights.empty(), function, "no weights in a full remap", "weights");
    }
    if (!options.center.empty()) {
        require_size(function, "values in the center", d, static_cast<index_t>(options.center.size()));
        require_finite(function, "the center", options.center);
        require_apart(
            any_view(matrix_view<double>(options.center.data(), 1, static_cast<index_t>(options.center.size()))));
    }
    if (!options.target.empty()) {
        require_size(function, "target rows", rows, options.target.rows());
        require_size(function, "target columns", d, options.target.cols());
        require_finite(function, "the targets", options.target);
        require_apart(any_view(options.target));
    }
    require_threads(function, options.execution.threads);
    require_shares(function, "strength", options.strength, rows);
    require_range(function, "near_zero_below", options.near_zero_below, 0.0, 1.0);
}

/// Throws numeric_error unless a row that is no padding has a value other than 0.
inline void require_nonzero_codebook(std::string_view function, bool any) {
    require<numeric_error>(any, function, "a codebook with a row that is not zero", "zeros only");
}

/// Rows of one status, ascending.
inline std::vector<index_t> rows_with(std::span<const row_status> statuses, row_status wanted) {
    std::vector<index_t> out;
    for (std::size_t k = 0; k < statuses.size(); ++k) {
        if (statuses[k] == wanted) {
            out.push_back(static_cast<index_t>(k));
        }
    }
    return out;
}

/// Throws numeric_error if the policy forbids the near-zero rows; returns whether they get new values.
inline bool near_zero_rows_change(std::string_view function, const projection_options& options,
                                  std::span<const index_t> near_zero) {
    if (near_zero.empty() || options.near_zero == near_zero_policy::skip) {
        return false;
    }
    if (options.near_zero == near_zero_policy::error) {
        fail<numeric_error>(function, fmt::format("at least {} of each row's norm left", options.near_zero_below),
                            fmt::format("less in {} rows, the first {}", near_zero.size(), near_zero.front()));
    }
    return true;
}

/// Rows that may replace near-zero ones: usable(k) and not near zero; the unmoved ones if there are any, otherwise the moved ones.
/// Throws numeric_error if there are none.
template <class Usable>
std::vector<index_t> replacement_rows(std::string_view function, std::span<const row_status> statuses, Usable usable) {
    std::vector<index_t> unmoved;
    std::vector<index_t> moved;
    for (std::size_t k = 0; k < statuses.size(); ++k) {
        const auto row = static_cast<index_t>(k);
        if (statuses[k] != row_status::near_zero && usable(row)) {
            (statuses[k] == row_status::moved ? moved : unmoved).push_back(row);
        }
    }
    std::vector<index_t>& out = unmoved.empty() ? moved : unmoved;
    require<numeric_error>(!out.empty(), function, "a row that is not near zero", "none; choose another policy");
    return std::move(out);
}

}  // namespace isic::inline ISIC_ABI::detail
