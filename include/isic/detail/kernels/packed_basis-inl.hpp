// Directions in the order in which the kernels read them.
#ifndef ISIC_DETAIL_KERNELS_PACKED_BASIS_INL_ONCE
#define ISIC_DETAIL_KERNELS_PACKED_BASIS_INL_ONCE

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

#include <isic/detail/kernels/vector_ops-inl.hpp>

HWY_BEFORE_NAMESPACE();
namespace isic::inline ISIC_ABI::detail::kernels::HWY_NAMESPACE {

/// Values that `pack_directions` writes, and a vector of zeros for each of the last directions.
template <class T>
index_t packed_size(index_t rank, index_t width, index_t lead) {
    constexpr index_t n = lanes<hn::ScalableTag<T>>;
    return (rank + 7) / 8 * 8 * ((lead + width + n - 1) / n) * n + 8 * n;
}

/// A vector of each of a few directions, behind `lead` zeros, then the next vectors; zeros fill up.
template <class T>
void pack_directions(const T* basis, index_t rank, index_t width, index_t lead, T* to) {
    constexpr index_t n = lanes<hn::ScalableTag<T>>;
    for (index_t first = 0; first < rank; first += 8) {
        const index_t count = rank - first < 8 ? rank - first : 8;
        for (index_t k = -lead; k < width; k += n) {
            for (index_t j = 0; j < together(count); ++j) {
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
inline constexpr versions<index_t(index_t, index_t, index_t)> packed_size_versions = ISIC_VERSIONS(packed_size<T>);
template <class T>
inline constexpr versions<void(const T*, index_t, index_t, index_t, T*)> pack_versions = ISIC_VERSIONS(pack_directions<T>);

template <class T>
packed_directions<T>::packed_directions(const T* basis, index_t rank, index_t width, const T* center, const T* weights,
                                        const execution& exec, index_t lead)
    : rank_(rank), width_(width), lead_(lead), packed_(exec.scratch), offset_(exec.scratch), weight_(exec.scratch) {
    const auto filled = static_cast<std::size_t>((rank + 7) / 8 * 8);
    packed_.resize(static_cast<std::size_t>(choose(packed_size_versions<T>, exec.simd)(rank, width, lead)));
    choose(pack_versions<T>, exec.simd)(basis, rank, width, lead, packed_.data());
    offset_.assign(filled, T(0));
    weight_.assign(filled, T(0));
    for (index_t j = 0; j < rank; ++j) {
        const auto at = static_cast<std::size_t>(j);
        offset_[at] = center == nullptr ? T(0) : static_cast<T>(dot(center, basis + j * width, width));
        weight_[at] = weights == nullptr ? T(1) : weights[j];
    }
}

template <class T>
narrow_projection<T> narrow_form(const projection<T>& p, index_t d) {
    double matrix[narrow][narrow] = {};
    for (index_t r = 0; r < p.rank; ++r) {
        const T* v = p.basis + r * d;
        for (index_t i = 0; i < d; ++i) {
            for (index_t j = 0; j < d; ++j) {
                const double weight = p.weights == nullptr ? 1.0 : static_cast<double>(p.weights[r]);
                matrix[i][j] += weight * static_cast<double>(v[i]) * static_cast<double>(v[j]);
            }
        }
    }
    narrow_projection<T> out;
    for (index_t j = 0; j < d; ++j) {
        double target = 0;
        for (index_t i = 0; i < d; ++i) {
            out.matrix[i][j] = static_cast<T>(matrix[i][j]);
            target += p.center == nullptr ? 0.0 : static_cast<double>(p.center[i]) * matrix[i][j];
        }
        out.target[j] = static_cast<T>(target);
        out.direction[j] = p.rank == 1 ? p.basis[j] : T(0);
    }
    out.single = p.rank == 1;
    out.weight = p.weights == nullptr || !out.single ? T(1) : p.weights[0];
    out.offset = p.center == nullptr || !out.single ? T(0) : static_cast<T>(dot(p.center, p.basis, d));
    return out;
}

}  // namespace isic::inline ISIC_ABI::detail::kernels

#endif
