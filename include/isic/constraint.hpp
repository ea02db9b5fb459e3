/// \file
/// What an update of the codebook must respect.
#pragma once

#include <limits>
#include <string_view>
#include <vector>

#include <isic/matrix.hpp>
#include <isic/orthonormal.hpp>
#include <isic/subspace.hpp>

namespace isic {

/// Limits on an update, applied to the finished step (after momentum and preconditioning, which do not commute with a
/// projection), in the order of the members. Everything is off by default.
struct constraint {
    std::vector<bool> locked = {};   ///< [K], codes that may not move; empty: none
    subspace orthogonal_to = {};     ///< steps lose their part in it; use the merged subspace of all rounds
    bool keep_norms = false;         ///< moved rows are scaled back to the norm they had
    double within = std::numeric_limits<double>::infinity();  ///< radius: ||c_k - anchor_k|| <= within, applied last
    matrix<double> anchor = {};      ///< [K x d], needed for `within`; anchor on the projected codebook

    /// Throws shape_error, value_error or numeric_error unless it fits a codebook [K x d].
    void check(std::string_view function, index_t codes, index_t width) const {
        if (!locked.empty()) {
            detail::require_size(function, "values in constraint.locked", codes, static_cast<index_t>(locked.size()));
        }
        if (orthogonal_to.rank() > 0) {
            detail::require_size(function, "rows in constraint.orthogonal_to", width, orthogonal_to.width());
            detail::require_orthonormal(function, orthogonal_to.basis);
        }
        detail::require<value_error>(within > 0, function, "constraint.within > 0", fmt::format("{}", within));
        if (std::isfinite(within)) {
            detail::require_size(function, "rows in constraint.anchor", codes, anchor.rows());
            detail::require_size(function, "columns in constraint.anchor", width, anchor.cols());
            // A locked row may be padding and hold anything.
            detail::require_finite(function, "constraint.anchor", anchor.view(), locked.empty() ? nullptr : &locked);
        }
    }
};

namespace detail {

/// Whether code k may move.
inline bool may_move(const constraint& c, index_t k) {
    return c.locked.empty() || !c.locked[static_cast<std::size_t>(k)];
}

/// Takes from x its part in a subspace; one of rank 0 has none, whatever its width.
inline void take_out(const subspace& harm, vector& x) {
    if (harm.rank() > 0) {
        take_out(map(harm.basis), x);
    }
}

/// row + step, as far as the constraint allows.
inline vector constrained_row(const constraint& c, index_t k, const vector& row, vector step) {
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

}  // namespace detail
}  // namespace isic
