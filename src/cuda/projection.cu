// SPDX-License-Identifier: Apache-2.0
// c <- c + s (t - c) V diag(w) V^T in place, one warp per row, in float64, rounded once, as project_out on the CPU.
#include "projection_kernels.hpp"
#include "warp.cuh"

namespace isic::inline ISIC_ABI::cuda::detail {
namespace {

/// Working memory of a row; all lanes of a warp have the same pointers.
struct moving_row {
    double* old;           // [d], as read
    double* fresh;         // [d]
    double* coefficients;  // [rank]
};

__device__ double target_at(const projection_arguments& a, index_t k, index_t c) {
    if (a.target != nullptr) {
        return a.target[k * a.codes.cols + c];
    }
    return a.center != nullptr ? a.center[c] : 0.0;
}

/// fresh <- from + scale (target - from) V diag(w) V^T, where from is old or fresh itself; returns the step's norm unscaled.
__device__ double move_toward_target(const projection_arguments& a, index_t k, const double* from, double* fresh,
                                     double* coefficients, double scale) {
    const index_t d = a.codes.cols;
    const basis_view<double> basis{a.basis, a.rank, d};
    for (index_t j = 0; a.basis != nullptr && j < a.rank; ++j) {
        const double* direction = a.basis + j * d;
        double part = 0;
        for (index_t c = lane(); c < d; c += warp_lanes) {
            part += (target_at(a, k, c) - from[c]) * direction[c];
        }
        part = warp_sum(part);
        if (lane() == 0) {
            coefficients[j] = a.weights == nullptr ? part : part * a.weights[j];
        }
    }
    __syncwarp();
    double square = 0;
    for (index_t c = lane(); c < d; c += warp_lanes) {
        const double step = a.basis == nullptr ? target_at(a, k, c) - from[c] : combined(basis, coefficients, c);
        square += step * step;
        fresh[c] = from[c] + scale * step;
    }
    __syncwarp();
    return sqrt(warp_sum(square));
}

/// Reads row k; returns its stored norm. A lane reads and writes its own columns only, here and below.
template <class T>
__device__ double read_row(const projection_arguments& a, index_t k, double* old) {
    const T* row = static_cast<const T*>(a.codes.data) + k * a.codes.stride;
    for (index_t c = lane(); c < a.codes.cols; c += warp_lanes) {
        old[c] = widen(row[c]);
    }
    const double stored_norm = norm_of(old, a.codes.cols);
    if (a.normalised && stored_norm > 0) {
        for (index_t c = lane(); c < a.codes.cols; c += warp_lanes) {
            old[c] /= stored_norm;
        }
    }
    return stored_norm;
}

/// Rounds the row into the codebook unless a value overflows.
template <class T>
__device__ row_status write_row(const projection_arguments& a, index_t k, const double* fresh, double scale) {
    T* row = static_cast<T*>(a.codes.data) + k * a.codes.stride;
    bool fits = true;
    bool differs = false;
    for (index_t c = lane(); c < a.codes.cols; c += warp_lanes) {
        const T value = rounding<T>::of(fresh[c] * scale);
        fits = fits && is_finite(widen(value));
        differs = differs || !same_bits(value, row[c]);
    }
    fits = __all_sync(0xffffffffU, fits) != 0;
    differs = __any_sync(0xffffffffU, differs) != 0;
    if (!fits) {
        record_first(&a.flags->overflow, static_cast<std::uint64_t>(k));
        return row_status::stays;
    }
    for (index_t c = lane(); c < a.codes.cols; c += warp_lanes) {
        row[c] = rounding<T>::of(fresh[c] * scale);
    }
    return differs ? row_status::moved : row_status::stays;
}

template <class T>
__device__ row_status project_row(const projection_arguments& a, index_t k, moving_row r) {
    const index_t d = a.codes.cols;
    const double strength = a.strengths == nullptr ? a.strength : a.strengths[k];
    if (strength == 0 || (a.padding != nullptr && a.padding[k] != 0)) {
        return row_status::stays;
    }
    const double stored_norm = read_row<T>(a, k, r.old);
    const double old_norm = norm_of(r.old, d);
    double target_square = 0;
    for (index_t c = lane(); c < d; c += warp_lanes) {
        target_square += target_at(a, k, c) * target_at(a, k, c);
    }
    const double target_norm = sqrt(warp_sum(target_square));
    const double scale = old_norm > target_norm ? old_norm : target_norm;
    const double absolute = rounding<T>::least * sqrt(static_cast<double>(d));  // error of subnormal values
    const double noise_unit = rounding<double>::unit;
    const double too_small =
        (4 * rounding<T>::unit + 8 * noise_unit) * scale + (a.normalised ? absolute / stored_norm : absolute);
    const double step = move_toward_target(a, k, r.old, r.fresh, r.coefficients, strength);
    if (!(step > too_small)) {
        return row_status::stays;
    }
    if (a.weights == nullptr && strength == 1) {  // a second pass removes what rounding left; a partial move needs none
        move_toward_target(a, k, r.fresh, r.fresh, r.coefficients, 1.0);
    }
    const double fresh_norm = norm_of(r.fresh, d);
    const double near_zero_norm =
        a.near_zero_below * old_norm > 16 * noise_unit * scale ? a.near_zero_below * old_norm : 16 * noise_unit * scale;
    if (a.target == nullptr && fresh_norm < near_zero_norm) {
        return row_status::near_zero;
    }
    const bool rescale = (a.keep_norms || a.normalised) && fresh_norm > 0;
    return write_row<T>(a, k, r.fresh, rescale ? stored_norm / fresh_norm : 1.0);
}

template <class T>
__global__ void project_codes_kernel(projection_arguments a) {
    ISIC_DYN_SHARED(double, memory);
    const index_t k = warp_row();
    if (k >= a.codes.rows) {
        return;
    }
    const index_t d = a.codes.cols;
    double* mine = memory + static_cast<index_t>(threadIdx.x) / warp_lanes * (2 * d + a.rank);
    const row_status result = project_row<T>(a, k, {mine, mine + d, mine + 2 * d});
    if (lane() == 0) {
        a.statuses[k] = result;
    }
}

/// One warp overwrites row k; value(c) is column c.
template <class T, class Value>
__device__ void overwrite_row(const any_device_span& m, index_t k, row_status* statuses, Value value) {
    T* row = static_cast<T*>(m.data) + k * m.stride;
    bool differs = false;
    for (index_t c = lane(); c < m.cols; c += warp_lanes) {
        const T x = value(c);
        differs = differs || !same_bits(x, row[c]);
        row[c] = x;
    }
    differs = __any_sync(0xffffffffU, differs) != 0;
    if (lane() == 0) {
        statuses[k] = differs ? row_status::moved : row_status::stays;
    }
}

template <class T>
__global__ void replace_rows_kernel(any_device_span m, const std::int64_t* to, const std::int64_t* from, index_t n,
                                    row_status* statuses) {
    if (const index_t i = warp_row(); i < n) {
        const T* source = static_cast<const T*>(m.data) + from[i] * m.stride;
        overwrite_row<T>(m, to[i], statuses, [&](index_t c) { return source[c]; });
    }
}

template <class T>
__global__ void clear_rows_kernel(any_device_span m, const std::int64_t* to, index_t n, row_status* statuses) {
    if (const index_t i = warp_row(); i < n) {
        overwrite_row<T>(m, to[i], statuses, [](index_t) { return T{}; });
    }
}

}  // namespace

cudaError_t project_codes(const projection_arguments& a, cudaStream_t stream) {
    const row_launch l = launch_for_rows(a.codes.rows, 2 * a.codes.cols + a.rank);
    return with_storage(a.codes.type, [&](auto value) {
        return launch(project_codes_kernel<decltype(value)>, l.grid, l.block, l.shared, stream, a);
    });
}

cudaError_t replace_rows(any_device_span m, const std::int64_t* to, const std::int64_t* from, index_t n,
                         row_status* statuses, cudaStream_t stream) {
    const row_launch l = launch_for_rows(n, 0);
    return with_storage(m.type, [&](auto value) {
        return launch(replace_rows_kernel<decltype(value)>, l.grid, l.block, 0, stream, m, to, from, n, statuses);
    });
}

cudaError_t clear_rows(any_device_span m, const std::int64_t* to, index_t n, row_status* statuses,
                       cudaStream_t stream) {
    const row_launch l = launch_for_rows(n, 0);
    return with_storage(m.type, [&](auto value) {
        return launch(clear_rows_kernel<decltype(value)>, l.grid, l.block, 0, stream, m, to, n, statuses);
    });
}

}  // namespace isic::inline ISIC_ABI::cuda::detail
