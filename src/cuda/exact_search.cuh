// SPDX-License-Identifier: Apache-2.0
/// \file
/// Nearest codes by ||q - c||^2 in float64: among the best group of the scores or, where the scores are ambiguous, among all codes,
/// tiles of queries against tiles of codes; no matrix of distances is stored. Included by codebook.cu alone.
#pragma once

#include <cfloat>

#include "codebook_kernels.hpp"
#include "row_tile.cuh"

namespace isic::inline ISIC_ABI::cuda::detail {
namespace {

constexpr int tile = search_tile;
constexpr int per_thread = 4;            // a thread compares 4 queries with 4 codes
constexpr int side = tile / per_thread;  // threads along a side of the tile
constexpr int depth = 8;                 // columns in shared memory at a time

/// Nearer, or as near with a lower id.
__device__ inline bool better(double distance, std::int64_t id, double than, std::int64_t than_id) {
    return distance < than || (distance == than && id < than_id);
}

__device__ inline bool may_win(const search_arguments& l, index_t k) {
    return k < l.codes.rows.rows && (l.padding == nullptr || l.padding[k] == 0);
}

/// sum + step^2, rounded twice as on the CPU: equal distances must be equal on both.
__device__ inline double add_square(double sum, double step) {
    return __dadd_rn(sum, __dmul_rn(step, step));
}

__device__ inline double squared_distance(const search_arguments& l, index_t query, index_t k) {
    const scaled_row q(l.queries, query);
    const scaled_row code(l.codes, k);
    double sum = 0;
    for (index_t c = 0; c < l.codes.rows.cols; c += 4) {
        const auto a = q.load(c);
        const auto b = code.load(c);
        for (int j = 0; j < 4; ++j) {
            sum = add_square(sum, a.at[j] - b.at[j]);  // both 0 behind the last column
        }
    }
    return sum;
}

/// Joins the scores of a query over the splits of the codebook.
__device__ inline best_scores join_scores(const search_arguments& l, index_t query) {
    best_scores best = l.best[query];
    for (index_t split = 1; split < l.splits; ++split) {
        const best_scores other = l.best[split * l.padded_queries + query];
        best.second = fminf(fminf(best.second, other.second), fmaxf(best.least, other.least));
        if (other.least < best.least) {
            best.least = other.least;
            best.group = other.group;
        }
    }
    return best;
}

/// Re-ranks the best group of each query in float64, one lane per code; queries with ambiguous scores are listed.
__global__ void rerank_kernel(search_arguments l) {
    constexpr int group = codes_per_group;
    const index_t n = l.queries.rows.rows;
    const index_t wanted = thread_number() / group;
    const index_t query = wanted < n ? wanted : n - 1;  // lanes without a query run the last one
    const best_scores best = join_scores(l, query);
    const double margin = l.margins[query];
    const bool unambiguous = static_cast<double>(best.second) - static_cast<double>(best.least) > margin;
    const index_t k = static_cast<index_t>(best.group) * group + lane() % group;
    std::int64_t id = may_win(l, k) ? k : INT64_MAX;
    double distance = unambiguous && may_win(l, k) ? squared_distance(l, query, k) : INFINITY;
    for (int bit = group / 2; bit > 0; bit /= 2) {
        const double other = __shfl_xor_sync(0xffffffffU, distance, bit);
        const std::int64_t other_id = __shfl_xor_sync(0xffffffffU, id, bit);
        if (better(other, other_id, distance, id)) {
            distance = other;
            id = other_id;
        }
    }
    if (wanted >= n || lane() % group != 0) {
        return;
    }
    if (unambiguous) {
        l.ids[query] = id;
    } else if (margin != margin) {  // the query is not finite
        l.ids[query] = l.first;
    } else {
        l.ambiguous[atomicAdd(l.ambiguous_count, 1ULL)] = query;
    }
}

/// How the ambiguous queries are searched: tiles of queries, each against `splits` parts of the codebook, one block per pair.
struct ambiguous_work {
    index_t queries;
    index_t tiles;
    index_t splits;

    __device__ explicit ambiguous_work(const search_arguments& l)
        : queries(static_cast<index_t>(*l.ambiguous_count)), tiles((queries + tile - 1) / tile), splits(1) {
        const index_t most = (l.codes.rows.rows + tile - 1) / tile;
        if (tiles > 0 && l.blocks / tiles > 1) {
            splits = l.blocks / tiles < most ? l.blocks / tiles : most;
        }
    }
};

/// Reads columns [first, first + depth) of `tile` rows, column by column. row_of(i): index of the i-th row; a negative one reads as 0.
template <class RowOf>
__device__ void load_tile(double (*to)[tile], const scaled_rows& m, index_t first, RowOf row_of) {
    for (int at = static_cast<int>(threadIdx.x); at < tile * depth; at += side * side) {
        const index_t i = row_of(at / depth);
        const index_t c = first + at % depth;
        to[at % depth][at / depth] = i >= 0 && c < m.rows.cols ? scaled_value(m, i, c) : 0.0;
    }
}

/// The nearest code of each of a thread's queries so far.
struct nearest_of_thread {
    double distance[per_thread];
    std::int64_t id[per_thread];

    __device__ __forceinline__ nearest_of_thread() {
        for (int q = 0; q < per_thread; ++q) {
            distance[q] = INFINITY;
            id[q] = INT64_MAX;
        }
    }
    __device__ __forceinline__ void add(int q, double other, std::int64_t other_id) {
        if (better(other, other_id, distance[q], id[q])) {
            distance[q] = other;
            id[q] = other_id;
        }
    }
};

/// Adds the squared differences of `depth` columns; thread (x, y) has codes x, x + side, ... and queries y, y + side, ...
__device__ __forceinline__ void add_squares(const double (*queries)[tile], const double (*codes)[tile], int x, int y,
                                            double (&distance)[per_thread][per_thread]) {
    for (int j = 0; j < depth; ++j) {
        for (int q = 0; q < per_thread; ++q) {
            for (int k = 0; k < per_thread; ++k) {
                distance[q][k] = add_square(distance[q][k], queries[j][y + q * side] - codes[j][x + k * side]);
            }
        }
    }
}

/// Joins the results of the threads of each query and writes them.
__device__ __forceinline__ void join_threads(const nearest_of_thread& mine, int x, int y, index_t first_query,
                                             index_t queries, double* nearest, std::int64_t* nearest_ids) {
    __shared__ double found[tile][side];
    __shared__ std::int64_t found_ids[tile][side];
    for (int q = 0; q < per_thread; ++q) {
        found[y + q * side][x] = mine.distance[q];
        found_ids[y + q * side][x] = mine.id[q];
    }
    __syncthreads();
    const index_t query = first_query + threadIdx.x;
    if (threadIdx.x < tile && query < queries) {
        nearest[query] = INFINITY;
        nearest_ids[query] = INT64_MAX;
        for (int i = 0; i < side; ++i) {
            if (better(found[threadIdx.x][i], found_ids[threadIdx.x][i], nearest[query], nearest_ids[query])) {
                nearest[query] = found[threadIdx.x][i];
                nearest_ids[query] = found_ids[threadIdx.x][i];
            }
        }
    }
}

/// Compares a tile of the ambiguous queries with codes [first_code, end_code), which is not empty: the barriers of the next tile
/// separate its results from the reading of these.
__device__ inline void search_codes(const search_arguments& l, index_t ambiguous, index_t first_query,
                                    index_t first_code, index_t end_code, double* nearest, std::int64_t* nearest_ids) {
    __shared__ double queries[depth][tile];
    __shared__ double codes[depth][tile];
    const int x = static_cast<int>(threadIdx.x) % side;
    const int y = static_cast<int>(threadIdx.x) / side;
    nearest_of_thread best;
    for (index_t code = first_code; code < end_code; code += tile) {
        double distance[per_thread][per_thread] = {};
        for (index_t c = 0; c < l.codes.rows.cols; c += depth) {
            load_tile(queries, l.queries, c,
                      [&](int i) { return first_query + i < ambiguous ? l.ambiguous[first_query + i] : index_t{-1}; });
            load_tile(codes, l.codes, c, [&](int i) { return code + i < end_code ? code + i : index_t{-1}; });
            __syncthreads();
            add_squares(queries, codes, x, y, distance);
            __syncthreads();
        }
        for (int k = 0; k < per_thread; ++k) {
            const index_t id = code + x + k * side;
            for (int q = 0; q < per_thread && may_win(l, id); ++q) {  // a part ends where a tile does
                best.add(q, distance[q][k], id);
            }
        }
    }
    join_threads(best, x, y, first_query, ambiguous, nearest, nearest_ids);
}

/// Only the device knows the number of ambiguous queries: a fixed number of blocks shares the work.
__global__ void __launch_bounds__(side* side) search_ambiguous_kernel(search_arguments l) {
    const ambiguous_work work(l);
    const index_t code_tiles = (l.codes.rows.rows + tile - 1) / tile;
    const index_t codes_per_split = (code_tiles + work.splits - 1) / work.splits * tile;
    for (index_t item = blockIdx.x; item < work.tiles * work.splits; item += gridDim.x) {
        const index_t split = item % work.splits;
        const index_t first = split * codes_per_split;
        const index_t end = first + codes_per_split < l.codes.rows.rows ? first + codes_per_split : l.codes.rows.rows;
        search_codes(l, work.queries, item / work.splits * tile, first, end, l.nearest + split * work.queries,
                     l.nearest_ids + split * work.queries);
    }
}

/// Whether the distance is exact enough: it neither overflows nor underflows float64.
__device__ inline bool is_decided(const search_arguments& l, index_t query, index_t k, double distance) {
    const index_t width = l.codes.rows.cols;
    if (distance == INFINITY || distance >= static_cast<double>(width) * DBL_MIN) {
        return distance < INFINITY;
    }
    index_t equal = 0;
    while (equal < width && scaled_value(l.queries, query, equal) == scaled_value(l.codes, k, equal)) {
        ++equal;
    }
    return equal == width;
}

/// The nearest of all codes by distances scaled by a power of two, so that their squares fit float64. One thread searches all codes:
/// such values are rare.
__device__ inline std::int64_t nearest_scaled(const search_arguments& l, index_t query, bool overflows) {
    const double before = overflows ? 0x1p-600 : 1;  // the differences may not fit either
    const double after = overflows ? 1 : 0x1p600;
    double nearest = INFINITY;
    std::int64_t id = INT64_MAX;
    for (index_t k = 0; k < l.codes.rows.rows; ++k) {
        double sum = 0;
        for (index_t c = 0; c < l.codes.rows.cols; ++c) {
            sum = add_square(
                sum, (scaled_value(l.queries, query, c) * before - scaled_value(l.codes, k, c) * before) * after);
        }
        if (may_win(l, k) && better(sum, k, nearest, id)) {
            nearest = sum;
            id = k;
        }
    }
    return id;
}

/// Joins the results of the splits of each ambiguous query.
__global__ void join_splits_kernel(search_arguments l) {
    const ambiguous_work work(l);
    const index_t i = thread_number();
    if (i >= work.queries) {
        return;
    }
    index_t nearest = 0;
    for (index_t split = 1; split < work.splits; ++split) {
        const index_t at = split * work.queries + i;
        const index_t best = nearest * work.queries + i;
        if (better(l.nearest[at], l.nearest_ids[at], l.nearest[best], l.nearest_ids[best])) {
            nearest = split;
        }
    }
    const index_t query = l.ambiguous[i];
    const double distance = l.nearest[nearest * work.queries + i];
    const std::int64_t id = l.nearest_ids[nearest * work.queries + i];
    l.ids[query] = is_decided(l, query, id, distance) ? id : nearest_scaled(l, query, distance == INFINITY);
}

}  // namespace
}  // namespace isic::inline ISIC_ABI::cuda::detail
