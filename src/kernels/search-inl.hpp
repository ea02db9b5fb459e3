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
template <index_t Width, class D, class V, class T>
HWY_INLINE V distances_from(D d, const V (&z)[Width], const T* boxes) {
    constexpr index_t n = lanes<D>;
    V even = hn::Zero(d);
    V odd = hn::Zero(d);
    HWY_UNROLL(4)
    for (index_t k = 0; k < Width; k += 2) {
        const T* const box = boxes + 2 * k * n;
        const V x = hn::Sub(z[k], hn::Min(hn::Max(z[k], hn::LoadU(d, box)), hn::LoadU(d, box + n)));
        const V y = hn::Sub(z[k + 1], hn::Min(hn::Max(z[k + 1], hn::LoadU(d, box + 2 * n)), hn::LoadU(d, box + 3 * n)));
        even = hn::MulAdd(x, x, even);
        odd = hn::MulAdd(y, y, odd);
    }
    return hn::Add(even, odd);
}

/// What is kept of the leaves that a query was shown, as `find_tile_minima` writes it.
template <class D>
struct leaf_minima {
    using T = hn::TFromD<D>;
    using V = hn::Vec<D>;

    HWY_INLINE explicit leaf_minima(D d)
        : least(hn::Set(d, std::numeric_limits<T>::infinity())), second(least), leaf_of_least(hn::Zero(d)) {}

    template <index_t Width>
    HWY_INLINE void look_at(D d, const V (&z)[Width], const code_panels<T>& codes, index_t leaf) {
        constexpr index_t n = lanes<D>;
        const hn::RebindToSigned<D> di;
        const T* const panel = codes.values + leaf * Width * 2 * n;
        const T* const half_norms = codes.half_norms + leaf * 2 * n;
        // Four sums, so that no addition waits long.
        V a = hn::LoadU(d, half_norms);
        V b = hn::LoadU(d, half_norms + n);
        V a_odd = hn::Zero(d);
        V b_odd = hn::Zero(d);
        HWY_UNROLL(4)
        for (index_t k = 0; k < Width; k += 2) {
            const T* const c = panel + 2 * k * n;
            a = hn::NegMulAdd(z[k], hn::LoadU(d, c), a);
            b = hn::NegMulAdd(z[k], hn::LoadU(d, c + n), b);
            a_odd = hn::NegMulAdd(z[k + 1], hn::LoadU(d, c + 2 * n), a_odd);
            b_odd = hn::NegMulAdd(z[k + 1], hn::LoadU(d, c + 3 * n), b_odd);
        }
        const V low = hn::Min(hn::Add(a, a_odd), hn::Add(b, b_odd));
        const V id = hn::BitCast(d, hn::Set(di, static_cast<panel_id<T>>(leaf)));
        leaf_of_least = hn::IfThenElse(hn::Lt(low, least), id, leaf_of_least);
        second = hn::Min(second, hn::Max(least, low));
        least = hn::Min(least, low);
    }

    V least;
    V second;
    V leaf_of_least;
};

/// Writes the lanes of a mask side by side, and anything behind them. Returns how many. (Storing through the mask is slow
/// on some processors.)
template <class D, class V, class M>
HWY_INLINE index_t store_chosen(D d, V v, M chosen, hn::TFromD<D>* to) {
    hn::StoreU(hn::Compress(v, chosen), d, to);
    return static_cast<index_t>(hn::CountTrue(d, chosen));
}

/// The first `count` lanes; count > 0 may be more than there are.
template <class D>
HWY_INLINE hn::Mask<D> lanes_before(D d, index_t count) {
    return hn::FirstN(d, static_cast<size_t>(count < lanes<D> ? count : lanes<D>));
}

/// The lane that has the least value.
template <class D, class V>
HWY_INLINE index_t lane_of_least(D d, V v) {
    return static_cast<index_t>(hn::FindKnownFirstTrue(d, hn::Eq(v, hn::MinOfLanes(d, v))));
}

/// Minima of one query over the leaves that may hold its nearest code; query [Width] with `stride` between values. `margin`
/// is how far twice a score and the squared norm may be off. Returns how many leaves were looked at.
template <index_t Width, class T>
HWY_INLINE index_t search(const code_panels<T>& codes, const T* query, index_t stride, T margin,
                          const search_lists<T>& lists, T* out) {
    const hn::ScalableTag<T> d;
    const hn::RebindToSigned<decltype(d)> di;
    using V = hn::Vec<decltype(d)>;
    constexpr index_t n = lanes<decltype(d)>;
    const index_t groups = codes.count / n;
    const auto numbers = hn::Iota(di, 0);
    const auto numbers_from = [&](index_t first) HWY_ATTR {
        return hn::Add(numbers, hn::Set(di, static_cast<panel_id<T>>(first)));
    };
    V z[Width];
    T square = 0;
    for (index_t k = 0; k < Width; ++k) {
        z[k] = hn::Set(d, query[k * stride]);
        square += query[k * stride] * query[k * stride];
    }
    leaf_minima<decltype(d)> minima(d);
    // What lies farther than this is farther than the nearest code seen, whatever was rounded.
    const auto limit = [&]() HWY_ATTR {
        const T least = hn::GetLane(hn::MinOfLanes(d, minima.least));
        return (2 * least + square + margin) * (1 + 32 * std::numeric_limits<T>::epsilon());
    };

    // The nearest leaf of the nearest group.
    V nearest = hn::Set(d, std::numeric_limits<T>::infinity());
    auto nearest_group = hn::Zero(di);
    for (index_t g = 0; g < groups; g += n) {
        const V bound = distances_from<Width>(d, z, codes.group_boxes + g * 2 * Width);
        hn::StoreU(bound, d, lists.group_bounds + g);
        nearest_group = hn::IfThenElse(hn::RebindMask(di, hn::Lt(bound, nearest)), numbers_from(g), nearest_group);
        nearest = hn::Min(nearest, bound);
    }
    panel_id<T> group_of_lane[n];
    hn::StoreU(nearest_group, di, group_of_lane);
    const auto first_group = static_cast<index_t>(group_of_lane[lane_of_least(d, nearest)]);
    const V first_bounds = distances_from<Width>(d, z, codes.leaf_boxes + first_group * 2 * Width * n);
    const index_t first = first_group * n + lane_of_least(d, first_bounds);
    minima.template look_at<Width>(d, z, codes, first);

    // All leaves that may hold a nearer code: those near by at once, the others if they still may then.
    index_t chosen_groups = 0;
    V bound = hn::Set(d, limit());
    for (index_t g = 0; g < groups; g += n) {
        const auto there = lanes_before(d, groups - g);
        const auto chosen = hn::AndNot(hn::Gt(hn::LoadU(d, lists.group_bounds + g), bound), there);
        chosen_groups += store_chosen(di, numbers_from(g), hn::RebindMask(di, chosen), lists.groups + chosen_groups);
    }
    const V close = hn::Mul(bound, hn::Set(d, T(0.25)));
    const auto seen = hn::Set(di, static_cast<panel_id<T>>(first));
    index_t near_by = 0;
    index_t far = 0;
    for (index_t i = 0; i < chosen_groups; ++i) {
        const auto g = static_cast<index_t>(lists.groups[i]);
        const V to_leaf = distances_from<Width>(d, z, codes.leaf_boxes + g * 2 * Width * n);
        const auto leaves = numbers_from(g * n);
        const auto is_new = hn::RebindMask(d, hn::Ne(leaves, seen));
        const auto is_near = hn::AndNot(hn::Gt(to_leaf, close), is_new);
        const auto is_far = hn::AndNot(is_near, hn::AndNot(hn::Gt(to_leaf, bound), is_new));
        near_by += store_chosen(di, leaves, hn::RebindMask(di, is_near), lists.near_by + near_by);
        store_chosen(d, to_leaf, is_far, lists.far_bounds + far);
        far += store_chosen(di, leaves, hn::RebindMask(di, is_far), lists.far + far);
    }
    const auto look_at_all = [&](index_t count) HWY_ATTR {
        for (index_t i = 0; i < count; ++i) {
            const T* const later = codes.values + static_cast<index_t>(lists.near_by[i + 1]) * Width * 2 * n;
            for (index_t at = 0; at < Width * 2 * n; at += 64 / static_cast<index_t>(sizeof(T))) {
                hwy::Prefetch(later + at);
            }
            minima.template look_at<Width>(d, z, codes, static_cast<index_t>(lists.near_by[i]));
        }
        return count;
    };
    index_t looked_at = 1 + look_at_all(near_by);
    bound = hn::Set(d, limit());
    index_t left = 0;
    for (index_t i = 0; i < far; i += n) {
        const auto chosen =
            hn::AndNot(hn::Gt(hn::LoadU(d, lists.far_bounds + i), bound), lanes_before(d, far - i));
        left += store_chosen(di, hn::LoadU(di, lists.far + i), hn::RebindMask(di, chosen), lists.near_by + left);
    }
    looked_at += look_at_all(left);

    hn::StoreU(minima.least, d, out);
    hn::StoreU(minima.second, d, out + n);
    hn::StoreU(minima.leaf_of_least, d, out + 2 * n);
    return looked_at;
}

/// As `find_tile_minima`, looking at few leaves; at all of them where too few can be left out.
template <index_t Width, class T>
void search_minima(const code_panels<T>& codes, const T* queries, index_t groups, const T* margins,
                   const search_lists<T>& lists, T* out) {
    constexpr index_t n = lanes<hn::ScalableTag<T>>;
    constexpr index_t q = place_tile::queries;
    index_t looked_at = 0;
    for (index_t g = 0; g < groups; ++g) {
        // A leaf of the search takes about three times as long as one of all.
        if (g == 2 && looked_at > 2 * q * codes.count / 3) {
            find_tile_minima<place_tile>(codes, queries + g * Width * q, groups - g, out + 3 * g * q * n);
            return;
        }
        for (index_t i = 0; i < q; ++i) {
            const index_t at = g * q + i;
            looked_at += search<Width>(codes, queries + g * Width * q + i, q, margins[at], lists, out + 3 * at * n);
        }
    }
}

}  // namespace isic::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif

#endif
