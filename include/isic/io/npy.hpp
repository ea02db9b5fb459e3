/// \file
/// NumPy's .npy files. A reader trusts nothing in the file; a writer never leaves half of one.
#pragma once

#include <filesystem>

#include <isic/io/tensor.hpp>

namespace isic::inline ISIC_ABI {

/// Reads a .npy file (versions 1 to 3, C order, little-endian). Errors: io_error naming the file and what is wrong.
ISIC_API tensor read_npy(const std::filesystem::path& path);

/// Writes a .npy file of version 1, replacing an old one only when the new one is complete.
/// Errors: io_error if it cannot be written, the type is bf16, or bytes and shape disagree.
ISIC_API void write_npy(const std::filesystem::path& path, const tensor& t);

}  // namespace isic::inline ISIC_ABI

#ifdef ISIC_HEADER_ONLY
#include <isic/detail/io/npy-inl.hpp>
#endif
