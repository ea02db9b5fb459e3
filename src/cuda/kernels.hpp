/// \file
/// The kernels as functions that queue them on a stream; pointers are device pointers unless a name says host.
///
/// Every function returns the status of the launch. Seen by nvcc: no Eigen, no header of isic that includes it.
#pragma once

#include <cstddef>
#include <cstdint>

#include <cuda_runtime_api.h>

#include <isic/cuda/layout.hpp>

namespace isic::inline ISIC_ABI::cuda {

/// An orthonormal basis, one direction a row: [rank x width]; rank 0 removes nothing.
template <class A>
struct directions_in {
    const A* directions;
    index_t rank;
    index_t width;
};
using basis_in = directions_in<double>;

constexpr std::uint64_t nothing_found = ~std::uint64_t{0};

/// What a look through values found; set all to nothing_found, any to 0 before.
struct findings {
    std::uint64_t not_finite;  ///< lowest row * cols + column that is NaN or infinite
    std::uint64_t bad_id;      ///< lowest position of an id outside its range
    std::uint64_t overflow;    ///< lowest row whose new values do not fit the dtype type
    std::uint64_t any;         ///< 1 if some value was not zero
};

/// What becomes of a row in a projection.
enum class outcome : std::uint8_t { stays, moved, near_zero };

// look.cu: reading

/// Finds values that are not finite, and whether any is not zero; rows with skip[k] != 0 are left out (null: none).
cudaError_t look_at_rows(rows_in m, const std::uint8_t* skip, findings* found, cudaStream_t stream);
/// Finds ids outside [0, codes).
cudaError_t look_at_ids(ids_in ids, index_t codes, findings* found, cudaStream_t stream);
/// out row i = m row ids[i] (null: row i) as float64, divided by its norm if asked; zero rows stay zero. out [n x cols] contiguous.
cudaError_t widen_rows(rows_in m, const std::int64_t* ids, index_t n, bool normalise, double* out, cudaStream_t stream);
/// counts[id] += 1. Ids outside [0, codes) are left out.
cudaError_t count_codes(ids_in ids, index_t codes, unsigned long long* counts, cudaStream_t stream);
/// to[k] += from[k].
cudaError_t add_counts(const unsigned long long* from, index_t n, unsigned long long* to, cudaStream_t stream);
/// What either found.
cudaError_t join_findings(const findings* from, findings* to, cudaStream_t stream);
/// Hash of the values' bytes and places (not of the gaps); *hash is set to 0 before.
cudaError_t hash_rows(rows_in m, unsigned long long* hash, cudaStream_t stream);

// differences.cu

/// Rows whose differences are added up together.
constexpr index_t rows_per_difference_part = 64;

/// out = harmful - safe, [n x d] float64, safe.data null: zero; sums [ceil(n / rows_per_difference_part) x d] += the sums over each
/// part's rows. NaN and infinity are found, counting rows from `first`, and left out as 0.
cudaError_t subtract_rows(rows_in harmful, rows_in safe, index_t first, double* out, double* sums, findings* found,
                          cudaStream_t stream);
/// out row t = codes[harmful[first + t]] - codes[safe[first + t]], t < n, and their sums; bad ids are found and give a row of zeros.
cudaError_t subtract_codes(rows_in codes, ids_in harmful, ids_in safe, index_t first, index_t n, double* out,
                           double* sums, findings* found, cudaStream_t stream);
/// out row k = sqrt(counts[k]) * codes[k], [K x d] float64: its Gram matrix is the counted codes' second moment.
cudaError_t weigh_codes(rows_in codes, const unsigned long long* counts, double* out, cudaStream_t stream);

/// Copies the lower triangle of a column-major n x n matrix to the upper.
cudaError_t mirror_lower(double* a, index_t n, cudaStream_t stream);

// project.cu

struct projection_arguments {
    rows_out codes;
    const double* directions;  ///< [rank x d]; null: the identity, a full remap
    index_t rank;
    const double* weights;     ///< [rank]; null: all 1
    const double* strengths;   ///< [K]; null: `strength` for all
    double strength;
    const double* target;      ///< [K x d] contiguous; null: the centre
    const double* center;      ///< [d]; null: zero
    const std::uint8_t* padding;  ///< [K]; null: none
    bool keep_norms;
    bool normalised;           ///< rows are read divided by their norms
    double near_zero_below;
    outcome* outcomes;         ///< [K], written
    findings* found;           ///< overflow is reported; the row stays as it was
};

/// Widest row the projection and the updates take: a row's working values must fit shared memory.
constexpr index_t widest_row = 4096;

cudaError_t project_rows(const projection_arguments& a, cudaStream_t stream);
/// m row to[i] = m row from[i], bytes; outcomes[to[i]] says whether they changed. No row is both.
cudaError_t replace_rows(rows_out m, const std::int64_t* to, const std::int64_t* from, index_t n, outcome* outcomes, cudaStream_t stream);
/// m row to[i] = 0; outcomes[to[i]] says whether they changed.
cudaError_t clear_rows(rows_out m, const std::int64_t* to, index_t n, outcome* outcomes, cudaStream_t stream);

// measure.cu: one partial result per block of rows, so that sums are the same in every run

constexpr index_t rows_per_partial = 256;

struct leakage_part {
    double inside;   ///< sum ||(c - center) V||^2
    double all;      ///< sum ||c - center||^2
    double largest;  ///< of the rows' shares, squared
};
/// parts [ceil(K / rows_per_partial)]. Rows are read divided by their norms if asked.
cudaError_t measure_leakage(rows_in codes, basis_in basis, const double* center, const std::uint8_t* padding, bool normalise,
                            leakage_part* parts, cudaStream_t stream);

/// norms [rows].
cudaError_t measure_norms(rows_in m, double* norms, cudaStream_t stream);

struct drift_part {
    double change;    ///< sum ||a - b||^2
    double whole;     ///< sum ||b||^2
    double distance;  ///< sum ||a - b||
    double largest;   ///< max ||a - b||
    double moved;     ///< rows that differ
};
cudaError_t measure_drift(rows_in before, rows_in after, const std::uint8_t* padding, drift_part* parts, cudaStream_t stream);
/// *differing += positions where a and b differ.
cudaError_t count_differing(const std::int64_t* a, const std::int64_t* b, index_t n, unsigned long long* differing, cudaStream_t stream);

/// Rows that are read divided by their norms where those are not 0; norms null: as they are.
struct scaled_rows {
    rows_in rows;
    const double* norms;  ///< [rows]
};

// scores.cu: ||c||^2/2 - z.c in float32, of queries z and codes c less the codes' mean, padded to `width` columns and packed in
// panels, column by column

constexpr int panel_rows = 128;
constexpr int codes_per_group = 8;  ///< one after another; scores tell groups apart, not codes
constexpr int score_depth = 8;      ///< what wide rows are padded to a multiple of; narrow ones to 4, 8 or 16 columns

struct code_panels {
    float* values;                     ///< [count x width x panel_rows], a group's codes in two pieces
    float* half_norms;                 ///< [count x panel_rows], infinite where nothing may win
    index_t count;
    index_t width;
    unsigned long long* largest_norm;  ///< bits of a double >= 0, which order as integers; 0 before
};
struct query_panels {
    float* values;    ///< [count x width x panel_rows], signs changed
    double* margins;  ///< by how much the least score must be ahead for no doubt to be left; NaN for a query that is not finite
    index_t count;
    index_t width;
};
/// The least score of a query, the least outside of its group, and the group.
struct found_scores {
    float least;
    float second;
    int group;
};
struct score_arguments {
    query_panels queries;
    code_panels codes;
    index_t panels_per_split;
    found_scores* found;  ///< [splits x queries.count x panel_rows]
};

/// Parts in which `center_of_rows` adds up.
index_t center_parts(index_t rows);
/// center [d] = the mean of the `count` rows without skip[k]; sums [center_parts(rows) x d] is working memory.
cudaError_t center_of_rows(const scaled_rows& m, const std::uint8_t* skip, index_t count, double* sums, float* center, cudaStream_t stream);
cudaError_t pack_codes(const scaled_rows& m, const std::uint8_t* skip, const float* center, const code_panels& to, cudaStream_t stream);
cudaError_t pack_queries(const scaled_rows& m, const float* center, const unsigned long long* largest_norm, const query_panels& to,
                         cudaStream_t stream);
/// Panels of queries that one block of `least_scores` takes, whose padded width this is.
index_t query_panels_per_block(index_t width);
/// Least scores over each of `splits` parts of the codebook.
cudaError_t least_scores(const score_arguments& a, index_t splits, cudaStream_t stream);

// nearest.cu

constexpr index_t nearest_tile = 64;  ///< queries and codes that one block compares at a time in float64

struct look_up {
    scaled_rows queries;           ///< [n x d]
    scaled_rows codes;             ///< [K x d]
    const std::uint8_t* padding;   ///< [K]; null: none
    index_t first;                 ///< the first code that may win; it answers queries that are not finite
    const found_scores* found;     ///< of least_scores
    index_t splits;
    index_t padded_queries;
    const double* margins;
    std::int64_t* open;            ///< [n], queries that the scores leave open
    unsigned long long* open_count;  ///< 0 before
    index_t blocks;                ///< that search the open ones side by side
    double* best;                  ///< [max(n, blocks * nearest_tile)], working memory
    std::int64_t* best_ids;        ///< the same
    std::int64_t* ids;             ///< [n], written
};

/// For each query the code of least ||q - c||^2 in float64; ties go to the lowest id. Codes with padding[k] != 0 never win.
cudaError_t nearest_codes(const look_up& l, cudaStream_t stream);

// update.cu

/// Limits on an update; as isic::constraint.
struct limits_in {
    const std::uint8_t* locked;  ///< [K]; null: none
    basis_in orthogonal_to;
    bool keep_norms;
    double within;               ///< infinity: no radius
    const double* anchor;        ///< [K x d]; null without a radius
};

/// What an update did; all zero before.
struct update_counts {
    unsigned long long moved;
    unsigned long long overflowed;
    unsigned long long largest_step;  ///< bits of a double >= 0, which order as integers
};

enum class update_rule : int { ridge, ema, sgd, adam };

struct update_arguments {
    update_rule rule;
    rows_out codes;
    limits_in limits;
    update_counts* done;
    // ridge, ema
    const double* counts;  ///< [K]
    const double* sums;    ///< [K x d]
    double lambda;
    double decay;
    // sgd, adam
    rows_in gradient;
    double rate;
    double momentum;
    double beta1;
    double beta2;
    double epsilon;
    double bias_correction1;
    double bias_correction2;
    // state, [K x d] and [K]
    rows_out first;        ///< ema: sums; sgd: velocity; adam: mean
    rows_out second;       ///< adam: square
    double* state_counts;  ///< ema: counts
};
cudaError_t update_rows(const update_arguments& a, cudaStream_t stream);

// rows.cu: the formulas alone, in the arithmetic A of the rows: double for float64, float for every other storage.
// Of a device with so many processors.

template <class A>
struct project_formula {
    rows_out rows;
    directions_in<A> directions;
    const A* strength;  ///< [n]; null: `uniform` for all
    A uniform;
    const A* center;    ///< [d]; null: zero
    const A* weights;   ///< [rank]; null: all 1
};
template <class A>
cudaError_t project_by_formula(const project_formula<A>& a, int processors, cudaStream_t stream);

template <class A>
struct adam_formula {
    rows_out codes;
    rows_in gradient;
    rows_out mean;               ///< [K x d] of A
    rows_out square;             ///< the same
    directions_in<A> directions;
    const std::uint8_t* locked;  ///< [K]; null: none
    A beta1;
    A beta2;
    A epsilon;
    A scale;                     ///< -rate / u1
    A unbias;                    ///< 1 / u2
};
template <class A>
cudaError_t adam_by_formula(const adam_formula<A>& a, int processors, cudaStream_t stream);

template <class A>
struct ema_formula {
    rows_out codes;
    rows_in vectors;
    const std::int64_t* order;   ///< positions of the vectors, sorted by code
    const std::int64_t* starts;  ///< [K + 1]: where each code's begin
    A* counts;                   ///< [K]
    A* sums;                     ///< [K x d]
    directions_in<A> directions;
    const std::uint8_t* locked;  ///< [K]; null: none
    A decay;
};
template <class A>
cudaError_t ema_by_formula(const ema_formula<A>& a, int processors, cudaStream_t stream);
/// One count of the present row per code: counts [K], sums [K x d].
template <class A>
cudaError_t start_ema(rows_in codes, A* counts, A* sums, cudaStream_t stream);

// update.cu and sort.cu: vectors by code

/// sums [K x d] and counts [K] of vectors by id, in the order of the vectors: the same in every run. Bad ids are left out.
/// order [n]: positions sorted by id, equal ids in their order; starts [K + 1]: where each code's positions begin.
cudaError_t sum_by_code(rows_in vectors, const std::int64_t* order, const std::int64_t* starts, index_t codes, double* counts, double* sums,
                        cudaStream_t stream);
/// Where a function gets working memory from, in stream order; allocate throws.
struct memory_source {
    void* context;
    void* (*allocate)(void* context, std::size_t bytes);
    void (*release)(void* context, void* memory, std::size_t bytes);
};
/// order and starts for sum_by_code.
cudaError_t sort_by_code(ids_in ids, index_t codes, std::int64_t* order, std::int64_t* keys, std::int64_t* starts, memory_source source,
                         cudaStream_t stream);

}  // namespace isic::inline ISIC_ABI::cuda
