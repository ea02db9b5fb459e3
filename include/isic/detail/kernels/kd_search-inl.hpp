// SPDX-License-Identifier: Apache-2.0
/// \file
/// Search of the k-d tree: prunes leaves whose bounding box is farther from the query than a code already visited.
/// Compiled once per instruction set.
///
/// Distances are those of the quantised rows, exact in int32. By the triangle inequality they differ from the true ones
/// by at most the quantisation errors of the two rows; no other error needs a bound.
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

/// Lanes of a SIMD vector of the k-d tree search; 0: not available.
inline index_t kd_search_lanes() {
    return HWY_TARGET == HWY_SCALAR ? 0 : score_lanes;
}

#if HWY_TARGET != HWY_SCALAR

using int16_tag = hn::Repartition<std::int16_t, int32_tag>;
using int16_vector = hn::Vec<int16_tag>;  // pairs of columns
using int32_minima = panel_minima<int32_tag>;

/// x0 y0 + x1 y1 in every lane.
HWY_INLINE int32_vector product_of_pairs(int16_vector x, int16_vector y) {
    const int32_tag d;
    int32_vector high = hn::Zero(d);
    const int32_vector low = hn::ReorderWidenMulAccumulate(d, x, y, hn::Zero(d), high);
    return hn::RearrangeToOddPlusEven(low, high);
}

/// Squared distances of a point to one SIMD vector of boxes [Width / 2][min, max][lanes][2].
template <index_t Width>
HWY_INLINE int32_vector box_distances(const int16_vector (&z)[Width / 2], const std::int16_t* boxes) {
    const int16_tag d;
    int32_vector sum = hn::Zero(int32_tag());
    HWY_UNROLL(4)
    for (index_t k = 0; k < Width / 2; ++k) {
        const std::int16_t* const box = boxes + k * 2 * lanes<int16_tag>;
        const int16_vector min = hn::LoadU(d, box);
        const int16_vector max = hn::LoadU(d, box + lanes<int16_tag>);
        const int16_vector gap = hn::Sub(z[k], hn::Min(hn::Max(z[k], min), max));
        sum = hn::Add(sum, product_of_pairs(gap, gap));
    }
    return sum;
}

/// The search of one query of a tile, in stages without branches. Each stage runs for all queries of the tile in turn,
/// so that the processor overlaps several of them.
template <index_t Width>
class kd_query_search {
public:
    /// Quantises a row [Width]. A query too far from the codes is undecided.
    HWY_INLINE void quantise(const kd_tree_view& codes, const float* row) {
        const hn::CappedTag<float, static_cast<size_t>(Width)> d;
        const hn::RebindToSigned<decltype(d)> di;
        const hn::Rebind<std::int16_t, decltype(d)> d16;
        auto largest = hn::Zero(d);
        auto squared_error = hn::Zero(d);
        auto squared_norm = hn::Zero(di);
        for (index_t k = 0; k < Width; k += lanes<decltype(d)>) {
            const auto scaled = hn::Mul(hn::LoadU(d, row + k), hn::Set(d, codes.scale));
            const auto whole = hn::NearestInt(scaled);
            const auto error = hn::Sub(scaled, hn::ConvertTo(d, whole));
            largest = hn::Max(largest, hn::Abs(scaled));
            squared_error = hn::MulAdd(error, error, squared_error);
            squared_norm = hn::Add(squared_norm, hn::Mul(whole, whole));
            hn::StoreU(hn::DemoteTo(d16, whole), d16, query_ + k);
        }
        in_range_ = hn::GetLane(hn::MaxOfLanes(d, largest)) <= static_cast<float>(2 * max_int16_value);
        const float norm_of_error = std::sqrt(hn::GetLane(hn::SumOfLanes(d, squared_error))) * 1.001F;
        error_ = in_range_ ? codes.error + norm_of_error + int16_rounding_error : 0;
        squared_norm_ = in_range_ ? hn::GetLane(hn::SumOfLanes(di, squared_norm)) : 0;
        for (std::int16_t& value : query_) {
            value = in_range_ ? value : std::int16_t{0};
        }
    }

    /// Finds the nearest group. distances: of all groups [groups].
    HWY_INLINE void find_nearest_group(const kd_tree_view& codes, std::int32_t* distances) {
        const int32_tag d;
        int16_vector query[Width / 2];
        load(query);
        int32_vector nearest = hn::Set(d, std::numeric_limits<std::int32_t>::max());
        int32_vector group = hn::Zero(d);
        for (index_t g = 0; g < codes.groups; g += n) {
            const int32_vector distance = box_distances<Width>(query, codes.group_boxes + g * 2 * Width);
            hn::StoreU(distance, d, distances + g);
            group = hn::IfThenElse(hn::Lt(distance, nearest), indices_from(g), group);
            nearest = hn::Min(nearest, distance);
        }
        index32 group_of_lane[n];
        hn::StoreU(group, d, group_of_lane);
        first_ = group_of_lane[argmin_lane(d, nearest)];
    }

    /// Finds the nearest leaf of the nearest group.
    HWY_INLINE void find_nearest_leaf(const kd_tree_view& codes) {
        int16_vector query[Width / 2];
        load(query);
        const index_t lane = argmin_lane(int32_tag(), box_distances<Width>(query, leaf_boxes_of(codes, first_)));
        first_ = first_ * static_cast<index32>(n) + static_cast<index32>(lane);
    }

    /// Visits that leaf.
    HWY_INLINE void visit_nearest_leaf(const kd_tree_view& codes, std::int32_t* minima_out) {
        int16_vector query[Width / 2];
        load(query);
        int32_minima minima;
        visit_leaf(codes, query, first_, minima);
        update_limit(minima);
        minima.store(minima_out);
    }

    /// Lists the leaves that are not pruned: squared distance in the high bits, leaf index in the low bits.
    HWY_INLINE void list_leaves(const kd_tree_view& codes, const std::int32_t* group_distances, index32* groups,
                                index32* leaves) {
        const int32_tag d;
        int16_vector query[Width / 2];
        load(query);
        const int32_vector limit = hn::Set(d, limit_);
        index_t group_count = 0;
        for (index_t g = 0; g < codes.groups; g += n) {
            const auto is_near = hn::Not(hn::Gt(hn::LoadU(d, group_distances + g), limit));
            group_count += store_selected(d, indices_from(g), is_near, groups + group_count);
        }
        const int32_vector index_bits = hn::Set(d, codes.leaf_mask);
        leaf_count_ = 0;
        for (index_t i = 0; i < group_count; ++i) {
            const index32 g = groups[i];
            const int32_vector distance = box_distances<Width>(query, leaf_boxes_of(codes, g));
            const int32_vector entry = hn::Or(hn::AndNot(index_bits, distance), indices_from(g * n));
            leaf_count_ += store_selected(d, entry, hn::Not(hn::Gt(distance, limit)), leaves + leaf_count_);
        }
    }

    /// Visits the listed leaves at up to half the limit's distance, or all of them if they are few.
    HWY_INLINE void visit_near_leaves(const kd_tree_view& codes, const index32* leaves, index32* selected,
                                      std::int32_t* minima) {
        near_limit_ = (leaf_count_ > few_leaves ? limit_ / 4 : limit_) | codes.leaf_mask;
        visit_leaves(codes, leaves, -1, near_limit_, selected, minima);
    }

    /// Visits the other listed leaves that the lower limit does not prune. Returns the number of leaves visited in all
    /// stages.
    HWY_INLINE index_t visit_far_leaves(const kd_tree_view& codes, const index32* leaves, index32* selected,
                                        std::int32_t* minima) {
        const std::int32_t limit = limit_ | codes.leaf_mask;
        if (limit > near_limit_) {
            visit_leaves(codes, leaves, near_limit_, limit, selected, minima);
        }
        return visited_;
    }

    /// Stores the candidates. Undecided where a lane may hold two of them.
    HWY_INLINE void store_candidates(const kd_tree_view& codes, const std::int32_t* from, kd_candidates& out) const {
        const int32_tag d;
        const int32_minima minima(from);
        const int32_vector bound = hn::Set(d, (limit_ - squared_norm_ + 1) / 2);  // of scores
        if (!in_range_ || !hn::AllTrue(d, hn::Gt(minima.second, bound))) {
            out.count = -1;
            return;
        }
        const int32_vector position =
            hn::Add(hn::Mul(minima.panel, hn::Set(d, static_cast<index32>(n))), indices_from(0));
        const auto is_candidate = hn::Not(hn::Gt(minima.least, bound));
        const auto count = static_cast<index32>(store_selected(d, position, is_candidate, out.ids));
        for (index32 i = 0; i < count; ++i) {
            out.ids[i] = codes.ids[out.ids[i]];
        }
        out.count = count;
    }

private:
    static constexpr index_t n = score_lanes;
    static constexpr index_t few_leaves = 20;

    static HWY_INLINE const std::int16_t* leaf_boxes_of(const kd_tree_view& codes, index32 group) {
        return codes.leaf_boxes + static_cast<index_t>(group) * 2 * Width * n;
    }

    /// Loads the query, each pair of columns in all lanes.
    HWY_INLINE void load(int16_vector (&query)[Width / 2]) const {
        HWY_UNROLL(4)
        for (index_t k = 0; k < Width / 2; ++k) {
            std::int32_t pair;
            hwy::CopyBytes<sizeof(pair)>(query_ + 2 * k, &pair);
            query[k] = hn::BitCast(int16_tag(), hn::Set(int32_tag(), pair));
        }
    }

    /// Sets the limit from the least score: the nearest visited code is at a quantised distance of at most sqrt(E + 1).
    /// A code beyond the limit is farther whatever the quantisation errors of both codes.
    HWY_INLINE void update_limit(const int32_minima& minima) {
        const auto least = static_cast<std::int64_t>(hn::GetLane(hn::MinOfLanes(int32_tag(), minima.least)));
        const auto square = static_cast<float>(std::max<std::int64_t>(squared_norm_ + 2 * least, 0) + 1);
        const float distance = std::sqrt(square) * 1.000001F + 2 * error_;
        limit_ = static_cast<std::int32_t>(std::min(distance * distance * 1.000001F + 1, 2e9F));
    }

    /// Updates the minima with the scores of a leaf's codes.
    static HWY_INLINE void visit_leaf(const kd_tree_view& codes, const int16_vector (&z)[Width / 2], index32 leaf,
                                      int32_minima& minima) {
        const int16_tag d;
        HWY_UNROLL(4)
        for (index32 v = 0; v < leaf_size / n; ++v) {
            const index32 panel = leaf * static_cast<index32>(leaf_size / n) + v;
            const std::int16_t* const c = codes.negated_codes + static_cast<index_t>(panel) * Width * n;
            // Two sums hide the latency of the additions.
            int32_vector even = hn::LoadU(int32_tag(), codes.half_norms + static_cast<index_t>(panel) * n);
            int32_vector odd = hn::Zero(int32_tag());
            HWY_UNROLL(2)
            for (index_t k = 0; k < Width / 2; k += 2) {
                even = hn::Add(even, product_of_pairs(z[k], hn::LoadU(d, c + k * 2 * n)));
                odd = hn::Add(odd, product_of_pairs(z[k + 1], hn::LoadU(d, c + (k + 1) * 2 * n)));
            }
            minima.update(hn::Add(even, odd), hn::Set(int32_tag(), panel));
        }
    }

    /// Visits the listed leaves whose entries are in (above, up_to], except the nearest leaf.
    HWY_INLINE void visit_leaves(const kd_tree_view& codes, const index32* leaves, std::int32_t above,
                                 std::int32_t up_to, index32* selected, std::int32_t* minima_in_out) {
        const int32_tag d;
        int16_vector query[Width / 2];
        load(query);
        index_t count = 0;
        for (index_t i = 0; i < leaf_count_; i += n) {
            const int32_vector entry = hn::LoadU(d, leaves + i);
            const int32_vector leaf = hn::And(entry, hn::Set(d, codes.leaf_mask));
            const auto is_other = hn::And(first_lanes(d, leaf_count_ - i), hn::Ne(leaf, hn::Set(d, first_)));
            const auto is_between = hn::AndNot(hn::Gt(entry, hn::Set(d, up_to)), hn::Gt(entry, hn::Set(d, above)));
            count += store_selected(d, leaf, hn::And(is_other, is_between), selected + count);
        }
        int32_minima minima(minima_in_out);
        for (index_t i = 0; i < count; ++i) {
            visit_leaf(codes, query, selected[i], minima);
        }
        update_limit(minima);
        minima.store(minima_in_out);
        visited_ += count;
    }

    std::int16_t query_[Width];  // quantised
    bool in_range_;
    float error_;                // bound of the error of a quantised distance, in steps
    std::int32_t squared_norm_;  // of the query
    index32 first_;              // the nearest leaf; before, the nearest group
    std::int32_t limit_;         // squared distance beyond which leaves are pruned
    std::int32_t near_limit_;    // entries up to which leaves are near
    index_t leaf_count_;         // listed leaves
    index_t visited_ = 1;        // leaves
};

#endif

/// Finds the candidates of `count` queries, at most a tile. Returns the number of leaves visited. (Arguments are
/// copies, which no store can alias.)
template <index_t Width>
index_t kd_search_tile([[maybe_unused]] const kd_tree_view codes, [[maybe_unused]] const float* rows,
                       [[maybe_unused]] index_t count, [[maybe_unused]] const kd_scratch scratch,
                       [[maybe_unused]] kd_candidates* out) {
    index_t visited = 0;
#if HWY_TARGET != HWY_SCALAR
    constexpr index_t size = int32_minima::size;
    kd_query_search<Width> searches[kd_tile_queries];
    std::int32_t minima[kd_tile_queries * size];
    for (index_t i = 0; i < count; ++i) {
        searches[i].quantise(codes, rows + i * Width);
    }
    for (index_t i = 0; i < count; ++i) {
        searches[i].find_nearest_group(codes, scratch.group_distances + i * codes.groups);
    }
    for (index_t i = 0; i < count; ++i) {
        searches[i].find_nearest_leaf(codes);
    }
    for (index_t i = 0; i < count; ++i) {
        searches[i].visit_nearest_leaf(codes, minima + i * size);
    }
    for (index_t i = 0; i < count; ++i) {
        searches[i].list_leaves(codes, scratch.group_distances + i * codes.groups, scratch.selected,
                                scratch.leaves + i * scratch.capacity);
    }
    for (index_t i = 0; i < count; ++i) {
        searches[i].visit_near_leaves(codes, scratch.leaves + i * scratch.capacity, scratch.selected,
                                      minima + i * size);
    }
    for (index_t i = 0; i < count; ++i) {
        visited += searches[i].visit_far_leaves(codes, scratch.leaves + i * scratch.capacity, scratch.selected,
                                                minima + i * size);
    }
    for (index_t i = 0; i < count; ++i) {
        searches[i].store_candidates(codes, minima + i * size, out[i]);
    }
#endif
    return visited;
}

/// Finds the candidates of any number of queries, centre subtracted; rows [count][codes.width].
inline index_t kd_search(const kd_tree_view& codes, const float* rows, index_t count, const kd_scratch& scratch,
                         kd_candidates* out) {
    index_t visited = 0;
    for (index_t i = 0; i < count; i += kd_tile_queries) {
        const index_t tile = std::min(count - i, kd_tile_queries);
        const float* const at = rows + i * codes.width;
        visited += codes.width == 4 ? kd_search_tile<4>(codes, at, tile, scratch, out + i)
                                    : kd_search_tile<8>(codes, at, tile, scratch, out + i);
    }
    return visited;
}

}  // namespace isic::inline ISIC_ABI::detail::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
