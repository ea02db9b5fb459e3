/// \file
/// The search among codes that lie by place, compiled once per instruction set: a leaf whose box is farther from the query
/// than a code already seen is not looked at.
///
/// Distances are those of rows rounded to whole units, which integers hold exactly. By the triangle inequality they are
/// wrong by no more than what rounding moved the two rows, so that no other error has to be thought of.
// Guarded as Highway asks: once per instruction set.
#if defined(ISIC_DETAIL_KERNELS_KD_SEARCH_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef ISIC_DETAIL_KERNELS_KD_SEARCH_INL
#undef ISIC_DETAIL_KERNELS_KD_SEARCH_INL
#else
#define ISIC_DETAIL_KERNELS_KD_SEARCH_INL
#endif

#include <isic/detail/kernels/scores-inl.hpp>

HWY_BEFORE_NAMESPACE();
namespace isic::inline ISIC_ABI::detail::kernels::HWY_NAMESPACE {

/// Lanes of a vector of codes; 0 where there is no search.
inline index_t lanes_of_search() {
    return HWY_TARGET == HWY_SCALAR ? 0 : score_lanes;
}

#if HWY_TARGET != HWY_SCALAR

using pair_tag = hn::Repartition<std::int16_t, panel_tag>;
using pairs = hn::Vec<pair_tag>;  // of columns, side by side

/// x0 y0 + x1 y1 in every lane.
HWY_INLINE sums product_of_pairs(pairs x, pairs y) {
    const panel_tag d;
    sums high = hn::Zero(d);
    const sums low = hn::ReorderWidenMulAccumulate(d, x, y, hn::Zero(d), high);
    return hn::RearrangeToOddPlusEven(low, high);
}

/// Squared distances of a point from as many boxes as a vector has lanes. boxes [Width / 2][least, largest][lanes][2].
template <index_t Width>
HWY_INLINE sums distances_from(const pairs (&z)[Width / 2], const std::int16_t* boxes) {
    const pair_tag d;
    sums sum = hn::Zero(panel_tag());
    HWY_UNROLL(4)
    for (index_t k = 0; k < Width / 2; ++k) {
        const std::int16_t* const box = boxes + k * 2 * lanes<pair_tag>;
        const pairs gap = hn::Sub(z[k], hn::Min(hn::Max(z[k], hn::LoadU(d, box)), hn::LoadU(d, box + lanes<pair_tag>)));
        sum = hn::Add(sum, product_of_pairs(gap, gap));
    }
    return sum;
}

/// The search of one query of a tile, in steps without branches: taken for one query after the other, the processor works
/// on several at once.
template <index_t Width>
class query_search {
public:
    /// Rounds a row [Width] to units; what is too far from the codes is not searched for.
    HWY_INLINE void round(const placed_codes& codes, const float* row) {
        const hn::CappedTag<float, static_cast<size_t>(Width)> d;
        const hn::RebindToSigned<decltype(d)> di;
        const hn::Rebind<std::int16_t, decltype(d)> d16;
        auto largest = hn::Zero(d);
        auto lost = hn::Zero(d);
        auto square = hn::Zero(di);
        for (index_t k = 0; k < Width; k += lanes<decltype(d)>) {
            const auto in_units = hn::Mul(hn::LoadU(d, row + k), hn::Set(d, codes.units));
            const auto whole = hn::NearestInt(in_units);
            const auto rest = hn::Sub(in_units, hn::ConvertTo(d, whole));
            largest = hn::Max(largest, hn::Abs(in_units));
            lost = hn::MulAdd(rest, rest, lost);
            square = hn::Add(square, hn::Mul(whole, whole));
            hn::StoreU(hn::DemoteTo(d16, whole), d16, query_ + k);
        }
        can_ = hn::GetLane(hn::MaxOfLanes(d, largest)) <= static_cast<float>(2 * largest_placed);
        error_ = can_ ? codes.lost + std::sqrt(hn::GetLane(hn::SumOfLanes(d, lost))) * 1.001F + lost_by_units : 0;
        square_ = can_ ? hn::GetLane(hn::SumOfLanes(di, square)) : 0;
        for (std::int16_t& value : query_) {
            value = can_ ? value : std::int16_t{0};
        }
    }

    /// Finds the nearest group. bounds [groups].
    HWY_INLINE void find_group(const placed_codes& codes, panel_id* bounds) {
        const panel_tag d;
        pairs query[Width / 2];
        load(query);
        sums nearest = hn::Set(d, std::numeric_limits<panel_id>::max());
        sums group = hn::Zero(d);
        for (index_t g = 0; g < codes.groups; g += n) {
            const sums distance = distances_from<Width>(query, codes.group_boxes + g * 2 * Width);
            hn::StoreU(distance, d, bounds + g);
            group = hn::IfThenElse(hn::Lt(distance, nearest), numbers_from(g), group);
            nearest = hn::Min(nearest, distance);
        }
        panel_id group_of_lane[n];
        hn::StoreU(group, d, group_of_lane);
        first_ = group_of_lane[lane_of_least(d, nearest)];
    }

    /// Finds the nearest leaf of the nearest group.
    HWY_INLINE void find_leaf(const placed_codes& codes) {
        pairs query[Width / 2];
        load(query);
        const index_t lane = lane_of_least(panel_tag(), distances_from<Width>(query, boxes_of(codes, first_)));
        first_ = first_ * static_cast<panel_id>(n) + static_cast<panel_id>(lane);
    }

    /// Looks at that leaf.
    HWY_INLINE void look_at_first(const placed_codes& codes, panel_id* out) {
        pairs query[Width / 2];
        load(query);
        panel_minima<panel_tag> minima;
        look_at(codes, query, first_, minima);
        set_limit(minima);
        minima.store(out);
    }

    /// Lists the leaves that may hold a nearer code: their squared distances, in the low bits their numbers.
    HWY_INLINE void list_leaves(const placed_codes& codes, const panel_id* bounds, panel_id* groups, panel_id* leaves) {
        const panel_tag d;
        pairs query[Width / 2];
        load(query);
        const sums limit = hn::Set(d, limit_);
        index_t chosen = 0;
        for (index_t g = 0; g < codes.groups; g += n) {
            const auto is_near = hn::Not(hn::Gt(hn::LoadU(d, bounds + g), limit));
            chosen += store_chosen(d, numbers_from(g), is_near, groups + chosen);
        }
        const sums number_bits = hn::Set(d, codes.leaf_bits);
        count_ = 0;
        for (index_t i = 0; i < chosen; ++i) {
            const panel_id g = groups[i];
            const sums distance = distances_from<Width>(query, boxes_of(codes, g));
            const sums entry = hn::Or(hn::AndNot(number_bits, distance), numbers_from(g * n));
            count_ += store_chosen(d, entry, hn::Not(hn::Gt(distance, limit)), leaves + count_);
        }
    }

    /// Looks at those that are near by, or at all if there are few.
    HWY_INLINE void look_at_near(const placed_codes& codes, const panel_id* leaves, panel_id* chosen, panel_id* minima) {
        close_ = (count_ > few ? limit_ / 4 : limit_) | codes.leaf_bits;
        look_at_listed(codes, leaves, -1, close_, chosen, minima);
    }

    /// Looks at the others, if they still may hold a nearer code. Returns how many leaves were looked at, all in all.
    HWY_INLINE index_t look_at_far(const placed_codes& codes, const panel_id* leaves, panel_id* chosen, panel_id* minima) {
        const panel_id limit = limit_ | codes.leaf_bits;
        if (limit > close_) {
            look_at_listed(codes, leaves, close_, limit, chosen, minima);
        }
        return looked_at_;
    }

    /// Lists the codes that may be the nearest; out [a vector]. Returns how many, -1 if these may not be all.
    HWY_INLINE panel_id list_codes(const placed_codes& codes, const panel_id* from, panel_id* out) const {
        const panel_tag d;
        const panel_minima<panel_tag> minima(from);
        const sums bound = hn::Set(d, (limit_ - square_ + 1) / 2);  // of scores
        if (!can_ || !hn::AllTrue(d, hn::Gt(minima.second, bound))) {
            return -1;
        }
        const sums place = hn::Add(hn::Mul(minima.panel, hn::Set(d, static_cast<panel_id>(n))), numbers_from(0));
        const auto count = static_cast<panel_id>(store_chosen(d, place, hn::Not(hn::Gt(minima.least, bound)), out));
        for (panel_id i = 0; i < count; ++i) {
            out[i] = codes.ids[out[i]];
        }
        return count;
    }

private:
    static constexpr index_t n = score_lanes;
    static constexpr index_t few = 20;

    static HWY_INLINE const std::int16_t* boxes_of(const placed_codes& codes, panel_id group) {
        return codes.leaf_boxes + static_cast<index_t>(group) * 2 * Width * n;
    }

    HWY_INLINE void load(pairs (&query)[Width / 2]) const {
        HWY_UNROLL(4)
        for (index_t k = 0; k < Width / 2; ++k) {
            panel_id pair;
            hwy::CopyBytes<sizeof(pair)>(query_ + 2 * k, &pair);
            query[k] = hn::BitCast(pair_tag(), hn::Set(panel_tag(), pair));
        }
    }

    /// What lies farther than the limit is farther than the nearest code seen, whatever was rounded: that code is at
    /// sqrt(E + 1) units at most, and two distances may be wrong.
    HWY_INLINE void set_limit(const panel_minima<panel_tag>& minima) {
        const auto least = static_cast<std::int64_t>(hn::GetLane(hn::MinOfLanes(panel_tag(), minima.least)));
        const auto square = static_cast<float>(std::max<std::int64_t>(square_ + 2 * least, 0) + 1);
        const float distance = std::sqrt(square) * 1.000001F + 2 * error_;
        limit_ = static_cast<panel_id>(std::min(distance * distance * 1.000001F + 1, 2e9F));
    }

    static HWY_INLINE void look_at(const placed_codes& codes, const pairs (&z)[Width / 2], panel_id leaf,
                                   panel_minima<panel_tag>& minima) {
        const pair_tag d;
        HWY_UNROLL(4)
        for (panel_id v = 0; v < leaf_codes / n; ++v) {
            const panel_id panel = leaf * static_cast<panel_id>(leaf_codes / n) + v;
            const std::int16_t* const c = codes.negatives + static_cast<index_t>(panel) * Width * n;
            // Two sums, so that no addition waits long.
            sums even = hn::LoadU(panel_tag(), codes.half_squares + static_cast<index_t>(panel) * n);
            sums odd = hn::Zero(panel_tag());
            HWY_UNROLL(2)
            for (index_t k = 0; k < Width / 2; k += 2) {
                even = hn::Add(even, product_of_pairs(z[k], hn::LoadU(d, c + k * 2 * n)));
                odd = hn::Add(odd, product_of_pairs(z[k + 1], hn::LoadU(d, c + (k + 1) * 2 * n)));
            }
            minima.keep(hn::Add(even, odd), hn::Set(panel_tag(), panel));
        }
    }

    /// Looks at the listed leaves above one entry and up to another, but for the first.
    HWY_INLINE void look_at_listed(const placed_codes& codes, const panel_id* leaves, panel_id above, panel_id up_to,
                                   panel_id* chosen, panel_id* out) {
        const panel_tag d;
        pairs query[Width / 2];
        load(query);
        index_t count = 0;
        for (index_t i = 0; i < count_; i += n) {
            const sums entry = hn::LoadU(d, leaves + i);
            const sums leaf = hn::And(entry, hn::Set(d, codes.leaf_bits));
            const auto is_other = hn::And(lanes_before(d, count_ - i), hn::Ne(leaf, hn::Set(d, first_)));
            const auto is_between = hn::AndNot(hn::Gt(entry, hn::Set(d, up_to)), hn::Gt(entry, hn::Set(d, above)));
            count += store_chosen(d, leaf, hn::And(is_other, is_between), chosen + count);
        }
        panel_minima<panel_tag> minima(out);
        for (index_t i = 0; i < count; ++i) {
            look_at(codes, query, chosen[i], minima);
        }
        set_limit(minima);
        minima.store(out);
        looked_at_ += count;
    }

    std::int16_t query_[Width];
    bool can_;
    float error_;           // how far a distance may be off, in units
    panel_id square_;       // of the query
    panel_id first_;        // the leaf looked at
    panel_id limit_;        // of the squared distance of the nearest code
    panel_id close_;        // of leaves that are near by
    index_t count_;         // of leaves that are listed
    index_t looked_at_ = 1;
};

#endif

/// Lists for `count` queries, at most a tile, the codes that may be the nearest. Returns how many leaves were looked at.
/// (Takes copies: what is written may not change them.)
template <index_t Width>
index_t search_tile([[maybe_unused]] const placed_codes codes, [[maybe_unused]] const float* rows,
                    [[maybe_unused]] index_t count, [[maybe_unused]] const search_space space,
                    [[maybe_unused]] placed_query* out) {
    index_t looked_at = 0;
#if HWY_TARGET != HWY_SCALAR
    constexpr index_t size = panel_minima<panel_tag>::size;
    query_search<Width> searches[search_tile_queries];
    panel_id minima[search_tile_queries * size];
    for (index_t i = 0; i < count; ++i) {
        searches[i].round(codes, rows + i * Width);
    }
    for (index_t i = 0; i < count; ++i) {
        searches[i].find_group(codes, space.bounds + i * codes.groups);
    }
    for (index_t i = 0; i < count; ++i) {
        searches[i].find_leaf(codes);
    }
    for (index_t i = 0; i < count; ++i) {
        searches[i].look_at_first(codes, minima + i * size);
    }
    for (index_t i = 0; i < count; ++i) {
        searches[i].list_leaves(codes, space.bounds + i * codes.groups, space.chosen, space.leaves + i * space.room);
    }
    for (index_t i = 0; i < count; ++i) {
        searches[i].look_at_near(codes, space.leaves + i * space.room, space.chosen, minima + i * size);
    }
    for (index_t i = 0; i < count; ++i) {
        looked_at += searches[i].look_at_far(codes, space.leaves + i * space.room, space.chosen, minima + i * size);
    }
    for (index_t i = 0; i < count; ++i) {
        out[i].count = searches[i].list_codes(codes, minima + i * size, out[i].ids);
    }
#endif
    return looked_at;
}

/// The same for any number of queries, less the centre; rows [count][codes.width].
inline index_t search(const placed_codes& codes, const float* rows, index_t count, const search_space& space,
                      placed_query* out) {
    index_t looked_at = 0;
    for (index_t i = 0; i < count; i += search_tile_queries) {
        const index_t some = std::min(count - i, search_tile_queries);
        const float* const at = rows + i * codes.width;
        looked_at += codes.width == 4 ? search_tile<4>(codes, at, some, space, out + i)
                                      : search_tile<8>(codes, at, some, space, out + i);
    }
    return looked_at;
}

}  // namespace isic::inline ISIC_ABI::detail::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
