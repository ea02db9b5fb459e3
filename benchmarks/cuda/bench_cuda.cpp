// SPDX-License-Identifier: Apache-2.0
// Times the CUDA backend; one JSON object a line, as peers.py, whose cases and names these are.
//
// ms is the median of CUDA events after warming up. fused::project_out, fused::adam_update and code_index are the inner loops, which are only
// queued; the other lines are calls with all that they check, measure and keep.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <isic/cuda/codebook.hpp>
#include <isic/cuda/fused.hpp>
#include <isic/cuda/metrics.hpp>
#include <isic/cuda/projection.hpp>
#include <isic/cuda/subspace.hpp>
#include <isic/cuda/update.hpp>

namespace {

using isic::index_t;

void require(cudaError_t status) {
    if (status != cudaSuccess) {
        fmt::print(stderr, "{}: {}\n", cudaGetErrorName(status), cudaGetErrorString(status));
        std::exit(1);
    }
}

/// Milliseconds on the stream.
float once(cudaStream_t stream, const std::function<void()>& work) {
    cudaEvent_t start = nullptr;
    cudaEvent_t end = nullptr;
    require(cudaEventCreate(&start));
    require(cudaEventCreate(&end));
    require(cudaEventRecord(start, stream));
    work();
    require(cudaEventRecord(end, stream));
    require(cudaEventSynchronize(end));
    float ms = 0;
    require(cudaEventElapsedTime(&ms, start, end));
    require(cudaEventDestroy(start));
    require(cudaEventDestroy(end));
    return ms;
}

/// `before` is not timed.
float median(cudaStream_t stream, const std::function<void()>& work, const std::function<void()>& before = [] {}) {
    before();
    work();
    before();
    const float first = once(stream, work);
    const int runs = std::clamp(static_cast<int>(500.0F / std::max(first, 1e-3F)), 5, 100);
    std::vector<float> ms;
    for (int i = 0; i < runs; ++i) {
        before();
        ms.push_back(once(stream, work));
    }
    std::nth_element(ms.begin(), ms.begin() + runs / 2, ms.end());
    return ms[static_cast<std::size_t>(runs / 2)];
}

void emit(const std::string& name, const std::string& by, float ms, const std::string& more = "") {
    fmt::print("{{\"case\": \"{}\", \"name\": \"{}\", \"ms\": {:.6g}{}}}\n", name, by, ms, more);
    std::fflush(stdout);
}

/// Values in [-1, 1), the same on every machine.
isic::matrix<float> values(index_t rows, index_t cols, std::uint64_t seed) {
    isic::matrix<float> out(rows, cols);
    for (index_t i = 0; i < rows * cols; ++i) {
        out.data()[i] = static_cast<float>(isic::detail::symmetric_uniform(seed, static_cast<std::uint64_t>(i)));
    }
    return out;
}

isic::subspace directions(index_t d, index_t rank) {
    return isic::span_of(values(d, rank, 99));
}

class bench {
public:
    void project(index_t K, index_t d, index_t rank) {
        const std::string name = fmt::format("project in place {}x{} rank {}", K, d, rank);
        const isic::subspace harm = directions(d, rank);
        const isic::fused::device_basis<float> basis(gpu_, harm);
        const auto original = isic::upload(gpu_, values(K, d, 0));
        auto codes = isic::upload(gpu_, values(K, d, 0));
        const auto restore = [&] {  // the copy also moves the codes out of the cache
            const auto bytes = static_cast<std::size_t>(K * d) * sizeof(float);
            isic::cuda::detail::copy_on_device(*gpu_.shared_state(), codes.data(), bytes, original.data(), bytes, bytes,
                                               1);
        };
        const float formula = median(stream(), [&] { isic::fused::project_out(gpu_, codes, basis); }, restore);
        emit(name, "isic fused::project_out", formula,
             fmt::format(", \"leakage\": {:.3g}, \"rate\": \"{:.2f} TB/s\"", isic::leakage(gpu_, codes, harm).total,
                         8.0 * static_cast<double>(K * d) / formula / 1e9));
        emit(name, "isic project_out", median(stream(), [&] { isic::project_out(gpu_, codes, harm); }, restore));
    }

    void gram(index_t n, index_t d) {
        const auto rows = isic::upload(gpu_, values(n, d, 1));
        emit(fmt::format("gram {}x{}", n, d), "isic float64 chunks", median(stream(), [&] {
                 isic::device_accumulator sums(gpu_, d);
                 sums.add_rows(rows, rows_of_zeros(n, d));
             }));
    }

    void top(index_t d, index_t rank) {
        isic::matrix<float> decaying = values(4 * d, d, 2);
        for (index_t i = 0; i < 4 * d; ++i) {
            for (index_t j = 0; j < d; ++j) {
                decaying(i, j) *= std::pow(0.99F, static_cast<float>(j));
            }
        }
        const auto rows = isic::upload(gpu_, decaying);
        isic::device_accumulator sums(gpu_, d);
        sums.add_rows(rows, rows_of_zeros(4 * d, d));
        for (const auto solver : {isic::eigen_solver::syevd, isic::eigen_solver::randomised}) {
            isic::device_fit found;
            const float ms = median(
                stream(), [&] { found = isic::fit_subspace(sums, {.rank = {.fixed = rank}, .solver = solver}); });
            emit(fmt::format("top {} of {}", rank, d),
                 fmt::format("isic {}, done by {}", isic::to_string(solver), isic::to_string(found.solver)), ms);
        }
    }

    void nearest(index_t n, index_t K, index_t d) {
        const std::string name = fmt::format("nearest {}x{} width {}", n, K, d);
        const auto queries = isic::upload(gpu_, values(n, d, 3));
        const auto codes = isic::upload(gpu_, values(K, d, 4));
        const isic::device_code_index index(gpu_, codes);
        emit(name, "isic code_index", median(stream(), [&] { static_cast<void>(index.nearest(queries)); }));
        emit(name, "isic nearest_codes",
             median(stream(), [&] { static_cast<void>(isic::nearest_codes(gpu_, queries, codes)); }));
    }

    void adam(index_t K, index_t d, index_t rank) {
        const std::string name = fmt::format("adam {}x{} rank {}", K, d, rank);
        const double bytes =
            28.0 * static_cast<double>(K * d);  // codes, mean and square read and written, gradient read
        const isic::subspace harm = directions(d, rank);
        auto codes = isic::upload(gpu_, values(K, d, 5));
        const auto gradient = isic::upload(gpu_, values(K, d, 6));
        const auto timed = [&](const std::string& by, const std::function<void()>& step) {
            const float ms = median(stream(), step);
            emit(name, by, ms, fmt::format(", \"rate\": \"{:.2f} TB/s\"", bytes / ms / 1e9));
        };
        const isic::fused::device_basis<float> basis(gpu_, harm);
        isic::device_adam_state<float> state;
        timed("isic fused adam_update",
              [&] { isic::fused::adam_update(gpu_, codes, gradient, state, {}, {.orthogonal_to = basis}); });
        isic::constraint limits;
        limits.orthogonal_to = harm;
        const isic::device_constraint fence(gpu_, limits, K, d);
        isic::device_adam_state<float> checked;
        timed("isic adam_update, float32 state", [&] { isic::adam_update(gpu_, codes, gradient, checked, {}, fence); });
    }

private:
    cudaStream_t stream() const { return static_cast<cudaStream_t>(gpu_.stream()); }

    /// Safe rows that are all zero: differences are the rows themselves.
    isic::device_span<const float> rows_of_zeros(index_t n, index_t d) {
        if (zeros_.rows() != n || zeros_.cols() != d) {
            zeros_ = isic::upload(gpu_, isic::matrix<float>(n, d));
        }
        return zeros_.view();
    }

    isic::cuda_backend gpu_;
    isic::device_matrix<float> zeros_;
};

}  // namespace

int main() {
    if (!isic::cuda::available()) {
        fmt::print(stderr, "no GPU: {}\n", isic::cuda::unavailable_reason());
        return 77;
    }
    bench b;
    b.project(262144, 256, 16);
    b.project(16384, 8, 4);
    b.gram(1'000'000, 1024);
    b.top(1024, 32);
    b.nearest(65536, 16384, 8);
    b.nearest(65536, 16384, 256);
    b.adam(262144, 256, 16);
    b.adam(16384, 8, 4);
}
