// SPDX-License-Identifier: Apache-2.0
/// \file
/// Kernels of sort.cu.
#pragma once

#include "kernel_types.hpp"

namespace isic::inline ISIC_ABI::cuda::detail {

/// A source of working memory in stream order; allocate throws.
struct memory_source {
    void* context;
    void* (*allocate)(void* context, std::size_t bytes);
    void (*release)(void* context, void* memory, std::size_t bytes);
};

/// order [n]: positions sorted by code, equal codes in ascending position, ids outside [0, codes) last; keys [n]: their codes;
/// starts [codes + 1]: the first position of each code.
cudaError_t sort_by_code(device_ids ids, index_t codes, std::int64_t* order, std::int64_t* keys, std::int64_t* starts,
                         memory_source source, cudaStream_t stream);

}  // namespace isic::inline ISIC_ABI::cuda::detail
