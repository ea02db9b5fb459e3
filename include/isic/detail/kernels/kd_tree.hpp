// SPDX-License-Identifier: Apache-2.0
/// \file
/// The k-d tree of codes in few columns: leaves, groups of leaves and their bounding boxes.
#pragma once

#include <memory>
#include <vector>

#include <isic/detail/kernels/nearest.hpp>

namespace isic::inline ISIC_ABI::detail::kernels {

/// Below this number of codes, exhaustive search is faster.
constexpr index_t min_kd_tree_codes = 1024;

/// The owner of a `kd_tree_view`.
struct kd_tree {
    detail::buffer<index32> ids;
    detail::buffer<std::int16_t> negated_codes;
    detail::buffer<std::int32_t> half_norms;
    detail::buffer<std::int16_t> leaf_boxes;
    detail::buffer<std::int16_t> group_boxes;
    index_t groups;
    index_t width;
    float scale;
    float error;

    index_t leaves() const { return static_cast<index_t>(half_norms.size()) / leaf_size; }
    kd_tree_view view() const;
};

/// Builds the k-d tree of the rows `ids` of codes [K x d], d <= 8, centre subtracted and quantised to int16. A group is
/// `lanes` leaves. Null if float32 cannot represent the scale. Cost O(K d log K).
template <class T>
std::shared_ptr<const kd_tree> build_kd_tree(const T* codes, index_t d, index_t stride, const T* center,
                                             const std::vector<index_t>& ids, index_t lanes);

}  // namespace isic::inline ISIC_ABI::detail::kernels
