/// \file
/// What an update of the codebook must respect.
#pragma once

#include <limits>
#include <string_view>
#include <vector>

#include <isic/kernels.hpp>
#include <isic/matrix.hpp>
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
    kernels::resources use = {};     ///< threads, on which the result does not depend; of the CPU

    /// Throws shape_error, value_error or numeric_error unless it fits a codebook [K x d].
    void check(std::string_view function, index_t codes, index_t width) const;
};

}  // namespace isic
