// SPDX-License-Identifier: Apache-2.0
/// \file
/// Constrained updates of a codebook: closed-form ridge, EMA, SGD, Adam. The caller keeps the optimiser state.
#pragma once

#include <limits>
#include <string_view>
#include <vector>

#include <isic/detail/ema_workspace.hpp>
#include <isic/detail/id_list.hpp>
#include <isic/matrix.hpp>
#include <isic/subspace.hpp>

namespace isic::inline ISIC_ABI {

/// Constraints of an update. They apply to the finished step (momentum and preconditioning do not commute with a
/// projection), in the order of the members; all are off by default.
struct constraint {
    std::vector<bool> locked = {};  ///< [K], codes that may not move; empty: none
    subspace orthogonal_to = {};    ///< projected out of every step; use the merged subspace of all rounds
    bool keep_norms = false;        ///< moved rows keep their norm
    double within = std::numeric_limits<double>::infinity();  ///< radius: ||c_k - anchor_k|| <= within, applied last
    matrix<double> anchor = {};      ///< [K x d], needed for `within`; anchor on the projected codebook
    isic::execution execution = {};  ///< threads, on the CPU; the result does not depend on them
};

/// The numbers of an update.
struct update_summary {
    index_t moved = 0;        ///< rows whose values changed
    index_t overflowed = 0;   ///< rows kept because their new values overflow the dtype
    double largest_step = 0;  ///< max ||c_k' - c_k|| of the moved rows
};

/// Vectors grouped by code: counts n [K] and sums [K x d], the input of `ridge_update` and `ema_update`.
struct assignments {
    std::vector<double> counts;  ///< n_k
    matrix<double> sums;         ///< sum of the vectors assigned to code k
};

/// State of `ema_update`: decayed counts and sums. Empty at the start; the first step initialises it with one count of
/// the current row per code. Thread-safety: one update at a time.
template <real T = double>
struct ema_state {
    std::vector<T> counts;                    ///< [K]
    matrix<T> sums;                           ///< [K x d]
    detail::ema_workspace<T> workspace = {};  ///< scratch memory of `fused::ema_update`
};

/// Options of `sgd_update`.
struct sgd_options {
    double rate = 0.1;      ///< learning rate, > 0
    double momentum = 0.0;  ///< in [0, 1)
};

/// State of `sgd_update`; starts empty.
struct sgd_state {
    matrix<double> velocity;  ///< [K x d]
};

/// Options of `adam_update`.
struct adam_options {
    double rate = 1e-3;     ///< learning rate, > 0
    double beta1 = 0.9;     ///< decay of the mean, in [0, 1)
    double beta2 = 0.999;   ///< decay of the square, in [0, 1)
    double epsilon = 1e-8;  ///< > 0
};

/// State of `adam_update`, the moments of the projected gradient. Empty at the start. Thread-safety: one update at a
/// time.
template <real T = double>
struct adam_state {
    matrix<T> mean;     ///< first moment m, [K x d]
    matrix<T> square;   ///< second moment v, [K x d]
    index_t steps = 0;  ///< steps taken
};

namespace detail {

/// Throws shape_error, value_error or numeric_error unless the constraint matches a codebook [K x d].
ISIC_API void check(std::string_view function, const constraint& limits, index_t codes, index_t width);
/// Throws value_error unless every option is in its range.
ISIC_API void check(std::string_view function, const sgd_options& options);
/// `path` precedes the names of the options in messages, e.g. "tuning.adam.".
ISIC_API void check(std::string_view function, const adam_options& options, std::string_view path = "");

ISIC_API assignments assign(any_view vectors, const id_list& ids, index_t codes);
ISIC_API update_summary ridge_update(any_span codes, const assignments& batch, double lambda, const constraint& limits);
ISIC_API update_summary ema_update(any_span codes, ema_state<>& state, const assignments& batch, double decay,
                                   const constraint& limits);
ISIC_API update_summary sgd_update(any_span codes, any_view gradient, sgd_state& state, const sgd_options& options,
                                   const constraint& limits);
ISIC_API update_summary adam_update(any_span codes, any_view gradient, adam_state<>& state, const adam_options& options,
                                    const constraint& limits);

}  // namespace detail

/// Groups vectors [n x d] by their codes ids [n], of `codes` codes. Cost O(n d). Errors: shape_error, value_error on
/// ids, numeric_error on NaN or infinity.
template <matrix_like Z, token_ids R>
[[nodiscard]] assignments assign(const Z& vectors, const R& ids, index_t codes) {
    return detail::assign(detail::view_of(vectors), detail::id_list(ids), codes);
}

/// Closed-form refit: delta_k = P (sum_i z_i - n_k c_k) / (n_k + lambda), the minimiser of
/// sum_i ||z_i - c_k - P delta||^2 + lambda ||delta||^2 over the vectors z_i assigned to code k; P from the constraint.
///
/// Codes with n_k = 0 keep their bytes. Cost O(K d r). Errors: value_error unless lambda >= 0; shape and numeric errors
/// before anything is written. Source: derived; one projected, damped k-means step.
template <mutable_matrix_like C>
update_summary ridge_update(C&& codes, const assignments& batch, double lambda, const constraint& limits = {}) {
    return detail::ridge_update(as_span(codes), batch, lambda, limits);
}

/// Exponential moving averages: n <- a n + (1 - a) n_b, s <- a s + (1 - a) s_b, step s / n - c, a the decay. Counts
/// below 1e-290 and their sums are flushed to zero; codes with n = 0 keep their bytes.
///
/// An empty state starts with one count of the current row per code, so the first step is small. Cost O(K d r). Errors:
/// value_error unless decay is in [0, 1); shape and numeric errors before anything is written.
template <mutable_matrix_like C>
update_summary ema_update(C&& codes, ema_state<>& state, const assignments& batch, double decay,
                          const constraint& limits = {}) {
    return detail::ema_update(as_span(codes), state, batch, decay, limits);
}

/// Gradient descent with momentum: v <- momentum v + g, step -rate v, projected by the constraint. gradient [K x d] of
/// any dtype.
///
/// Cost O(K d r). Errors: value_error on options, shape and numeric errors; on an error nothing is written.
template <mutable_matrix_like C, matrix_like G>
update_summary sgd_update(C&& codes, const G& gradient, sgd_state& state, const sgd_options& options = {},
                          const constraint& limits = {}) {
    return detail::sgd_update(as_span(codes), detail::view_of(gradient), state, options, limits);
}

/// Adam on the projected gradient whose finished step is projected too: c <- c - P rate m^ / (sqrt(v^) + epsilon), m
/// and v the moments of P g. gradient [K x d] of any dtype.
///
/// The preconditioner is diagonal and does not commute with P. Without the outer P the step would leak; without the
/// inner P the forbidden gradient would enter v, and the iteration would not rest at the constrained minimum.
/// Cost O(K d r). Errors: value_error on options, shape and numeric errors; on an error nothing is written.
///
/// \snippet snippets.cpp update
template <mutable_matrix_like C, matrix_like G>
update_summary adam_update(C&& codes, const G& gradient, adam_state<>& state, const adam_options& options = {},
                           const constraint& limits = {}) {
    return detail::adam_update(as_span(codes), detail::view_of(gradient), state, options, limits);
}

}  // namespace isic::inline ISIC_ABI

#ifdef ISIC_HEADER_ONLY
#include <isic/detail/update-inl.hpp>
#endif
