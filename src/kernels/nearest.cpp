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

/// body(tile) for codes of a width.
template <class Body>
HWY_INLINE auto with_tile(index_t width, bool by_place, const Body& body) {
    return by_place ? body(place_tile()) : width < wide_code ? body(narrow_tile()) : body(wide_tile());
}

/// How codes are packed, by place if that is asked and can be.
inline tile_shape shape_of_tile(index_t width, bool by_place) {
    const bool can = by_place && HWY_TARGET != HWY_SCALAR && width <= widest_by_place;
    return with_tile(width, can, [&](auto t) HWY_ATTR {
        return tile_shape{t.queries, t.vectors, score_lanes, can, !can ? width : width <= 4 ? 4 : 8};
    });
}

/// What the scores say of `groups` tiles of queries. minima: memory for three vectors per query.
inline void find_least(const code_panels& codes, const float* queries, index_t groups, [[maybe_unused]] const float* margins,
                       [[maybe_unused]] const search_lists& lists, float* minima, least_score* out) {
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
        take_least(minima, groups * t.queries, t.codes, out);
    });
}

inline void settle(const code_panels& codes, const float* queries, index_t groups, const float* thresholds, index_t count,
                   const code_looker& looker) {
    with_tile(codes.width, codes.leaf_boxes != nullptr, [&](auto t) HWY_ATTR {
        settle_tiles<decltype(t)>(codes, queries, groups, thresholds, count, looker);
    });
}

}  // namespace isic::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

#include <algorithm>
#include <cmath>

#include "parallel.hpp"
#include "places.hpp"

namespace isic::kernels {

namespace {

constexpr versions<tile_shape(index_t, bool)> shape_versions = ISIC_VERSIONS(shape_of_tile);
constexpr versions<void(const code_panels&, const float*, index_t, const float*, const search_lists&, float*, least_score*)>
    least_versions = ISIC_VERSIONS(find_least);
constexpr versions<void(const code_panels&, const float*, index_t, const float*, index_t, const code_looker&)>
    settle_versions = ISIC_VERSIONS(settle);

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

/// ||x - y||, a little too large rather than too small; not finite if x is not, or if its square is beyond float64.
template <class T>
double distance_bound(const T* x, const T* y, index_t n) {
    const auto square = [&](index_t k) {
        const double step = static_cast<double>(x[k]) - static_cast<double>(y[k]);
        return step * step;
    };
    double sum[8] = {};
    index_t k = 0;
    for (; k + 8 <= n; k += 8) {
        for (index_t j = 0; j < 8; ++j) {
            sum[j] += square(k + j);
        }
    }
    for (; k < n; ++k) {
        sum[0] += square(k);
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

/// x - y in float32; what does not fit becomes the largest number.
template <class T>
float packed_difference(T x, T y) {
    if constexpr (sizeof(T) == sizeof(float)) {
        return x - y;
    } else {
        constexpr T largest = std::numeric_limits<float>::max();
        return static_cast<float>(std::clamp(x - y, -largest, largest));
    }
}

/// How far the score of a vector may be off, by rounding (of the packed values, the products and the sum) and by that of
/// the distances that decide; infinite where scores may overflow. Both norms are of what was packed.
double score_error(double norm, double largest_norm, index_t width) {
    const double terms = static_cast<double>(width + 10);
    const double size = norm * largest_norm + largest_norm * largest_norm / 2;
    if (!(size < 0.25 * static_cast<double>(std::numeric_limits<float>::max()))) {
        return infinity;
    }
    const double unit = 0.505 * static_cast<double>(std::numeric_limits<float>::epsilon());
    return terms * (unit * size + 2.5e-16 * (norm + largest_norm) * (norm + largest_norm) +
                    static_cast<double>(std::numeric_limits<float>::min()));
}

/// A vector that the scores did not settle.
template <class T>
struct open_query {
    const T* vector;
    index_t number;
    found best;
};

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
          bounds(static_cast<std::size_t>(
                     shape.by_place ? room + shape.queries * group_bounds_room(leaves, shape.lanes) : 0),
                 memory),
          lists(static_cast<std::size_t>(shape.by_place ? 3 * room : 0), memory),
          open(static_cast<std::size_t>(block), memory),
          thresholds(static_cast<std::size_t>(block), memory),
          candidates(static_cast<std::size_t>(block), memory) {}

    detail::buffer<float> queries;
    detail::buffer<float> minima;
    detail::buffer<least_score> least;
    detail::buffer<double> norms;
    detail::buffer<float> margins;
    index_t room;  // of a list
    detail::buffer<float> bounds;
    detail::buffer<panel_id> lists;
    detail::buffer<open_query<T>> open;
    detail::buffer<float> thresholds;  // codes with a larger score are not the nearest
    detail::buffer<index_t> candidates;

    search_lists search() {
        if (lists.empty()) {
            return {};
        }
        return {bounds.data() + room, lists.data(), bounds.data(), lists.data() + room, lists.data() + 2 * room};
    }
};

/// One look-up, by one thread.
template <class T>
struct look_up {
    code_panels panels;
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
    index_t pack(index_t count, const VectorAt& vector_at, float* to) const {
        const index_t q = shape.queries;
        const index_t groups = (count + q - 1) / q;
        for (index_t i = 0; i < groups * q; ++i) {
            const T* const z = i < count ? vector_at(i) : nullptr;
            float* const out = to + i / q * q * shape.width + i % q;
            for (index_t k = 0; k < shape.width; ++k) {
                out[k * q] = z == nullptr || k >= rows.width ? 0.0F : packed_difference(z[k], center[k]);
            }
        }
        return groups;
    }

    /// A norm that is finite spares the look at the values.
    bool finite(const T* z, double norm) const { return std::isfinite(norm) || all_finite(z, rows.width); }

    void run(index_t begin, index_t end, look_up_space<T>& space) const {
        index_t open = 0;
        for (index_t start = begin; start < end; start += block) {
            const index_t count = std::min(block, end - start);
            const auto vector_at = [&](index_t i) {
                const T* const z = vectors + (start + i) * stride;
                space.norms[static_cast<std::size_t>(i)] = distance_bound(z, center, rows.width);
                return finite(z, space.norms[static_cast<std::size_t>(i)]) ? z : nullptr;
            };
            const index_t groups = pack(count, vector_at, space.queries.data());
            for (std::size_t i = 0; i < space.margins.size(); ++i) {
                space.margins[i] = margin(space.norms[i]);
            }
            choose(least_versions, level)(panels, space.queries.data(), groups, space.margins.data(), space.search(),
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
                const least_score& scores = space.least[static_cast<std::size_t>(i)];
                const double error = 2 * score_error(norm, largest_norm, rows.width);
                if (static_cast<double>(scores.next) - static_cast<double>(scores.least) > error) {
                    candidate = scores.place;
                    fetch_column(candidate);
                    continue;
                }
                space.open[static_cast<std::size_t>(open)] = {z, start + i, {}};
                space.thresholds[static_cast<std::size_t>(open++)] = rounded_up(static_cast<double>(scores.least) + error);
                if (open == block) {  // writes over the packed queries, not what was found
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
    float margin(double norm) const {
        const double epsilon = std::numeric_limits<float>::epsilon();
        return rounded_up(4 * score_error(norm, largest_norm, rows.width) + 64 * epsilon * norm * norm);
    }

    static float rounded_up(double x) {
        const bool fits = x < static_cast<double>(std::numeric_limits<float>::max());
        constexpr float all = std::numeric_limits<float>::infinity();
        return fits ? std::nextafter(static_cast<float>(x), all) : all;
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
        open_query<T>* const open = space.open.data();
        const index_t groups = pack(count, [&](index_t i) { return open[i].vector; }, space.queries.data());
        auto look = [&](index_t query, index_t place) {
            if (rows.may_win(place)) {
                const auto distance = squared_distances<1>(open[query].vector, {rows.row(place)}, rows.width);
                open[query].best.keep_nearer(distance[0], rows.id(place));
            }
        };
        const code_looker looker{&look, [](void* context, index_t query, index_t place) {
                                     (*static_cast<decltype(&look)>(context))(query, place);
                                 }};
        choose(settle_versions, level)(panels, space.queries.data(), groups, space.thresholds.data(), count, looker);
        for (index_t i = 0; i < count; ++i) {
            answer(open[i].number, open[i].best);
        }
    }
};

}  // namespace

template <class T>
packed_codes<T>::packed_codes(const T* codes, index_t count, index_t d, index_t stride, const std::uint8_t* padding,
                              simd level, code_order order)
    : codes_(codes), count_(count), width_(d), stride_(stride), level_(level), center_(static_cast<std::size_t>(d)) {
    const bool by_place =
        order == code_order::by_place || (order == code_order::best && d <= widest_by_place && count >= many_codes);
    const tile_shape shape = choose(shape_versions, level)(d, by_place);
    std::vector<index_t> winners = find_winners(padding);
    if (shape.by_place) {
        sort_by_place(codes, d, stride, shape.codes(), shape.lanes, winners);
        ids_.assign(winners.begin(), winners.end());
    }
    const index_t places = shape.by_place ? static_cast<index_t>(winners.size()) : count;
    const index_t fill = shape.by_place ? shape.codes() * shape.lanes : shape.codes();  // whole groups, or panels
    const index_t room = std::max<index_t>((places + fill - 1) / fill, 1) * fill;
    panels_.assign(static_cast<std::size_t>(room * shape.width), 0.0F);
    half_norms_.assign(static_cast<std::size_t>(room), std::numeric_limits<float>::infinity());
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
std::vector<index_t> packed_codes<T>::find_winners(const std::uint8_t* padding) {
    std::vector<index_t> winners;
    std::vector<double> mean(static_cast<std::size_t>(width_));
    for (index_t k = 0; k < count_; ++k) {
        const T* const c = codes_ + k * stride_;
        if ((padding != nullptr && padding[k] != 0) || !all_finite(c, width_)) {
            continue;
        }
        winners.push_back(k);
        const double share = 1 / static_cast<double>(winners.size());
        for (std::size_t j = 0; j < mean.size(); ++j) {
            mean[j] += (static_cast<double>(c[j]) - mean[j]) * share;
        }
    }
    std::ranges::transform(mean, center_.begin(), [](double x) { return static_cast<T>(x); });
    first_ = winners.empty() ? 0 : winners.front();
    return winners;
}

template <class T>
void packed_codes<T>::pack(const T* code, index_t place, index_t panel, index_t width) {
    float* const to = panels_.data() + place / panel * panel * width + place % panel;
    double square = 0;
    for (index_t j = 0; j < width_; ++j) {
        const float x = packed_difference(code[j], center_[static_cast<std::size_t>(j)]);
        to[j * panel] = x;
        square += static_cast<double>(x) * static_cast<double>(x);
    }
    const double limit = static_cast<double>(std::numeric_limits<float>::max());
    half_norms_[static_cast<std::size_t>(place)] = static_cast<float>(std::min(square / 2, limit));
    largest_norm_ = std::max(largest_norm_, std::sqrt(square) * (1 + 1e-9));
}

template <class T>
void packed_codes<T>::nearest(const T* vectors, index_t n, index_t stride, index_t* ids, double* distances,
                              const resources& use) const {
    if (n == 0) {
        return;
    }
    const bool by_place = !ids_.empty();
    const tile_shape shape = choose(shape_versions, level_)(width_, by_place);
    // Narrow vectors: the minima of a block stay in L1. Wide ones: the codes come by seldom, the block stays in L2.
    const index_t fit = (index_t{1} << 19) / (width_ * static_cast<index_t>(sizeof(float))) / shape.queries * shape.queries;
    const index_t block = std::min(std::clamp(fit, shape.queries, width_ < wide_code ? index_t{64} : index_t{256}),
                                   (n + shape.queries - 1) / shape.queries * shape.queries);
    const code_panels panels{panels_.data(),
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
