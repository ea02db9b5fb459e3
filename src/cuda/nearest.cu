// Nearest codes by ||q - c||^2 in float64, without a matrix of distances: tiles of queries against tiles of codes.
#include "rows.cuh"

namespace isic::cuda {
namespace {

constexpr int tile = nearest_tile;
constexpr int per_thread = 4;  // each thread compares 4 queries with 4 codes
constexpr int side = tile / per_thread;
constexpr int depth = 8;     // columns in shared memory at a time

struct search {
    const double* queries;
    index_t n;
    const double* codes;
    index_t count;
    index_t d;
    const std::uint8_t* padding;
    index_t codes_per_split;
    double* best;
    std::int64_t* best_ids;
};

/// columns [first, first + depth) of `tile` rows from `row`, column by column; what lies outside is 0.
__device__ void load_tile(double (*to)[tile], const double* rows, index_t row, index_t count, index_t d, index_t first) {
    for (int at = static_cast<int>(threadIdx.x); at < tile * depth; at += side * side) {
        const index_t i = row + at / depth;
        const index_t c = first + at % depth;
        to[at % depth][at / depth] = i < count && c < d ? rows[i * d + c] : 0.0;
    }
}

/// Better is nearer, or as near with a lower id.
__device__ bool better(double distance, std::int64_t id, double than, std::int64_t than_id) {
    return distance < than || (distance == than && id < than_id);
}

__global__ void __launch_bounds__(side* side) nearest_kernel(search s) {
    __shared__ double queries[depth][tile];
    __shared__ double codes[depth][tile];
    __shared__ double found[tile][side];
    __shared__ std::int64_t found_ids[tile][side];
    const int x = static_cast<int>(threadIdx.x) % side;  // codes x, x + side, ...
    const int y = static_cast<int>(threadIdx.x) / side;  // queries y, y + side, ...
    const index_t first_query = static_cast<index_t>(blockIdx.x) * tile;
    const index_t first_code = static_cast<index_t>(blockIdx.y) * s.codes_per_split;
    const index_t end_code = first_code + s.codes_per_split < s.count ? first_code + s.codes_per_split : s.count;
    double best[per_thread];
    std::int64_t best_ids[per_thread];
    for (int q = 0; q < per_thread; ++q) {
        best[q] = INFINITY;
        best_ids[q] = INT64_MAX;
    }
    for (index_t code = first_code; code < end_code; code += tile) {
        double distance[per_thread][per_thread] = {};
        for (index_t c = 0; c < s.d; c += depth) {
            load_tile(queries, s.queries, first_query, s.n, s.d, c);
            load_tile(codes, s.codes, code, end_code, s.d, c);
            __syncthreads();
            for (int j = 0; j < depth; ++j) {
                for (int q = 0; q < per_thread; ++q) {
                    for (int k = 0; k < per_thread; ++k) {
                        const double step = queries[j][y + q * side] - codes[j][x + k * side];
                        distance[q][k] += step * step;
                    }
                }
            }
            __syncthreads();
        }
        for (int k = 0; k < per_thread; ++k) {
            const index_t id = code + x + k * side;
            if (id >= end_code || (s.padding != nullptr && s.padding[id] != 0)) {
                continue;
            }
            for (int q = 0; q < per_thread; ++q) {
                if (better(distance[q][k], id, best[q], best_ids[q])) {
                    best[q] = distance[q][k];
                    best_ids[q] = id;
                }
            }
        }
    }
    for (int q = 0; q < per_thread; ++q) {
        found[y + q * side][x] = best[q];
        found_ids[y + q * side][x] = best_ids[q];
    }
    __syncthreads();
    const index_t query = first_query + threadIdx.x;
    if (threadIdx.x < tile && query < s.n) {
        double nearest = INFINITY;
        std::int64_t id = INT64_MAX;
        for (int i = 0; i < side; ++i) {
            if (better(found[threadIdx.x][i], found_ids[threadIdx.x][i], nearest, id)) {
                nearest = found[threadIdx.x][i];
                id = found_ids[threadIdx.x][i];
            }
        }
        s.best[blockIdx.y * s.n + query] = nearest;
        s.best_ids[blockIdx.y * s.n + query] = id;
    }
}

__global__ void join_splits_kernel(const double* best, const std::int64_t* best_ids, index_t n, index_t splits, std::int64_t* ids) {
    const index_t i = thread_number();
    if (i >= n) {
        return;
    }
    index_t nearest = 0;
    for (index_t split = 1; split < splits; ++split) {
        const index_t at = split * n + i;
        if (better(best[at], best_ids[at], best[nearest * n + i], best_ids[nearest * n + i])) {
            nearest = split;
        }
    }
    ids[i] = best_ids[nearest * n + i];
}

}  // namespace

cudaError_t nearest_rows(const double* queries, index_t n, const double* codes, index_t codes_count, index_t d, const std::uint8_t* padding,
                         index_t splits, double* best, std::int64_t* best_ids, std::int64_t* ids, cudaStream_t stream) {
    const index_t tiles = (codes_count + tile - 1) / tile;
    const search s{queries, n, codes, codes_count, d, padding, (tiles + splits - 1) / splits * tile, best, best_ids};
    const dim3 grid(static_cast<unsigned>((n + tile - 1) / tile), static_cast<unsigned>(splits));
    if (const cudaError_t status = launch(nearest_kernel, grid, dim3(side * side), 0, stream, s); status != cudaSuccess) {
        return status;
    }
    return launch(join_splits_kernel, blocks_for(n), dim3(threads_per_block), 0, stream, best, best_ids, n, splits, ids);
}

}  // namespace isic::cuda
