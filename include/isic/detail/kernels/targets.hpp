/// \file
/// Which instruction sets are compiled, and how one is chosen when a kernel is called. Include before Highway.
///
/// Only Highway's headers are used: its own run-time choice would need its library.
#pragma once

#ifndef HWY_IS_DEBUG_BUILD
#define HWY_IS_DEBUG_BUILD 0  // Highway's assertions are in its library
#endif
#ifndef HWY_BROKEN_EMU128
#define HWY_BROKEN_EMU128 1  // the baseline of x86-64 is plain C++, with every compiler
#endif

#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (~(HWY_SCALAR | HWY_NEON | HWY_WASM | HWY_AVX2 | HWY_AVX3))

#include <array>

#include <hwy/detect_targets.h>

#include <isic/execution.hpp>

namespace isic::inline ISIC_ABI::detail::kernels {

/// One function compiled for every level; null where a level was not compiled.
template <class Function>
using versions = std::array<Function*, 4>;

/// The version to call at a level, never one that the machine lacks.
template <class Function>
Function* choose(const versions<Function>& all, simd level) {
    const simd limit = best_simd();
    auto at = static_cast<std::size_t>(level < limit ? level : limit);
    while (at > 0 && all[at] == nullptr) {
        --at;
    }
    return all[at];
}

}  // namespace isic::inline ISIC_ABI::detail::kernels

/// \def ISIC_VERSIONS
/// Every version of a function of HWY_NAMESPACE. Header-only code has the version of its compiler flags.
#ifdef ISIC_HEADER_ONLY
#define ISIC_VERSIONS(function) {&HWY_STATIC_DISPATCH(function), nullptr, nullptr, nullptr}
#else
#define ISIC_VERSIONS(function) {&HWY_STATIC_DISPATCH(function), HWY_CHOOSE_AVX2(function), HWY_CHOOSE_AVX3(function), nullptr}
#endif
