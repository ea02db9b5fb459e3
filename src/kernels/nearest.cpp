// Nearest codes: scores ||c||^2/2 - z.c in tiles of a few queries by a few vectors of codes, of which only the running
// minimum per lane is kept. What rounding leaves open is settled by distances in float64.
#include "targets.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "nearest.cpp"
#include <hwy/foreach_target.h>

#include "vectors-inl.hpp"

#ifndef ISIC_KERNELS_NEAREST
#define ISIC_KERNELS_NEAREST

#include <limits>

namespace isic::kernels {

/// Sizes of the tiles of a level and a width.
struct tile_shape {
    index_t queries;
    index_t vectors;  ///< of codes; a panel
    index_t lanes;

    index_t codes() const { return vectors * lanes; }
};

/// Narrower codes come from L1, wider ones from L2.
constexpr index_t wide_code = 64;

/// Codes as a kernel reads them.
template <class T>
struct code_panels {
    const T* values;
    const T* half_norms;
    index_t count;
    index_t width;
};

/// The integer of the size of T, in whose bits `find_minima` keeps numbers of panels.
template <class T>
using panel_id = std::conditional_t<sizeof(T) == 4, std::int32_t, std::int64_t>;

/// A code and its distance from a vector.
struct found {
    double distance = std::numeric_limits<double>::infinity();
    index_t id = -1;
};

/// What is known of a vector that the scores did not settle.
template <class T>
struct open_query {
    const T* vector;
    T threshold;  ///< codes with a larger score are not the nearest
    found best;
};

/// Where the codes are, to be looked at in float64.
template <class T>
struct code_rows {
    const T* data;
    index_t count;
    index_t width;
    index_t stride;
    const T* half_norms;  ///< infinite where nothing may win

    bool may_win(index_t k) const { return k < count && half_norms[k] <= std::numeric_limits<T>::max(); }

    /// Keeps code k if it is nearer than `best`; codes must come by ascending k.
    void look_at(const T* vector, index_t k, found& best) const;
};

}  // namespace isic::kernels

#endif

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

/// body(tile) for codes of a width.
template <class Body>
HWY_INLINE auto with_tile(index_t width, const Body& body) {
    return width < wide_code ? body(narrow_tile()) : body(wide_tile());
}

template <class T>
tile_shape shape_of_tile(index_t width) {
    return with_tile(width, [](auto t) HWY_ATTR {
        return tile_shape{t.queries, t.vectors, lanes<hn::ScalableTag<T>>};
    });
}

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
void find_minima_by(const code_panels<T>& codes, const T* queries, index_t groups, T* out) {
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

template <class T>
void find_minima(const code_panels<T>& codes, const T* queries, index_t groups, T* out) {
    with_tile(codes.width, [&](auto t) HWY_ATTR { find_minima_by<decltype(t)>(codes, queries, groups, out); });
}

/// Looks at every code whose score does not exceed the threshold, for `groups` tiles of queries, `count` of them real.
template <class Tile, class T>
void settle_by(const code_panels<T>& codes, const code_rows<T>& rows, const T* queries, index_t groups,
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

template <class T>
void settle(const code_panels<T>& codes, const code_rows<T>& rows, const T* queries, index_t groups,
            open_query<T>* open, index_t count) {
    with_tile(codes.width, [&](auto t) HWY_ATTR { settle_by<decltype(t)>(codes, rows, queries, groups, open, count); });
}

}  // namespace isic::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

#include <algorithm>
#include <bit>
#include <cmath>

#include "parallel.hpp"

namespace isic::kernels {

namespace {

template <class T>
constexpr versions<tile_shape(index_t)> shape_versions = ISIC_VERSIONS(shape_of_tile<T>);
template <class T>
constexpr versions<void(const code_panels<T>&, const T*, index_t, T*)> minima_versions = ISIC_VERSIONS(find_minima<T>);
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
    look_up_space(index_t block, index_t width, const tile_shape& shape, std::pmr::memory_resource* memory)
        : queries(static_cast<std::size_t>(block * width), memory),
          minima(static_cast<std::size_t>(3 * block * shape.lanes), memory),
          norms(static_cast<std::size_t>(block), memory),
          open(static_cast<std::size_t>(block), memory),
          open_ids(static_cast<std::size_t>(block), memory),
          candidates(static_cast<std::size_t>(block), memory) {}

    detail::buffer<T> queries;
    detail::buffer<T> minima;
    detail::buffer<double> norms;
    detail::buffer<open_query<T>> open;
    detail::buffer<index_t> open_ids;
    detail::buffer<index_t> candidates;
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
            T* const out = to + i / q * q * rows.width + i % q;
            for (index_t k = 0; k < rows.width; ++k) {
                out[k * q] = z == nullptr ? T(0) : z[k] - center[k];
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
            choose(minima_versions<T>, level)(panels, space.queries.data(), groups, space.minima.data());
            for (index_t i = 0; i < count; ++i) {
                const T* const z = vectors + (start + i) * stride;
                const double norm = space.norms[static_cast<std::size_t>(i)];
                index_t& candidate = space.candidates[static_cast<std::size_t>(i)];
                candidate = -1;
                if (!finite(z, norm)) {
                    answer(start + i, {std::numeric_limits<double>::quiet_NaN(), first});
                    continue;
                }
                candidate = candidate_of(z, space.minima.data() + 3 * i * shape.lanes, norm + center_norm,
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

    /// The first code k of the column of a panel, k, k + lanes, ..., that is left when the minima leave no doubt; else
    /// -1, and what is known of the vector.
    index_t candidate_of(const T* z, const T* least, double norm, open_query<T>& open) const {
        const T* const second = least + shape.lanes;
        const T* const panel = second + shape.lanes;
        index_t lane = 0;
        for (index_t l = 1; l < shape.lanes; ++l) {
            lane = least[l] < least[lane] ? l : lane;
        }
        T next = second[lane];
        for (index_t l = 0; l < shape.lanes; ++l) {
            next = l != lane && least[l] < next ? least[l] : next;
        }
        const double error = 2 * score_error<T>(norm, largest_norm, rows.width);
        const double best = static_cast<double>(least[lane]);
        if (static_cast<double>(next) - best > error) {
            return static_cast<index_t>(std::bit_cast<panel_id<T>>(panel[lane])) * shape.codes() + lane;
        }
        open = {z, std::nextafter(static_cast<T>(best + error), std::numeric_limits<T>::infinity()), {}};
        return -1;
    }

    /// Brings the codes k, k + lanes, ... into the cache.
    void fetch_column(index_t k) const {
        constexpr index_t line = 64 / static_cast<index_t>(sizeof(T));
        for (index_t v = 0; v < shape.vectors; ++v) {
            const index_t code = k + v * shape.lanes;
            for (index_t j = 0; rows.may_win(code) && j < rows.width; j += line) {
                hwy::Prefetch(rows.data + code * rows.stride + j);
            }
        }
    }

    /// The nearest of the codes k, k + lanes, ...; three at a time.
    found nearest_in_column(const T* z, index_t k) const {
        found nearest;
        for (index_t v = 0; v < shape.vectors; v += 3) {
            std::array<const T*, 3> at;
            for (index_t i = 0; i < 3; ++i) {
                const index_t code = k + (v + i) * shape.lanes;
                at[static_cast<std::size_t>(i)] = rows.data + (rows.may_win(code) ? code : first) * rows.stride;
            }
            const auto distance = squared_distances(z, at, rows.width);
            for (index_t i = 0; i < 3; ++i) {
                const index_t code = k + (v + i) * shape.lanes;
                if (rows.may_win(code) && distance[static_cast<std::size_t>(i)] < nearest.distance) {
                    nearest = {distance[static_cast<std::size_t>(i)], code};
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
void code_rows<T>::look_at(const T* vector, index_t k, found& best) const {
    if (may_win(k)) {
        const double distance = squared_distances<1>(vector, {data + k * stride}, width)[0];
        if (distance < best.distance) {
            best = {distance, k};
        }
    }
}

template <class T>
packed_codes<T>::packed_codes(const T* codes, index_t count, index_t d, index_t stride, const std::uint8_t* padding,
                              simd level)
    : codes_(codes), count_(count), width_(d), stride_(stride), level_(level), center_(static_cast<std::size_t>(d)) {
    const tile_shape shape = choose(shape_versions<T>, level)(d);
    const index_t panels = (count + shape.codes() - 1) / shape.codes();
    panels_.assign(static_cast<std::size_t>(panels * shape.codes() * d), T(0));
    half_norms_.assign(static_cast<std::size_t>(panels * shape.codes()), std::numeric_limits<T>::infinity());
    std::vector<std::uint8_t> wins(static_cast<std::size_t>(count));
    std::vector<double> mean(static_cast<std::size_t>(d));
    double winners = 0;
    for (index_t k = 0; k < count; ++k) {
        const T* const c = codes + k * stride;
        if ((padding != nullptr && padding[k] != 0) || !all_finite(c, d)) {
            continue;
        }
        first_ = winners == 0 ? k : first_;
        wins[static_cast<std::size_t>(k)] = 1;
        winners += 1;
        const double share = 1 / winners;
        for (index_t j = 0; j < d; ++j) {
            mean[static_cast<std::size_t>(j)] +=
                (static_cast<double>(c[j]) - mean[static_cast<std::size_t>(j)]) * share;
        }
    }
    for (index_t j = 0; j < d; ++j) {
        center_[static_cast<std::size_t>(j)] = static_cast<T>(mean[static_cast<std::size_t>(j)]);
    }
    for (index_t k = 0; k < count; ++k) {
        if (wins[static_cast<std::size_t>(k)] == 0) {
            continue;
        }
        T* const to = panels_.data() + k / shape.codes() * shape.codes() * d + k % shape.codes();
        double square = 0;
        for (index_t j = 0; j < d; ++j) {
            const T x = codes[k * stride + j] - center_[static_cast<std::size_t>(j)];
            to[j * shape.codes()] = x;
            square += static_cast<double>(x) * static_cast<double>(x);
        }
        const double limit = static_cast<double>(std::numeric_limits<T>::max());
        half_norms_[static_cast<std::size_t>(k)] = static_cast<T>(std::min(square / 2, limit));
        largest_norm_ = std::max(largest_norm_, std::sqrt(square) * (1 + 1e-9));
    }
}

template <class T>
void packed_codes<T>::nearest(const T* vectors, index_t n, index_t stride, index_t* ids, double* distances,
                              const resources& use) const {
    if (n == 0) {
        return;
    }
    const tile_shape shape = choose(shape_versions<T>, level_)(width_);
    // Narrow vectors: the minima of a block stay in L1. Wide ones: the codes come by seldom, the block stays in L2.
    const index_t fit = (index_t{1} << 19) / (width_ * static_cast<index_t>(sizeof(T))) / shape.queries * shape.queries;
    const index_t block = std::min(std::clamp(fit, shape.queries, width_ < wide_code ? index_t{64} : index_t{256}),
                                   (n + shape.queries - 1) / shape.queries * shape.queries);
    const code_panels<T> panels{panels_.data(), half_norms_.data(),
                                static_cast<index_t>(half_norms_.size()) / shape.codes(), width_};
    const code_rows<T> rows{codes_, count_, width_, stride_, half_norms_.data()};
    const look_up<T> job{panels, rows,  center_.data(), largest_norm_, first_, shape,
                         level_, block, vectors,        stride,        ids,    distances};
    const double values = static_cast<double>(n) * static_cast<double>(width_);
    const row_ranges ranges(n, threads_for(use, values * sizeof(T), 2 * values * static_cast<double>(count_)));
    detail::buffer<look_up_space<T>> spaces(use.memory);
    spaces.reserve(static_cast<std::size_t>(ranges.count()));
    for (index_t i = 0; i < ranges.count(); ++i) {
        spaces.emplace_back(block, width_, shape, use.memory);
    }
    for_each_range(ranges, [&](index_t i, index_t begin, index_t end) {
        job.run(begin, end, spaces[static_cast<std::size_t>(i)]);
    });
}

template class packed_codes<float>;
template class packed_codes<double>;

}  // namespace isic::kernels

#endif  // HWY_ONCE
