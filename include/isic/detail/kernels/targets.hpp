// SPDX-License-Identifier: Apache-2.0
/// \file
/// The instruction sets that are compiled, and the choice of one when a kernel is called. Include before Highway.
///
/// Needs Highway's headers only: its own run-time dispatch would need its library.
#pragma once

#ifndef HWY_IS_DEBUG_BUILD
#define HWY_IS_DEBUG_BUILD 0  // assertions call Highway's library
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

/// A function compiled for every SIMD level, by level; null where a level was not compiled.
template <class Function>
using versions = std::array<Function*, 4>;

/// The version for a level, or for the next lower one that was compiled and that the machine has.
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

/// \def ISIC_TARGET_HAS_AVX512
/// Whether the target that is being compiled has AVX-512 F, BW, DQ and VL. Lower values are newer targets.
#define ISIC_TARGET_HAS_AVX512 (HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3)

/// \def ISIC_VERSIONS
/// The `versions` of a function of HWY_NAMESPACE. Header-only code has one, that of its compiler flags.
#ifdef ISIC_HEADER_ONLY
#define ISIC_VERSIONS(function) {&HWY_STATIC_DISPATCH(function), nullptr, nullptr, nullptr}
#else
#define ISIC_VERSIONS(function) \
    {&HWY_STATIC_DISPATCH(function), HWY_CHOOSE_AVX2(function), HWY_CHOOSE_AVX3(function), nullptr}
#endif
