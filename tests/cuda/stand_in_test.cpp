// The stand-in for CUDA is what the backend's tests rely on: it must see mistakes, and its arithmetic must be right.
#include "support/cuda/kernel_shim.hpp"  // before the kernels

#include <cublas_v2.h>
#include <cuda_runtime_api.h>
#include <cusolverDn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstring>
#include <functional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <launch.cuh>

#include "support/cuda/stand_in.hpp"

namespace {

using std::vector;

/// Begins and ends with nothing alive, and no mistake that the test did not expect.
struct fresh {
    fresh() { stand_in::reset(); }
    ~fresh() {
        CHECK_MESSAGE(stand_in::quiescent(), stand_in::report());
        stand_in::reset();
    }
    fresh(const fresh&) = delete;
    fresh& operator=(const fresh&) = delete;
};

/// Exactly one mistake was found; it is forgotten.
void expect_violation(const std::string& part) {
    auto& found = stand_in::control().violations;
    REQUIRE_MESSAGE(found.size() == 1, stand_in::report());
    CHECK_MESSAGE(found.front().find(part) != std::string::npos, found.front());
    found.clear();
}

void fail_call(const std::string& entry_point, stand_in::fault fault) {
    stand_in::control().faults[entry_point] = fault;
}

/// Whether the process would end with a memory access that is not allowed.
bool dies(const std::function<void()>& action) {
    const pid_t child = fork();
    if (child == 0) {
        std::signal(SIGSEGV, SIG_DFL);
        std::signal(SIGBUS, SIG_DFL);
        action();
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFSIGNALED(status) && (WTERMSIG(status) == SIGSEGV || WTERMSIG(status) == SIGBUS);
}

void synchronize(cudaStream_t stream = nullptr) {
    CHECK(cudaStreamSynchronize(stream) == cudaSuccess);
}

template <class T>
class device_vector {
public:
    explicit device_vector(std::size_t n) : size_(n) {
        void* p = nullptr;
        REQUIRE(cudaMalloc(&p, n * sizeof(T)) == cudaSuccess);
        data_ = static_cast<T*>(p);
    }
    explicit device_vector(const vector<T>& values) : device_vector(values.size()) {
        REQUIRE(cudaMemcpyAsync(data_, values.data(), size_ * sizeof(T), cudaMemcpyHostToDevice, nullptr) ==
                cudaSuccess);
        synchronize();
    }
    ~device_vector() { cudaFree(data_); }
    device_vector(const device_vector&) = delete;
    device_vector& operator=(const device_vector&) = delete;

    T* data() const { return data_; }
    vector<T> values() const {
        vector<T> host(size_);
        CHECK(cudaMemcpyAsync(host.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost, nullptr) == cudaSuccess);
        synchronize();
        return host;
    }

private:
    T* data_ = nullptr;
    std::size_t size_;
};

struct stream_guard {
    explicit stream_guard(unsigned flags = cudaStreamNonBlocking) {
        REQUIRE(cudaStreamCreateWithFlags(&handle, flags) == cudaSuccess);
    }
    ~stream_guard() { cudaStreamDestroy(handle); }
    stream_guard(const stream_guard&) = delete;
    stream_guard& operator=(const stream_guard&) = delete;
    cudaStream_t handle = nullptr;
};

struct event_guard {
    event_guard() { REQUIRE(cudaEventCreateWithFlags(&handle, cudaEventDefault) == cudaSuccess); }
    ~event_guard() { cudaEventDestroy(handle); }
    event_guard(const event_guard&) = delete;
    event_guard& operator=(const event_guard&) = delete;
    cudaEvent_t handle = nullptr;
};

struct blas_guard {
    blas_guard() { REQUIRE(cublasCreate(&handle) == CUBLAS_STATUS_SUCCESS); }
    ~blas_guard() { cublasDestroy(handle); }
    blas_guard(const blas_guard&) = delete;
    blas_guard& operator=(const blas_guard&) = delete;
    cublasHandle_t handle = nullptr;
};

struct solver_guard {
    solver_guard() {
        REQUIRE(cusolverDnCreate(&handle) == CUSOLVER_STATUS_SUCCESS);
        REQUIRE(cusolverDnCreateParams(&params) == CUSOLVER_STATUS_SUCCESS);
        REQUIRE(cusolverDnCreateGesvdjInfo(&svd_options) == CUSOLVER_STATUS_SUCCESS);
        REQUIRE(cusolverDnCreateSyevjInfo(&eigen_options) == CUSOLVER_STATUS_SUCCESS);
    }
    ~solver_guard() {
        cusolverDnDestroySyevjInfo(eigen_options);
        cusolverDnDestroyGesvdjInfo(svd_options);
        cusolverDnDestroyParams(params);
        cusolverDnDestroy(handle);
    }
    solver_guard(const solver_guard&) = delete;
    solver_guard& operator=(const solver_guard&) = delete;
    cusolverDnHandle_t handle = nullptr;
    cusolverDnParams_t params = nullptr;
    gesvdjInfo_t svd_options = nullptr;
    syevjInfo_t eigen_options = nullptr;
};

std::mt19937& generator() {
    static std::mt19937 g(7);
    return g;
}

template <class T = double>
vector<T> random_values(std::size_t n) {
    std::normal_distribution<double> normal;
    vector<T> values(n);
    std::ranges::generate(values, [&] { return static_cast<T>(normal(generator())); });
    return values;
}

/// Column-major, on the host.
struct matrix {
    matrix(int rows_, int cols_, int ld_) : rows(rows_), cols(cols_), ld(ld_), values(std::size_t(ld_) * cols_, 77) {}
    double& operator()(int i, int j) { return values[std::size_t(i) + std::size_t(j) * ld]; }
    double operator()(int i, int j) const { return values[std::size_t(i) + std::size_t(j) * ld]; }

    int rows;
    int cols;
    int ld;
    vector<double> values;  // 77 between the columns
};

matrix random_matrix(int rows, int cols, int padding = 0) {
    matrix m(rows, cols, rows + padding);
    std::normal_distribution<double> normal;
    for (int j = 0; j < cols; ++j) {
        for (int i = 0; i < rows; ++i) {
            m(i, j) = normal(generator());
        }
    }
    return m;
}

matrix transposed(const matrix& a) {
    matrix t(a.cols, a.rows, a.cols);
    for (int j = 0; j < a.cols; ++j) {
        for (int i = 0; i < a.rows; ++i) {
            t(j, i) = a(i, j);
        }
    }
    return t;
}

matrix product(const matrix& a, const matrix& b) {
    matrix c(a.rows, b.cols, a.rows);
    for (int j = 0; j < b.cols; ++j) {
        for (int i = 0; i < a.rows; ++i) {
            c(i, j) = 0;
            for (int k = 0; k < a.cols; ++k) {
                c(i, j) += a(i, k) * b(k, j);
            }
        }
    }
    return c;
}

matrix identity(int n) {
    matrix eye(n, n, n);
    std::ranges::fill(eye.values, 0.0);
    for (int i = 0; i < n; ++i) {
        eye(i, i) = 1;
    }
    return eye;
}

double largest_difference(const matrix& a, const matrix& b) {
    REQUIRE(a.rows == b.rows);
    REQUIRE(a.cols == b.cols);
    double largest = 0;
    for (int j = 0; j < a.cols; ++j) {
        for (int i = 0; i < a.rows; ++i) {
            const double difference = std::abs(a(i, j) - b(i, j));
            largest = difference <= largest ? largest : difference;  // NaN counts
        }
    }
    return largest;
}

bool same(const matrix& a, const matrix& b, double tolerance = 1e-12) {
    return largest_difference(a, b) <= tolerance;
}

bool padding_untouched(const matrix& m) {
    for (int j = 0; j < m.cols; ++j) {
        for (int i = m.rows; i < m.ld; ++i) {
            if (m(i, j) != 77) {
                return false;
            }
        }
    }
    return true;
}

bool all_nan(const vector<double>& values) {
    return std::ranges::all_of(values, [](double x) { return std::isnan(x); });
}

template <class T>
matrix downloaded(const device_vector<T>& from, int rows, int cols, int ld) {
    matrix m(rows, cols, ld);
    std::ranges::copy(from.values(), m.values.begin());
    return m;
}

template <class T>
vector<T> as(const vector<double>& values) {
    return vector<T>(values.begin(), values.end());
}

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

// ---- Kernels, right and wrong

__global__ void add_one(float* x, int n) {
    const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < n) {
        x[i] += 1;
    }
}

template <int Width>
__global__ void __launch_bounds__(256)
    transpose(const float* __restrict__ x, float* __restrict__ y, int rows, int cols) {
    __shared__ float tile[Width][Width + 1];
    const int row = static_cast<int>(blockIdx.y * Width + threadIdx.y);
    const int col = static_cast<int>(blockIdx.x * Width + threadIdx.x);
    if (row < rows && col < cols) {
        tile[threadIdx.y][threadIdx.x] = x[row * cols + col];
    }
    __syncthreads();
    const int to_row = static_cast<int>(blockIdx.x * Width + threadIdx.y);
    const int to_col = static_cast<int>(blockIdx.y * Width + threadIdx.x);
    if (to_row < cols && to_col < rows) {
        y[to_row * rows + to_col] = tile[threadIdx.x][threadIdx.y];
    }
}

__global__ void sum_of_squares(const double* x, int n, double* sum) {
    ISIC_DYN_SHARED(double, partial);
    double mine = 0;
    for (int i = static_cast<int>(threadIdx.x); i < n; i += static_cast<int>(blockDim.x)) {
        mine = fma(x[i], x[i], mine);
    }
#pragma unroll
    for (int step = warpSize / 2; step > 0; step /= 2) {
        mine += __shfl_down_sync(0xffffffffu, mine, static_cast<unsigned>(step));
    }
    if (threadIdx.x % warpSize == 0) {
        partial[threadIdx.x / warpSize] = mine;
    }
    __syncthreads();
    if (threadIdx.x < blockDim.x / warpSize) {
        atomicAdd(sum, partial[threadIdx.x]);
    }
}

__global__ void show_shuffles(int* up, int* down, int* across, int* one, int width) {
    const int lane = static_cast<int>(threadIdx.x);
    up[lane] = __shfl_up_sync(0xffffffffu, lane, 3, width);
    down[lane] = __shfl_down_sync(0xffffffffu, lane, 3, width);
    across[lane] = __shfl_xor_sync(0xffffffffu, lane, 5, width);
    one[lane] = __shfl_sync(0xffffffffu, lane, 2, width);
}

__global__ void show_votes(unsigned* out) {
    const int lane = static_cast<int>(threadIdx.x);
    const unsigned odd = __ballot_sync(0xffffffffu, lane & 1);
    const int any = __any_sync(0xffffffffu, lane == 7);
    const int all = __all_sync(0xffffffffu, lane < 31);
    const int count = __syncthreads_count(lane < 5);
    const int either = __syncthreads_or(lane == 40);
    const int both = __syncthreads_and(lane < 32);
    if (lane == 0) {
        out[0] = odd;
        out[1] = static_cast<unsigned>(any);
        out[2] = static_cast<unsigned>(all);
        out[3] = static_cast<unsigned>(count);
        out[4] = static_cast<unsigned>(either);
        out[5] = static_cast<unsigned>(both);
    }
}

__global__ void halves_on_their_own(int* out) {
    const int lane = static_cast<int>(threadIdx.x);
    const unsigned mask = lane < 16 ? 0x0000ffffu : 0xffff0000u;
    int sum = lane;
    if (lane < 16) {
        for (int step = 8; step > 0; step /= 2) {
            sum += __shfl_xor_sync(mask, sum, step);
        }
    }
    __syncwarp();
    out[lane] = __shfl_sync(mask, sum, lane < 16 ? 0 : 16);
}

__global__ void use_atomics(unsigned long long* least, int* most, unsigned* count, float* sum) {
    const auto i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    atomicMin(least, static_cast<unsigned long long>(1000 - i));
    atomicMax(most, i);
    atomicAdd(count, 1);
    atomicAdd(sum, 0.5f);
    atomicCAS(most, -5, 1);
}

__global__ void who_was_first(int* first) {
    atomicCAS(first, -1, static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x));
}

__global__ void read_shared(float* out) {
    ISIC_DYN_SHARED(float, memory);
    __shared__ float fixed;
    out[0] = memory[0];
    out[1] = fixed;
    memory[0] = 1;
    fixed = 1;
}

struct part {
    float* data;
    int size;
};

struct two_parts {
    part first;
    bool swapped;
    part second;
};

__global__ void add_parts(two_parts parts) {
    const int i = static_cast<int>(threadIdx.x);
    if (i < parts.first.size && !parts.swapped) {
        parts.second.data[i] += parts.first.data[i];
    }
}

__global__ void divergent_barrier(int n) {
    if (static_cast<int>(threadIdx.x) < n) {
        __syncthreads();
    }
}

__global__ void two_barriers() {
    if (threadIdx.x % 2 == 0) {
        __syncthreads();
    } else {
        __syncthreads();
    }
}

__global__ void shuffle_with_exited_lanes() {
    if (threadIdx.x >= 16) {
        return;
    }
    __shfl_down_sync(0xffffffffu, 1.0f, 1);
}

__global__ void not_in_own_mask() {
    __ballot_sync(0x1u, 1);
}

__global__ void reads_outside_mask() {
    if (threadIdx.x < 4) {
        __shfl_sync(0xfu, 1, 9);
    }
}

__global__ void masks_differ() {
    __syncwarp(threadIdx.x == 0 ? 0x3u : 0xffffffffu);
}

__global__ void different_functions() {
    if (threadIdx.x % 2 == 0) {
        __ballot_sync(0xffffffffu, 1);
    } else {
        __any_sync(0xffffffffu, 1);
    }
}

__global__ void reverse(const float* x, float* y, bool with_barrier) {
    __shared__ float all[64];
    all[threadIdx.x] = x[threadIdx.x];
    if (with_barrier) {
        __syncthreads();
    }
    y[threadIdx.x] = all[63 - threadIdx.x];
}

__global__ void write_at(float* x, int i) {
    x[i] = 0;
}

template <class... P, class... A>
void run(void (*kernel)(P...), unsigned blocks, unsigned threads, A... args) {
    kernel_shim::run_grid(dim3(blocks), dim3(threads), 0, [=] { kernel(args...); });
}

/// What a kernel does wrong, if anything.
template <class... P, class... A>
std::string error_of(void (*kernel)(P...), unsigned threads, A... args) {
    try {
        run(kernel, 1, threads, args...);
    } catch (const kernel_shim::kernel_error& e) {
        return e.what();
    }
    return "";
}

bool contains(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

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
        isic::cuda::launch(write_at, dim3(1), dim3(1), 0, nullptr, x.data(), 4);
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
    CHECK(isic::cuda::launch(add_one, dim3(1), dim3(1), 0, nullptr, static_cast<float*>(p), 1) ==
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
    CHECK(isic::cuda::launch(add_one, dim3(1), dim3(1), 0, nullptr, host.data(), 1) == cudaErrorInvalidValue);
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
    CHECK(isic::cuda::launch(divergent_barrier, dim3(1), dim3(1), 0, nullptr, 0) == cudaErrorLaunchFailure);
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
    CHECK(isic::cuda::launch(divergent_barrier, dim3(1), dim3(1), 0, nullptr, 0) == cudaErrorIllegalAddress);
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
    CHECK(isic::cuda::launch(divergent_barrier, dim3(1), dim3(1), 0, nullptr, 0) == cudaErrorInsufficientDriver);
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
    CHECK(isic::cuda::launch(divergent_barrier, dim3(1), dim3(1), 0, on_second.handle, 0) ==
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

// ---- cuBLAS

TEST_CASE_FIXTURE(fresh, "stand-in: sizes and leading dimensions are checked") {
    const blas_guard blas;
    const device_vector<double> a(vector<double>(12));
    const device_vector<double> c(vector<double>(12));
    const double one = 1;
    const auto gemm = [&](int m, int n, int k, int lda, int ldb, int ldc) {
        return cublasDgemm(blas.handle, CUBLAS_OP_N, CUBLAS_OP_N, m, n, k, &one, a.data(), lda, a.data(), ldb, &one,
                           c.data(), ldc);
    };
    CHECK(gemm(4, 3, 3, 4, 4, 4) == CUBLAS_STATUS_SUCCESS);
    CHECK(gemm(4, 3, 3, 3, 4, 4) == CUBLAS_STATUS_INVALID_VALUE);
    expect_violation("leading dimension of A");
    CHECK(gemm(4, 3, 3, 4, 2, 4) == CUBLAS_STATUS_INVALID_VALUE);
    expect_violation("leading dimension of B");
    CHECK(gemm(4, 3, 3, 4, 4, 3) == CUBLAS_STATUS_INVALID_VALUE);
    expect_violation("leading dimension of C");
    CHECK(gemm(4, 3, 3, 4, 4, 5) == CUBLAS_STATUS_EXECUTION_FAILED);
    expect_violation("C needs 112 bytes (4 x 3, leading dimension 5), there are 96");
    CHECK(gemm(-1, 3, 3, 4, 4, 5) == CUBLAS_STATUS_INVALID_VALUE);
    expect_violation("sizes >= 0");
    CHECK(cublasDgemm(blas.handle, CUBLAS_OP_N, CUBLAS_OP_N, 2, 2, 2, &one, c.data(), 2, a.data(), 2, &one,
                      c.data() + 3, 2) == CUBLAS_STATUS_INVALID_VALUE);
    expect_violation("A and C do not overlap");
    CHECK(cublasDgemm(blas.handle, CUBLAS_OP_N, CUBLAS_OP_N, 2, 2, 2, &one, c.data(), 4, a.data(), 2, &one,
                      c.data() + 2, 4) == CUBLAS_STATUS_SUCCESS);
    synchronize();
}

TEST_CASE_FIXTURE(fresh, "stand-in: a workspace of the caller's is used, until the stream is set") {
    const blas_guard blas;
    const double one = 1;
    const device_vector<double> x(vector<double>(4));
    const device_vector<double> workspace(vector<double>(64));
    const auto multiply = [&] {
        return cublasDgemm(blas.handle, CUBLAS_OP_N, CUBLAS_OP_N, 1, 1, 1, &one, x.data(), 1, x.data(), 1, &one,
                           x.data() + 1, 1);
    };
    CHECK(cublasSetWorkspace(blas.handle, workspace.data(), 513) == CUBLAS_STATUS_EXECUTION_FAILED);
    expect_violation("the workspace needs 513 bytes");
    CHECK(cublasSetWorkspace(blas.handle, workspace.data() + 1, 8) == CUBLAS_STATUS_INVALID_VALUE);
    expect_violation("aligned to 256 bytes");
    CHECK(cublasSetWorkspace(blas.handle, workspace.data(), 512) == CUBLAS_STATUS_SUCCESS);
    CHECK(multiply() == CUBLAS_STATUS_SUCCESS);
    CHECK(workspace.values()[63] != 0);
    void* gone = nullptr;
    REQUIRE(cudaMalloc(&gone, 512) == cudaSuccess);
    CHECK(cublasSetWorkspace(blas.handle, gone, 512) == CUBLAS_STATUS_SUCCESS);
    REQUIRE(cudaFree(gone) == cudaSuccess);
    CHECK(multiply() == CUBLAS_STATUS_EXECUTION_FAILED);
    expect_violation("the workspace is not in device memory");
    CHECK(cublasSetStream(blas.handle, nullptr) == CUBLAS_STATUS_SUCCESS);
    CHECK(multiply() == CUBLAS_STATUS_SUCCESS);
    synchronize();
}

template <class T>
matrix device_gemm(cublasHandle_t blas, bool ta, bool tb, double alpha, const matrix& a, const matrix& b, double beta,
                   const matrix& c) {
    const device_vector<T> da(as<T>(a.values));
    const device_vector<T> db(as<T>(b.values));
    const device_vector<T> dc(as<T>(c.values));
    const auto op_a = ta ? CUBLAS_OP_T : CUBLAS_OP_N;
    const auto op_b = tb ? CUBLAS_OP_T : CUBLAS_OP_N;
    const int k = ta ? a.rows : a.cols;
    const T factors[] = {static_cast<T>(alpha), static_cast<T>(beta)};
    cublasStatus_t status = CUBLAS_STATUS_NOT_SUPPORTED;
    if constexpr (std::is_same_v<T, float>) {
        status = cublasSgemm(blas, op_a, op_b, c.rows, c.cols, k, &factors[0], da.data(), a.ld, db.data(), b.ld,
                             &factors[1], dc.data(), c.ld);
    } else {
        status = cublasDgemm(blas, op_a, op_b, c.rows, c.cols, k, &factors[0], da.data(), a.ld, db.data(), b.ld,
                             &factors[1], dc.data(), c.ld);
    }
    CHECK(status == CUBLAS_STATUS_SUCCESS);
    return downloaded(dc, c.rows, c.cols, c.ld);
}

TEST_CASE_FIXTURE(fresh, "stand-in: gemm") {
    const blas_guard blas;
    for (const bool ta : {false, true}) {
        for (const bool tb : {false, true}) {
            for (const double beta : {0.0, 2.0}) {
                CAPTURE(ta);
                CAPTURE(tb);
                CAPTURE(beta);
                const matrix a = ta ? random_matrix(6, 5, 2) : random_matrix(5, 6, 1);
                const matrix b = tb ? random_matrix(4, 6, 3) : random_matrix(6, 4, 2);
                matrix c = random_matrix(5, 4, 1);
                matrix expected = product(ta ? transposed(a) : a, tb ? transposed(b) : b);
                for (int j = 0; j < 4; ++j) {
                    for (int i = 0; i < 5; ++i) {
                        expected(i, j) = 3 * expected(i, j) + beta * c(i, j);
                        c(i, j) = beta == 0 ? nan : c(i, j);  // is not read
                    }
                }
                const matrix found = device_gemm<double>(blas.handle, ta, tb, 3, a, b, beta, c);
                CHECK(same(found, expected));
                CHECK(padding_untouched(found));
                CHECK(same(device_gemm<float>(blas.handle, ta, tb, 3, a, b, beta, c), expected, 1e-4));
            }
        }
    }
}

TEST_CASE_FIXTURE(fresh, "stand-in: TF32 costs accuracy, and only in float") {
    const blas_guard blas;
    const matrix a = random_matrix(8, 8);
    const matrix exact = product(a, a);
    const matrix zero(8, 8, 8);
    const auto error = [&](auto type) {
        return largest_difference(device_gemm<decltype(type)>(blas.handle, false, false, 1, a, a, 0, zero), exact);
    };
    CHECK(error(0.0f) < 1e-5);
    CHECK(cublasSetMathMode(blas.handle, CUBLAS_TF32_TENSOR_OP_MATH) == CUBLAS_STATUS_SUCCESS);
    CHECK(error(0.0f) > 1e-4);
    CHECK(error(0.0f) < 1e-1);
    CHECK(error(0.0) < 1e-12);
}

TEST_CASE_FIXTURE(fresh, "stand-in: syrk writes one triangle") {
    const blas_guard blas;
    const double alpha = 2;
    const double beta = 0;
    for (const bool transpose_a : {false, true}) {
        for (const auto uplo : {CUBLAS_FILL_MODE_LOWER, CUBLAS_FILL_MODE_UPPER}) {
            const matrix a = transpose_a ? random_matrix(7, 4, 1) : random_matrix(4, 7, 2);
            const matrix full = transpose_a ? product(transposed(a), a) : product(a, transposed(a));
            const device_vector<double> da(a.values);
            const device_vector<double> dc(vector<double>(5 * 4, 77));
            CHECK(cublasDsyrk(blas.handle, uplo, transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N, 4, 7, &alpha, da.data(), a.ld,
                              &beta, dc.data(), 5) == CUBLAS_STATUS_SUCCESS);
            const matrix found = downloaded(dc, 4, 4, 5);
            CHECK(padding_untouched(found));
            for (int j = 0; j < 4; ++j) {
                for (int i = 0; i < 4; ++i) {
                    const bool inside = uplo == CUBLAS_FILL_MODE_LOWER ? i >= j : i <= j;
                    CHECK(found(i, j) == doctest::Approx(inside ? 2 * full(i, j) : 77));
                }
            }
        }
    }
}

TEST_CASE_FIXTURE(fresh, "stand-in: products of matrices and vectors") {
    const blas_guard blas;
    const matrix a = random_matrix(5, 3, 2);
    const vector<double> x = random_values(10);
    const vector<double> y = random_values(15);
    const device_vector<double> dx(x);
    const double alpha = 1.5;
    const double beta = -2;
    {
        const device_vector<double> da(a.values);
        const device_vector<double> dy(y);
        CHECK(cublasDgemv(blas.handle, CUBLAS_OP_T, 5, 3, &alpha, da.data(), a.ld, dx.data(), 2, &beta, dy.data(), 3) ==
              CUBLAS_STATUS_SUCCESS);
        const vector<double> found = dy.values();
        for (int j = 0; j < 3; ++j) {
            double expected = beta * y[std::size_t(3 * j)];
            for (int i = 0; i < 5; ++i) {
                expected += alpha * a(i, j) * x[std::size_t(2 * i)];
            }
            CHECK(found[std::size_t(3 * j)] == doctest::Approx(expected));
        }
        CHECK(found[1] == y[1]);
    }
    const matrix s = random_matrix(4, 4, 1);
    const device_vector<double> dy(y);
    const device_vector<double> ds(s.values);
    CHECK(cublasDsyr(blas.handle, CUBLAS_FILL_MODE_UPPER, 4, &alpha, dx.data(), 2, ds.data(), 5) ==
          CUBLAS_STATUS_SUCCESS);
    CHECK(cublasDsyr2(blas.handle, CUBLAS_FILL_MODE_LOWER, 4, &alpha, dx.data(), 2, dy.data(), 1, ds.data(), 5) ==
          CUBLAS_STATUS_SUCCESS);
    CHECK(cublasDger(blas.handle, 4, 4, &beta, dx.data(), 1, dy.data(), 2, ds.data(), 5) == CUBLAS_STATUS_SUCCESS);
    const matrix found = downloaded(ds, 4, 4, 5);
    CHECK(padding_untouched(found));
    for (int j = 0; j < 4; ++j) {
        for (int i = 0; i < 4; ++i) {
            const double xi = x[std::size_t(2 * i)];
            const double xj = x[std::size_t(2 * j)];
            double expected = s(i, j) + beta * x[std::size_t(i)] * y[std::size_t(2 * j)];
            expected += i <= j ? alpha * xi * xj : 0;
            expected += i >= j ? alpha * (xi * y[std::size_t(j)] + y[std::size_t(i)] * xj) : 0;
            CHECK(found(i, j) == doctest::Approx(expected));
        }
    }
}

TEST_CASE_FIXTURE(fresh, "stand-in: vectors, with results on the host and on the device") {
    const blas_guard blas;
    const device_vector<double> x(vector<double>{3, 9, -4, 9});
    const device_vector<double> y(vector<double>{1, 2});
    double result = 0;
    CHECK(cublasDnrm2(blas.handle, 2, x.data(), 2, &result) == CUBLAS_STATUS_SUCCESS);
    CHECK(result == 5);
    CHECK(cublasDasum(blas.handle, 2, x.data(), 2, &result) == CUBLAS_STATUS_SUCCESS);
    CHECK(result == 7);
    CHECK(cublasDdot(blas.handle, 2, x.data(), 2, y.data(), 1, &result) == CUBLAS_STATUS_SUCCESS);
    CHECK(result == -5);
    const double two = 2;
    CHECK(cublasDscal(blas.handle, 2, &two, x.data(), 2) == CUBLAS_STATUS_SUCCESS);
    CHECK(cublasDaxpy(blas.handle, 2, &two, y.data(), 1, x.data(), 2) == CUBLAS_STATUS_SUCCESS);
    CHECK(x.values() == vector<double>{8, 9, -4, 9});
    CHECK(cublasDscal(blas.handle, 3, &two, x.data(), 2) == CUBLAS_STATUS_EXECUTION_FAILED);
    expect_violation("x needs");

    CHECK(cublasSetPointerMode(blas.handle, CUBLAS_POINTER_MODE_DEVICE) == CUBLAS_STATUS_SUCCESS);
    const device_vector<double> factor(vector<double>{0.5});
    CHECK(cublasDscal(blas.handle, 4, factor.data(), x.data(), 1) == CUBLAS_STATUS_SUCCESS);
    CHECK(cublasDasum(blas.handle, 4, x.data(), 1, factor.data()) == CUBLAS_STATUS_SUCCESS);
    CHECK(factor.values() == vector<double>{15});
    CHECK(cublasDscal(blas.handle, 4, &two, x.data(), 1) == CUBLAS_STATUS_EXECUTION_FAILED);
    expect_violation("alpha is not in device memory");
}

// ---- cuSOLVER

struct eigen_found {
    matrix vectors;
    vector<double> values;
    int info;
};

template <class T>
eigen_found device_syevd(const solver_guard& solver, const matrix& a, cublasFillMode_t uplo,
                         cusolverEigMode_t job = CUSOLVER_EIG_MODE_VECTOR) {
    const auto type = std::is_same_v<T, float> ? CUDA_R_32F : CUDA_R_64F;
    const device_vector<T> da(as<T>(a.values));
    const device_vector<T> dw(static_cast<std::size_t>(a.rows));
    const device_vector<int> info(std::size_t(1));
    std::size_t device_bytes = 0;
    std::size_t host_bytes = 0;
    CHECK(cusolverDnXsyevd_bufferSize(solver.handle, solver.params, job, uplo, a.rows, type, da.data(), a.ld, type,
                                      dw.data(), type, &device_bytes, &host_bytes) == CUSOLVER_STATUS_SUCCESS);
    const device_vector<char> work(device_bytes);
    vector<char> host(host_bytes);
    CHECK(cusolverDnXsyevd(solver.handle, solver.params, job, uplo, a.rows, type, da.data(), a.ld, type, dw.data(),
                           type, work.data(), device_bytes, host.data(), host_bytes,
                           info.data()) == CUSOLVER_STATUS_SUCCESS);
    const vector<T> values = dw.values();
    return {downloaded(da, a.rows, a.rows, a.ld), vector<double>(values.begin(), values.end()), info.values()[0]};
}

matrix symmetric(const matrix& a) {
    matrix s = a;
    for (int j = 0; j < a.cols; ++j) {
        for (int i = 0; i < j; ++i) {
            s(i, j) = a(j, i);
        }
    }
    return s;
}

matrix with_triangle_nan(matrix a, bool lower) {
    for (int j = 0; j < a.cols; ++j) {
        for (int i = 0; i < a.rows; ++i) {
            a(i, j) = (lower ? i > j : i < j) ? nan : a(i, j);
        }
    }
    return a;
}

/// v diag(w) v' = a, v' v = 1, w ascending.
void check_eigen(const matrix& a, const eigen_found& found, double tolerance) {
    matrix scaled = found.vectors;
    for (int j = 0; j < a.cols; ++j) {
        for (int i = 0; i < a.rows; ++i) {
            scaled(i, j) *= found.values[std::size_t(j)];
        }
    }
    CHECK(same(product(scaled, transposed(found.vectors)), a, tolerance));
    CHECK(same(product(transposed(found.vectors), found.vectors), identity(a.cols), tolerance));
    CHECK(std::ranges::is_sorted(found.values));
}

TEST_CASE_FIXTURE(fresh, "stand-in: syevd") {
    const solver_guard solver;
    const matrix a = symmetric(random_matrix(12, 12, 3));
    for (const bool lower : {true, false}) {
        const auto uplo = lower ? CUBLAS_FILL_MODE_LOWER : CUBLAS_FILL_MODE_UPPER;
        const matrix given = with_triangle_nan(a, !lower);
        const eigen_found found = device_syevd<double>(solver, given, uplo);
        CHECK(found.info == 0);
        check_eigen(a, found, 1e-12);
        CHECK(padding_untouched(found.vectors));
        check_eigen(a, device_syevd<float>(solver, given, uplo), 1e-5);
    }
    const eigen_found values_only = device_syevd<double>(solver, a, CUBLAS_FILL_MODE_LOWER, CUSOLVER_EIG_MODE_NOVECTOR);
    CHECK(std::isnan(values_only.vectors(3, 2)));  // the matrix is destroyed
    CHECK(padding_untouched(values_only.vectors));
    CHECK(std::ranges::is_sorted(values_only.values));
    CHECK(all_nan(device_syevd<double>(solver, with_triangle_nan(a, true), CUBLAS_FILL_MODE_LOWER).values));
    stand_in::control().info["syevd"] = 3;
    const eigen_found failed = device_syevd<double>(solver, a, CUBLAS_FILL_MODE_LOWER);
    CHECK(failed.info == 3);
    CHECK(all_nan(failed.values));
    CHECK(std::isnan(failed.vectors(0, 0)));
}

TEST_CASE_FIXTURE(fresh, "stand-in: workspaces are checked, and destroyed") {
    const solver_guard solver;
    const auto job = CUSOLVER_EIG_MODE_VECTOR;
    const auto uplo = CUBLAS_FILL_MODE_LOWER;
    const device_vector<double> a(vector<double>{2, 0, 0, 3});
    const device_vector<double> w(std::size_t(2));
    const device_vector<int> info(std::size_t(1));
    std::size_t bytes = 0;
    std::size_t host_bytes = 0;
    REQUIRE(cusolverDnXsyevd_bufferSize(solver.handle, solver.params, job, uplo, 2, CUDA_R_64F, a.data(), 2, CUDA_R_64F,
                                        w.data(), CUDA_R_64F, &bytes, &host_bytes) == CUSOLVER_STATUS_SUCCESS);
    const device_vector<char> work(vector<char>(bytes - 1, 'w'));
    const device_vector<char> enough(vector<char>(bytes, 'w'));
    vector<char> host(host_bytes, 'h');
    const auto solve = [&](const device_vector<char>& buffer, std::size_t size, char* host_buffer,
                           std::size_t host_size) {
        return cusolverDnXsyevd(solver.handle, solver.params, job, uplo, 2, CUDA_R_64F, a.data(), 2, CUDA_R_64F,
                                w.data(), CUDA_R_64F, buffer.data(), size, host_buffer, host_size, info.data());
    };
    CHECK(solve(work, bytes - 1, host.data(), host_bytes) == CUSOLVER_STATUS_INVALID_VALUE);
    expect_violation("the device workspace at least as large as was asked for");
    CHECK(solve(work, bytes, host.data(), host_bytes) == CUSOLVER_STATUS_EXECUTION_FAILED);
    expect_violation("the device workspace needs");
    CHECK(solve(enough, bytes, nullptr, host_bytes) == CUSOLVER_STATUS_INVALID_VALUE);
    expect_violation("a host workspace");
    CHECK(solve(enough, bytes, host.data(), host_bytes - 1) == CUSOLVER_STATUS_INVALID_VALUE);
    expect_violation("a host workspace");
    CHECK(solve(enough, bytes, host.data(), host_bytes) == CUSOLVER_STATUS_SUCCESS);
    CHECK(host.front() == 'h');
    synchronize();
    CHECK(host.front() != 'h');
    CHECK(enough.values().back() != 'w');
    CHECK(cusolverDnDpotrf(solver.handle, uplo, 2, a.data(), 2, a.data(), 0, info.data()) ==
          CUSOLVER_STATUS_INVALID_VALUE);
    expect_violation("the workspace at least as large as was asked for");
}

TEST_CASE_FIXTURE(fresh, "stand-in: syevj, and syevdx for some of the eigenvalues") {
    const solver_guard solver;
    const auto job = CUSOLVER_EIG_MODE_VECTOR;
    const auto uplo = CUBLAS_FILL_MODE_LOWER;
    const matrix a = symmetric(random_matrix(6, 6));
    const eigen_found all = device_syevd<double>(solver, a, uplo);
    const device_vector<double> w(std::size_t(6));
    const device_vector<int> info(std::size_t(1));
    int size = 0;
    int count = 0;
    {
        const device_vector<double> da(a.values);
        CHECK(cusolverDnDsyevj_bufferSize(solver.handle, job, uplo, 6, da.data(), 6, w.data(), &size,
                                          solver.eigen_options) == CUSOLVER_STATUS_SUCCESS);
        const device_vector<double> work(static_cast<std::size_t>(size));
        CHECK(cusolverDnDsyevj(solver.handle, job, uplo, 6, da.data(), 6, w.data(), work.data(), size, info.data(),
                               solver.eigen_options) == CUSOLVER_STATUS_SUCCESS);
        check_eigen(a, {downloaded(da, 6, 6, 6), w.values(), 0}, 1e-12);
    }
    const device_vector<double> da(a.values);
    const auto range = CUSOLVER_EIG_RANGE_I;
    CHECK(cusolverDnDsyevdx_bufferSize(solver.handle, job, range, uplo, 6, da.data(), 6, 0, 0, 5, 6, &count, w.data(),
                                       &size) == CUSOLVER_STATUS_SUCCESS);
    const device_vector<double> work(static_cast<std::size_t>(size));
    CHECK(cusolverDnDsyevdx(solver.handle, job, range, uplo, 6, da.data(), 6, 0, 0, 5, 7, &count, w.data(), work.data(),
                            size, info.data()) == CUSOLVER_STATUS_INVALID_VALUE);
    expect_violation("eigenvalues that exist");
    CHECK(cusolverDnDsyevdx(solver.handle, job, range, uplo, 6, da.data(), 6, 0, 0, 5, 6, &count, w.data(), work.data(),
                            size, info.data()) == CUSOLVER_STATUS_SUCCESS);
    CHECK(count == 2);
    const vector<double> values = w.values();
    const matrix vectors = downloaded(da, 6, 6, 6);
    CHECK(values[0] == doctest::Approx(all.values[4]));
    CHECK(values[1] == doctest::Approx(all.values[5]));
    CHECK(std::isnan(values[2]));
    CHECK(std::abs(vectors(0, 1)) == doctest::Approx(std::abs(all.vectors(0, 5))));
    CHECK(std::isnan(vectors(0, 2)));
}

void check_gesvdj(const solver_guard& solver, const matrix& a, bool economic) {
    CAPTURE(a.rows);
    CAPTURE(a.cols);
    CAPTURE(economic);
    const int m = a.rows;
    const int n = a.cols;
    const int k = std::min(m, n);
    const int u_cols = economic ? k : m;
    const int v_cols = economic ? k : n;
    const auto job = CUSOLVER_EIG_MODE_VECTOR;
    const device_vector<double> da(a.values);
    const device_vector<double> ds(static_cast<std::size_t>(k));
    const device_vector<double> du(vector<double>(std::size_t(m + 1) * u_cols, 77));
    const device_vector<double> dv(vector<double>(std::size_t(n + 2) * v_cols, 77));
    const device_vector<int> info(std::size_t(1));
    int size = 0;
    CHECK(cusolverDnDgesvdj_bufferSize(solver.handle, job, economic, m, n, da.data(), a.ld, ds.data(), du.data(), m + 1,
                                       dv.data(), n + 2, &size, solver.svd_options) == CUSOLVER_STATUS_SUCCESS);
    const device_vector<double> work(static_cast<std::size_t>(size));
    CHECK(cusolverDnDgesvdj(solver.handle, job, economic, m, n, da.data(), a.ld, ds.data(), du.data(), m + 1, dv.data(),
                            n + 2, work.data(), size, info.data(), solver.svd_options) == CUSOLVER_STATUS_SUCCESS);
    const matrix u = downloaded(du, m, u_cols, m + 1);
    const matrix v = downloaded(dv, n, v_cols, n + 2);
    const vector<double> s = ds.values();
    CHECK(info.values()[0] == 0);
    CHECK(padding_untouched(u));
    CHECK(padding_untouched(v));
    CHECK(same(product(transposed(u), u), identity(u_cols)));
    CHECK(same(product(transposed(v), v), identity(v_cols)));
    CHECK(std::ranges::is_sorted(s, std::greater<>()));
    matrix middle(u_cols, v_cols, u_cols);
    std::ranges::fill(middle.values, 0.0);
    for (int i = 0; i < k; ++i) {
        middle(i, i) = s[std::size_t(i)];
    }
    CHECK(same(product(product(u, middle), transposed(v)), a));
    CHECK(std::isnan(downloaded(da, m, n, a.ld)(0, 0)));
}

TEST_CASE_FIXTURE(fresh, "stand-in: gesvdj") {
    const solver_guard solver;
    matrix deficient = random_matrix(7, 5, 1);
    for (int i = 0; i < 7; ++i) {
        deficient(i, 3) = 0;
        deficient(i, 4) = deficient(i, 0);
    }
    for (const bool economic : {true, false}) {
        check_gesvdj(solver, random_matrix(9, 4, 2), economic);
        check_gesvdj(solver, random_matrix(4, 9), economic);
        check_gesvdj(solver, random_matrix(6, 6), economic);
        check_gesvdj(solver, deficient, economic);
    }
}

TEST_CASE_FIXTURE(fresh, "stand-in: geqrf and orgqr") {
    const solver_guard solver;
    const matrix a = random_matrix(8, 5, 2);
    const device_vector<double> da(a.values);
    const device_vector<double> tau(std::size_t(5));
    const device_vector<int> info(std::size_t(1));
    int size = 0;
    CHECK(cusolverDnDgeqrf_bufferSize(solver.handle, 8, 5, da.data(), a.ld, &size) == CUSOLVER_STATUS_SUCCESS);
    const device_vector<double> work(static_cast<std::size_t>(size));
    CHECK(cusolverDnDgeqrf(solver.handle, 8, 5, da.data(), a.ld, tau.data(), work.data(), size, info.data()) ==
          CUSOLVER_STATUS_SUCCESS);
    matrix r(5, 5, 5);
    const matrix factored = downloaded(da, 8, 5, a.ld);
    for (int j = 0; j < 5; ++j) {
        for (int i = 0; i < 5; ++i) {
            r(i, j) = i <= j ? factored(i, j) : 0;
        }
    }
    CHECK(cusolverDnDorgqr_bufferSize(solver.handle, 8, 5, 5, da.data(), a.ld, tau.data(), &size) ==
          CUSOLVER_STATUS_SUCCESS);
    const device_vector<double> more_work(static_cast<std::size_t>(size));
    CHECK(cusolverDnDorgqr(solver.handle, 8, 5, 6, da.data(), a.ld, tau.data(), more_work.data(), size, info.data()) ==
          CUSOLVER_STATUS_INVALID_VALUE);
    expect_violation("k <= n <= m");
    CHECK(cusolverDnDorgqr(solver.handle, 8, 5, 5, da.data(), a.ld, tau.data(), more_work.data(), size, info.data()) ==
          CUSOLVER_STATUS_SUCCESS);
    const matrix q = downloaded(da, 8, 5, a.ld);
    CHECK(padding_untouched(q));
    CHECK(same(product(transposed(q), q), identity(5)));
    CHECK(same(product(q, r), a));
}

TEST_CASE_FIXTURE(fresh, "stand-in: potrf and potrs") {
    const solver_guard solver;
    const matrix x = random_matrix(6, 9);
    const matrix a = product(x, transposed(x));
    const matrix b = random_matrix(6, 2, 1);
    for (const bool lower : {true, false}) {
        const auto uplo = lower ? CUBLAS_FILL_MODE_LOWER : CUBLAS_FILL_MODE_UPPER;
        const matrix given = with_triangle_nan(a, !lower);
        const device_vector<double> da(given.values);
        const device_vector<double> db(b.values);
        const device_vector<int> info(std::size_t(1));
        int size = 0;
        CHECK(cusolverDnDpotrf_bufferSize(solver.handle, uplo, 6, da.data(), 6, &size) == CUSOLVER_STATUS_SUCCESS);
        const device_vector<double> work(static_cast<std::size_t>(size));
        CHECK(cusolverDnDpotrf(solver.handle, uplo, 6, da.data(), 6, work.data(), size, info.data()) ==
              CUSOLVER_STATUS_SUCCESS);
        CHECK(info.values()[0] == 0);
        CHECK(cusolverDnDpotrs(solver.handle, uplo, 6, 2, da.data(), 6, db.data(), b.ld, info.data()) ==
              CUSOLVER_STATUS_SUCCESS);
        const matrix solution = downloaded(db, 6, 2, b.ld);
        CHECK(padding_untouched(solution));
        CHECK(same(product(a, solution), b, 1e-10));
        CHECK(std::isnan(lower ? downloaded(da, 6, 6, 6)(0, 5) : downloaded(da, 6, 6, 6)(5, 0)));  // was not touched

        const device_vector<double> indefinite(vector<double>{1, 2, 2, 1});
        CHECK(cusolverDnDpotrf(solver.handle, uplo, 2, indefinite.data(), 2, work.data(), size, info.data()) ==
              CUSOLVER_STATUS_SUCCESS);
        CHECK(info.values()[0] == 2);
    }
}

// ---- Kernels

TEST_CASE_FIXTURE(fresh, "shim: a launch is work in a stream") {
    const stream_guard stream;
    const device_vector<float> x(vector<float>(100));
    CHECK(isic::cuda::launch(add_one, dim3(4), dim3(32), 0, stream.handle, x.data(), 100L) == cudaSuccess);
    CHECK(x.values() == vector<float>(100, 0));
    synchronize(stream.handle);
    CHECK(x.values() == vector<float>(100, 1));
}

TEST_CASE_FIXTURE(fresh, "shim: pointers inside of structs are checked as well") {
    const device_vector<float> x(vector<float>{1, 2});
    const device_vector<float> y(vector<float>{10, 20});
    vector<float> host(2);
    const auto launch = [](float* from, float* to) {
        const two_parts parts{{from, 2}, false, {to, 2}};
        return isic::cuda::launch(add_parts, dim3(1), dim3(2), 0, nullptr, parts);
    };
    CHECK(launch(x.data(), y.data()) == cudaSuccess);
    CHECK(y.values() == vector<float>{11, 22});
    CHECK(launch(x.data(), host.data()) == cudaErrorInvalidValue);
    expect_violation("a pointer given to the kernel is not in device memory");
    CHECK(launch(host.data(), nullptr) == cudaErrorInvalidValue);
    expect_violation("a pointer given to the kernel is not in device memory");
}

TEST_CASE_FIXTURE(fresh, "shim: what cannot be launched") {
    const auto launch = [](dim3 grid, dim3 block, std::size_t shared_bytes) {
        return isic::cuda::launch(divergent_barrier, grid, block, shared_bytes, nullptr, 0);
    };
    CHECK(launch(dim3(1), dim3(1025), 0) == cudaErrorInvalidConfiguration);
    expect_violation("no such grid or block");
    CHECK(launch(dim3(0), dim3(1), 0) == cudaErrorInvalidConfiguration);
    expect_violation("no such grid or block");
    CHECK(launch(dim3(1, 65536), dim3(1), 0) == cudaErrorInvalidConfiguration);
    expect_violation("no such grid or block");
    CHECK(launch(dim3(1), dim3(1), isic::cuda::most_dynamic_shared_memory + 1) == cudaErrorInvalidValue);
    expect_violation("more shared memory than the kernel may have");
    CHECK(launch(dim3(1), dim3(1), 48 * 1024) == cudaSuccess);
    CHECK(stand_in::control().calls["cudaFuncSetAttribute"] == 1);
    CHECK(kernel_shim::launch(divergent_barrier, dim3(1), dim3(1), 100 * 1024, nullptr, 0) == cudaErrorInvalidValue);
    expect_violation("more shared memory than the kernel may have");
    CHECK(launch(dim3(1), dim3(1), isic::cuda::most_dynamic_shared_memory) == cudaSuccess);
    synchronize();
}

TEST_CASE_FIXTURE(fresh, "shim: shared memory, barriers and two dimensions") {
    const int rows = 37;
    const int cols = 21;
    const vector<float> x = random_values<float>(std::size_t(rows * cols));
    const device_vector<float> dx(x);
    const device_vector<float> dy(x.size());
    const dim3 grid((cols + 15) / 16, (rows + 15) / 16);
    CHECK(isic::cuda::launch(transpose<16>, grid, dim3(16, 16), 0, nullptr, dx.data(), dy.data(), rows, cols) ==
          cudaSuccess);
    const vector<float> y = dy.values();
    int wrong = 0;
    for (int i = 0; i < rows; ++i) {
        for (int j = 0; j < cols; ++j) {
            wrong += x[std::size_t(i * cols + j)] != y[std::size_t(j * rows + i)] ? 1 : 0;
        }
    }
    CHECK(wrong == 0);
}

TEST_CASE_FIXTURE(fresh, "shim: shuffles of double, dynamic shared memory and atomics") {
    const vector<double> x = random_values(1000);
    double expected = 0;
    for (const double v : x) {
        expected += v * v;
    }
    const device_vector<double> dx(x);
    const device_vector<double> sum(vector<double>(1));
    CHECK(isic::cuda::launch(sum_of_squares, dim3(1), dim3(256), 8 * sizeof(double), nullptr, dx.data(), 1000,
                             sum.data()) == cudaSuccess);
    CHECK(sum.values()[0] == doctest::Approx(expected).epsilon(1e-13));
}

TEST_CASE("shim: shuffles") {
    for (const int width : {32, 8}) {
        int up[32];
        int down[32];
        int across[32];
        int one[32];
        run(show_shuffles, 1, 32, up, down, across, one, width);
        for (int lane = 0; lane < 32; ++lane) {
            const int first = lane / width * width;
            CHECK(up[lane] == (lane - 3 >= first ? lane - 3 : lane));
            CHECK(down[lane] == (lane + 3 < first + width ? lane + 3 : lane));
            CHECK(across[lane] == (lane ^ 5));
            CHECK(one[lane] == first + 2);
        }
    }
}

TEST_CASE("shim: votes and counting barriers") {
    unsigned out[6];
    run(show_votes, 1, 64, static_cast<unsigned*>(out));
    CHECK(out[0] == 0xaaaaaaaau);
    CHECK(out[1] == 1);
    CHECK(out[2] == 0);
    CHECK(out[3] == 5);
    CHECK(out[4] == 1);
    CHECK(out[5] == 0);
}

TEST_CASE("shim: parts of a warp on their own") {
    int out[32];
    run(halves_on_their_own, 1, 32, static_cast<int*>(out));
    CHECK(out[3] == 120);
    CHECK(out[20] == 16);
}

TEST_CASE("shim: atomics") {
    unsigned long long least = 5000;
    int most = -5;
    unsigned count = 0;
    float sum = 0;
    run(use_atomics, 3, 100, &least, &most, &count, &sum);
    CHECK(least == 701);
    CHECK(most == 299);
    CHECK(count == 300);
    CHECK(sum == 150);
}

TEST_CASE("shim: threads and blocks run in a random order that a seed decides") {
    std::set<int> seen;
    for (unsigned seed = 0; seed < 10; ++seed) {
        int first = -1;
        int again = -1;
        kernel_shim::seed(seed);
        run(who_was_first, 8, 64, &first);
        kernel_shim::seed(seed);
        run(who_was_first, 8, 64, &again);
        CHECK(first == again);
        seen.insert(first);
    }
    CHECK(seen.size() > 5);
}

TEST_CASE("shim: what a device leaves undefined is an error") {
    CHECK(error_of(divergent_barrier, 64, 64) == "");
    CHECK(contains(error_of(divergent_barrier, 64, 17), "47 of 64 threads have exited"));
    CHECK(contains(error_of(two_barriers, 64), "different barriers"));
    CHECK(contains(error_of(shuffle_with_exited_lanes, 32), "have exited, wait elsewhere"));
    CHECK(contains(error_of(not_in_own_mask, 32), "not in its own mask"));
    CHECK(contains(error_of(reads_outside_mask, 32), "reads lane 9"));
    CHECK(contains(error_of(masks_differ, 32), "gave another mask"));
    CHECK(contains(error_of(different_functions, 32), "different places"));
    CHECK(contains(error_of(different_functions, 16), "lanes that the block does not have"));
}

TEST_CASE("shim: a missing barrier shows as wrong results") {
    const vector<float> x = random_values<float>(64);
    for (const bool with_barrier : {true, false}) {
        int wrong = 0;
        for (int repeat = 0; repeat < 10; ++repeat) {
            vector<float> y(64);
            run(reverse, 1, 64, x.data(), y.data(), with_barrier);
            for (std::size_t i = 0; i < 64; ++i) {
                wrong += y[i] != x[63 - i] ? 1 : 0;
            }
        }
        CHECK((wrong == 0) == with_barrier);
    }
}

TEST_CASE_FIXTURE(fresh, "shim: a kernel that goes wrong fails the next synchronisation, and everything after it") {
    int runs = 0;
    CHECK(isic::cuda::launch(divergent_barrier, dim3(1), dim3(64), 0, nullptr, 17) == cudaSuccess);
    stand_in::enqueue(nullptr, [&] { ++runs; });
    CHECK(cudaStreamSynchronize(nullptr) == cudaErrorLaunchFailure);
    expect_violation("47 of 64 threads have exited");
    CHECK(runs == 0);
    CHECK(cudaStreamSynchronize(nullptr) == cudaErrorLaunchFailure);
    CHECK(cudaGetLastError() == cudaErrorLaunchFailure);
}

}  // namespace
