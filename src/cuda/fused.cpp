// SPDX-License-Identifier: Apache-2.0
#include <isic/cuda/fused.hpp>

#include <cmath>

#include <fmt/format.h>

#include <isic/detail/update_checks.hpp>

#include "checks.hpp"
#include "fused_kernels.hpp"
#include "sort.hpp"

namespace isic::inline ISIC_ABI::cuda::detail {
namespace {

using isic::detail::require_size;

/// Pointer to contiguous values, null if there are none. Errors: shape_error unless there are `expected` contiguous values.
template <class T>
const T* data_or_null(std::string_view function, std::string_view name, index_t expected, device_view<T> values) {
    if (values.empty()) {
        return nullptr;
    }
    require_size(function, name, expected, values.rows() * values.cols());
    isic::detail::require<shape_error>(values.stride() == values.cols() || values.rows() == 1, function,
                                       fmt::format("{} without gaps", name),
                                       fmt::format("a stride of {}", values.stride()));
    return values.data();
}

template <class A>
basis_view<A> view_of(const fused::device_basis<A>& basis, index_t width) {
    return {basis.data(), basis.rank(), width};
}

template <class A>
void check_basis(std::string_view function, any_device_span rows, const fused::device_basis<A>& basis) {
    require_width(function, rows.cols);
    isic::detail::check_fused_basis(function, rows.cols, basis.rank(), basis.width());
}

template <class A>
const std::uint8_t* locked_of(std::string_view function, any_device_span codes,
                              const fused::device_constraint<A>& limits) {
    return data_or_null(function, "values in locked", codes.rows, limits.locked);
}

template <class A>
void check_codes(std::string_view function, any_device_span codes, const fused::device_constraint<A>& limits) {
    require_not_empty(function, "a codebook", codes);
    check_basis(function, codes, limits.orthogonal_to);
    static_cast<void>(locked_of(function, codes, limits));
}

}  // namespace

template <real A>
void fused_project_out(const std::shared_ptr<state>& s, any_device_span rows, const fused::device_basis<A>& harm,
                       const fused::device_projection_options<A>& options) {
    constexpr std::string_view f = "fused::project_out";
    if (rows.rows == 0 || rows.cols == 0 || harm.rank() == 0) {
        return;
    }
    check_basis(f, rows, harm);
    const projection_step<A> a{.rows = rows,
                               .basis = view_of(harm, rows.cols),
                               .strength = data_or_null(f, "values in strength", rows.rows, options.strength),
                               .uniform = options.uniform,
                               .center = data_or_null(f, "values in the center", rows.cols, options.center),
                               .weights = data_or_null(f, "weights", harm.rank(), options.weights)};
    const device_guard guard(s->device());
    check(queue_projection(a, s->multiprocessors(), s->stream()), f, "queue_projection");
}

template <real A>
void fused_adam_update(const cuda_backend& gpu, any_device_span codes, any_device_view gradient,
                       device_adam_state<A>& state, const adam_options& options,
                       const fused::device_constraint<A>& limits) {
    constexpr std::string_view f = "fused::adam_update";
    check_codes(f, codes, limits);
    isic::detail::check_gradient_shape(f, codes.rows, codes.cols, gradient.rows, gradient.cols);
    isic::detail::check(f, options);
    isic::detail::check_steps(f, state.steps);
    require_apart(f, codes, gradient);
    prepare_states(f, gpu, codes.rows, codes.cols, state.mean, state.square);
    // Of beta as the kernel rounds it: otherwise the first steps would be off by its rounding over 1 - beta.
    const auto bias_correction = [&](double beta) {
        return 1 - std::pow(static_cast<double>(static_cast<A>(beta)), static_cast<double>(state.steps + 1));
    };
    const adam_step<A> a{.codes = codes,
                         .gradient = gradient,
                         .mean = state.mean.span(),
                         .square = state.square.span(),
                         .basis = view_of(limits.orthogonal_to, codes.cols),
                         .locked = locked_of(f, codes, limits),
                         .beta1 = static_cast<A>(options.beta1),
                         .beta2 = static_cast<A>(options.beta2),
                         .epsilon = static_cast<A>(options.epsilon),
                         .step_scale = static_cast<A>(-options.rate / bias_correction(options.beta1)),
                         .inverse_correction2 = static_cast<A>(1 / bias_correction(options.beta2))};
    const device_guard guard(gpu.device());
    check(queue_adam(a, gpu.shared_state()->multiprocessors(), gpu.shared_state()->stream()), f, "queue_adam");
    ++state.steps;
}

template <real A>
void fused_ema_update(const cuda_backend& gpu, any_device_span codes, any_device_view vectors, device_ids ids,
                      device_ema_state<A>& state, double decay, const fused::device_constraint<A>& limits) {
    constexpr std::string_view f = "fused::ema_update";
    check_codes(f, codes, limits);
    isic::detail::check_fused_ema_batch(f, codes.cols, vectors.rows, vectors.cols, ids.size);
    isic::detail::check_decay(f, decay);
    if (!state.counts.empty()) {
        isic::detail::check_fused_ema_state(f, codes.rows, codes.cols, state.counts.cols(), state.sums.rows(),
                                            state.sums.cols());
    }
    require_apart(f, codes, vectors);
    const std::shared_ptr<detail::state>& s = gpu.shared_state();
    const device_guard guard(s->device());
    if (state.counts.empty()) {
        device_ema_state<A> fresh{device_matrix<A>(gpu, 1, codes.rows), device_matrix<A>(gpu, codes.rows, codes.cols)};
        check(start_ema(codes, fresh.counts.data(), fresh.sums.data(), s->stream()), f, "start_ema");
        state = std::move(fresh);
    }
    const sorted_by_code sorted(s, ids, codes.rows, f);
    const ema_step<A> a{.codes = codes,
                        .vectors = vectors,
                        .order = sorted.order(),
                        .starts = sorted.starts(),
                        .counts = state.counts.data(),
                        .sums = state.sums.data(),
                        .basis = view_of(limits.orthogonal_to, codes.cols),
                        .locked = locked_of(f, codes, limits),
                        .decay = static_cast<A>(decay)};
    check(queue_ema(a, s->multiprocessors(), s->stream()), f, "queue_ema");
}

template void fused_project_out(const std::shared_ptr<state>&, any_device_span, const fused::device_basis<float>&,
                                const fused::device_projection_options<float>&);
template void fused_project_out(const std::shared_ptr<state>&, any_device_span, const fused::device_basis<double>&,
                                const fused::device_projection_options<double>&);
template void fused_adam_update(const cuda_backend&, any_device_span, any_device_view, device_adam_state<float>&,
                                const adam_options&, const fused::device_constraint<float>&);
template void fused_adam_update(const cuda_backend&, any_device_span, any_device_view, device_adam_state<double>&,
                                const adam_options&, const fused::device_constraint<double>&);
template void fused_ema_update(const cuda_backend&, any_device_span, any_device_view, device_ids,
                               device_ema_state<float>&, double, const fused::device_constraint<float>&);
template void fused_ema_update(const cuda_backend&, any_device_span, any_device_view, device_ids,
                               device_ema_state<double>&, double, const fused::device_constraint<double>&);

}  // namespace isic::inline ISIC_ABI::cuda::detail
