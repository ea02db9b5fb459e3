/// \file
/// Rows in contiguous ranges, one per thread; every thread has ended when the call returns.
#pragma once

#include <algorithm>
#include <thread>
#include <vector>

#include <isic/detail/kernels/kernels.hpp>

namespace isic::inline ISIC_ABI::detail::kernels {

/// Threads for work that touches `bytes` and takes `flops`: what was asked for, else all cores, or one when starting a
/// thread would take longer than it saves.
inline int threads_for(const execution& exec, double bytes, double flops) {
    if (exec.threads > 0) {
        return exec.threads;
    }
    const bool small = bytes < 2e6 && flops < 2e7;
    return small ? 1 : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

/// How `n` rows are cut into ranges for threads: each but the last has the same multiple of `grain` rows.
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

/// body(i, begin, end) for every range i, each in a thread of its own, the first in this one; body must not throw.
/// Where the system has no more threads, or no memory for one, this one takes over.
template <class Body>
void for_each_range(const row_ranges& ranges, const Body& body) {
    std::vector<std::jthread> others;  // joined when it goes
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
