// SPDX-License-Identifier: Apache-2.0
/// \file
/// Vectors sorted by the codes that they are assigned to.
#pragma once

#include "runtime.hpp"
#include "sort_kernels.hpp"

namespace isic::inline ISIC_ABI::cuda::detail {

/// Positions of ids sorted by code, equal codes in ascending position, ids outside [0, codes) last. Lives for one call. Not thread-safe.
class sorted_by_code {
public:
    /// Asynchronous. Errors: cuda_error.
    sorted_by_code(const std::shared_ptr<state>& s, device_ids ids, index_t codes, std::string_view function)
        : order_(s, ids.size), starts_(s, codes + 1) {
        if (ids.size == 0) {
            fill_bytes(*s, starts_.data(), 0, starts_.bytes());
            return;
        }
        const scratch<std::int64_t> keys(s, ids.size);
        const memory_source source{
            s.get(), [](void* from, std::size_t n) { return static_cast<state*>(from)->allocate(n); },
            [](void* from, void* memory, std::size_t n) { static_cast<state*>(from)->release(memory, n); }};
        check(sort_by_code(ids, codes, order_.data(), keys.data(), starts_.data(), source, s->stream()), function,
              "sort_by_code");
    }

    const std::int64_t* order() const { return order_.data(); }    ///< [n]
    const std::int64_t* starts() const { return starts_.data(); }  ///< [codes + 1]: where each code's positions begin

private:
    scratch<std::int64_t> order_;
    scratch<std::int64_t> starts_;
};

}  // namespace isic::inline ISIC_ABI::cuda::detail
