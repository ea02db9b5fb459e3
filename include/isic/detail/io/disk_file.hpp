// SPDX-License-Identifier: Apache-2.0
/// \file
/// POSIX files that are edited in place, and paths. Every failure is an io_error that names the file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <utility>

#include <isic/matrix.hpp>

namespace isic::inline ISIC_ABI::detail {

/// How a file is opened.
enum class file_use { read, edit, create };

/// An open file, or a folder to synchronise. Without POSIX the constructor throws. Thread-safety: reads and writes of
/// distinct ranges may run concurrently.
class disk_file {
public:
    disk_file(std::filesystem::path path, file_use use);
    ~disk_file();
    disk_file(const disk_file&) = delete;
    disk_file& operator=(const disk_file&) = delete;

    const std::filesystem::path& path() const noexcept { return path_; }

    /// Size in bytes.
    index_t size() const;

    /// Device and inode: equal for all names of one file.
    std::pair<std::uintmax_t, std::uintmax_t> identity() const;

    /// Whether `path` names this file now.
    bool is_at(const std::filesystem::path& path) const;

    /// Reads or writes all of `bytes` at `offset`.
    void read(index_t offset, std::span<std::byte> bytes) const;
    void write(index_t offset, std::span<const std::byte> bytes) const;

    /// Waits until all writes are on the medium (fsync).
    void sync() const;

    /// Tries to lock the file; false if another process or disk_file holds the lock.
    bool try_lock() const;

private:
    std::filesystem::path path_;
    int descriptor_ = -1;
};

/// The path with `suffix` appended to the name.
std::filesystem::path beside(std::filesystem::path journal, const char* suffix);

/// The resolved folder of a file.
std::filesystem::path folder_of(const std::filesystem::path& file);

/// The canonical path, without symbolic links. Errors: io_error if it does not exist.
std::filesystem::path resolve(const std::filesystem::path& path);

/// Synchronises the folder of a file, and so the names in it.
void sync_folder_of(const std::filesystem::path& file);

/// Whether a file exists.
bool is_there(const std::filesystem::path& path);

/// Removes a file; false if it did not exist. Errors: io_error if it cannot be removed.
bool remove_file(const std::filesystem::path& path);

}  // namespace isic::inline ISIC_ABI::detail

#ifdef ISIC_HEADER_ONLY
#include <isic/detail/io/disk_file-inl.hpp>
#endif
