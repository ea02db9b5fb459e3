// SPDX-License-Identifier: Apache-2.0
// Nearest-neighbour search: float32 scores ||c||^2 / 2 - z.c in register tiles, reduced to running minima per lane. A
// k-d tree (small d) or int8 scores (larger d) prune most codes first.
#ifndef ISIC_DETAIL_KERNELS_NEAREST_INL_ONCE
#define ISIC_DETAIL_KERNELS_NEAREST_INL_ONCE

#include <isic/detail/kernels/kernels.hpp>
#include <isic/detail/kernels/nearest.hpp>
#include <isic/detail/kernels/rows.hpp>
#include <isic/detail/kernels/targets.hpp>

#endif

// Compiled once per instruction set.
#if defined(ISIC_DETAIL_KERNELS_NEAREST_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef ISIC_DETAIL_KERNELS_NEAREST_INL
#undef ISIC_DETAIL_KERNELS_NEAREST_INL
#else
#define ISIC_DETAIL_KERNELS_NEAREST_INL
#endif

#include <isic/detail/kernels/int8-inl.hpp>
#include <isic/detail/kernels/kd_search-inl.hpp>

HWY_BEFORE_NAMESPACE();
namespace isic::inline ISIC_ABI::detail::kernels::HWY_NAMESPACE {

/// body(tile) with the register tile for codes of a width.
template <class Body>
HWY_INLINE auto with_tile(index_t width, const Body& body) {
    return width < large_d ? body(small_d_tile()) : body(large_d_tile());
}

inline tile_shape tile_shape_for(index_t width) {
    return with_tile(width, [&](auto t) HWY_ATTR { return tile_shape{t.queries, t.code_vectors, score_lanes}; });
}

inline void find_best_scores(const code_panels& codes, const float* queries, index_t tiles, float* minima,
                             best_scores* out) {
    with_tile(codes.width, [&](auto t) HWY_ATTR {
        find_tile_minima<decltype(t)>(codes, queries, tiles, minima);
        reduce_minima(minima, tiles * t.queries, t.codes, out);
    });
}

inline void visit_candidates(const code_panels& codes, const float* queries, index_t tiles, const float* thresholds,
                             index_t count, const candidate_visitor& visitor) {
    with_tile(codes.width, [&](auto t) HWY_ATTR {
        visit_tile_candidates<decltype(t)>(codes, queries, tiles, thresholds, count, visitor);
    });
}

}  // namespace isic::inline ISIC_ABI::detail::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif

#if HWY_ONCE && !defined(ISIC_DETAIL_KERNELS_NEAREST_INL_DISPATCH)
#define ISIC_DETAIL_KERNELS_NEAREST_INL_DISPATCH

namespace isic::inline ISIC_ABI::detail::kernels {

inline constexpr versions<tile_shape(index_t)> tile_shape_versions = ISIC_VERSIONS(tile_shape_for);
inline constexpr versions<void(const code_panels&, const float*, index_t, float*, best_scores*)> best_scores_versions =
    ISIC_VERSIONS(find_best_scores);
inline constexpr versions<index_t()> kd_search_lanes_versions = ISIC_VERSIONS(kd_search_lanes);
inline constexpr versions<index_t(const kd_tree_view&, const float*, index_t, const kd_scratch&, kd_candidates*)>
    kd_search_versions = ISIC_VERSIONS(kd_search);
inline constexpr versions<void(const code_panels&, const float*, index_t, const float*, index_t,
                               const candidate_visitor&)>
    visit_versions = ISIC_VERSIONS(visit_candidates);
template <class T>
inline constexpr versions<void(const T*, const code_rows<T>&, const index32*, index_t, double*)> distance_versions =
    ISIC_VERSIONS(reassociated_distances<T>);

ISIC_INLINE tile_shape tile_shape_for(simd level, index_t width) {
    return choose(tile_shape_versions, level)(width);
}

ISIC_INLINE void find_best_scores(simd level, const code_panels& codes, const float* queries, index_t tiles,
                                  float* minima, best_scores* out) {
    choose(best_scores_versions, level)(codes, queries, tiles, minima, out);
}

ISIC_INLINE index_t kd_search_lanes(simd level) {
    return choose(kd_search_lanes_versions, level)();
}

ISIC_INLINE index_t kd_search(simd level, const kd_tree_view& codes, const float* rows, index_t count,
                              const kd_scratch& scratch, kd_candidates* out) {
    return choose(kd_search_versions, level)(codes, rows, count, scratch, out);
}

ISIC_INLINE void visit_candidates(simd level, const code_panels& codes, const float* queries, index_t tiles,
                                  const float* thresholds, index_t count, const candidate_visitor& visitor) {
    choose(visit_versions, level)(codes, queries, tiles, thresholds, count, visitor);
}

template <class T>
void reassociated_distances(simd level, const T* z, const code_rows<T>& rows, const index32* ids, index_t count,
                            double* out) {
    choose(distance_versions<T>, level)(z, rows, ids, count, out);
}

ISIC_INLINE const int8_kernels* int8_kernels_at([[maybe_unused]] simd level) {
#if defined(ISIC_HEADER_ONLY) && HWY_TARGET == HWY_AVX3 && defined(__AVX512VNNI__)
    static constexpr int8_kernels all{&HWY_STATIC_DISPATCH(quantise_to_int8), &HWY_STATIC_DISPATCH(prune)};
    return level == simd::avx512_vnni ? &all : nullptr;
#elif !defined(ISIC_HEADER_ONLY) && (HWY_TARGETS & HWY_AVX3)
    static constexpr int8_kernels all{HWY_CHOOSE_AVX3(quantise_to_int8), HWY_CHOOSE_AVX3(prune)};
    return std::min(level, best_simd()) == simd::avx512_vnni ? &all : nullptr;
#else
    return nullptr;
#endif
}

}  // namespace isic::inline ISIC_ABI::detail::kernels

#endif
