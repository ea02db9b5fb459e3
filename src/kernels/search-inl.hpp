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
    /// What `store` wrote.
    HWY_INLINE leaf_minima(D d, const T* from)
        : least(hn::LoadU(d, from)), second(hn::LoadU(d, from + lanes<D>)), leaf_of_least(hn::LoadU(d, from + 2 * lanes<D>)) {}

    HWY_INLINE void store(D d, T* to) const {
        hn::StoreU(least, d, to);
        hn::StoreU(second, d, to + lanes<D>);
        hn::StoreU(leaf_of_least, d, to + 2 * lanes<D>);
    }

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

/// The search of one query of a tile, in two steps: the first has no branches, so that the processor works on several
/// queries at once.
template <index_t Width, class T>
class query_search {
public:
    using D = hn::ScalableTag<T>;
    using DI = hn::RebindToSigned<D>;
    using V = hn::Vec<D>;

    /// Looks at the nearest leaf of the nearest group. z [Width] with place_tile::queries between values; `margin` is how far
    /// twice a score and the squared norm may be off; group_bounds [groups and a vector].
    HWY_INLINE void begin(const code_panels<T>& codes, const T* z, T margin, T* group_bounds, T* out) {
        V query[Width];
        load(z, query);
        rest = margin;
        for (index_t k = 0; k < Width; ++k) {
            rest += z[k * place_tile::queries] * z[k * place_tile::queries];
        }
        const index_t groups = codes.count / n;
        V nearest = hn::Set(d, std::numeric_limits<T>::infinity());
        auto group = hn::Zero(di);
        for (index_t g = 0; g < groups; g += n) {
            const V distance = distances_from<Width>(d, query, codes.group_boxes + g * 2 * Width);
            hn::StoreU(distance, d, group_bounds + g);
            group = hn::IfThenElse(hn::RebindMask(di, hn::Lt(distance, nearest)), numbers_from(g), group);
            nearest = hn::Min(nearest, distance);
        }
        panel_id<T> group_of_lane[n];
        hn::StoreU(group, di, group_of_lane);
        const auto g = static_cast<index_t>(group_of_lane[lane_of_least(d, nearest)]);
        first = g * n + lane_of_least(d, distances_from<Width>(d, query, boxes_of(codes, g)));
        leaf_minima<D> minima(d);
        minima.template look_at<Width>(d, query, codes, first);
        bound = limit(minima);
        minima.store(d, out);
    }

    /// Looks at all other leaves that may hold a nearer code: those near by at once, the others if they still may then.
    /// Returns how many leaves were looked at.
    HWY_INLINE index_t end(const code_panels<T>& codes, const T* z, const T* group_bounds, const search_lists<T>& lists,
                           T* out) const {
        V query[Width];
        load(z, query);
        const index_t groups = codes.count / n;
        index_t chosen_groups = 0;
        for (index_t g = 0; g < groups; g += n) {
            const auto chosen =
                hn::AndNot(hn::Gt(hn::LoadU(d, group_bounds + g), hn::Set(d, bound)), lanes_before(d, groups - g));
            chosen_groups += store_chosen(di, numbers_from(g), hn::RebindMask(di, chosen), lists.groups + chosen_groups);
        }
        const auto seen = hn::Set(di, static_cast<panel_id<T>>(first));
        index_t near_by = 0;
        index_t far = 0;
        for (index_t i = 0; i < chosen_groups; ++i) {
            const auto g = static_cast<index_t>(lists.groups[i]);
            const V distance = distances_from<Width>(d, query, boxes_of(codes, g));
            const auto leaves = numbers_from(g * n);
            const auto is_new = hn::RebindMask(d, hn::Ne(leaves, seen));
            const auto is_near = hn::AndNot(hn::Gt(distance, hn::Set(d, bound * T(0.25))), is_new);
            const auto is_far = hn::AndNot(is_near, hn::AndNot(hn::Gt(distance, hn::Set(d, bound)), is_new));
            near_by += store_chosen(di, leaves, hn::RebindMask(di, is_near), lists.near_by + near_by);
            store_chosen(d, distance, is_far, lists.far_bounds + far);
            far += store_chosen(di, leaves, hn::RebindMask(di, is_far), lists.far + far);
        }
        leaf_minima<D> minima(d, out);
        look_at_all(codes, query, lists.near_by, near_by, minima);
        const V new_bound = hn::Set(d, limit(minima));
        index_t left = 0;
        for (index_t i = 0; i < far; i += n) {
            const auto chosen =
                hn::AndNot(hn::Gt(hn::LoadU(d, lists.far_bounds + i), new_bound), lanes_before(d, far - i));
            const auto leaves = hn::LoadU(di, lists.far + i);
            left += store_chosen(di, leaves, hn::RebindMask(di, chosen), lists.near_by + left);
        }
        look_at_all(codes, query, lists.near_by, left, minima);
        minima.store(d, out);
        return 1 + near_by + left;
    }

private:
    static HWY_INLINE const T* boxes_of(const code_panels<T>& codes, index_t group) {
        return codes.leaf_boxes + group * 2 * Width * n;
    }

    static HWY_INLINE void load(const T* z, V (&query)[Width]) {
        HWY_UNROLL(8)
        for (index_t k = 0; k < Width; ++k) {
            query[k] = hn::Set(d, z[k * place_tile::queries]);
        }
    }

    static HWY_INLINE hn::Vec<DI> numbers_from(index_t first_number) {
        return hn::Add(hn::Iota(DI(), 0), hn::Set(DI(), static_cast<panel_id<T>>(first_number)));
    }

    /// What lies farther than this is farther than the nearest code seen, whatever was rounded.
    HWY_INLINE T limit(const leaf_minima<D>& minima) const {
        const T least = hn::GetLane(hn::MinOfLanes(d, minima.least));
        return (2 * least + rest) * (1 + 32 * std::numeric_limits<T>::epsilon());
    }

    static HWY_INLINE void look_at_all(const code_panels<T>& codes, const V (&query)[Width], const panel_id<T>* leaves,
                                       index_t count, leaf_minima<D>& minima) {
        for (index_t i = 0; i < count; ++i) {
            const T* const later = codes.values + static_cast<index_t>(leaves[i + 1]) * Width * 2 * n;
            for (index_t at = 0; at < Width * 2 * n; at += 64 / static_cast<index_t>(sizeof(T))) {
                hwy::Prefetch(later + at);
            }
            minima.template look_at<Width>(d, query, codes, static_cast<index_t>(leaves[i]));
        }
    }

    static constexpr D d{};
    static constexpr DI di{};
    static constexpr index_t n = lanes<D>;
    T rest = 0;         // the squared norm and the margin
    index_t first = 0;  // the leaf looked at
    T bound = 0;        // of the squared distances of leaves
};

/// As `find_tile_minima`, looking at few leaves; at all of them where too few can be left out.
template <index_t Width, class T>
void search_minima(const code_panels<T>& codes, const T* queries, index_t groups, const T* margins,
                   const search_lists<T>& lists, T* out) {
    constexpr index_t n = lanes<hn::ScalableTag<T>>;
    constexpr index_t q = place_tile::queries;
    const index_t bounds = group_bounds_room(codes.count, n);
    index_t looked_at = 0;
    for (index_t g = 0; g < groups; ++g) {
        // A leaf of the search takes about three times as long as one of all.
        if (g == 2 && looked_at > 2 * q * codes.count / 3) {
            find_tile_minima<place_tile>(codes, queries + g * Width * q, groups - g, out + 3 * g * q * n);
            return;
        }
        const T* const z = queries + g * Width * q;
        T* const minima = out + 3 * g * q * n;
        query_search<Width, T> searches[q];
        for (index_t i = 0; i < q; ++i) {
            searches[i].begin(codes, z + i, margins[g * q + i], lists.group_bounds + i * bounds, minima + 3 * i * n);
        }
        for (index_t i = 0; i < q; ++i) {
            looked_at += searches[i].end(codes, z + i, lists.group_bounds + i * bounds, lists, minima + 3 * i * n);
        }
    }
}

}  // namespace isic::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif

#endif
