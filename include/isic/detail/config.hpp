/// \file
/// Macros of the build: how functions of the implementation are declared, exported and named.
#pragma once

/// \def ISIC_INLINE
/// Before a function of the implementation: `inline` where the headers are all there is, nothing where a library is linked.
/// \def ISIC_API
/// Before what a shared library exports.
/// \def ISIC_ABI
/// The inline namespace. Code compiled for other instructions has another name, so that one program can hold both.
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
#if defined(_WIN32) && defined(ISIC_SHARED_LIBRARY)
#ifdef ISIC_BUILDS_LIBRARY
#define ISIC_API __declspec(dllexport)
#else
#define ISIC_API __declspec(dllimport)
#endif
#elif defined(__GNUC__)
#define ISIC_API __attribute__((visibility("default")))
#else
#define ISIC_API
#endif
#endif

/// \def ISIC_MAY_ALIAS
/// On a type that may be read from memory that holds another type of the same bytes.
#ifdef __GNUC__
#define ISIC_MAY_ALIAS __attribute__((may_alias))
#else
#define ISIC_MAY_ALIAS
#endif
