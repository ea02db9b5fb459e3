// SPDX-License-Identifier: Apache-2.0
/// \file
/// Finds data races in what runs over the stand-in: two accesses to a byte, at least one of them a write and not both
/// atomic, that nothing puts in order. In order are what one thread does, what a barrier of the block or a __syncwarp of
/// the lanes comes between (a shuffle or a vote orders no memory), and tasks by streams, events and a host that waits.
/// No unlucky schedule is needed: of any order in which things may run, one shows what could go wrong in all of them.
///
/// Kernels and stand-in are compiled with -fsanitize=thread, which calls a function at every access. Those functions are
/// here instead of in the sanitizer's library, which knows nothing of blocks, warps and streams. Without
/// ISIC_WATCH_RACES nobody watches, and all this is empty.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace stand_in {

/// What has happened before: how many tasks of each stream, by the stream's number.
using past = std::map<std::uint64_t, std::uint64_t>;

namespace races {

#ifdef ISIC_WATCH_RACES

/// Task `number` of a stream begins; `before` holds itself too.
void begin_task(std::uint64_t stream, std::uint64_t number, std::shared_ptr<const past> before);
void end_task();

/// A block of the grid begins, with dynamic shared memory.
void begin_block(std::size_t threads, const void* shared, std::size_t shared_bytes);

/// This too is shared memory, of every block.
void add_shared(const void* p, std::size_t bytes);

/// What follows is nobody's in the last block.
void end_block();

/// From now on this thread of the block runs.
void run_thread(int linear);

/// All threads of the block have come to a barrier.
void pass_barrier();

/// The lanes of the running thread's warp that are named have come to a __syncwarp.
void pass_sync(unsigned mask);

/// Accesses are atomic while one of these lives.
struct atomically {
    atomically();
    ~atomically();
    atomically(const atomically&) = delete;
    atomically& operator=(const atomically&) = delete;
};

/// Memory is given back, which is as good as written.
void release(const void* p, std::size_t bytes);

/// The races found since this was asked last, of each pair of places in the source one.
std::vector<std::string> take_found();

#else

inline void begin_task(std::uint64_t, std::uint64_t, const std::shared_ptr<const past>&) {}
inline void end_task() {}
inline void begin_block(std::size_t, const void*, std::size_t) {}
inline void add_shared(const void*, std::size_t) {}
inline void end_block() {}
inline void run_thread(int) {}
inline void pass_barrier() {}
inline void pass_sync(unsigned) {}
struct atomically {
    atomically() {}  // not an unused variable
};
inline void release(const void*, std::size_t) {}

#endif

}  // namespace races
}  // namespace stand_in
