// Nearest codes by ||q - c||^2 in float64: of the group that the scores found, or, where they leave it open, of all codes,
// without a matrix of distances: tiles of queries against tiles of codes.
#include <cfloat>

#include "row_groups.cuh"

namespace isic::inline ISIC_ABI::cuda {
namespace {

constexpr int tile = nearest_tile;
constexpr int per_thread = 4;  // each thread compares 4 queries with 4 codes
constexpr int side = tile / per_thread;
constexpr int depth = 8;     // columns in shared memory at a time

/// Better is nearer, or as near with a lower id.
__device__ bool better(double distance, std::int64_t id, double than, std::int64_t than_id) {
    return distance < than || (distance == than && id < than_id);
}

__device__ bool may_win(const look_up& l, index_t k) {
    return k < l.codes.rows.rows && (l.padding == nullptr || l.padding[k] == 0);
}

/// sum + step^2, rounded twice as on the CPU: equal distances must be equal on both.
__device__ double add_square(double sum, double step) {
    return __dadd_rn(sum, __dmul_rn(step, step));
}

__device__ double squared_distance(const look_up& l, index_t query, index_t k) {
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

/// A lane for each code of the group that the scores of a query found.
__global__ void settle_kernel(look_up l) {
    constexpr int group = codes_per_group;
    const index_t n = l.queries.rows.rows;
    const index_t asked = thread_number() / group;
    const index_t query = asked < n ? asked : n - 1;  // lanes without a query go along
    found_scores best = l.found[query];
    for (index_t split = 1; split < l.splits; ++split) {
        const found_scores other = l.found[split * l.padded_queries + query];
        best.second = fminf(fminf(best.second, other.second), fmaxf(best.least, other.least));
        if (other.least < best.least) {
            best.least = other.least;
            best.group = other.group;
        }
    }
    const double margin = l.margins[query];
    const bool settled = static_cast<double>(best.second) - static_cast<double>(best.least) > margin;
    const index_t k = static_cast<index_t>(best.group) * group + lane() % group;
    std::int64_t id = may_win(l, k) ? k : INT64_MAX;
    double distance = settled && may_win(l, k) ? squared_distance(l, query, k) : INFINITY;
    for (int bit = group / 2; bit > 0; bit /= 2) {
        const double other = __shfl_xor_sync(0xffffffffU, distance, bit);
        const std::int64_t other_id = __shfl_xor_sync(0xffffffffU, id, bit);
        if (better(other, other_id, distance, id)) {
            distance = other;
            id = other_id;
        }
    }
    if (asked >= n || lane() % group != 0) {
        return;
    }
    if (settled) {
        l.ids[query] = id;
    } else if (margin != margin) {  // of a query that is not finite
        l.ids[query] = l.first;
    } else {
        l.open[atomicAdd(l.open_count, 1ULL)] = query;
    }
}

/// What is searched of the open queries: every tile of them in as many parts of the codebook as blocks are left.
struct open_work {
    index_t queries;
    index_t tiles;
    index_t splits;

    __device__ explicit open_work(const look_up& l) : queries(static_cast<index_t>(*l.open_count)), tiles((queries + tile - 1) / tile), splits(1) {
        const index_t most = (l.codes.rows.rows + tile - 1) / tile;
        if (tiles > 0 && l.blocks / tiles > 1) {
            splits = l.blocks / tiles < most ? l.blocks / tiles : most;
        }
    }
};

/// Columns [first, first + depth) of `tile` rows, column by column; row_of(i) is the i-th, negative: none, which reads as 0.
template <class RowOf>
__device__ void load_tile(double (*to)[tile], const scaled_rows& m, index_t first, RowOf row_of) {
    for (int at = static_cast<int>(threadIdx.x); at < tile * depth; at += side * side) {
        const index_t i = row_of(at / depth);
        const index_t c = first + at % depth;
        to[at % depth][at / depth] = i >= 0 && c < m.rows.cols ? scaled_value(m, i, c) : 0.0;
    }
}

/// A tile of open queries against the codes [first_code, end_code). A block's next tile has codes too, and barriers between reading them
/// and writing what was found.
__device__ void search_tile(const look_up& l, index_t open, index_t first_query, index_t first_code, index_t end_code, double* nearest,
                            std::int64_t* nearest_ids) {
    __shared__ double queries[depth][tile];
    __shared__ double codes[depth][tile];
    __shared__ double found[tile][side];
    __shared__ std::int64_t found_ids[tile][side];
    const int x = static_cast<int>(threadIdx.x) % side;  // codes x, x + side, ...
    const int y = static_cast<int>(threadIdx.x) / side;  // queries y, y + side, ...
    double best[per_thread];
    std::int64_t best_ids[per_thread];
    for (int q = 0; q < per_thread; ++q) {
        best[q] = INFINITY;
        best_ids[q] = INT64_MAX;
    }
    for (index_t code = first_code; code < end_code; code += tile) {
        double distance[per_thread][per_thread] = {};
        for (index_t c = 0; c < l.codes.rows.cols; c += depth) {
            load_tile(queries, l.queries, c, [&](int i) { return first_query + i < open ? l.open[first_query + i] : index_t{-1}; });
            load_tile(codes, l.codes, c, [&](int i) { return code + i < end_code ? code + i : index_t{-1}; });
            __syncthreads();
            for (int j = 0; j < depth; ++j) {
                for (int q = 0; q < per_thread; ++q) {
                    for (int k = 0; k < per_thread; ++k) {
                        distance[q][k] = add_square(distance[q][k], queries[j][y + q * side] - codes[j][x + k * side]);
                    }
                }
            }
            __syncthreads();
        }
        for (int k = 0; k < per_thread; ++k) {
            const index_t id = code + x + k * side;
            if (!may_win(l, id)) {  // a split ends where a tile does
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
    if (threadIdx.x < tile && query < open) {
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

/// How many queries are open is known on the device only: as many blocks as it holds share what there is to do.
__global__ void __launch_bounds__(side* side) search_open_kernel(look_up l) {
    const open_work work(l);
    const index_t code_tiles = (l.codes.rows.rows + tile - 1) / tile;
    const index_t codes_per_split = (code_tiles + work.splits - 1) / work.splits * tile;
    for (index_t item = blockIdx.x; item < work.tiles * work.splits; item += gridDim.x) {
        const index_t split = item % work.splits;
        const index_t first = split * codes_per_split;
        const index_t end = first + codes_per_split < l.codes.rows.rows ? first + codes_per_split : l.codes.rows.rows;
        search_tile(l, work.queries, item / work.splits * tile, first, end, l.best + split * work.queries, l.best_ids + split * work.queries);
    }
}

/// Whether distances decided, and not what float64 makes of squares too large or too small for it.
__device__ bool is_decided(const look_up& l, index_t query, index_t k, double distance) {
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

/// The nearest of all codes by distances scaled by a power of two, so that their squares fit float64. One thread looks at all:
/// such values are hardly ever there.
__device__ std::int64_t nearest_scaled(const look_up& l, index_t query, bool all_far) {
    const double before = all_far ? 0x1p-600 : 1;  // the differences may not fit either
    const double after = all_far ? 1 : 0x1p600;
    double nearest = INFINITY;
    std::int64_t id = INT64_MAX;
    for (index_t k = 0; k < l.codes.rows.rows; ++k) {
        double sum = 0;
        for (index_t c = 0; c < l.codes.rows.cols; ++c) {
            sum = add_square(sum, (scaled_value(l.queries, query, c) * before - scaled_value(l.codes, k, c) * before) * after);
        }
        if (may_win(l, k) && better(sum, k, nearest, id)) {
            nearest = sum;
            id = k;
        }
    }
    return id;
}

__global__ void join_splits_kernel(look_up l) {
    const open_work work(l);
    const index_t i = thread_number();
    if (i >= work.queries) {
        return;
    }
    index_t nearest = 0;
    for (index_t split = 1; split < work.splits; ++split) {
        const index_t at = split * work.queries + i;
        const index_t best = nearest * work.queries + i;
        if (better(l.best[at], l.best_ids[at], l.best[best], l.best_ids[best])) {
            nearest = split;
        }
    }
    const index_t query = l.open[i];
    const double distance = l.best[nearest * work.queries + i];
    const std::int64_t id = l.best_ids[nearest * work.queries + i];
    l.ids[query] = is_decided(l, query, id, distance) ? id : nearest_scaled(l, query, distance == INFINITY);
}

}  // namespace

cudaError_t nearest_codes(const look_up& l, cudaStream_t stream) {
    const index_t n = l.queries.rows.rows;
    if (const cudaError_t status = launch(settle_kernel, blocks_for(n * codes_per_group), dim3(threads_per_block), 0, stream, l); status != cudaSuccess) {
        return status;
    }
    const dim3 blocks(static_cast<unsigned>(l.blocks));
    if (const cudaError_t status = launch(search_open_kernel, blocks, dim3(side * side), 0, stream, l); status != cudaSuccess) {
        return status;
    }
    return launch(join_splits_kernel, blocks_for(n), dim3(threads_per_block), 0, stream, l);
}

}  // namespace isic::inline ISIC_ABI::cuda
