/// \file
/// The formulas alone, for inner loops: one pass over the rows, in the arithmetic of their own storage.
///
/// Shapes are checked; values are not looked at, nothing is recorded or reported, and NaN or infinity stays in its row.
/// `project_out`, `adam_update` and `ema_update` compute in float64, check, and say what they did.
#pragma once

#include <concepts>
#include <cstdint>
#include <span>
#include <vector>

#include <isic/kernels.hpp>
#include <isic/matrix.hpp>
#include <isic/subspace.hpp>
#include <isic/update.hpp>

namespace isic {

/// What the inner loops compute with.
template <class T>
concept real = std::same_as<T, float> || std::same_as<T, double>;

/// The directions of a subspace rounded to T, V^T [r x d]: made once, used in every step.
template <real T>
class row_basis {
public:
    /// No direction: nothing is taken out.
    row_basis() = default;
    /// Errors: value_error unless the basis is orthonormal.
    explicit row_basis(const subspace& harm);

    index_t rank() const { return rows_.rows(); }      ///< r
    index_t width() const { return rows_.cols(); }     ///< d
    const matrix<T>& rows() const { return rows_; }    ///< V^T

private:
    matrix<T> rows_;
};

/// Options of `project_rows`: views, whose memory must outlive the call.
template <real T>
struct row_projection_options {
    T uniform = 1;                       ///< s of all rows, in [0, 1]
    std::span<const T> strength = {};    ///< s per row [n], in place of `uniform`; 0 leaves a row's bytes alone
    std::span<const T> center = {};      ///< t [d]; empty: zero
    std::span<const T> weights = {};     ///< w [r]; empty: all 1
    kernels::resources use = {};         ///< threads, instructions, memory
};

namespace detail {

template <real T>
void project_rows(matrix_span<T> rows, const row_basis<T>& harm, const row_projection_options<T>& options);

}  // namespace detail

/// c <- c + s (t - c) V diag(w) V^T on rows [n x d] of float or double, in place.
///
/// Cost 4 n d r flops, one pass over the rows (two from r = 9 on). Errors: shape_error.
template <mutable_matrix_like C>
    requires real<scalar_of<C>>
void project_rows(C&& rows, const row_basis<scalar_of<C>>& harm, const row_projection_options<scalar_of<C>>& options = {}) {
    detail::project_rows(as_span(rows), harm, options);
}

/// Moments of `adam_rows`; starts empty.
template <real T>
struct adam_row_state {
    matrix<T> mean;      ///< [K x d]
    matrix<T> square;    ///< [K x d]
    index_t steps = 0;   ///< steps taken
};

/// Counts and sums of `ema_rows`; starts empty. Keeps memory between calls.
template <real T>
struct ema_row_state {
    std::vector<T> counts;            ///< [K]
    matrix<T> sums;                   ///< [K x d]
    kernels::ema_workspace<T> space;  ///< what the last call needed
};

/// What `adam_rows` and `ema_rows` must respect.
template <real T>
struct row_constraint {
    const row_basis<T>& orthogonal_to;               ///< steps lose their part in it
    std::span<const std::uint8_t> locked = {};       ///< [K], not 0: the row does not move; empty: none
    kernels::resources use = {};                     ///< threads, instructions, memory
};

namespace detail {

template <real T>
void adam_rows(matrix_span<T> codes, matrix_view<T> gradient, adam_row_state<T>& state, const adam_options& options,
               const row_constraint<T>& limits);
template <real T>
void ema_rows(matrix_span<T> codes, matrix_view<T> vectors, const id_list& ids, ema_row_state<T>& state, double decay,
              const row_constraint<T>& limits);

}  // namespace detail

/// `adam_update` of codes [K x d] by a gradient [K x d] of the same storage: c <- c - P rate m^ / (sqrt(v^) + epsilon), m and v
/// the moments of P g.
///
/// Seven streams of K d values. Errors: shape_error, value_error on options.
template <mutable_matrix_like C, matrix_like G>
    requires real<scalar_of<C>> && std::same_as<scalar_of<C>, scalar_of<G>>
void adam_rows(C&& codes, const G& gradient, adam_row_state<scalar_of<C>>& state, const adam_options& options,
               const row_constraint<scalar_of<C>>& limits) {
    detail::adam_rows(as_span(codes), detail::view_of(gradient), state, options, limits);
}

/// `ema_update` of codes [K x d] by vectors [n x d] of the same storage, assigned to the codes ids [n]. A code that has had no
/// vectors for so long that its count is below 1e-30 (of float64: 1e-290) stays, its count and sum are 0.
///
/// Errors: shape_error, value_error on the decay or on an id outside [0, K).
template <mutable_matrix_like C, matrix_like Z, token_ids R>
    requires real<scalar_of<C>> && std::same_as<scalar_of<C>, scalar_of<Z>>
void ema_rows(C&& codes, const Z& vectors, const R& ids, ema_row_state<scalar_of<C>>& state, double decay,
              const row_constraint<scalar_of<C>>& limits) {
    detail::ema_rows(as_span(codes), detail::view_of(vectors), detail::id_list(ids), state, decay, limits);
}

}  // namespace isic
