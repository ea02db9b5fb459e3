// SPDX-License-Identifier: Apache-2.0
/// \file
/// Scratch memory of the nearest-neighbour search of one thread.
#pragma once

#include <algorithm>

#include <isic/detail/kernels/kd_tree.hpp>
#include <isic/detail/kernels/nearest.hpp>

namespace isic::inline ISIC_ABI::detail::kernels {

/// Values of a row padded with zeros to whole SIMD vectors.
inline index_t padded_width(index_t width) {
    return (width + 15) / 16 * 16;
}

/// Groups of four columns, of which the last may be padded.
inline index_t quads_of(index_t width) {
    return (width + 3) / 4;
}

/// Tiles of queries of the int8 kernels.
inline index_t int8_tiles(index_t queries) {
    return (queries + int8_tile::queries - 1) / int8_tile::queries;
}

/// A query vector of the search.
template <class T>
struct query {
    const T* vector;
    index_t index;    // among the vectors of the call
    double norm;      // upper bound of ||vector - centre||
    best_match best;  // used while the query is re-ranked
};

/// Scratch memory of int8 scores for a block of queries.
struct int8_workspace {
    /// width: of the codes; 0: no int8 scores.
    int8_workspace(index_t block, index_t width, std::pmr::memory_resource* memory)
        : row(static_cast<std::size_t>(padded_width(width)), memory),
          quantised(row.size(), memory),
          queries(static_cast<std::size_t>(width == 0 ? 0 : int8_tiles(block) * int8_tile::queries), memory),
          values(queries.size() * static_cast<std::size_t>(quads_of(width)), memory),
          lower_bounds(queries.size() * int8_list_capacity, memory),
          ids(queries.size() * int8_list_capacity, memory) {}

    int8_candidates candidates() { return {lower_bounds.data(), ids.data()}; }

    detail::buffer<float> row;              // one query, centre subtracted, padded with zeros
    detail::buffer<std::int8_t> quantised;  // likewise
    detail::buffer<int8_query> queries;
    detail::buffer<std::int32_t> values;  // [tiles][quads][queries of a tile]
    detail::buffer<float> lower_bounds;   // [queries][int8_list_capacity]
    detail::buffer<index32> ids;          // likewise
};

/// Scratch memory of the k-d tree search for a block of queries.
struct kd_workspace {
    /// tree: null if the codes have none.
    kd_workspace(index_t block, const kd_tree* tree, std::pmr::memory_resource* memory)
        : rows(static_cast<std::size_t>(tree == nullptr ? 0 : block * tree->width), memory),
          candidates(static_cast<std::size_t>(tree == nullptr ? 0 : block), memory),
          tile(std::min(block, kd_tile_queries)),
          groups(tree == nullptr ? 0 : tree->groups),
          capacity(tree == nullptr ? 0 : tree->leaves() + 32),
          indices(static_cast<std::size_t>(tile * groups + (tile + 1) * capacity), memory) {}

    kd_scratch scratch() {
        index32* const leaves = indices.data() + tile * groups;
        return {indices.data(), leaves, leaves + tile * capacity, capacity};
    }

    detail::buffer<float> rows;  // queries, centre subtracted [block][width of the tree]
    detail::buffer<kd_candidates> candidates;
    index_t tile;  // queries of a tile
    index_t groups;
    index_t capacity;  // of a list of leaves
    detail::buffer<index32> indices;
};

/// Scratch memory of one thread: a block of queries of each stage of the search.
template <class T>
struct search_workspace {
    /// int8_width: of the codes in int8; 0: none.
    search_workspace(index_t block, index_t width, const tile_shape& shape, const kd_tree* tree, index_t int8_width,
                     std::pmr::memory_resource* memory)
        : pending(static_cast<std::size_t>(2 * block), memory),
          packed(static_cast<std::size_t>(block * width), memory),
          minima(static_cast<std::size_t>(3 * block * shape.lanes), memory),
          scores(static_cast<std::size_t>(block), memory),
          candidates(static_cast<std::size_t>(block), memory),
          ambiguous(static_cast<std::size_t>(block), memory),
          thresholds(static_cast<std::size_t>(block), memory),
          distances(static_cast<std::size_t>(int8_list_capacity), memory),
          kd(block, tree, memory),
          int8(block, int8_width, memory) {}

    detail::buffer<query<T>> pending;  // queries for float32 scores
    detail::buffer<float> packed;      // a block of them, in tiles
    detail::buffer<float> minima;
    detail::buffer<best_scores> scores;
    detail::buffer<index_t> candidates;  // first code of the column with the best score; -1: ambiguous
    detail::buffer<query<T>> ambiguous;  // queries that float32 scores leave undecided
    index_t ambiguous_count = 0;
    detail::buffer<float> thresholds;  // codes with a larger score are not the nearest
    detail::buffer<double> distances;  // to the candidates of one query
    kd_workspace kd;
    int8_workspace int8;
};

}  // namespace isic::inline ISIC_ABI::detail::kernels
