/// \file
/// Constrained updates of a codebook: closed-form ridge, EMA, SGD, Adam. The state is the caller's to keep.
#pragma once

#include <string_view>
#include <vector>

#include <isic/constraint.hpp>
#include <isic/matrix.hpp>

namespace isic {

/// What an update did.
struct update_summary {
    index_t moved = 0;        ///< rows whose values changed
    index_t overflowed = 0;   ///< rows left as they were because the new values did not fit the storage type
    double largest_step = 0;  ///< max ||c_k' - c_k|| of the moved rows
};

/// Vectors by the code they were assigned to: counts n [K] and sums [K x d], what ridge and EMA updates consume.
struct assignments {
    std::vector<double> counts;  ///< n_k
    matrix<double> sums;         ///< sum of the vectors assigned to code k
};

/// State of `ema_update`: decayed counts and sums. Start from {} (the first batch sets it).
struct ema_state {
    std::vector<double> counts;  ///< [K]
    matrix<double> sums;         ///< [K x d]
};

/// Options of `sgd_update`.
struct sgd_options {
    double rate = 0.1;      ///< learning rate, > 0
    double momentum = 0.0;  ///< in [0, 1)

    /// Throws value_error unless both are in their ranges.
    void check(std::string_view function) const;
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

    /// Throws value_error unless all are in their ranges.
    void check(std::string_view function) const;
};

/// State of `adam_update`; starts empty.
struct adam_state {
    matrix<double> mean;    ///< [K x d], of the projected gradient
    matrix<double> square;  ///< [K x d]
    index_t steps = 0;      ///< steps taken
};

namespace detail {

assignments assign(any_view vectors, const id_list& ids, index_t codes);
update_summary ridge_update(any_span codes, const assignments& batch, double lambda, const constraint& limits);
update_summary ema_update(any_span codes, ema_state& state, const assignments& batch, double decay, const constraint& limits);
update_summary sgd_update(any_span codes, any_view gradient, sgd_state& state, const sgd_options& options, const constraint& limits);
update_summary adam_update(any_span codes, any_view gradient, adam_state& state, const adam_options& options, const constraint& limits);

}  // namespace detail

/// Collects vectors [n x d] by id. Errors: shape_error, value_error on ids, numeric_error on NaN or infinity.
template <matrix_like Z, token_ids R>
assignments assign(const Z& vectors, const R& ids, index_t codes) {
    return detail::assign(detail::view_of(vectors), detail::id_list(ids), codes);
}

/// Closed-form refit: delta_k = P (sum_i z_i - n_k c_k) / (n_k + lambda), the minimiser of
/// sum_i ||z_i - c_k - P delta||^2 + lambda ||delta||^2 over the vectors z_i assigned to code k; P from the constraint.
///
/// Codes with n_k = 0 stay. Cost O(K d r). Errors: value_error unless lambda >= 0; shape and numeric errors before
/// anything is written. Source: derived; one projected, damped k-means step.
template <mutable_matrix_like C>
update_summary ridge_update(C&& codes, const assignments& batch, double lambda, const constraint& limits = {}) {
    return detail::ridge_update(as_span(codes), batch, lambda, limits);
}

/// Exponential moving averages: n <- a n + (1 - a) n_b, s <- a s + (1 - a) s_b, step s / n - c. Codes with n = 0 stay; below
/// 1e-290 n counts as 0, and s goes with it.
///
/// An empty state starts at one count of the present row per code, so the first step is small. Errors: value_error
/// unless decay is in [0, 1); shape and numeric errors before anything is written.
template <mutable_matrix_like C>
update_summary ema_update(C&& codes, ema_state& state, const assignments& batch, double decay, const constraint& limits = {}) {
    return detail::ema_update(as_span(codes), state, batch, decay, limits);
}

/// v <- momentum v + g; step -rate v, projected by the constraint. gradient [K x d], any storage.
///
/// Errors: value_error on options, shape and numeric errors; nothing is written then.
template <mutable_matrix_like C, matrix_like G>
update_summary sgd_update(C&& codes, const G& gradient, sgd_state& state, const sgd_options& options = {},
                          const constraint& limits = {}) {
    return detail::sgd_update(as_span(codes), detail::view_of(gradient), state, options, limits);
}

/// Adam on the projected gradient whose finished step is projected too: c <- c - P rate m^ / (sqrt(v^) + epsilon), m and v
/// the moments of P g. gradient [K x d], any storage.
///
/// The preconditioner works entry by entry and does not commute with P. Without the outer P the step would leak; without
/// the inner one it would turn what P forbids into motion elsewhere, climb, and not rest at the constrained minimum.
/// Errors: value_error on options, shape and numeric errors; nothing is written then.
template <mutable_matrix_like C, matrix_like G>
update_summary adam_update(C&& codes, const G& gradient, adam_state& state, const adam_options& options = {},
                           const constraint& limits = {}) {
    return detail::adam_update(as_span(codes), detail::view_of(gradient), state, options, limits);
}

}  // namespace isic
