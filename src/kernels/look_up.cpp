// Nearest codes on raw memory: codes are packed once; scores leave a few candidates for a vector, and distances in float64
// decide.
#include <algorithm>
#include <array>
#include <cmath>

#include <hwy/cache_control.h>

#include "nearest.hpp"
#include "parallel.hpp"
#include "places.hpp"

namespace isic::kernels {

namespace {

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

template <class T>
void difference(const T* x, const T* y, index_t n, float* to) {
    for (index_t k = 0; k < n; ++k) {
        to[k] = packed_difference(x[k], y[k]);
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

/// A float32 no less than x.
float rounded_up(double x) {
    const bool fits = x < static_cast<double>(std::numeric_limits<float>::max());
    constexpr float all = std::numeric_limits<float>::infinity();
    return fits ? std::nextafter(static_cast<float>(x), all) : all;
}

/// What a row lost when it was rounded to bytes, in units of its scale, and what the float32 sums may have lost of that.
double lost_by(const rounded_row& row, index_t width) {
    return std::sqrt(static_cast<double>(row.lost)) * 1.001 + std::sqrt(static_cast<double>(width)) * 4e-5;
}

/// Values of a row with the zeros that fill up a vector, and fours of them.
index_t whole_vectors(index_t width) {
    return (width + 15) / 16 * 16;
}
index_t fours(index_t width) {
    return (width + 3) / 4;
}

/// Whether look-ups leave out enough codes to be faster by an index.
bool is_worth_an_index(index_t codes, index_t width) {
    return width <= widest_by_place ? codes >= many_codes : codes * width >= many_byte_values;
}

/// A vector that is looked up.
template <class T>
struct query {
    const T* vector;
    index_t number;
    double norm;  // of the vector less the centre, as `distance_bound` says
    found best;
};

/// Memory of scores in bytes.
struct byte_space {
    /// width: of the codes, 0 if they are not in bytes.
    byte_space(index_t block, index_t width, std::pmr::memory_resource* memory)
        : row(static_cast<std::size_t>(whole_vectors(width)), memory),
          rounded(static_cast<std::size_t>(whole_vectors(width)), memory),
          queries(static_cast<std::size_t>(width == 0 ? 0 : whole_tiles(block)), memory),
          values(queries.size() * static_cast<std::size_t>(fours(width)), memory),
          lows(queries.size() * byte_list_room, memory),
          places(queries.size() * byte_list_room, memory),
          distances(static_cast<std::size_t>(width == 0 ? 0 : byte_list_room), memory) {}

    static index_t whole_tiles(index_t block) {
        return (block + byte_tile::queries - 1) / byte_tile::queries * byte_tile::queries;
    }

    detail::buffer<float> row;            // of a query, zeros behind it
    detail::buffer<std::int8_t> rounded;  // likewise
    detail::buffer<byte_query> queries;
    detail::buffer<std::int32_t> values;
    detail::buffer<float> lows;
    detail::buffer<panel_id> places;
    detail::buffer<double> distances;
};

/// Memory of one thread: a block of packed queries, their minima, and those that stay open.
template <class T>
struct look_up_space {
    look_up_space(index_t block, const tile_shape& shape, index_t leaves, index_t width_in_bytes,
                  std::pmr::memory_resource* memory)
        : waiting(static_cast<std::size_t>(2 * block), memory),
          packed(static_cast<std::size_t>(block * shape.width), memory),
          minima(static_cast<std::size_t>(3 * block * shape.lanes), memory),
          least(static_cast<std::size_t>(block), memory),
          margins(static_cast<std::size_t>(shape.by_place ? block : 0), memory),
          room(leaves + 2 * shape.lanes),
          bounds(static_cast<std::size_t>(
                     shape.by_place ? room + shape.queries * group_bounds_room(leaves, shape.lanes) : 0),
                 memory),
          lists(static_cast<std::size_t>(shape.by_place ? 3 * room : 0), memory),
          open(static_cast<std::size_t>(block), memory),
          thresholds(static_cast<std::size_t>(block), memory),
          candidates(static_cast<std::size_t>(block), memory),
          bytes(block, width_in_bytes, memory) {}

    detail::buffer<query<T>> waiting;  // for scores in float32
    detail::buffer<float> packed;
    detail::buffer<float> minima;
    detail::buffer<least_score> least;
    detail::buffer<float> margins;
    index_t room;  // of a list
    detail::buffer<float> bounds;
    detail::buffer<panel_id> lists;
    detail::buffer<query<T>> open;  // what scores in float32 did not settle
    index_t open_count = 0;
    detail::buffer<float> thresholds;  // codes with a larger score are not the nearest
    detail::buffer<index_t> candidates;
    byte_space bytes;

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
    const byte_kernels* in_bytes;  // null: scores are in float32 only
    byte_codes bytes;
    double bytes_norm;  // the largest norm of a code and what it lost, in units of its scale
    double bytes_lost;
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

    void run(index_t begin, index_t end, look_up_space<T>& space) const {
        bool try_bytes = in_bytes != nullptr;
        index_t waiting = 0;
        for (index_t start = begin; start < end; start += block) {
            query<T>* const arrived = space.waiting.data() + waiting;
            index_t count = arrive(start, std::min(start + block, end), arrived);
            if (try_bytes) {
                const auto [left, listed] = settle_in_bytes(arrived, count, space.bytes);
                try_bytes = rows.count * left + 16 * listed < rows.count * count / 2;
                count = left;
            }
            waiting += count;
            while (waiting >= block || (waiting > 0 && start + block >= end)) {
                const index_t some = std::min(waiting, block);
                waiting -= some;
                compare(space.waiting.data() + waiting, some, space);
            }
        }
        settle_open(space);
    }

private:
    /// Lists the vectors [begin, end) but those that are not finite, which are answered. Returns how many.
    index_t arrive(index_t begin, index_t end, query<T>* to) const {
        index_t count = 0;
        for (index_t i = begin; i < end; ++i) {
            const T* const z = vectors + i * stride;
            const double norm = distance_bound(z, center, rows.width);
            if (std::isfinite(norm) || all_finite(z, rows.width)) {  // a norm that is finite spares the look at the values
                to[count++] = {z, i, norm, {}};
            } else {
                answer(i, {std::numeric_limits<double>::quiet_NaN(), first});
            }
        }
        return count;
    }

    void answer(index_t i, const found& best) const {
        ids[i] = best.id < 0 ? first : best.id;  // distances beyond float64
        if (distances != nullptr) {
            distances[i] = best.distance;
        }
    }

    struct byte_outcome {
        index_t left;    // queries that are not answered, at the front
        index_t listed;  // codes, for the others
    };

    /// Answers those queries for which scores in bytes leave few codes.
    byte_outcome settle_in_bytes(query<T>* queries, index_t count, byte_space& space) const {
        const index_t groups = (count + byte_tile::queries - 1) / byte_tile::queries;
        for (index_t i = 0; i < groups * byte_tile::queries; ++i) {
            byte_query& rounded = space.queries[static_cast<std::size_t>(i)];
            rounded = {};
            if (i < count) {
                round(queries[i], i, rounded, space);
            } else {
                rounded.give_up();
            }
        }
        in_bytes->rule_out(bytes, space.values.data(), space.queries.data(), groups, {space.lows.data(), space.places.data()});
        byte_outcome outcome{0, 0};
        for (index_t i = 0; i < count; ++i) {
            const byte_query& rounded = space.queries[static_cast<std::size_t>(i)];
            if (rounded.count < 0) {
                queries[outcome.left++] = queries[i];
            } else {
                outcome.listed += rounded.count;
                answer_listed(queries[i], rounded, i * byte_list_room, space);
            }
        }
        return outcome;
    }

    /// Rounds query i of a block to bytes.
    void round(const query<T>& z, index_t i, byte_query& out, byte_space& space) const {
        difference(z.vector, center, rows.width, space.row.data());
        const rounded_row row = in_bytes->round(space.row.data(), rows.width, space.rounded.data());
        constexpr index_t q = byte_tile::queries;
        std::int32_t* const to = space.values.data() + i / q * q * bytes.quads + i % q;
        for (index_t k = 0; k < bytes.quads; ++k) {
            hwy::CopyBytes<4>(space.rounded.data() + 4 * k, to + k * q);
        }
        const double norm = std::sqrt(static_cast<double>(row.square));
        const double error = static_cast<double>(row.scale) * (norm * bytes_lost + lost_by(row, rows.width) * bytes_norm);
        out.scale = row.scale;
        out.error = rounded_up(error);
        out.slack = rounded_up(2 * score_error(z.norm, largest_norm, rows.width));
        out.offset = -128 * row.sum;
        if (row.scale == 0 || !std::isfinite(out.slack)) {
            out.give_up();
        }
    }

    /// Of the codes listed for a query, distances decide: those soon summed first.
    void answer_listed(const query<T>& z, const byte_query& rounded, index_t list, byte_space& space) const {
        panel_id* const places = space.places.data() + list;
        index_t count = 0;
        for (index_t i = 0; i < rounded.count; ++i) {
            if (space.lows[static_cast<std::size_t>(list + i)] <= rounded.bound) {
                places[count++] = places[i];
            }
        }
        double* const near = space.distances.data();
        sum_distances(level, z.vector, rows, places, count, near);
        const double limit = largest_of_equals(*std::min_element(near, near + count));
        index_t last = 0;
        for (index_t i = 0; i < count; ++i) {
            if (!(near[i] > limit)) {  // nor where they are beyond float64
                places[last++] = places[i];
            }
        }
        found best{0, rows.id(places[0])};
        if (last > 1 || distances != nullptr) {
            best = nearest_of(z.vector, last, [&](index_t i) { return static_cast<index_t>(places[i]); });
        }
        answer(z.number, best);
    }

    /// A distance summed in any order that exceeds this is longer than one that is `distance` in whatever order.
    double largest_of_equals(double distance) const {
        const double terms = static_cast<double>(4 * (rows.width + 10));
        return distance * (1 + terms * std::numeric_limits<double>::epsilon()) + terms * std::numeric_limits<double>::min();
    }

    /// Packs queries in tiles, less the centre; what fills up the last tile, as zeros.
    index_t pack(const query<T>* queries, index_t count, float* to) const {
        const index_t q = shape.queries;
        const index_t groups = (count + q - 1) / q;
        for (index_t i = 0; i < groups * q; ++i) {
            float* const out = to + i / q * q * shape.width + i % q;
            for (index_t k = 0; k < shape.width; ++k) {
                out[k * q] = i >= count || k >= rows.width ? 0.0F : packed_difference(queries[i].vector[k], center[k]);
            }
        }
        return groups;
    }

    /// Answers queries, at most a block, by scores in float32 of all codes, or leaves them open.
    void compare(const query<T>* queries, index_t count, look_up_space<T>& space) const {
        const index_t groups = pack(queries, count, space.packed.data());
        for (std::size_t i = 0; i < space.margins.size(); ++i) {
            space.margins[i] = i < static_cast<std::size_t>(count) ? margin(queries[i].norm) : 0.0F;
        }
        find_least(level, panels, space.packed.data(), groups, space.margins.data(), space.search(), space.minima.data(),
                   space.least.data());
        for (index_t i = 0; i < count; ++i) {
            index_t& candidate = space.candidates[static_cast<std::size_t>(i)];
            candidate = -1;
            const least_score& scores = space.least[static_cast<std::size_t>(i)];
            const double error = 2 * score_error(queries[i].norm, largest_norm, rows.width);
            if (static_cast<double>(scores.next) - static_cast<double>(scores.least) > error) {
                candidate = scores.place;
                fetch_column(candidate);
                continue;
            }
            if (space.open_count == block) {  // writes over the packed queries, not what was found
                settle_open(space);
            }
            const auto at = static_cast<std::size_t>(space.open_count++);
            space.open[at] = queries[i];
            space.thresholds[at] = rounded_up(static_cast<double>(scores.least) + error);
        }
        for (index_t i = 0; i < count; ++i) {
            const index_t candidate = space.candidates[static_cast<std::size_t>(i)];
            if (candidate >= 0) {
                const auto place = [&](index_t v) { return candidate + v * shape.lanes; };
                answer(queries[i].number, nearest_of(queries[i].vector, shape.vectors, place));
            }
        }
    }

    /// How far twice the score of a vector and its squared norm may be off, all roundings together, and the box of the
    /// nearest code from that code.
    float margin(double norm) const {
        const double epsilon = std::numeric_limits<float>::epsilon();
        return rounded_up(4 * score_error(norm, largest_norm, rows.width) + 64 * epsilon * norm * norm);
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

    /// The nearest of the codes at the places place_of(0), ...; three at a time.
    template <class PlaceOf>
    found nearest_of(const T* z, index_t count, const PlaceOf& place_of) const {
        const auto may_win = [&](index_t i) { return i < count && rows.may_win(place_of(i)); };
        found nearest;
        for (index_t i = 0; i < count; i += 3) {
            std::array<const T*, 3> at;
            for (index_t j = 0; j < 3; ++j) {
                at[static_cast<std::size_t>(j)] = may_win(i + j) ? rows.row(place_of(i + j)) : rows.data + first * rows.stride;
            }
            const auto distance = squared_distances(z, at, rows.width);
            for (index_t j = 0; j < 3; ++j) {
                if (may_win(i + j)) {
                    nearest.keep_nearer(distance[static_cast<std::size_t>(j)], rows.id(place_of(i + j)));
                }
            }
        }
        return nearest;
    }

    void settle_open(look_up_space<T>& space) const {
        const index_t count = space.open_count;
        if (count == 0) {
            return;
        }
        space.open_count = 0;
        query<T>* const open = space.open.data();
        const index_t groups = pack(open, count, space.packed.data());
        auto look = [&](index_t i, index_t place) {
            if (!rows.may_win(place)) {
                return;
            }
            const auto number = static_cast<panel_id>(place);
            double near;
            sum_distances(level, open[i].vector, rows, &number, 1, &near);
            if (!(near > largest_of_equals(open[i].best.distance))) {
                const auto distance = squared_distances<1>(open[i].vector, {rows.row(place)}, rows.width);
                open[i].best.keep_nearer(distance[0], rows.id(place));
            }
        };
        const code_looker looker{&look, [](void* context, index_t i, index_t place) {
                                     (*static_cast<decltype(&look)>(context))(i, place);
                                 }};
        settle(level, panels, space.packed.data(), groups, space.thresholds.data(), count, looker);
        for (index_t i = 0; i < count; ++i) {
            answer(open[i].number, open[i].best);
        }
    }
};

}  // namespace

code_packing packing_for(index_t vectors, index_t count, index_t d) {
    const index_t few = d <= widest_by_place ? count / 4 : 64;
    return vectors < few ? code_packing::plain : code_packing::best;
}

template <class T>
packed_codes<T>::packed_codes(const T* codes, index_t count, index_t d, index_t stride, const std::uint8_t* padding,
                              simd level, code_packing packing)
    : codes_(codes), count_(count), width_(d), stride_(stride), level_(level), center_(static_cast<std::size_t>(d)) {
    const bool index = packing == code_packing::indexed || (packing == code_packing::best && is_worth_an_index(count, d));
    const tile_shape shape = shape_of_tile(level, d, index);
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
    } else if (index) {
        pack_in_bytes(winners);
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
void packed_codes<T>::pack_in_bytes(const std::vector<index_t>& winners) {
    const byte_kernels* const kernels = byte_kernels_at(level_);
    if (kernels == nullptr || width_ < narrowest_in_bytes || width_ > widest_in_bytes) {
        return;
    }
    constexpr index_t panel = byte_tile::codes;
    const index_t quads = fours(width_);
    bytes_.assign(half_norms_.size() * static_cast<std::size_t>(quads), 0);
    byte_scales_.assign(half_norms_.size(), 0.0F);
    detail::buffer<float> row(static_cast<std::size_t>(whole_vectors(width_)));
    detail::buffer<std::int8_t> rounded(row.size());
    for (const index_t k : winners) {
        difference(codes_ + k * stride_, center_.data(), width_, row.data());
        const rounded_row code = kernels->round(row.data(), width_, rounded.data());
        if (code.scale == 0) {  // what it lost has no unit
            bytes_.clear();
            return;
        }
        std::int32_t* const to = bytes_.data() + k / panel * panel * quads + k % panel;
        for (index_t j = 0; j < quads; ++j) {
            std::uint8_t four[4];
            for (index_t i = 0; i < 4; ++i) {
                four[i] = static_cast<std::uint8_t>(rounded[static_cast<std::size_t>(4 * j + i)] + 128);
            }
            hwy::CopyBytes<4>(four, to + j * panel);
        }
        byte_scales_[static_cast<std::size_t>(k)] = code.scale;
        const double lost = lost_by(code, width_);
        byte_lost_ = std::max(byte_lost_, lost);
        byte_norm_ = std::max(byte_norm_, std::sqrt(static_cast<double>(code.square)) * (1 + 1e-6) + lost);
    }
}

template <class T>
void packed_codes<T>::nearest(const T* vectors, index_t n, index_t stride, index_t* ids, double* distances,
                              const resources& use) const {
    if (n == 0) {
        return;
    }
    const bool by_place = !ids_.empty();
    const tile_shape shape = shape_of_tile(level_, width_, by_place);
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
    const byte_codes bytes{bytes_.data(), byte_scales_.data(), half_norms_.data(),
                           static_cast<index_t>(half_norms_.size()) / byte_tile::codes, fours(width_)};
    const look_up<T> job{panels, rows,   bytes_.empty() ? nullptr : byte_kernels_at(level_), bytes, byte_norm_, byte_lost_,
                         center_.data(), largest_norm_, first_, shape, level_, block, vectors, stride, ids, distances};
    const double values = static_cast<double>(n) * static_cast<double>(width_);
    const row_ranges ranges(n, threads_for(use, values * sizeof(T), 2 * values * static_cast<double>(count_)));
    detail::buffer<look_up_space<T>> spaces(use.memory);
    spaces.reserve(static_cast<std::size_t>(ranges.count()));
    for (index_t i = 0; i < ranges.count(); ++i) {
        spaces.emplace_back(block, shape, panels.count, bytes_.empty() ? 0 : width_, use.memory);
    }
    for_each_range(ranges, [&](index_t i, index_t begin, index_t end) {
        job.run(begin, end, spaces[static_cast<std::size_t>(i)]);
    });
}

template class packed_codes<float>;
template class packed_codes<double>;

}  // namespace isic::kernels
