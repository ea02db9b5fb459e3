// SPDX-License-Identifier: Apache-2.0
/// \file
/// Constrained updates of a codebook on a device, the constraint fused with the step; the optimiser's state stays there.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <string_view>

#include <isic/cuda/matrix.hpp>
#include <isic/detail/checks.hpp>
#include <isic/update.hpp>

namespace isic::inline ISIC_ABI {

namespace cuda::detail {

struct constraint_access;

}  // namespace cuda::detail

/// A `constraint` uploaded once and used in every step. Movable. Not thread-safe, like its backend.
class device_constraint {
public:
    /// No limits.
    device_constraint() = default;
    /// For codebooks [codes x width]. Waits. Errors: those of `constraint`; value_error if width > 4096; cuda_error.
    device_constraint(const cuda_backend& gpu, const constraint& limits, index_t codes, index_t width);

private:
    friend struct cuda::detail::constraint_access;
    device_matrix<double> basis_;   // V^T [rank x d]
    device_matrix<double> anchor_;  // [K x d]
    cuda::detail::buffer locked_;   // [K]
    index_t codes_ = 0;
    index_t width_ = 0;
    bool keep_norms_ = false;
    double within_ = std::numeric_limits<double>::infinity();
};

/// The summary of a queued update, like std::future. Movable. Not thread-safe, like its backend.
class update_future {
public:
    update_future() = default;
    /// Used by the updates.
    update_future(std::shared_ptr<cuda::detail::state> owner, cuda::detail::buffer counts)
        : owner_(std::move(owner)), counts_(std::move(counts)) {}
    /// Waits for the update. Errors: cuda_error, also of earlier asynchronous work; value_error if default-constructed.
    [[nodiscard]] update_summary get() const;

private:
    std::shared_ptr<cuda::detail::state> owner_;
    cuda::detail::buffer counts_;
};

/// `assignments` on a device.
struct device_assignments {
    device_matrix<double> counts;  ///< n, [1 x K]
    device_matrix<double> sums;    ///< [K x d]
};

/// State of `ema_update` (double) and `fused::ema_update` (the arithmetic of the codes) on a device; starts empty.
template <real S = double>
struct device_ema_state {
    device_matrix<S> counts;  ///< [1 x K]
    device_matrix<S> sums;    ///< [K x d]
};

/// State of `sgd_update` on a device; starts empty. float halves the memory traffic of double.
template <real S = float>
struct device_sgd_state {
    device_matrix<S> velocity;  ///< [K x d]
};

/// State of `adam_update` and `fused::adam_update` on a device; starts empty. float halves the memory traffic of double.
template <real S = float>
struct device_adam_state {
    device_matrix<S> mean;    ///< [K x d], of the projected gradient
    device_matrix<S> square;  ///< [K x d]
    index_t steps = 0;        ///< number of steps taken
};

namespace cuda::detail {

device_assignments assign(const cuda_backend& gpu, any_device_view vectors, device_ids ids, index_t codes);
update_future ridge_update(const std::shared_ptr<state>& s, any_device_span codes, const device_assignments& batch,
                           double lambda, const device_constraint& limits);
/// Creates an empty state: one count of the present row per code.
update_future ema_update(const cuda_backend& gpu, any_device_span codes, device_ema_state<double>& state,
                         const device_assignments& batch, double decay, const device_constraint& limits);
update_future sgd_update(const std::shared_ptr<state>& s, any_device_span codes, any_device_view gradient,
                         any_device_span velocity, const sgd_options& options, const device_constraint& limits);
/// `step`: number of this step, from 1 on.
update_future adam_update(const std::shared_ptr<state>& s, any_device_span codes, any_device_view gradient,
                          any_device_span mean, any_device_span square, index_t step, const adam_options& options,
                          const device_constraint& limits);
/// Throw as the updates would, before a state is created.
void check_sgd_update(any_device_span codes, any_device_view gradient, const sgd_options& options,
                      const device_constraint& limits);
void check_adam_update(any_device_span codes, any_device_view gradient, index_t steps, const adam_options& options,
                       const device_constraint& limits);
/// Sets memory to zero in stream order.
void clear(state& s, void* memory, std::size_t bytes);

/// Creates empty state matrices as zeros, and checks the shape of the others. Throws before one is created.
template <real... S>
void prepare_states(std::string_view function, const cuda_backend& gpu, index_t rows, index_t cols,
                    device_matrix<S>&... states) {
    const auto check = [&](const auto& matrix) {
        isic::detail::require_size(function, "rows in the optimiser state", rows,
                                   matrix.empty() ? rows : matrix.rows());
        isic::detail::require_size(function, "columns in the optimiser state", cols,
                                   matrix.empty() ? cols : matrix.cols());
    };
    const auto make = [&]<class T>(device_matrix<T>& matrix) {
        if (matrix.empty()) {
            matrix = device_matrix<T>(gpu, rows, cols);
            clear(*gpu.shared_state(), matrix.data(), static_cast<std::size_t>(rows * cols) * sizeof(T));
        }
    };
    (check(states), ...);
    (make(states), ...);
}

}  // namespace cuda::detail

/// Collects vectors [n x d] by id, in the order of the vectors: every run gives the same sums. Waits for the checks of values and
/// ids. Errors: as on the CPU; cuda_error.
template <device_matrix_like Z, device_matrix_like I>
[[nodiscard]] device_assignments assign(const cuda_backend& gpu, const Z& vectors, const I& ids, index_t codes) {
    return cuda::detail::assign(gpu, cuda::detail::view_of(vectors), cuda::detail::ids_of("assign", ids), codes);
}

/// Closed-form refit, as on the CPU. Asynchronous. Errors: shape_error; value_error unless lambda >= 0; cuda_error.
template <mutable_device_matrix_like C>
update_future ridge_update(const cuda_backend& gpu, C&& codes, const device_assignments& batch, double lambda,
                           const device_constraint& limits = {}) {
    return cuda::detail::ridge_update(gpu.shared_state(), cuda::detail::span_of(codes), batch, lambda, limits);
}

/// Exponential moving averages, as on the CPU. Asynchronous. Errors: shape_error; value_error on decay; cuda_error.
template <mutable_device_matrix_like C>
update_future ema_update(const cuda_backend& gpu, C&& codes, device_ema_state<double>& state,
                         const device_assignments& batch, double decay, const device_constraint& limits = {}) {
    return cuda::detail::ema_update(gpu, cuda::detail::span_of(codes), state, batch, decay, limits);
}

/// A step of SGD, as on the CPU; gradient [K x d] of any storage type. Its values are not checked: a row with NaN keeps its bytes
/// and counts as overflowed, but NaN stays in its velocity. Asynchronous. Errors: shape_error, value_error, cuda_error.
template <mutable_device_matrix_like C, device_matrix_like G, class S>
update_future sgd_update(const cuda_backend& gpu, C&& codes, const G& gradient, device_sgd_state<S>& state,
                         const sgd_options& options = {}, const device_constraint& limits = {}) {
    const any_device_span c = cuda::detail::span_of(codes);
    const any_device_view g = cuda::detail::view_of(gradient);
    cuda::detail::check_sgd_update(c, g, options, limits);
    cuda::detail::prepare_states("sgd_update", gpu, c.rows, c.cols, state.velocity);
    return cuda::detail::sgd_update(gpu.shared_state(), c, g, state.velocity.span(), options, limits);
}

/// A step of Adam on the projected gradient, whose step is projected too, as on the CPU; gradient [K x d] of any storage type, NaN
/// as in `sgd_update`. One pass over codes, gradient and state. Asynchronous. Errors: shape_error, value_error, cuda_error.
template <mutable_device_matrix_like C, device_matrix_like G, class S>
update_future adam_update(const cuda_backend& gpu, C&& codes, const G& gradient, device_adam_state<S>& state,
                          const adam_options& options = {}, const device_constraint& limits = {}) {
    const any_device_span c = cuda::detail::span_of(codes);
    const any_device_view g = cuda::detail::view_of(gradient);
    cuda::detail::check_adam_update(c, g, state.steps, options, limits);
    cuda::detail::prepare_states("adam_update", gpu, c.rows, c.cols, state.mean, state.square);
    update_future done = cuda::detail::adam_update(gpu.shared_state(), c, g, state.mean.span(), state.square.span(),
                                                   state.steps + 1, options, limits);
    ++state.steps;
    return done;
}

}  // namespace isic::inline ISIC_ABI
