// SPDX-License-Identifier: Apache-2.0
/// \file
/// How a function runs on the CPU: threads, SIMD level, scratch memory.
#pragma once

#include <cstddef>
#include <memory_resource>
#include <vector>

#include <isic/types.hpp>

namespace isic::inline ISIC_ABI {

/// The widest instruction set that a kernel may use. A level that was not compiled, or that the machine lacks, falls back to
/// the next lower one.
enum class simd {
    baseline,    ///< the instructions of every machine of the architecture
    avx2,        ///< with FMA
    avx512,      ///< F, BW, DQ and VL
    avx512_vnni  ///< and int8 dot products, for nearest-neighbour search with d >= 16
};

/// The widest level that the machine, its operating system and this build support.
ISIC_API simd best_simd();

/// Scratch memory that outlives a call: it reuses freed blocks. Not thread-safe: use one per thread.
class ISIC_API scratch_memory final : public std::pmr::memory_resource {
public:
    scratch_memory() = default;
    ~scratch_memory() override;
    scratch_memory(const scratch_memory&) = delete;
    scratch_memory& operator=(const scratch_memory&) = delete;

private:
    struct block {
        void* data;
        std::size_t bytes;
        bool free;
    };

    void* do_allocate(std::size_t bytes, std::size_t alignment) override;
    void do_deallocate(void* p, std::size_t bytes, std::size_t alignment) override;
    bool do_is_equal(const std::pmr::memory_resource& other) const noexcept override { return this == &other; }

    std::vector<block> blocks_;
};

/// How a function runs on the CPU.
///
/// \snippet snippets.cpp execution
struct execution {
    int threads = 0;                ///< 0: every core for large work, one for small; negative: value_error
    isic::simd simd = best_simd();  ///< results differ between levels, by rounding
    /// Source of scratch memory; only the calling thread allocates from it. With a `scratch_memory` that the caller keeps, a
    /// second call of the same shape allocates nothing, unless it starts threads.
    std::pmr::memory_resource* scratch = std::pmr::new_delete_resource();
};

namespace detail {

/// Allocates memory that begins a cache line, so that no SIMD vector spans two lines.
template <class T>
class line_allocator {
public:
    using value_type = T;

    line_allocator(std::pmr::memory_resource* from = std::pmr::new_delete_resource()) : from_(from) {}
    template <class U>
    line_allocator(const line_allocator<U>& other) : from_(other.from()) {}

    T* allocate(std::size_t n) { return static_cast<T*>(from_->allocate(n * sizeof(T), 64)); }
    void deallocate(T* p, std::size_t n) { from_->deallocate(p, n * sizeof(T), 64); }
    std::pmr::memory_resource* from() const { return from_; }
    friend bool operator==(const line_allocator& a, const line_allocator& b) { return *a.from_ == *b.from_; }

private:
    std::pmr::memory_resource* from_;
};

template <class T>
using buffer = std::vector<T, line_allocator<T>>;

}  // namespace detail
}  // namespace isic::inline ISIC_ABI

#ifdef ISIC_HEADER_ONLY
#include <isic/detail/execution-inl.hpp>
#endif
