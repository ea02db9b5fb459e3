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

/// How codes are packed for look-ups.
enum class code_packing {
    plain,    ///< soon packed; every look-up compares with all codes in float32
    indexed,  ///< so that a look-up soon leaves out most: d <= 8: near ones together, O(K log K); 16 <= d <= 4096: in bytes too
    best      ///< indexed if that makes look-ups faster: d <= 8 and K >= 1024, or d >= 16 and K d >= 32768
};

/// How to pack codes in `d` columns that only `vectors` vectors are looked up in: an index takes as long to make as it saves
/// some 4000 of them (d <= 8), or 64.
code_packing packing_for(index_t vectors, index_t d);

struct code_places;

/// Codes [K x d] packed once for many look-ups. Looks at the codes again to settle near ties: they must stay in place,
/// unchanged, as long as it is used. Takes 4 K d bytes of memory; indexed, 26 K more (d <= 8) or 5 K d. T: float, double.
template <class T>
class packed_codes {
public:
    /// padding [K]: codes with a value other than 0 never win, nor do those that are not finite; null: none.
    packed_codes(const T* codes, index_t count, index_t d, index_t stride, const std::uint8_t* padding = nullptr,
                 simd level = best_simd(), code_packing packing = code_packing::best);

    /// ids[i] = argmin_k ||z_i - c_k||^2 of the distances in float64, the lowest of equals, for z [n x d]; where their squares
    /// do not fit float64, of the distances scaled by a power of two, which takes K d flops a vector more.
    ///
    /// `distances` [n] may be null. The first code that may win answers a vector that is not finite, at distance NaN.
    /// At least one code must be able to win. The level is that of the packing. Cost 2 n K d flops, or a part of it where
    /// codes are indexed; allocates 256 d values per thread, and indexed 1.2 K more (d <= 8) or 2 KB per vector of a block of
    /// 256. Vectors with near ties, within the rounding of float32 (indexed, d <= 8: to 1 / 4095 of the largest value), take a
    /// second look of the whole cost, together.
    void nearest(const T* vectors, index_t n, index_t stride, index_t* ids, double* distances,
                 const execution& exec = {}) const;

private:
    std::vector<index_t> find_winners(const std::uint8_t* padding);  // and their mean and the first of them
    void pack(index_t code, index_t panel);
    void pack_in_bytes(const std::vector<index_t>& winners);

    const T* codes_;
    index_t count_;
    index_t width_;
    index_t stride_;
    simd level_;
    detail::buffer<T> center_;          // of the codes, taken off: norms become small beside distances
    detail::buffer<float> panels_;      // [panels][d][codes of a panel]
    detail::buffer<float> half_norms_;  // ||c||^2 / 2, infinite where nothing may win
    std::shared_ptr<const code_places> places_;  // null unless codes are searched by place
    detail::buffer<std::int32_t> bytes_;  // [panels][fours of columns][codes of a panel], four values of 128 and more each
    detail::buffer<float> byte_scales_;
    double byte_norm_ = 0;  // the largest norm of a code, and what it lost by rounding, in units of its scale
    double byte_lost_ = 0;
    double largest_norm_ = 0;
    index_t first_ = 0;  // the first code that may win
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
#include <isic/detail/kernels/packed_basis-inl.hpp>
#include <isic/detail/kernels/project-inl.hpp>
#include <isic/detail/kernels/gram-inl.hpp>
#include <isic/detail/kernels/adam-inl.hpp>
#include <isic/detail/kernels/ema-inl.hpp>
#include <isic/detail/kernels/nearest-inl.hpp>
#include <isic/detail/kernels/kd_tree-inl.hpp>
#include <isic/detail/kernels/packed_codes-inl.hpp>
#endif
