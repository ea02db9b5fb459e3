// SPDX-License-Identifier: Apache-2.0
/// \file
/// The version of the library; the build files read it from here.
#pragma once

/// Major version: increases with incompatible changes.
#define ISIC_VERSION_MAJOR 0
/// Minor version: increases with additions.
#define ISIC_VERSION_MINOR 1
/// Patch version: increases with fixes.
#define ISIC_VERSION_PATCH 0
/// The version as text, "major.minor.patch".
#define ISIC_VERSION_STRING "0.1.0"
/// The version as one number for `#if`: 10000 * major + 100 * minor + patch.
#define ISIC_VERSION (ISIC_VERSION_MAJOR * 10000 + ISIC_VERSION_MINOR * 100 + ISIC_VERSION_PATCH)

#include <isic/detail/config.hpp>

/// Codebook surgery on autoregressive image generators.
namespace isic::inline ISIC_ABI {

/// The version of the headers, "major.minor.patch".
inline constexpr const char* version_string = ISIC_VERSION_STRING;

/// The version of the linked library. A program whose headers are of another ABI version does not link.
[[nodiscard]] ISIC_API const char* linked_version() noexcept;

}  // namespace isic::inline ISIC_ABI

#ifdef ISIC_HEADER_ONLY
#include <isic/detail/version-inl.hpp>
#endif
