#pragma once

#include <isic/detail/checks.hpp>
#include <isic/detail/constraint.hpp>

#include <cmath>

#include <fmt/format.h>

#include <isic/detail/gram_schmidt.hpp>

namespace isic::inline ISIC_ABI::detail {

ISIC_INLINE void check(std::string_view function, const constraint& limits, index_t codes, index_t width) {
    const auto& [locked, orthogonal_to, keep_norms, within, anchor, execution] = limits;
    require_threads(function, execution.threads);
    if (!locked.empty()) {
        require_size(function, "values in constraint.locked", codes, static_cast<index_t>(locked.size()));
    }
    if (orthogonal_to.rank() > 0) {
        require_size(function, "rows in constraint.orthogonal_to", width, orthogonal_to.width());
        require_orthonormal(function, orthogonal_to.basis);
    }
    require<value_error>(within > 0, function, "constraint.within > 0", fmt::format("{}", within));
    if (std::isfinite(within)) {
        require_size(function, "rows in constraint.anchor", codes, anchor.rows());
        require_size(function, "columns in constraint.anchor", width, anchor.cols());
        // A locked row may be padding and hold anything.
        require_finite(function, "constraint.anchor", anchor.view(), locked.empty() ? nullptr : &locked);
    }
}

ISIC_INLINE void take_out(const subspace& harm, vector& x) {
    if (harm.rank() > 0) {
        take_out(map(harm.basis), x);
    }
}

ISIC_INLINE vector constrained_row(const constraint& c, index_t k, const vector& row, vector step) {
    take_out(c.orthogonal_to, step);
    vector out = row + step;
    if (c.keep_norms && out.norm() > 0) {
        out *= row.norm() / out.norm();
    }
    if (std::isfinite(c.within)) {
        const vector anchor = map(c.anchor).row(k).transpose();
        if (const double distance = (out - anchor).norm(); distance > c.within) {
            out = anchor + (out - anchor) * (c.within / distance);
        }
    }
    return out;
}

}  // namespace isic::inline ISIC_ABI::detail
