/// \file
/// The search among codes that lie by place, compiled once per instruction set: a leaf whose box is farther from the query
/// than a code already seen is not looked at.
// Guarded as Highway asks: once per instruction set.
#if defined(ISIC_KERNELS_SEARCH_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef ISIC_KERNELS_SEARCH_INL
#undef ISIC_KERNELS_SEARCH_INL
#else
#define ISIC_KERNELS_SEARCH_INL
#endif

#include "nearest-inl.hpp"

#if HWY_TARGET != HWY_SCALAR

HWY_BEFORE_NAMESPACE();
namespace isic::kernels::HWY_NAMESPACE {

/// Squared distances of a point from as many boxes as a vector has lanes. boxes [Width][least, largest][lanes].
template <index_t Width>
HWY_INLINE scores distances_from(const scores (&z)[Width], const float* boxes) {
    const score_tag d;
    constexpr index_t n = score_lanes;
    scores even = hn::Zero(d);
    scores odd = hn::Zero(d);
    HWY_UNROLL(4)
    for (index_t k = 0; k < Width; k += 2) {
        const float* const box = boxes + 2 * k * n;
        const scores x = hn::Sub(z[k], hn::Min(hn::Max(z[k], hn::LoadU(d, box)), hn::LoadU(d, box + n)));
        const scores y =
            hn::Sub(z[k + 1], hn::Min(hn::Max(z[k + 1], hn::LoadU(d, box + 2 * n)), hn::LoadU(d, box + 3 * n)));
        even = hn::MulAdd(x, x, even);
        odd = hn::MulAdd(y, y, odd);
    }
    return hn::Add(even, odd);
}

/// The search of one query of a tile, in steps without branches but for the last: taken for one query after the other, the
/// processor works on several at once. z [Width] with place_tile::queries between values.
template <index_t Width>
class query_search {
public:
    /// Finds the nearest group. `margin` is how far twice a score and the squared norm may be off; group_bounds
    /// [group_bounds_room].
    HWY_INLINE void find_group(const code_panels& codes, const float* z, float margin, float* group_bounds) {
        const score_tag d;
        const panel_tag di;
        scores query[Width];
        load(z, query);
        rest_ = margin;
        for (index_t k = 0; k < Width; ++k) {
            rest_ += z[k * place_tile::queries] * z[k * place_tile::queries];
        }
        scores nearest = hn::Set(d, std::numeric_limits<float>::infinity());
        auto group = hn::Zero(di);
        for (index_t g = 0; g < codes.count / n; g += n) {
            const scores distance = distances_from<Width>(query, codes.group_boxes + g * 2 * Width);
            hn::StoreU(distance, d, group_bounds + g);
            group = hn::IfThenElse(hn::RebindMask(di, hn::Lt(distance, nearest)), numbers_from(g), group);
            nearest = hn::Min(nearest, distance);
        }
        panel_id group_of_lane[n];
        hn::StoreU(group, di, group_of_lane);
        first_ = static_cast<index_t>(group_of_lane[lane_of_least(nearest)]);
    }

    /// Finds the nearest leaf of the nearest group.
    HWY_INLINE void find_leaf(const code_panels& codes, const float* z) {
        scores query[Width];
        load(z, query);
        first_ = first_ * n + lane_of_least(distances_from<Width>(query, boxes_of(codes, first_)));
    }

    /// Looks at that leaf.
    HWY_INLINE void look_at_first(const code_panels& codes, const float* z, float* out) {
        scores query[Width];
        load(z, query);
        panel_minima minima;
        look_at(codes, query, first_, minima);
        bound_ = limit(minima);
        minima.store(out);
    }

    /// Looks at all other leaves that may hold a nearer code: those near by at once, the others if they still may then.
    /// Returns how many leaves were looked at.
    HWY_INLINE index_t look_at_others(const code_panels& codes, const float* z, const float* group_bounds, const search_lists& lists,
                           float* out) const {
        const score_tag d;
        const panel_tag di;
        scores query[Width];
        load(z, query);
        const index_t groups = codes.count / n;
        const scores bound = hn::Set(d, bound_);
        index_t chosen_groups = 0;
        for (index_t g = 0; g < groups; g += n) {
            const auto chosen = hn::AndNot(hn::Gt(hn::LoadU(d, group_bounds + g), bound), lanes_before(groups - g));
            chosen_groups += store_chosen(di, numbers_from(g), hn::RebindMask(di, chosen), lists.groups + chosen_groups);
        }
        const auto seen = hn::Set(di, static_cast<panel_id>(first_));
        const scores close = hn::Set(d, 0.25F * bound_);
        index_t near_by = 0;
        index_t far = 0;
        for (index_t i = 0; i < chosen_groups; ++i) {
            const auto g = static_cast<index_t>(lists.groups[i]);
            const scores distance = distances_from<Width>(query, boxes_of(codes, g));
            const auto leaves = numbers_from(g * n);
            const auto is_new = hn::RebindMask(d, hn::Ne(leaves, seen));
            const auto is_near = hn::AndNot(hn::Gt(distance, close), is_new);
            const auto is_far = hn::AndNot(is_near, hn::AndNot(hn::Gt(distance, bound), is_new));
            near_by += store_chosen(di, leaves, hn::RebindMask(di, is_near), lists.near_by + near_by);
            store_chosen(d, distance, is_far, lists.far_bounds + far);
            far += store_chosen(di, leaves, hn::RebindMask(di, is_far), lists.far + far);
        }
        panel_minima minima(out);
        look_at_all(codes, query, lists.near_by, near_by, minima);
        const scores new_bound = hn::Set(d, limit(minima));
        index_t left = 0;
        for (index_t i = 0; i < far; i += n) {
            const auto chosen = hn::AndNot(hn::Gt(hn::LoadU(d, lists.far_bounds + i), new_bound), lanes_before(far - i));
            const auto leaves = hn::LoadU(di, lists.far + i);
            left += store_chosen(di, leaves, hn::RebindMask(di, chosen), lists.near_by + left);
        }
        look_at_all(codes, query, lists.near_by, left, minima);
        minima.store(out);
        return 1 + near_by + left;
    }

private:
    static constexpr index_t n = score_lanes;

    static HWY_INLINE const float* boxes_of(const code_panels& codes, index_t group) {
        return codes.leaf_boxes + group * 2 * Width * n;
    }

    static HWY_INLINE void load(const float* z, scores (&query)[Width]) {
        HWY_UNROLL(8)
        for (index_t k = 0; k < Width; ++k) {
            query[k] = hn::Set(score_tag(), z[k * place_tile::queries]);
        }
    }

    static HWY_INLINE hn::Vec<panel_tag> numbers_from(index_t first) {
        return hn::Add(hn::Iota(panel_tag(), 0), hn::Set(panel_tag(), static_cast<panel_id>(first)));
    }

    /// What lies farther than this is farther than the nearest code seen, whatever was rounded.
    HWY_INLINE float limit(const panel_minima& minima) const {
        const float least = hn::GetLane(hn::MinOfLanes(score_tag(), minima.least));
        return (2 * least + rest_) * (1 + 32 * std::numeric_limits<float>::epsilon());
    }

    static HWY_INLINE void look_at(const code_panels& codes, const scores (&z)[Width], index_t leaf, panel_minima& minima) {
        const score_tag d;
        const float* const panel = codes.values + leaf * Width * place_tile::codes;
        const float* const half_norms = codes.half_norms + leaf * place_tile::codes;
        // Four sums, so that no addition waits long.
        scores a = hn::LoadU(d, half_norms);
        scores b = hn::LoadU(d, half_norms + n);
        scores a_odd = hn::Zero(d);
        scores b_odd = hn::Zero(d);
        HWY_UNROLL(4)
        for (index_t k = 0; k < Width; k += 2) {
            const float* const c = panel + 2 * k * n;
            a = hn::NegMulAdd(z[k], hn::LoadU(d, c), a);
            b = hn::NegMulAdd(z[k], hn::LoadU(d, c + n), b);
            a_odd = hn::NegMulAdd(z[k + 1], hn::LoadU(d, c + 2 * n), a_odd);
            b_odd = hn::NegMulAdd(z[k + 1], hn::LoadU(d, c + 3 * n), b_odd);
        }
        minima.keep(hn::Min(hn::Add(a, a_odd), hn::Add(b, b_odd)), bits_of_panel(leaf));
    }

    static HWY_INLINE void look_at_all(const code_panels& codes, const scores (&z)[Width], const panel_id* leaves,
                                       index_t count, panel_minima& minima) {
        for (index_t i = 0; i < count; ++i) {
            const float* const later = codes.values + static_cast<index_t>(leaves[i + 1]) * Width * place_tile::codes;
            for (index_t at = 0; at < Width * place_tile::codes; at += 16) {
                hwy::Prefetch(later + at);
            }
            look_at(codes, z, static_cast<index_t>(leaves[i]), minima);
        }
    }

    float rest_ = 0;     // the squared norm and the margin
    index_t first_ = 0;  // the leaf looked at
    float bound_ = 0;    // of the squared distances of leaves
};

/// As `find_tile_minima`, looking at few leaves; at all of them where too few can be left out.
template <index_t Width>
void search_minima(const code_panels& codes, const float* queries, index_t groups, const float* margins,
                   const search_lists& lists, float* out) {
    constexpr index_t q = place_tile::queries;
    const index_t room = group_bounds_room(codes.count, score_lanes);
    index_t looked_at = 0;
    for (index_t g = 0; g < groups; ++g) {
        const float* const z = queries + g * Width * q;
        float* const minima = out + g * q * panel_minima::size;
        // A leaf of the search takes about three times as long as one of all.
        if (g == 2 && looked_at > 2 * q * codes.count / 3) {
            find_tile_minima<place_tile>(codes, z, groups - g, minima);
            return;
        }
        query_search<Width> searches[q];
        for (index_t i = 0; i < q; ++i) {
            searches[i].find_group(codes, z + i, margins[g * q + i], lists.group_bounds + i * room);
        }
        for (index_t i = 0; i < q; ++i) {
            searches[i].find_leaf(codes, z + i);
        }
        for (index_t i = 0; i < q; ++i) {
            searches[i].look_at_first(codes, z + i, minima + i * panel_minima::size);
        }
        for (index_t i = 0; i < q; ++i) {
            looked_at += searches[i].look_at_others(codes, z + i, lists.group_bounds + i * room, lists, minima + i * panel_minima::size);
        }
    }
}

}  // namespace isic::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif

#endif
