// SPDX-License-Identifier: Apache-2.0
/// \file
/// Contiguous ranges of rows, one per thread. Every thread has ended when a call returns.
#pragma once

#include <algorithm>
#include <thread>
#include <vector>

#include <isic/detail/kernels/kernels.hpp>

namespace isic::inline ISIC_ABI::detail::kernels {

/// Number of threads for work of that many bytes and flops: `exec.threads` unless 0, else every core, or one where starting a
/// thread costs more than it saves.
inline int threads_for(const execution& exec, double bytes, double flops) {
    if (exec.threads > 0) {
        return exec.threads;
    }
    const bool small = bytes < 2e6 && flops < 2e7;
    return small ? 1 : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

/// Splits n rows into ranges, one per thread. Each but the last has the same number of rows, a multiple of `grain`.
struct row_ranges {
    row_ranges(index_t rows, int threads, index_t grain = 64) : n(rows) {
        const index_t grains = (n + grain - 1) / grain;
        const index_t each = (grains + threads - 1) / std::max(threads, 1);
        length = std::max<index_t>(each, 1) * grain;
    }
    index_t count() const { return (n + length - 1) / length; }
    index_t begin(index_t i) const { return i * length; }
    index_t end(index_t i) const { return std::min(n, (i + 1) * length); }

    index_t n;
    index_t length;
};

/// Calls body(i, begin, end) for every range i, each in its own thread, the first in the calling one. body must not throw. A
/// range whose thread cannot be started runs in the calling thread.
template <class Body>
void for_each_range(const row_ranges& ranges, const Body& body) {
    std::vector<std::jthread> others;  // joined by their destructors
    others.reserve(static_cast<std::size_t>(std::max<index_t>(ranges.count() - 1, 0)));
    for (index_t i = 1; i < ranges.count(); ++i) {
        const auto run = [&ranges, &body, i] { body(i, ranges.begin(i), ranges.end(i)); };
        try {
            others.emplace_back(run);
        } catch (...) {
            run();
        }
    }
    if (ranges.count() > 0) {
        body(0, ranges.begin(0), ranges.end(0));
    }
}

}  // namespace isic::inline ISIC_ABI::detail::kernels
