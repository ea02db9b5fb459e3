/// \file
/// Constrained updates of a codebook on a device, the constraint fused with the step; the state stays there.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>

#include <isic/cuda/matrix.hpp>
#include <isic/update.hpp>

namespace isic::inline ISIC_ABI {

/// A `constraint` whose parts lie on a device: made once, used in every step.
class device_constraint {
public:
    device_constraint() = default;
    /// For codebooks [codes x width]. Waits. Errors: those of constraint::check; value_error if width > 4096; cuda_error.
    device_constraint(const cuda_backend& gpu, const constraint& limits, index_t codes, index_t width);

private:
    friend struct device_constraint_access;
    device_matrix<double> directions_;  // [rank x d]
    device_matrix<double> anchor_;      // [K x d]
    cuda::buffer locked_;               // [K]
    index_t codes_ = 0;
    index_t width_ = 0;
    bool keep_norms_ = false;
    double within_ = std::numeric_limits<double>::infinity();
};

/// What an update did, once it is done.
class pending_summary {
public:
    pending_summary() = default;
    /// For isic's own parts.
    pending_summary(std::shared_ptr<cuda::state> owner, cuda::buffer counts) : owner_(std::move(owner)), counts_(std::move(counts)) {}
    /// Waits for the update. Errors: cuda_error, also of earlier asynchronous work.
    update_summary get() const;

private:
    std::shared_ptr<cuda::state> owner_;
    cuda::buffer counts_;
};

/// Vectors by the code they were assigned to, on a device.
struct device_assignments {
    device_matrix<double> counts;  ///< [1 x K]
    device_matrix<double> sums;    ///< [K x d]
};

/// State of `ema_update` on a device; starts empty.
struct device_ema_state {
    device_matrix<double> counts;  ///< [1 x K]
    device_matrix<double> sums;    ///< [K x d]
};

/// State of `sgd_update` on a device; starts empty. S is float or double: float halves the memory traffic.
template <class S = float>
struct device_sgd_state {
    device_matrix<S> velocity;  ///< [K x d]
};

/// State of `adam_update` on a device; starts empty. S is float or double: float halves the memory traffic.
template <class S = float>
struct device_adam_state {
    device_matrix<S> mean;    ///< [K x d], of the projected gradient
    device_matrix<S> square;  ///< [K x d]
    index_t steps = 0;        ///< steps taken
};

namespace cuda {

void assign(const std::shared_ptr<state>& s, rows_in vectors, ids_in ids, index_t codes, double* counts, double* sums);
pending_summary ridge(const std::shared_ptr<state>& s, rows_out codes, const device_assignments& batch, double lambda,
                      const device_constraint& limits);
pending_summary ema(const std::shared_ptr<state>& s, rows_out codes, device_ema_state& memory, const device_assignments& batch, double decay,
                    const device_constraint& limits);
/// Fills an empty state: one count of the present row per code.
void start_ema(const std::shared_ptr<state>& s, rows_in codes, device_ema_state& memory);
pending_summary sgd(const std::shared_ptr<state>& s, rows_out codes, rows_in gradient, rows_out velocity, const sgd_options& options,
                    const device_constraint& limits);
/// Throw what the updates would, before a state is made.
void check_ema(rows_out codes, const device_assignments& batch, double decay, const device_constraint& limits);
void check_gradient_step(std::string_view function, rows_out codes, rows_in gradient, const device_constraint& limits);
pending_summary adam(const std::shared_ptr<state>& s, rows_out codes, rows_in gradient, rows_out mean, rows_out square, index_t step,
                     const adam_options& options, const device_constraint& limits);
/// All bytes 0, in stream order.
void clear(state& s, void* memory, std::size_t bytes);

/// State matrices: zeros on first use, afterwards their shape must stay. All are checked before one is made.
template <class... S>
    requires((std::same_as<S, float> || std::same_as<S, double>) && ...)
void prepare_states(std::string_view function, const cuda_backend& gpu, index_t rows, index_t cols, device_matrix<S>&... states) {
    const auto check = [&](const auto& state) {
        isic::detail::require_size(function, "rows in the optimiser state", rows, state.empty() ? rows : state.rows());
        isic::detail::require_size(function, "columns in the optimiser state", cols, state.empty() ? cols : state.cols());
    };
    const auto make = [&]<class T>(device_matrix<T>& state) {
        if (state.empty()) {
            state = device_matrix<T>(gpu, rows, cols);
            clear(*gpu.shared_state(), state.data(), static_cast<std::size_t>(rows * cols) * sizeof(T));
        }
    };
    (check(states), ...);
    (make(states), ...);
}

}  // namespace cuda

/// Collects vectors [n x d] by id, in a fixed order: the same sums in every run. Waits while it looks for NaN and bad ids.
/// Errors: as on the CPU; cuda_error.
template <device_matrix_like Z, device_matrix_like I>
device_assignments assign(const cuda_backend& gpu, const Z& vectors, const I& ids, index_t codes) {
    detail::require<shape_error>(codes > 0, "assign", "at least one code", fmt::format("{}", codes));
    device_assignments out{device_matrix<double>(gpu, 1, codes), device_matrix<double>(gpu, codes, vectors.cols())};
    cuda::assign(gpu.shared_state(), cuda::rows_of<typename Z::value_type>(vectors), cuda::flat_ids<typename I::value_type>("assign", ids),
                 codes, out.counts.data(), out.sums.data());
    return out;
}

/// Closed-form refit, as on the CPU. Asynchronous. Errors: shape_error, value_error unless lambda >= 0; cuda_error.
template <mutable_device_matrix_like C>
pending_summary ridge_update(const cuda_backend& gpu, C&& codes, const device_assignments& batch, double lambda,
                             const device_constraint& limits = {}) {
    using T = typename std::remove_cvref_t<C>::value_type;
    return cuda::ridge(gpu.shared_state(), cuda::writable(device_span<T>(codes)), batch, lambda, limits);
}

/// Exponential moving averages, as on the CPU. Asynchronous. Errors: shape_error, value_error on decay; cuda_error.
template <mutable_device_matrix_like C>
pending_summary ema_update(const cuda_backend& gpu, C&& codes, device_ema_state& state, const device_assignments& batch, double decay,
                           const device_constraint& limits = {}) {
    const device_span<typename std::remove_cvref_t<C>::value_type> c = codes;
    cuda::check_ema(cuda::writable(c), batch, decay, limits);
    if (state.counts.empty()) {
        state = {device_matrix<double>(gpu, 1, c.rows()), device_matrix<double>(gpu, c.rows(), c.cols())};
        cuda::start_ema(gpu.shared_state(), cuda::read_only(cuda::writable(c)), state);
    }
    return cuda::ema(gpu.shared_state(), cuda::writable(c), state, batch, decay, limits);
}

/// A step of SGD, as on the CPU. gradient [K x d], any storage; its values are not looked at first: NaN leaves its row as
/// it was and counts as overflowed, but stays in the velocity. Asynchronous. Errors: shape_error, value_error; cuda_error.
template <mutable_device_matrix_like C, device_matrix_like G, class S>
pending_summary sgd_update(const cuda_backend& gpu, C&& codes, const G& gradient, device_sgd_state<S>& state, const sgd_options& options = {},
                           const device_constraint& limits = {}) {
    const device_span<typename std::remove_cvref_t<C>::value_type> c = codes;
    const device_view<typename G::value_type> g = gradient;
    options.check("sgd_update");
    cuda::check_gradient_step("sgd_update", cuda::writable(c), cuda::rows_of(g), limits);
    cuda::require_apart("sgd_update", device_view<typename std::remove_cvref_t<C>::value_type>(c), g);
    cuda::prepare_states("sgd_update", gpu, c.rows(), c.cols(), state.velocity);
    return cuda::sgd(gpu.shared_state(), cuda::writable(c), cuda::rows_of(g), cuda::writable(state.velocity.span()), options, limits);
}

/// A step of Adam on the projected gradient, the step projected too, as on the CPU. gradient [K x d], any storage; as
/// `sgd_update` for NaN. One pass over codes, gradient and state. Asynchronous. Errors: shape_error, value_error; cuda_error.
template <mutable_device_matrix_like C, device_matrix_like G, class S>
pending_summary adam_update(const cuda_backend& gpu, C&& codes, const G& gradient, device_adam_state<S>& state, const adam_options& options = {},
                            const device_constraint& limits = {}) {
    const device_span<typename std::remove_cvref_t<C>::value_type> c = codes;
    const device_view<typename G::value_type> g = gradient;
    options.check("adam_update");
    detail::require<value_error>(state.steps >= 0, "adam_update", "steps >= 0 in the state", fmt::format("{}", state.steps));
    cuda::check_gradient_step("adam_update", cuda::writable(c), cuda::rows_of(g), limits);
    cuda::require_apart("adam_update", device_view<typename std::remove_cvref_t<C>::value_type>(c), g);
    cuda::prepare_states("adam_update", gpu, c.rows(), c.cols(), state.mean, state.square);
    pending_summary done = cuda::adam(gpu.shared_state(), cuda::writable(c), cuda::rows_of(g), cuda::writable(state.mean.span()), cuda::writable(state.square.span()), state.steps + 1, options, limits);
    ++state.steps;
    return done;
}

}  // namespace isic::inline ISIC_ABI
