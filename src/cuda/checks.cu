// SPDX-License-Identifier: Apache-2.0
// Validation, histograms and hashes of rows and ids.
#include "checks_kernels.hpp"
#include "warp.cuh"

namespace isic::inline ISIC_ABI::cuda::detail {
namespace {

/// Sets a flag that other threads may set concurrently: volatile accesses are relaxed atomic. Test before write, so that contended
/// stores do not serialise on one address.
template <class T>
__device__ void set_flag(volatile T* flag) {
    if (*flag == 0) {
        *flag = 1;
    }
}

__global__ void check_finite_kernel(any_device_view m, const std::uint8_t* skip, check_flags* flags) {
    const index_t at = thread_number();
    if (at >= m.rows * m.cols || (skip != nullptr && skip[at / m.cols] != 0)) {
        return;
    }
    const double x = value_at(m, at / m.cols, at % m.cols);
    if (!is_finite(x)) {
        record_first(&flags->not_finite, static_cast<std::uint64_t>(at));
    } else if (x != 0) {
        set_flag(&flags->any);
    }
}

__global__ void check_ids_kernel(device_ids ids, index_t codes, check_flags* flags) {
    const index_t t = thread_number();
    if (t < ids.size && (id_at(ids, t) < 0 || id_at(ids, t) >= codes)) {
        record_first(&flags->bad_id, static_cast<std::uint64_t>(t));
    }
}

__global__ void widen_rows_kernel(any_device_view m, const std::int64_t* ids, index_t n, bool normalise, double* out) {
    const index_t i = warp_row();
    if (i >= n) {
        return;
    }
    const index_t row = ids == nullptr ? i : ids[i];
    double square = 0;
    for (index_t j = lane(); normalise && j < m.cols; j += warp_lanes) {
        const double x = value_at(m, row, j);
        square += x * x;
    }
    square = warp_sum(square);
    const double scale = normalise && square > 0 ? sqrt(square) : 1.0;
    for (index_t j = lane(); j < m.cols; j += warp_lanes) {
        const double x = value_at(m, row, j);
        out[i * m.cols + j] = normalise ? x / scale : x;
    }
}

__global__ void count_codes_kernel(device_ids ids, index_t codes, unsigned long long* counts) {
    const index_t t = thread_number();
    if (t < ids.size) {
        const std::int64_t id = id_at(ids, t);
        if (id >= 0 && id < codes) {
            atomicAdd(&counts[id], 1ULL);
        }
    }
}

__device__ std::uint64_t mixed(std::uint64_t x) {  // the finaliser of splitmix64
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
    return x ^ (x >> 31);
}

/// Warps sum the hashes of rows. Integer sums do not depend on their order.
template <class T>
__global__ void hash_rows_kernel(any_device_view m, unsigned long long* hash) {
    unsigned long long sum = 0;
    const index_t warps = static_cast<index_t>(gridDim.x) * (blockDim.x / warp_lanes);
    for (index_t i = warp_row(); i < m.rows; i += warps) {
        for (index_t j = lane(); j < m.cols; j += warp_lanes) {
            const T value =
                static_cast<const T*>(m.data)[i * m.stride + j];  // memcpy from there would read byte by byte
            std::uint64_t bits = 0;
            memcpy(&bits, &value, sizeof value);
            sum += mixed(bits ^ mixed(static_cast<std::uint64_t>(i * m.cols + j) + 1));
        }
    }
    for (int step = warp_lanes / 2; step > 0; step /= 2) {
        sum += __shfl_xor_sync(0xffffffffU, sum, step);
    }
    if (lane() == 0) {
        atomicAdd(hash, sum);
    }
}

__global__ void add_counts_kernel(const unsigned long long* from, index_t n, unsigned long long* to) {
    const index_t k = thread_number();
    if (k < n) {
        to[k] += from[k];
    }
}

__global__ void merge_check_flags_kernel(const check_flags* from, check_flags* to) {
    record_first(&to->not_finite, from->not_finite);
    record_first(&to->bad_id, from->bad_id);
    record_first(&to->overflow, from->overflow);
    to->any |= from->any;
}

}  // namespace

cudaError_t add_counts(const unsigned long long* from, index_t n, unsigned long long* to, cudaStream_t stream) {
    return launch(add_counts_kernel, blocks_for(n), dim3(threads_per_block), 0, stream, from, n, to);
}

cudaError_t merge_check_flags(const check_flags* from, check_flags* to, cudaStream_t stream) {
    return launch(merge_check_flags_kernel, dim3(1), dim3(1), 0, stream, from, to);
}

cudaError_t check_finite(any_device_view m, const std::uint8_t* skip, check_flags* flags, cudaStream_t stream) {
    return launch(check_finite_kernel, blocks_for(m.rows * m.cols), dim3(threads_per_block), 0, stream, m, skip, flags);
}

cudaError_t check_ids(device_ids ids, index_t codes, check_flags* flags, cudaStream_t stream) {
    return launch(check_ids_kernel, blocks_for(ids.size), dim3(threads_per_block), 0, stream, ids, codes, flags);
}

cudaError_t widen_rows(any_device_view m, const std::int64_t* ids, index_t n, bool normalise, double* out,
                       cudaStream_t stream) {
    const row_launch l = launch_for_rows(n, 0);
    return launch(widen_rows_kernel, l.grid, l.block, 0, stream, m, ids, n, normalise, out);
}

cudaError_t count_codes(device_ids ids, index_t codes, unsigned long long* counts, cudaStream_t stream) {
    return launch(count_codes_kernel, blocks_for(ids.size), dim3(threads_per_block), 0, stream, ids, codes, counts);
}

cudaError_t hash_rows(any_device_view m, unsigned long long* hash, cudaStream_t stream) {
    const row_launch l = launch_for_rows(m.rows < 65536 ? m.rows : 65536, 0);
    return with_storage(m.type, [&](auto value) {
        return launch(hash_rows_kernel<decltype(value)>, l.grid, l.block, 0, stream, m, hash);
    });
}

}  // namespace isic::inline ISIC_ABI::cuda::detail
