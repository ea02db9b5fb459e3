// SPDX-License-Identifier: Apache-2.0
/// \file
/// Safetensors files. Readers validate every field; writers replace a file atomically.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <isic/io/tensor.hpp>
#include <isic/matrix.hpp>

namespace isic::inline ISIC_ABI {

/// The position of a tensor in a file.
struct tensor_place {
    dtype type = dtype::f32;     ///< element type
    std::vector<index_t> shape;  ///< empty for a single value
    index_t offset = 0;          ///< position of the first byte, from the start of the file
    index_t bytes = 0;           ///< length in bytes

    /// Equal type, shape and position.
    friend bool operator==(const tensor_place&, const tensor_place&) = default;
};

/// The header of a safetensors file.
struct safetensors_layout {
    std::map<std::string, tensor_place> tensors;  ///< by name
    std::map<std::string, std::string> metadata;  ///< texts by key
};

/// Reads the header of a safetensors file and validates it against the size of the file. The cost is independent of the
/// data.
///
/// Errors: io_error naming the file and the fault: a malformed header, a repeated key, an unknown dtype, a size that
/// overflows, or tensors that do not cover the data exactly, without gap or overlap. Source: the format of
/// https://github.com/huggingface/safetensors.
[[nodiscard]] ISIC_API safetensors_layout read_safetensors_layout(const std::filesystem::path& path);

/// Reads all tensors of a safetensors file. Errors: io_error naming the file and the fault.
[[nodiscard]] ISIC_API tensor_file read_safetensors(const std::filesystem::path& path);

/// Reads one tensor of a safetensors file. Errors: io_error naming the file and the fault, or if there is no tensor of
/// this name.
[[nodiscard]] ISIC_API tensor read_tensor(const std::filesystem::path& path, const std::string& name);

/// Writes a safetensors file; replaces an existing file atomically.
///
/// Errors: io_error if it cannot be written, or if bytes and shape of a tensor disagree.
///
/// \snippet snippets.cpp safetensors
ISIC_API void write_safetensors(const std::filesystem::path& path, const tensor_file& file);

}  // namespace isic::inline ISIC_ABI

#ifdef ISIC_HEADER_ONLY
#include <isic/detail/io/safetensors-inl.hpp>
#endif
