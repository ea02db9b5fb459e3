// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <isic/fused.hpp>

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include <isic/detail/checks.hpp>
#include <isic/detail/gram_schmidt.hpp>
#include <isic/detail/kernels/kernels.hpp>
#include <isic/detail/update_checks.hpp>

namespace isic::inline ISIC_ABI::fused {

template <real T>
basis<T>::basis(const subspace& harm) {
    isic::detail::require_orthonormal("fused::basis", harm.basis);
    matrix<T> rows(harm.rank(), harm.width());
    for (index_t i = 0; i < harm.width(); ++i) {
        for (index_t j = 0; j < harm.rank(); ++j) {
            rows(j, i) = static_cast<T>(harm.basis(i, j));
        }
    }
    rows_ = std::make_shared<const matrix<T>>(std::move(rows));
}

namespace detail {

using isic::detail::require;
using isic::detail::require_ids;
using isic::detail::require_not_empty;
using isic::detail::require_size;
using isic::detail::require_threads;
namespace kernels = isic::detail::kernels;

template <class T>
const T* data_or_null(std::span<const T> values) {
    return values.empty() ? nullptr : values.data();
}

template <class T>
void require_optional(std::string_view function, std::string_view name, index_t expected, std::span<const T> values) {
    if (!values.empty()) {
        require_size(function, name, expected, static_cast<index_t>(values.size()));
    }
}

template <class T>
void check(std::string_view function, matrix_span<T> codes, const constraint<T>& limits) {
    require_not_empty(function, "a codebook", codes);
    isic::detail::check_fused_basis(function, codes.cols(), limits.orthogonal_to.rank(), limits.orthogonal_to.width());
    require_optional(function, "values in locked", codes.rows(), limits.locked);
    require_threads(function, limits.execution.threads);
}

/// Creates a state matrix in the first step; throws shape_error unless it has the codebook's shape.
template <class T>
void prepare(std::string_view function, matrix_span<T> codes, matrix<T>& state) {
    if (state.empty()) {
        state = matrix<T>(codes.rows(), codes.cols());
    }
    require_size(function, "rows in the state", codes.rows(), state.rows());
    require_size(function, "columns in the state", codes.cols(), state.cols());
}

template <class T, class Id>
void ema_step_of(matrix_span<T> codes, matrix_view<T> vectors, const Id* ids, ema_state<T>& state, double decay,
                 const constraint<T>& limits) {
    const kernels::ema_step<T> step{.decay = static_cast<T>(decay),
                                    .basis = limits.orthogonal_to.data(),
                                    .rank = limits.orthogonal_to.rank(),
                                    .locked = data_or_null(limits.locked)};
    const kernels::ema_arrays<T> arrays{.codes = codes.data(),
                                        .stride = codes.stride(),
                                        .counts = state.counts.data(),
                                        .sums = state.sums.data(),
                                        .sums_stride = state.sums.cols(),
                                        .count = codes.rows(),
                                        .width = codes.cols(),
                                        .vectors = vectors.data(),
                                        .vectors_stride = vectors.stride(),
                                        .vector_count = vectors.rows()};
    kernels::ema(arrays, ids, step, state.workspace, limits.execution);
}

template <real T>
void project_out(matrix_span<T> rows, const basis<T>& harm, const projection_options<T>& options) {
    constexpr std::string_view f = "fused::project_out";
    require_threads(f, options.execution.threads);
    if (rows.empty() || harm.rank() == 0) {
        return;
    }
    require_size(f, "columns in the basis", rows.cols(), harm.width());
    require_optional(f, "values in strength", rows.rows(), options.strength);
    require_optional(f, "values in the center", rows.cols(), options.center);
    require_optional(f, "weights", harm.rank(), options.weights);
    kernels::project(rows.data(), rows.rows(), rows.cols(), rows.stride(),
                     {.basis = harm.data(),
                      .rank = harm.rank(),
                      .center = data_or_null(options.center),
                      .strength = data_or_null(options.strength),
                      .uniform = options.uniform,
                      .weights = data_or_null(options.weights)},
                     options.execution);
}

template <real T>
void adam_update(matrix_span<T> codes, matrix_view<T> gradient, adam_state<T>& state, const adam_options& options,
                 const constraint<T>& limits) {
    constexpr std::string_view f = "fused::adam_update";
    check(f, codes, limits);
    isic::detail::check_gradient_shape(f, codes.rows(), codes.cols(), gradient.rows(), gradient.cols());
    isic::detail::check(f, options);
    isic::detail::check_steps(f, state.steps);
    prepare(f, codes, state.mean);
    prepare(f, codes, state.square);
    ++state.steps;
    // 1 - beta^t for the beta that the kernel rounds to T: its rounding error, relative to 1 - beta, would scale the
    // first steps.
    const auto bias_correction = [&](double beta) {
        const auto rounded = static_cast<double>(static_cast<T>(beta));
        return static_cast<T>(1 - std::pow(rounded, static_cast<double>(state.steps)));
    };
    const kernels::adam_step<T> step{.rate = static_cast<T>(options.rate),
                                     .beta1 = static_cast<T>(options.beta1),
                                     .beta2 = static_cast<T>(options.beta2),
                                     .epsilon = static_cast<T>(options.epsilon),
                                     .bias_correction1 = bias_correction(options.beta1),
                                     .bias_correction2 = bias_correction(options.beta2),
                                     .basis = limits.orthogonal_to.data(),
                                     .rank = limits.orthogonal_to.rank(),
                                     .locked = data_or_null(limits.locked)};
    const kernels::adam_arrays<T> arrays{.codes = codes.data(),
                                         .stride = codes.stride(),
                                         .gradient = gradient.data(),
                                         .gradient_stride = gradient.stride(),
                                         .mean = state.mean.data(),
                                         .square = state.square.data(),
                                         .state_stride = state.mean.cols(),
                                         .count = codes.rows(),
                                         .width = codes.cols()};
    kernels::adam(arrays, step, limits.execution);
}

template <real T>
void ema_update(matrix_span<T> codes, matrix_view<T> vectors, const isic::detail::id_list& ids, ema_state<T>& state,
                double decay, const constraint<T>& limits) {
    constexpr std::string_view f = "fused::ema_update";
    check(f, codes, limits);
    isic::detail::check_fused_ema_batch(f, codes.cols(), vectors.rows(), vectors.cols(), ids.size());
    require_ids(f, ids, codes.rows());
    isic::detail::check_decay(f, decay);
    if (state.counts.empty()) {
        state.counts.assign(static_cast<std::size_t>(codes.rows()), T(1));
        state.sums = matrix<T>(codes.rows(), codes.cols());
        for (index_t k = 0; k < codes.rows(); ++k) {
            std::ranges::copy(codes.row(k), state.sums.row(k).begin());
        }
    }
    isic::detail::check_fused_ema_state(f, codes.rows(), codes.cols(), static_cast<index_t>(state.counts.size()),
                                        state.sums.rows(), state.sums.cols());
    if (ids.narrow() != nullptr) {
        ema_step_of(codes, vectors, ids.narrow(), state, decay, limits);
    } else {
        ema_step_of(codes, vectors, ids.wide(), state, decay, limits);
    }
}

}  // namespace detail
}  // namespace isic::inline ISIC_ABI::fused
