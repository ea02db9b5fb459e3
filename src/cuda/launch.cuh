// SPDX-License-Identifier: Apache-2.0
/// \file
/// Kernel launches.
#pragma once

#include <cstddef>
#include <tuple>
#include <type_traits>
#include <utility>

#ifndef ISIC_KERNEL_SHIM  // the tests' shim defines these, and runs kernels on the CPU
#include <cuda_runtime.h>

/// Declares `T name` in shared memory. For templates, where GCC, which compiles kernels for the tests, forgets attributes of variables.
#define ISIC_SHARED(T, name) __shared__ T name

/// Declares `T* name`, the dynamic shared memory of the block.
#define ISIC_DYN_SHARED(T, name)                                                \
    extern __shared__ __align__(16) unsigned char isic_dynamic_shared_memory[]; \
    T* const name = reinterpret_cast<T*>(isic_dynamic_shared_memory)
#endif

namespace isic::inline ISIC_ABI::cuda::detail {

/// A kernel needs an attribute for more than this.
inline constexpr std::size_t dynamic_shared_memory_limit = 48 * 1024;

/// Limit of a launch. The attribute is always set to this value: it holds for all threads of the process.
inline constexpr std::size_t most_dynamic_shared_memory = 96 * 1024;

/// Queues a kernel. Returns the status of this launch only; errors of the running kernel are returned by the next call that waits.
template <class... P, class... A>
cudaError_t launch(void (*kernel)(P...), dim3 grid, dim3 block, std::size_t shared_bytes, cudaStream_t stream,
                   A&&... args) {
    static_assert(sizeof...(P) == sizeof...(A), "as many arguments as the kernel has parameters");
    static_assert((!std::is_reference_v<P> && ...), "a kernel's parameters are values");
    if (shared_bytes > dynamic_shared_memory_limit) {
        const cudaError_t code =
            cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(most_dynamic_shared_memory));
        if (code != cudaSuccess) {
            return code;
        }
    }
#ifdef ISIC_KERNEL_SHIM
    return kernel_shim::launch(kernel, grid, block, shared_bytes, stream, std::forward<A>(args)...);
#else
    std::tuple<P...> values(static_cast<P>(std::forward<A>(args))...);
    return std::apply(
        [&](P&... value) {
            void* pointers[] = {static_cast<void*>(&value)..., nullptr};
            return cudaLaunchKernel(reinterpret_cast<const void*>(kernel), grid, block, pointers, shared_bytes, stream);
        },
        values);
#endif
}

}  // namespace isic::inline ISIC_ABI::cuda::detail
