/// \file
/// What the search for nearest codes is told, and what it keeps.
#pragma once

#include <cstdint>
#include <limits>

#include <isic/kernels.hpp>

namespace isic::kernels {

/// Sizes of the tiles of a level and a width.
struct tile_shape {
    index_t queries;
    index_t vectors;  ///< of codes; a panel
    index_t lanes;
    bool by_place;    ///< panels are the leaves of a tree, padded to `width`
    index_t width;

    index_t codes() const { return vectors * lanes; }
};

/// Narrower codes come from L1, wider ones from L2.
constexpr index_t wide_code = 64;

/// In more dimensions hardly a code can be left out.
constexpr index_t widest_by_place = 8;

/// Packed codes as a kernel reads them: in float32 whatever the codes are stored as, for distances decide. `lanes` leaves
/// are a group.
struct code_panels {
    const float* values;      ///< [count][width][codes of a panel]
    const float* half_norms;  ///< [count][codes of a panel]; infinite where nothing may win
    index_t count;
    index_t width;
    const float* leaf_boxes;   ///< [groups][width][least, largest][lanes]; null unless codes lie by place
    const float* group_boxes;  ///< the same, of groups
};

/// In whose bits numbers of panels are kept beside scores.
using panel_id = std::int32_t;

/// What scores say of a vector.
struct least_score {
    float least;
    float next;     ///< least of all other columns of panels
    index_t place;  ///< of the first code of the column that has the least
};

/// Memory of a search by place.
struct search_lists {
    float* group_bounds;  ///< [queries of a tile][group_bounds_room]
    panel_id* groups;     ///< [groups and two vectors]
    float* far_bounds;    ///< [leaves and two vectors]
    panel_id* far;        ///< likewise
    panel_id* near_by;    ///< likewise; may be read before it is written
};

/// Fewer columns are compared as fast in float32; of more, the bounds of what rounding does are not shown.
constexpr index_t narrowest_in_bytes = 16;
constexpr index_t widest_in_bytes = 4096;

/// Codes with fewer values are as soon compared in float32.
constexpr index_t many_byte_values = index_t{1} << 15;

/// Sums of products of bytes that are kept in registers at once.
struct byte_tile {
    static constexpr index_t queries = 8;
    static constexpr index_t vectors = 3;
    static constexpr index_t codes = vectors * 16;
};

/// Codes that may be listed for a query, and those of the panel that is looked at.
constexpr index_t byte_list_room = 256;

/// A row rounded to multiples of a scale of its own, |q| <= 127; squares and what was lost are in units of it.
struct rounded_row {
    float scale;       ///< 0 if the row is too small
    float square;      ///< ||q||^2
    float lost;        ///< ||x / scale - q||^2
    std::int32_t sum;  ///< of q
};

/// Codes rounded to bytes, as a kernel reads them.
struct byte_codes {
    const std::int32_t* values;  ///< 128 + q, four columns side by side; [panels][quads][codes of a panel]
    const float* scales;         ///< by place
    const float* half_norms;     ///< by place
    index_t panels;
    index_t quads;  ///< fours of columns
};

/// What is known of a query. The score of a code lies from s_c (scale dot + error) below its half norm to 2 s_c error above
/// that, by `slack` less exactly.
struct byte_query {
    float scale = 0;
    float error = 0;
    float slack = 0;
    float bound = std::numeric_limits<float>::max();  ///< a code whose lower bound exceeds it is not the nearest
    std::int32_t offset = 0;                          ///< takes the 128 of the codes off the products
    std::int32_t count = 0;                           ///< of codes listed; negative: not to be settled in bytes

    void give_up() {
        bound = std::numeric_limits<float>::quiet_NaN();  // not even -infinity is less
        count = -1;
    }
};

/// The codes listed, [queries][byte_list_room].
struct byte_lists {
    float* lows;  ///< lower bounds of their scores
    panel_id* places;
};

/// Is told the codes that the scores of a query do not rule out.
struct code_looker {
    void* context;
    void (*look)(void* context, index_t query, index_t place);
};

/// Values kept of the groups for a query.
inline index_t group_bounds_room(index_t leaves, index_t lanes) {
    return (leaves / lanes + lanes - 1) / lanes * lanes;
}

/// A code and its distance from a vector.
struct found {
    double distance = std::numeric_limits<double>::infinity();
    index_t id = -1;

    /// Keeps a code if it is nearer, or as near with a lower id.
    void keep_nearer(double to_other, index_t other) {
        if (to_other < distance || (to_other == distance && other < id)) {
            distance = to_other;
            id = other;
        }
    }
};

/// Where the codes are, to be looked at in float64; by their places in the panels.
template <class T>
struct code_rows {
    const T* data;
    const index_t* ids;  ///< of the codes by place; null: the places
    index_t count;       ///< of places that hold a code
    index_t width;
    index_t stride;
    const float* half_norms;  ///< infinite where nothing may win

    bool may_win(index_t place) const { return place < count && half_norms[place] <= std::numeric_limits<float>::max(); }
    index_t id(index_t place) const { return ids == nullptr ? place : ids[place]; }
    const T* row(index_t place) const { return data + id(place) * stride; }
};

/// How codes of a width are packed, by place if that is asked and can be.
tile_shape shape_of_tile(simd level, index_t width, bool by_place);

/// What the scores say of `groups` tiles of queries. margins [queries]: of a search by place, how far twice a score and the
/// squared norm may be off, all roundings together. minima: memory for three vectors per query.
void find_least(simd level, const code_panels& codes, const float* queries, index_t groups, const float* margins,
                const search_lists& lists, float* minima, least_score* out);

/// Tells `looker` every code whose score does not exceed the threshold, for `groups` tiles of queries, `count` of them real.
void settle(simd level, const code_panels& codes, const float* queries, index_t groups, const float* thresholds,
            index_t count, const code_looker& looker);

/// Squared distances of a vector from some codes, in float64; the order in which the columns are summed is the level's.
template <class T>
void sum_distances(simd level, const T* z, const code_rows<T>& rows, const panel_id* places, index_t count, double* out);

/// The kernels of codes rounded to bytes.
struct byte_kernels {
    rounded_row (*round)(const float* x, index_t width, std::int8_t* q);
    void (*rule_out)(const byte_codes&, const std::int32_t* values, byte_query*, index_t groups, const byte_lists&);
};

/// Null where bytes are not multiplied faster.
const byte_kernels* byte_kernels_at(simd level);

}  // namespace isic::kernels
