// Nearest codes: scores ||c||^2/2 - z.c in tiles of a few queries by a few vectors of codes, of which only the running
// minimum per lane is kept. What rounding leaves open is settled by distances in float64. Narrow codes lie by place, and
// most of them are not looked at.
#include "targets.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "nearest.cpp"
#include <hwy/foreach_target.h>

#include "search-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace isic::kernels::HWY_NAMESPACE {

constexpr bool has_search = HWY_TARGET != HWY_SCALAR;

/// body(tile) for codes of a width.
template <class Body>
HWY_INLINE auto with_tile(index_t width, bool by_place, const Body& body) {
    return by_place ? body(place_tile()) : width < wide_code ? body(narrow_tile()) : body(wide_tile());
}

/// How codes are packed, by place if that is asked and can be.
template <class T>
tile_shape shape_of_tile(index_t width, bool by_place) {
    const bool can = by_place && has_search && width <= widest_by_place;
    return with_tile(width, can, [&](auto t) HWY_ATTR {
        return tile_shape{t.queries, t.vectors, lanes<hn::ScalableTag<T>>, can, !can ? width : width <= 4 ? 4 : 8};
    });
}

/// What the scores say of `groups` tiles of queries. minima: memory for three vectors per query.
template <class T>
void find_least(const code_panels<T>& codes, const T* queries, index_t groups, [[maybe_unused]] const T* margins,
                [[maybe_unused]] const search_lists<T>& lists, T* minima, least_score<T>* out) {
    const bool by_place = codes.leaf_boxes != nullptr;
#if HWY_TARGET != HWY_SCALAR
    if (by_place && codes.width == 4) {
        search_minima<4>(codes, queries, groups, margins, lists, minima);
    } else if (by_place) {
        search_minima<8>(codes, queries, groups, margins, lists, minima);
    }
#endif
    with_tile(codes.width, by_place, [&](auto t) HWY_ATTR {
        if (!by_place) {
            find_tile_minima<decltype(t)>(codes, queries, groups, minima);
        }
        take_least(minima, groups * t.queries, t.vectors * lanes<hn::ScalableTag<T>>, out);
    });
}

template <class T>
void settle(const code_panels<T>& codes, const code_rows<T>& rows, const T* queries, index_t groups,
            open_query<T>* open, index_t count) {
    with_tile(codes.width, codes.leaf_boxes != nullptr,
              [&](auto t) HWY_ATTR { settle_tiles<decltype(t)>(codes, rows, queries, groups, open, count); });
}

}  // namespace isic::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

#include <algorithm>
#include <bit>
#include <cmath>

#include "parallel.hpp"
#include "places.hpp"

namespace isic::kernels {

namespace {

template <class T>
constexpr versions<tile_shape(index_t, bool)> shape_versions = ISIC_VERSIONS(shape_of_tile<T>);
template <class T>
constexpr versions<void(const code_panels<T>&, const T*, index_t, const T*, const search_lists<T>&, T*, least_score<T>*)>
    least_versions = ISIC_VERSIONS(find_least<T>);
template <class T>
constexpr versions<void(const code_panels<T>&, const code_rows<T>&, const T*, index_t, open_query<T>*, index_t)>
    settle_versions = ISIC_VERSIONS(settle<T>);

constexpr double infinity = std::numeric_limits<double>::infinity();

/// Squared distances from several rows, each summed in order; side by side, for an addition waits for the one before.
template <std::size_t Count, class T>
std::array<double, Count> squared_distances(const T* z, const std::array<const T*, Count>& rows, index_t n) {
    std::array<double, Count> sum{};
    for (index_t k = 0; k < n; ++k) {
        for (std::size_t i = 0; i < Count; ++i) {
            const double step = static_cast<double>(z[k]) - static_cast<double>(rows[i][k]);
            sum[i] += step * step;
        }
    }
    return sum;
}

/// ||x||, a little too large rather than too small; not finite if x is not, or if its square is beyond float64.
template <class T>
double norm_bound(const T* x, index_t n) {
    double sum[8] = {};
    index_t k = 0;
    for (; k + 8 <= n; k += 8) {
        for (index_t j = 0; j < 8; ++j) {
            sum[j] += static_cast<double>(x[k + j]) * static_cast<double>(x[k + j]);
        }
    }
    for (; k < n; ++k) {
        sum[0] += static_cast<double>(x[k]) * static_cast<double>(x[k]);
    }
    return std::sqrt(((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]))) * (1 + 1e-9);
}

template <class T>
bool all_finite(const T* x, index_t n) {
    bool finite = true;
    for (index_t k = 0; k < n; ++k) {
        finite &= std::abs(x[k]) <= std::numeric_limits<T>::max();
    }
    return finite;
}

/// How far the score of a vector may be off, by rounding of T (of the packed values, the products and the sum) and of
/// the distances that decide; infinite where scores may overflow.
template <class T>
double score_error(double norm, double largest_norm, index_t width) {
    const double terms = static_cast<double>(width + 10);
    const double size = norm * largest_norm + largest_norm * largest_norm / 2;
    if (!(size < 0.25 * static_cast<double>(std::numeric_limits<T>::max()))) {
        return infinity;
    }
    const double unit = 0.505 * static_cast<double>(std::numeric_limits<T>::epsilon());
    return terms * (unit * size + 2.5e-16 * (norm + largest_norm) * (norm + largest_norm) +
                    static_cast<double>(std::numeric_limits<T>::min()));
}

/// Memory of one thread: a block of packed queries, their minima, and those that stay open.
template <class T>
struct look_up_space {
    look_up_space(index_t block, const tile_shape& shape, index_t leaves, std::pmr::memory_resource* memory)
        : queries(static_cast<std::size_t>(block * shape.width), memory),
          minima(static_cast<std::size_t>(3 * block * shape.lanes), memory),
          least(static_cast<std::size_t>(block), memory),
          norms(static_cast<std::size_t>(block), memory),
          margins(static_cast<std::size_t>(shape.by_place ? block : 0), memory),
          room(leaves + 2 * shape.lanes),
          bounds(static_cast<std::size_t>(shape.by_place ? room + shape.queries * group_bounds_room(leaves, shape.lanes) : 0), memory),
          lists(static_cast<std::size_t>(shape.by_place ? 3 * room : 0), memory),
          open(static_cast<std::size_t>(block), memory),
          open_ids(static_cast<std::size_t>(block), memory),
          candidates(static_cast<std::size_t>(block), memory) {}

    detail::buffer<T> queries;
    detail::buffer<T> minima;
    detail::buffer<least_score<T>> least;
    detail::buffer<double> norms;
    detail::buffer<T> margins;
    index_t room;  // of a list
    detail::buffer<T> bounds;
    detail::buffer<panel_id<T>> lists;
    detail::buffer<open_query<T>> open;
    detail::buffer<index_t> open_ids;
    detail::buffer<index_t> candidates;

    search_lists<T> search() {
        return {bounds.data() + room, lists.data(), bounds.data(), lists.data() + room, lists.data() + 2 * room};
    }
};

/// One look-up, by one thread.
template <class T>
struct look_up {
    code_panels<T> panels;
    code_rows<T> rows;
    const T* center;
    double largest_norm;
    index_t first;
    tile_shape shape;
    simd level;
    index_t block;
    const T* vectors;
    index_t stride;
    index_t* ids;
    double* distances;

    void answer(index_t i, const found& best) const {
        ids[i] = best.id < 0 ? first : best.id;  // distances beyond float64
        if (distances != nullptr) {
            distances[i] = best.distance;
        }
    }

    /// Packs vectors in tiles, less the centre; null, and what fills up the last tile, as zeros.
    template <class VectorAt>
    index_t pack(index_t count, const VectorAt& vector_at, T* to) const {
        const index_t q = shape.queries;
        const index_t groups = (count + q - 1) / q;
        for (index_t i = 0; i < groups * q; ++i) {
            const T* const z = i < count ? vector_at(i) : nullptr;
            T* const out = to + i / q * q * shape.width + i % q;
            for (index_t k = 0; k < shape.width; ++k) {
                out[k * q] = z == nullptr || k >= rows.width ? T(0) : z[k] - center[k];
            }
        }
        return groups;
    }

    /// A norm that is finite spares the look at the values.
    bool finite(const T* z, double norm) const { return std::isfinite(norm) || all_finite(z, rows.width); }

    void run(index_t begin, index_t end, look_up_space<T>& space) const {
        const double center_norm = norm_bound(center, rows.width);
        index_t open = 0;
        for (index_t start = begin; start < end; start += block) {
            const index_t count = std::min(block, end - start);
            const auto vector_at = [&](index_t i) {
                const T* const z = vectors + (start + i) * stride;
                space.norms[static_cast<std::size_t>(i)] = norm_bound(z, rows.width);
                return finite(z, space.norms[static_cast<std::size_t>(i)]) ? z : nullptr;
            };
            const index_t groups = pack(count, vector_at, space.queries.data());
            for (std::size_t i = 0; i < space.margins.size(); ++i) {
                space.margins[i] = margin(space.norms[i] + center_norm);
            }
            choose(least_versions<T>, level)(panels, space.queries.data(), groups, space.margins.data(), space.search(),
                                             space.minima.data(), space.least.data());
            for (index_t i = 0; i < count; ++i) {
                const T* const z = vectors + (start + i) * stride;
                const double norm = space.norms[static_cast<std::size_t>(i)];
                index_t& candidate = space.candidates[static_cast<std::size_t>(i)];
                candidate = -1;
                if (!finite(z, norm)) {
                    answer(start + i, {std::numeric_limits<double>::quiet_NaN(), first});
                    continue;
                }
                candidate = candidate_of(z, space.least[static_cast<std::size_t>(i)], norm + center_norm,
                                         space.open[static_cast<std::size_t>(open)]);
                if (candidate >= 0) {
                    fetch_column(candidate);
                } else {
                    space.open_ids[static_cast<std::size_t>(open++)] = start + i;
                }
                if (open == block) {  // writes over the packed queries, not the minima
                    settle_open(open, space);
                    open = 0;
                }
            }
            for (index_t i = 0; i < count; ++i) {
                const index_t candidate = space.candidates[static_cast<std::size_t>(i)];
                if (candidate >= 0) {
                    answer(start + i, nearest_in_column(vectors + (start + i) * stride, candidate));
                }
            }
        }
        settle_open(open, space);
    }

    /// How far twice the score of a vector and its squared norm may be off, all roundings together, and the box of the
    /// nearest code from that code.
    T margin(double norm) const {
        const double error = 4 * score_error<T>(norm, largest_norm, rows.width);
        const double all = error + 64 * static_cast<double>(std::numeric_limits<T>::epsilon()) * norm * norm;
        return all < static_cast<double>(std::numeric_limits<T>::max())
                   ? std::nextafter(static_cast<T>(all), std::numeric_limits<T>::infinity())
                   : std::numeric_limits<T>::infinity();
    }

    /// The first place of the column that is left when the scores leave no doubt; else -1, and what is known of the vector.
    index_t candidate_of(const T* z, const least_score<T>& scores, double norm, open_query<T>& open) const {
        const double error = 2 * score_error<T>(norm, largest_norm, rows.width);
        const auto least = static_cast<double>(scores.least);
        if (static_cast<double>(scores.next) - least > error) {
            return scores.place;
        }
        open = {z, std::nextafter(static_cast<T>(least + error), std::numeric_limits<T>::infinity()), {}};
        return -1;
    }

    /// Brings the codes at the places p, p + lanes, ... into the cache.
    void fetch_column(index_t p) const {
        constexpr index_t line = 64 / static_cast<index_t>(sizeof(T));
        for (index_t v = 0; v < shape.vectors; ++v) {
            const index_t place = p + v * shape.lanes;
            for (index_t j = 0; rows.may_win(place) && j < rows.width; j += line) {
                hwy::Prefetch(rows.row(place) + j);
            }
        }
    }

    /// The nearest of the codes at the places p, p + lanes, ...; three at a time.
    found nearest_in_column(const T* z, index_t p) const {
        const auto may_win = [&](index_t v) { return v < shape.vectors && rows.may_win(p + v * shape.lanes); };
        found nearest;
        for (index_t v = 0; v < shape.vectors; v += 3) {
            std::array<const T*, 3> at;
            for (index_t i = 0; i < 3; ++i) {
                at[static_cast<std::size_t>(i)] =
                    may_win(v + i) ? rows.row(p + (v + i) * shape.lanes) : rows.data + first * rows.stride;
            }
            const auto distance = squared_distances(z, at, rows.width);
            for (index_t i = 0; i < 3; ++i) {
                if (may_win(v + i)) {
                    nearest.keep_nearer(distance[static_cast<std::size_t>(i)], rows.id(p + (v + i) * shape.lanes));
                }
            }
        }
        return nearest;
    }

    void settle_open(index_t count, look_up_space<T>& space) const {
        if (count == 0) {
            return;
        }
        const index_t groups = pack(
            count, [&](index_t i) { return space.open[static_cast<std::size_t>(i)].vector; }, space.queries.data());
        choose(settle_versions<T>, level)(panels, rows, space.queries.data(), groups, space.open.data(), count);
        for (index_t i = 0; i < count; ++i) {
            answer(space.open_ids[static_cast<std::size_t>(i)], space.open[static_cast<std::size_t>(i)].best);
        }
    }
};

}  // namespace

template <class T>
void code_rows<T>::look_at(const T* vector, index_t place, found& best) const {
    if (may_win(place)) {
        best.keep_nearer(squared_distances<1>(vector, {row(place)}, width)[0], id(place));
    }
}

template <class T>
packed_codes<T>::packed_codes(const T* codes, index_t count, index_t d, index_t stride, const std::uint8_t* padding,
                              simd level, code_order order)
    : codes_(codes), count_(count), width_(d), stride_(stride), level_(level), center_(static_cast<std::size_t>(d)) {
    const bool by_place =
        order == code_order::by_place || (order == code_order::best && d <= gains_by_place<T> && count >= many_codes);
    const tile_shape shape = choose(shape_versions<T>, level)(d, by_place);
    std::vector<index_t> winners;
    std::vector<double> mean(static_cast<std::size_t>(d));
    for (index_t k = 0; k < count; ++k) {
        const T* const c = codes + k * stride;
        if ((padding != nullptr && padding[k] != 0) || !all_finite(c, d)) {
            continue;
        }
        winners.push_back(k);
        const double share = 1 / static_cast<double>(winners.size());
        for (index_t j = 0; j < d; ++j) {
            mean[static_cast<std::size_t>(j)] +=
                (static_cast<double>(c[j]) - mean[static_cast<std::size_t>(j)]) * share;
        }
    }
    first_ = winners.empty() ? 0 : winners.front();
    for (index_t j = 0; j < d; ++j) {
        center_[static_cast<std::size_t>(j)] = static_cast<T>(mean[static_cast<std::size_t>(j)]);
    }
    if (shape.by_place) {
        sort_by_place(codes, d, stride, shape.codes(), shape.lanes, winners);
        ids_.assign(winners.begin(), winners.end());
    }
    const index_t places = shape.by_place ? static_cast<index_t>(winners.size()) : count;
    const index_t fill = shape.by_place ? shape.codes() * shape.lanes : shape.codes();  // whole groups, or panels
    const index_t room = std::max<index_t>((places + fill - 1) / fill, 1) * fill;
    panels_.assign(static_cast<std::size_t>(room * shape.width), T(0));
    half_norms_.assign(static_cast<std::size_t>(room), std::numeric_limits<T>::infinity());
    for (index_t i = 0; i < static_cast<index_t>(winners.size()); ++i) {
        const index_t k = winners[static_cast<std::size_t>(i)];
        pack(codes + k * stride, shape.by_place ? i : k, shape.codes(), shape.width);
    }
    if (shape.by_place) {
        leaf_boxes_ = boxes_of_leaves(panels_.data(), places, room / shape.codes(), shape);
        group_boxes_ = boxes_of_groups(leaf_boxes_, shape);
    }
}

template <class T>
void packed_codes<T>::pack(const T* code, index_t place, index_t panel, index_t width) {
    T* const to = panels_.data() + place / panel * panel * width + place % panel;
    double square = 0;
    for (index_t j = 0; j < width_; ++j) {
        const T x = code[j] - center_[static_cast<std::size_t>(j)];
        to[j * panel] = x;
        square += static_cast<double>(x) * static_cast<double>(x);
    }
    const double limit = static_cast<double>(std::numeric_limits<T>::max());
    half_norms_[static_cast<std::size_t>(place)] = static_cast<T>(std::min(square / 2, limit));
    largest_norm_ = std::max(largest_norm_, std::sqrt(square) * (1 + 1e-9));
}

template <class T>
void packed_codes<T>::nearest(const T* vectors, index_t n, index_t stride, index_t* ids, double* distances,
                              const resources& use) const {
    if (n == 0) {
        return;
    }
    const bool by_place = !ids_.empty();
    const tile_shape shape = choose(shape_versions<T>, level_)(width_, by_place);
    // Narrow vectors: the minima of a block stay in L1. Wide ones: the codes come by seldom, the block stays in L2.
    const index_t fit = (index_t{1} << 19) / (width_ * static_cast<index_t>(sizeof(T))) / shape.queries * shape.queries;
    const index_t block = std::min(std::clamp(fit, shape.queries, width_ < wide_code ? index_t{64} : index_t{256}),
                                   (n + shape.queries - 1) / shape.queries * shape.queries);
    const code_panels<T> panels{panels_.data(),
                                half_norms_.data(),
                                static_cast<index_t>(half_norms_.size()) / shape.codes(),
                                shape.width,
                                by_place ? leaf_boxes_.data() : nullptr,
                                by_place ? group_boxes_.data() : nullptr};
    const code_rows<T> rows{codes_,
                            by_place ? ids_.data() : nullptr,
                            by_place ? static_cast<index_t>(ids_.size()) : count_,
                            width_,
                            stride_,
                            half_norms_.data()};
    const look_up<T> job{panels, rows,  center_.data(), largest_norm_, first_, shape,
                         level_, block, vectors,        stride,        ids,    distances};
    const double values = static_cast<double>(n) * static_cast<double>(width_);
    const row_ranges ranges(n, threads_for(use, values * sizeof(T), 2 * values * static_cast<double>(count_)));
    detail::buffer<look_up_space<T>> spaces(use.memory);
    spaces.reserve(static_cast<std::size_t>(ranges.count()));
    for (index_t i = 0; i < ranges.count(); ++i) {
        spaces.emplace_back(block, shape, panels.count, use.memory);
    }
    for_each_range(ranges, [&](index_t i, index_t begin, index_t end) {
        job.run(begin, end, spaces[static_cast<std::size_t>(i)]);
    });
}

template class packed_codes<float>;
template class packed_codes<double>;

}  // namespace isic::kernels

#endif  // HWY_ONCE
