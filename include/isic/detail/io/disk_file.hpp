/// \file
/// Files that are edited where they are, and the names of files; every failure is an io_error that names the file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <utility>

#include <isic/matrix.hpp>

namespace isic::inline ISIC_ABI::detail {

enum class file_use { look, edit, create };

/// An open file, or a folder that is to be synchronised. Where there is no POSIX nothing can be opened, so nothing is begun.
class disk_file {
public:
    disk_file(std::filesystem::path path, file_use use);
    ~disk_file();
    disk_file(const disk_file&) = delete;
    disk_file& operator=(const disk_file&) = delete;

    const std::filesystem::path& path() const { return path_; }

    index_t size() const;

    /// The same for all names of one file.
    std::pair<std::uintmax_t, std::uintmax_t> identity() const;

    bool is_at(const std::filesystem::path& path) const;

    /// Reads or writes all of `bytes`.
    void read(index_t offset, std::span<std::byte> bytes) const;
    void write(index_t offset, std::span<const std::byte> bytes) const;

    /// Returns when all that was written is on the medium.
    void sync() const;

    /// Whether no other process, and no other disk_file, holds the lock.
    bool try_lock() const;

private:
    std::filesystem::path path_;
    int descriptor_ = -1;
};

std::filesystem::path beside(std::filesystem::path journal, const char* suffix);

std::filesystem::path folder_of(const std::filesystem::path& file);

/// The path without symbolic links. Errors: io_error if there is no such file or folder.
std::filesystem::path resolve(const std::filesystem::path& path);

void sync_folder_of(const std::filesystem::path& file);

bool is_there(const std::filesystem::path& path);

/// Whether there was such a file. Errors: io_error if there still is.
bool remove_file(const std::filesystem::path& path);

}  // namespace isic::inline ISIC_ABI::detail

#ifdef ISIC_HEADER_ONLY
#include <isic/detail/io/disk_file-inl.hpp>
#endif
