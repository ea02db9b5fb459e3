// SPDX-License-Identifier: Apache-2.0
/// \file
/// Shared by the tests of the stand-in: a fixture, matrices on host and device, and kernels, right and wrong.
#pragma once

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

namespace stand_in_tests {

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
inline void expect_violation(const std::string& part) {
    auto& found = stand_in::control().violations;
    REQUIRE_MESSAGE(found.size() == 1, stand_in::report());
    CHECK_MESSAGE(found.front().find(part) != std::string::npos, found.front());
    found.clear();
}

inline void fail_call(const std::string& entry_point, stand_in::fault fault) {
    stand_in::control().faults[entry_point] = fault;
}

/// Whether the process would end with a memory access that is not allowed.
inline bool dies(const std::function<void()>& action) {
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

inline void synchronize(cudaStream_t stream = nullptr) {
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

inline std::mt19937& generator() {
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

inline matrix random_matrix(int rows, int cols, int padding = 0) {
    matrix m(rows, cols, rows + padding);
    std::normal_distribution<double> normal;
    for (int j = 0; j < cols; ++j) {
        for (int i = 0; i < rows; ++i) {
            m(i, j) = normal(generator());
        }
    }
    return m;
}

inline matrix transposed(const matrix& a) {
    matrix t(a.cols, a.rows, a.cols);
    for (int j = 0; j < a.cols; ++j) {
        for (int i = 0; i < a.rows; ++i) {
            t(j, i) = a(i, j);
        }
    }
    return t;
}

inline matrix product(const matrix& a, const matrix& b) {
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

inline matrix identity(int n) {
    matrix eye(n, n, n);
    std::ranges::fill(eye.values, 0.0);
    for (int i = 0; i < n; ++i) {
        eye(i, i) = 1;
    }
    return eye;
}

inline double largest_difference(const matrix& a, const matrix& b) {
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

inline bool same(const matrix& a, const matrix& b, double tolerance = 1e-12) {
    return largest_difference(a, b) <= tolerance;
}

inline bool padding_untouched(const matrix& m) {
    for (int j = 0; j < m.cols; ++j) {
        for (int i = m.rows; i < m.ld; ++i) {
            if (m(i, j) != 77) {
                return false;
            }
        }
    }
    return true;
}

inline bool all_nan(const vector<double>& values) {
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

inline constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

// ---- Kernels, right and wrong

__global__ inline void add_one(float* x, int n) {
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

__global__ inline void sum_of_squares(const double* x, int n, double* sum) {
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

__global__ inline void show_shuffles(int* up, int* down, int* across, int* one, int width) {
    const int lane = static_cast<int>(threadIdx.x);
    up[lane] = __shfl_up_sync(0xffffffffu, lane, 3, width);
    down[lane] = __shfl_down_sync(0xffffffffu, lane, 3, width);
    across[lane] = __shfl_xor_sync(0xffffffffu, lane, 5, width);
    one[lane] = __shfl_sync(0xffffffffu, lane, 2, width);
}

__global__ inline void show_votes(unsigned* out) {
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

__global__ inline void halves_on_their_own(int* out) {
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

__global__ inline void use_atomics(unsigned long long* least, int* most, unsigned* count, float* sum) {
    const auto i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    atomicMin(least, static_cast<unsigned long long>(1000 - i));
    atomicMax(most, i);
    atomicAdd(count, 1);
    atomicAdd(sum, 0.5f);
    atomicCAS(most, -5, 1);
}

__global__ inline void who_was_first(int* first) {
    atomicCAS(first, -1, static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x));
}

__global__ inline void read_shared(float* out) {
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

__global__ inline void add_parts(two_parts parts) {
    const int i = static_cast<int>(threadIdx.x);
    if (i < parts.first.size && !parts.swapped) {
        parts.second.data[i] += parts.first.data[i];
    }
}

__global__ inline void divergent_barrier(int n) {
    if (static_cast<int>(threadIdx.x) < n) {
        __syncthreads();
    }
}

__global__ inline void two_barriers() {
    if (threadIdx.x % 2 == 0) {
        __syncthreads();
    } else {
        __syncthreads();
    }
}

__global__ inline void shuffle_with_exited_lanes() {
    if (threadIdx.x >= 16) {
        return;
    }
    __shfl_down_sync(0xffffffffu, 1.0f, 1);
}

__global__ inline void not_in_own_mask() {
    __ballot_sync(0x1u, 1);
}

__global__ inline void reads_outside_mask() {
    if (threadIdx.x < 4) {
        __shfl_sync(0xfu, 1, 9);
    }
}

__global__ inline void masks_differ() {
    __syncwarp(threadIdx.x == 0 ? 0x3u : 0xffffffffu);
}

__global__ inline void different_functions() {
    if (threadIdx.x % 2 == 0) {
        __ballot_sync(0xffffffffu, 1);
    } else {
        __any_sync(0xffffffffu, 1);
    }
}

__global__ inline void reverse(const float* x, float* y, bool with_barrier) {
    __shared__ float all[64];
    all[threadIdx.x] = x[threadIdx.x];
    if (with_barrier) {
        __syncthreads();
    }
    y[threadIdx.x] = all[63 - threadIdx.x];
}

__global__ inline void write_at(float* x, int i) {
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

inline bool contains(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

}  // namespace stand_in_tests
