// Nearest codes: scores ||c||^2/2 - z.c in tiles of a few queries by a few vectors of codes, of which only the running
// minimum per lane is kept. Of narrow codes, which lie by place, a search leaves out most; of wide ones, scores in bytes do.
#ifndef ISIC_DETAIL_KERNELS_NEAREST_INL_ONCE
#define ISIC_DETAIL_KERNELS_NEAREST_INL_ONCE

#include <isic/detail/kernels/kernels.hpp>
#include <isic/detail/kernels/rows.hpp>
#include <isic/detail/kernels/targets.hpp>
#include <isic/detail/kernels/nearest.hpp>

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

/// body(tile) for codes of a width.
template <class Body>
HWY_INLINE auto with_tile(index_t width, const Body& body) {
    return width < wide_code ? body(narrow_tile()) : body(wide_tile());
}

/// How codes are packed.
inline tile_shape shape_of_tile(index_t width) {
    return with_tile(width, [&](auto t) HWY_ATTR { return tile_shape{t.queries, t.vectors, score_lanes}; });
}

/// What the scores say of `groups` tiles of queries. minima: memory for three vectors per query.
inline void find_least(const code_panels& codes, const float* queries, index_t groups, float* minima, least_score* out) {
    with_tile(codes.width, [&](auto t) HWY_ATTR {
        find_tile_minima<decltype(t)>(codes, queries, groups, minima);
        take_least(minima, groups * t.queries, t.codes, out);
    });
}

inline void settle(const code_panels& codes, const float* queries, index_t groups, const float* thresholds, index_t count,
                   const code_looker& looker) {
    with_tile(codes.width, [&](auto t) HWY_ATTR {
        settle_tiles<decltype(t)>(codes, queries, groups, thresholds, count, looker);
    });
}

}  // namespace isic::inline ISIC_ABI::detail::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif

#if HWY_ONCE && !defined(ISIC_DETAIL_KERNELS_NEAREST_INL_DISPATCH)
#define ISIC_DETAIL_KERNELS_NEAREST_INL_DISPATCH

namespace isic::inline ISIC_ABI::detail::kernels {

inline constexpr versions<tile_shape(index_t)> shape_versions = ISIC_VERSIONS(shape_of_tile);
inline constexpr versions<void(const code_panels&, const float*, index_t, float*, least_score*)> least_versions =
    ISIC_VERSIONS(find_least);
inline constexpr versions<index_t()> lanes_versions = ISIC_VERSIONS(lanes_of_search);
inline constexpr versions<index_t(const placed_codes&, const float*, index_t, const search_space&, placed_query*)> search_versions =
    ISIC_VERSIONS(search);
inline constexpr versions<void(const code_panels&, const float*, index_t, const float*, index_t, const code_looker&)>
    settle_versions = ISIC_VERSIONS(settle);
template <class T>
inline constexpr versions<void(const T*, const code_rows<T>&, const panel_id*, index_t, double*)> distance_versions =
    ISIC_VERSIONS(sum_distances<T>);

ISIC_INLINE tile_shape shape_of_tile(simd level, index_t width) {
    return choose(shape_versions, level)(width);
}

ISIC_INLINE void find_least(simd level, const code_panels& codes, const float* queries, index_t groups, float* minima,
                least_score* out) {
    choose(least_versions, level)(codes, queries, groups, minima, out);
}

ISIC_INLINE index_t lanes_of_search(simd level) {
    return choose(lanes_versions, level)();
}

ISIC_INLINE index_t search(simd level, const placed_codes& codes, const float* rows, index_t count, const search_space& space,
               placed_query* out) {
    return choose(search_versions, level)(codes, rows, count, space, out);
}

ISIC_INLINE void settle(simd level, const code_panels& codes, const float* queries, index_t groups, const float* thresholds,
            index_t count, const code_looker& looker) {
    choose(settle_versions, level)(codes, queries, groups, thresholds, count, looker);
}

template <class T>
void sum_distances(simd level, const T* z, const code_rows<T>& rows, const panel_id* places, index_t count, double* out) {
    choose(distance_versions<T>, level)(z, rows, places, count, out);
}

ISIC_INLINE const byte_kernels* byte_kernels_at([[maybe_unused]] simd level) {
#if defined(ISIC_HEADER_ONLY) && HWY_TARGET == HWY_AVX3 && defined(__AVX512VNNI__)
    static constexpr byte_kernels all{&HWY_STATIC_DISPATCH(round_to_bytes), &HWY_STATIC_DISPATCH(rule_out)};
    return level == simd::avx512_vnni ? &all : nullptr;
#elif !defined(ISIC_HEADER_ONLY) && (HWY_TARGETS & HWY_AVX3)
    static constexpr byte_kernels all{HWY_CHOOSE_AVX3(round_to_bytes), HWY_CHOOSE_AVX3(rule_out)};
    return std::min(level, best_simd()) == simd::avx512_vnni ? &all : nullptr;
#else
    return nullptr;
#endif
}

}  // namespace isic::inline ISIC_ABI::detail::kernels

#endif
