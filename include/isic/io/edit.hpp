/// \file
/// Edits in files: shipped beside a codebook, undone or applied bit for bit wherever they are loaded.
#pragma once

#include <filesystem>

#include <isic/edit.hpp>
#include <isic/io/tensor.hpp>

namespace isic::inline ISIC_ABI {
namespace detail {

/// The tensors and metadata that `save_edit` writes.
ISIC_API tensor_file file_of_edit(const edit& e);
/// The edit that they are. Errors: as `load_edit`.
ISIC_API edit edit_of_file(const std::filesystem::path& path, const tensor_file& file);

}  // namespace detail

/// Writes an edit as a safetensors file (rows before and after in the codebook's own type, what was removed, the
/// summary, fingerprints and a checksum), replacing an old file only when the new one is complete.
///
/// Cost: the moved rows twice, in memory and in the file. Errors: io_error if it cannot be written, or for an edit that
/// could not be loaded again: one of no codebook, or with a `removed` or `center` of another width; nothing is written then.
ISIC_API void save_edit(const std::filesystem::path& path, const edit& e);

/// Reads an edit that `save_edit` wrote: it undoes and applies the same bytes, and refuses the same codebooks.
///
/// Errors: io_error naming the file, what was expected in it and what was found: a missing or misshapen tensor, ids
/// that do not ascend or are no codes, another format or version, or a single changed byte. The checksum tells accidents,
/// not forgers.
ISIC_API edit load_edit(const std::filesystem::path& path);

}  // namespace isic::inline ISIC_ABI

#ifdef ISIC_HEADER_ONLY
#include <isic/detail/io/edit-inl.hpp>
#endif
