/// \file
/// A look-up by one thread: a search or scores leave a few codes for a vector, and distances in float64 decide.
#pragma once

#include <isic/detail/kernels/distances.hpp>
#include <isic/detail/kernels/kd_tree.hpp>
#include <isic/detail/kernels/rows.hpp>

namespace isic::inline ISIC_ABI::detail::kernels {

/// Values of a row with the zeros that fill up a vector, and fours of them.
inline index_t whole_vectors(index_t width) {
    return (width + 15) / 16 * 16;
}
inline index_t fours(index_t width) {
    return (width + 3) / 4;
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
          places(queries.size() * byte_list_room, memory) {}

    static index_t whole_tiles(index_t block) {
        return (block + byte_tile::queries - 1) / byte_tile::queries * byte_tile::queries;
    }

    detail::buffer<float> row;            // of a query, zeros behind it
    detail::buffer<std::int8_t> rounded;  // likewise
    detail::buffer<byte_query> queries;
    detail::buffer<std::int32_t> values;
    detail::buffer<float> lows;
    detail::buffer<panel_id> places;
};

/// Memory of a search by place.
struct place_space {
    /// codes: null if they are not searched.
    place_space(index_t block, const code_places* codes, std::pmr::memory_resource* memory)
        : rows(static_cast<std::size_t>(codes == nullptr ? 0 : block * codes->width), memory),
          found(static_cast<std::size_t>(codes == nullptr ? 0 : block), memory),
          queries(std::min(block, search_tile_queries)),
          groups(codes == nullptr ? 0 : codes->groups),
          room(codes == nullptr ? 0 : codes->leaves() + 32),
          lists(static_cast<std::size_t>(queries * groups + (queries + 1) * room), memory) {}

    search_space of_search() {
        panel_id* const leaves = lists.data() + queries * groups;
        return {lists.data(), leaves, leaves + queries * room, room};
    }

    detail::buffer<float> rows;  // of queries, less the centre
    detail::buffer<placed_query> found;
    index_t queries;  // searched for side by side
    index_t groups;
    index_t room;  // of a list of leaves
    detail::buffer<panel_id> lists;
};

/// Memory of one thread: a block of packed queries, their minima, and those that stay open.
template <class T>
struct look_up_space {
    look_up_space(index_t block, index_t width, const tile_shape& shape, const code_places* codes_by_place,
                  index_t width_in_bytes, std::pmr::memory_resource* memory)
        : waiting(static_cast<std::size_t>(2 * block), memory),
          packed(static_cast<std::size_t>(block * width), memory),
          minima(static_cast<std::size_t>(3 * block * shape.lanes), memory),
          least(static_cast<std::size_t>(block), memory),
          open(static_cast<std::size_t>(block), memory),
          thresholds(static_cast<std::size_t>(block), memory),
          candidates(static_cast<std::size_t>(block), memory),
          distances(static_cast<std::size_t>(byte_list_room), memory),
          places(block, codes_by_place, memory),
          bytes(block, width_in_bytes, memory) {}

    detail::buffer<query<T>> waiting;  // for scores in float32
    detail::buffer<float> packed;
    detail::buffer<float> minima;
    detail::buffer<least_score> least;
    detail::buffer<query<T>> open;  // what scores in float32 did not settle
    index_t open_count = 0;
    detail::buffer<float> thresholds;  // codes with a larger score are not the nearest
    detail::buffer<index_t> candidates;
    detail::buffer<double> distances;  // of codes that are listed
    place_space places;
    byte_space bytes;
};

/// One look-up, by one thread.
template <class T>
struct look_up {
    code_panels panels;
    code_rows<T> rows;
    const placed_codes* by_place;  // null: all codes are looked at
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
        bool try_few = by_place != nullptr || in_bytes != nullptr;
        index_t waiting = 0;
        for (index_t start = begin; start < end; start += block) {
            query<T>* const arrived = space.waiting.data() + waiting;
            index_t count = arrive(start, std::min(start + block, end), arrived);
            if (try_few) {
                const auto [left, looked_at] = by_place != nullptr ? settle_by_place(arrived, count, space)
                                                                   : settle_in_bytes(arrived, count, space);
                try_few = rows.count * left + looked_at < rows.count * count / 2;
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
        ids[i] = best.id;
        if (distances != nullptr) {
            distances[i] = best.distance;
        }
    }

    /// Answers a vector with the nearest code by distances, or by scaled ones where float64 does not hold their squares.
    void decide(index_t i, const found& best) const {
        if constexpr (sizeof(T) == sizeof(double)) {  // squares of float32 fit
            const T* const z = vectors + i * stride;
            if (!is_decided(z, best)) {
                const index_t id = nearest_scaled(z, best.id < 0);
                answer(i, {squared_distances<1>(z, {rows.row(id)}, rows.width)[0], id});
                return;
            }
        }
        answer(i, best);
    }

    /// Whether distances decided, and not what float64 makes of squares too large or too small for it.
    bool is_decided(const T* z, const found& best) const {
        if (best.id < 0) {
            return false;  // all are infinite
        }
        const bool small = best.distance < static_cast<double>(rows.width) * std::numeric_limits<double>::min();
        return !small || std::equal(z, z + rows.width, rows.row(best.id));
    }

    /// The nearest of all codes by distances scaled by a power of two, so that their squares fit float64.
    index_t nearest_scaled(const T* z, bool all_far) const {
        const double before = all_far ? 0x1p-600 : 1;  // the differences may not fit either
        const double after = all_far ? 1 : 0x1p600;
        found nearest;
        for (index_t id = 0; id < rows.count; ++id) {
            if (!rows.may_win(id)) {
                continue;
            }
            const T* const code = rows.row(id);
            double square = 0;
            for (index_t k = 0; k < rows.width; ++k) {
                const double step = (static_cast<double>(z[k]) * before - static_cast<double>(code[k]) * before) * after;
                square += step * step;
            }
            nearest.keep_nearer(square, id);
        }
        return nearest.id;
    }

    struct outcome {
        index_t left;       // queries that are not answered, at the front
        index_t looked_at;  // codes, for the others, by what one takes beside one of all
    };

    /// Answers those queries for which a search leaves few codes.
    outcome settle_by_place(query<T>* queries, index_t count, look_up_space<T>& space) const {
        float* const values = space.places.rows.data();
        for (index_t i = 0; i < count; ++i) {
            float* const row = values + i * by_place->width;
            std::fill(row + rows.width, row + by_place->width, 0.0F);
            difference(queries[i].vector, center, rows.width, row);
        }
        placed_query* const found = space.places.found.data();
        const index_t leaves = search(level, *by_place, values, count, space.places.of_search(), found);
        outcome result{0, leaves * leaf_codes};
        for (index_t i = 0; i < count; ++i) {
            if (found[i].count < 0) {
                queries[result.left++] = queries[i];
            } else {
                answer_listed(queries[i], found[i].ids, found[i].count, space.distances.data());
            }
        }
        return result;
    }

    /// Answers those queries for which scores in bytes leave few codes.
    outcome settle_in_bytes(query<T>* queries, index_t count, look_up_space<T>& space) const {
        byte_space& memory = space.bytes;
        const index_t groups = (count + byte_tile::queries - 1) / byte_tile::queries;
        for (index_t i = 0; i < groups * byte_tile::queries; ++i) {
            byte_query& rounded = memory.queries[static_cast<std::size_t>(i)];
            rounded = {};
            if (i < count) {
                round(queries[i], i, rounded, memory);
            } else {
                rounded.give_up();
            }
        }
        in_bytes->rule_out(bytes, memory.values.data(), memory.queries.data(), groups,
                           {memory.lows.data(), memory.places.data()});
        outcome result{0, 0};
        for (index_t i = 0; i < count; ++i) {
            const byte_query& rounded = memory.queries[static_cast<std::size_t>(i)];
            if (rounded.count < 0) {
                queries[result.left++] = queries[i];
            } else {
                result.looked_at += 16 * rounded.count;
                const index_t list = i * byte_list_room;
                panel_id* const listed = memory.places.data() + list;
                const index_t lowest = keep_lowest(rounded, memory.lows.data() + list, listed);
                answer_listed(queries[i], listed, lowest, space.distances.data());
            }
        }
        return result;
    }

    /// Drops the codes listed before the bound became lower. Returns how many are left.
    static index_t keep_lowest(const byte_query& rounded, const float* lows, panel_id* listed) {
        index_t count = 0;
        for (index_t i = 0; i < rounded.count; ++i) {
            if (lows[i] <= rounded.bound) {
                listed[count++] = listed[i];
            }
        }
        return count;
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

    /// Of the codes listed for a query, distances decide: those soon summed first. near: memory for as many.
    void answer_listed(const query<T>& z, panel_id* listed, index_t count, double* near) const {
        if (count > 3) {
            sum_distances(level, z.vector, rows, listed, count, near);
            const double limit = largest_of_equals(*std::min_element(near, near + count));
            index_t left = 0;
            for (index_t i = 0; i < count; ++i) {
                if (!(near[i] > limit)) {  // nor where they are beyond float64
                    listed[left++] = listed[i];
                }
            }
            count = left;
        }
        if (count == 1 && distances == nullptr) {
            answer(z.number, {0, static_cast<index_t>(listed[0])});
        } else {
            decide(z.number, nearest_of(z.vector, count, [&](index_t i) { return static_cast<index_t>(listed[i]); }));
        }
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
            float* const out = to + i / q * q * rows.width + i % q;
            for (index_t k = 0; k < rows.width; ++k) {
                out[k * q] = i >= count ? 0.0F : packed_difference(queries[i].vector[k], center[k]);
            }
        }
        return groups;
    }

    /// Answers queries, at most a block, by scores in float32 of all codes, or leaves them open.
    void compare(const query<T>* queries, index_t count, look_up_space<T>& space) const {
        const index_t groups = pack(queries, count, space.packed.data());
        find_least(level, panels, space.packed.data(), groups, space.minima.data(), space.least.data());
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
                decide(queries[i].number, nearest_of(queries[i].vector, shape.vectors, place));
            }
        }
    }

    /// Brings the codes at the places p, p + lanes, ... into the cache.
    void fetch_column(index_t p) const {
        for (index_t v = 0; v < shape.vectors; ++v) {
            const index_t place = p + v * shape.lanes;
            if (rows.may_win(place)) {
                prefetch_row(rows.row(place), rows.width);
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
                at[static_cast<std::size_t>(j)] = may_win(i + j) ? rows.row(place_of(i + j)) : rows.row(first);
            }
            const auto distance = squared_distances(z, at, rows.width);
            for (index_t j = 0; j < 3; ++j) {
                if (may_win(i + j)) {
                    nearest.keep_nearer(distance[static_cast<std::size_t>(j)], place_of(i + j));
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
                open[i].best.keep_nearer(distance[0], place);
            }
        };
        const code_looker looker{&look, [](void* context, index_t i, index_t place) {
                                     (*static_cast<decltype(&look)>(context))(i, place);
                                 }};
        settle(level, panels, space.packed.data(), groups, space.thresholds.data(), count, looker);
        for (index_t i = 0; i < count; ++i) {
            decide(open[i].number, open[i].best);
        }
    }
};

}  // namespace isic::inline ISIC_ABI::detail::kernels
