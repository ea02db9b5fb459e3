/// \file
/// Scores of tiles of queries and codes, compiled once per instruction set.
// Guarded as Highway asks: once per instruction set.
#if defined(ISIC_KERNELS_NEAREST_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef ISIC_KERNELS_NEAREST_INL
#undef ISIC_KERNELS_NEAREST_INL
#else
#define ISIC_KERNELS_NEAREST_INL
#endif

#include "nearest.hpp"
#include "vectors-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace isic::kernels::HWY_NAMESPACE {

/// Queries and vectors of codes whose scores are summed at once: as many sums as the registers hold beside the vectors
/// and a query. Far: the panel is too wide for L1 and comes from L2.
template <index_t Queries, index_t Vectors, bool IsFar>
struct tile {
    static constexpr index_t queries = Queries;
    static constexpr index_t vectors = Vectors;
    static constexpr bool far = IsFar;
};

constexpr bool few_registers = HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_SCALAR;
using narrow_tile = tile<few_registers ? 2 : 4, 6, false>;  // the minima are kept seldom
using wide_tile = tile<few_registers ? 4 : 8, 3, true>;     // each vector of codes serves many queries
using place_tile = tile<few_registers ? 4 : 8, 2, false>;   // small leaves, of which few are looked at

/// Scores of a tile. queries [width][Tile::queries].
template <class Tile, class D, class V, class T>
HWY_INLINE void score(D d, const T* queries, const T* panel, const T* half_norms, index_t width,
                      V (&sum)[Tile::queries][Tile::vectors]) {
    constexpr index_t n = lanes<D>;
    constexpr index_t ahead = 8 * Tile::vectors * n;
    HWY_UNROLL(8)
    for (index_t q = 0; q < Tile::queries; ++q) {
        HWY_UNROLL(6)
        for (index_t v = 0; v < Tile::vectors; ++v) {
            sum[q][v] = hn::LoadU(d, half_norms + v * n);
        }
    }
    for (index_t k = 0; k < width; ++k) {
        V c[Tile::vectors];
        HWY_UNROLL(6)
        for (index_t v = 0; v < Tile::vectors; ++v) {
            if constexpr (Tile::far) {
                hwy::Prefetch(panel + ahead + v * n);
            }
            c[v] = in_register(hn::LoadU(d, panel + v * n));
        }
        HWY_UNROLL(8)
        for (index_t q = 0; q < Tile::queries; ++q) {
            const V z = in_register(hn::Set(d, queries[q]));
            HWY_UNROLL(6)
            for (index_t v = 0; v < Tile::vectors; ++v) {
                sum[q][v] = hn::NegMulAdd(z, c[v], sum[q][v]);
            }
        }
        panel += Tile::vectors * n;
        queries += Tile::queries;
    }
}

/// The lesser of each lane of some vectors, by a tree.
template <index_t Count, class V>
HWY_INLINE V least_of(const V* v) {
    if constexpr (Count == 1) {
        return v[0];
    } else {
        return hn::Min(least_of<Count / 2>(v), least_of<Count - Count / 2>(v + Count / 2));
    }
}

/// Minima of `groups` tiles of queries over all codes. Three vectors per query: per lane the least score, the second
/// least of the panels, and the bits of the panel that has the least. (Three arrays would be read and written at the
/// same place of three pages, which the processor takes for conflicts.)
template <class Tile, class T>
void find_tile_minima(const code_panels<T>& codes, const T* queries, index_t groups, T* out) {
    const hn::ScalableTag<T> d;
    const hn::RebindToSigned<decltype(d)> di;
    using V = hn::Vec<decltype(d)>;
    constexpr index_t n = lanes<decltype(d)>;
    const index_t width = codes.width;
    for (index_t q = 0; q < groups * Tile::queries; ++q) {
        hn::StoreU(hn::Set(d, std::numeric_limits<T>::infinity()), d, out + 3 * q * n);
        hn::StoreU(hn::Set(d, std::numeric_limits<T>::infinity()), d, out + (3 * q + 1) * n);
        hn::StoreU(hn::Zero(d), d, out + (3 * q + 2) * n);
    }
    for (index_t p = 0; p < codes.count; ++p) {
        const T* const panel = codes.values + p * width * Tile::vectors * n;
        const T* const half_norms = codes.half_norms + p * Tile::vectors * n;
        const V id = hn::BitCast(d, hn::Set(di, static_cast<panel_id<T>>(p)));
        T* at = out;
        for (index_t g = 0; g < groups; ++g) {
            V sum[Tile::queries][Tile::vectors];
            score<Tile>(d, queries + g * width * Tile::queries, panel, half_norms, width, sum);
            // Always the same instructions: a branch on "lower" would often be guessed wrong.
            HWY_UNROLL(8)
            for (index_t q = 0; q < Tile::queries; ++q) {
                const V low = least_of<Tile::vectors>(sum[q]);
                const V least = hn::LoadU(d, at);
                const V second = hn::LoadU(d, at + n);
                const V panel_of_least = hn::IfThenElse(hn::Lt(low, least), id, hn::LoadU(d, at + 2 * n));
                hn::StoreU(hn::Min(least, low), d, at);
                hn::StoreU(hn::Min(second, hn::Max(least, low)), d, at + n);
                hn::StoreU(panel_of_least, d, at + 2 * n);
                at += 3 * n;
            }
        }
    }
}

/// The lane that has the least value; some lane if there is NaN.
template <class D, class V>
HWY_INLINE index_t lane_of_least(D d, V v) {
    return static_cast<index_t>(hn::FindKnownFirstTrue(d, hn::Not(hn::Gt(v, hn::MinOfLanes(d, v)))));
}

/// What the minima of each query come to. codes: of a panel.
template <class T>
void take_least(const T* minima, index_t queries, index_t codes, least_score<T>* out) {
    const hn::ScalableTag<T> d;
    const hn::RebindToSigned<decltype(d)> di;
    constexpr index_t n = lanes<decltype(d)>;
    for (index_t q = 0; q < queries; ++q) {
        const T* const at = minima + 3 * q * n;
        const auto least = hn::LoadU(d, at);
        const index_t lane = lane_of_least(d, least);
        const auto is_least = hn::RebindMask(d, hn::Eq(hn::Iota(di, 0), hn::Set(di, static_cast<panel_id<T>>(lane))));
        const auto others = hn::IfThenElse(is_least, hn::LoadU(d, at + n), least);
        panel_id<T> panel;
        hwy::CopyBytes<sizeof(T)>(at + 2 * n + lane, &panel);
        out[q] = {at[lane], hn::GetLane(hn::MinOfLanes(d, others)), static_cast<index_t>(panel) * codes + lane};
    }
}

/// Looks at every code whose score does not exceed the threshold, for `groups` tiles of queries, `count` of them real.
template <class Tile, class T>
void settle_tiles(const code_panels<T>& codes, const code_rows<T>& rows, const T* queries, index_t groups,
            open_query<T>* open, index_t count) {
    const hn::ScalableTag<T> d;
    using V = hn::Vec<decltype(d)>;
    constexpr index_t n = lanes<decltype(d)>;
    for (index_t p = 0; p < codes.count; ++p) {
        const T* const panel = codes.values + p * codes.width * Tile::vectors * n;
        for (index_t g = 0; g < groups; ++g) {
            V sum[Tile::queries][Tile::vectors];
            score<Tile>(d, queries + g * codes.width * Tile::queries, panel, codes.half_norms + p * Tile::vectors * n,
                        codes.width, sum);
            for (index_t q = 0; q < Tile::queries && g * Tile::queries + q < count; ++q) {
                open_query<T>& query = open[g * Tile::queries + q];
                for (index_t v = 0; v < Tile::vectors; ++v) {
                    // Not "less or equal": where scores overflow to NaN, distances decide.
                    if (hn::AllTrue(d, hn::Gt(sum[q][v], hn::Set(d, query.threshold)))) {
                        continue;
                    }
                    T scores[n];
                    hn::StoreU(sum[q][v], d, scores);
                    for (index_t lane = 0; lane < n; ++lane) {
                        if (!(scores[lane] > query.threshold)) {
                            rows.look_at(query.vector, (p * Tile::vectors + v) * n + lane, query.best);
                        }
                    }
                }
            }
        }
    }
}

}  // namespace isic::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();


#endif
