// Vectors in the order of their codes, by Thrust.
#ifdef ISIC_KERNEL_SHIM
#include <thrust/system/cpp/execution_policy.h>
#endif
#include <thrust/binary_search.h>
#include <thrust/execution_policy.h>
#include <thrust/iterator/counting_iterator.h>
#include <thrust/sort.h>
#include <thrust/system_error.h>
#ifndef ISIC_KERNEL_SHIM
#include <thrust/system/cuda/execution_policy.h>
#endif

#include <new>

#include "rows.cuh"

namespace isic::cuda {
namespace {

__global__ void make_keys_kernel(ids_in ids, index_t codes, std::int64_t* order, std::int64_t* keys) {
    const index_t t = thread_number();
    if (t < ids.size) {
        const std::int64_t id = id_at(ids, t);
        order[t] = t;
        keys[t] = id >= 0 && id < codes ? id : codes;  // bad ids go behind the last code
    }
}

template <class Policy>
void sort_keys(const Policy& policy, std::int64_t* keys, std::int64_t* order, index_t n, std::int64_t* starts, index_t codes) {
    thrust::stable_sort_by_key(policy, keys, keys + n, order);
    const thrust::counting_iterator<std::int64_t> first(0);
    thrust::lower_bound(policy, keys, keys + n, first, first + codes + 1, starts);
}

#ifdef ISIC_KERNEL_SHIM

cudaError_t queue_sort(std::int64_t* keys, std::int64_t* order, index_t n, std::int64_t* starts, index_t codes, cudaStream_t stream) {
    stand_in::enqueue(stream, [=] { sort_keys(thrust::cpp::par, keys, order, n, starts, codes); });
    return cudaSuccess;
}

#else

/// Temporary memory in stream order.
struct stream_allocator {
    using value_type = char;
    cudaStream_t stream;

    char* allocate(std::ptrdiff_t bytes) const {
        void* memory = nullptr;
        if (cudaMallocAsync(&memory, static_cast<std::size_t>(bytes), stream) != cudaSuccess) {
            throw std::bad_alloc();
        }
        return static_cast<char*>(memory);
    }
    void deallocate(char* memory, std::size_t) const { static_cast<void>(cudaFreeAsync(memory, stream)); }
};

cudaError_t queue_sort(std::int64_t* keys, std::int64_t* order, index_t n, std::int64_t* starts, index_t codes, cudaStream_t stream) {
    try {
        stream_allocator memory{stream};
        sort_keys(thrust::cuda::par_nosync(memory).on(stream), keys, order, n, starts, codes);
    } catch (const std::bad_alloc&) {
        return cudaErrorMemoryAllocation;
    } catch (const thrust::system_error& e) {
        return static_cast<cudaError_t>(e.code().value());
    }
    return cudaGetLastError();
}

#endif

}  // namespace

cudaError_t sort_by_code(ids_in ids, index_t codes, std::int64_t* order, std::int64_t* keys, std::int64_t* starts, cudaStream_t stream) {
    const cudaError_t status = launch(make_keys_kernel, blocks_for(ids.size), dim3(threads_per_block), 0, stream, ids, codes, order, keys);
    return status != cudaSuccess ? status : queue_sort(keys, order, ids.size, starts, codes, stream);
}

}  // namespace isic::cuda
