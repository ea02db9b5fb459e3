/// \file
/// Taking a subspace out of a codebook: one primitive, c <- c + s (t - c) V V^T, and what it returns.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include <isic/codebook.hpp>
#include <isic/edit.hpp>
#include <isic/matrix.hpp>
#include <isic/subspace.hpp>

namespace isic::inline ISIC_ABI {

/// One number for all codes, or one per code.
class ISIC_API per_code {
public:
    /// The same for every code.
    per_code(double all) : all_(all) {}
    /// One value per code, [K]; copied.
    per_code(std::span<const double> each) : each_(each.begin(), each.end()), has_each_(true) {}
    /// One value per code, [K].
    per_code(std::vector<double> each) : each_(std::move(each)), has_each_(true) {}

    /// The value of code k.
    double operator[](index_t k) const { return has_each_ ? each_[static_cast<std::size_t>(k)] : all_; }

    /// Throws unless every value lies in [0, 1] and there is one per code.
    void check(std::string_view function, std::string_view name, index_t codes) const;

private:
    double all_ = 1;
    std::vector<double> each_;
    bool has_each_ = false;
};

/// What becomes of a row that projection leaves nearly empty: its direction is noise.
enum class near_zero_policy {
    nearest_safe,  ///< takes the new value of the nearest row neither vanished nor zero, an unmoved one if there is any
    skip,          ///< keeps its old value
    zero,          ///< becomes zero
    error          ///< numeric_error; nothing is written
};

/// Options of `project_out` and `remap`. `target`, `center`, `weights` and `padding` are views: their memory must outlive
/// the call.
struct projection_options {
    per_code strength = 1.0;               ///< s in [0, 1], for all or per code; 0 leaves a row's bytes alone
    matrix_view<double> target = {};       ///< t [K x d], where each code goes inside the subspace; empty: the centre
    std::span<const double> center = {};   ///< [d], the common target (affine projection); empty: zero
    std::span<const double> weights = {};  ///< soft projection: w_i in [0, 1] per basis vector; empty: all 1 (hard)
    bool keep_norms = false;               ///< rescale each moved row to its old norm
    isic::metric metric = isic::metric::l2;           ///< cosine: rows are read normalised and keep their stored norms
    std::span<const index_t> padding = {};  ///< rows that are no codes: never touched, not counted, may hold anything
    near_zero_policy near_zero = near_zero_policy::nearest_safe;  ///< used when no per-code target is given
    double near_zero_below = 0.1;             ///< a row has vanished when ||c'|| < near_zero_below ||c||, or only rounding is left
    isic::execution execution = {};           ///< threads, on which the result does not depend, and instructions; of the CPU
};

namespace detail {

/// harm null: V is the identity.
ISIC_API edit project(std::string_view function, any_span codes, const subspace* harm, const projection_options& options);

}  // namespace detail

/// Projects a subspace out of a codebook in place: c_k <- c_k + s_k (t_k - c_k) V diag(w) V^T, in float64, rounded once.
///
/// codes [K x d]; V = harm.basis [d x r]. Hard (the default), soft (weights), gated or graded (per-code strength),
/// norm-preserving (keep_norms), affine (center), and toward counterparts (target) are the same formula. Rows that it
/// would move by no more than four rounding units of their norm keep their bytes; so a hard projection of all codes
/// around zero, done twice, changes nothing the second time. Returns the edit: undo(codes) restores every byte.
/// Cost O(K d r), and the edit keeps the moved rows twice. Errors: shape_error, value_error (ranges, overlapping memory),
/// numeric_error (NaN, infinity, a zero codebook, rows that overflow the dtype type, squares that do not fit float64);
/// nothing is written then.
/// Source: Safe-CB step 1 for V V^T with t = 0; strengths, targets and policies are our choice.
template <mutable_matrix_like C>
edit project_out(C&& codes, const subspace& harm, const projection_options& options = {}) {
    return detail::project("project_out", as_span(codes), &harm, options);
}

/// Full remap, V = identity: c_k <- c_k + s_k (t_k - c_k). Needs options.target. Errors: as `project_out`.
template <mutable_matrix_like C>
edit remap(C&& codes, const projection_options& options) {
    return detail::project("remap", as_span(codes), nullptr, options);
}

}  // namespace isic::inline ISIC_ABI

#ifdef ISIC_HEADER_ONLY
#include <isic/detail/projection-inl.hpp>
#endif
