#include <isic/cuda/fused.hpp>

#include <cmath>

#include "kernels.hpp"
#include "runtime.hpp"
#include "sort.hpp"

namespace isic::inline ISIC_ABI::cuda {
namespace {

using isic::detail::require;
using isic::detail::require_size;

/// Device values as a pointer, null if there are none. Errors: shape_error unless there are as many as expected, without gaps.
template <class T>
const T* flat_or_null(std::string_view function, std::string_view name, index_t expected, device_view<T> values) {
    if (values.empty()) {
        return nullptr;
    }
    require_size(function, name, expected, values.rows() * values.cols());
    require<shape_error>(values.stride() == values.cols() || values.rows() == 1, function, fmt::format("{} without gaps", name),
                         fmt::format("a stride of {}", values.stride()));
    return values.data();
}

template <class A>
directions_in<A> directions_of(const device_row_basis<A>& basis, index_t width) {
    return {basis.rows().data(), basis.rank(), width};
}

template <class A>
void check_basis(std::string_view function, rows_out rows, const device_row_basis<A>& basis) {
    require<value_error>(rows.cols <= widest_row, function, fmt::format("a width of at most {} on a device", widest_row),
                         fmt::format("{}", rows.cols));
    if (basis.rank() > 0) {
        require_size(function, "columns in the basis", rows.cols, basis.width());
    }
}

template <class A>
const std::uint8_t* locked_of(std::string_view function, rows_out codes, const device_row_constraint<A>& limits) {
    return flat_or_null(function, "values in locked", codes.rows, limits.locked);
}

template <class A>
void check_codes(std::string_view function, rows_out codes, const device_row_constraint<A>& limits) {
    require<shape_error>(codes.rows > 0 && codes.cols > 0, function, "a codebook with rows and columns",
                         fmt::format("{} x {}", codes.rows, codes.cols));
    check_basis(function, codes, limits.orthogonal_to);
    static_cast<void>(locked_of(function, codes, limits));
}

}  // namespace

template <real A>
void project_rows(const std::shared_ptr<state>& s, rows_out rows, const device_row_basis<A>& harm, const device_row_projection_options<A>& options) {
    constexpr std::string_view f = "project_rows";
    if (rows.rows == 0 || rows.cols == 0 || harm.rank() == 0) {
        return;
    }
    check_basis(f, rows, harm);
    const project_formula<A> a{.rows = rows,
                               .directions = directions_of(harm, rows.cols),
                               .strength = flat_or_null(f, "values in strength", rows.rows, options.strength),
                               .uniform = options.uniform,
                               .center = flat_or_null(f, "values in the center", rows.cols, options.center),
                               .weights = flat_or_null(f, "weights", harm.rank(), options.weights)};
    const on_device guard(s->device());
    check(project_by_formula(a, s->processors(), s->stream()), f, "project_by_formula");
}

template <real A>
void check_adam_rows(rows_out codes, rows_in gradient, const device_adam_state<A>& memory, const adam_options& options,
                     const device_row_constraint<A>& limits) {
    constexpr std::string_view f = "adam_rows";
    check_codes(f, codes, limits);
    require_size(f, "gradient rows", codes.rows, gradient.rows);
    require_size(f, "gradient columns", codes.cols, gradient.cols);
    options.check(f);
    require<value_error>(memory.steps >= 0, f, "steps >= 0 in the state", fmt::format("{}", memory.steps));
}

template <real A>
void adam_rows(const std::shared_ptr<state>& s, rows_out codes, rows_in gradient, device_adam_state<A>& memory, const adam_options& options,
               const device_row_constraint<A>& limits) {
    constexpr std::string_view f = "adam_rows";
    // Of the decay as the kernel rounds it: else the first steps would be off by its rounding over 1 - beta.
    const auto unbias = [&](double beta) {
        return 1 - std::pow(static_cast<double>(static_cast<A>(beta)), static_cast<double>(memory.steps + 1));
    };
    const adam_formula<A> a{.codes = codes,
                            .gradient = gradient,
                            .mean = writable<A>(memory.mean.span()),
                            .square = writable<A>(memory.square.span()),
                            .directions = directions_of(limits.orthogonal_to, codes.cols),
                            .locked = locked_of(f, codes, limits),
                            .beta1 = static_cast<A>(options.beta1),
                            .beta2 = static_cast<A>(options.beta2),
                            .epsilon = static_cast<A>(options.epsilon),
                            .scale = static_cast<A>(-options.rate / unbias(options.beta1)),
                            .unbias = static_cast<A>(1 / unbias(options.beta2))};
    const on_device guard(s->device());
    check(adam_by_formula(a, s->processors(), s->stream()), f, "adam_by_formula");
    ++memory.steps;
}

template <real A>
void check_ema_rows(rows_out codes, rows_in vectors, ids_in ids, const device_ema_row_state<A>& memory, double decay,
                    const device_row_constraint<A>& limits) {
    constexpr std::string_view f = "ema_rows";
    check_codes(f, codes, limits);
    require_size(f, "columns in the vectors", codes.cols, vectors.cols);
    require_size(f, "ids", vectors.rows, ids.size);
    require<value_error>(decay >= 0 && decay < 1, f, "decay in [0, 1)", fmt::format("{}", decay));
    if (!memory.counts.empty()) {
        require_size(f, "counts in the state", codes.rows, memory.counts.cols());
        require_size(f, "rows in the state", codes.rows, memory.sums.rows());
        require_size(f, "columns in the state", codes.cols, memory.sums.cols());
    }
}

template <real A>
void start_ema_rows(const std::shared_ptr<state>& s, rows_in codes, device_ema_row_state<A>& fresh) {
    const on_device guard(s->device());
    check(start_ema(codes, fresh.counts.data(), fresh.sums.data(), s->stream()), "ema_rows", "start_ema");
}

template <real A>
void ema_rows(const std::shared_ptr<state>& s, rows_out codes, rows_in vectors, ids_in ids, device_ema_row_state<A>& memory, double decay,
              const device_row_constraint<A>& limits) {
    constexpr std::string_view f = "ema_rows";
    const on_device guard(s->device());
    const sorted_by_code sorted(s, ids, codes.rows, f);
    const ema_formula<A> a{.codes = codes,
                           .vectors = vectors,
                           .order = sorted.order(),
                           .starts = sorted.starts(),
                           .counts = memory.counts.data(),
                           .sums = memory.sums.data(),
                           .directions = directions_of(limits.orthogonal_to, codes.cols),
                           .locked = locked_of(f, codes, limits),
                           .decay = static_cast<A>(decay)};
    check(ema_by_formula(a, s->processors(), s->stream()), f, "ema_by_formula");
}

template void project_rows(const std::shared_ptr<state>&, rows_out, const device_row_basis<float>&, const device_row_projection_options<float>&);
template void project_rows(const std::shared_ptr<state>&, rows_out, const device_row_basis<double>&, const device_row_projection_options<double>&);
template void check_adam_rows(rows_out, rows_in, const device_adam_state<float>&, const adam_options&, const device_row_constraint<float>&);
template void check_adam_rows(rows_out, rows_in, const device_adam_state<double>&, const adam_options&, const device_row_constraint<double>&);
template void adam_rows(const std::shared_ptr<state>&, rows_out, rows_in, device_adam_state<float>&, const adam_options&,
                        const device_row_constraint<float>&);
template void adam_rows(const std::shared_ptr<state>&, rows_out, rows_in, device_adam_state<double>&, const adam_options&,
                        const device_row_constraint<double>&);
template void check_ema_rows(rows_out, rows_in, ids_in, const device_ema_row_state<float>&, double, const device_row_constraint<float>&);
template void check_ema_rows(rows_out, rows_in, ids_in, const device_ema_row_state<double>&, double, const device_row_constraint<double>&);
template void start_ema_rows(const std::shared_ptr<state>&, rows_in, device_ema_row_state<float>&);
template void start_ema_rows(const std::shared_ptr<state>&, rows_in, device_ema_row_state<double>&);
template void ema_rows(const std::shared_ptr<state>&, rows_out, rows_in, ids_in, device_ema_row_state<float>&, double,
                       const device_row_constraint<float>&);
template void ema_rows(const std::shared_ptr<state>&, rows_out, rows_in, ids_in, device_ema_row_state<double>&, double,
                       const device_row_constraint<double>&);

}  // namespace isic::inline ISIC_ABI::cuda
