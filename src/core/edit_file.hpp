/// \file
/// What a file of an edit holds.
#pragma once

#include <filesystem>

#include <isic/edit.hpp>
#include <isic/io.hpp>

namespace isic::detail {

/// The tensors and metadata that `save_edit` writes; `path` is only named in errors.
tensor_file file_of_edit(const std::filesystem::path& path, const edit& e);

}  // namespace isic::detail
