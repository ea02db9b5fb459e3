// SPDX-License-Identifier: Apache-2.0
/// \file
/// float32 scores ||c||^2/2 - z.c in tiles. Only the least score of a query, its group, and the least score of the other groups are
/// kept. Included by codebook.cu alone.
#pragma once

#include <isic/detail/score_error.hpp>

#include "codebook_kernels.hpp"
#include "row_tile.cuh"

namespace isic::inline ISIC_ABI::cuda::detail {
namespace {

constexpr int groups_in_panel = panel_rows / codes_per_group;

// Packing

/// Column of row i of a panel of codes. A group of eight codes is two vectors, one in each half of the panel: lanes that read
/// neighbouring groups read neighbouring vectors.
__device__ inline int place_in_panel(int i) {
    return (i % codes_per_group < 4 ? 0 : panel_rows / 2) + i / codes_per_group * 4 + i % 4;
}

constexpr int rows_per_sum = 256;
constexpr int sum_side = 32;

/// sums[part][column] over `rows_per_sum` rows, in a fixed order.
__global__ void sum_columns_kernel(scaled_rows m, const std::uint8_t* skip, double* sums) {
    __shared__ double parts[threads_per_block / sum_side][sum_side];
    const int x = static_cast<int>(threadIdx.x) % sum_side;
    const int y = static_cast<int>(threadIdx.x) / sum_side;
    const index_t column = static_cast<index_t>(blockIdx.y) * sum_side + x;
    const index_t first =
        static_cast<index_t>(blockIdx.x) * rows_per_sum;  // along x: a grid has at most 65,535 blocks along y
    double sum = 0;
    for (index_t k = first + y; k < first + rows_per_sum && k < m.rows.rows; k += threads_per_block / sum_side) {
        if (column < m.rows.cols && (skip == nullptr || skip[k] == 0)) {
            sum += scaled_value(m, k, column);
        }
    }
    parts[y][x] = sum;
    __syncthreads();
    if (y == 0 && column < m.rows.cols) {
        for (int part = 1; part < threads_per_block / sum_side; ++part) {
            sum += parts[part][x];
        }
        sums[blockIdx.x * m.rows.cols + column] = sum;
    }
}

/// center = sums / count; 0 if the mean exceeds float32.
__global__ void finish_center_kernel(const double* sums, index_t parts, index_t width, index_t count, float* center) {
    const index_t column = thread_number();
    if (column >= width) {
        return;
    }
    double sum = 0;
    for (index_t part = 0; part < parts; ++part) {
        sum += sums[part * width + column];
    }
    const float mean = static_cast<float>(sum / static_cast<double>(count));
    center[column] = std::fabs(mean) <= largest_float ? mean : 0.0F;
}

/// A packed row's squared norm, and whether the row was finite.
struct packed_row {
    double square;  ///< infinite if a value exceeds float32
    bool finite;
};

/// Writes sign * (row - center) to a panel, and zeros to the padding columns.
__device__ inline packed_row pack_row(const scaled_rows& m, index_t i, const float* center, float sign, int place,
                                      index_t width, float* values) {
    float* const to = values + i / panel_rows * width * panel_rows + place;
    const scaled_row row(m, i);
    packed_row out{0, true};
    for (index_t c = 0; c < width; c += 4) {
        const auto x = row.load(c);
        for (int j = 0; j < 4; ++j) {
            const float off =
                c + j < m.rows.cols ? static_cast<float>(x.at[j] - static_cast<double>(center[c + j])) : 0.0F;
            to[(c + j) * panel_rows] = sign * off;
            out.square += static_cast<double>(off) * static_cast<double>(off);
            out.finite = out.finite && is_finite(x.at[j]);
        }
    }
    return out;
}

__device__ inline void pack_zeros(index_t i, int place, index_t width, float* values) {
    float* const to = values + i / panel_rows * width * panel_rows + place;
    for (index_t c = 0; c < width; ++c) {
        to[c * panel_rows] = 0;
    }
}

/// One thread per row of the panels.
__global__ void pack_codes_kernel(scaled_rows m, const std::uint8_t* skip, const float* center, code_panels to) {
    const index_t k = thread_number();
    if (k >= to.count * panel_rows) {
        return;
    }
    const bool empty = k >= m.rows.rows || (skip != nullptr && skip[k] != 0);
    const int place = place_in_panel(static_cast<int>(k % panel_rows));
    if (empty) {
        pack_zeros(k, place, to.width, to.values);
        to.half_norms[k] = INFINITY;
        return;
    }
    const double square = pack_row(m, k, center, 1.0F, place, to.width, to.values).square;
    const double half = square / 2;
    to.half_norms[k] = half < static_cast<double>(largest_float) ? static_cast<float>(half) : largest_float;
    const double norm = is_finite(square) ? sqrt(square) * (1 + 1e-9) : INFINITY;
    unsigned long long bits = 0;
    memcpy(&bits, &norm, sizeof bits);
    atomicMax(to.largest_norm, bits);
}

/// Packs queries with their signs changed. margins[i]: a lead of the least score above this is unambiguous; NaN if the query is not
/// finite.
__global__ void pack_queries_kernel(scaled_rows m, const float* center, const unsigned long long* largest_norm,
                                    query_panels to) {
    const index_t i = thread_number();
    if (i >= to.count * panel_rows) {
        return;
    }
    const int place = static_cast<int>(i % panel_rows);
    const packed_row packed =
        i < m.rows.rows ? pack_row(m, i, center, -1.0F, place, to.width, to.values) : packed_row{0, true};
    if (i >= m.rows.rows || !packed.finite) {
        pack_zeros(i, place, to.width, to.values);
    }
    const unsigned long long bits = *largest_norm;
    double largest = 0;
    memcpy(&largest, &bits, sizeof largest);
    const double norm = is_finite(packed.square) ? sqrt(packed.square) * (1 + 1e-6) : INFINITY;
    to.margins[i] = packed.finite
                        ? 2 * isic::detail::score_error<isic::detail::cuda_score_rounding>(norm, largest, m.rows.cols)
                        : NAN;
}

// Scores

/// The least of the added scores and the second least, which may be equal.
struct least_two {
    float least;
    float second;
    int group;

    __device__ static least_two none() { return {INFINITY, INFINITY, 0}; }
    __device__ void add(float low, int of) {
        second = fminf(second, fmaxf(least, low));  // ignores NaN, which occurs with infinite margins only
        if (low < least) {
            least = low;
            group = of;
        }
    }
    __device__ void join(float other_least, float other_second, int of) {
        second = fminf(second, other_second);
        add(other_least, of);
    }
};

/// Writes the result of a query for this block's part of the codebook.
__device__ inline void store_best(const score_arguments& a, index_t query, const least_two& best) {
    a.best[static_cast<index_t>(blockIdx.y) * a.queries.count * panel_rows + query] = {best.least, best.second,
                                                                                       best.group};
}

/// Panels [begin, end) of this block's part of the codebook.
struct panel_range {
    index_t begin;
    index_t end;

    __device__ explicit panel_range(const score_arguments& a)
        : begin(static_cast<index_t>(blockIdx.y) * a.panels_per_split),
          end(begin + a.panels_per_split < a.codes.count ? begin + a.panels_per_split : a.codes.count) {}
};

constexpr int vectors_per_panel = panel_rows / 4;
using panel_row = vector<float>[vectors_per_panel];

// Narrow codebooks: queries in registers

constexpr int queries_per_thread = 4;

/// Reads the queries of this thread; queries past the last one are 0.
template <int Width>
__device__ __forceinline__ void load_queries(const query_panels& queries, index_t first_query,
                                             float (&z)[queries_per_thread][Width]) {
#pragma unroll
    for (int q = 0; q < queries_per_thread; ++q) {
        const index_t i = first_query + q * threads_per_block;
#pragma unroll
        for (int c = 0; c < Width; ++c) {
            z[q][c] = i < queries.count * panel_rows
                          ? queries.values[(i / panel_rows * Width + c) * panel_rows + i % panel_rows]
                          : 0.0F;
        }
    }
}

/// Copies panel p of the codes to shared memory.
template <int Width>
__device__ __forceinline__ void stage_panel(const code_panels& from, index_t p, panel_row (&codes)[Width],
                                            panel_row& half_norms) {
    __syncthreads();  // the previous panel has been read
    const auto* values = reinterpret_cast<const vector<float>*>(from.values + p * Width * panel_rows);
    for (int at = static_cast<int>(threadIdx.x); at < Width * vectors_per_panel; at += threads_per_block) {
        codes[at / vectors_per_panel][at % vectors_per_panel] = values[at];
    }
    if (threadIdx.x < vectors_per_panel) {
        half_norms[threadIdx.x] = reinterpret_cast<const vector<float>*>(from.half_norms + p * panel_rows)[threadIdx.x];
    }
    __syncthreads();
}

/// least[q] = the least score of query q among the four codes of one half of group g.
template <int Width>
__device__ __forceinline__ void score_half_group(const float (&z)[queries_per_thread][Width],
                                                 const panel_row (&codes)[Width], const panel_row& half_norms, int g,
                                                 int half, float (&least)[queries_per_thread]) {
    const vector<float> norms = half_norms[2 * g + half];
    float score[queries_per_thread][4];
#pragma unroll
    for (int q = 0; q < queries_per_thread; ++q) {
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            score[q][k] = norms.at[k];
        }
    }
#pragma unroll
    for (int c = 0; c < Width; ++c) {
        const vector<float> value = codes[c][half * groups_in_panel + g];
#pragma unroll
        for (int q = 0; q < queries_per_thread; ++q) {
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                score[q][k] = fmaf(z[q][c], value.at[k], score[q][k]);
            }
        }
    }
#pragma unroll
    for (int q = 0; q < queries_per_thread; ++q) {
        least[q] = fminf(fminf(score[q][0], score[q][1]), fminf(score[q][2], score[q][3]));
    }
}

/// Queries of at most Width values, held in registers; three blocks fit an SM, two of the widest. Panels of codes pass through
/// shared memory.
template <int Width>
__global__ void __launch_bounds__(threads_per_block, Width <= 8 ? 3 : 2) narrow_scores_kernel(score_arguments a) {
    using panel = panel_row[Width];
    ISIC_SHARED(panel, codes);
    ISIC_SHARED(panel_row, half_norms);
    const index_t first_query = static_cast<index_t>(blockIdx.x) * queries_per_thread * threads_per_block + threadIdx.x;
    float z[queries_per_thread][Width];
    load_queries<Width>(a.queries, first_query, z);
    least_two best[queries_per_thread];
#pragma unroll
    for (int q = 0; q < queries_per_thread; ++q) {
        best[q] = least_two::none();
    }
    const panel_range panels(a);
    for (index_t p = panels.begin; p < panels.end; ++p) {
        stage_panel<Width>(a.codes, p, codes, half_norms);
        for (int g = 0; g < groups_in_panel; ++g) {
            float low[queries_per_thread];
            float high[queries_per_thread];
            score_half_group<Width>(z, codes, half_norms, g, 0, low);
            score_half_group<Width>(z, codes, half_norms, g, 1, high);
#pragma unroll
            for (int q = 0; q < queries_per_thread; ++q) {
                best[q].add(fminf(low[q], high[q]), static_cast<int>(p) * groups_in_panel + g);
            }
        }
    }
#pragma unroll
    for (int q = 0; q < queries_per_thread; ++q) {
        if (const index_t i = first_query + q * threads_per_block; i < a.queries.count * panel_rows) {
            store_best(a, i, best[q]);
        }
    }
}

// Wide codebooks: register tiles of 8 queries by 8 codes

constexpr int score_side = panel_rows / 8;  // threads along a side of a block's tile
static_assert(score_side * score_side == threads_per_block && score_depth * panel_rows == 4 * threads_per_block &&
              codes_per_group == 8);

/// A piece: `score_depth` columns of a panel. Each thread copies one vector of it.
using piece = panel_row[score_depth];

__device__ __forceinline__ void put_in(piece& to, int thread, const vector<float>& value) {
    to[thread / vectors_per_panel][thread % vectors_per_panel] = value;
}

/// score[q][k] = ||c_k||^2/2 for the codes of group x of a panel.
__device__ __forceinline__ void start_scores(const float* half_norms, int x, float (&score)[8][8]) {
    const auto* norms = reinterpret_cast<const vector<float>*>(half_norms) + 2 * x;
#pragma unroll
    for (int q = 0; q < 8; ++q) {
#pragma unroll
        for (int k = 0; k < 8; ++k) {
            score[q][k] = norms[k / 4].at[k % 4];
        }
    }
}

/// Adds the products of one piece.
__device__ __forceinline__ void add_products(const piece& queries, const piece& codes, int x, int y,
                                             float (&score)[8][8]) {
#pragma unroll
    for (int c = 0; c < score_depth; ++c) {
        const vector<float> z[2] = {queries[c][2 * y], queries[c][2 * y + 1]};
        const vector<float> value[2] = {codes[c][x], codes[c][score_side + x]};
#pragma unroll
        for (int q = 0; q < 8; ++q) {
#pragma unroll
            for (int k = 0; k < 8; ++k) {
                score[q][k] = fmaf(z[q / 4].at[q % 4], value[k / 4].at[k % 4], score[q][k]);
            }
        }
    }
}

/// Adds the least score of each query to its best ones.
__device__ __forceinline__ void finish_scores(const float (&score)[8][8], int group,
                                              least_two (&best)[8][threads_per_block], int thread) {
#pragma unroll
    for (int q = 0; q < 8; ++q) {
        float low = score[q][0];
#pragma unroll
        for (int k = 1; k < 8; ++k) {
            low = fminf(low, score[q][k]);
        }
        best[q][thread].add(low, group);
    }
}

/// Joins the results of the threads along a side, which have the same queries.
__device__ __forceinline__ least_two join_side(least_two mine) {
    for (int bit = score_side / 2; bit > 0; bit /= 2) {
        const float least = __shfl_xor_sync(0xffffffffU, mine.least, bit);
        const float second = __shfl_xor_sync(0xffffffffU, mine.second, bit);
        mine.join(least, second, __shfl_xor_sync(0xffffffffU, mine.group, bit));
    }
    return mine;
}

/// A tile of 128 queries against panel after panel of 128 codes. Double buffering: while one piece is multiplied, the next is loaded.
__global__ void __launch_bounds__(threads_per_block, 2) wide_scores_kernel(score_arguments a) {
    __shared__ piece queries[2];
    __shared__ piece codes[2];
    __shared__ least_two best[8][threads_per_block];  // used once per panel: registers are for the scores
    const int thread = static_cast<int>(threadIdx.x);
    const int x = thread % score_side;
    const int y = thread / score_side;
    const int pieces = static_cast<int>(a.codes.width / score_depth);
    const panel_range panels(a);
    // Panels are adjacent, and so are the pieces of each: a thread loads the vector at the same offset of every piece.
    const auto* const query_panel =
        reinterpret_cast<const vector<float>*>(a.queries.values + blockIdx.x * a.queries.width * panel_rows) + thread;
    const auto* const code_panel =
        reinterpret_cast<const vector<float>*>(a.codes.values + panels.begin * a.codes.width * panel_rows) + thread;
    const index_t steps = panels.end > panels.begin ? (panels.end - panels.begin) * pieces : 0;
    for (int q = 0; q < 8; ++q) {
        best[q][thread] = least_two::none();
    }
    float score[8][8];
    vector<float> next_query{};
    vector<float> next_code{};
    if (steps > 0) {
        put_in(queries[0], thread, query_panel[0]);
        put_in(codes[0], thread, code_panel[0]);
    }
    __syncthreads();
    int at = 0;  // piece of the panel
    index_t p = panels.begin;
    for (index_t step = 0; step < steps; ++step) {
        const int now = static_cast<int>(step % 2);
        const bool last_piece = at + 1 == pieces;
        if (step + 1 < steps) {
            next_query = query_panel[last_piece ? 0 : (at + 1) * threads_per_block];
            next_code = code_panel[(step + 1) * threads_per_block];
        }
        if (at == 0) {
            start_scores(a.codes.half_norms + p * panel_rows, x, score);
        }
        add_products(queries[now], codes[now], x, y, score);
        if (last_piece) {
            finish_scores(score, static_cast<int>(p) * groups_in_panel + x, best, thread);
            ++p;
        }
        at = last_piece ? 0 : at + 1;
        if (step + 1 < steps) {  // all threads passed the previous barrier: none reads this buffer
            put_in(queries[1 - now], thread, next_query);
            put_in(codes[1 - now], thread, next_code);
        }
        __syncthreads();
    }
    for (int q = 0; q < 8; ++q) {
        const least_two all = join_side(best[q][thread]);
        if (x == 0) {
            store_best(a, static_cast<index_t>(blockIdx.x) * panel_rows + y * 8 + q, all);
        }
    }
}

}  // namespace
}  // namespace isic::inline ISIC_ABI::cuda::detail
