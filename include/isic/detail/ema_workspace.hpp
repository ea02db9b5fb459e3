// SPDX-License-Identifier: Apache-2.0
/// \file
/// Memory of EMA steps, reused between calls.
#pragma once

#include <vector>

#include <isic/execution.hpp>

namespace isic::inline ISIC_ABI::detail {

/// With it a second step of the same shape allocates r d values only.
template <class T>
struct ema_workspace {
    std::vector<index_t> starts;  ///< begin of the vectors of each code in `order`
    std::vector<index_t> order;   ///< vectors sorted by code
    buffer<T> sums;               ///< [K x d], if they fit the cache
    buffer<T> rows;               ///< a few rows per thread
};

}  // namespace isic::inline ISIC_ABI::detail
