// SPDX-License-Identifier: Apache-2.0
#include <isic/cuda/update.hpp>

#include <bit>
#include <cmath>
#include <vector>

#include <isic/detail/eigen_view.hpp>
#include <isic/detail/update_checks.hpp>

#include "checks.hpp"
#include "fused_kernels.hpp"
#include "sort.hpp"
#include "update_kernels.hpp"

namespace isic::inline ISIC_ABI {
namespace cuda::detail {

/// Reads the private members of device_constraint.
struct constraint_access {
    static constraint_view limits(const device_constraint& c, index_t width) {
        return {static_cast<const std::uint8_t*>(c.locked_.data()),
                {c.basis_.data(), c.basis_.rows(), width},
                c.keep_norms_,
                c.within_,
                c.anchor_.data()};
    }
    static void check(const device_constraint& c, std::string_view function, any_device_span codes) {
        if (c.codes_ > 0) {
            isic::detail::require_size(function, "codes of the constraint", codes.rows, c.codes_);
            isic::detail::require_size(function, "columns of the constraint", codes.cols, c.width_);
        }
    }
};

}  // namespace cuda::detail

device_constraint::device_constraint(const cuda_backend& gpu, const constraint& limits, index_t codes, index_t width)
    : codes_(codes), width_(width), keep_norms_(limits.keep_norms), within_(limits.within) {
    constexpr std::string_view function = "device_constraint";
    if (codes <= 0 || width <= 0) {
        detail::fail_shape(function, "a codebook with rows and columns", codes, width);
    }
    detail::check(function, limits, codes, width);
    cuda::detail::require_width(function, width);
    const std::shared_ptr<cuda::detail::state>& s = gpu.shared_state();
    if (limits.orthogonal_to.rank() > 0) {
        const detail::row_matrix rows = detail::map(limits.orthogonal_to.basis).transpose();
        basis_ = upload(gpu, rows);
    }
    if (std::isfinite(within_)) {
        matrix<double> anchor = limits.anchor;
        for (index_t k = 0; k < codes && !limits.locked.empty(); ++k) {
            if (limits.locked[static_cast<std::size_t>(k)]) {  // may hold anything
                std::ranges::fill(anchor.row(k), 0.0);
            }
        }
        anchor_ = upload(gpu, anchor);
    }
    if (!limits.locked.empty()) {
        const std::vector<std::uint8_t> bytes(limits.locked.begin(), limits.locked.end());
        locked_ = cuda::detail::buffer(s, bytes.size());
        cuda::detail::copy_to_device(*s, locked_.data(), bytes.size(), bytes.data(), bytes.size(), bytes.size(), 1);
    }
}

update_summary update_future::get() const {
    using cuda::detail::update_counts;
    detail::require<value_error>(owner_ != nullptr, "update_future::get", "the future of an update",
                                 "a default-constructed one");
    const update_counts done =
        cuda::detail::to_host(*owner_, static_cast<const update_counts*>(counts_.data()), 1).front();
    return {static_cast<index_t>(done.moved), static_cast<index_t>(done.overflowed),
            std::bit_cast<double>(done.largest_step)};
}

}  // namespace isic::inline ISIC_ABI

namespace isic::inline ISIC_ABI::cuda::detail {
namespace {

void check_codes(std::string_view function, any_device_span codes, const device_constraint& limits) {
    require_not_empty(function, "a codebook", codes);
    require_width(function, codes.cols);
    constraint_access::check(limits, function, codes);
}

void check_assignments(std::string_view function, any_device_span codes, const device_assignments& batch) {
    isic::detail::check_assignments_shape(function, codes.rows, codes.cols, batch.counts.cols(), batch.sums.rows(),
                                          batch.sums.cols());
}

void check_gradient(std::string_view function, any_device_span codes, any_device_view gradient,
                    const device_constraint& limits) {
    check_codes(function, codes, limits);
    isic::detail::check_gradient_shape(function, codes.rows, codes.cols, gradient.rows, gradient.cols);
    require_apart(function, codes, gradient);
}

/// Queues the kernel; the summary is read later.
update_future queue(const std::shared_ptr<state>& s, std::string_view function, update_arguments a) {
    const device_guard guard(s->device());
    buffer summary(s, sizeof(update_counts));
    fill_bytes(*s, summary.data(), 0, summary.size());
    a.summary = static_cast<update_counts*>(summary.data());
    check(update_rows(a, s->stream()), function, "update_rows");
    return {s, std::move(summary)};
}

update_arguments arguments(update_kind kind, any_device_span codes, const device_constraint& limits) {
    update_arguments a{};
    a.kind = kind;
    a.codes = codes;
    a.limits = constraint_access::limits(limits, codes.cols);
    return a;
}

}  // namespace

void clear(state& s, void* memory, std::size_t bytes) {
    fill_bytes(s, memory, 0, bytes);
}

device_assignments assign(const cuda_backend& gpu, any_device_view vectors, device_ids ids, index_t codes) {
    constexpr std::string_view function = "assign";
    isic::detail::check_assign(function, codes, vectors.rows, ids.size);
    isic::detail::require<shape_error>(vectors.cols > 0, function, "vectors with columns", "0");
    const std::shared_ptr<state>& s = gpu.shared_state();
    require_ids_inside(s, ids, codes, function);
    require_finite_rows(s, vectors, nullptr, function, "the vectors");
    device_assignments out{device_matrix<double>(gpu, 1, codes), device_matrix<double>(gpu, codes, vectors.cols)};
    const device_guard guard(s->device());
    const sorted_by_code sorted(s, ids, codes, function);
    check(sum_by_code(vectors, sorted.order(), sorted.starts(), codes, out.counts.data(), out.sums.data(), s->stream()),
          function, "sum_by_code");
    return out;
}

update_future ridge_update(const std::shared_ptr<state>& s, any_device_span codes, const device_assignments& batch,
                           double lambda, const device_constraint& limits) {
    constexpr std::string_view function = "ridge_update";
    check_codes(function, codes, limits);
    check_assignments(function, codes, batch);
    isic::detail::check_lambda(function, lambda);
    update_arguments a = arguments(update_kind::ridge, codes, limits);
    a.counts = batch.counts.data();
    a.sums = batch.sums.data();
    a.lambda = lambda;
    return queue(s, function, a);
}

update_future ema_update(const cuda_backend& gpu, any_device_span codes, device_ema_state<double>& state,
                         const device_assignments& batch, double decay, const device_constraint& limits) {
    constexpr std::string_view function = "ema_update";
    check_codes(function, codes, limits);
    check_assignments(function, codes, batch);
    isic::detail::check_decay(function, decay);
    if (state.counts.empty()) {
        state = {device_matrix<double>(gpu, 1, codes.rows), device_matrix<double>(gpu, codes.rows, codes.cols)};
        const device_guard guard(gpu.device());
        check(start_ema(codes, state.counts.data(), state.sums.data(), gpu.shared_state()->stream()), function,
              "start_ema");
    }
    isic::detail::check_ema_state(function, codes.rows, codes.cols, state.counts.cols(), state.sums.rows(),
                                  state.sums.cols());
    update_arguments a = arguments(update_kind::ema, codes, limits);
    a.counts = batch.counts.data();
    a.sums = batch.sums.data();
    a.decay = decay;
    a.state_counts = state.counts.data();
    a.first = state.sums.span();
    return queue(gpu.shared_state(), function, a);
}

void check_sgd_update(any_device_span codes, any_device_view gradient, const sgd_options& options,
                      const device_constraint& limits) {
    isic::detail::check("sgd_update", options);
    check_gradient("sgd_update", codes, gradient, limits);
}

update_future sgd_update(const std::shared_ptr<state>& s, any_device_span codes, any_device_view gradient,
                         any_device_span velocity, const sgd_options& options, const device_constraint& limits) {
    update_arguments a = arguments(update_kind::sgd, codes, limits);
    a.gradient = gradient;
    a.first = velocity;
    a.rate = options.rate;
    a.momentum = options.momentum;
    return queue(s, "sgd_update", a);
}

void check_adam_update(any_device_span codes, any_device_view gradient, index_t steps, const adam_options& options,
                       const device_constraint& limits) {
    isic::detail::check("adam_update", options);
    isic::detail::check_steps("adam_update", steps);
    check_gradient("adam_update", codes, gradient, limits);
}

update_future adam_update(const std::shared_ptr<state>& s, any_device_span codes, any_device_view gradient,
                          any_device_span mean, any_device_span square, index_t step, const adam_options& options,
                          const device_constraint& limits) {
    update_arguments a = arguments(update_kind::adam, codes, limits);
    a.gradient = gradient;
    a.first = mean;
    a.second = square;
    a.rate = options.rate;
    a.beta1 = options.beta1;
    a.beta2 = options.beta2;
    a.epsilon = options.epsilon;
    a.bias_correction1 = 1 - std::pow(options.beta1, static_cast<double>(step));
    a.bias_correction2 = 1 - std::pow(options.beta2, static_cast<double>(step));
    return queue(s, "adam_update", a);
}

}  // namespace isic::inline ISIC_ABI::cuda::detail
