// SPDX-License-Identifier: Apache-2.0
/// \file
/// Float32 scores ||c||^2 / 2 - z.c of tiles of queries and codes, and their minima. Compiled once per instruction set.
// Guarded as Highway asks: once per instruction set.
#if defined(ISIC_DETAIL_KERNELS_SCORES_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef ISIC_DETAIL_KERNELS_SCORES_INL
#undef ISIC_DETAIL_KERNELS_SCORES_INL
#else
#define ISIC_DETAIL_KERNELS_SCORES_INL
#endif

#include <bit>

#include <isic/detail/kernels/nearest.hpp>
#include <isic/detail/kernels/vector_ops-inl.hpp>

HWY_BEFORE_NAMESPACE();
namespace isic::inline ISIC_ABI::detail::kernels::HWY_NAMESPACE {

using float_tag = hn::ScalableTag<float>;
using float_vector = hn::Vec<float_tag>;
using int32_tag = hn::RebindToSigned<float_tag>;
using int32_vector = hn::Vec<int32_tag>;
constexpr index_t score_lanes = lanes<float_tag>;

/// Register tile: queries by vectors of codes, as many sums as the registers hold beside the operands. Streamed: the
/// panel exceeds L1 and is prefetched from L2.
template <index_t Queries, index_t CodeVectors, bool Streamed>
struct score_tile {
    static constexpr index_t queries = Queries;
    static constexpr index_t code_vectors = CodeVectors;
    static constexpr index_t codes = CodeVectors * score_lanes;
    static constexpr bool streamed = Streamed;
};

constexpr bool few_registers = HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_SCALAR;
using small_d_tile = score_tile<few_registers ? 2 : 4, 6, false>;  // few updates of the minima per code
using large_d_tile = score_tile<few_registers ? 4 : 8, 3, true>;   // each loaded vector of codes serves many queries

/// Scores of a tile. queries [width][Tile::queries].
template <class Tile>
HWY_INLINE void compute_scores(const float* queries, const float* panel, const float* half_norms, index_t width,
                               float_vector (&sum)[Tile::queries][Tile::code_vectors]) {
    const float_tag d;
    constexpr index_t n = score_lanes;
    constexpr index_t prefetch_distance = 8 * Tile::codes;
    HWY_UNROLL(8)
    for (index_t q = 0; q < Tile::queries; ++q) {
        HWY_UNROLL(6)
        for (index_t v = 0; v < Tile::code_vectors; ++v) {
            sum[q][v] = hn::LoadU(d, half_norms + v * n);
        }
    }
    for (index_t k = 0; k < width; ++k) {
        float_vector c[Tile::code_vectors];
        HWY_UNROLL(6)
        for (index_t v = 0; v < Tile::code_vectors; ++v) {
            if constexpr (Tile::streamed) {
                hwy::Prefetch(panel + prefetch_distance + v * n);
            }
            c[v] = in_register(hn::LoadU(d, panel + v * n));
        }
        HWY_UNROLL(8)
        for (index_t q = 0; q < Tile::queries; ++q) {
            const float_vector z = in_register(hn::Set(d, queries[q]));
            HWY_UNROLL(6)
            for (index_t v = 0; v < Tile::code_vectors; ++v) {
                sum[q][v] = hn::NegMulAdd(z, c[v], sum[q][v]);
            }
        }
        panel += Tile::codes;
        queries += Tile::queries;
    }
}

/// Minimum of `Count` vectors in every lane, by a tree.
template <index_t Count>
HWY_INLINE float_vector min_of(const float_vector* v) {
    if constexpr (Count == 1) {
        return v[0];
    } else {
        return hn::Min(min_of<Count / 2>(v), min_of<Count - Count / 2>(v + Count / 2));
    }
}

/// Running minima of a query over panels, per lane: the least score, the second least, and the panel of the least. The
/// three vectors are stored side by side: in three arrays, equal page offsets would cause false store-to-load
/// conflicts.
template <class D>
struct panel_minima {
    using T = hn::TFromD<D>;
    using V = hn::Vec<D>;
    static constexpr index_t size = 3 * lanes<D>;
    static constexpr T initial =
        std::numeric_limits<T>::has_infinity ? std::numeric_limits<T>::infinity() : std::numeric_limits<T>::max();

    HWY_INLINE panel_minima() : panel(hn::Zero(D())) { least = second = hn::Set(D(), initial); }
    HWY_INLINE explicit panel_minima(const T* from)
        : least(hn::LoadU(D(), from)),
          second(hn::LoadU(D(), from + lanes<D>)),
          panel(hn::LoadU(D(), from + 2 * lanes<D>)) {}

    HWY_INLINE void store(T* to) const {
        hn::StoreU(least, D(), to);
        hn::StoreU(second, D(), to + lanes<D>);
        hn::StoreU(panel, D(), to + 2 * lanes<D>);
    }

    /// Branch-free: a branch on "smaller" would be mispredicted often.
    HWY_INLINE void update(V score, V panel_of_score) {
        panel = hn::IfThenElse(hn::Lt(score, least), panel_of_score, panel);
        second = hn::Min(second, hn::Max(least, score));
        least = hn::Min(least, score);
    }

    V least;
    V second;
    V panel;  // panel index, stored in the bit pattern of a score lane
};

using score_minima = panel_minima<float_tag>;

/// first, first + 1, ... (Highway's Iota stores the lanes one by one before it loads them.)
HWY_INLINE int32_vector indices_from(index_t first) {
    static_assert(score_lanes <= 16);
    alignas(64) static constexpr index32 indices[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return hn::Add(hn::Load(int32_tag(), indices), hn::Set(int32_tag(), static_cast<index32>(first)));
}

/// A panel index in the bit pattern of every lane.
HWY_INLINE float_vector panel_index_bits(index_t panel) {
    return hn::BitCast(float_tag(), hn::Set(int32_tag(), static_cast<index32>(panel)));
}

/// Minima of `tiles` tiles of queries over all panels. out [queries][score_minima::size].
template <class Tile>
void find_tile_minima(const code_panels& codes, const float* queries, index_t tiles, float* out) {
    for (index_t q = 0; q < tiles * Tile::queries; ++q) {
        score_minima().store(out + q * score_minima::size);
    }
    for (index_t p = 0; p < codes.count; ++p) {
        const float* const panel = codes.values + p * codes.width * Tile::codes;
        const float* const half_norms = codes.half_norms + p * Tile::codes;
        const float_vector panel_index = panel_index_bits(p);
        float* at = out;
        for (index_t t = 0; t < tiles; ++t) {
            float_vector sum[Tile::queries][Tile::code_vectors];
            compute_scores<Tile>(queries + t * codes.width * Tile::queries, panel, half_norms, codes.width, sum);
            HWY_UNROLL(8)
            for (index_t q = 0; q < Tile::queries; ++q) {
                score_minima minima(at);
                minima.update(min_of<Tile::code_vectors>(sum[q]), panel_index);
                minima.store(at);
                at += score_minima::size;
            }
        }
    }
}

#if HWY_TARGET != HWY_SCALAR

/// Stores the selected lanes contiguously; may write a whole vector. Returns their number. (A masked store is slow on
/// some processors; Highway's Compress for AVX2 copies its table to the stack.)
template <class D>
HWY_INLINE index_t store_selected(D d, hn::Vec<D> v, hn::Mask<D> selected, hn::TFromD<D>* to) {
#if HWY_TARGET == HWY_AVX2
    std::uint8_t bits;
    hn::StoreMaskBits(d, selected, &bits);
    const auto lane = hn::LoadU(hn::Rebind<std::uint8_t, D>(), set_bits_of_byte[bits].data());
    const auto at = hn::IndicesFromVec(d, hn::PromoteTo(hn::RebindToSigned<D>(), lane));
    hn::StoreU(hn::TableLookupLanes(v, at), d, to);
    return std::popcount(bits);
#else
    hn::StoreU(hn::Compress(v, selected), d, to);
    return static_cast<index_t>(hn::CountTrue(d, selected));
#endif
}

/// Mask of the first `count` lanes; count > 0 may exceed their number.
template <class D>
HWY_INLINE hn::Mask<D> first_lanes(D d, index_t count) {
    const auto end = static_cast<index32>(std::min(count, score_lanes));
    return hn::RebindMask(d, hn::Lt(indices_from(0), hn::Set(int32_tag(), end)));
}

#endif

/// A lane with the least value; with NaN, any lane.
template <class D>
HWY_INLINE index_t argmin_lane(D d, hn::Vec<D> v) {
    return static_cast<index_t>(hn::FindKnownFirstTrue(d, hn::Not(hn::Gt(v, hn::MinOfLanes(d, v)))));
}

/// Reduces the minima of each query over their lanes. codes: of a panel.
inline void reduce_minima(const float* minima, index_t queries, index_t codes, best_scores* out) {
    const float_tag d;
    const int32_tag di;
    for (index_t q = 0; q < queries; ++q) {
        const float* const at = minima + q * score_minima::size;
        const score_minima of_lanes(at);
        const index_t lane = argmin_lane(d, of_lanes.least);
        const auto is_best = hn::RebindMask(d, hn::Eq(indices_from(0), hn::Set(di, static_cast<index32>(lane))));
        const float_vector others = hn::IfThenElse(is_best, of_lanes.second, of_lanes.least);
        index32 panel;
        hwy::CopyBytes<sizeof(panel)>(at + 2 * score_lanes + lane, &panel);
        out[q] = {at[lane], hn::GetLane(hn::MinOfLanes(d, others)), static_cast<index_t>(panel) * codes + lane};
    }
}

/// Visits the codes of a vector of scores, `first` and on, whose scores are not above the threshold. With NaN from
/// overflow a code is visited, and its distance decides.
HWY_INLINE void visit_scores(float_vector scores, float threshold, index_t query, index_t first,
                             const candidate_visitor& visitor) {
    const float_tag d;
    if (hn::AllTrue(d, hn::Gt(scores, hn::Set(d, threshold)))) {
        return;
    }
    float all[score_lanes];
    hn::StoreU(scores, d, all);
    for (index_t lane = 0; lane < score_lanes; ++lane) {
        if (!(all[lane] > threshold)) {
            visitor.visit(visitor.context, query, first + lane);
        }
    }
}

/// Visits every code whose score is not above the query's threshold, for `tiles` tiles of queries, the first `count` of
/// them in use.
template <class Tile>
void visit_tile_candidates(const code_panels& codes, const float* queries, index_t tiles, const float* thresholds,
                           index_t count, const candidate_visitor& visitor) {
    for (index_t p = 0; p < codes.count; ++p) {
        const float* const panel = codes.values + p * codes.width * Tile::codes;
        for (index_t t = 0; t < tiles; ++t) {
            float_vector sum[Tile::queries][Tile::code_vectors];
            compute_scores<Tile>(queries + t * codes.width * Tile::queries, panel, codes.half_norms + p * Tile::codes,
                                 codes.width, sum);
            for (index_t i = 0; i < Tile::queries && t * Tile::queries + i < count; ++i) {
                const index_t query = t * Tile::queries + i;
                for (index_t v = 0; v < Tile::code_vectors; ++v) {
                    visit_scores(sum[i][v], thresholds[query], query, p * Tile::codes + v * score_lanes, visitor);
                }
            }
        }
    }
}

/// Loads `count` values as float64, at most a vector; the other lanes are zero.
template <class D, class T>
HWY_INLINE hn::Vec<D> load_float64(D d, const T* from, index_t count = lanes<D>) {
    if constexpr (sizeof(T) == sizeof(double)) {
        return load_some(d, from, count);
    } else {
        return hn::PromoteTo(d, load_some(hn::Rebind<T, D>(), from, count));
    }
}

/// Squared distances in float64 of a vector to `count` codes, summed in lanes.
template <class T>
void reassociated_distances(const T* z, const code_rows<T>& rows, const index32* ids, index_t count, double* out) {
    const hn::ScalableTag<double> d;
    using V = hn::Vec<decltype(d)>;
    constexpr index_t n = lanes<hn::ScalableTag<double>>;
    for (index_t i = 0; i < count; ++i) {
        const T* const code = rows.row(ids[i]);
        const auto add_square = [](V step, V& sum) HWY_ATTR { sum = hn::MulAdd(step, step, sum); };
        V even = hn::Zero(d);
        V odd = hn::Zero(d);
        index_t k = 0;
        for (; k + 2 * n <= rows.width; k += 2 * n) {
            add_square(hn::Sub(load_float64(d, z + k), load_float64(d, code + k)), even);
            add_square(hn::Sub(load_float64(d, z + k + n), load_float64(d, code + k + n)), odd);
        }
        for (; k < rows.width; k += n) {
            const index_t left = rows.width - k;
            add_square(hn::Sub(load_float64(d, z + k, left), load_float64(d, code + k, left)), even);
        }
        out[i] = hn::GetLane(hn::SumOfLanes(d, hn::Add(even, odd)));
    }
}

}  // namespace isic::inline ISIC_ABI::detail::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
