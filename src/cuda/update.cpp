#include <isic/cuda/update.hpp>

#include <bit>
#include <cmath>

#include <isic/detail/eigen_view.hpp>
#include "kernels.hpp"
#include "look.hpp"
#include "sort.hpp"

namespace isic::inline ISIC_ABI {

/// For the compiled part.
struct device_constraint_access {
    static cuda::limits_in limits(const device_constraint& c) {
        return {static_cast<const std::uint8_t*>(c.locked_.data()),
                {c.directions_.data(), c.directions_.rows(), c.width_},
                c.keep_norms_,
                c.within_,
                c.anchor_.data()};
    }
    static void check(const device_constraint& c, std::string_view function, cuda::rows_out codes) {
        if (c.codes_ > 0) {
            detail::require_size(function, "codes of the constraint", codes.rows, c.codes_);
            detail::require_size(function, "columns of the constraint", codes.cols, c.width_);
        }
    }
};

device_constraint::device_constraint(const cuda_backend& gpu, const constraint& limits, index_t codes, index_t width)
    : codes_(codes), width_(width), keep_norms_(limits.keep_norms), within_(limits.within) {
    constexpr std::string_view function = "device_constraint";
    detail::require<shape_error>(codes > 0 && width > 0, function, "a codebook with rows and columns", fmt::format("{} x {}", codes, width));
    limits.check(function, codes, width);
    detail::require<value_error>(width <= cuda::widest_row, function, fmt::format("a width of at most {} on a device", cuda::widest_row),
                                 fmt::format("{}", width));
    const std::shared_ptr<cuda::state>& s = gpu.shared_state();
    if (limits.orthogonal_to.rank() > 0) {
        const detail::row_matrix directions = detail::map(limits.orthogonal_to.basis).transpose();
        directions_ = upload(gpu, directions);
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
        locked_ = cuda::buffer(s, bytes.size());
        cuda::copy_to_device(*s, locked_.data(), bytes.size(), bytes.data(), bytes.size(), bytes.size(), 1);
    }
}

update_summary pending_summary::get() const {
    detail::require<value_error>(owner_ != nullptr, "pending_summary::get", "a summary of an update", "an empty one");
    const cuda::update_counts done = cuda::to_host(*owner_, static_cast<const cuda::update_counts*>(counts_.data()), 1).front();
    return {static_cast<index_t>(done.moved), static_cast<index_t>(done.overflowed), std::bit_cast<double>(done.largest_step)};
}

}  // namespace isic::inline ISIC_ABI

namespace isic::inline ISIC_ABI::cuda {
namespace {

using isic::detail::require;
using isic::detail::require_size;

void check_codes(std::string_view function, rows_out codes, const device_constraint& limits) {
    require<shape_error>(codes.rows > 0 && codes.cols > 0, function, "a codebook with rows and columns",
                         fmt::format("{} x {}", codes.rows, codes.cols));
    require<value_error>(codes.cols <= widest_row, function, fmt::format("a width of at most {} on a device", widest_row),
                         fmt::format("{}", codes.cols));
    device_constraint_access::check(limits, function, codes);
}

void check_batch(std::string_view function, rows_out codes, const device_assignments& batch) {
    require_size(function, "counts", codes.rows, batch.counts.cols());
    require_size(function, "rows of sums", codes.rows, batch.sums.rows());
    require_size(function, "columns of sums", codes.cols, batch.sums.cols());
}

/// Queues the kernel; the summary is read later.
pending_summary queue(const std::shared_ptr<state>& s, std::string_view function, update_arguments a) {
    const on_device guard(s->device());
    buffer done(s, sizeof(update_counts));
    fill_bytes(*s, done.data(), 0, done.size());
    a.done = static_cast<update_counts*>(done.data());
    check(update_rows(a, s->stream()), function, "update_rows");
    return {s, std::move(done)};
}

update_arguments arguments(update_rule rule, rows_out codes, const device_constraint& limits) {
    update_arguments a{};
    a.rule = rule;
    a.codes = codes;
    a.limits = device_constraint_access::limits(limits);
    a.limits.orthogonal_to.width = codes.cols;
    return a;
}

}  // namespace

void clear(state& s, void* memory, std::size_t bytes) {
    fill_bytes(s, memory, 0, bytes);
}

void assign(const std::shared_ptr<state>& s, rows_in vectors, ids_in ids, index_t codes, double* counts, double* sums) {
    constexpr std::string_view function = "assign";
    require_size(function, "ids", vectors.rows, ids.size);
    require<shape_error>(vectors.cols > 0, function, "vectors with columns", "0");
    require_ids_inside(s, ids, codes, function);
    require_finite_rows(s, vectors, nullptr, function, "the vectors");
    const on_device guard(s->device());
    const sorted_by_code sorted(s, ids, codes, function);
    check(sum_by_code(vectors, sorted.order(), sorted.starts(), codes, counts, sums, s->stream()), function, "sum_by_code");
}

pending_summary ridge(const std::shared_ptr<state>& s, rows_out codes, const device_assignments& batch, double lambda,
                      const device_constraint& limits) {
    constexpr std::string_view function = "ridge_update";
    check_codes(function, codes, limits);
    check_batch(function, codes, batch);
    require<value_error>(lambda >= 0 && std::isfinite(lambda), function, "a finite lambda >= 0", fmt::format("{}", lambda));
    update_arguments a = arguments(update_rule::ridge, codes, limits);
    a.counts = batch.counts.data();
    a.sums = batch.sums.data();
    a.lambda = lambda;
    return queue(s, function, a);
}

void check_ema(rows_out codes, const device_assignments& batch, double decay, const device_constraint& limits) {
    constexpr std::string_view function = "ema_update";
    check_codes(function, codes, limits);
    check_batch(function, codes, batch);
    require<value_error>(decay >= 0 && decay < 1, function, "decay in [0, 1)", fmt::format("{}", decay));
}

void check_gradient_step(std::string_view function, rows_out codes, rows_in gradient, const device_constraint& limits) {
    check_codes(function, codes, limits);
    require_size(function, "gradient rows", codes.rows, gradient.rows);
    require_size(function, "gradient columns", codes.cols, gradient.cols);
}

pending_summary ema(const std::shared_ptr<state>& s, rows_out codes, device_ema_state& memory, const device_assignments& batch, double decay,
                    const device_constraint& limits) {
    constexpr std::string_view function = "ema_update";
    require_size(function, "counts in the state", codes.rows, memory.counts.cols());
    require_size(function, "rows of sums in the state", codes.rows, memory.sums.rows());
    require_size(function, "columns of sums in the state", codes.cols, memory.sums.cols());
    update_arguments a = arguments(update_rule::ema, codes, limits);
    a.counts = batch.counts.data();
    a.sums = batch.sums.data();
    a.decay = decay;
    a.state_counts = memory.counts.data();
    a.first = writable<double>(memory.sums.span());
    return queue(s, function, a);
}

void start_ema(const std::shared_ptr<state>& s, rows_in codes, device_ema_state& memory) {
    const on_device guard(s->device());
    check(start_ema(codes, memory.counts.data(), memory.sums.data(), s->stream()), "ema_update", "start_ema");
}

pending_summary sgd(const std::shared_ptr<state>& s, rows_out codes, rows_in gradient, rows_out velocity, const sgd_options& options,
                    const device_constraint& limits) {
    update_arguments a = arguments(update_rule::sgd, codes, limits);
    a.gradient = gradient;
    a.first = velocity;
    a.rate = options.rate;
    a.momentum = options.momentum;
    return queue(s, "sgd_update", a);
}

pending_summary adam(const std::shared_ptr<state>& s, rows_out codes, rows_in gradient, rows_out mean, rows_out square, index_t step,
                     const adam_options& options, const device_constraint& limits) {
    update_arguments a = arguments(update_rule::adam, codes, limits);
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

}  // namespace isic::inline ISIC_ABI::cuda
