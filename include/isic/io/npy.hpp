// SPDX-License-Identifier: Apache-2.0
/// \file
/// NumPy's .npy files. Readers validate every field; writers replace a file atomically.
#pragma once

#include <filesystem>

#include <isic/io/tensor.hpp>

namespace isic::inline ISIC_ABI {

/// Reads a .npy file (versions 1 to 3, C order, little-endian).
///
/// Errors: io_error naming the file and the fault.
[[nodiscard]] ISIC_API tensor read_npy(const std::filesystem::path& path);

/// Writes a .npy file of version 1; replaces an existing file atomically.
///
/// Errors: io_error if it cannot be written, if .npy lacks the dtype (e.g. bf16), or if bytes and shape disagree.
///
/// \snippet snippets.cpp npy
ISIC_API void write_npy(const std::filesystem::path& path, const tensor& t);

}  // namespace isic::inline ISIC_ABI

#ifdef ISIC_HEADER_ONLY
#include <isic/detail/io/npy-inl.hpp>
#endif
