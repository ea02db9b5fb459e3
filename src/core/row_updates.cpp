#include <isic/rows.hpp>

#include <algorithm>
#include <cmath>

#include "orthonormal.hpp"

namespace isic {

template <real T>
row_basis<T>::row_basis(const subspace& harm) : rows_(harm.rank(), harm.width()) {
    detail::require_orthonormal("row_basis", harm.basis);
    for (index_t i = 0; i < harm.width(); ++i) {
        for (index_t j = 0; j < harm.rank(); ++j) {
            rows_(j, i) = static_cast<T>(harm.basis(i, j));
        }
    }
}

template class row_basis<float>;
template class row_basis<double>;

namespace detail {
namespace {

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
void check(std::string_view function, matrix_span<T> codes, const row_constraint<T>& limits) {
    require_not_empty(function, "a codebook", codes);
    if (limits.orthogonal_to.rank() > 0) {
        require_size(function, "columns in the basis", codes.cols(), limits.orthogonal_to.width());
    }
    require_optional(function, "values in locked", codes.rows(), limits.locked);
    require_threads(function, limits.use.threads);
}

/// A state matrix made on first use, afterwards of the codebook's shape.
template <class T>
void prepare(std::string_view function, matrix_span<T> codes, matrix<T>& state) {
    if (state.empty()) {
        state = matrix<T>(codes.rows(), codes.cols());
    }
    require_size(function, "rows in the state", codes.rows(), state.rows());
    require_size(function, "columns in the state", codes.cols(), state.cols());
}

template <class T, class Id>
void ema_step_of(matrix_span<T> codes, matrix_view<T> vectors, const Id* ids, ema_row_state<T>& state, double decay,
                 const row_constraint<T>& limits) {
    const kernels::ema_step<T> step{.decay = static_cast<T>(decay),
                                    .basis = limits.orthogonal_to.rows().data(),
                                    .rank = limits.orthogonal_to.rank(),
                                    .locked = data_or_null(limits.locked)};
    kernels::ema(codes.data(), codes.stride(), state.counts.data(), state.sums.data(), state.sums.cols(), codes.rows(), codes.cols(),
                 vectors.data(), vectors.stride(), ids, vectors.rows(), step, state.space, limits.use);
}

}  // namespace

template <real T>
void project_rows(matrix_span<T> rows, const row_basis<T>& harm, const row_projection_options<T>& options) {
    constexpr std::string_view f = "project_rows";
    require_threads(f, options.use.threads);
    if (rows.empty() || harm.rank() == 0) {
        return;
    }
    require_size(f, "columns in the basis", rows.cols(), harm.width());
    require_optional(f, "values in strength", rows.rows(), options.strength);
    require_optional(f, "values in the center", rows.cols(), options.center);
    require_optional(f, "weights", harm.rank(), options.weights);
    kernels::project(rows.data(), rows.rows(), rows.cols(), rows.stride(),
                     {.basis = harm.rows().data(),
                      .rank = harm.rank(),
                      .center = data_or_null(options.center),
                      .strength = data_or_null(options.strength),
                      .uniform = options.uniform,
                      .weights = data_or_null(options.weights)},
                     options.use);
}

template <real T>
void adam_rows(matrix_span<T> codes, matrix_view<T> gradient, adam_row_state<T>& state, const adam_options& options,
               const row_constraint<T>& limits) {
    constexpr std::string_view f = "adam_rows";
    check(f, codes, limits);
    require_size(f, "gradient rows", codes.rows(), gradient.rows());
    require_size(f, "gradient columns", codes.cols(), gradient.cols());
    options.check(f);
    require<value_error>(state.steps >= 0, f, "steps >= 0 in the state", fmt::format("{}", state.steps));
    prepare(f, codes, state.mean);
    prepare(f, codes, state.square);
    ++state.steps;
    // Of the decay as the kernel rounds it: else the first steps would be off by its rounding over 1 - beta.
    const auto unbias = [&](double beta) {
        const auto rounded = static_cast<double>(static_cast<T>(beta));
        return static_cast<T>(1 - std::pow(rounded, static_cast<double>(state.steps)));
    };
    const kernels::adam_step<T> step{.rate = static_cast<T>(options.rate),
                                     .beta1 = static_cast<T>(options.beta1),
                                     .beta2 = static_cast<T>(options.beta2),
                                     .epsilon = static_cast<T>(options.epsilon),
                                     .unbias_mean = unbias(options.beta1),
                                     .unbias_square = unbias(options.beta2),
                                     .basis = limits.orthogonal_to.rows().data(),
                                     .rank = limits.orthogonal_to.rank(),
                                     .locked = data_or_null(limits.locked)};
    kernels::adam(codes.data(), codes.stride(), gradient.data(), gradient.stride(), state.mean.data(), state.square.data(),
                  state.mean.cols(), codes.rows(), codes.cols(), step, limits.use);
}

template <real T>
void ema_rows(matrix_span<T> codes, matrix_view<T> vectors, const id_list& ids, ema_row_state<T>& state, double decay,
              const row_constraint<T>& limits) {
    constexpr std::string_view f = "ema_rows";
    check(f, codes, limits);
    require_size(f, "columns in the vectors", codes.cols(), vectors.cols());
    require_size(f, "ids", vectors.rows(), ids.size());
    require_ids(f, ids, codes.rows());
    require<value_error>(decay >= 0 && decay < 1, f, "decay in [0, 1)", fmt::format("{}", decay));
    if (state.counts.empty()) {
        state.counts.assign(static_cast<std::size_t>(codes.rows()), T(1));
        state.sums = matrix<T>(codes.rows(), codes.cols());
        for (index_t k = 0; k < codes.rows(); ++k) {
            std::ranges::copy(codes.row(k), state.sums.row(k).begin());
        }
    }
    require_size(f, "counts in the state", codes.rows(), static_cast<index_t>(state.counts.size()));
    require_size(f, "rows in the state", codes.rows(), state.sums.rows());
    require_size(f, "columns in the state", codes.cols(), state.sums.cols());
    if (ids.narrow() != nullptr) {
        ema_step_of(codes, vectors, ids.narrow(), state, decay, limits);
    } else {
        ema_step_of(codes, vectors, ids.wide(), state, decay, limits);
    }
}

template void project_rows(matrix_span<float>, const row_basis<float>&, const row_projection_options<float>&);
template void project_rows(matrix_span<double>, const row_basis<double>&, const row_projection_options<double>&);
template void adam_rows(matrix_span<float>, matrix_view<float>, adam_row_state<float>&, const adam_options&, const row_constraint<float>&);
template void adam_rows(matrix_span<double>, matrix_view<double>, adam_row_state<double>&, const adam_options&, const row_constraint<double>&);
template void ema_rows(matrix_span<float>, matrix_view<float>, const id_list&, ema_row_state<float>&, double, const row_constraint<float>&);
template void ema_rows(matrix_span<double>, matrix_view<double>, const id_list&, ema_row_state<double>&, double, const row_constraint<double>&);

}  // namespace detail
}  // namespace isic
