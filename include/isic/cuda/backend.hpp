// SPDX-License-Identifier: Apache-2.0
/// \file
/// The CUDA backend: a device, a stream on it and the libraries' handles. No CUDA header is needed to use it.
///
/// Link `isic::cuda`. A function whose first argument is a `cuda_backend` queues its work on that backend's stream. It waits for
/// the stream if it returns values to the host; otherwise it is asynchronous.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>

#include <isic/error.hpp>

namespace isic::inline ISIC_ABI {

namespace cuda {

/// Whether a device can be used: the driver supports the runtime, and there is a device. Thread-safe.
[[nodiscard]] bool available() noexcept;

/// Why `available()` is false, with the native code and text; empty if it is true. Thread-safe.
[[nodiscard]] std::string unavailable_reason();

/// Number of usable devices; 0 if `available()` is false. Thread-safe.
[[nodiscard]] int device_count() noexcept;

/// Index of the device that owns the memory; empty for host memory. Thread-safe. Errors: cuda_error.
[[nodiscard]] std::optional<int> device_of(const void* memory);

namespace detail {

class state;

}  // namespace detail
}  // namespace cuda

/// Kinds of device failures.
enum class cuda_failure {
    no_device,      ///< no driver, a driver that is too old, no device, or no device of that index
    out_of_memory,  ///< device memory or a library's workspace
    not_converged,  ///< a cuSOLVER routine did not converge; code() is its info
    invalid_value,  ///< a call refused an argument: an error in isic, or memory of another device
    other           ///< everything else; a kernel's error persists until the process ends (CUDA calls it sticky)
};

/// A failure of the device or of its libraries, with the native code.
class cuda_error : public backend_error {
public:
    /// `library` is "CUDA", "cuBLAS" or "cuSOLVER".
    cuda_error(const std::string& message, cuda_failure failure, std::string library, int code)
        : backend_error(message), failure_(failure), library_(std::move(library)), code_(code) {}

    [[nodiscard]] cuda_failure failure() const noexcept { return failure_; }  ///< the kind of failure
    [[nodiscard]] const std::string& library() const noexcept {
        return library_;
    }  ///< the library that `code()` belongs to
    [[nodiscard]] int code() const noexcept {
        return code_;
    }  ///< cudaError_t, cublasStatus_t, cusolverStatus_t or info

private:
    cuda_failure failure_;
    std::string library_;
    int code_;
};

/// An allocator of device memory, e.g. a memory pool of torch or RMM.
///
/// Both functions receive the backend's stream (cudaStream_t) with its device current, and must order their work on that stream.
/// Memory is aligned to 256 bytes. isic calls them from the thread that uses the backend.
struct device_allocator {
    void* (*allocate)(void* context, std::size_t bytes, void* stream) = nullptr;              ///< null on failure
    void (*release)(void* context, void* memory, std::size_t bytes, void* stream) = nullptr;  ///< must not throw
    void* context = nullptr;                                                                  ///< passed to both
};

/// Options of `cuda_backend`.
struct cuda_options {
    int device = 0;  ///< index of the device
    /// The caller's cudaStream_t, null for the default stream; it must outlive the backend and all memory of the backend.
    /// Empty: the backend creates its own stream.
    std::optional<void*> stream = {};
    device_allocator allocator = {};  ///< empty: the backend creates a stream-ordered pool that keeps freed memory
};

/// A device, a stream and the handles of cuBLAS and cuSOLVER on it. Copies share them.
///
/// Not thread-safe: one thread at a time may use a backend, its copies and what was allocated through them.
class cuda_backend {
public:
    /// Errors: cuda_error (no_device, out_of_memory); value_error if the allocator has one function of the two.
    explicit cuda_backend(const cuda_options& options = {});

    [[nodiscard]] int device() const noexcept;    ///< index of the device
    [[nodiscard]] void* stream() const noexcept;  ///< cudaStream_t
    [[nodiscard]] std::string name() const;       ///< name of the device, e.g. "NVIDIA H200"
    /// Waits until all work on the stream is done. Errors: cuda_error, also of earlier asynchronous work.
    void synchronize();
    /// Makes later work on this backend's stream wait for all work queued so far on `stream` (cudaStream_t of the same device).
    /// Asynchronous. Errors: cuda_error.
    void wait_stream(void* stream);
    /// Makes later work on `stream` (cudaStream_t of the same device) wait for all work queued so far on this backend's stream.
    /// Asynchronous. Errors: cuda_error.
    void record_stream(void* stream);

    /// Used by the implementation.
    [[nodiscard]] const std::shared_ptr<cuda::detail::state>& shared_state() const noexcept { return state_; }

private:
    std::shared_ptr<cuda::detail::state> state_;  // device memory shares it
};

}  // namespace isic::inline ISIC_ABI
