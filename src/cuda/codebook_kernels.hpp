// SPDX-License-Identifier: Apache-2.0
/// \file
/// Kernels of codebook.cu: nearest-neighbour search. float32 scores ||c||^2/2 - z.c of queries z and codes c, both minus the
/// codes' mean, find the candidates; float64 distances re-rank them.
#pragma once

#include "kernel_types.hpp"

namespace isic::inline ISIC_ABI::cuda::detail {

constexpr int panel_rows = 128;     ///< rows of a packed panel
constexpr int codes_per_group = 8;  ///< consecutive codes; scores distinguish groups, not codes
constexpr int score_depth = 8;      ///< wide rows are padded to a multiple of this, narrow ones to 4, 8 or 16 columns

/// Packed codes: panels of rows, column by column.
struct code_panels {
    float* values;      ///< [count x width x panel_rows], a group's codes in two vectors
    float* half_norms;  ///< [count x panel_rows], infinite for rows that cannot win
    index_t count;
    index_t width;
    unsigned long long* largest_norm;  ///< bits of a double >= 0, which order as integers; initialise with 0
};

/// Packed queries.
struct query_panels {
    float* values;    ///< [count x width x panel_rows], signs changed
    double* margins;  ///< a lead of the least score above this is unambiguous; NaN for a query that is not finite
    index_t count;
    index_t width;
};

/// The least score of a query, its group, and the least score of the other groups.
struct best_scores {
    float least;
    float second;
    int group;
};

/// Arguments of least_scores.
struct score_arguments {
    query_panels queries;
    code_panels codes;
    index_t panels_per_split;
    best_scores* best;  ///< [splits x queries.count x panel_rows]
};

/// Number of partial sums of `center_of_rows`.
index_t center_parts(index_t rows);
/// center [d] = mean of the `count` rows without skip[k]; working memory sums [center_parts(rows) x d].
cudaError_t center_of_rows(const scaled_rows& m, const std::uint8_t* skip, index_t count, double* sums, float* center,
                           cudaStream_t stream);
cudaError_t pack_codes(const scaled_rows& m, const std::uint8_t* skip, const float* center, const code_panels& to,
                       cudaStream_t stream);
cudaError_t pack_queries(const scaled_rows& m, const float* center, const unsigned long long* largest_norm,
                         const query_panels& to, cudaStream_t stream);
/// Query panels per block of `least_scores`; `width` is padded.
index_t query_panels_per_block(index_t width);
/// Least scores over each of `splits` parts of the codebook.
cudaError_t least_scores(const score_arguments& a, index_t splits, cudaStream_t stream);

constexpr index_t search_tile = 64;  ///< queries and codes that a block compares at a time in float64

/// Arguments of nearest_codes.
struct search_arguments {
    scaled_rows queries;          ///< [n x d]
    scaled_rows codes;            ///< [K x d]
    const std::uint8_t* padding;  ///< [K]; null: none
    index_t first;                ///< the first code that may win; the result of queries that are not finite
    const best_scores* best;      ///< of least_scores
    index_t splits;
    index_t padded_queries;
    const double* margins;
    std::int64_t* ambiguous;              ///< [n], queries whose scores are ambiguous; written
    unsigned long long* ambiguous_count;  ///< initialise with 0
    index_t blocks;                       ///< number of blocks that search the ambiguous queries
    double* nearest;                      ///< [max(n, blocks * search_tile)], working memory
    std::int64_t* nearest_ids;            ///< the same
    std::int64_t* ids;                    ///< [n], written
};

/// ids[i] = the code of least ||q_i - c||^2 in float64; ties go to the lowest id. Codes with padding[k] != 0 never win.
cudaError_t nearest_codes(const search_arguments& a, cudaStream_t stream);

}  // namespace isic::inline ISIC_ABI::cuda::detail
