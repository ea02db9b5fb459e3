/// \file
/// Memory that EMA steps keep between calls.
#pragma once

#include <vector>

#include <isic/execution.hpp>

namespace isic::inline ISIC_ABI::detail {

/// A second step of the same shape allocates r d values only.
template <class T>
struct ema_workspace {
    std::vector<index_t> starts;  ///< where the vectors of each code begin in `order`
    std::vector<index_t> order;   ///< vectors by code
    buffer<T> sums;               ///< [K x d], where they fit the cache
    buffer<T> rows;               ///< a few rows per thread
};

}  // namespace isic::inline ISIC_ABI::detail
