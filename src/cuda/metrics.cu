// SPDX-License-Identifier: Apache-2.0
// Leakage, drift and churn: partial sums in a fixed order, so that every run gives the same results.
#include "metrics_kernels.hpp"
#include "warp.cuh"

namespace isic::inline ISIC_ABI::cuda::detail {
namespace {

constexpr int warps_per_partial = 8;
static_assert(rows_per_partial % warps_per_partial == 0);

index_t partials(index_t rows) {
    return (rows + rows_per_partial - 1) / rows_per_partial;
}

/// The warps of a block share the rows of a part: each warp sums its rows, the first thread sums the warps.
template <class Part, class Row, class Join>
__device__ void reduce_rows(index_t rows, Part* parts, Row row_of, Join join) {
    using warp_sums = Part[warps_per_partial];
    ISIC_SHARED(warp_sums, sums);
    const int warp = static_cast<int>(threadIdx.x) / warp_lanes;
    const index_t first = static_cast<index_t>(blockIdx.x) * rows_per_partial;
    Part mine{};
    for (index_t k = first + warp; k < first + rows_per_partial && k < rows; k += warps_per_partial) {
        join(mine, row_of(k));
    }
    if (lane() == 0) {
        sums[warp] = mine;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        Part all{};
        for (int w = 0; w < warps_per_partial; ++w) {
            join(all, sums[w]);
        }
        parts[blockIdx.x] = all;
    }
}

__device__ double row_square(const any_device_view& m, index_t k) {
    double square = 0;
    for (index_t c = lane(); c < m.cols; c += warp_lanes) {
        square += value_at(m, k, c) * value_at(m, k, c);
    }
    return warp_sum(square);
}

__device__ leakage_part row_leakage(const any_device_view& codes, const basis_view<double>& basis, const double* center,
                                    bool normalise, index_t k) {
    const double square = normalise ? row_square(codes, k) : 1.0;
    const double scale = square > 0 ? sqrt(square) : 1.0;
    const auto at = [&](index_t c) {
        const double x = value_at(codes, k, c);
        return (normalise ? x / scale : x) -
               (center == nullptr ? 0.0 : center[c]);  // the division is the most expensive operation
    };
    double all = 0;
    for (index_t c = lane(); c < codes.cols; c += warp_lanes) {
        all += at(c) * at(c);
    }
    all = warp_sum(all);
    double inside = 0;
    for (index_t j = 0; j < basis.rank; ++j) {
        double part = 0;
        for (index_t c = lane(); c < codes.cols; c += warp_lanes) {
            part += at(c) * basis.data[j * basis.width + c];
        }
        part = warp_sum(part);
        inside += part * part;
    }
    return {inside, all, all > 0 ? inside / all : 0.0};
}

__global__ void leakage_kernel(any_device_view codes, basis_view<double> basis, const double* center,
                               const std::uint8_t* padding, bool normalise, leakage_part* parts) {
    reduce_rows(
        codes.rows, parts,
        [&](index_t k) {
            return padding != nullptr && padding[k] != 0 ? leakage_part{}
                                                         : row_leakage(codes, basis, center, normalise, k);
        },
        [](leakage_part& sum, const leakage_part& x) {
            sum.inside += x.inside;
            sum.all += x.all;
            sum.largest = x.largest > sum.largest ? x.largest : sum.largest;
        });
}

__device__ drift_part row_drift(const any_device_view& before, const any_device_view& after, index_t k) {
    double change = 0;
    for (index_t c = lane(); c < before.cols; c += warp_lanes) {
        const double step = value_at(after, k, c) - value_at(before, k, c);
        change += step * step;
    }
    change = warp_sum(change);
    return {change, row_square(before, k), sqrt(change), sqrt(change), change > 0 ? 1.0 : 0.0};
}

__global__ void drift_kernel(any_device_view before, any_device_view after, const std::uint8_t* padding,
                             drift_part* parts) {
    reduce_rows(
        before.rows, parts,
        [&](index_t k) { return padding != nullptr && padding[k] != 0 ? drift_part{} : row_drift(before, after, k); },
        [](drift_part& sum, const drift_part& x) {
            sum.change += x.change;
            sum.whole += x.whole;
            sum.distance += x.distance;
            sum.largest = x.largest > sum.largest ? x.largest : sum.largest;
            sum.moved += x.moved;
        });
}

__global__ void count_differing_kernel(const std::int64_t* a, const std::int64_t* b, index_t n,
                                       unsigned long long* differing) {
    const index_t i = thread_number();
    if (i < n && a[i] != b[i]) {
        atomicAdd(differing, 1ULL);
    }
}

__global__ void norms_kernel(any_device_view m, double* norms) {
    const index_t k = warp_row();
    if (k >= m.rows) {
        return;
    }
    const double square = row_square(m, k);
    if (lane() == 0) {
        norms[k] = sqrt(square);
    }
}

}  // namespace

cudaError_t measure_norms(any_device_view m, double* norms, cudaStream_t stream) {
    const row_launch l = launch_for_rows(m.rows, 0);
    return launch(norms_kernel, l.grid, l.block, 0, stream, m, norms);
}

cudaError_t measure_leakage(any_device_view codes, basis_view<double> basis, const double* center,
                            const std::uint8_t* padding, bool normalise, leakage_part* parts, cudaStream_t stream) {
    return launch(leakage_kernel, dim3(static_cast<unsigned>(partials(codes.rows))),
                  dim3(warps_per_partial * warp_lanes), 0, stream, codes, basis, center, padding, normalise, parts);
}

cudaError_t measure_drift(any_device_view before, any_device_view after, const std::uint8_t* padding, drift_part* parts,
                          cudaStream_t stream) {
    return launch(drift_kernel, dim3(static_cast<unsigned>(partials(before.rows))),
                  dim3(warps_per_partial * warp_lanes), 0, stream, before, after, padding, parts);
}

cudaError_t count_differing(const std::int64_t* a, const std::int64_t* b, index_t n, unsigned long long* differing,
                            cudaStream_t stream) {
    return launch(count_differing_kernel, blocks_for(n), dim3(threads_per_block), 0, stream, a, b, n, differing);
}

}  // namespace isic::inline ISIC_ABI::cuda::detail
