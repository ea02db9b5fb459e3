// SPDX-License-Identifier: Apache-2.0
/// \file
/// Fused steps for inner loops: one pass over the rows, computed in their type.
///
/// `isic::fused::f` has the formula, the options and the state of `isic::f`. It checks shapes, not values (NaN and
/// infinity stay in their rows), and returns nothing. The checked functions compute in float64 and return a record of
/// the change.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include <isic/detail/id_list.hpp>
#include <isic/matrix.hpp>
#include <isic/subspace.hpp>
#include <isic/update.hpp>

namespace isic::inline ISIC_ABI::fused {

/// The basis of a subspace rounded to T, as V^T [r x d]; construct it once for many steps.
///
/// Copies share the memory. Immutable, so one basis may be used by several threads.
template <real T>
class basis {
public:
    /// Rank 0: the identity projection.
    basis() = default;
    /// Cost O(r d). Errors: value_error unless the basis is orthonormal.
    explicit basis(const subspace& harm);

    [[nodiscard]] index_t rank() const noexcept { return rows_ ? rows_->rows() : 0; }         ///< r
    [[nodiscard]] index_t width() const noexcept { return rows_ ? rows_->cols() : 0; }        ///< d
    [[nodiscard]] const T* data() const noexcept { return rows_ ? rows_->data() : nullptr; }  ///< V^T, contiguous

private:
    std::shared_ptr<const matrix<T>> rows_;
};

/// Options of `fused::project_out`: views, whose memory must outlive the call.
template <real T>
struct projection_options {
    T uniform = 1;                     ///< s of all rows, in [0, 1]
    std::span<const T> strength = {};  ///< s per row [n], in place of `uniform`; at 0 a row keeps its bytes
    std::span<const T> center = {};    ///< t [d]; empty: zero
    std::span<const T> weights = {};   ///< w [r]; empty: all 1
    isic::execution execution = {};    ///< threads, SIMD level, scratch memory
};

/// Constraints of `fused::adam_update` and `fused::ema_update`; `locked` is a view whose memory must outlive the call.
template <real T>
struct constraint {
    basis<T> orthogonal_to = {};                ///< projected out of every step
    std::span<const std::uint8_t> locked = {};  ///< [K]; rows with a value other than 0 do not move; empty: none
    isic::execution execution = {};             ///< threads, SIMD level, scratch memory
};

namespace detail {

template <real T>
void project_out(matrix_span<T> rows, const basis<T>& harm, const projection_options<T>& options);
template <real T>
void adam_update(matrix_span<T> codes, matrix_view<T> gradient, adam_state<T>& state, const adam_options& options,
                 const constraint<T>& limits);
template <real T>
void ema_update(matrix_span<T> codes, matrix_view<T> vectors, const isic::detail::id_list& ids, ema_state<T>& state,
                double decay, const constraint<T>& limits);

}  // namespace detail

/// c <- c + s (t - c) V diag(w) V^T on rows [n x d] of float or double, in place.
///
/// Cost 4 n d r flops, one pass over the rows (two from r = 9 on). Errors: shape_error.
template <mutable_matrix_like C>
    requires real<scalar_of<C>>
void project_out(C&& rows, const basis<scalar_of<C>>& harm, const projection_options<scalar_of<C>>& options = {}) {
    detail::project_out(as_span(rows), harm, options);
}

/// `isic::adam_update` of codes [K x d] by a gradient [K x d] of the same type: c <- c - P rate m^ / (sqrt(v^) +
/// epsilon), m and v the moments of P g.
///
/// Seven streams of K d values. Errors: shape_error, value_error on options.
///
/// \snippet snippets.cpp fused
template <mutable_matrix_like C, matrix_like G>
    requires real<scalar_of<C>> && std::same_as<scalar_of<C>, scalar_of<G>>
void adam_update(C&& codes, const G& gradient, adam_state<scalar_of<C>>& state, const adam_options& options = {},
                 const constraint<scalar_of<C>>& limits = {}) {
    detail::adam_update(as_span(codes), isic::detail::view_of(gradient), state, options, limits);
}

/// `isic::ema_update` of codes [K x d] by vectors [n x d] of the same type, assigned to the codes ids [n]. Counts below
/// 1e-30 (float64: 1e-290) and their sums are flushed to zero; those codes keep their bytes.
///
/// Errors: shape_error, value_error on the decay or on an id outside [0, K).
template <mutable_matrix_like C, matrix_like Z, token_ids R>
    requires real<scalar_of<C>> && std::same_as<scalar_of<C>, scalar_of<Z>>
void ema_update(C&& codes, const Z& vectors, const R& ids, ema_state<scalar_of<C>>& state, double decay,
                const constraint<scalar_of<C>>& limits = {}) {
    detail::ema_update(as_span(codes), isic::detail::view_of(vectors), isic::detail::id_list(ids), state, decay,
                       limits);
}

}  // namespace isic::inline ISIC_ABI::fused

#ifdef ISIC_HEADER_ONLY
#include <isic/detail/fused-inl.hpp>
#endif
