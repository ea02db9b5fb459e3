// SPDX-License-Identifier: Apache-2.0
/// \file
/// Fused steps for inner loops on a device: one pass over the rows, in the arithmetic of their storage type.
///
/// float32, half and bfloat16 are computed in float32, float64 in float64. As on the CPU, `isic::fused::f` has the formula, the
/// options and the state of `isic::f`. It checks shapes, not values: NaN or infinity stays in its row, and nothing is recorded or
/// reported. Every function is asynchronous: arguments must stay until the stream has passed the work.
#pragma once

#include <concepts>
#include <cstdint>
#include <memory>
#include <type_traits>

#include <isic/cuda/update.hpp>
#include <isic/fused.hpp>

namespace isic::inline ISIC_ABI::fused {

/// The arithmetic of rows stored as T on a device: double for double, otherwise float.
template <scalar T>
using arithmetic_of = std::conditional_t<std::same_as<T, double>, double, float>;

/// `basis` on a device, V^T [r x d] of A: uploaded once, used in every step. Copies share the memory. Not thread-safe, like its
/// backend.
template <real A>
class device_basis {
public:
    /// Rank 0: no direction is projected out.
    device_basis() = default;
    /// Waits. Errors: value_error unless the basis is orthonormal; cuda_error.
    device_basis(const cuda_backend& gpu, const subspace& harm) {
        const basis<A> host(harm);
        rows_ = std::make_shared<const device_matrix<A>>(
            upload(gpu, matrix_view<A>(host.data(), host.rank(), host.width())));
    }

    [[nodiscard]] index_t rank() const noexcept { return rows_ ? rows_->rows() : 0; }   ///< r
    [[nodiscard]] index_t width() const noexcept { return rows_ ? rows_->cols() : 0; }  ///< d
    [[nodiscard]] const A* data() const noexcept {
        return rows_ ? rows_->data() : nullptr;
    }  ///< V^T, contiguous device memory

private:
    std::shared_ptr<const device_matrix<A>> rows_;
};

/// `projection_options` on a device: views of contiguous device memory, in one row or one column.
template <real A>
struct device_projection_options {
    A uniform = 1;                 ///< s of all rows, in [0, 1]
    device_view<A> strength = {};  ///< s per row [n], in place of `uniform`; 0 leaves a row's bytes alone
    device_view<A> center = {};    ///< t [d]; empty: zero
    device_view<A> weights = {};   ///< w [r]; empty: all 1
};

/// `fused::constraint` on a device.
template <real A>
struct device_constraint {
    device_basis<A> orthogonal_to = {};     ///< steps are projected off it
    device_view<std::uint8_t> locked = {};  ///< [K] contiguous, not 0: the row does not move; empty: none
};

}  // namespace isic::inline ISIC_ABI::fused

namespace isic::inline ISIC_ABI::cuda::detail {

template <real A>
void fused_project_out(const std::shared_ptr<state>& s, any_device_span rows, const fused::device_basis<A>& harm,
                       const fused::device_projection_options<A>& options);
/// Creates an empty state as zeros.
template <real A>
void fused_adam_update(const cuda_backend& gpu, any_device_span codes, any_device_view gradient,
                       device_adam_state<A>& state, const adam_options& options,
                       const fused::device_constraint<A>& limits);
/// Creates an empty state: one count of the present row per code.
template <real A>
void fused_ema_update(const cuda_backend& gpu, any_device_span codes, any_device_view vectors, device_ids ids,
                      device_ema_state<A>& state, double decay, const fused::device_constraint<A>& limits);

/// The storage types that are computed in A.
template <class M, class A>
concept computed_in =
    device_matrix_like<std::remove_cvref_t<M>> && scalar<typename std::remove_cvref_t<M>::value_type> &&
    std::same_as<A, fused::arithmetic_of<typename std::remove_cvref_t<M>::value_type>>;

}  // namespace isic::inline ISIC_ABI::cuda::detail

namespace isic::inline ISIC_ABI::fused {

/// c <- c + s (t - c) V diag(w) V^T on rows [n x d] of any storage type on a device, in place.
///
/// One read and one write of each row. The row is held in registers if the arithmetic is float and d <= 32, or d <= 1024 with width
/// and stride multiples of 4; otherwise in shared memory, which is slower. Cost 4 n d r flops. Asynchronous. Errors: shape_error,
/// value_error if d > 4096; cuda_error.
template <mutable_device_matrix_like C, real A>
    requires cuda::detail::computed_in<C, A>
void project_out(const cuda_backend& gpu, C&& rows, const device_basis<A>& harm,
                 const std::type_identity_t<device_projection_options<A>>& options = {}) {
    cuda::detail::fused_project_out(gpu.shared_state(), cuda::detail::span_of(rows), harm, options);
}

/// `isic::adam_update` of codes [K x d] by a gradient [K x d] of the same arithmetic: c <- c - P rate m^ / (sqrt(v^) + epsilon), m
/// and v the moments of P g. Locked rows and their state keep their bytes.
///
/// Seven streams of K d values. Asynchronous. Errors: shape_error; value_error on options, overlapping memory or d > 4096;
/// cuda_error.
template <mutable_device_matrix_like C, device_matrix_like G, real A>
    requires cuda::detail::computed_in<C, A> && cuda::detail::computed_in<G, A>
void adam_update(const cuda_backend& gpu, C&& codes, const G& gradient, device_adam_state<A>& state,
                 const adam_options& options = {}, const std::type_identity_t<device_constraint<A>>& limits = {}) {
    cuda::detail::fused_adam_update(gpu, cuda::detail::span_of(codes), cuda::detail::view_of(gradient), state, options,
                                    limits);
}

/// `isic::ema_update` of codes [K x d] by vectors [n x d] of the same arithmetic, assigned to the codes ids [n]: n <- a n +
/// (1 - a) n_b, s <- a s + (1 - a) s_b, c <- c + P (s / n - c). Locked rows do not move; their state is updated.
///
/// An empty state starts at one count of the present row per code. A code whose count falls below 1e-30 (float64: 1e-290) stays; its
/// count and sum become 0. Sums are added in the order of the vectors: every run gives the same bytes. Ids are not checked, which
/// would wait: vectors with an id outside [0, K) are left out. Asynchronous; memory 32 n bytes. Errors: shape_error; value_error on
/// the decay, overlapping memory or d > 4096; cuda_error.
template <mutable_device_matrix_like C, device_matrix_like Z, device_matrix_like I, real A>
    requires cuda::detail::computed_in<C, A> && cuda::detail::computed_in<Z, A>
void ema_update(const cuda_backend& gpu, C&& codes, const Z& vectors, const I& ids, device_ema_state<A>& state,
                double decay, const std::type_identity_t<device_constraint<A>>& limits = {}) {
    cuda::detail::fused_ema_update(gpu, cuda::detail::span_of(codes), cuda::detail::view_of(vectors),
                                   cuda::detail::ids_of("fused::ema_update", ids), state, decay, limits);
}

}  // namespace isic::inline ISIC_ABI::fused
