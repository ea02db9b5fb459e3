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

}  // namespace isic::kernels
