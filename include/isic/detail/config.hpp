// SPDX-License-Identifier: Apache-2.0
/// \file
/// Macros: inlining, visibility, the inline namespace.
#pragma once

/// \def ISIC_INLINE
/// Precedes functions of the implementation: `inline` in header-only mode, empty where a library is linked.
/// \def ISIC_API
/// Precedes the symbols that a shared library exports.
/// \def ISIC_ABI
/// The inline namespace. Header-only code has one per SIMD level, so that translation units of different levels can be
/// linked.
#ifdef ISIC_HEADER_ONLY
#define ISIC_INLINE inline
#define ISIC_API
#if defined(__AVX512VNNI__)
#define ISIC_ABI v0_header_avx512_vnni
#elif defined(__AVX512F__)
#define ISIC_ABI v0_header_avx512
#elif defined(__AVX2__)
#define ISIC_ABI v0_header_avx2
#elif defined(__AVX__)
#define ISIC_ABI v0_header_avx
#else
#define ISIC_ABI v0_header
#endif
#else
#define ISIC_INLINE
#define ISIC_ABI v0
#ifdef __GNUC__
#define ISIC_API __attribute__((visibility("default")))
#else
#define ISIC_API
#endif
#endif

/// \def ISIC_MAY_ALIAS
/// Marks a type that may alias a type of the same layout from another library.
#ifdef __GNUC__
#define ISIC_MAY_ALIAS __attribute__((may_alias))
#else
#define ISIC_MAY_ALIAS
#endif

/// \def ISIC_INTERNAL_API
/// Before a function of the implementation that isic::cuda calls: exported only by a library that is built together with it.
#ifdef ISIC_EXPORTS_INTERNALS
#define ISIC_INTERNAL_API ISIC_API
#else
#define ISIC_INTERNAL_API
#endif
