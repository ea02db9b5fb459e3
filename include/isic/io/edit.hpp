// SPDX-License-Identifier: Apache-2.0
/// \file
/// Edits in safetensors files.
#pragma once

#include <filesystem>

#include <isic/edit.hpp>
#include <isic/io/tensor.hpp>

namespace isic::inline ISIC_ABI {
namespace detail {

/// The tensors and metadata that `save_edit` writes.
[[nodiscard]] ISIC_API tensor_file file_of_edit(const edit& e);
/// The inverse of `file_of_edit`. Errors: as `load_edit`.
[[nodiscard]] ISIC_API edit edit_of_file(const std::filesystem::path& path, const tensor_file& file);

}  // namespace detail

/// Writes an edit as a safetensors file: rows before and after in the dtype of the codebook, the subspace removed, the
/// summary, fingerprints and a checksum. Replaces an existing file atomically.
///
/// Cost: the moved rows twice, in memory and in the file. Errors: io_error if the file cannot be written, or if the
/// edit could not be loaded again (an empty edit, or a `removed` or `center` of another width); on an error nothing is
/// written.
///
/// \snippet snippets.cpp edit_file
ISIC_API void save_edit(const std::filesystem::path& path, const edit& e);

/// Reads an edit that `save_edit` wrote, equal in every member.
///
/// Errors: io_error naming the file, the expected and the actual content: a missing tensor or one of another shape, ids
/// that do not ascend or are not codes, another format or version, or a changed byte. The checksum detects accidents,
/// not forgeries.
[[nodiscard]] ISIC_API edit load_edit(const std::filesystem::path& path);

}  // namespace isic::inline ISIC_ABI

#ifdef ISIC_HEADER_ONLY
#include <isic/detail/io/edit-inl.hpp>
#endif
