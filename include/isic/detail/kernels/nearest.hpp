/// \file
/// What the search for nearest codes is told, and what it keeps.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <limits>

#include <isic/detail/kernels/kernels.hpp>

namespace isic::inline ISIC_ABI::detail::kernels {

/// Sizes of the tiles of a level and a width.
struct tile_shape {
    index_t queries;
    index_t vectors;  ///< of codes; a panel
    index_t lanes;

    index_t codes() const { return vectors * lanes; }
};

/// Narrower codes come from L1, wider ones from L2.
constexpr index_t wide_code = 64;

/// Packed codes as a kernel reads them: in float32 whatever the codes are stored as, for distances decide.
struct code_panels {
    const float* values;      ///< [count][width][codes of a panel]
    const float* half_norms;  ///< [count][codes of a panel]; infinite where nothing may win
    index_t count;
    index_t width;
};

/// In whose bits numbers of panels are kept beside scores.
using panel_id = std::int32_t;

/// The numbers of the bits that are set, for every byte.
constexpr auto chosen_of_eight = [] {
    std::array<std::array<std::uint8_t, 8>, 256> all{};
    for (unsigned bits = 0; bits < 256; ++bits) {
        std::size_t count = 0;
        for (std::uint8_t i = 0; i < 8; ++i) {
            if ((bits >> i & 1U) != 0) {
                all[bits][count++] = i;
            }
        }
    }
    return all;
}();

/// What scores say of a vector.
struct least_score {
    float least;
    float next;     ///< least of all other columns of panels
    index_t place;  ///< of the first code of the column that has the least
};

/// In more dimensions hardly a code can be left out.
constexpr index_t widest_by_place = 8;

/// Codes are rounded to units of which the largest value has so many. Vectors may have values twice as large: squared
/// distances in eight columns, and what is added to them, stay below 2^31.
constexpr std::int32_t largest_placed = 4095;

/// More than the roundings of float32 move a row of such values, in units.
constexpr float lost_by_units = 0.01F;

/// Codes of a leaf.
constexpr index_t leaf_codes = 16;

/// Codes by place as a search reads them: rounded to units, in pairs of columns. As many leaves as a vector has lanes are a
/// group; what fills up the last of them is far away.
struct placed_codes {
    const std::int16_t* negatives;     ///< of the codes, [panels][width / 2][lanes][2]
    const std::int32_t* half_squares;  ///< ||q||^2 / 2 rounded down, [panels][lanes]
    const std::int16_t* leaf_boxes;    ///< [groups][width / 2][least, largest][lanes][2]
    const std::int16_t* group_boxes;   ///< the same of groups
    const panel_id* ids;               ///< of the codes by place
    index_t groups;                    ///< a multiple of the lanes
    index_t width;                     ///< 4 or 8
    panel_id leaf_bits;                ///< in which numbers of leaves fit
    float units;                       ///< in a length of 1
    float lost;                        ///< how far rounding moved a code at most, in units
};

/// Queries that are searched for side by side.
constexpr index_t search_tile_queries = 16;

/// Memory of a search by place.
struct search_space {
    panel_id* bounds;  ///< of the groups, [queries of a tile][groups]
    panel_id* leaves;  ///< [queries of a tile][room]
    panel_id* chosen;  ///< [room]
    index_t room;      ///< for the numbers of all leaves and a vector more
};

/// The codes that may be the nearest.
struct placed_query {
    panel_id ids[16];  ///< for a vector
    panel_id count;  ///< negative: not settled
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

/// Where the codes are, to be looked at in float64.
template <class T>
struct code_rows {
    const T* data;
    index_t count;
    index_t width;
    index_t stride;
    const float* half_norms;  ///< infinite where nothing may win

    bool may_win(index_t id) const { return id < count && half_norms[id] <= std::numeric_limits<float>::max(); }
    const T* row(index_t id) const { return data + id * stride; }
};

/// How codes of a width are packed.
tile_shape shape_of_tile(simd level, index_t width);

/// What the scores say of `groups` tiles of queries. minima: memory for three vectors per query.
void find_least(simd level, const code_panels& codes, const float* queries, index_t groups, float* minima,
                least_score* out);

/// Lanes of a vector of codes; 0 where there is no search.
index_t lanes_of_search(simd level);

/// Lists for `count` queries, less the centre, the codes that may be the nearest. rows [count][codes.width]. Returns how
/// many leaves were looked at.
index_t search(simd level, const placed_codes& codes, const float* rows, index_t count, const search_space& space,
               placed_query* out);

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

}  // namespace isic::inline ISIC_ABI::detail::kernels
