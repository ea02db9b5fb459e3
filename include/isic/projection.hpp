// SPDX-License-Identifier: Apache-2.0
/// \file
/// Projection of a codebook: c <- c + s (t - c) V V^T.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include <isic/codebook.hpp>
#include <isic/edit.hpp>
#include <isic/matrix.hpp>
#include <isic/subspace.hpp>

namespace isic::inline ISIC_ABI {

class per_code;

namespace detail {

/// Throws unless every value lies in [0, 1] and there is one per code.
ISIC_API void require_shares(std::string_view function, std::string_view name, const per_code& values, index_t codes);

}  // namespace detail

/// One value for all codes, or one value per code. A value type: const access is thread-safe.
class per_code {
public:
    /// The same value for every code.
    per_code(double all) : all_(all) {}
    /// One value per code, [K]; copied.
    per_code(std::span<const double> each) : each_(each.begin(), each.end()), has_each_(true) {}
    /// One value per code, [K].
    per_code(std::vector<double> each) : each_(std::move(each)), has_each_(true) {}

    /// The value of code k; k is not checked.
    [[nodiscard]] double operator[](index_t k) const noexcept {
        return has_each_ ? each_[static_cast<std::size_t>(k)] : all_;
    }

private:
    friend void detail::require_shares(std::string_view function, std::string_view name, const per_code& values,
                                       index_t codes);

    double all_ = 1;
    std::vector<double> each_;
    bool has_each_ = false;
};

/// The policy for near-zero rows: rows of which projection leaves only rounding errors or a small share of their norm.
enum class near_zero_policy {
    nearest_safe,  ///< the row becomes a copy of the nearest row that is not near zero, an unmoved one if any
    skip,          ///< the row keeps its old value
    zero,          ///< the row becomes zero
    error          ///< numeric_error; nothing is written
};

/// Options of `project_out` and `remap`. `target`, `center`, `weights` and `padding` are views; their memory must
/// outlive the call and must not overlap the codebook.
struct projection_options {
    per_code strength = 1.0;                 ///< s in [0, 1], for all codes or per code; at 0 a row keeps its bytes
    matrix_view<double> target = {};         ///< t [K x d], one target per code; empty: the center
    std::span<const double> center = {};     ///< [d], the target of all codes (affine projection); empty: zero
    std::span<const double> weights = {};    ///< w [r] in [0, 1], soft projection; empty: all 1 (hard)
    bool keep_norms = false;                 ///< rescale moved rows to their old norm
    isic::metric metric = isic::metric::l2;  ///< cosine: rows are normalised first and keep their norms
    std::span<const index_t> padding = {};   ///< rows that are not codes: not moved, not counted, of any value
    near_zero_policy near_zero = near_zero_policy::nearest_safe;  ///< applies without `target`
    double near_zero_below = 0.1;    ///< near-zero: ||c'|| < near_zero_below ||c||, in [0, 1]
    isic::execution execution = {};  ///< threads and SIMD level, on the CPU; any number of threads gives one result
};

namespace detail {

/// harm null: V = identity.
ISIC_API edit project(std::string_view function, any_span codes, const subspace* harm,
                      const projection_options& options);

}  // namespace detail

/// Projects a subspace out of a codebook, in place: c_k <- c_k + s_k (t_k - c_k) V diag(w) V^T, in float64, rounded
/// once.
///
/// codes [K x d]; V = harm.basis [d x r]. Hard (the default), soft (weights), gated or graded (per-code strength),
/// norm-preserving (keep_norms), affine (center), and toward counterparts (target) are the same formula. A row whose
/// step is at most four rounding units of its norm keeps its bytes, so a hard projection of all codes around zero is
/// idempotent. Returns the edit: undo(codes) restores every byte. Cost O(K d r); the edit holds the moved rows twice.
/// Errors: shape_error, value_error (ranges, overlapping memory), numeric_error (NaN, infinity, a zero codebook, rows
/// that overflow the dtype, squares that overflow float64). On an error nothing is written. Source: Safe-CB step 1 for
/// V V^T with t = 0; strengths, targets and policies are our choice.
///
/// \snippet snippets.cpp projection
template <mutable_matrix_like C>
edit project_out(C&& codes, const subspace& harm, const projection_options& options = {}) {
    return detail::project("project_out", as_span(codes), &harm, options);
}

/// Remaps a codebook to targets, in place: c_k <- c_k + s_k (t_k - c_k), the projection with V = identity.
///
/// options.target is required, options.weights must be empty. Cost O(K d). Errors: as `project_out`. Source: ours.
template <mutable_matrix_like C>
edit remap(C&& codes, const projection_options& options) {
    return detail::project("remap", as_span(codes), nullptr, options);
}

}  // namespace isic::inline ISIC_ABI

#ifdef ISIC_HEADER_ONLY
#include <isic/detail/projection-inl.hpp>
#endif
