// SPDX-License-Identifier: Apache-2.0
// Constrained updates, one warp per row: step, constraint and optimiser state in one pass, in float64.
#include "update_kernels.hpp"
#include "warp.cuh"

namespace isic::inline ISIC_ABI::cuda::detail {
namespace {

/// A row's working values, in shared memory. A lane reads and writes its own columns of step and fresh only.
struct working_row {
    double* step;          // [d]
    double* fresh;         // [d]
    double* coefficients;  // [rank]
};

template <class T>
__device__ double old_at(const update_arguments& a, index_t k, index_t c) {
    return widen(static_cast<const T*>(a.codes.data)[k * a.codes.stride + c]);
}

template <class T>
__device__ bool ridge_step(const update_arguments& a, index_t k, double* step) {
    const double n = a.counts[k];
    for (index_t c = lane(); n > 0 && c < a.codes.cols; c += warp_lanes) {
        step[c] = (a.sums[k * a.codes.cols + c] - n * old_at<T>(a, k, c)) / (n + a.lambda);
    }
    return n > 0;
}

template <class T>
__device__ bool ema_step(const update_arguments& a, index_t k, double* step) {
    const double decayed = a.decay * a.state_counts[k] + (1 - a.decay) * a.counts[k];
    const double n =
        decayed < isic::detail::count_floor<double> ? 0.0 : decayed;  // flushed to zero below the count floor
    __syncwarp();
    if (lane() == 0) {
        a.state_counts[k] = n;
    }
    for (index_t c = lane(); c < a.codes.cols; c += warp_lanes) {
        const double sum =
            n == 0 ? 0.0 : a.decay * value_at(a.first, k, c) + (1 - a.decay) * a.sums[k * a.codes.cols + c];
        put(a.first, k, c, sum);
        step[c] = n > 0 ? sum / n - old_at<T>(a, k, c) : 0.0;
    }
    return n > 0;
}

__device__ bool sgd_step(const update_arguments& a, index_t k, double* step) {
    for (index_t c = lane(); c < a.codes.cols; c += warp_lanes) {
        const double velocity = a.momentum * value_at(a.first, k, c) + value_at(a.gradient, k, c);
        put(a.first, k, c, velocity);
        step[c] = -a.rate * velocity;
    }
    return true;
}

/// Moments of the projected gradient: forbidden directions must not influence the others.
__device__ bool adam_step(const update_arguments& a, index_t k, working_row r) {
    for (index_t c = lane(); c < a.codes.cols; c += warp_lanes) {
        r.step[c] = value_at(a.gradient, k, c);
    }
    project_out(r.step, a.limits.orthogonal_to, r.coefficients);
    bool any = false;
    for (index_t c = lane(); c < a.codes.cols; c += warp_lanes) {
        const double g = r.step[c];
        const double mean = a.beta1 * value_at(a.first, k, c) + (1 - a.beta1) * g;
        const double square = a.beta2 * value_at(a.second, k, c) + (1 - a.beta2) * g * g;
        put(a.first, k, c, mean);
        put(a.second, k, c, square);
        r.step[c] = -a.rate * (mean / a.bias_correction1) / (sqrt(square / a.bias_correction2) + a.epsilon);
        any = any || mean != 0;
    }
    return __any_sync(0xffffffffU, any) != 0;
}

template <class T>
__device__ bool step_of(const update_arguments& a, index_t k, working_row r) {
    switch (a.kind) {
        case update_kind::ridge: return ridge_step<T>(a, k, r.step);
        case update_kind::ema: return ema_step<T>(a, k, r.step);
        case update_kind::sgd: return sgd_step(a, k, r.step);
        default: return adam_step(a, k, r);
    }
}

/// fresh <- old + step under the constraint.
template <class T>
__device__ void constrain(const update_arguments& a, index_t k, working_row r) {
    const index_t d = a.codes.cols;
    project_out(r.step, a.limits.orthogonal_to, r.coefficients);
    double old_square = 0;
    for (index_t c = lane(); c < d; c += warp_lanes) {
        const double old = old_at<T>(a, k, c);
        old_square += old * old;
        r.fresh[c] = old + r.step[c];
    }
    if (a.limits.keep_norms) {
        const double norm = norm_of(r.fresh, d);
        const double scale = norm > 0 ? sqrt(warp_sum(old_square)) / norm : 1.0;
        for (index_t c = lane(); c < d; c += warp_lanes) {
            r.fresh[c] *= scale;
        }
    }
    if (is_finite(a.limits.within)) {
        const double* anchor = a.limits.anchor + k * d;
        for (index_t c = lane(); c < d; c += warp_lanes) {
            r.step[c] = r.fresh[c] - anchor[c];
        }
        const double distance = norm_of(r.step, d);
        for (index_t c = lane(); distance > a.limits.within && c < d; c += warp_lanes) {
            r.fresh[c] = anchor[c] + r.step[c] * (a.limits.within / distance);
        }
    }
}

template <class T>
__device__ void write_back(const update_arguments& a, index_t k, const double* fresh) {
    T* row = static_cast<T*>(a.codes.data) + k * a.codes.stride;
    bool fits = true;
    bool differs = false;
    double square = 0;
    for (index_t c = lane(); c < a.codes.cols; c += warp_lanes) {
        const double stored = widen(rounding<T>::of(fresh[c]));
        const double old = widen(row[c]);
        fits = fits && is_finite(stored);
        differs = differs || stored != old;
        square += (fresh[c] - old) * (fresh[c] - old);
    }
    fits = __all_sync(0xffffffffU, fits) != 0;
    differs = __any_sync(0xffffffffU, differs) != 0;
    square = warp_sum(square);
    for (index_t c = lane(); fits && differs && c < a.codes.cols; c += warp_lanes) {
        row[c] = rounding<T>::of(fresh[c]);
    }
    if (lane() != 0) {
        return;
    }
    if (!fits) {
        atomicAdd(&a.summary->overflowed, 1ULL);
    } else if (differs) {
        const double step = sqrt(square);
        unsigned long long bits = 0;
        memcpy(&bits, &step, sizeof bits);
        atomicAdd(&a.summary->moved, 1ULL);
        atomicMax(&a.summary->largest_step, bits);
    }
}

template <class T>
__global__ void update_rows_kernel(update_arguments a) {
    ISIC_DYN_SHARED(double, memory);
    const index_t k = warp_row();
    if (k >= a.codes.rows) {
        return;
    }
    const index_t d = a.codes.cols;
    double* mine = memory + static_cast<index_t>(threadIdx.x) / warp_lanes * (2 * d + a.limits.orthogonal_to.rank);
    const working_row r{mine, mine + d, mine + 2 * d};
    const bool moves = step_of<T>(a, k, r);
    if (!moves || (a.limits.locked != nullptr && a.limits.locked[k] != 0)) {
        return;
    }
    constrain<T>(a, k, r);
    write_back<T>(a, k, r.fresh);
}

__global__ void sum_by_code_kernel(any_device_view vectors, const std::int64_t* order, const std::int64_t* starts,
                                   index_t codes, double* counts, double* sums) {
    const index_t at = thread_number();
    if (at >= codes * vectors.cols) {
        return;
    }
    const index_t k = at / vectors.cols;
    double sum = 0;
    for (std::int64_t i = starts[k]; i < starts[k + 1]; ++i) {
        sum += value_at(vectors, order[i], at % vectors.cols);
    }
    sums[at] = sum;
    if (at % vectors.cols == 0) {
        counts[k] = static_cast<double>(starts[k + 1] - starts[k]);
    }
}

}  // namespace

cudaError_t update_rows(const update_arguments& a, cudaStream_t stream) {
    const row_launch l = launch_for_rows(a.codes.rows, 2 * a.codes.cols + a.limits.orthogonal_to.rank);
    return with_storage(a.codes.type, [&](auto value) {
        return launch(update_rows_kernel<decltype(value)>, l.grid, l.block, l.shared, stream, a);
    });
}

cudaError_t sum_by_code(any_device_view vectors, const std::int64_t* order, const std::int64_t* starts, index_t codes,
                        double* counts, double* sums, cudaStream_t stream) {
    return launch(sum_by_code_kernel, blocks_for(codes * vectors.cols), dim3(threads_per_block), 0, stream, vectors,
                  order, starts, codes, counts, sums);
}

}  // namespace isic::inline ISIC_ABI::cuda::detail
