/// \file
/// Replacing bytes inside files, all or nothing: a crash at any moment leaves the old files or what completes the new ones.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string_view>

#include <isic/matrix.hpp>

namespace isic::inline ISIC_ABI {

/// Bytes of a file and what replaces them.
struct file_patch {
    std::filesystem::path file;         ///< an existing file; a symbolic link stands for the file that it names
    index_t offset = 0;                 ///< of the first byte
    std::span<const std::byte> before;  ///< what the file holds there
    std::span<const std::byte> after;   ///< what it shall hold, as many bytes
};

/// What `recover_files` found and did.
enum class recovery {
    nothing,    ///< no journal: nothing had been begun, or it was completed
    completed,  ///< a complete journal: the new bytes are written everywhere now
    discarded   ///< a journal that never became complete: the files are the old ones
};

/// "nothing", "completed" or "discarded".
ISIC_API std::string_view to_string(recovery r);

namespace detail {

class disk_file;

/// A lock of the operating system on a file made for it, which ends with the process, however that ends. The file is removed
/// before the lock is given up.
class path_lock {
public:
    /// Tries once; held() says whether it succeeded. Errors: io_error if the file cannot be made.
    explicit path_lock(std::filesystem::path path);
    ~path_lock();
    path_lock(const path_lock&) = delete;
    path_lock& operator=(const path_lock&) = delete;

    bool held() const { return file_ != nullptr; }
    void release();

private:
    std::filesystem::path path_;
    std::unique_ptr<disk_file> file_;
};

}  // namespace detail

/// Completes or forgets what an interrupted `patch_files` with this journal had begun; without one it writes nothing.
///
/// Errors: io_error naming the journal and the file if a file is gone, has another size, or holds bytes that are neither old
/// nor new, if the journal is damaged, or if another process is at work with it. The journal is kept then.
ISIC_API recovery recover_files(const std::filesystem::path& journal);

/// Replaces bytes inside files, in all of them or in none: a process that is killed, or a machine that loses power, leaves either
/// the old files or, beside them, a journal from which `recover_files`, or the next call here, makes the new ones.
///
/// Files are edited where they are: other names of one (hard links, symbolic links to it) show the new bytes too, and so does
/// memory that maps it. The journal is a file that is new and yours to name, on the medium before the first byte changes; it
/// holds old and new bytes, and its files by where they lie from its folder. Files must not change under other hands
/// meanwhile. Cost: memory and disk space of twice the patches, whatever the size of the files.
///
/// Errors: value_error if a patch has another length after than before, or two overlap; io_error if a file does not hold
/// `before`, cannot be written to, or the journal cannot (no space), or if another process is at work with the same journal.
/// Nothing is changed then. A medium that fails later raises io_error too, and the journal is kept.
ISIC_API void patch_files(const std::filesystem::path& journal, std::span<const file_patch> patches);

}  // namespace isic::inline ISIC_ABI

#ifdef ISIC_HEADER_ONLY
#include <isic/detail/io/patch-inl.hpp>
#endif
