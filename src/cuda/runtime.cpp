// SPDX-License-Identifier: Apache-2.0
#include <isic/cuda/backend.hpp>

#include <limits>
#include <string>

#include <fmt/format.h>

#include "runtime.hpp"

namespace isic::inline ISIC_ABI::cuda::detail {
namespace {

cuda_failure failure_of(cudaError_t status) {
    switch (status) {
        case cudaErrorInsufficientDriver:
        case cudaErrorNoDevice:
        case cudaErrorInvalidDevice:
        case cudaErrorStubLibrary:
        case cudaErrorInitializationError: return cuda_failure::no_device;
        case cudaErrorMemoryAllocation: return cuda_failure::out_of_memory;
        case cudaErrorInvalidValue:
        case cudaErrorInvalidDevicePointer:
        case cudaErrorInvalidResourceHandle:
        case cudaErrorInvalidConfiguration: return cuda_failure::invalid_value;
        default: return cuda_failure::other;
    }
}

cuda_failure failure_of(cublasStatus_t status) {
    switch (status) {
        case CUBLAS_STATUS_ALLOC_FAILED: return cuda_failure::out_of_memory;
        case CUBLAS_STATUS_INVALID_VALUE: return cuda_failure::invalid_value;
        case CUBLAS_STATUS_NOT_INITIALIZED: return cuda_failure::no_device;
        default: return cuda_failure::other;
    }
}

cuda_failure failure_of(cusolverStatus_t status) {
    switch (status) {
        case CUSOLVER_STATUS_ALLOC_FAILED: return cuda_failure::out_of_memory;
        case CUSOLVER_STATUS_INVALID_VALUE: return cuda_failure::invalid_value;
        case CUSOLVER_STATUS_NOT_INITIALIZED: return cuda_failure::no_device;
        default: return cuda_failure::other;
    }
}

[[noreturn]] void fail(cuda_failure failure, std::string_view library, int code, std::string_view function,
                       std::string_view call, std::string_view text) {
    throw cuda_error(fmt::format("isic::{}: {} failed with {} {}: {}", function, call, library, code, text), failure,
                     std::string(library), code);
}

std::string text_of(cudaError_t status) {
    return fmt::format("{} ({})", cudaGetErrorName(status), cudaGetErrorString(status));
}

/// cuSOLVER has no text for its codes.
std::string_view text_of(cusolverStatus_t status) {
    switch (status) {
        case CUSOLVER_STATUS_NOT_INITIALIZED: return "CUSOLVER_STATUS_NOT_INITIALIZED";
        case CUSOLVER_STATUS_ALLOC_FAILED: return "CUSOLVER_STATUS_ALLOC_FAILED";
        case CUSOLVER_STATUS_INVALID_VALUE: return "CUSOLVER_STATUS_INVALID_VALUE";
        case CUSOLVER_STATUS_ARCH_MISMATCH: return "CUSOLVER_STATUS_ARCH_MISMATCH";
        case CUSOLVER_STATUS_EXECUTION_FAILED: return "CUSOLVER_STATUS_EXECUTION_FAILED";
        case CUSOLVER_STATUS_INTERNAL_ERROR: return "CUSOLVER_STATUS_INTERNAL_ERROR";
        default: return "see cusolverStatus_t";
    }
}

/// The status of asking for devices, and their number.
cudaError_t count_devices(int& n) noexcept {
    n = 0;
    const cudaError_t status = cudaGetDeviceCount(&n);
    if (status != cudaSuccess) {
        n = 0;
        static_cast<void>(cudaGetLastError());
    }
    return status;
}

}  // namespace

void check(cudaError_t status, std::string_view function, std::string_view call) {
    if (status != cudaSuccess) {
        static_cast<void>(cudaGetLastError());
        fail(failure_of(status), "CUDA", status, function, call, text_of(status));
    }
}

void check(cublasStatus_t status, std::string_view function, std::string_view call) {
    if (status != CUBLAS_STATUS_SUCCESS) {
        fail(failure_of(status), "cuBLAS", status, function, call,
             fmt::format("{} ({})", cublasGetStatusName(status), cublasGetStatusString(status)));
    }
}

void check(cusolverStatus_t status, std::string_view function, std::string_view call) {
    if (status != CUSOLVER_STATUS_SUCCESS) {
        fail(failure_of(status), "cuSOLVER", status, function, call, text_of(status));
    }
}

void check_info(int info, std::string_view function, std::string_view call) {
    if (info > 0) {
        fail(cuda_failure::not_converged, "cuSOLVER", info, function, call, "info > 0, it did not converge");
    }
    if (info < 0) {
        fail(cuda_failure::invalid_value, "cuSOLVER", info, function, call,
             fmt::format("argument {} was refused", -info));
    }
}

}  // namespace isic::inline ISIC_ABI::cuda::detail

namespace isic::inline ISIC_ABI::cuda {

bool available() noexcept {
    int n = 0;
    return detail::count_devices(n) == cudaSuccess && n > 0;
}

int device_count() noexcept {
    int n = 0;
    static_cast<void>(detail::count_devices(n));
    return n;
}

std::optional<int> device_of(const void* memory) {
    cudaPointerAttributes attributes{};
    detail::check(cudaPointerGetAttributes(&attributes, memory), "device_of", "cudaPointerGetAttributes");
    const bool device_memory = attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged;
    return device_memory ? std::optional(attributes.device) : std::nullopt;
}

std::string unavailable_reason() {
    int n = 0;
    const cudaError_t status = detail::count_devices(n);
    if (status == cudaSuccess) {
        return n > 0 ? "" : "the driver reports no device";
    }
    int runtime = 0;
    int driver = 0;
    static_cast<void>(cudaRuntimeGetVersion(&runtime));
    static_cast<void>(cudaDriverGetVersion(&driver));
    return fmt::format("{} ({}): {} [runtime {}, driver {}]", cudaGetErrorName(status), static_cast<int>(status),
                       cudaGetErrorString(status), runtime, driver);
}

}  // namespace isic::inline ISIC_ABI::cuda

namespace isic::inline ISIC_ABI::cuda::detail {

// Setting a device makes a context on it, also when it is put back: not where nothing changes.
device_guard::device_guard(int device) {
    check(cudaGetDevice(&before_), "cuda_backend", "cudaGetDevice");
    if (before_ != device) {
        check(cudaSetDevice(device), "cuda_backend", "cudaSetDevice");
        changed_ = true;
    }
}

device_guard::device_guard(int device, std::nothrow_t) noexcept {
    changed_ = cudaGetDevice(&before_) == cudaSuccess && before_ != device && cudaSetDevice(device) == cudaSuccess;
}

device_guard::~device_guard() {
    if (changed_) {
        static_cast<void>(cudaSetDevice(before_));
    }
}

state::state(const cuda_options& options) : device_(options.device), allocator_(options.allocator) {
    isic::detail::require<value_error>((allocator_.allocate == nullptr) == (allocator_.release == nullptr),
                                       "cuda_backend", "an allocator with both functions or none", "one of them");
    int n = 0;
    check(count_devices(n), "cuda_backend", "cudaGetDeviceCount");
    if (device_ < 0 || device_ >= n) {
        throw cuda_error(fmt::format("isic::cuda_backend: expected a device in [0, {}), got {}", n, device_),
                         cuda_failure::no_device, "CUDA", cudaErrorInvalidDevice);
    }
    const device_guard guard(device_);
    check(cudaDeviceGetAttribute(&multiprocessors_, cudaDevAttrMultiProcessorCount, device_), "cuda_backend",
          "cudaDeviceGetAttribute");
    if (options.stream) {
        stream_ = static_cast<cudaStream_t>(*options.stream);
    } else {
        check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cuda_backend", "cudaStreamCreateWithFlags");
        own_stream_.reset(stream_);
    }
    if (allocator_.allocate == nullptr) {
        cudaMemPoolProps properties{};
        properties.allocType = cudaMemAllocationTypePinned;
        properties.location.type = cudaMemLocationTypeDevice;
        properties.location.id = device_;
        cudaMemPool_t pool = nullptr;
        check(cudaMemPoolCreate(&pool, &properties), "cuda_backend", "cudaMemPoolCreate");
        pool_.reset(pool);
        std::uint64_t keep = std::numeric_limits<std::uint64_t>::max();  // the default gives memory back at every wait
        check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep), "cuda_backend",
              "cudaMemPoolSetAttribute");
    }
}

state::~state() {
    const device_guard guard(device_, std::nothrow);
    static_cast<void>(cudaStreamSynchronize(stream_));  // what is queued may use handles that go now
    params_.reset();
    solver_.reset();
    blas_.reset();
    pool_.reset();
    own_stream_.reset();
}

cublasHandle_t state::blas() {
    if (!blas_) {
        cublasHandle_t handle = nullptr;
        check(cublasCreate_v2(&handle), "cuda_backend", "cublasCreate");
        unique_handle<cublasHandle_t, cublasDestroy_v2> owned(handle);
        check(cublasSetStream_v2(handle, stream_), "cuda_backend", "cublasSetStream");
        blas_ = std::move(owned);
    }
    return blas_.get();
}

cusolverDnHandle_t state::solver() {
    if (!solver_) {
        cusolverDnHandle_t handle = nullptr;
        check(cusolverDnCreate(&handle), "cuda_backend", "cusolverDnCreate");
        unique_handle<cusolverDnHandle_t, cusolverDnDestroy> owned(handle);
        check(cusolverDnSetStream(handle, stream_), "cuda_backend", "cusolverDnSetStream");
        solver_ = std::move(owned);
    }
    return solver_.get();
}

cusolverDnParams_t state::solver_params() {
    if (!params_) {
        cusolverDnParams_t params = nullptr;
        check(cusolverDnCreateParams(&params), "cuda_backend", "cusolverDnCreateParams");
        params_.reset(params);
    }
    return params_.get();
}

void* state::allocate(std::size_t bytes) {
    const device_guard guard(device_);
    void* memory = nullptr;
    if (allocator_.allocate != nullptr) {
        memory = allocator_.allocate(allocator_.context, bytes, stream_);
        if (memory == nullptr) {
            throw cuda_error(fmt::format("isic::cuda_backend: the caller's allocator gave no {} bytes", bytes),
                             cuda_failure::out_of_memory, "CUDA", cudaErrorMemoryAllocation);
        }
        return memory;
    }
    check(cudaMallocFromPoolAsync(&memory, bytes, pool_.get(), stream_), "cuda_backend",
          fmt::format("cudaMallocFromPoolAsync of {} bytes", bytes));
    return memory;
}

void state::release(void* memory, std::size_t bytes) noexcept {
    const device_guard guard(device_, std::nothrow);
    if (allocator_.release != nullptr) {
        allocator_.release(allocator_.context, memory, bytes, stream_);
    } else {
        static_cast<void>(cudaFreeAsync(memory, stream_));
    }
}

void state::wait_quietly() noexcept {
    const device_guard guard(device_, std::nothrow);
    static_cast<void>(cudaStreamSynchronize(stream_));
}

void state::synchronize() {
    const device_guard guard(device_, std::nothrow);  // it must wait in any case: queued copies use the caller's memory
    check(cudaStreamSynchronize(stream_), "cuda_backend", "cudaStreamSynchronize");
}

buffer::buffer(std::shared_ptr<state> owner, std::size_t bytes) : owner_(std::move(owner)), size_(bytes) {
    if (bytes > 0) {
        data_ = owner_->allocate(bytes);
    }
}

buffer::~buffer() {
    if (data_ != nullptr) {
        owner_->release(data_, size_);
    }
}

namespace {

void copy(state& s, void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch, std::size_t width,
          std::size_t rows, cudaMemcpyKind kind) {
    if (width == 0 || rows == 0) {
        return;
    }
    const device_guard guard(s.device());
    if (rows == 1 || (to_pitch == width && from_pitch == width)) {
        check(cudaMemcpyAsync(to, from, width * rows, kind, s.stream()), "cuda_backend", "cudaMemcpyAsync");
    } else {
        check(cudaMemcpy2DAsync(to, to_pitch, from, from_pitch, width, rows, kind, s.stream()), "cuda_backend",
              "cudaMemcpy2DAsync");
    }
}

}  // namespace

void copy_to_device(state& s, void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch,
                    std::size_t width, std::size_t rows) {
    copy(s, to, to_pitch, from, from_pitch, width, rows, cudaMemcpyHostToDevice);
    s.synchronize();  // pinned memory would still be read
}

void copy_to_host(state& s, void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch, std::size_t width,
                  std::size_t rows) {
    copy(s, to, to_pitch, from, from_pitch, width, rows, cudaMemcpyDeviceToHost);
    s.synchronize();
}

void copy_on_device(state& s, void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch,
                    std::size_t width, std::size_t rows) {
    copy(s, to, to_pitch, from, from_pitch, width, rows, cudaMemcpyDeviceToDevice);
}

void order_streams(const state& s, cudaStream_t earlier, cudaStream_t later) {
    if (earlier == later) {
        return;
    }
    const device_guard guard(s.device());
    cudaEvent_t made = nullptr;
    check(cudaEventCreateWithFlags(&made, cudaEventDisableTiming), "cuda_backend", "cudaEventCreateWithFlags");
    const unique_handle<cudaEvent_t, cudaEventDestroy> reached(made);
    check(cudaEventRecord(made, earlier), "cuda_backend", "cudaEventRecord");
    check(cudaStreamWaitEvent(later, made, 0), "cuda_backend", "cudaStreamWaitEvent");
}

void fill_bytes(state& s, void* device, int value, std::size_t bytes) {
    if (bytes > 0) {
        const device_guard guard(s.device());
        check(cudaMemsetAsync(device, value, bytes, s.stream()), "cuda_backend", "cudaMemsetAsync");
    }
}

}  // namespace isic::inline ISIC_ABI::cuda::detail

namespace isic::inline ISIC_ABI {

cuda_backend::cuda_backend(const cuda_options& options) : state_(std::make_shared<cuda::detail::state>(options)) {}

int cuda_backend::device() const noexcept {
    return state_->device();
}

void* cuda_backend::stream() const noexcept {
    return state_->stream();
}

std::string cuda_backend::name() const {
    cudaDeviceProp properties{};
    cuda::detail::check(cudaGetDeviceProperties(&properties, state_->device()), "cuda_backend::name",
                        "cudaGetDeviceProperties");
    return properties.name;
}

void cuda_backend::synchronize() {
    state_->synchronize();
}

void cuda_backend::wait_stream(void* stream) {
    cuda::detail::order_streams(*state_, static_cast<cudaStream_t>(stream), state_->stream());
}

void cuda_backend::record_stream(void* stream) {
    cuda::detail::order_streams(*state_, state_->stream(), static_cast<cudaStream_t>(stream));
}

}  // namespace isic::inline ISIC_ABI
