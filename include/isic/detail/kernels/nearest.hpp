// SPDX-License-Identifier: Apache-2.0
/// \file
/// Nearest-neighbour search: arguments and results of its kernels.
#pragma once

#include <array>
#include <cstdint>
#include <limits>

#include <isic/detail/kernels/kernels.hpp>

namespace isic::inline ISIC_ABI::detail::kernels {

/// Shape of a register tile of float32 scores: queries by vectors of codes.
struct tile_shape {
    index_t queries;
    index_t code_vectors;  ///< SIMD vectors of codes in a panel
    index_t lanes;         ///< codes in a SIMD vector

    index_t codes() const { return code_vectors * lanes; }  ///< codes in a panel
};

/// From this d on a panel of codes exceeds L1 and is streamed from L2.
constexpr index_t large_d = 64;

/// Codes minus their centre, packed in panels of float32.
struct code_panels {
    const float* values;      ///< [count][width][codes of a panel]
    const float* half_norms;  ///< ||c||^2 / 2 [count][codes of a panel]; infinite: not eligible
    index_t count;            ///< number of panels
    index_t width;            ///< d
};

/// 32-bit index of a code, panel, leaf or group: as wide as a lane of scores.
using index32 = std::int32_t;

/// Indices of the bits that are set, in ascending order, for every byte.
constexpr auto set_bits_of_byte = [] {
    std::array<std::array<std::uint8_t, 8>, 256> all{};
    for (unsigned bits = 0; bits < 256; ++bits) {
        std::size_t count = 0;
        for (std::uint8_t i = 0; i < 8; ++i) {
            if ((bits >> i & 1U) != 0) {
                all[bits][count++] = i;
            }
        }
    }
    return all;
}();

/// The best float32 scores of a query. A column of a panel is the codes of one lane: code, code + lanes, ...
struct best_scores {
    float best;    ///< smallest score of all codes
    float second;  ///< smallest score outside the column of `code`
    index_t code;  ///< first code of the column with the best score
};

/// Largest d of the k-d tree: in more dimensions it prunes too few codes.
constexpr index_t max_kd_tree_d = 8;

/// Codes are quantised to int16 values in [-4095, 4095]. Queries may have values twice as large: a squared distance in
/// eight columns, and what is added to it, stays below 2^31.
constexpr std::int32_t max_int16_value = 4095;

/// Bound of the error of float32 arithmetic when a row is quantised to int16, in quantisation steps.
constexpr float int16_rounding_error = 0.01F;

/// Codes in a leaf.
constexpr index_t leaf_size = 16;

/// The k-d tree of codes quantised to int16. Codes are in leaf order; a group is as many leaves as a SIMD vector has
/// lanes. Columns are interleaved in pairs. Padding of the last leaves and groups is farther than every code.
struct kd_tree_view {
    const std::int16_t* negated_codes;  ///< -q [panels][width / 2][lanes][2]
    const std::int32_t* half_norms;     ///< ||q||^2 / 2 rounded down [panels][lanes]
    const std::int16_t* leaf_boxes;     ///< bounding boxes [groups][width / 2][min, max][lanes][2]
    const std::int16_t* group_boxes;    ///< likewise, of groups
    const index32* ids;                 ///< leaf order -> code
    index_t groups;                     ///< a multiple of the lanes
    index_t width;                      ///< 4 or 8
    index32 leaf_mask;                  ///< low bits that hold a leaf index
    float scale;                        ///< quantisation steps per unit of length
    float error;                        ///< bound of the codes' quantisation errors, in steps
};

/// Queries of a tile of the k-d tree search.
constexpr index_t kd_tile_queries = 16;

/// Scratch memory of the k-d tree search.
struct kd_scratch {
    std::int32_t* group_distances;  ///< [queries of a tile][groups]
    index32* leaves;                ///< leaves that are not pruned [queries of a tile][capacity]
    index32* selected;              ///< leaves or groups to visit [capacity]
    index_t capacity;               ///< at least the number of leaves and one SIMD vector
};

/// Candidates of a query: the codes that the k-d tree search does not prune.
struct kd_candidates {
    index32 ids[16];  ///< as many as a SIMD vector has lanes
    index32 count;    ///< -1: undecided
};

/// With fewer columns float32 scores are as fast; with more the error bound of int8 scores is not proven.
constexpr index_t min_int8_d = 16;
constexpr index_t max_int8_d = 4096;

/// Below this size of a codebook, K d, float32 scores are as fast.
constexpr index_t min_int8_size = index_t{1} << 15;

/// Shape of a register tile of int8 scores.
struct int8_tile {
    static constexpr index_t queries = 8;
    static constexpr index_t code_vectors = 3;
    static constexpr index_t codes = code_vectors * 16;  ///< codes in a panel
};

/// Capacity of the candidate list of a query, one panel included.
constexpr index_t int8_list_capacity = 256;

/// Summary of a row x quantised to int8 with a scale of its own, x ~ scale q, |q| <= 127.
struct int8_row {
    float scale;          ///< 0: x is too small
    float squared_norm;   ///< ||q||^2
    float squared_error;  ///< ||x / scale - q||^2
    std::int32_t sum;     ///< sum of q
};

/// Codes quantised to int8, packed in panels.
struct int8_codes {
    const std::int32_t* values;  ///< 128 + q, four columns to a value [panels][quads][codes of a panel]
    const float* scales;         ///< [K]
    const float* half_norms;     ///< [K], of the float32 codes
    index_t panels;
    index_t quads;  ///< groups of four columns
};

/// A quantised query. With the int8 product p = scale (q . q_c), the float32 score of a code of scale s_c is at least
/// ||c||^2 / 2 - s_c (p + error), and exceeds that lower bound by at most 2 s_c error; `slack` covers float32 rounding.
struct int8_query {
    float scale = 0;
    float error = 0;
    float slack = 0;
    float bound = std::numeric_limits<float>::max();  ///< codes whose lower bound exceeds it are pruned
    std::int32_t offset = 0;                          ///< cancels the 128 that is added to the codes
    std::int32_t count = 0;                           ///< candidates; -1: undecided

    bool undecided() const { return count < 0; }

    /// Leaves the query to float32 scores. Every code is pruned: no lower bound is at most NaN.
    void set_undecided() {
        bound = std::numeric_limits<float>::quiet_NaN();
        count = -1;
    }
};

/// Candidate lists of the queries [queries][int8_list_capacity].
struct int8_candidates {
    float* lower_bounds;
    index32* ids;
};

/// Callback for the codes that may be nearest to an ambiguous query.
struct candidate_visitor {
    void* context;
    void (*visit)(void* context, index_t query, index_t code);
};

/// The nearest code so far and its distance.
struct best_match {
    double distance = std::numeric_limits<double>::infinity();
    index_t id = -1;

    /// Keeps the nearer code; of equally near ones, the lower id.
    void update(double other_distance, index_t other) {
        if (other_distance < distance || (other_distance == distance && other < id)) {
            distance = other_distance;
            id = other;
        }
    }
};

/// The codes [count x width] as they are stored, for distances in float64.
template <class T>
struct code_rows {
    const T* data;
    index_t count;
    index_t width;
    index_t stride;
    const float* half_norms;  ///< infinite: not eligible

    bool is_eligible(index_t id) const { return id < count && half_norms[id] <= std::numeric_limits<float>::max(); }
    const T* row(index_t id) const { return data + id * stride; }
};

/// The register tile for codes of a width.
tile_shape tile_shape_for(simd level, index_t width);

/// Finds the best float32 scores of `tiles` tiles of queries. minima: scratch memory, three SIMD vectors per query.
void find_best_scores(simd level, const code_panels& codes, const float* queries, index_t tiles, float* minima,
                      best_scores* out);

/// Lanes of a SIMD vector of the k-d tree search; 0: not available.
index_t kd_search_lanes(simd level);

/// Finds the candidates of `count` queries, centre subtracted; rows [count][codes.width]. Returns the number of leaves
/// visited.
index_t kd_search(simd level, const kd_tree_view& codes, const float* rows, index_t count, const kd_scratch& scratch,
                  kd_candidates* out);

/// Visits every code whose float32 score is not above the query's threshold, for `tiles` tiles of queries, the first
/// `count` of them in use.
void visit_candidates(simd level, const code_panels& codes, const float* queries, index_t tiles,
                      const float* thresholds, index_t count, const candidate_visitor& visitor);

/// Squared distances in float64 of a vector to `count` codes. The order of summation depends on the level.
template <class T>
void reassociated_distances(simd level, const T* z, const code_rows<T>& rows, const index32* ids, index_t count,
                            double* out);

/// The kernels of int8 scores.
struct int8_kernels {
    int8_row (*quantise)(const float* x, index_t width, std::int8_t* q);
    void (*prune)(const int8_codes&, const std::int32_t* values, int8_query*, index_t tiles, const int8_candidates&);
};

/// Null where the processor has no int8 products.
const int8_kernels* int8_kernels_at(simd level);

}  // namespace isic::inline ISIC_ABI::detail::kernels
