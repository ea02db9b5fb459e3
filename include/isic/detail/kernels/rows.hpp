// SPDX-License-Identifier: Apache-2.0
/// \file
/// Arguments of the row kernels: row batches, and the packed basis that is projected out of them.
#pragma once

#include <isic/detail/kernels/targets.hpp>  // before Highway

#include <hwy/cache_control.h>

#include <isic/detail/kernels/kernels.hpp>

namespace isic::inline ISIC_ABI::detail::kernels {

/// Largest d of the small-d kernels, which multiply rows by the d x d matrix V W V^T in registers.
inline constexpr index_t small_d = 8;

/// Largest number of rows that the optimisers' kernels process as one block.
inline constexpr index_t max_block_rows = 16;

/// Prefetches a row of `width` values into every cache level.
template <class T>
HWY_INLINE void prefetch_row(const T* row, index_t width) {
    for (index_t k = 0; k < width; k += 64 / static_cast<index_t>(sizeof(T))) {
        hwy::Prefetch(row + k);
    }
}

/// Prefetches a row that is read once into L1 alone, so that it evicts nothing from the other levels.
template <class T>
HWY_INLINE void prefetch_row_once(const T* row, index_t width) {
#if HWY_COMPILER_GCC || HWY_COMPILER_CLANG
    for (index_t k = 0; k < width; k += 64 / static_cast<index_t>(sizeof(T))) {
        __builtin_prefetch(row + k, 0, 0);
    }
#else
    prefetch_row(row, width);
#endif
}

/// sum_k a_k b_k in float64.
template <class T>
double dot(const T* a, const T* b, index_t n) {
    double sum = 0;
    for (index_t k = 0; k < n; ++k) {
        sum += static_cast<double>(a[k]) * static_cast<double>(b[k]);
    }
    return sum;
}

/// Rows [n x width] and the strength s with which each is projected.
template <class T>
struct row_batch {
    T* data;
    index_t width;
    index_t stride;
    const T* strength;  ///< s [n]; null: `uniform`
    T uniform;          ///< s of every row

    T* row(index_t i) const { return data + i * stride; }
    T strength_of(index_t i) const { return strength == nullptr ? uniform : strength[i]; }
};

/// A packed basis, c <- c + s sum_j w_j (t . v_j - c . v_j) v_j.
template <class T>
struct packed_basis_view {
    const T* values;           ///< v_j in the order of `pack_basis`
    index_t rank;              ///< number of basis vectors, r
    index_t width;             ///< values per basis vector, d
    index_t alignment_offset;  ///< zeros before each v_j: values from the start of a cache line to the first row
    const T* center_products;  ///< t . v_j [r, and zeros to a multiple of 8]
    const T* weights;          ///< w_j, likewise
};

/// The owner of a `packed_basis_view`.
template <class T>
class packed_basis {
public:
    /// basis V^T [rank x width]; center t [width] and weights w [rank] may be null: zero and one.
    packed_basis(const T* basis, index_t rank, index_t width, const T* center, const T* weights, const execution& exec,
                 index_t alignment_offset = 0);

    packed_basis_view<T> view() const {
        return {values_.data(), rank_, width_, alignment_offset_, center_products_.data(), weights_.data()};
    }

private:
    index_t rank_;
    index_t width_;
    index_t alignment_offset_;
    detail::buffer<T> values_;
    detail::buffer<T> center_products_;
    detail::buffer<T> weights_;
};

/// A projection as a d x d matrix, d <= `small_d`: c <- c + s (t - c) M with M = V W V^T.
template <class T>
struct small_d_projection {
    T matrix[small_d][small_d] = {};   ///< M [d x d, and zeros]
    T projected_center[small_d] = {};  ///< t M [d, and zeros]
    bool rank_one = false;             ///< the rank is 1, and the fields below are set
    T direction[small_d] = {};         ///< v [d, and zeros]
    T center_product = 0;              ///< t . v
    T weight = 0;                      ///< w
};

template <class T>
small_d_projection<T> small_d_projection_of(const projection<T>& p, index_t d);

}  // namespace isic::inline ISIC_ABI::detail::kernels
