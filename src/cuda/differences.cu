// SPDX-License-Identifier: Apache-2.0
// Embedding differences as float64 rows, ready for a Gram matrix.
#include "differences_kernels.hpp"
#include "warp.cuh"

namespace isic::inline ISIC_ABI::cuda::detail {
namespace {

constexpr int difference_side = 32;
constexpr int rows_side_by_side = threads_per_block / difference_side;
constexpr int rows_per_thread = static_cast<int>(rows_per_difference_part) / rows_side_by_side;

/// Writes the differences of a part of the rows and adds their sums to sums[part], in a fixed order. A thread has one column. It loads
/// all values before it writes or records anything, for which later loads would wait. A difference that is not finite is written as
/// replaced(row, column, difference).
template <class Difference, class Replaced>
__device__ __forceinline__ void put_differences(index_t rows, index_t cols, double* out, double* sums,
                                                Difference difference, Replaced replaced) {
    using sums_of_part = double[rows_side_by_side][difference_side];
    ISIC_SHARED(sums_of_part, parts);
    const int x = static_cast<int>(threadIdx.x) % difference_side;
    const int y = static_cast<int>(threadIdx.x) / difference_side;
    const index_t column = static_cast<index_t>(blockIdx.y) * difference_side + x;
    const index_t first = static_cast<index_t>(blockIdx.x) * rows_per_difference_part + y;
    const index_t last = rows - 1;
    const index_t last_column = cols - 1;
    double value[rows_per_thread];
#pragma unroll
    for (int i = 0; i < rows_per_thread; ++i) {  // without a branch: threads outside read the edge
        const index_t row = first + i * rows_side_by_side;
        value[i] = difference(row < last ? row : last, column < last_column ? column : last_column);
    }
    double sum = 0;
#pragma unroll
    for (int i = 0; i < rows_per_thread; ++i) {
        if (const index_t row = first + i * rows_side_by_side; row < rows && column < cols) {
            const double put = is_finite(value[i]) ? value[i] : replaced(row, column, value[i]);
            out[row * cols + column] = put;
            sum += put;
        }
    }
    parts[y][x] = sum;
    __syncthreads();
    if (y == 0 && column < cols) {
        for (int part = 1; part < rows_side_by_side; ++part) {
            sum += parts[part][x];
        }
        sums[blockIdx.x * cols + column] += sum;
    }
}

/// Values stored as T. A branch on the type between two loads would make the second wait.
template <class T>
struct stored_as {
    any_device_view m;
    __device__ double operator()(index_t i, index_t j) const {
        return widen(static_cast<const T*>(m.data)[i * m.stride + j]);
    }
};
struct stored_as_any {
    any_device_view m;
    __device__ double operator()(index_t i, index_t j) const { return value_at(m, i, j); }
};

struct zeros {
    __device__ double operator()(index_t, index_t) const { return 0; }
};

template <class Harmful, class Safe>
__global__ void __launch_bounds__(threads_per_block, 4)
    subtract_rows_kernel(Harmful harmful, Safe safe, index_t first, double* out, double* sums, check_flags* flags) {
    const index_t cols = harmful.m.cols;
    put_differences(
        harmful.m.rows, cols, out, sums,
        [&](index_t row, index_t column) { return harmful(row, column) - safe(row, column); },
        [&](index_t row, index_t column, double) {
            record_first(&flags->not_finite, static_cast<std::uint64_t>((first + row) * cols + column));
            return 0.0;
        });
}

__global__ void __launch_bounds__(threads_per_block, 4)
    subtract_codes_kernel(any_device_view codes, device_ids harmful, device_ids safe, index_t first, index_t n,
                          double* out, double* sums, check_flags* flags) {
    const auto id_of = [&](const device_ids& ids, index_t row) {
        const std::int64_t id = id_at(ids, first + row);
        return id >= 0 && id < codes.rows ? id : -1;
    };
    put_differences(
        n, codes.cols, out, sums,
        [&](index_t row, index_t column) {
            const index_t h = id_of(harmful, row);
            const index_t s = id_of(safe, row);
            return h >= 0 && s >= 0 ? value_at(codes, h, column) - value_at(codes, s, column) : NAN;
        },
        [&](index_t row, index_t, double difference) {
            if (id_of(harmful, row) >= 0 && id_of(safe, row) >= 0) {
                return difference;
            }
            record_first(&flags->bad_id, static_cast<std::uint64_t>(first + row));
            return 0.0;
        });
}

dim3 difference_blocks(index_t rows, index_t cols) {
    return dim3(static_cast<unsigned>((rows + rows_per_difference_part - 1) / rows_per_difference_part),
                static_cast<unsigned>((cols + difference_side - 1) / difference_side));
}

__global__ void weigh_codes_kernel(any_device_view codes, const unsigned long long* counts, double* out) {
    const index_t at = thread_number();
    if (at < codes.rows * codes.cols) {
        const index_t k = at / codes.cols;
        out[at] = counts[k] > 0 ? sqrt(static_cast<double>(counts[k])) * value_at(codes, k, at % codes.cols) : 0.0;
    }
}

__global__ void mirror_lower_kernel(double* a, index_t n) {
    const index_t at = thread_number();
    const index_t i = at % n;
    const index_t j = at / n;
    if (j < n && i < j) {
        a[j * n + i] = a[i * n + j];
    }
}

}  // namespace

cudaError_t mirror_lower(double* a, index_t n, cudaStream_t stream) {
    return launch(mirror_lower_kernel, blocks_for(n * n), dim3(threads_per_block), 0, stream, a, n);
}

cudaError_t subtract_rows(any_device_view harmful, any_device_view safe, index_t first, double* out, double* sums,
                          check_flags* flags, cudaStream_t stream) {
    const dim3 grid = difference_blocks(harmful.rows, harmful.cols);
    const auto run = [&]<class Harmful, class Safe>(Harmful from, Safe what) {
        return launch(subtract_rows_kernel<Harmful, Safe>, grid, dim3(threads_per_block), 0, stream, from, what, first,
                      out, sums, flags);
    };
    if (safe.data != nullptr && harmful.type != safe.type) {
        return run(stored_as_any{harmful}, stored_as_any{safe});
    }
    return with_storage(harmful.type, [&]<class T>(T) {
        return safe.data == nullptr ? run(stored_as<T>{harmful}, zeros{})
                                    : run(stored_as<T>{harmful}, stored_as<T>{safe});
    });
}

cudaError_t subtract_codes(any_device_view codes, device_ids harmful, device_ids safe, index_t first, index_t n,
                           double* out, double* sums, check_flags* flags, cudaStream_t stream) {
    return launch(subtract_codes_kernel, difference_blocks(n, codes.cols), dim3(threads_per_block), 0, stream, codes,
                  harmful, safe, first, n, out, sums, flags);
}

cudaError_t weigh_codes(any_device_view codes, const unsigned long long* counts, double* out, cudaStream_t stream) {
    return launch(weigh_codes_kernel, blocks_for(codes.rows * codes.cols), dim3(threads_per_block), 0, stream, codes,
                  counts, out);
}

}  // namespace isic::inline ISIC_ABI::cuda::detail
