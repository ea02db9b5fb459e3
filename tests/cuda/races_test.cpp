// SPDX-License-Identifier: Apache-2.0
// The watch for data races (support/cuda/races.hpp): it sees those planted here, and nothing where they are mended.
#include "support/cuda/kernel_shim.hpp"  // before the kernels

#include <cuda_runtime_api.h>

#include <string>

#include <doctest/doctest.h>
#include <launch.cuh>

#include "support/cuda/races.hpp"
#include "support/cuda/stand_in.hpp"

namespace {

// ---- Kernels, right and wrong

enum class by { nothing, shuffle, warp, barrier };

__device__ void meet(by how) {
    if (how == by::barrier) {
        __syncthreads();
    } else if (how == by::warp) {
        __syncwarp();
    } else if (how == by::shuffle) {
        __shfl_sync(0xffffffffU, 0, 0);
    }
}

/// Every thread reads what another thread of the block has written.
__global__ void read_neighbour(float* out, by how, int distance) {
    __shared__ float values[64];
    const auto me = static_cast<int>(threadIdx.x);
    values[me] = static_cast<float>(me);
    meet(how);
    out[blockIdx.x * 64 + threadIdx.x] = values[(me + distance) % 64];
}

/// Every thread reads what the first thread writes afterwards.
__global__ void write_after_all_read(float* value, by how) {
    const float seen = *value;
    meet(how);
    if (threadIdx.x == 0) {
        *value = seen + 1;
    }
}

/// Lanes of one half of a warp pass a value on to the next lane.
__global__ void sync_half(float* values, unsigned mask) {
    const unsigned me = threadIdx.x;
    if (me < 16) {
        values[me] = 1;
        __syncwarp(mask & 0xffffU);
        values[16 + me] = values[(me + 1) % 16];
    } else if (mask == 0xffff0000U) {
        __syncwarp(mask);
    }
}

/// One block writes what its other threads may still have to read.
__global__ void write_too_early(float* out, unsigned block) {
    __shared__ float value;
    if (threadIdx.x == 0) {
        value = 1;
    }
    __syncthreads();
    out[blockIdx.x * 64 + threadIdx.x] = value;
    if (blockIdx.x != block) {
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        value = 2;
    }
}

template <class T>
__global__ void read_neighbour_of_type(T* out, by how) {
    using block_values = T[64];
    ISIC_SHARED(block_values, values);
    values[threadIdx.x] = T(threadIdx.x);
    meet(how);
    out[blockIdx.x * 64 + threadIdx.x] = values[threadIdx.x ^ 32U];
}

template <class T>
__global__ void keep_in_static(T* out) {
    static T value;
    if (threadIdx.x == 0) {
        value = 1;
    }
    __syncthreads();
    out[threadIdx.x] = value;
}

__global__ void read_dynamic_neighbour(float* out, by how) {
    ISIC_DYN_SHARED(float, values);
    values[threadIdx.x] = 1;
    meet(how);
    out[threadIdx.x] = values[threadIdx.x ^ 32U];
}

__global__ void count(unsigned* counter, bool atomic) {
    if (atomic) {
        atomicAdd(counter, 1U);
    } else {
        ++*counter;
    }
}

__global__ void count_and_read(unsigned* counter, unsigned* out) {
    atomicAdd(counter, 1U);
    out[blockIdx.x] = *counter;
}

/// Block b writes what its threads write, shifted by `overlap` blocks' worth of values.
__global__ void write_rows(unsigned char* out, int width) {
    for (int i = 0; i < width; ++i) {
        out[static_cast<int>(blockIdx.x * 3) + i] = 1;
    }
}

__global__ void copy(const float* from, float* to) {
    to[threadIdx.x] = from[threadIdx.x];
}

// ---- What holds them

struct watched {
    watched() {
        stand_in::reset();
        stand_in::races::take_found();
    }
    ~watched() {
        stand_in::reset();
        stand_in::races::take_found();
    }
    watched(const watched&) = delete;
    watched& operator=(const watched&) = delete;

    template <class T>
    T* memory(std::size_t n) {
        void* p = nullptr;
        REQUIRE(cudaMalloc(&p, n * sizeof(T)) == cudaSuccess);
        REQUIRE(cudaMemsetAsync(p, 0, n * sizeof(T), nullptr) == cudaSuccess);
        REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
        return static_cast<T*>(p);
    }

    cudaStream_t stream() {
        cudaStream_t made = nullptr;
        REQUIRE(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking) == cudaSuccess);
        return made;
    }

    /// What is said of the races that were found; empty if there are none.
    std::string race() {
        REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
        std::string text;
        for (const std::string& found : stand_in::races::take_found()) {
            text += found + "\n";
        }
        return text;
    }
};

template <class... P, class... A>
void run(void (*kernel)(P...), unsigned blocks, unsigned threads, cudaStream_t on, A... args) {
    REQUIRE(isic::cuda::detail::launch(kernel, blocks, threads, 0, on, args...) == cudaSuccess);
}

bool says(const std::string& race, const char* what) {
    return race.find(what) != std::string::npos;
}

}  // namespace

TEST_CASE_FIXTURE(watched, "races: between warps a barrier orders, a __syncwarp does not") {
    float* const out = memory<float>(128);
    run(read_neighbour, 2, 64, nullptr, out, by::nothing, 32);
    CHECK(says(race(), "of two warps with no barrier between, in shared memory"));
    run(read_neighbour, 2, 64, nullptr, out, by::barrier, 32);
    CHECK(race() == "");
}

TEST_CASE_FIXTURE(watched, "races: between lanes a __syncwarp orders, a shuffle does not") {
    float* const out = memory<float>(64);
    run(write_after_all_read, 1, 32, nullptr, out, by::shuffle);
    CHECK(says(race(), "of two lanes with no __syncwarp between, at byte 0 of an allocation of 256"));
    run(write_after_all_read, 1, 32, nullptr, out, by::warp);
    CHECK(race() == "");
}

TEST_CASE_FIXTURE(watched, "races: a __syncwarp of one warp orders nothing in another") {
    float* const out = memory<float>(64);
    run(write_after_all_read, 1, 64, nullptr, out, by::warp);
    CHECK(says(race(), "of two warps"));
    run(write_after_all_read, 1, 64, nullptr, out, by::barrier);
    CHECK(race() == "");
}

TEST_CASE_FIXTURE(watched, "races: a __syncwarp orders the lanes that it names") {
    float* const values = memory<float>(64);
    run(sync_half, 1, 32, nullptr, values, 0xffffU);
    CHECK(race() == "");
    run(sync_half, 1, 32, nullptr, values, 0xffffffffU);
    CHECK(race() == "");
}

TEST_CASE_FIXTURE(watched, "races: dynamic shared memory is watched, and every block has its own") {
    float* const out = memory<float>(64);
    for (const by how : {by::nothing, by::barrier}) {
        REQUIRE(isic::cuda::detail::launch(read_dynamic_neighbour, 1, 64, 64 * sizeof(float), nullptr, out, how) ==
                cudaSuccess);
        CHECK(says(race(), "in shared memory") == (how == by::nothing));
    }
    run(read_neighbour, 2, 64, nullptr, memory<float>(128), by::barrier, 1);
    CHECK(race() == "");
}

TEST_CASE_FIXTURE(watched, "races: shared memory of templates is watched") {
    float* const out = memory<float>(128);
    run(read_neighbour_of_type<float>, 2, 64, nullptr, out, by::nothing);
    CHECK(says(race(), "of two warps with no barrier between, in shared memory"));
    run(read_neighbour_of_type<float>, 2, 64, nullptr, out, by::barrier);
    CHECK(race() == "");
    run(keep_in_static<float>, 1, 64, nullptr, out);
    CHECK(says(race(), "a static variable that is not in shared memory"));
}

TEST_CASE_FIXTURE(watched, "races: shared memory of a later block is watched as that of the first") {
    float* const out = memory<float>(3 * 64);
    for (unsigned block = 0; block < 4; ++block) {
        run(write_too_early, 3, 64, nullptr, out, block);
        CHECK(says(race(), "in shared memory") == (block < 3));
    }
}

TEST_CASE_FIXTURE(watched, "races: blocks are in no order, unless they are atomic") {
    unsigned* const counter = memory<unsigned>(1);
    run(count, 4, 1, nullptr, counter, true);
    CHECK(race() == "");
    run(count, 4, 1, nullptr, counter, false);
    CHECK(says(race(), "of two blocks"));
    run(count_and_read, 2, 1, nullptr, counter, memory<unsigned>(2));
    const std::string mixed = race();
    CHECK(says(mixed, "atomic access"));
    CHECK(says(mixed, "read"));
}

TEST_CASE_FIXTURE(watched, "races: neighbouring bytes are not the same byte") {
    unsigned char* const out = memory<unsigned char>(64);
    run(write_rows, 8, 1, nullptr, out, 3);
    CHECK(race() == "");
    run(write_rows, 8, 1, nullptr, out, 4);
    CHECK(says(race(), "of two blocks"));
}

TEST_CASE_FIXTURE(watched, "races: streams are in no order, unless by an event or a host that waits") {
    float* const a = memory<float>(32);
    float* const b = memory<float>(32);
    float* const c = memory<float>(32);
    const cudaStream_t first = stream();
    const cudaStream_t second = stream();
    cudaEvent_t ready = nullptr;
    REQUIRE(cudaEventCreateWithFlags(&ready, cudaEventDisableTiming) == cudaSuccess);

    run(copy, 1, 32, first, a, b);
    run(copy, 1, 32, second, b, c);
    CHECK(says(race(), "of two tasks that neither streams nor events put in order"));

    run(copy, 1, 32, first, a, b);
    REQUIRE(cudaEventRecord(ready, first) == cudaSuccess);
    REQUIRE(cudaStreamWaitEvent(second, ready, 0) == cudaSuccess);
    run(copy, 1, 32, second, b, c);
    CHECK(race() == "");

    run(copy, 1, 32, first, c, b);
    REQUIRE(cudaStreamSynchronize(first) == cudaSuccess);
    run(copy, 1, 32, second, b, a);
    CHECK(race() == "");

    run(copy, 1, 32, first, a, b);  // reads what the other has written: in order by the host
    CHECK(race() == "");
}

TEST_CASE_FIXTURE(watched, "races: copies, fills and what is given back are accesses too") {
    float* const a = memory<float>(32);
    float* const b = memory<float>(32);
    const cudaStream_t first = stream();
    const cudaStream_t second = stream();
    SUBCASE("copy") {
        run(copy, 1, 32, first, a, b);
        REQUIRE(cudaMemcpyAsync(a, b, 128, cudaMemcpyDeviceToDevice, second) == cudaSuccess);
    }
    SUBCASE("fill") {
        run(copy, 1, 32, first, a, b);
        REQUIRE(cudaMemsetAsync(b, 0, 128, second) == cudaSuccess);
    }
    SUBCASE("free") {
        run(copy, 1, 32, first, a, b);
        REQUIRE(cudaStreamQuery(first) == cudaErrorNotReady);  // has run, and nobody knows
        REQUIRE(cudaFreeAsync(b, second) == cudaSuccess);
    }
    REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
    CHECK_FALSE(stand_in::races::take_found().empty());
}

TEST_CASE_FIXTURE(watched, "races: the places in the source are said") {
    float* const out = memory<float>(128);
    run(read_neighbour, 1, 64, nullptr, out, by::nothing, 33);
    CHECK(says(race(), "races_test.cpp:"));
}
