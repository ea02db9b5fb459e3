// SPDX-License-Identifier: Apache-2.0
// The stand-in for CUDA: memory, streams and faults. The backend's tests rely on it to detect mistakes.
#include "cuda/stand_in_support.hpp"

namespace {

using namespace stand_in_tests;

// ---- Memory

TEST_CASE_FIXTURE(fresh, "stand-in: the host cannot touch device memory") {
    const device_vector<float> x(vector<float>(4));
    CHECK(dies([&] { *static_cast<volatile float*>(x.data()) = 1; }));
}

TEST_CASE_FIXTURE(fresh, "stand-in: work cannot go past the end of an allocation") {
    const device_vector<float> x(vector<float>(4));
    const auto write = [&](int i) {
        stand_in::enqueue(nullptr, [p = x.data(), i] { const_cast<volatile float*>(p)[i] = 1; });
        synchronize();
    };
    write(3);
    CHECK(dies([&] { write(4); }));
    CHECK(dies([&] { write(-2000); }));
    CHECK(dies([&] {
        isic::cuda::detail::launch(write_at, dim3(1), dim3(1), 0, nullptr, x.data(), 4);
        synchronize();
    }));
}

TEST_CASE_FIXTURE(fresh, "stand-in: writing into the room around an allocation shows when it is freed") {
    for (const int where : {-1, 5}) {
        void* p = nullptr;
        REQUIRE(cudaMalloc(&p, 5) == cudaSuccess);
        stand_in::enqueue(nullptr, [=] { static_cast<char*>(p)[where] = 0; });
        REQUIRE(cudaFree(p) == cudaSuccess);
        expect_violation(where < 0 ? "written before an allocation of 5 bytes"
                                   : "written after an allocation of 5 bytes");
    }
}

TEST_CASE_FIXTURE(fresh, "stand-in: new memory is NaN") {
    const device_vector<double> x(std::size_t(3));
    CHECK(all_nan(x.values()));
    float out[2] = {0, 0};
    kernel_shim::run_grid(dim3(2), dim3(1), 4, [&] { read_shared(out); });
    CHECK(std::isnan(out[0]));
    CHECK(std::isnan(out[1]));
}

TEST_CASE_FIXTURE(fresh, "stand-in: addresses are not used again") {
    std::set<void*> seen;
    for (int i = 0; i < 50; ++i) {
        void* p = nullptr;
        REQUIRE(cudaMallocAsync(&p, 100, nullptr) == cudaSuccess);
        CHECK(seen.insert(p).second);
        CHECK(cudaFreeAsync(p, nullptr) == cudaSuccess);
        synchronize();
    }
}

TEST_CASE_FIXTURE(fresh, "stand-in: what was freed cannot be used") {
    void* p = nullptr;
    float host = 0;
    REQUIRE(cudaMallocAsync(&p, 64, nullptr) == cudaSuccess);
    REQUIRE(cudaFreeAsync(p, nullptr) == cudaSuccess);
    CHECK(cudaMemcpyAsync(&host, p, 4, cudaMemcpyDeviceToHost, nullptr) == cudaErrorInvalidValue);
    expect_violation("has been freed");
    CHECK(isic::cuda::detail::launch(add_one, dim3(1), dim3(1), 0, nullptr, static_cast<float*>(p), 1) ==
          cudaErrorInvalidValue);
    expect_violation("has been freed");
    CHECK(cudaFreeAsync(p, nullptr) == cudaErrorInvalidValue);
    expect_violation("not the address of an allocation that is alive");
    synchronize();
    CHECK(cudaMemsetAsync(p, 0, 4, nullptr) == cudaErrorInvalidValue);
    expect_violation("not in device memory");
    CHECK(cudaFree(p) == cudaErrorInvalidValue);
    expect_violation("not the address of an allocation that is alive");
}

TEST_CASE_FIXTURE(fresh, "stand-in: host and device pointers are not interchangeable") {
    const blas_guard blas;
    const device_vector<float> x(vector<float>(4));
    vector<float> host(4);
    const float one = 1;
    CHECK(cudaMemcpyAsync(host.data(), host.data(), 4, cudaMemcpyHostToDevice, nullptr) == cudaErrorInvalidValue);
    expect_violation("destination is not in device memory");
    CHECK(cudaMemcpyAsync(x.data(), x.data(), 4, cudaMemcpyHostToDevice, nullptr) == cudaErrorInvalidValue);
    expect_violation("source is in device memory");
    CHECK(cublasSgemm(blas.handle, CUBLAS_OP_N, CUBLAS_OP_N, 1, 1, 1, &one, host.data(), 1, x.data(), 1, &one,
                      x.data() + 1, 1) == CUBLAS_STATUS_EXECUTION_FAILED);
    expect_violation("A is not in device memory");
    CHECK(cublasSgemm(blas.handle, CUBLAS_OP_N, CUBLAS_OP_N, 1, 1, 1, x.data(), x.data(), 1, x.data(), 1, &one,
                      x.data() + 1, 1) == CUBLAS_STATUS_INVALID_VALUE);
    expect_violation("alpha in host memory");
    CHECK(isic::cuda::detail::launch(add_one, dim3(1), dim3(1), 0, nullptr, host.data(), 1) == cudaErrorInvalidValue);
    expect_violation("not in device memory");
}

TEST_CASE_FIXTURE(fresh, "stand-in: copies stay inside an allocation") {
    const device_vector<char> x(vector<char>(10));
    vector<char> host(20);
    CHECK(cudaMemcpyAsync(x.data(), host.data(), 11, cudaMemcpyHostToDevice, nullptr) == cudaErrorInvalidValue);
    expect_violation("destination needs 11 bytes");
    CHECK(cudaMemcpyAsync(host.data(), x.data() + 1, 10, cudaMemcpyDeviceToHost, nullptr) == cudaErrorInvalidValue);
    expect_violation("source needs 10 bytes");
    CHECK(cudaMemsetAsync(x.data(), 0, 11, nullptr) == cudaErrorInvalidValue);
    expect_violation("needs 11 bytes");
    CHECK(cudaMemcpy2DAsync(x.data(), 4, host.data(), 4, 3, 3, cudaMemcpyHostToDevice, nullptr) ==
          cudaErrorInvalidValue);
    expect_violation("needs 11 bytes");
    CHECK(cudaMemcpy2DAsync(x.data(), 2, host.data(), 4, 3, 2, cudaMemcpyHostToDevice, nullptr) ==
          cudaErrorInvalidPitchValue);
    expect_violation("wider than the pitch");
    CHECK(cudaMemcpyAsync(nullptr, nullptr, 0, cudaMemcpyHostToDevice, nullptr) == cudaSuccess);
}

TEST_CASE_FIXTURE(fresh, "stand-in: rows can be copied between pitches") {
    const vector<char> host{'a', 'b', '-', 'c', 'd', '-'};
    const device_vector<char> x(vector<char>(8, '.'));
    CHECK(cudaMemcpy2DAsync(x.data(), 4, host.data(), 3, 2, 2, cudaMemcpyDefault, nullptr) == cudaSuccess);
    CHECK(x.values() == vector<char>{'a', 'b', '.', '.', 'c', 'd', '.', '.'});
    CHECK(cudaMemsetAsync(x.data() + 1, 'z', 2, nullptr) == cudaSuccess);
    CHECK(x.values() == vector<char>{'a', 'z', 'z', '.', 'c', 'd', '.', '.'});
}

TEST_CASE_FIXTURE(fresh, "stand-in: memory is limited and counted") {
    stand_in::control().capacity = 1000;
    void* p = nullptr;
    void* q = nullptr;
    CHECK(cudaMalloc(&p, 600) == cudaSuccess);
    CHECK(cudaMallocAsync(&q, 401, nullptr) == cudaErrorMemoryAllocation);
    CHECK(cudaMallocAsync(&q, 400, nullptr) == cudaSuccess);
    std::size_t available = 1;
    std::size_t total = 0;
    CHECK(cudaMemGetInfo(&available, &total) == cudaSuccess);
    CHECK(available == 0);
    CHECK(total == 1000);
    CHECK(cudaFree(p) == cudaSuccess);
    CHECK(stand_in::control().used == 400);
    CHECK(stand_in::control().peak == 1000);
    CHECK(cudaFreeAsync(q, nullptr) == cudaSuccess);
    synchronize();
}

TEST_CASE_FIXTURE(fresh, "stand-in: pointers are known by their kind") {
    const device_vector<float> x(std::size_t(4));
    void* pinned = nullptr;
    REQUIRE(cudaMallocHost(&pinned, 16) == cudaSuccess);
    int local = 0;
    cudaPointerAttributes attributes{};
    CHECK(cudaPointerGetAttributes(&attributes, x.data() + 1) == cudaSuccess);
    CHECK(attributes.type == cudaMemoryTypeDevice);
    CHECK(cudaPointerGetAttributes(&attributes, pinned) == cudaSuccess);
    CHECK(attributes.type == cudaMemoryTypeHost);
    CHECK(cudaPointerGetAttributes(&attributes, &local) == cudaSuccess);
    CHECK(attributes.type == cudaMemoryTypeUnregistered);
    CHECK(cudaFreeHost(pinned) == cudaSuccess);
}

TEST_CASE_FIXTURE(fresh, "stand-in: pinned memory must outlive the copies from it") {
    const device_vector<float> x(std::size_t(4));
    void* pinned = nullptr;
    REQUIRE(cudaMallocHost(&pinned, 16) == cudaSuccess);
    std::memset(pinned, 0, 16);
    CHECK(cudaMemcpyAsync(x.data(), pinned, 17, cudaMemcpyHostToDevice, nullptr) == cudaErrorInvalidValue);
    stand_in::control().violations.clear();
    CHECK(cudaMemcpyAsync(x.data(), pinned, 16, cudaMemcpyHostToDevice, nullptr) == cudaSuccess);
    CHECK(dies([&] {
        cudaFreeHost(pinned);
        synchronize();
    }));
    synchronize();
    CHECK(cudaFreeHost(pinned) == cudaSuccess);
}

TEST_CASE_FIXTURE(fresh, "stand-in: pools") {
    cudaMemPool_t pool = nullptr;
    cudaMemPoolProps properties{};
    properties.allocType = cudaMemAllocationTypePinned;
    properties.location.type = cudaMemLocationTypeDevice;
    REQUIRE(cudaMemPoolCreate(&pool, &properties) == cudaSuccess);
    std::uint64_t threshold = ~std::uint64_t(0);
    CHECK(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &threshold) == cudaSuccess);
    void* p = nullptr;
    CHECK(cudaMallocFromPoolAsync(&p, 10, pool, nullptr) == cudaSuccess);
    CHECK(cudaFreeAsync(p, nullptr) == cudaSuccess);
    CHECK(cudaMemPoolDestroy(pool) == cudaSuccess);
    CHECK(cudaMallocFromPoolAsync(&p, 10, pool, nullptr) == cudaErrorInvalidValue);
    expect_violation("not a live pool");
    CHECK(cudaDeviceGetDefaultMemPool(&pool, 0) == cudaSuccess);
    CHECK(cudaMallocFromPoolAsync(&p, 10, pool, nullptr) == cudaSuccess);
    CHECK(cudaFreeAsync(p, nullptr) == cudaSuccess);
    synchronize();
    stand_in::control().memory_pools = false;
    CHECK(cudaMallocAsync(&p, 10, nullptr) == cudaErrorNotSupported);
}

// ---- Streams and events

TEST_CASE_FIXTURE(fresh, "stand-in: work runs when somebody waits") {
    int runs = 0;
    const stream_guard stream;
    stand_in::enqueue(stream.handle, [&] { ++runs; });
    CHECK(runs == 0);
    synchronize(stream.handle);
    CHECK(runs == 1);
    stand_in::control().deferred = false;
    stand_in::enqueue(stream.handle, [&] { ++runs; });
    CHECK(runs == 2);
}

TEST_CASE_FIXTURE(fresh, "stand-in: only the stream that is waited for moves on, in order") {
    std::string log;
    const stream_guard first;
    const stream_guard second;
    stand_in::enqueue(first.handle, [&] { log += "a"; });
    stand_in::enqueue(second.handle, [&] { log += "x"; });
    stand_in::enqueue(first.handle, [&] { log += "b"; });
    synchronize(first.handle);
    CHECK(log == "ab");
    CHECK(cudaDeviceSynchronize() == cudaSuccess);
    CHECK(log == "abx");
}

TEST_CASE_FIXTURE(fresh, "stand-in: a stream waits for the event of another") {
    for (const bool waits : {true, false}) {
        std::string log;
        const stream_guard producer;
        const stream_guard consumer;
        const event_guard ready;
        stand_in::enqueue(producer.handle, [&] { log += "made "; });
        CHECK(cudaEventRecord(ready.handle, producer.handle) == cudaSuccess);
        stand_in::enqueue(producer.handle, [&] { log += "later "; });
        if (waits) {
            CHECK(cudaStreamWaitEvent(consumer.handle, ready.handle, 0) == cudaSuccess);
        }
        stand_in::enqueue(consumer.handle, [&] { log += "used "; });
        synchronize(consumer.handle);
        CHECK(log == (waits ? "made used " : "used "));
        synchronize(producer.handle);
    }
}

TEST_CASE_FIXTURE(fresh, "stand-in: waiting for an event does what was before it") {
    std::string log;
    const stream_guard stream;
    const event_guard event;
    CHECK(cudaEventSynchronize(event.handle) == cudaSuccess);
    stand_in::enqueue(stream.handle, [&] { log += "a"; });
    CHECK(cudaEventRecord(event.handle, stream.handle) == cudaSuccess);
    stand_in::enqueue(stream.handle, [&] { log += "b"; });
    CHECK(cudaEventSynchronize(event.handle) == cudaSuccess);
    CHECK(log == "a");
}

TEST_CASE_FIXTURE(fresh, "stand-in: blocking streams and the default stream wait for each other") {
    for (const unsigned flags : {unsigned(cudaStreamDefault), unsigned(cudaStreamNonBlocking)}) {
        std::string log;
        const stream_guard stream(flags);
        stand_in::enqueue(stream.handle, [&] { log += "a"; });
        stand_in::enqueue(nullptr, [&] { log += "b"; });
        synchronize();
        CHECK(log == (flags == cudaStreamDefault ? "ab" : "b"));
        stand_in::enqueue(nullptr, [&] { log += "c"; });
        stand_in::enqueue(stream.handle, [&] { log += "d"; });
        synchronize(stream.handle);
        CHECK(log == (flags == cudaStreamDefault ? "abcd" : "bad"));
        synchronize();
    }
}

TEST_CASE_FIXTURE(fresh, "stand-in: asking whether work is done comes to an end") {
    const stream_guard stream;
    const event_guard start;
    const event_guard end;
    float milliseconds = -1;
    CHECK(cudaEventRecord(start.handle, stream.handle) == cudaSuccess);
    CHECK(cudaEventRecord(end.handle, stream.handle) == cudaSuccess);
    CHECK(cudaEventElapsedTime(&milliseconds, start.handle, end.handle) == cudaErrorNotReady);
    CHECK(cudaStreamQuery(stream.handle) == cudaErrorNotReady);
    CHECK(cudaEventQuery(end.handle) == cudaErrorNotReady);
    CHECK(cudaEventQuery(end.handle) == cudaSuccess);
    CHECK(cudaStreamQuery(stream.handle) == cudaSuccess);
    CHECK(cudaEventElapsedTime(&milliseconds, start.handle, end.handle) == cudaSuccess);
    CHECK(milliseconds >= 0);
}

TEST_CASE_FIXTURE(fresh, "stand-in: what was destroyed cannot be used") {
    cudaStream_t stream = nullptr;
    cudaEvent_t event = nullptr;
    REQUIRE(cudaStreamCreateWithFlags(&stream, 0) == cudaSuccess);
    REQUIRE(cudaEventCreateWithFlags(&event, cudaEventDisableTiming) == cudaSuccess);
    const blas_guard blas;
    REQUIRE(cublasSetStream(blas.handle, stream) == CUBLAS_STATUS_SUCCESS);
    CHECK(cudaStreamDestroy(stream) == cudaSuccess);
    CHECK(cudaEventDestroy(event) == cudaSuccess);
    CHECK(cudaStreamSynchronize(stream) == cudaErrorInvalidResourceHandle);
    expect_violation("not a live stream");
    CHECK(cudaEventRecord(event, nullptr) == cudaErrorInvalidResourceHandle);
    expect_violation("not a live event");
    const double one = 1;
    CHECK(cublasDscal(blas.handle, 0, &one, nullptr, 1) == CUBLAS_STATUS_EXECUTION_FAILED);
    expect_violation("not a live stream");
    cublasHandle_t gone = nullptr;
    REQUIRE(cublasCreate(&gone) == CUBLAS_STATUS_SUCCESS);
    REQUIRE(cublasDestroy(gone) == CUBLAS_STATUS_SUCCESS);
    CHECK(cublasDscal(gone, 0, &one, nullptr, 1) == CUBLAS_STATUS_NOT_INITIALIZED);
    expect_violation("the handle is not live");
    CHECK(cusolverDnDestroy(nullptr) == CUSOLVER_STATUS_NOT_INITIALIZED);
    expect_violation("not live");
}

// ---- Faults

TEST_CASE_FIXTURE(fresh, "stand-in: the nth call fails, with any code") {
    void* p = nullptr;
    fail_call("cudaMallocAsync", {2, cudaErrorMemoryAllocation});
    CHECK(cudaMallocAsync(&p, 4, nullptr) == cudaSuccess);
    CHECK(cudaFreeAsync(p, nullptr) == cudaSuccess);
    CHECK(cudaMallocAsync(&p, 4, nullptr) == cudaErrorMemoryAllocation);
    CHECK(cudaPeekAtLastError() == cudaErrorMemoryAllocation);
    CHECK(cudaGetLastError() == cudaErrorMemoryAllocation);
    CHECK(cudaGetLastError() == cudaSuccess);
    CHECK(cudaMallocAsync(&p, 4, nullptr) == cudaSuccess);
    CHECK(cudaFreeAsync(p, nullptr) == cudaSuccess);
    CHECK(stand_in::control().calls.at("cudaMallocAsync") == 3);
    synchronize();

    fail_call("cublasCreate", {0, CUBLAS_STATUS_ALLOC_FAILED});
    cublasHandle_t blas = nullptr;
    CHECK(cublasCreate(&blas) == CUBLAS_STATUS_ALLOC_FAILED);
    CHECK(cublasCreate(&blas) == CUBLAS_STATUS_ALLOC_FAILED);
    fail_call("cusolverDnCreateParams", {1, CUSOLVER_STATUS_ALLOC_FAILED});
    cusolverDnParams_t params = nullptr;
    CHECK(cusolverDnCreateParams(&params) == CUSOLVER_STATUS_ALLOC_FAILED);
    fail_call("launch", {1, cudaErrorLaunchFailure});
    CHECK(isic::cuda::detail::launch(divergent_barrier, dim3(1), dim3(1), 0, nullptr, 0) == cudaErrorLaunchFailure);
    CHECK(stand_in::control().calls.at("launch") == 1);
}

TEST_CASE_FIXTURE(fresh, "stand-in: what is given back is gone even when that fails") {
    void* p = nullptr;
    cudaStream_t stream = nullptr;
    REQUIRE(cudaMalloc(&p, 4) == cudaSuccess);
    REQUIRE(cudaStreamCreateWithFlags(&stream, 0) == cudaSuccess);
    fail_call("cudaFreeAsync", {1, cudaErrorUnknown});
    fail_call("cudaStreamDestroy", {1, cudaErrorUnknown});
    CHECK(cudaFreeAsync(p, stream) == cudaErrorUnknown);
    CHECK(cudaStreamDestroy(stream) == cudaErrorUnknown);
}

TEST_CASE_FIXTURE(fresh, "stand-in: an error at a synchronisation drops what was pending") {
    int runs = 0;
    void* p = nullptr;
    REQUIRE(cudaMallocAsync(&p, 4, nullptr) == cudaSuccess);
    stand_in::enqueue(nullptr, [&] { ++runs; });
    REQUIRE(cudaFreeAsync(p, nullptr) == cudaSuccess);
    fail_call("cudaStreamSynchronize", {1, cudaErrorLaunchFailure});
    CHECK(cudaStreamSynchronize(nullptr) == cudaErrorLaunchFailure);
    CHECK(cudaStreamSynchronize(nullptr) == cudaSuccess);
    CHECK(runs == 0);
    CHECK(cudaGetLastError() == cudaErrorLaunchFailure);
}

TEST_CASE_FIXTURE(fresh, "stand-in: a sticky error stays") {
    const blas_guard blas;
    int runs = 0;
    int count = 0;
    fail_call("cudaStreamSynchronize", {1, cudaErrorIllegalAddress, true});
    CHECK(cudaStreamSynchronize(nullptr) == cudaErrorIllegalAddress);
    stand_in::enqueue(nullptr, [&] { ++runs; });
    CHECK(cudaDeviceSynchronize() == cudaErrorIllegalAddress);
    CHECK(cudaGetDeviceCount(&count) == cudaErrorIllegalAddress);
    CHECK(cudaGetLastError() == cudaErrorIllegalAddress);
    CHECK(cudaGetLastError() == cudaErrorIllegalAddress);
    const double one = 1;
    CHECK(cublasDscal(blas.handle, 0, &one, nullptr, 1) == CUBLAS_STATUS_EXECUTION_FAILED);
    CHECK(isic::cuda::detail::launch(divergent_barrier, dim3(1), dim3(1), 0, nullptr, 0) == cudaErrorIllegalAddress);
    CHECK(runs == 0);
}

TEST_CASE_FIXTURE(fresh, "stand-in: without a driver") {
    stand_in::control().driver = false;
    int count = 42;
    void* p = nullptr;
    cublasHandle_t blas = nullptr;
    cusolverDnHandle_t solver = nullptr;
    gesvdjInfo_t options = nullptr;
    CHECK(cudaGetDeviceCount(&count) == cudaErrorInsufficientDriver);
    CHECK(count == 42);
    CHECK(cudaMalloc(&p, 1) == cudaErrorInsufficientDriver);
    CHECK(cudaGetLastError() == cudaErrorInsufficientDriver);
    CHECK(cudaGetLastError() == cudaErrorInsufficientDriver);
    CHECK(cublasCreate(&blas) == CUBLAS_STATUS_NOT_INITIALIZED);
    CHECK(cusolverDnCreate(&solver) == CUSOLVER_STATUS_NOT_INITIALIZED);
    CHECK(cusolverDnCreateGesvdjInfo(&options) == CUSOLVER_STATUS_SUCCESS);
    CHECK(cusolverDnDestroyGesvdjInfo(options) == CUSOLVER_STATUS_SUCCESS);
    CHECK(isic::cuda::detail::launch(divergent_barrier, dim3(1), dim3(1), 0, nullptr, 0) ==
          cudaErrorInsufficientDriver);
    CHECK(cudaDriverGetVersion(&count) == cudaSuccess);
    CHECK(count == 0);
    CHECK(cudaRuntimeGetVersion(&count) == cudaSuccess);
    CHECK(count == CUDART_VERSION);
    CHECK(std::string(cudaGetErrorName(cudaErrorInsufficientDriver)) == "cudaErrorInsufficientDriver");
    CHECK(contains(cudaGetErrorString(cudaErrorInsufficientDriver), "driver version is insufficient"));
}

TEST_CASE_FIXTURE(fresh, "stand-in: without a device, and with two") {
    stand_in::control().devices = 0;
    int value = 42;
    cublasHandle_t blas = nullptr;
    CHECK(cudaGetDeviceCount(&value) == cudaErrorNoDevice);
    CHECK(value == 0);
    CHECK(cudaSetDevice(0) == cudaErrorNoDevice);
    CHECK(cublasCreate(&blas) == CUBLAS_STATUS_NOT_INITIALIZED);
    stand_in::control().devices = 2;
    CHECK(cudaGetDeviceCount(&value) == cudaSuccess);
    CHECK(value == 2);
    CHECK(cudaSetDevice(2) == cudaErrorInvalidDevice);
    CHECK(cudaSetDevice(1) == cudaSuccess);
    CHECK(cudaGetDevice(&value) == cudaSuccess);
    CHECK(value == 1);
    const stream_guard on_second;
    cudaDeviceProp properties{};
    CHECK(cudaGetDeviceProperties(&properties, 1) == cudaSuccess);
    CHECK(std::string(properties.name) == "stand-in 1");
    CHECK(cudaDeviceGetAttribute(&value, cudaDevAttrComputeCapabilityMajor, 1) == cudaSuccess);
    CHECK(value == 9);
    CHECK(cudaSetDevice(0) == cudaSuccess);
    CHECK(isic::cuda::detail::launch(divergent_barrier, dim3(1), dim3(1), 0, on_second.handle, 0) ==
          cudaErrorInvalidResourceHandle);
    expect_violation("another device");
}

TEST_CASE_FIXTURE(fresh, "stand-in: what is not given back is counted") {
    void* p = nullptr;
    void* pinned = nullptr;
    cudaStream_t stream = nullptr;
    cudaEvent_t event = nullptr;
    cublasHandle_t blas = nullptr;
    cusolverDnHandle_t solver = nullptr;
    cusolverDnParams_t params = nullptr;
    gesvdjInfo_t options = nullptr;
    cudaMalloc(&p, 1);
    cudaMallocHost(&pinned, 1);
    cudaStreamCreateWithFlags(&stream, 0);
    cudaEventCreateWithFlags(&event, 0);
    cublasCreate(&blas);
    cusolverDnCreate(&solver);
    cusolverDnCreateParams(&params);
    cusolverDnCreateGesvdjInfo(&options);
    const stand_in::live_objects expected{.streams = 1,
                                          .events = 1,
                                          .pools = 0,
                                          .buffers = 1,
                                          .host_buffers = 1,
                                          .blas = 1,
                                          .solvers = 1,
                                          .params = 1,
                                          .gesvdj_infos = 1,
                                          .syevj_infos = 0};
    CHECK(stand_in::control().live == expected);
    CHECK(!stand_in::quiescent());
    CHECK(contains(stand_in::report(), "1 streams alive"));
    stand_in::reset();
    CHECK(stand_in::quiescent());
    stand_in::enqueue(nullptr, [] {});
    CHECK(!stand_in::quiescent());
    synchronize();
}

}  // namespace
