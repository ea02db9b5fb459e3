// Nearest codes: scores ||c||^2/2 - z.c in tiles of a few queries by a few vectors of codes, of which only the running
// minimum per lane is kept. Of narrow codes, which lie by place, most are not looked at; of wide ones, scores in bytes rule
// out most.
#include "targets.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "nearest.cpp"
#include <hwy/foreach_target.h>

#include "bytes-inl.hpp"
#include "search-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace isic::kernels::HWY_NAMESPACE {

/// body(tile) for codes of a width.
template <class Body>
HWY_INLINE auto with_tile(index_t width, bool by_place, const Body& body) {
    return by_place ? body(place_tile()) : width < wide_code ? body(narrow_tile()) : body(wide_tile());
}

/// How codes are packed, by place if that is asked and can be.
inline tile_shape shape_of_tile(index_t width, bool by_place) {
    const bool can = by_place && HWY_TARGET != HWY_SCALAR && width <= widest_by_place;
    return with_tile(width, can, [&](auto t) HWY_ATTR {
        return tile_shape{t.queries, t.vectors, score_lanes, can, !can ? width : width <= 4 ? 4 : 8};
    });
}

/// What the scores say of `groups` tiles of queries. minima: memory for three vectors per query.
inline void find_least(const code_panels& codes, const float* queries, index_t groups, [[maybe_unused]] const float* margins,
                       [[maybe_unused]] const search_lists& lists, float* minima, least_score* out) {
    const bool by_place = codes.leaf_boxes != nullptr;
#if HWY_TARGET != HWY_SCALAR
    if (by_place && codes.width == 4) {
        search_minima<4>(codes, queries, groups, margins, lists, minima);
    } else if (by_place) {
        search_minima<8>(codes, queries, groups, margins, lists, minima);
    }
#endif
    with_tile(codes.width, by_place, [&](auto t) HWY_ATTR {
        if (!by_place) {
            find_tile_minima<decltype(t)>(codes, queries, groups, minima);
        }
        take_least(minima, groups * t.queries, t.codes, out);
    });
}

inline void settle(const code_panels& codes, const float* queries, index_t groups, const float* thresholds, index_t count,
                   const code_looker& looker) {
    with_tile(codes.width, codes.leaf_boxes != nullptr, [&](auto t) HWY_ATTR {
        settle_tiles<decltype(t)>(codes, queries, groups, thresholds, count, looker);
    });
}

}  // namespace isic::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

#include <algorithm>

namespace isic::kernels {

namespace {

constexpr versions<tile_shape(index_t, bool)> shape_versions = ISIC_VERSIONS(shape_of_tile);
constexpr versions<void(const code_panels&, const float*, index_t, const float*, const search_lists&, float*, least_score*)>
    least_versions = ISIC_VERSIONS(find_least);
constexpr versions<void(const code_panels&, const float*, index_t, const float*, index_t, const code_looker&)>
    settle_versions = ISIC_VERSIONS(settle);
template <class T>
constexpr versions<void(const T*, const code_rows<T>&, const panel_id*, index_t, double*)> distance_versions =
    ISIC_VERSIONS(sum_distances<T>);

}  // namespace

tile_shape shape_of_tile(simd level, index_t width, bool by_place) {
    return choose(shape_versions, level)(width, by_place);
}

void find_least(simd level, const code_panels& codes, const float* queries, index_t groups, const float* margins,
                const search_lists& lists, float* minima, least_score* out) {
    choose(least_versions, level)(codes, queries, groups, margins, lists, minima, out);
}

void settle(simd level, const code_panels& codes, const float* queries, index_t groups, const float* thresholds,
            index_t count, const code_looker& looker) {
    choose(settle_versions, level)(codes, queries, groups, thresholds, count, looker);
}

template <class T>
void sum_distances(simd level, const T* z, const code_rows<T>& rows, const panel_id* places, index_t count, double* out) {
    choose(distance_versions<T>, level)(z, rows, places, count, out);
}

template void sum_distances(simd, const float*, const code_rows<float>&, const panel_id*, index_t, double*);
template void sum_distances(simd, const double*, const code_rows<double>&, const panel_id*, index_t, double*);

const byte_kernels* byte_kernels_at([[maybe_unused]] simd level) {
#if HWY_TARGETS & HWY_AVX3
    static constexpr byte_kernels all{HWY_CHOOSE_AVX3(round_to_bytes), HWY_CHOOSE_AVX3(rule_out)};
    return std::min(level, best_simd()) == simd::avx512_vnni ? &all : nullptr;
#else
    return nullptr;
#endif
}

}  // namespace isic::kernels

#endif  // HWY_ONCE
