// Scores ||c||^2/2 - z.c of float32 in tiles, of which only the least, and the least outside of its group of codes, is kept.
#include "row_groups.cuh"

namespace isic::inline ISIC_ABI::cuda {
namespace {

constexpr int groups_in_panel = panel_rows / codes_per_group;

// Packing

/// Where row i of a panel of codes lies: a group of eight codes is two packs, in either half of the panel, so that lanes which
/// read neighbouring groups find neighbouring packs.
__device__ int place_in_panel(int i) {
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
    const index_t first = static_cast<index_t>(blockIdx.x) * rows_per_sum;  // x: a grid is high for 16 million rows only
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

/// center = sums / count, or 0 where that is beyond float32.
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

/// What was packed of a row.
struct packed_row {
    double square;  ///< infinite where it is not a float32
    bool finite;
};

/// Puts sign * (row - center) into a panel, and zeros behind its last column.
__device__ packed_row pack_row(const scaled_rows& m, index_t i, const float* center, float sign, int place,
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

__device__ void pack_zeros(index_t i, int place, index_t width, float* values) {
    float* const to = values + i / panel_rows * width * panel_rows + place;
    for (index_t c = 0; c < width; ++c) {
        to[c * panel_rows] = 0;
    }
}

/// A thread for each row of the panels.
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

/// How far the score of a vector may be off, by rounding in float32 (of the packed values, the products and the sum) and of the
/// distances that decide; infinite where scores may overflow.
__device__ double score_error(double norm, double largest_norm, index_t width) {
    const double terms = static_cast<double>(width + 10);
    const double size = norm * largest_norm + largest_norm * largest_norm / 2;
    if (!(size < 0.25 * static_cast<double>(largest_float))) {
        return INFINITY;
    }
    const double both = norm + largest_norm;
    return terms * (6.02e-8 * size + 2.5e-16 * both * both + 1.2e-38);
}

/// Queries are packed with their signs changed; margins[i] is what the least score must be ahead by, NaN where a query is not finite.
__global__ void pack_queries_kernel(scaled_rows m, const float* center, const unsigned long long* largest_norm, query_panels to) {
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
    to.margins[i] = packed.finite ? 2 * score_error(norm, largest, m.rows.cols) : NAN;
}

// Scores

/// The least of what is added, and the second least, which may be as little.
struct least_two {
    float least;
    float second;
    int group;

    __device__ static least_two of_nothing() { return {INFINITY, INFINITY, 0}; }
    __device__ void add(float low, int of) {
        second = fminf(second, fmaxf(least, low));  // NaN is passed over: then margins are infinite
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

__device__ void keep(const score_arguments& a, index_t query, const least_two& best) {
    a.found[static_cast<index_t>(blockIdx.y) * a.queries.count * panel_rows + query] = {best.least, best.second, best.group};
}

constexpr int queries_per_thread = 4;

/// Queries of at most Width values in registers, few enough for three blocks to a processor (two of the widest); each panel of
/// codes goes through shared memory.
template <int Width>
__global__ void __launch_bounds__(threads_per_block, Width <= 8 ? 3 : 2) narrow_scores_kernel(score_arguments a) {
    using row_of_panel = pack<float>[panel_rows / 4];
    using panel = row_of_panel[Width];
    ISIC_SHARED(panel, codes);
    ISIC_SHARED(row_of_panel, half_norms);
    const index_t first_query = static_cast<index_t>(blockIdx.x) * queries_per_thread * threads_per_block + threadIdx.x;
    const index_t queries = a.queries.count * panel_rows;
    float z[queries_per_thread][Width];
    least_two best[queries_per_thread];
#pragma unroll
    for (int q = 0; q < queries_per_thread; ++q) {
        best[q] = least_two::of_nothing();
        const index_t i = first_query + q * threads_per_block;
#pragma unroll
        for (int c = 0; c < Width; ++c) {
            z[q][c] = i < queries ? a.queries.values[(i / panel_rows * Width + c) * panel_rows + i % panel_rows] : 0.0F;
        }
    }
    const index_t begin = static_cast<index_t>(blockIdx.y) * a.panels_per_split;
    const index_t end = begin + a.panels_per_split < a.codes.count ? begin + a.panels_per_split : a.codes.count;
    for (index_t p = begin; p < end; ++p) {
        __syncthreads();  // the last panel has been read
        const auto* from = reinterpret_cast<const pack<float>*>(a.codes.values + p * Width * panel_rows);
        for (int at = static_cast<int>(threadIdx.x); at < Width * panel_rows / 4; at += threads_per_block) {
            codes[at / (panel_rows / 4)][at % (panel_rows / 4)] = from[at];
        }
        if (threadIdx.x < panel_rows / 4) {
            half_norms[threadIdx.x] = reinterpret_cast<const pack<float>*>(a.codes.half_norms + p * panel_rows)[threadIdx.x];
        }
        __syncthreads();
        for (int g = 0; g < groups_in_panel; ++g) {
            float low[queries_per_thread];
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const pack<float> norms = half_norms[2 * g + half];
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
                    const pack<float> value = codes[c][half * groups_in_panel + g];
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
                    const float least = fminf(fminf(score[q][0], score[q][1]), fminf(score[q][2], score[q][3]));
                    low[q] = half == 0 ? least : fminf(low[q], least);
                }
            }
#pragma unroll
            for (int q = 0; q < queries_per_thread; ++q) {
                best[q].add(low[q], static_cast<int>(p) * groups_in_panel + g);
            }
        }
    }
#pragma unroll
    for (int q = 0; q < queries_per_thread; ++q) {
        if (const index_t i = first_query + q * threads_per_block; i < queries) {
            keep(a, i, best[q]);
        }
    }
}

constexpr int score_side = panel_rows / 8;      // threads along a side of a tile: each scores 8 queries with 8 codes
static_assert(score_side * score_side == threads_per_block && score_depth * panel_rows == 4 * threads_per_block && codes_per_group == 8);

/// A tile of 128 queries against panel after panel of 128 codes. While one piece of both is multiplied, the next is on its way.
__global__ void __launch_bounds__(threads_per_block, 2) wide_scores_kernel(score_arguments a) {
    __shared__ pack<float> queries[2][score_depth][panel_rows / 4];
    __shared__ pack<float> codes[2][score_depth][panel_rows / 4];
    __shared__ least_two best[8][threads_per_block];  // needed once in a panel: registers are for the scores
    const int thread = static_cast<int>(threadIdx.x);
    const int x = thread % score_side;
    const int y = thread / score_side;
    const int pieces = static_cast<int>(a.codes.width / score_depth);
    const index_t begin = static_cast<index_t>(blockIdx.y) * a.panels_per_split;
    const index_t end = begin + a.panels_per_split < a.codes.count ? begin + a.panels_per_split : a.codes.count;
    // Panels lie one after another, and so do the pieces of each: a thread loads the same pack of every one.
    const auto* const query_panel = reinterpret_cast<const pack<float>*>(a.queries.values + blockIdx.x * a.queries.width * panel_rows) + thread;
    const auto* const code_panels = reinterpret_cast<const pack<float>*>(a.codes.values + begin * a.codes.width * panel_rows) + thread;
    const index_t steps = end > begin ? (end - begin) * pieces : 0;
    for (int q = 0; q < 8; ++q) {
        best[q][thread] = least_two::of_nothing();
    }
    float score[8][8];
    pack<float> next_query{};
    pack<float> next_code{};
    if (steps > 0) {
        queries[0][thread / (panel_rows / 4)][thread % (panel_rows / 4)] = query_panel[0];
        codes[0][thread / (panel_rows / 4)][thread % (panel_rows / 4)] = code_panels[0];
    }
    __syncthreads();
    int piece = 0;
    index_t p = begin;
    for (index_t step = 0; step < steps; ++step) {
        const int now = static_cast<int>(step % 2);
        const bool last_piece = piece + 1 == pieces;
        if (step + 1 < steps) {
            next_query = query_panel[last_piece ? 0 : (piece + 1) * threads_per_block];
            next_code = code_panels[(step + 1) * threads_per_block];
        }
        if (piece == 0) {
            const auto* norms = reinterpret_cast<const pack<float>*>(a.codes.half_norms + p * panel_rows) + 2 * x;
#pragma unroll
            for (int q = 0; q < 8; ++q) {
#pragma unroll
                for (int k = 0; k < 8; ++k) {
                    score[q][k] = norms[k / 4].at[k % 4];
                }
            }
        }
#pragma unroll
        for (int c = 0; c < score_depth; ++c) {
            const pack<float> z[2] = {queries[now][c][2 * y], queries[now][c][2 * y + 1]};
            const pack<float> value[2] = {codes[now][c][x], codes[now][c][score_side + x]};
#pragma unroll
            for (int q = 0; q < 8; ++q) {
#pragma unroll
                for (int k = 0; k < 8; ++k) {
                    score[q][k] = fmaf(z[q / 4].at[q % 4], value[k / 4].at[k % 4], score[q][k]);
                }
            }
        }
        if (last_piece) {
#pragma unroll
            for (int q = 0; q < 8; ++q) {
                float low = score[q][0];
#pragma unroll
                for (int k = 1; k < 8; ++k) {
                    low = fminf(low, score[q][k]);
                }
                best[q][thread].add(low, static_cast<int>(p) * groups_in_panel + x);
            }
            ++p;
        }
        piece = last_piece ? 0 : piece + 1;
        if (step + 1 < steps) {  // nobody reads this half any more: all have passed the last barrier
            queries[1 - now][thread / (panel_rows / 4)][thread % (panel_rows / 4)] = next_query;
            codes[1 - now][thread / (panel_rows / 4)][thread % (panel_rows / 4)] = next_code;
        }
        __syncthreads();
    }
    for (int q = 0; q < 8; ++q) {
        least_two mine = best[q][thread];
        for (int bit = score_side / 2; bit > 0; bit /= 2) {
            const float least = __shfl_xor_sync(0xffffffffU, mine.least, bit);
            const float second = __shfl_xor_sync(0xffffffffU, mine.second, bit);
            mine.join(least, second, __shfl_xor_sync(0xffffffffU, mine.group, bit));
        }
        if (x == 0) {
            keep(a, static_cast<index_t>(blockIdx.x) * panel_rows + y * 8 + q, mine);
        }
    }
}

}  // namespace

index_t center_parts(index_t rows) {
    return (rows + rows_per_sum - 1) / rows_per_sum;
}

cudaError_t center_of_rows(const scaled_rows& m, const std::uint8_t* skip, index_t count, double* sums, float* center, cudaStream_t stream) {
    const dim3 grid(static_cast<unsigned>(center_parts(m.rows.rows)), static_cast<unsigned>((m.rows.cols + sum_side - 1) / sum_side));
    if (const cudaError_t status = launch(sum_columns_kernel, grid, dim3(threads_per_block), 0, stream, m, skip, sums); status != cudaSuccess) {
        return status;
    }
    return launch(finish_center_kernel, blocks_for(m.rows.cols), dim3(threads_per_block), 0, stream, sums, center_parts(m.rows.rows), m.rows.cols,
                  count, center);
}

cudaError_t pack_codes(const scaled_rows& m, const std::uint8_t* skip, const float* center, const code_panels& to, cudaStream_t stream) {
    return launch(pack_codes_kernel, blocks_for(to.count * panel_rows), dim3(threads_per_block), 0, stream, m, skip, center, to);
}

cudaError_t pack_queries(const scaled_rows& m, const float* center, const unsigned long long* largest_norm, const query_panels& to,
                         cudaStream_t stream) {
    return launch(pack_queries_kernel, blocks_for(to.count * panel_rows), dim3(threads_per_block), 0, stream, m, center, largest_norm, to);
}

index_t query_panels_per_block(index_t width) {
    return width <= 16 ? queries_per_thread * threads_per_block / panel_rows : 1;
}

cudaError_t least_scores(const score_arguments& a, index_t splits, cudaStream_t stream) {
    const index_t each = query_panels_per_block(a.queries.width);
    const dim3 grid(static_cast<unsigned>((a.queries.count + each - 1) / each), static_cast<unsigned>(splits));
    const auto run = [&](auto kernel) { return launch(kernel, grid, dim3(threads_per_block), 0, stream, a); };
    switch (a.queries.width) {
        case 4: return run(narrow_scores_kernel<4>);
        case 8: return run(narrow_scores_kernel<8>);
        case 16: return run(narrow_scores_kernel<16>);
        default: return run(wide_scores_kernel);
    }
}

}  // namespace isic::inline ISIC_ABI::cuda
