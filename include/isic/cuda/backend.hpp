/// \file
/// The CUDA backend: a device, a stream on it and the libraries' handles. No CUDA header is needed to use it.
///
/// Link `isic::cuda`. Whatever takes a `cuda_backend` first works on that device, in the order of its stream. Functions
/// that give numbers back to the host wait for the stream; all others return at once.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>

#include <isic/error.hpp>

namespace isic::inline ISIC_ABI {

namespace cuda {

/// Whether a device can be used: a driver that fits the runtime, and a device. Never throws.
bool available() noexcept;

/// Why `available()` is false, with the native code and text; empty if it is true.
std::string unavailable_reason();

/// Number of usable devices; 0 where `available()` is false.
int device_count() noexcept;

/// Number of the device on which memory is; none for memory of the host. Errors: cuda_error.
std::optional<int> device_of(const void* memory);

class state;

}  // namespace cuda

/// What went wrong on a device.
enum class cuda_failure {
    no_device,      ///< no driver, a driver that is too old, no device, or no device of that number
    out_of_memory,  ///< device memory or a library's workspace
    not_converged,  ///< a solver of cuSOLVER gave up; code() is its info
    invalid_value,  ///< a call refused an argument: an error in isic, or memory that is not on this device
    other           ///< everything else; errors of a kernel stay until the process ends (CUDA calls them sticky)
};

/// A device or its libraries failed; keeps the native code.
class cuda_error : public backend_error {
public:
    /// `library` is "CUDA", "cuBLAS" or "cuSOLVER".
    cuda_error(const std::string& message, cuda_failure failure, std::string library, int code)
        : backend_error(message), failure_(failure), library_(std::move(library)), code_(code) {}

    cuda_failure failure() const noexcept { return failure_; }           ///< what kind of failure
    const std::string& library() const noexcept { return library_; }     ///< whose code it is
    int code() const noexcept { return code_; }                          ///< cudaError_t, cublasStatus_t, cusolverStatus_t or info

private:
    cuda_failure failure_;
    std::string library_;
    int code_;
};

/// A caller's allocator of device memory, e.g. a memory pool of torch or RMM. Both functions are given the backend's
/// stream (cudaStream_t), with its device current, and must order their work on it; memory is aligned to 256 bytes.
struct device_allocator {
    void* (*allocate)(void* context, std::size_t bytes, void* stream) = nullptr;             ///< null on failure
    void (*release)(void* context, void* memory, std::size_t bytes, void* stream) = nullptr;  ///< must not throw
    void* context = nullptr;                                                                  ///< passed to both
};

/// Options of `cuda_backend`.
struct cuda_options {
    int device = 0;                     ///< number of the device
    /// The caller's cudaStream_t, null for the default stream; it must outlive the backend and all memory from it. Empty: a
    /// stream of its own.
    std::optional<void*> stream = {};
    device_allocator allocator = {};    ///< empty: a stream-ordered pool of its own that keeps its memory
};

/// A device, a stream and the handles of cuBLAS and cuSOLVER on it. Movable, not copyable; one thread at a time.
class cuda_backend {
public:
    /// Errors: cuda_error (no_device, out_of_memory), value_error unless the allocator has both functions or none.
    explicit cuda_backend(const cuda_options& options = {});

    int device() const noexcept;             ///< number of the device
    void* stream() const noexcept;           ///< cudaStream_t
    std::string name() const;                ///< of the device, e.g. "NVIDIA H200"
    /// Waits until all work on the stream is done. Errors: cuda_error, also of earlier asynchronous work.
    void synchronize();
    /// What is queued from now on waits for all that is on another stream of the device (cudaStream_t) by now. Asynchronous.
    /// Errors: cuda_error.
    void wait_for(void* stream);
    /// The other way round: what is queued on that stream from now on waits for this one. Asynchronous. Errors: cuda_error.
    void precede(void* stream);

    /// For isic's own parts.
    const std::shared_ptr<cuda::state>& shared_state() const noexcept { return state_; }

private:
    std::shared_ptr<cuda::state> state_;  // device memory keeps it alive
};

}  // namespace isic::inline ISIC_ABI
