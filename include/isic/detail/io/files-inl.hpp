// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <isic/detail/io/files.hpp>

#include <random>
#include <system_error>

#include <fmt/format.h>

#include <isic/error.hpp>

namespace isic::inline ISIC_ABI::detail {

ISIC_INLINE void fail_file(const std::filesystem::path& path, std::string_view reason) {
    throw io_error(fmt::format("isic: {}: {}", path.string(), reason));
}

ISIC_INLINE std::ifstream open_to_read(const std::filesystem::path& path, std::uint64_t& size) {
    std::error_code code;
    if (!std::filesystem::is_regular_file(path, code)) {
        fail_file(path, std::filesystem::is_directory(path, code) ? "expected a file, found a folder"
                                                                  : "expected a file, found none");
    }
    size = std::filesystem::file_size(path, code);
    std::ifstream in(path, std::ios::binary);
    if (code || !in) {
        fail_file(path, "cannot be opened");
    }
    return in;
}

ISIC_INLINE void read_exactly(std::ifstream& in, const std::filesystem::path& path, void* out, std::uint64_t size) {
    if (size > 0 && !in.read(static_cast<char*>(out), static_cast<std::streamsize>(size))) {
        fail_file(path, fmt::format("expected {} more bytes, found the end", size));
    }
}

ISIC_INLINE void replace_file(const std::filesystem::path& path, const std::function<void(std::ofstream&)>& write) {
    std::random_device random;
    std::filesystem::path temporary = path;
    temporary += fmt::format(".{:08x}{:08x}.tmp", random(), random());
    std::error_code code;
    try {
        std::ofstream out(temporary, std::ios::binary | std::ios::trunc);
        if (!out) {
            fail_file(path, "cannot be created");
        }
        write(out);
        out.close();
        if (!out) {
            fail_file(path, "writing failed");
        }
        std::filesystem::rename(temporary, path, code);
        if (code) {
            fail_file(path, fmt::format("cannot be replaced: {}", code.message()));
        }
    } catch (...) {
        std::filesystem::remove(temporary, code);
        throw;
    }
}

ISIC_INLINE void write_bytes(std::ofstream& out, const void* data, std::size_t size) {
    out.write(static_cast<const char*>(data), static_cast<std::streamsize>(size));
}

ISIC_INLINE void require_consistent(const std::filesystem::path& path, std::string_view name, const tensor& t) {
    const index_t expected = byte_count(t.shape, t.type);
    if (expected < 0 || expected != static_cast<index_t>(t.bytes.size())) {
        fail_file(path, fmt::format("{}: expected {} bytes for {} [{}], got {}", name, expected,
                                    entry_of(t.type).safetensors, fmt::join(t.shape, ", "), t.bytes.size()));
    }
}

}  // namespace isic::inline ISIC_ABI::detail
