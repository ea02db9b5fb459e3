// SPDX-License-Identifier: Apache-2.0
/// \file
/// The base of the backend's host code: errors, handles, stream-ordered memory. Includes CUDA's headers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <span>
#include <string_view>
#include <type_traits>
#include <vector>

#include <cublas_v2.h>
#include <cuda_runtime_api.h>
#include <cusolverDn.h>

#include <isic/cuda/backend.hpp>
#include <isic/cuda/matrix.hpp>

namespace isic::inline ISIC_ABI::cuda::detail {

/// Throws cuda_error unless the call succeeded; a runtime error that is not sticky is cleared.
void check(cudaError_t status, std::string_view function, std::string_view call);
void check(cublasStatus_t status, std::string_view function, std::string_view call);
void check(cusolverStatus_t status, std::string_view function, std::string_view call);

/// Throws for the info of a finished cuSOLVER routine: > 0 did not converge, < 0 refused an argument.
void check_info(int info, std::string_view function, std::string_view call);

/// Makes a device current for the calling thread, and restores the previous one. The default stream belongs to the current device.
class device_guard {
public:
    explicit device_guard(int device);
    /// For destructors and waiting: ignores errors.
    device_guard(int device, std::nothrow_t) noexcept;
    ~device_guard();
    device_guard(const device_guard&) = delete;
    device_guard& operator=(const device_guard&) = delete;

private:
    int before_ = 0;
    bool changed_ = false;
};

template <auto destroy>
struct destroyer {
    template <class Handle>
    void operator()(Handle handle) const noexcept {
        static_cast<void>(destroy(handle));
    }
};

/// A library's handle that destroys itself.
template <class Handle, auto destroy>
using unique_handle = std::unique_ptr<std::remove_pointer_t<Handle>, destroyer<destroy>>;

class state {
public:
    explicit state(const cuda_options& options);
    ~state();
    state(const state&) = delete;
    state& operator=(const state&) = delete;

    int device() const noexcept { return device_; }
    cudaStream_t stream() const noexcept { return stream_; }
    cublasHandle_t blas();                                             ///< made on first exec, on the stream
    cusolverDnHandle_t solver();                                       ///< the same
    cusolverDnParams_t solver_params();                                ///< the same
    int multiprocessors() const noexcept { return multiprocessors_; }  ///< streaming multiprocessors

    void* allocate(std::size_t bytes);
    void release(void* memory, std::size_t bytes) noexcept;
    void synchronize();
    void wait_quietly() noexcept;  ///< for destructors

private:
    int device_ = 0;
    int multiprocessors_ = 1;
    device_allocator allocator_;
    unique_handle<cudaStream_t, cudaStreamDestroy> own_stream_;
    cudaStream_t stream_ = nullptr;
    unique_handle<cudaMemPool_t, cudaMemPoolDestroy> pool_;
    unique_handle<cublasHandle_t, cublasDestroy_v2> blas_;
    unique_handle<cusolverDnHandle_t, cusolverDnDestroy> solver_;
    unique_handle<cusolverDnParams_t, cusolverDnDestroyParams> params_;
};

/// Waits on destruction, also after an exception: queued work may use host memory declared before it.
class wait_on_exit {
public:
    explicit wait_on_exit(state& s) : state_(s) {}
    ~wait_on_exit() { state_.wait_quietly(); }
    wait_on_exit(const wait_on_exit&) = delete;
    wait_on_exit& operator=(const wait_on_exit&) = delete;

private:
    state& state_;
};

/// n values of T on the device for one call; not initialised.
template <class T>
class scratch {
public:
    scratch() = default;
    scratch(const std::shared_ptr<state>& owner, index_t n) : memory_(owner, static_cast<std::size_t>(n) * sizeof(T)) {}
    T* data() const { return static_cast<T*>(memory_.data()); }
    std::size_t bytes() const { return memory_.size(); }

private:
    buffer memory_;
};

/// A copy on the device; null if the span is empty. Waits.
template <class T>
scratch<T> to_device(const std::shared_ptr<state>& s, std::span<const T> host) {
    scratch<T> out(s, static_cast<index_t>(host.size()));
    copy_to_device(*s, out.data(), host.size_bytes(), host.data(), host.size_bytes(), host.size_bytes(), 1);
    return out;
}

/// n values from the device; waits.
template <class T>
std::vector<T> to_host(state& s, const T* device, index_t n) {
    std::vector<T> out(static_cast<std::size_t>(n));
    const std::size_t bytes = out.size() * sizeof(T);
    copy_to_host(s, out.data(), bytes, device, bytes, bytes, 1);
    return out;
}

/// Makes later work on `later` wait for all work queued so far on `earlier`.
void order_streams(const state& s, cudaStream_t earlier, cudaStream_t later);

/// Sets bytes on the device, in stream order.
void fill_bytes(state& s, void* device, int value, std::size_t bytes);

}  // namespace isic::inline ISIC_ABI::cuda::detail
