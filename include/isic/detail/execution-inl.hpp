// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <new>

#include <isic/execution.hpp>

namespace isic::inline ISIC_ABI {
namespace detail {

inline constexpr std::size_t cache_line = 64;

inline simd detect_simd() {
#if defined(ISIC_HEADER_ONLY)
#if defined(__AVX2__) && defined(__FMA__) && defined(__BMI__) && defined(__BMI2__)
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512CD__) && defined(__AVX512DQ__) && \
    defined(__AVX512VL__)
#if defined(__AVX512VNNI__)
    return simd::avx512_vnni;
#else
    return simd::avx512;
#endif
#else
    return simd::avx2;
#endif
#else
    return simd::baseline;
#endif
#elif (defined(__x86_64__) || defined(__i386__)) && (defined(__GNUC__) || defined(__clang__))
    // The builtins check the operating system too: a level whose registers it does not save is not supported.
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                      __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    const bool vnni = __builtin_cpu_supports("avx512vnni");
    return !avx2 ? simd::baseline : !avx512 ? simd::avx2 : !vnni ? simd::avx512 : simd::avx512_vnni;
#else
    return simd::baseline;
#endif
}

}  // namespace detail

ISIC_INLINE simd best_simd() {
    static const simd best = detail::detect_simd();  // a constant of the machine
    return best;
}

ISIC_INLINE scratch_memory::~scratch_memory() {
    for (const block& b : blocks_) {
        std::pmr::new_delete_resource()->deallocate(b.data, b.bytes, detail::cache_line);
    }
}

ISIC_INLINE void* scratch_memory::do_allocate(std::size_t bytes, std::size_t alignment) {
    if (alignment > detail::cache_line) {
        throw std::bad_alloc();
    }
    const auto fits = [&](const block& b) { return b.free && b.bytes >= bytes && b.bytes <= 2 * bytes + 64; };
    auto found = std::ranges::find_if(blocks_, fits);
    if (found == blocks_.end()) {
        blocks_.reserve(blocks_.size() + 1);
        blocks_.push_back({std::pmr::new_delete_resource()->allocate(bytes, detail::cache_line), bytes, true});
        found = blocks_.end() - 1;
    }
    found->free = false;
    return found->data;
}

ISIC_INLINE void scratch_memory::do_deallocate(void* p, std::size_t, std::size_t) {
    std::ranges::find(blocks_, p, &block::data)->free = true;
}

}  // namespace isic::inline ISIC_ABI
