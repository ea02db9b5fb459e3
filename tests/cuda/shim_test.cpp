// SPDX-License-Identifier: Apache-2.0
// The shim that runs kernels on the CPU: launches, shared memory, barriers, shuffles, atomics.
#include "cuda/stand_in_support.hpp"

namespace {

using namespace stand_in_tests;

// ---- Kernels

TEST_CASE_FIXTURE(fresh, "shim: a launch is work in a stream") {
    const stream_guard stream;
    const device_vector<float> x(vector<float>(100));
    CHECK(isic::cuda::detail::launch(add_one, dim3(4), dim3(32), 0, stream.handle, x.data(), 100L) == cudaSuccess);
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
        return isic::cuda::detail::launch(add_parts, dim3(1), dim3(2), 0, nullptr, parts);
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
        return isic::cuda::detail::launch(divergent_barrier, grid, block, shared_bytes, nullptr, 0);
    };
    CHECK(launch(dim3(1), dim3(1025), 0) == cudaErrorInvalidConfiguration);
    expect_violation("no such grid or block");
    CHECK(launch(dim3(0), dim3(1), 0) == cudaErrorInvalidConfiguration);
    expect_violation("no such grid or block");
    CHECK(launch(dim3(1, 65536), dim3(1), 0) == cudaErrorInvalidConfiguration);
    expect_violation("no such grid or block");
    CHECK(launch(dim3(1), dim3(1), isic::cuda::detail::most_dynamic_shared_memory + 1) == cudaErrorInvalidValue);
    expect_violation("more shared memory than the kernel may have");
    CHECK(launch(dim3(1), dim3(1), 48 * 1024) == cudaSuccess);
    CHECK(stand_in::control().calls["cudaFuncSetAttribute"] == 1);
    CHECK(kernel_shim::launch(divergent_barrier, dim3(1), dim3(1), 100 * 1024, nullptr, 0) == cudaErrorInvalidValue);
    expect_violation("more shared memory than the kernel may have");
    CHECK(launch(dim3(1), dim3(1), isic::cuda::detail::most_dynamic_shared_memory) == cudaSuccess);
    synchronize();
}

TEST_CASE_FIXTURE(fresh, "shim: shared memory, barriers and two dimensions") {
    const int rows = 37;
    const int cols = 21;
    const vector<float> x = random_values<float>(std::size_t(rows * cols));
    const device_vector<float> dx(x);
    const device_vector<float> dy(x.size());
    const dim3 grid((cols + 15) / 16, (rows + 15) / 16);
    CHECK(isic::cuda::detail::launch(transpose<16>, grid, dim3(16, 16), 0, nullptr, dx.data(), dy.data(), rows, cols) ==
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
    CHECK(isic::cuda::detail::launch(sum_of_squares, dim3(1), dim3(256), 8 * sizeof(double), nullptr, dx.data(), 1000,
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
    CHECK(isic::cuda::detail::launch(divergent_barrier, dim3(1), dim3(64), 0, nullptr, 17) == cudaSuccess);
    stand_in::enqueue(nullptr, [&] { ++runs; });
    CHECK(cudaStreamSynchronize(nullptr) == cudaErrorLaunchFailure);
    expect_violation("47 of 64 threads have exited");
    CHECK(runs == 0);
    CHECK(cudaStreamSynchronize(nullptr) == cudaErrorLaunchFailure);
    CHECK(cudaGetLastError() == cudaErrorLaunchFailure);
}

}  // namespace
