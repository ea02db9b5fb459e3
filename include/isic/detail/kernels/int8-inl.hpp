// SPDX-License-Identifier: Apache-2.0
/// \file
/// Int8 scores, for processors with int8 products: four times as many products per instruction as in float32. The
/// quantisation error is bounded, so that pruning never loses the nearest code. Compiled once per instruction set.
// Guarded as Highway asks: once per instruction set.
#if defined(ISIC_DETAIL_KERNELS_INT8_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef ISIC_DETAIL_KERNELS_INT8_INL
#undef ISIC_DETAIL_KERNELS_INT8_INL
#else
#define ISIC_DETAIL_KERNELS_INT8_INL
#endif

#include <isic/detail/kernels/scores-inl.hpp>

#if HWY_TARGET == HWY_AVX3

HWY_BEFORE_NAMESPACE();
namespace isic::inline ISIC_ABI::detail::kernels::HWY_NAMESPACE {

/// s + p0 q0 + p1 q1 + p2 q2 + p3 q3 in every lane, p unsigned, q signed. Not every supported version of Highway has
/// this instruction.
HWY_INLINE int32_vector add_products(int32_vector s, int32_vector p, int32_vector q) {
    asm("vpdpbusd %2, %1, %0" : "+v"(s.raw) : "v"(p.raw), "v"(q.raw));
    return s;
}

/// Quantises x [width, and zeros to a whole vector] to q, likewise.
inline int8_row quantise_to_int8(const float* x, index_t width, std::int8_t* q) {
    const float_tag d;
    const hn::Rebind<std::int8_t, float_tag> d8;
    constexpr index_t n = score_lanes;
    float_vector largest = hn::Zero(d);
    for (index_t k = 0; k < width; k += n) {
        largest = hn::Max(largest, hn::Abs(hn::LoadU(d, x + k)));
    }
    const float scale = hn::GetLane(hn::MaxOfLanes(d, largest)) / 127;
    const bool representable = scale >= std::numeric_limits<float>::min();
    const float_vector inverse = hn::Set(d, representable ? 1 / scale : 0);
    float_vector squared_norm = hn::Zero(d);
    float_vector squared_error = hn::Zero(d);
    int32_vector sum = hn::Zero(int32_tag());
    for (index_t k = 0; k < width; k += n) {
        const float_vector scaled = hn::Mul(hn::LoadU(d, x + k), inverse);
        const int32_vector whole = hn::NearestInt(scaled);
        const float_vector rounded = hn::ConvertTo(d, whole);
        const float_vector error = hn::Sub(scaled, rounded);
        squared_norm = hn::MulAdd(rounded, rounded, squared_norm);
        squared_error = hn::MulAdd(error, error, squared_error);
        sum = hn::Add(sum, whole);
        hn::StoreU(hn::DemoteTo(d8, whole), d8, q + k);
    }
    return {representable ? scale : 0, hn::GetLane(hn::SumOfLanes(d, squared_norm)),
            hn::GetLane(hn::SumOfLanes(d, squared_error)), hn::GetLane(hn::SumOfLanes(int32_tag(), sum))};
}

/// The candidate list of a query.
struct int8_list {
    int8_query& query;
    float* lower_bounds;
    index32* ids;

    bool has_room() const { return query.count <= int8_list_capacity - int8_tile::codes; }

    /// Lowers the bound to the least upper bound of the scores of a panel. lower_bounds, scales: of its codes.
    HWY_INLINE void tighten_bound(const float* panel_bounds, const float* scales) {
        const float_tag d;
        float_vector least = hn::Set(d, query.bound);
        for (index_t i = 0; i < int8_tile::codes; i += score_lanes) {
            const float_vector width = hn::Mul(hn::Set(d, 2 * query.error), hn::LoadU(d, scales + i));
            const float_vector upper = hn::Add(hn::Add(hn::LoadU(d, panel_bounds + i), width), hn::Set(d, query.slack));
            least = hn::Min(least, upper);
        }
        query.bound = hn::GetLane(hn::MinOfLanes(d, least));
    }

    /// Appends the codes of a vector whose lower bounds are at most `bound`, the query's in all lanes.
    HWY_INLINE void append(float_vector lower, int32_vector id, float_vector bound) {
        const float_tag d;
        const int32_tag di;
        const auto selected = hn::Le(lower, bound);
        store_selected(d, lower, selected, lower_bounds + query.count);
        query.count += static_cast<index32>(store_selected(di, id, hn::RebindMask(di, selected), ids + query.count));
    }

    /// Drops the candidates that a lower bound has excluded since they were listed.
    HWY_INLINE void prune(float_vector bound) {
        const float_tag d;
        const index_t old_count = query.count;
        query.count = 0;
        for (index_t i = 0; i < old_count; i += score_lanes) {
            const auto in_use = first_lanes(d, old_count - i);
            const float_vector excluded = hn::Set(d, std::numeric_limits<float>::infinity());
            append(hn::IfThenElse(in_use, hn::LoadU(d, lower_bounds + i), excluded), hn::LoadU(int32_tag(), ids + i),
                   bound);
        }
    }
};

/// Adds the codes of a panel that are not pruned to a query's list. A query whose list overflows is undecided.
HWY_NOINLINE inline void add_candidates(const int8_codes& codes, index_t panel, const float* panel_bounds,
                                        int8_query& query, float* list_bounds, index32* list_ids) {
    int8_list list{query, list_bounds, list_ids};
    list.tighten_bound(panel_bounds, codes.scales + panel * int8_tile::codes);
    const float_vector bound = hn::Set(float_tag(), query.bound);
    if (!list.has_room()) {
        list.prune(bound);
        if (!list.has_room()) {
            query.set_undecided();
            return;
        }
    }
    for (index_t i = 0; i < int8_tile::codes; i += score_lanes) {
        list.append(hn::LoadU(float_tag(), panel_bounds + i), indices_from(panel * int8_tile::codes + i), bound);
    }
}

/// Integer products of a tile of queries [quads][queries] with a panel of codes [quads][codes].
HWY_INLINE void compute_int8_products(const std::int32_t* values, const int8_query* queries, const std::int32_t* panel,
                                      index_t quads, int32_vector (&sum)[int8_tile::queries][int8_tile::code_vectors]) {
    const int32_tag d;
    constexpr index_t n = score_lanes;
    constexpr index_t code_vectors = int8_tile::code_vectors;
    HWY_UNROLL(8)
    for (index_t i = 0; i < int8_tile::queries; ++i) {
        HWY_UNROLL(3)
        for (index_t v = 0; v < code_vectors; ++v) {
            sum[i][v] = hn::Set(d, queries[i].offset);
        }
    }
    for (index_t k = 0; k < quads; ++k) {
        const int32_vector code[code_vectors] = {hn::LoadU(d, panel), hn::LoadU(d, panel + n),
                                                 hn::LoadU(d, panel + 2 * n)};
        HWY_UNROLL(8)
        for (index_t i = 0; i < int8_tile::queries; ++i) {
            const int32_vector z = in_register(hn::Set(d, values[i]));
            HWY_UNROLL(3)
            for (index_t v = 0; v < code_vectors; ++v) {
                sum[i][v] = add_products(sum[i][v], code[v], z);
            }
        }
        panel += int8_tile::codes;
        values += int8_tile::queries;
    }
}

/// Lower bounds of the scores of a query and a panel of codes, from their integer products.
HWY_INLINE void compute_lower_bounds(const int32_vector (&product)[int8_tile::code_vectors], const int8_query& query,
                                     const float* scales, const float* half_norms,
                                     float_vector (&lower)[int8_tile::code_vectors]) {
    const float_tag d;
    HWY_UNROLL(3)
    for (index_t v = 0; v < int8_tile::code_vectors; ++v) {
        const float_vector upper =
            hn::MulAdd(hn::ConvertTo(d, product[v]), hn::Set(d, query.scale), hn::Set(d, query.error));
        lower[v] =
            hn::NegMulAdd(hn::LoadU(d, scales + v * score_lanes), upper, hn::LoadU(d, half_norms + v * score_lanes));
    }
}

/// Lower bounds of the scores of a query and a panel of codes, from their integer products; lists the codes not pruned.
HWY_INLINE void prune_panel(const int8_codes& codes, index_t p, const int32_vector (&product)[int8_tile::code_vectors],
                            int8_query& query, float* list_bounds, index32* list_ids) {
    const float_tag d;
    float_vector lower[int8_tile::code_vectors];
    compute_lower_bounds(product, query, codes.scales + p * int8_tile::codes, codes.half_norms + p * int8_tile::codes,
                         lower);
    const float_vector least = min_of<int8_tile::code_vectors>(lower);
    if (HWY_UNLIKELY(!hn::AllFalse(d, hn::Le(least, hn::Set(d, query.bound))))) {
        float bounds[int8_tile::codes];
        HWY_UNROLL(3)
        for (index_t v = 0; v < int8_tile::code_vectors; ++v) {
            hn::StoreU(lower[v], d, bounds + v * score_lanes);
        }
        add_candidates(codes, p, bounds, query, list_bounds, list_ids);
    }
}

/// Lists the candidates of `tiles` tiles of queries: all codes but those pruned. values: quantised queries
/// [tiles][quads][queries of a tile].
inline void prune(const int8_codes& codes, const std::int32_t* values, int8_query* queries, index_t tiles,
                  const int8_candidates& candidates) {
    for (index_t p = 0; p < codes.panels; ++p) {
        const std::int32_t* const panel = codes.values + p * codes.quads * int8_tile::codes;
        for (index_t t = 0; t < tiles; ++t) {
            int8_query* const query = queries + t * int8_tile::queries;
            int32_vector product[int8_tile::queries][int8_tile::code_vectors];
            compute_int8_products(values + t * codes.quads * int8_tile::queries, query, panel, codes.quads, product);
            HWY_UNROLL(8)
            for (index_t i = 0; i < int8_tile::queries; ++i) {
                const index_t list = (t * int8_tile::queries + i) * int8_list_capacity;
                prune_panel(codes, p, product[i], query[i], candidates.lower_bounds + list, candidates.ids + list);
            }
        }
    }
}

}  // namespace isic::inline ISIC_ABI::detail::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif

#endif
