// SPDX-License-Identifier: Apache-2.0
// The packed basis: basis vectors in the order in which the kernels read them.
#ifndef ISIC_DETAIL_KERNELS_PACKED_BASIS_INL_ONCE
#define ISIC_DETAIL_KERNELS_PACKED_BASIS_INL_ONCE

#include <algorithm>

#include <isic/detail/kernels/kernels.hpp>
#include <isic/detail/kernels/rows.hpp>
#include <isic/detail/kernels/targets.hpp>

#endif

// Compiled once per instruction set.
#if defined(ISIC_DETAIL_KERNELS_PACKED_BASIS_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef ISIC_DETAIL_KERNELS_PACKED_BASIS_INL
#undef ISIC_DETAIL_KERNELS_PACKED_BASIS_INL
#else
#define ISIC_DETAIL_KERNELS_PACKED_BASIS_INL
#endif

#include <isic/detail/kernels/pipeline-inl.hpp>

HWY_BEFORE_NAMESPACE();
namespace isic::inline ISIC_ABI::detail::kernels::HWY_NAMESPACE {

/// Number of values that `pack_basis` writes, plus a vector of zeros per basis vector of the last tile.
template <class T>
index_t packed_basis_size(index_t rank, index_t width, index_t alignment_offset) {
    constexpr index_t n = lanes<hn::ScalableTag<T>>;
    return (rank + 7) / 8 * 8 * ((alignment_offset + width + n - 1) / n) * n + 8 * n;
}

/// Packs the rows of a basis [rank x width] tile by tile: a vector of each row of the tile, then the next vector of each.
/// `alignment_offset` zeros come before each row; zeros fill up the last vectors and the last tile.
template <class T>
void pack_basis(const T* basis, index_t rank, index_t width, index_t alignment_offset, T* to) {
    constexpr index_t n = lanes<hn::ScalableTag<T>>;
    for (index_t first = 0; first < rank; first += 8) {
        const index_t count = rank - first < 8 ? rank - first : 8;
        for (index_t k = -alignment_offset; k < width; k += n) {
            for (index_t j = 0; j < basis_tile_width(count); ++j) {
                for (index_t lane = 0; lane < n; ++lane) {
                    const bool inside = j < count && k + lane >= 0 && k + lane < width;
                    *to++ = inside ? basis[(first + j) * width + k + lane] : T(0);
                }
            }
        }
    }
}

}  // namespace isic::inline ISIC_ABI::detail::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif

#if HWY_ONCE && !defined(ISIC_DETAIL_KERNELS_PACKED_BASIS_INL_DISPATCH)
#define ISIC_DETAIL_KERNELS_PACKED_BASIS_INL_DISPATCH

namespace isic::inline ISIC_ABI::detail::kernels {

template <class T>
inline constexpr versions<index_t(index_t, index_t, index_t)> packed_basis_size_versions =
    ISIC_VERSIONS(packed_basis_size<T>);
template <class T>
inline constexpr versions<void(const T*, index_t, index_t, index_t, T*)> pack_basis_versions =
    ISIC_VERSIONS(pack_basis<T>);

template <class T>
packed_basis<T>::packed_basis(const T* basis, index_t rank, index_t width, const T* center, const T* weights,
                              const execution& exec, index_t alignment_offset)
    : rank_(rank),
      width_(width),
      alignment_offset_(alignment_offset),
      values_(exec.scratch),
      center_products_(exec.scratch),
      weights_(exec.scratch) {
    const auto filled = static_cast<std::size_t>((rank + 7) / 8 * 8);
    values_.resize(
        static_cast<std::size_t>(choose(packed_basis_size_versions<T>, exec.simd)(rank, width, alignment_offset)));
    choose(pack_basis_versions<T>, exec.simd)(basis, rank, width, alignment_offset, values_.data());
    center_products_.assign(filled, T(0));
    weights_.assign(filled, T(0));
    for (index_t j = 0; j < rank; ++j) {
        const auto at = static_cast<std::size_t>(j);
        center_products_[at] = center == nullptr ? T(0) : static_cast<T>(dot(center, basis + j * width, width));
        weights_[at] = weights == nullptr ? T(1) : weights[j];
    }
}

template <class T>
small_d_projection<T> small_d_projection_of(const projection<T>& p, index_t d) {
    double matrix[small_d][small_d] = {};
    for (index_t r = 0; r < p.rank; ++r) {
        const T* v = p.basis + r * d;
        for (index_t i = 0; i < d; ++i) {
            for (index_t j = 0; j < d; ++j) {
                const double weight = p.weights == nullptr ? 1.0 : static_cast<double>(p.weights[r]);
                matrix[i][j] += weight * static_cast<double>(v[i]) * static_cast<double>(v[j]);
            }
        }
    }
    small_d_projection<T> out;
    for (index_t j = 0; j < d; ++j) {
        double projected_center = 0;
        for (index_t i = 0; i < d; ++i) {
            out.matrix[i][j] = static_cast<T>(matrix[i][j]);
            projected_center += p.center == nullptr ? 0.0 : static_cast<double>(p.center[i]) * matrix[i][j];
        }
        out.projected_center[j] = static_cast<T>(projected_center);
    }
    if (p.rank == 1) {
        out.rank_one = true;
        std::copy_n(p.basis, d, out.direction);
        out.center_product = p.center == nullptr ? T(0) : static_cast<T>(dot(p.center, p.basis, d));
        out.weight = p.weights == nullptr ? T(1) : p.weights[0];
    }
    return out;
}

}  // namespace isic::inline ISIC_ABI::detail::kernels

#endif
