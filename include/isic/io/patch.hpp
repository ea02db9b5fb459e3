// SPDX-License-Identifier: Apache-2.0
/// \file
/// Atomic replacement of bytes inside files, with a journal against crashes.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string_view>

#include <isic/matrix.hpp>

namespace isic::inline ISIC_ABI {

/// A range of bytes in a file and its replacement.
struct file_patch {
    std::filesystem::path file;         ///< an existing file; symbolic links are followed
    index_t offset = 0;                 ///< position of the first byte
    std::span<const std::byte> before;  ///< current content, verified
    std::span<const std::byte> after;   ///< new content, of the same length
};

/// The outcome of `recover_files`.
enum class recovery {
    nothing,    ///< no journal: no patch was interrupted
    completed,  ///< a complete journal: all new bytes are now written
    discarded   ///< an incomplete journal: the files keep their old bytes
};

/// "nothing", "completed" or "discarded".
[[nodiscard]] ISIC_API std::string_view to_string(recovery r);

namespace detail {

class disk_file;

/// An advisory lock (flock) on a lock file, released with the process. The file is removed before the release.
///
/// Thread-safety: one thread at a time.
class path_lock {
public:
    /// Tries once to lock; held() is the result. Errors: io_error if the file cannot be created.
    explicit path_lock(std::filesystem::path path);
    ~path_lock();
    path_lock(const path_lock&) = delete;
    path_lock& operator=(const path_lock&) = delete;

    [[nodiscard]] bool held() const noexcept { return file_ != nullptr; }  ///< whether this object holds the lock
    void release();                                                        ///< without effect unless held()

private:
    std::filesystem::path path_;
    std::unique_ptr<disk_file> file_;
};

}  // namespace detail

/// Completes or discards an interrupted `patch_files` with this journal. Without a journal it writes nothing.
///
/// Errors: io_error naming the journal and the file if a file is missing, has another size, or holds bytes that are
/// neither old nor new; if the journal is damaged; or if another process uses it. On an error the journal is kept.
ISIC_API recovery recover_files(const std::filesystem::path& journal);

/// Replaces bytes inside files, in all of them or in none. After a crash or a power failure either no file has changed,
/// or the journal completes the change: by `recover_files`, or by the next call with the same journal.
///
/// Files are edited in place, so hard links, symbolic links and memory maps show the new bytes. `journal` is the path
/// of a new file. It holds old and new bytes and the paths of the files relative to its folder, and is synchronised to
/// the medium before the first byte changes. No other process may write to the files meanwhile. Cost: memory and disk
/// space of twice the patches, independent of the size of the files.
///
/// Errors: value_error if the lengths of `before` and `after` differ, or if patches overlap; io_error if a file does
/// not hold `before`, if a file or the journal cannot be written, or if another process uses the journal. On these
/// errors nothing is changed. A medium that fails later causes an io_error too, and the journal is kept.
ISIC_API void patch_files(const std::filesystem::path& journal, std::span<const file_patch> patches);

}  // namespace isic::inline ISIC_ABI

#ifdef ISIC_HEADER_ONLY
#include <isic/detail/io/patch-inl.hpp>
#endif
