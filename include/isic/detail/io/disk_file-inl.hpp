// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <isic/detail/io/disk_file.hpp>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <string_view>
#include <system_error>

#include <fmt/format.h>

#include <isic/io/patch.hpp>

#include <isic/detail/io/files.hpp>

#if defined(__unix__) || defined(__APPLE__)

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

namespace isic::inline ISIC_ABI::detail {

inline int flags_of(file_use use) {
    return use == file_use::read ? O_RDONLY : use == file_use::edit ? O_RDWR : O_RDWR | O_CREAT;
}

/// Throws an io_error with the text of errno unless ok.
inline void require_done(bool ok, const std::filesystem::path& path, std::string_view what) {
    if (!ok) {
        fail_file(path, fmt::format("cannot {}: {}", what, std::generic_category().message(errno)));
    }
}

inline struct stat status_of(const std::filesystem::path& path, int descriptor) {
    struct stat out{};
    require_done(::fstat(descriptor, &out) == 0, path, "be examined");
    return out;
}

inline std::pair<std::uintmax_t, std::uintmax_t> identity_of(const struct stat& s) {
    return {s.st_dev, s.st_ino};
}

template <class Bytes, class Call>
void transfer(const std::filesystem::path& path, index_t offset, Bytes bytes, std::string_view what, Call call) {
    while (!bytes.empty()) {
        const auto done = call(bytes.data(), std::min<std::size_t>(bytes.size(), 1 << 30), static_cast<off_t>(offset));
        if (done == 0) {
            fail_file(path, fmt::format("expected {} more bytes at {}, found the end", bytes.size(), offset));
        }
        if (done < 0) {
            require_done(errno == EINTR, path, what);
            continue;
        }
        bytes = bytes.subspan(static_cast<std::size_t>(done));
        offset += done;
    }
}

ISIC_INLINE disk_file::disk_file(std::filesystem::path path, file_use use) : path_(std::move(path)) {
    do {
        descriptor_ = ::open(path_.c_str(), flags_of(use) | O_CLOEXEC, 0666);
    } while (descriptor_ < 0 && errno == EINTR);
    require_done(descriptor_ >= 0, path_, "be opened");
}

ISIC_INLINE disk_file::~disk_file() {
    ::close(descriptor_);
}

ISIC_INLINE index_t disk_file::size() const {
    return static_cast<index_t>(status_of(path_, descriptor_).st_size);
}

ISIC_INLINE std::pair<std::uintmax_t, std::uintmax_t> disk_file::identity() const {
    return identity_of(status_of(path_, descriptor_));
}

ISIC_INLINE bool disk_file::is_at(const std::filesystem::path& path) const {
    struct stat there{};
    return ::stat(path.c_str(), &there) == 0 && identity_of(there) == identity();
}

ISIC_INLINE void disk_file::read(index_t offset, std::span<std::byte> bytes) const {
    transfer(path_, offset, bytes, "be read",
             [&](std::byte* p, std::size_t n, off_t at) { return ::pread(descriptor_, p, n, at); });
}

ISIC_INLINE void disk_file::write(index_t offset, std::span<const std::byte> bytes) const {
    transfer(path_, offset, bytes, "be written",
             [&](const std::byte* p, std::size_t n, off_t at) { return ::pwrite(descriptor_, p, n, at); });
}

ISIC_INLINE void disk_file::sync() const {
#ifdef F_FULLFSYNC
    if (::fcntl(descriptor_, F_FULLFSYNC) == 0) {  // macOS: fsync does not flush the cache of the drive
        return;
    }
#endif
    int result = 0;
    do {
        result = ::fsync(descriptor_);
    } while (result != 0 && errno == EINTR);
    require_done(result == 0 || errno == EINVAL, path_,
                 "be synchronised");  // EINVAL: the file system cannot synchronise, e.g. folders
}

ISIC_INLINE bool disk_file::try_lock() const {
    const bool locked = ::flock(descriptor_, LOCK_EX | LOCK_NB) == 0;
    require_done(locked || errno == EWOULDBLOCK, path_, "be locked");
    return locked;
}

}  // namespace isic::inline ISIC_ABI::detail

#else

namespace isic::inline ISIC_ABI::detail {

ISIC_INLINE disk_file::disk_file(std::filesystem::path path, file_use) : path_(std::move(path)) {
    fail_file(path_, "expected a POSIX system, which patching needs");
}
disk_file::~disk_file() = default;
ISIC_INLINE index_t disk_file::size() const {
    return 0;
}
ISIC_INLINE std::pair<std::uintmax_t, std::uintmax_t> disk_file::identity() const {
    return {};
}
ISIC_INLINE bool disk_file::is_at(const std::filesystem::path&) const {
    return false;
}
ISIC_INLINE void disk_file::read(index_t, std::span<std::byte>) const {}
ISIC_INLINE void disk_file::write(index_t, std::span<const std::byte>) const {}
ISIC_INLINE void disk_file::sync() const {}
ISIC_INLINE bool disk_file::try_lock() const {
    return false;
}

}  // namespace isic::inline ISIC_ABI::detail

#endif

namespace isic::inline ISIC_ABI::detail {

ISIC_INLINE std::filesystem::path beside(std::filesystem::path journal, const char* suffix) {
    journal += suffix;
    return journal;
}

ISIC_INLINE std::filesystem::path resolve(const std::filesystem::path& path) {
    std::error_code code;
    std::filesystem::path out = std::filesystem::canonical(path, code);
    if (code) {
        fail_file(path, fmt::format("cannot be found: {}", code.message()));
    }
    return out;
}

ISIC_INLINE std::filesystem::path folder_of(const std::filesystem::path& file) {
    return resolve(std::filesystem::absolute(file).parent_path());
}

ISIC_INLINE void sync_folder_of(const std::filesystem::path& file) {
    disk_file(folder_of(file), file_use::read).sync();
}

ISIC_INLINE bool is_there(const std::filesystem::path& path) {
    std::error_code code;
    return std::filesystem::exists(path, code);
}

ISIC_INLINE bool remove_file(const std::filesystem::path& path) {
    std::error_code code;
    const bool removed = std::filesystem::remove(path, code);
    if (code) {
        fail_file(path, fmt::format("cannot be removed: {}", code.message()));
    }
    return removed;
}

ISIC_INLINE path_lock::path_lock(std::filesystem::path path) : path_(std::move(path)) {
    do {
        file_ = std::make_unique<disk_file>(path_, file_use::create);
        if (!file_->try_lock()) {
            file_.reset();
            return;
        }
    } while (!file_->is_at(path_));  // the last holder removed the file between open and lock
}

ISIC_INLINE path_lock::~path_lock() {
    release();
}

ISIC_INLINE void path_lock::release() {
    if (held()) {
        std::error_code code;
        std::filesystem::remove(path_, code);
        file_.reset();
    }
}

}  // namespace isic::inline ISIC_ABI::detail
