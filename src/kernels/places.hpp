/// \file
/// A k-d tree over narrow codes, of which only the order of its leaves and their boxes are kept.
#pragma once

#include <vector>

#include "nearest.hpp"

namespace isic::kernels {

/// With fewer codes all are compared with in less time.
constexpr index_t many_codes = 4096;

/// Sorts codes so that `leaf` after the other lie near each other, and `leaves` leaves likewise. ids: numbers of rows of
/// `codes`. Cost O(K d log K).
template <class T>
void sort_by_place(const T* codes, index_t d, index_t stride, index_t leaf, index_t leaves, std::vector<index_t>& ids);

/// Least and largest value of every leaf in every column, for leaves packed as `shape` says, of which the first `places`
/// codes are there: [leaves / lanes][width][2][lanes]. Where there is none, infinitely far away.
detail::buffer<float> boxes_of_leaves(const float* panels, index_t places, index_t leaves, const tile_shape& shape);

/// The same of groups of `lanes` leaves.
detail::buffer<float> boxes_of_groups(const detail::buffer<float>& leaf_boxes, const tile_shape& shape);

}  // namespace isic::kernels
