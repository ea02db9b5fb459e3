/// \file
/// Narrow codes by place: the leaves of a k-d tree and their boxes, of which a search looks at few.
#pragma once

#include <memory>
#include <vector>

#include <isic/detail/kernels/nearest.hpp>

namespace isic::inline ISIC_ABI::detail::kernels {

/// With fewer codes all are compared with in less time.
constexpr index_t many_codes = 1024;

/// What `placed_codes` shows.
struct code_places {
    detail::buffer<panel_id> ids;
    detail::buffer<std::int16_t> negatives;
    detail::buffer<std::int32_t> half_squares;
    detail::buffer<std::int16_t> leaf_boxes;
    detail::buffer<std::int16_t> group_boxes;
    index_t groups;
    index_t width;
    float units;
    float lost;

    index_t leaves() const { return static_cast<index_t>(half_squares.size()) / leaf_codes; }
    placed_codes view() const;
};

/// Sorts rows `ids` of codes [K x d], d <= 8, so that those of a leaf lie near each other, and `lanes` leaves likewise, and
/// rounds them, less the centre, to units. Null where float32 does not hold the units. Cost O(K d log K).
template <class T>
std::shared_ptr<const code_places> place_codes(const T* codes, index_t d, index_t stride, const T* center,
                                               const std::vector<index_t>& ids, index_t lanes);

}  // namespace isic::inline ISIC_ABI::detail::kernels
