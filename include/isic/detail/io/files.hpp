// SPDX-License-Identifier: Apache-2.0
/// \file
/// Files read exactly and replaced atomically; shared by all formats.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string_view>

#include <isic/io/tensor.hpp>

namespace isic::inline ISIC_ABI::detail {

inline constexpr std::uint64_t max_header = 100'000'000;

/// Throws io_error with "isic: path: reason".
[[noreturn]] void fail_file(const std::filesystem::path& path, std::string_view reason);

/// Opens a regular file and sets its size. Errors: io_error.
std::ifstream open_to_read(const std::filesystem::path& path, std::uint64_t& size);

/// Reads `size` bytes. Errors: io_error if the file ends before.
void read_exactly(std::ifstream& in, const std::filesystem::path& path, void* out, std::uint64_t size);

/// Calls write(stream) on a temporary file in the same folder, then renames it to `path`.
void replace_file(const std::filesystem::path& path, const std::function<void(std::ofstream&)>& write);

void write_bytes(std::ofstream& out, const void* data, std::size_t size);

/// Throws io_error unless the number of bytes fits dtype and shape.
void require_consistent(const std::filesystem::path& path, std::string_view name, const tensor& t);

}  // namespace isic::inline ISIC_ABI::detail

#ifdef ISIC_HEADER_ONLY
#include <isic/detail/io/files-inl.hpp>
#endif
