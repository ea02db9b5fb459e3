/// \file
/// Scores of vectors and codes rounded to bytes, for processors that multiply bytes: four times as many products per
/// instruction as in float32. What rounding may have changed is bounded, so that a code is only ruled out when it is farther.
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

/// s + p0 q0 + p1 q1 + p2 q2 + p3 q3 in every lane, p unsigned, q signed. Highway has no name for the instruction in all
/// versions that this library is built with.
HWY_INLINE sums add_products(sums s, sums p, sums q) {
    asm("vpdpbusd %2, %1, %0" : "+v"(s.raw) : "v"(p.raw), "v"(q.raw));
    return s;
}

/// x ~ scale q with |q| <= 127. x [width, and zeros to a whole vector]; q likewise.
inline rounded_row round_to_bytes(const float* x, index_t width, std::int8_t* q) {
    const score_tag d;
    constexpr index_t n = score_lanes;
    scores largest = hn::Zero(d);
    for (index_t k = 0; k < width; k += n) {
        largest = hn::Max(largest, hn::Abs(hn::LoadU(d, x + k)));
    }
    const float scale = hn::GetLane(hn::MaxOfLanes(d, largest)) / 127;
    const bool can = scale >= std::numeric_limits<float>::min();
    const scores inverse = hn::Set(d, can ? 1 / scale : 0);
    scores square = hn::Zero(d);
    scores lost = hn::Zero(d);
    sums sum = hn::Zero(panel_tag());
    for (index_t k = 0; k < width; k += n) {
        const scores in_units = hn::Mul(hn::LoadU(d, x + k), inverse);
        const sums whole = hn::NearestInt(in_units);
        const scores rounded = hn::ConvertTo(d, whole);
        const scores rest = hn::Sub(in_units, rounded);
        square = hn::MulAdd(rounded, rounded, square);
        lost = hn::MulAdd(rest, rest, lost);
        sum = hn::Add(sum, whole);
        hn::StoreU(hn::DemoteTo(hn::Rebind<std::int8_t, score_tag>(), whole), hn::Rebind<std::int8_t, score_tag>(), q + k);
    }
    return {can ? scale : 0, hn::GetLane(hn::SumOfLanes(d, square)), hn::GetLane(hn::SumOfLanes(d, lost)),
            hn::GetLane(hn::SumOfLanes(panel_tag(), sum))};
}

/// Lists the codes of a panel whose lower bounds do not exceed the query's, which becomes as small as the upper ones allow.
HWY_NOINLINE inline void list_codes(const byte_codes& codes, index_t panel, const float* low, byte_query& query, float* lows,
                                    panel_id* places) {
    const score_tag d;
    const panel_tag di;
    constexpr index_t n = score_lanes;
    const float* const scales = codes.scales + panel * byte_tile::codes;
    scores high = hn::Set(d, query.bound);
    for (index_t i = 0; i < byte_tile::codes; i += n) {
        const scores width = hn::Mul(hn::Set(d, 2 * query.error), hn::LoadU(d, scales + i));
        high = hn::Min(high, hn::Add(hn::Add(hn::LoadU(d, low + i), width), hn::Set(d, query.slack)));
    }
    query.bound = hn::GetLane(hn::MinOfLanes(d, high));
    const scores bound = hn::Set(d, query.bound);
    const auto append = [&](scores v, sums place) HWY_ATTR {
        const auto chosen = hn::Le(v, bound);
        store_chosen(d, v, chosen, lows + query.count);
        query.count += static_cast<panel_id>(store_chosen(di, place, hn::RebindMask(di, chosen), places + query.count));
    };
    if (query.count > byte_list_room - byte_tile::codes) {
        const index_t old = query.count;
        query.count = 0;
        for (index_t i = 0; i < old; i += n) {
            const auto there = lanes_before(d, old - i);
            append(hn::IfThenElse(there, hn::LoadU(d, lows + i), hn::Set(d, std::numeric_limits<float>::infinity())),
                   hn::LoadU(di, places + i));
        }
        if (query.count > byte_list_room - byte_tile::codes) {
            query.give_up();
            return;
        }
    }
    for (index_t i = 0; i < byte_tile::codes; i += n) {
        append(hn::LoadU(d, low + i), numbers_from(panel * byte_tile::codes + i));
    }
}

/// Lists for `groups` tiles of queries the codes that may be the nearest. values: q, as in the codes;
/// [groups][quads][queries of a tile].
inline void rule_out(const byte_codes& codes, const std::int32_t* values, byte_query* queries, index_t groups,
                     const byte_lists& lists) {
    const score_tag d;
    const panel_tag di;
    constexpr index_t n = score_lanes;
    constexpr index_t q = byte_tile::queries;
    constexpr index_t v = byte_tile::vectors;
    for (index_t p = 0; p < codes.panels; ++p) {
        const std::int32_t* const panel = codes.values + p * codes.quads * byte_tile::codes;
        const float* const half_norms = codes.half_norms + p * byte_tile::codes;
        const float* const scales = codes.scales + p * byte_tile::codes;
        for (index_t g = 0; g < groups; ++g) {
            byte_query* const query = queries + g * q;
            const std::int32_t* at = values + g * codes.quads * q;
            sums sum[q][v];
            HWY_UNROLL(8)
            for (index_t i = 0; i < q; ++i) {
                HWY_UNROLL(3)
                for (index_t j = 0; j < v; ++j) {
                    sum[i][j] = hn::Set(di, query[i].offset);
                }
            }
            const std::int32_t* c = panel;
            for (index_t k = 0; k < codes.quads; ++k) {
                const sums code[v] = {hn::LoadU(di, c), hn::LoadU(di, c + n), hn::LoadU(di, c + 2 * n)};
                HWY_UNROLL(8)
                for (index_t i = 0; i < q; ++i) {
                    const sums z = hn::Set(di, at[i]);
                    HWY_UNROLL(3)
                    for (index_t j = 0; j < v; ++j) {
                        sum[i][j] = add_products(sum[i][j], code[j], z);
                    }
                }
                c += byte_tile::codes;
                at += q;
            }
            HWY_UNROLL(8)
            for (index_t i = 0; i < q; ++i) {
                scores low[v];
                HWY_UNROLL(3)
                for (index_t j = 0; j < v; ++j) {
                    const scores product =
                        hn::MulAdd(hn::ConvertTo(d, sum[i][j]), hn::Set(d, query[i].scale), hn::Set(d, query[i].error));
                    low[j] = hn::NegMulAdd(hn::LoadU(d, scales + j * n), product, hn::LoadU(d, half_norms + j * n));
                }
                if (HWY_UNLIKELY(!hn::AllFalse(d, hn::Le(least_of<v>(low), hn::Set(d, query[i].bound))))) {
                    float all[byte_tile::codes];
                    HWY_UNROLL(3)
                    for (index_t j = 0; j < v; ++j) {
                        hn::StoreU(low[j], d, all + j * n);
                    }
                    const index_t list = (g * q + i) * byte_list_room;
                    list_codes(codes, p, all, query[i], lists.lows + list, lists.places + list);
                }
            }
        }
    }
}

}  // namespace isic::inline ISIC_ABI::detail::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif

#endif
