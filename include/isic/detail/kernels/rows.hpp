/// \file
/// What the kernels are told about rows and directions.
#pragma once

#include <isic/detail/kernels/targets.hpp>  // before Highway

#include <hwy/cache_control.h>

#include <isic/detail/kernels/kernels.hpp>

namespace isic::inline ISIC_ABI::detail::kernels {

/// Brings a row into the cache.
template <class T>
HWY_INLINE void prefetch_row(const T* row, index_t width) {
    for (index_t k = 0; k < width; k += 64 / static_cast<index_t>(sizeof(T))) {
        hwy::Prefetch(row + k);
    }
}

/// Brings a row that is read but once into the nearest cache, and no other: it leaves the others what they hold.
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

/// Directions that are taken out of rows, c <- c + s sum_j w_j (t . v_j - c . v_j) v_j.
template <class T>
struct directions {
    const T* packed;  ///< v_j, as `pack_directions` of the level writes them
    index_t rank;
    index_t width;
    index_t lead;     ///< zeros before a packed direction, for rows that are read from the cache line on in which they begin
    const T* offset;  ///< t . v_j; as many values as directions with the zeros that fill up
    const T* weight;  ///< w_j, likewise
};

/// Owns the memory of `directions`.
template <class T>
class packed_directions {
public:
    /// basis [rank x width], center [width] and weights [rank] may be null.
    packed_directions(const T* basis, index_t rank, index_t width, const T* center, const T* weights, const execution& exec,
                      index_t lead = 0);
    directions<T> view() const { return {packed_.data(), rank_, width_, lead_, offset_.data(), weight_.data()}; }

private:
    index_t rank_;
    index_t width_;
    index_t lead_;
    detail::buffer<T> packed_;
    detail::buffer<T> offset_;
    detail::buffer<T> weight_;
};

constexpr index_t max_block_rows = 16;  ///< rows of a block in the optimisers' kernels

constexpr index_t narrow = 8;  ///< widths up to this one use the d x d matrix

/// V W V^T and t V W V^T of a narrow projection, and its single direction if the rank is 1.
template <class T>
struct narrow_projection {
    T matrix[narrow][narrow] = {};
    T target[narrow] = {};
    T direction[narrow] = {};
    T offset = 0;  ///< t . v
    T weight = 0;
    bool single = false;
};

template <class T>
narrow_projection<T> narrow_form(const projection<T>& p, index_t d);

/// sum_k a_k b_k in float64.
template <class T>
double dot(const T* a, const T* b, index_t n) {
    double sum = 0;
    for (index_t k = 0; k < n; ++k) {
        sum += static_cast<double>(a[k]) * static_cast<double>(b[k]);
    }
    return sum;
}

/// Rows of a matrix and how strongly each is projected.
template <class T>
struct strong_rows {
    T* data;
    index_t width;
    index_t stride;
    const T* strength;  ///< null: `uniform`
    T uniform;

    T* row(index_t i) const { return data + i * stride; }
    T at(index_t i) const { return strength == nullptr ? uniform : strength[i]; }
};

}  // namespace isic::inline ISIC_ABI::detail::kernels
