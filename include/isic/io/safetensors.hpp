/// \file
/// Safetensors files. A reader trusts nothing in the file; a writer never leaves half of one.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <isic/io/tensor.hpp>
#include <isic/matrix.hpp>

namespace isic::inline ISIC_ABI {

/// Where one tensor stands in a file.
struct tensor_place {
    dtype type = dtype::f32;     ///< of every value
    std::vector<index_t> shape;  ///< empty for a single value
    index_t offset = 0;          ///< of its first byte, from the file's first byte
    index_t bytes = 0;           ///< its length

    /// Same type, shape and place.
    friend bool operator==(const tensor_place&, const tensor_place&) = default;
};

/// What the header of a safetensors file tells.
struct safetensors_layout {
    std::map<std::string, tensor_place> tensors;  ///< by name
    std::map<std::string, std::string> metadata;  ///< the header's free texts
};

/// Reads the header of a safetensors file and checks it against the file's size; what it costs does not depend on the data.
///
/// Errors: io_error naming the file and what is wrong: a header that is not what the format says, a key that occurs
/// twice, an unknown dtype, a size that does not fit, or tensors that are not exactly the data, one after the other.
/// Source: the format as https://github.com/huggingface/safetensors describes it.
ISIC_API safetensors_layout read_safetensors_layout(const std::filesystem::path& path);

/// Reads every tensor of a safetensors file. Errors: io_error naming the file and what is wrong in it.
ISIC_API tensor_file read_safetensors(const std::filesystem::path& path);

/// Reads one tensor of a safetensors file. Errors: io_error as above, or if there is no tensor of this name.
ISIC_API tensor read_tensor(const std::filesystem::path& path, const std::string& name);

/// Writes a safetensors file, replacing an old one only when the new one is complete.
/// Errors: io_error if it cannot be written or a tensor's bytes and shape disagree.
ISIC_API void write_safetensors(const std::filesystem::path& path, const tensor_file& file);

}  // namespace isic::inline ISIC_ABI

#ifdef ISIC_HEADER_ONLY
#include <isic/detail/io/safetensors-inl.hpp>
#endif
