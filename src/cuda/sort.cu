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

cudaError_t queue_sort(std::int64_t* keys, std::int64_t* order, index_t n, std::int64_t* starts, index_t codes, memory_source,
                       cudaStream_t stream) {
    stand_in::enqueue(stream, [=] { sort_keys(thrust::cpp::par, keys, order, n, starts, codes); });
    return cudaSuccess;
}

#else

/// Thrust's temporary memory comes from where all other does.
struct working_memory {
    using value_type = char;
    memory_source source;

    char* allocate(std::ptrdiff_t bytes) const { return static_cast<char*>(source.allocate(source.context, static_cast<std::size_t>(bytes))); }
    void deallocate(char* memory, std::size_t bytes) const { source.release(source.context, memory, bytes); }
};

cudaError_t queue_sort(std::int64_t* keys, std::int64_t* order, index_t n, std::int64_t* starts, index_t codes, memory_source source,
                       cudaStream_t stream) {
    try {
        working_memory memory{source};
        sort_keys(thrust::cuda::par_nosync(memory).on(stream), keys, order, n, starts, codes);
    } catch (const thrust::system_error& e) {
        return static_cast<cudaError_t>(e.code().value());
    }
    return cudaSuccess;
}

#endif

}  // namespace

cudaError_t sort_by_code(ids_in ids, index_t codes, std::int64_t* order, std::int64_t* keys, std::int64_t* starts, memory_source source,
                         cudaStream_t stream) {
    const cudaError_t status = launch(make_keys_kernel, blocks_for(ids.size), dim3(threads_per_block), 0, stream, ids, codes, order, keys);
    return status != cudaSuccess ? status : queue_sort(keys, order, ids.size, starts, codes, source, stream);
}

}  // namespace isic::cuda
