/// \file
/// The formulas alone, for inner loops on a device: one pass over the rows, in the arithmetic of their own storage.
///
/// float32, half and bfloat16 are computed in float32, float64 in float64. Shapes are checked; values are not looked at,
/// nothing is recorded or reported, and NaN or infinity stays in its row. Everything is asynchronous: what is passed must stay
/// until the stream has passed it.
#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>

#include <isic/cuda/update.hpp>
#include <isic/fused.hpp>

namespace isic::inline ISIC_ABI {

/// What rows stored as T are computed in on a device: float, or double for double.
template <scalar T>
using arithmetic_of = std::conditional_t<std::same_as<T, double>, double, float>;

/// `row_basis` on a device, V^T [r x d] of A: made once, used in every step.
template <real A>
class device_row_basis {
public:
    /// No direction: nothing is taken out.
    device_row_basis() = default;
    /// Waits. Errors: value_error unless the basis is orthonormal; cuda_error.
    device_row_basis(const cuda_backend& gpu, const subspace& harm) : rows_(upload(gpu, row_basis<A>(harm).rows())) {}

    index_t rank() const { return rows_.rows(); }           ///< r
    index_t width() const { return rows_.cols(); }          ///< d
    const device_matrix<A>& rows() const { return rows_; }  ///< V^T

private:
    device_matrix<A> rows_;
};

/// Options of `project_rows` on a device: views of device memory without gaps, in one row or one column.
template <real A>
struct device_row_projection_options {
    A uniform = 1;                  ///< s of all rows, in [0, 1]
    device_view<A> strength = {};   ///< s per row [n], in place of `uniform`; 0 leaves a row's bytes alone
    device_view<A> center = {};     ///< t [d]; empty: zero
    device_view<A> weights = {};    ///< w [r]; empty: all 1
};

/// What `adam_rows` and `ema_rows` must respect on a device.
template <real A>
struct device_row_constraint {
    const device_row_basis<A>& orthogonal_to;      ///< steps lose their part in it
    device_view<std::uint8_t> locked = {};         ///< [K] without gaps, not 0: the row does not move; empty: none
};

/// Counts and sums of `ema_rows` on a device; starts empty.
template <real A>
struct device_ema_row_state {
    device_matrix<A> counts;  ///< [1 x K]
    device_matrix<A> sums;    ///< [K x d]
};

namespace cuda {

template <real A>
void project_rows(const std::shared_ptr<state>& s, rows_out rows, const device_row_basis<A>& harm, const device_row_projection_options<A>& options);
/// Throw what the steps would, before a state is made.
template <real A>
void check_adam_rows(rows_out codes, rows_in gradient, const device_adam_state<A>& memory, const adam_options& options,
                     const device_row_constraint<A>& limits);
template <real A>
void check_ema_rows(rows_out codes, rows_in vectors, ids_in ids, const device_ema_row_state<A>& memory, double decay,
                    const device_row_constraint<A>& limits);
template <real A>
void adam_rows(const std::shared_ptr<state>& s, rows_out codes, rows_in gradient, device_adam_state<A>& memory, const adam_options& options,
               const device_row_constraint<A>& limits);
/// Fills a state: one count of the present row per code.
template <real A>
void start_ema_rows(const std::shared_ptr<state>& s, rows_in codes, device_ema_row_state<A>& fresh);
template <real A>
void ema_rows(const std::shared_ptr<state>& s, rows_out codes, rows_in vectors, ids_in ids, device_ema_row_state<A>& memory, double decay,
              const device_row_constraint<A>& limits);

}  // namespace cuda

/// c <- c + s (t - c) V diag(w) V^T on rows [n x d] of any storage on a device, in place.
///
/// One read and one write of each row, from registers up to d = 1024 if width and stride are multiples of 4 values or d <= 32, and
/// if the arithmetic is float; else from shared memory, which takes longer. Cost 4 n d r flops. Asynchronous. Errors: shape_error, value_error if d > 4096; cuda_error.
template <mutable_device_matrix_like C, real A>
    requires std::same_as<A, arithmetic_of<typename std::remove_cvref_t<C>::value_type>>
void project_rows(const cuda_backend& gpu, C&& rows, const device_row_basis<A>& harm,
                  const std::type_identity_t<device_row_projection_options<A>>& options = {}) {
    cuda::project_rows(gpu.shared_state(), cuda::writable(device_span<typename std::remove_cvref_t<C>::value_type>(rows)), harm, options);
}

/// A step of Adam on codes [K x d] by a gradient [K x d] of the same arithmetic: c <- c - P rate m^ / (sqrt(v^) + epsilon),
/// m and v the moments of P g. Locked rows and their state keep their bytes.
///
/// Seven streams of K d values. Asynchronous. Errors: shape_error, value_error on options, overlapping memory or d > 4096;
/// cuda_error.
template <mutable_device_matrix_like C, device_matrix_like G, real A>
    requires std::same_as<A, arithmetic_of<typename std::remove_cvref_t<C>::value_type>> && std::same_as<A, arithmetic_of<typename G::value_type>>
void adam_rows(const cuda_backend& gpu, C&& codes, const G& gradient, device_adam_state<A>& state, const adam_options& options,
               const std::type_identity_t<device_row_constraint<A>>& limits) {
    const device_span<typename std::remove_cvref_t<C>::value_type> c = codes;
    const device_view<typename G::value_type> g = gradient;
    cuda::check_adam_rows(cuda::writable(c), cuda::rows_of(g), state, options, limits);
    cuda::require_apart("adam_rows", device_view<typename std::remove_cvref_t<C>::value_type>(c), g);
    cuda::prepare_states("adam_rows", gpu, c.rows(), c.cols(), state.mean, state.square);
    cuda::adam_rows(gpu.shared_state(), cuda::writable(c), cuda::rows_of(g), state, options, limits);
}

/// A step of exponential moving averages on codes [K x d] by vectors [n x d] of the same arithmetic, assigned to the codes
/// ids [n]: n <- a n + (1 - a) n_b, s <- a s + (1 - a) s_b, c <- c + P (s / n - c). Locked rows do not move, their state goes on.
///
/// An empty state starts at one count of the present row per code; a code whose count has faded below 1e-30 (of float64: 1e-290)
/// stays, its count and sum become 0. The sums are added in the order of the vectors: the same
/// bytes in every run. To look for ids outside [0, K) would wait: their vectors are left out. Asynchronous; memory 32 n bytes.
/// Errors: shape_error, value_error on the decay, overlapping memory or d > 4096; cuda_error.
template <mutable_device_matrix_like C, device_matrix_like Z, device_matrix_like I, real A>
    requires std::same_as<A, arithmetic_of<typename std::remove_cvref_t<C>::value_type>> && std::same_as<A, arithmetic_of<typename Z::value_type>>
void ema_rows(const cuda_backend& gpu, C&& codes, const Z& vectors, const I& ids, device_ema_row_state<A>& state, double decay,
              const std::type_identity_t<device_row_constraint<A>>& limits) {
    const device_span<typename std::remove_cvref_t<C>::value_type> c = codes;
    const device_view<typename Z::value_type> z = vectors;
    const cuda::ids_in all = cuda::flat_ids<typename I::value_type>("ema_rows", ids);
    cuda::check_ema_rows(cuda::writable(c), cuda::rows_of(z), all, state, decay, limits);
    cuda::require_apart("ema_rows", device_view<typename std::remove_cvref_t<C>::value_type>(c), z);
    if (state.counts.empty()) {
        device_ema_row_state<A> fresh{device_matrix<A>(gpu, 1, c.rows()), device_matrix<A>(gpu, c.rows(), c.cols())};
        cuda::start_ema_rows(gpu.shared_state(), cuda::read_only(cuda::writable(c)), fresh);
        state = std::move(fresh);
    }
    cuda::ema_rows(gpu.shared_state(), cuda::writable(c), cuda::rows_of(z), all, state, decay, limits);
}

}  // namespace isic::inline ISIC_ABI
