// SPDX-License-Identifier: Apache-2.0
// Vectors sorted by code, with CUB and Thrust.
#ifdef ISIC_KERNEL_SHIM
#include <thrust/sort.h>
#include <thrust/system/cpp/execution_policy.h>
#endif
#include <thrust/binary_search.h>
#include <thrust/execution_policy.h>
#include <thrust/iterator/counting_iterator.h>
#include <thrust/system_error.h>
#ifndef ISIC_KERNEL_SHIM
#include <thrust/system/cuda/execution_policy.h>
#include <bit>
#include <cub/device/device_radix_sort.cuh>
#endif

#include "sort_kernels.hpp"
#include "warp.cuh"

namespace isic::inline ISIC_ABI::cuda::detail {
namespace {

__global__ void make_keys_kernel(device_ids ids, index_t codes, std::int64_t* order, std::int64_t* keys) {
    const index_t t = thread_number();
    if (t < ids.size) {
        const std::int64_t id = id_at(ids, t);
        order[t] = t;
        keys[t] = id >= 0 && id < codes ? id : codes;  // bad ids follow the last code
    }
}

template <class Policy>
void find_starts(const Policy& policy, const std::int64_t* keys, index_t n, std::int64_t* starts, index_t codes) {
    const thrust::counting_iterator<std::int64_t> first(0);
    thrust::lower_bound(policy, keys, keys + n, first, first + codes + 1, starts);
}

cudaError_t make_keys(device_ids ids, index_t codes, std::int64_t* order, std::int64_t* keys, cudaStream_t stream) {
    return launch(make_keys_kernel, blocks_for(ids.size), dim3(threads_per_block), 0, stream, ids, codes, order, keys);
}

}  // namespace

#ifdef ISIC_KERNEL_SHIM

cudaError_t sort_by_code(device_ids ids, index_t codes, std::int64_t* order, std::int64_t* keys, std::int64_t* starts,
                         memory_source, cudaStream_t stream) {
    const cudaError_t status = make_keys(ids, codes, order, keys, stream);
    if (status == cudaSuccess) {
        stand_in::enqueue(stream, [=] {
            thrust::stable_sort_by_key(thrust::cpp::par, keys, keys + ids.size, order);
            find_starts(thrust::cpp::par, keys, ids.size, starts, codes);
        });
    }
    return status;
}

#else

namespace {

/// Temporary memory from the backend's allocator.
class working_bytes {
public:
    working_bytes(memory_source source, std::size_t n)
        : source_(source), size_(n), memory_(source.allocate(source.context, n)) {}
    ~working_bytes() { source_.release(source_.context, memory_, size_); }
    working_bytes(const working_bytes&) = delete;
    working_bytes& operator=(const working_bytes&) = delete;
    void* data() const { return memory_; }

private:
    memory_source source_;
    std::size_t size_;
    void* memory_;
};

}  // namespace

/// Sorts by the bits that ids in [0, codes] have: Thrust would sort by all 64 bits, one pass per eight.
cudaError_t sort_by_code(device_ids ids, index_t codes, std::int64_t* order, std::int64_t* keys, std::int64_t* starts,
                         memory_source source, cudaStream_t stream) {
    const index_t n = ids.size;
    const int bits = static_cast<int>(std::bit_width(static_cast<std::uint64_t>(codes)));
    const working_bytes unsorted(source, 2 * static_cast<std::size_t>(n) * sizeof(std::int64_t));
    auto* const unsorted_keys = static_cast<std::int64_t*>(unsorted.data());
    std::int64_t* const positions = unsorted_keys + n;
    std::size_t bytes = 0;
    cudaError_t status =
        cub::DeviceRadixSort::SortPairs(nullptr, bytes, unsorted_keys, keys, positions, order, n, 0, bits, stream);
    if (status != cudaSuccess) {
        return status;
    }
    const working_bytes temporary(source, bytes);
    status = make_keys(ids, codes, positions, unsorted_keys, stream);
    if (status != cudaSuccess) {
        return status;
    }
    status = cub::DeviceRadixSort::SortPairs(temporary.data(), bytes, unsorted_keys, keys, positions, order, n, 0, bits,
                                             stream);
    if (status != cudaSuccess) {
        return status;
    }
    try {
        find_starts(thrust::cuda::par_nosync.on(stream), keys, n, starts, codes);
    } catch (const thrust::system_error& e) {
        return static_cast<cudaError_t>(e.code().value());
    }
    return cudaSuccess;
}

#endif

}  // namespace isic::inline ISIC_ABI::cuda::detail
