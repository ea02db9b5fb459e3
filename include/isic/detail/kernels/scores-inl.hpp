/// \file
/// Scores of tiles of queries and codes, compiled once per instruction set.
// Guarded as Highway asks: once per instruction set.
#if defined(ISIC_DETAIL_KERNELS_SCORES_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef ISIC_DETAIL_KERNELS_SCORES_INL
#undef ISIC_DETAIL_KERNELS_SCORES_INL
#else
#define ISIC_DETAIL_KERNELS_SCORES_INL
#endif

#include <isic/detail/kernels/nearest.hpp>
#include <isic/detail/kernels/vector_ops-inl.hpp>

HWY_BEFORE_NAMESPACE();
namespace isic::inline ISIC_ABI::detail::kernels::HWY_NAMESPACE {

using score_tag = hn::ScalableTag<float>;
using scores = hn::Vec<score_tag>;
using panel_tag = hn::RebindToSigned<score_tag>;
using sums = hn::Vec<panel_tag>;  // of products of integers
constexpr index_t score_lanes = lanes<score_tag>;

/// Queries and vectors of codes whose scores are summed at once: as many sums as the registers hold beside the vectors
/// and a query. Far: the panel is too wide for L1 and comes from L2.
template <index_t Queries, index_t Vectors, bool IsFar>
struct tile {
    static constexpr index_t queries = Queries;
    static constexpr index_t vectors = Vectors;
    static constexpr index_t codes = Vectors * score_lanes;
    static constexpr bool far = IsFar;
};

constexpr bool few_registers = HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_SCALAR;
using narrow_tile = tile<few_registers ? 2 : 4, 6, false>;  // the minima are kept seldom
using wide_tile = tile<few_registers ? 4 : 8, 3, true>;     // each vector of codes serves many queries

/// Scores of a tile. queries [width][Tile::queries].
template <class Tile>
HWY_INLINE void score(const float* queries, const float* panel, const float* half_norms, index_t width,
                      scores (&sum)[Tile::queries][Tile::vectors]) {
    const score_tag d;
    constexpr index_t n = score_lanes;
    constexpr index_t ahead = 8 * Tile::codes;
    HWY_UNROLL(8)
    for (index_t q = 0; q < Tile::queries; ++q) {
        HWY_UNROLL(6)
        for (index_t v = 0; v < Tile::vectors; ++v) {
            sum[q][v] = hn::LoadU(d, half_norms + v * n);
        }
    }
    for (index_t k = 0; k < width; ++k) {
        scores c[Tile::vectors];
        HWY_UNROLL(6)
        for (index_t v = 0; v < Tile::vectors; ++v) {
            if constexpr (Tile::far) {
                hwy::Prefetch(panel + ahead + v * n);
            }
            c[v] = in_register(hn::LoadU(d, panel + v * n));
        }
        HWY_UNROLL(8)
        for (index_t q = 0; q < Tile::queries; ++q) {
            const scores z = in_register(hn::Set(d, queries[q]));
            HWY_UNROLL(6)
            for (index_t v = 0; v < Tile::vectors; ++v) {
                sum[q][v] = hn::NegMulAdd(z, c[v], sum[q][v]);
            }
        }
        panel += Tile::codes;
        queries += Tile::queries;
    }
}

/// The lesser of each lane of some vectors, by a tree.
template <index_t Count>
HWY_INLINE scores least_of(const scores* v) {
    if constexpr (Count == 1) {
        return v[0];
    } else {
        return hn::Min(least_of<Count / 2>(v), least_of<Count - Count / 2>(v + Count / 2));
    }
}

/// What is kept of the panels that a query was compared with: per lane the least score, the second least of the panels,
/// and the bits of the panel that has the least. Three vectors side by side: three arrays would be read and written at
/// the same place of three pages, which the processor takes for conflicts.
template <class D>
struct panel_minima {
    using T = hn::TFromD<D>;
    using V = hn::Vec<D>;
    static constexpr index_t size = 3 * lanes<D>;
    static constexpr T none =
        std::numeric_limits<T>::has_infinity ? std::numeric_limits<T>::infinity() : std::numeric_limits<T>::max();

    HWY_INLINE panel_minima() : panel(hn::Zero(D())) { least = second = hn::Set(D(), none); }
    HWY_INLINE explicit panel_minima(const T* from)
        : least(hn::LoadU(D(), from)),
          second(hn::LoadU(D(), from + lanes<D>)),
          panel(hn::LoadU(D(), from + 2 * lanes<D>)) {}

    HWY_INLINE void store(T* to) const {
        hn::StoreU(least, D(), to);
        hn::StoreU(second, D(), to + lanes<D>);
        hn::StoreU(panel, D(), to + 2 * lanes<D>);
    }

    /// Always the same instructions: a branch on "lower" would often be guessed wrong.
    HWY_INLINE void keep(V low, V panel_of_low) {
        panel = hn::IfThenElse(hn::Lt(low, least), panel_of_low, panel);
        second = hn::Min(second, hn::Max(least, low));
        least = hn::Min(least, low);
    }

    V least;
    V second;
    V panel;
};

using score_minima = panel_minima<score_tag>;

/// The numbers of the lanes, from `first` on. (Highway's Iota writes them to the stack, one by one, before it loads them.)
HWY_INLINE sums numbers_from(index_t first) {
    static_assert(score_lanes <= 16);
    alignas(64) static constexpr panel_id numbers[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return hn::Add(hn::Load(panel_tag(), numbers), hn::Set(panel_tag(), static_cast<panel_id>(first)));
}

/// The number of a panel in the bits of every lane.
HWY_INLINE scores bits_of_panel(index_t panel) {
    return hn::BitCast(score_tag(), hn::Set(panel_tag(), static_cast<panel_id>(panel)));
}

/// Minima of `groups` tiles of queries over all codes. out [queries][score_minima::size].
template <class Tile>
void find_tile_minima(const code_panels& codes, const float* queries, index_t groups, float* out) {
    for (index_t q = 0; q < groups * Tile::queries; ++q) {
        score_minima().store(out + q * score_minima::size);
    }
    for (index_t p = 0; p < codes.count; ++p) {
        const float* const panel = codes.values + p * codes.width * Tile::codes;
        const float* const half_norms = codes.half_norms + p * Tile::codes;
        const scores id = bits_of_panel(p);
        float* at = out;
        for (index_t g = 0; g < groups; ++g) {
            scores sum[Tile::queries][Tile::vectors];
            score<Tile>(queries + g * codes.width * Tile::queries, panel, half_norms, codes.width, sum);
            HWY_UNROLL(8)
            for (index_t q = 0; q < Tile::queries; ++q) {
                score_minima minima(at);
                minima.keep(least_of<Tile::vectors>(sum[q]), id);
                minima.store(at);
                at += score_minima::size;
            }
        }
    }
}

#if HWY_TARGET != HWY_SCALAR

/// Writes the lanes of a mask side by side, and anything behind them. Returns how many. (Storing through the mask is slow
/// on some processors; Highway's Compress in AVX2 copies its table to the stack.)
template <class D>
HWY_INLINE index_t store_chosen(D d, hn::Vec<D> v, hn::Mask<D> chosen, hn::TFromD<D>* to) {
#if HWY_TARGET == HWY_AVX2
    std::uint8_t bits;
    hn::StoreMaskBits(d, chosen, &bits);
    const auto lanes_chosen = hn::LoadU(hn::Rebind<std::uint8_t, D>(), chosen_of_eight[bits].data());
    const auto at = hn::IndicesFromVec(d, hn::PromoteTo(hn::RebindToSigned<D>(), lanes_chosen));
    hn::StoreU(hn::TableLookupLanes(v, at), d, to);
    return std::popcount(bits);
#else
    hn::StoreU(hn::Compress(v, chosen), d, to);
    return static_cast<index_t>(hn::CountTrue(d, chosen));
#endif
}

/// The first `count` lanes; count > 0 may be more than there are.
template <class D>
HWY_INLINE hn::Mask<D> lanes_before(D d, index_t count) {
    const auto end = static_cast<panel_id>(std::min(count, score_lanes));
    return hn::RebindMask(d, hn::Lt(numbers_from(0), hn::Set(panel_tag(), end)));
}

#endif

/// The lane that has the least value; some lane if there is NaN.
template <class D>
HWY_INLINE index_t lane_of_least(D d, hn::Vec<D> v) {
    return static_cast<index_t>(hn::FindKnownFirstTrue(d, hn::Not(hn::Gt(v, hn::MinOfLanes(d, v)))));
}

/// What the minima of each query come to. codes: of a panel.
inline void take_least(const float* minima, index_t queries, index_t codes, least_score* out) {
    const score_tag d;
    const panel_tag di;
    for (index_t q = 0; q < queries; ++q) {
        const float* const at = minima + q * score_minima::size;
        const score_minima kept(at);
        const index_t lane = lane_of_least(d, kept.least);
        const auto is_least = hn::RebindMask(d, hn::Eq(numbers_from(0), hn::Set(di, static_cast<panel_id>(lane))));
        const scores others = hn::IfThenElse(is_least, kept.second, kept.least);
        panel_id panel;
        hwy::CopyBytes<sizeof(panel)>(at + 2 * score_lanes + lane, &panel);
        out[q] = {at[lane], hn::GetLane(hn::MinOfLanes(d, others)), static_cast<index_t>(panel) * codes + lane};
    }
}

/// Tells `looker` every code whose score does not exceed the threshold, for `groups` tiles of queries, `count` of them
/// real.
template <class Tile>
void settle_tiles(const code_panels& codes, const float* queries, index_t groups, const float* thresholds, index_t count,
                  const code_looker& looker) {
    const score_tag d;
    for (index_t p = 0; p < codes.count; ++p) {
        const float* const panel = codes.values + p * codes.width * Tile::codes;
        for (index_t g = 0; g < groups; ++g) {
            scores sum[Tile::queries][Tile::vectors];
            score<Tile>(queries + g * codes.width * Tile::queries, panel, codes.half_norms + p * Tile::codes, codes.width, sum);
            for (index_t i = 0; i < Tile::queries && g * Tile::queries + i < count; ++i) {
                const index_t query = g * Tile::queries + i;
                for (index_t v = 0; v < Tile::vectors; ++v) {
                    // Not "less or equal": where scores overflow to NaN, distances decide.
                    if (hn::AllTrue(d, hn::Gt(sum[i][v], hn::Set(d, thresholds[query])))) {
                        continue;
                    }
                    float all[score_lanes];
                    hn::StoreU(sum[i][v], d, all);
                    for (index_t lane = 0; lane < score_lanes; ++lane) {
                        if (!(all[lane] > thresholds[query])) {
                            looker.look(looker.context, query, p * Tile::codes + v * score_lanes + lane);
                        }
                    }
                }
            }
        }
    }
}

/// As many values as a vector of float64 has lanes; the first `count` of them, if there are fewer.
template <class D, class T>
HWY_INLINE hn::Vec<D> load_float64(D d, const T* from, index_t count = lanes<D>) {
    if constexpr (sizeof(T) == sizeof(double)) {
        return load_some(d, from, count);
    } else {
        return hn::PromoteTo(d, load_some(hn::Rebind<T, D>(), from, count));
    }
}

/// Squared distances of a vector from some codes, summed in lanes.
template <class T>
void sum_distances(const T* z, const code_rows<T>& rows, const panel_id* places, index_t count, double* out) {
    const hn::ScalableTag<double> d;
    using V = hn::Vec<decltype(d)>;
    constexpr index_t n = lanes<hn::ScalableTag<double>>;
    for (index_t i = 0; i < count; ++i) {
        const T* const code = rows.row(places[i]);
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
