// SPDX-License-Identifier: Apache-2.0
/// \file
/// The SIMD kernels: operations on the rows of matrices in raw memory.
///
/// Kernels check nothing: callers check shapes, ids and ranges. Matrices are row-major; a stride is the number of values from
/// one row to the next, at least the width. Memory needs no alignment beyond that of its type. Unless a kernel says
/// otherwise, no two arguments overlap, and a row with NaN or infinity affects no other row.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <isic/detail/count_floor.hpp>
#include <isic/detail/ema_workspace.hpp>
#include <isic/execution.hpp>

namespace isic::inline ISIC_ABI::detail::kernels {

/// The projection c <- c + s (t - c) V W V^T of rows.
template <class T>
struct projection {
    const T* basis = nullptr;     ///< V^T [r x d], orthonormal rows, contiguous
    index_t rank = 0;             ///< r <= d
    const T* center = nullptr;    ///< t [d]; null: zero
    const T* strength = nullptr;  ///< s [n]; null: `uniform`. A row of strength 0 keeps its bytes
    T uniform = 1;                ///< s of every row
    const T* weights = nullptr;   ///< diagonal of W [r]; null: 1
};

/// Projects rows [n x d] in place. Cost 4 n d r flops; allocates r d values. The result is the same to the bit for any number
/// of threads. T: float, double.
template <class T>
void project(T* rows, index_t n, index_t d, index_t stride, const projection<T>& p, const execution& exec = {});

/// How codes are packed for nearest-neighbour search.
enum class code_packing {
    flat,     ///< float32 scores of all codes; the fastest to pack
    indexed,  ///< an index that prunes most codes: a k-d tree for d <= 8, O(K log K); int8 scores for 16 <= d <= 4096
    best      ///< indexed where that makes queries faster: d <= 8 and K >= 1024, or d >= 16 and K d >= 32768
};

/// The packing for a number of queries. Building an index pays off from about 4,000 queries (d <= 8), or 64.
code_packing packing_for(index_t queries, index_t d);

struct kd_tree;

/// Codes [K x d] packed for nearest-neighbour search. The codes must stay in place, unchanged: they are read again to re-rank.
/// Takes 4 K d bytes of memory; indexed, 26 K more (d <= 8) or 5 K d. Queries from several threads are safe. T: float, double.
template <class T>
class packed_codes {
public:
    /// padding [K], null: none. A code is eligible if its padding is 0 and its values are finite; at least one must be.
    packed_codes(const T* codes, index_t count, index_t d, index_t stride, const std::uint8_t* padding = nullptr,
                 simd level = best_simd(), code_packing packing = code_packing::best);

    /// ids[i] = argmin_k ||z_i - c_k||^2 over the eligible codes, in float64, for vectors z [n x d]; of equal distances, the
    /// lowest id. Where the squares overflow or underflow float64, distances are scaled by a power of two, at K d flops a vector.
    ///
    /// distances [n]: squared, may be null. A vector with NaN or infinity gets the first eligible code, at distance NaN. The SIMD
    /// level is that of the packing. Cost at most 2 n K d flops, less where codes are indexed. Allocates 256 d values per
    /// thread, and indexed 1.2 K more (d <= 8) or 2 KB per vector of a block of 256. Ambiguous vectors, whose nearest codes
    /// are within float32 rounding (indexed, d <= 8: within 1 / 4095 of the largest value), are compared with all codes again,
    /// a block at a time.
    void nearest(const T* vectors, index_t n, index_t stride, index_t* ids, double* distances,
                 const execution& exec = {}) const;

private:
    std::vector<index_t> find_eligible(const std::uint8_t* padding);  // sets the centre and the first eligible code
    void pack(index_t id, index_t panel);
    void pack_int8(const std::vector<index_t>& eligible);

    const T* codes_;
    index_t count_;
    index_t width_;
    index_t stride_;
    simd level_;
    detail::buffer<T> center_;             // mean of the codes; subtracted, so that scores round less
    detail::buffer<float> panels_;         // [panels][d][codes of a panel]
    detail::buffer<float> half_norms_;     // ||c||^2 / 2; infinite: not eligible
    std::shared_ptr<const kd_tree> tree_;  // null: none
    detail::buffer<std::int32_t>
        int8_values_;  // 128 + q, four columns to a value [panels][quads][codes of a panel]; or empty
    detail::buffer<float> int8_scales_;
    double int8_norm_ = 0;     // largest norm of a code plus its quantisation error, in units of its scale
    double int8_error_ = 0;    // largest quantisation error of a code, likewise
    double largest_norm_ = 0;  // upper bound of ||c - centre||
    index_t first_ = 0;        // first eligible code
};

/// Adds the upper triangle of D^T D [d x d] to `gram` in float64, D = rows [n x d], and the column sums [d] unless null. The
/// lower triangle of `gram` is neither read nor written. Products of two floats are exact.
///
/// Cost n d (d + 1) flops; allocates 128 d values, and d^2 per thread if there are several. Threads' sums are added in the order
/// of their rows, so that the result depends on the number of threads only. T: float, double.
template <class T>
void add_gram(const T* rows, index_t n, index_t d, index_t stride, double* gram, double* column_sums,
              const execution& exec = {});

/// `add_gram` with D = harmful - safe, both [n x d], subtracted in float64.
template <class T>
void add_difference_gram(const T* harmful, index_t harmful_stride, const T* safe, index_t safe_stride, index_t n,
                         index_t d, double* gram, double* column_sums, const execution& exec = {});

/// Copies the upper triangle of a matrix [d x d] to its lower triangle.
void mirror_upper(double* gram, index_t d);

/// The arrays of an Adam step: codes, gradient and moments [K x d], the moments with one stride.
template <class T>
struct adam_arrays {
    T* codes;
    index_t stride;
    const T* gradient;
    index_t gradient_stride;
    T* mean;    ///< first moment, m
    T* square;  ///< second moment, v
    index_t state_stride;
    index_t count;  ///< K
    index_t width;  ///< d
};

/// An Adam step under the projection P = I - V V^T.
template <class T>
struct adam_step {
    T rate = T(1e-3);                      ///< learning rate
    T beta1 = T(0.9);                      ///< decay of the first moment
    T beta2 = T(0.999);                    ///< decay of the second moment
    T epsilon = T(1e-8);                   ///< added to the divisor
    T bias_correction1 = 1;                ///< u1 = 1 - beta1^t
    T bias_correction2 = 1;                ///< u2 = 1 - beta2^t
    const T* basis = nullptr;              ///< V^T [r x d], orthonormal rows, contiguous
    index_t rank = 0;                      ///< r; 0: plain Adam
    const std::uint8_t* locked = nullptr;  ///< [K], not 0: the row and its moments keep their bytes; null: none
};

/// g' = P g, m <- beta1 m + (1 - beta1) g', v <- beta2 v + (1 - beta2) g'^2, c <- c - P rate (m / u1) / (sqrt(v / u2) +
/// epsilon), row by row in one pass. m and v are flushed to zero before they become denormal.
///
/// Cost 8 K d r flops and seven memory streams; allocates r d values, and 2 d values or 2 KB per thread. The result is the same
/// to the bit for any number of threads. T: float, double.
template <class T>
void adam(const adam_arrays<T>& arrays, const adam_step<T>& step, const execution& exec = {});

/// The arrays of an EMA step: codes and sums [K x d], counts [K], vectors [n x d].
template <class T>
struct ema_arrays {
    T* codes;
    index_t stride;
    T* counts;
    T* sums;
    index_t sums_stride;
    index_t count;  ///< K
    index_t width;  ///< d
    const T* vectors;
    index_t vectors_stride;
    index_t vector_count;  ///< n
};

/// A step of exponential moving averages under the projection P = I - V V^T.
template <class T>
struct ema_step {
    T decay = T(0.99);                     ///< a
    const T* basis = nullptr;              ///< V^T [r x d], orthonormal rows, contiguous
    index_t rank = 0;                      ///< r; 0: no projection
    const std::uint8_t* locked = nullptr;  ///< [K], not 0: the row does not move, its count and sum do; null: none
};

/// n_k <- a n_k + (1 - a) N_k, s_k <- a s_k + (1 - a) sum of the N_k vectors of code k, then c <- c + P (s_k / n_k - c) where
/// n_k > 0. n_k and s_k are flushed to zero where n_k < `count_floor`. ids [n] are in [0, K).
///
/// The result is the same to the bit for any number of threads. T: float, double; Id: std::int32_t, std::int64_t.
template <class T, class Id>
void ema(const ema_arrays<T>& arrays, const Id* ids, const ema_step<T>& step, ema_workspace<T>& space,
         const execution& exec = {});

}  // namespace isic::inline ISIC_ABI::detail::kernels

#ifdef ISIC_HEADER_ONLY
#include <isic/detail/kernels/adam-inl.hpp>
#include <isic/detail/kernels/ema-inl.hpp>
#include <isic/detail/kernels/gram-inl.hpp>
#include <isic/detail/kernels/kd_tree-inl.hpp>
#include <isic/detail/kernels/nearest-inl.hpp>
#include <isic/detail/kernels/packed_basis-inl.hpp>
#include <isic/detail/kernels/packed_codes-inl.hpp>
#include <isic/detail/kernels/project-inl.hpp>
#endif
