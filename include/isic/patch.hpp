/// \file
/// Replacing bytes inside files, all or nothing: a crash at any moment leaves the old files or what completes the new ones.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include <isic/codebook.hpp>
#include <isic/error.hpp>
#include <isic/io.hpp>
#include <isic/matrix.hpp>

#if defined(__unix__) || defined(__APPLE__)
#define ISIC_HAS_POSIX_FILES 1
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

namespace isic {

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
inline std::string_view to_string(recovery r) {
    return r == recovery::nothing ? "nothing" : r == recovery::completed ? "completed" : "discarded";
}

namespace detail {

#ifdef ISIC_HAS_POSIX_FILES

/// An open file, or a folder that is to be synchronised; every failure is an io_error that names it.
class disk_file {
public:
    disk_file(std::filesystem::path path, int flags) : path_(std::move(path)) {
        do {
            descriptor_ = ::open(path_.c_str(), flags | O_CLOEXEC, 0666);
        } while (descriptor_ < 0 && errno == EINTR);
        require(descriptor_ >= 0, "be opened");
    }
    ~disk_file() { ::close(descriptor_); }
    disk_file(const disk_file&) = delete;
    disk_file& operator=(const disk_file&) = delete;

    const std::filesystem::path& path() const { return path_; }

    index_t size() const { return static_cast<index_t>(status().st_size); }

    /// The same for all names of one file.
    std::pair<std::uintmax_t, std::uintmax_t> identity() const { return identity_of(status()); }

    bool is_at(const std::filesystem::path& path) const {
        struct stat there {};
        return ::stat(path.c_str(), &there) == 0 && identity_of(there) == identity();
    }

    /// Reads or writes all of `bytes`.
    void read(index_t offset, std::span<std::byte> bytes) const {
        transfer(offset, bytes, "be read", [&](std::byte* p, std::size_t n, off_t at) { return ::pread(descriptor_, p, n, at); });
    }
    void write(index_t offset, std::span<const std::byte> bytes) const {
        transfer(offset, bytes, "be written", [&](const std::byte* p, std::size_t n, off_t at) { return ::pwrite(descriptor_, p, n, at); });
    }

    /// Returns when all that was written is on the medium.
    void sync() const {
#ifdef F_FULLFSYNC
        if (::fcntl(descriptor_, F_FULLFSYNC) == 0) {  // macOS: fsync stops at the drive's cache
            return;
        }
#endif
        int result = 0;
        do {
            result = ::fsync(descriptor_);
        } while (result != 0 && errno == EINTR);
        require(result == 0 || errno == EINVAL, "be synchronised");  // EINVAL: a file system that cannot do it, e.g. for folders
    }

    /// Whether no other process, and no other disk_file, holds the lock.
    bool try_lock() const {
        const bool locked = ::flock(descriptor_, LOCK_EX | LOCK_NB) == 0;
        require(locked || errno == EWOULDBLOCK, "be locked");
        return locked;
    }

private:
    static std::pair<std::uintmax_t, std::uintmax_t> identity_of(const struct stat& s) { return {s.st_dev, s.st_ino}; }

    struct stat status() const {
        struct stat out {};
        require(::fstat(descriptor_, &out) == 0, "be examined");
        return out;
    }

    template <class Bytes, class Call>
    void transfer(index_t offset, Bytes bytes, std::string_view what, Call call) const {
        while (!bytes.empty()) {
            const auto done = call(bytes.data(), std::min<std::size_t>(bytes.size(), 1 << 30), static_cast<off_t>(offset));
            if (done == 0) {
                fail_file(path_, fmt::format("expected {} more bytes at {}, found the end", bytes.size(), offset));
            }
            if (done < 0) {
                require(errno == EINTR, what);
                continue;
            }
            bytes = bytes.subspan(static_cast<std::size_t>(done));
            offset += done;
        }
    }

    void require(bool ok, std::string_view what) const {
        if (!ok) {
            fail_file(path_, fmt::format("cannot {}: {}", what, std::generic_category().message(errno)));
        }
    }

    std::filesystem::path path_;
    int descriptor_ = -1;
};

inline constexpr int open_to_edit = O_RDWR, open_to_create = O_RDWR | O_CREAT, open_to_look = O_RDONLY;

#else

/// Elsewhere nothing can be opened, so nothing is begun.
class disk_file {
public:
    disk_file(const std::filesystem::path& path, int) { fail_file(path, "expected a POSIX system, which patching needs"); }
    std::filesystem::path path() const { return {}; }
    index_t size() const { return 0; }
    std::pair<std::uintmax_t, std::uintmax_t> identity() const { return {}; }
    bool is_at(const std::filesystem::path&) const { return false; }
    void read(index_t, std::span<std::byte>) const {}
    void write(index_t, std::span<const std::byte>) const {}
    void sync() const {}
    bool try_lock() const { return false; }
};

inline constexpr int open_to_edit = 0, open_to_create = 0, open_to_look = 0;

#endif

inline std::filesystem::path beside(std::filesystem::path journal, const char* suffix) {
    journal += suffix;
    return journal;
}

/// The path without symbolic links. Errors: io_error if there is no such file or folder.
inline std::filesystem::path resolve(const std::filesystem::path& path) {
    std::error_code code;
    std::filesystem::path out = std::filesystem::canonical(path, code);
    if (code) {
        fail_file(path, fmt::format("cannot be found: {}", code.message()));
    }
    return out;
}

inline std::filesystem::path folder_of(const std::filesystem::path& file) {
    return resolve(std::filesystem::absolute(file).parent_path());
}

inline void sync_folder_of(const std::filesystem::path& file) { disk_file(folder_of(file), open_to_look).sync(); }

inline bool is_there(const std::filesystem::path& path) {
    std::error_code code;
    return std::filesystem::exists(path, code);
}

/// Whether there was such a file. Errors: io_error if there still is.
inline bool remove_file(const std::filesystem::path& path) {
    std::error_code code;
    const bool removed = std::filesystem::remove(path, code);
    if (code) {
        fail_file(path, fmt::format("cannot be removed: {}", code.message()));
    }
    return removed;
}

/// A lock of the operating system on a file made for it, which ends with the process, however that ends. The file is removed
/// before the lock is given up.
class path_lock {
public:
    /// Tries once; held() says whether it succeeded. Errors: io_error if the file cannot be made.
    explicit path_lock(std::filesystem::path path) : path_(std::move(path)) {
        do {
            file_ = std::make_unique<disk_file>(path_, open_to_create);
            if (!file_->try_lock()) {
                file_.reset();
                return;
            }
        } while (!file_->is_at(path_));  // opened before, and locked after, its last holder removed it
    }
    ~path_lock() { release(); }
    path_lock(const path_lock&) = delete;
    path_lock& operator=(const path_lock&) = delete;

    bool held() const { return file_ != nullptr; }
    void release() {
        if (held()) {
            std::error_code code;
            std::filesystem::remove(path_, code);
            file_.reset();
        }
    }

private:
    std::filesystem::path path_;
    std::unique_ptr<disk_file> file_;
};

/// Keeps other processes off a journal while it lives.
class journal_lock {
public:
    explicit journal_lock(const std::filesystem::path& journal) : lock_(beside(journal, ".lock")) {
        if (!lock_.held()) {
            fail_file(journal, "expected nobody else at work with this journal, got another process");
        }
    }

private:
    path_lock lock_;
};

/// Patches with their files open, each once.
class patch_set {
public:
    struct member {
        const disk_file* file;
        index_t offset;
        std::span<const std::byte> before;
        std::span<const std::byte> after;
    };

    const std::vector<member>& members() const { return members_; }

    /// Errors: io_error if the file cannot be written to.
    const disk_file& open(const std::filesystem::path& file) {
        const std::filesystem::path target = resolve(file);
        auto& opened = files_[target];
        if (!opened) {
            opened = std::make_unique<disk_file>(target, open_to_edit);
        }
        return *opened;
    }

    /// Errors: value_error if the patch makes no sense, io_error if it goes beyond the file's end.
    void add(const file_patch& p) {
        const disk_file& file = open(p.file);
        const auto size = static_cast<index_t>(p.before.size());
        detail::require<value_error>(p.before.size() == p.after.size(), "patch_files", "as many bytes after as before",
                                     fmt::format("{} for {}", p.after.size(), size));
        detail::require<value_error>(p.offset >= 0, "patch_files", "an offset from 0", fmt::format("{}", p.offset));
        if (size > file.size() || p.offset > file.size() - size) {
            fail_file(p.file, fmt::format("expected {} bytes at {}, got a file of {}", size, p.offset, file.size()));
        }
        members_.push_back({&file, p.offset, p.before, p.after});
    }

    /// Errors: value_error if two patches touch the same byte, by whatever names of its file.
    void require_disjoint() const {
        std::map<std::pair<std::uintmax_t, std::uintmax_t>, std::map<index_t, index_t>> ends;
        for (const member& m : members_) {
            if (!m.before.empty()) {
                auto& of_file = ends[m.file->identity()];
                const index_t end = m.offset + static_cast<index_t>(m.before.size());
                const auto next = of_file.lower_bound(m.offset);
                const bool free = (next == of_file.end() || next->first >= end) &&
                                  (next == of_file.begin() || std::prev(next)->second <= m.offset);
                detail::require<value_error>(free, "patch_files", fmt::format("patches of {} that do not overlap", m.file->path().string()),
                                             fmt::format("two at {}", m.offset));
                of_file.emplace(m.offset, end);
            }
        }
    }

    /// Errors: io_error unless fits(found, before, after) for every byte.
    template <class Fits>
    void require_held(std::string_view expected, Fits fits) const {
        std::vector<std::byte> buffer(1 << 20);
        for (const member& m : members_) {
            for (std::size_t at = 0; at < m.before.size(); at += buffer.size()) {
                const auto found = std::span(buffer).first(std::min(buffer.size(), m.before.size() - at));
                m.file->read(m.offset + static_cast<index_t>(at), found);
                for (std::size_t i = 0; i < found.size(); ++i) {
                    if (!fits(found[i], m.before[at + i], m.after[at + i])) {
                        fail_file(m.file->path(), fmt::format("expected {}, got another byte at {}", expected,
                                                              m.offset + static_cast<index_t>(at + i)));
                    }
                }
            }
        }
    }

    void write() const {
        for (const member& m : members_) {
            m.file->write(m.offset, m.after);
        }
        for (const auto& entry : files_) {
            entry.second->sync();
        }
    }

private:
    std::map<std::filesystem::path, std::unique_ptr<disk_file>> files_;
    std::vector<member> members_;
};

inline constexpr std::string_view journal_magic = "isic.patch 1\n";

inline std::uint64_t journal_hash(std::span<const std::byte> bytes) {
    byte_hash hash;
    hash.add(bytes);
    return hash.value();
}

/// A journal: magic; how many patches; of each its file's name and size, its offset and length, old and new bytes; a hash of it all.
/// Names are relative to the journal's folder, numbers 64-bit little-endian.
class journal_writer {
public:
    journal_writer(const std::filesystem::path& journal, const patch_set& set) {
        const std::filesystem::path folder = folder_of(journal);
        add(std::as_bytes(std::span(journal_magic)));
        add(set.members().size());
        for (const patch_set::member& m : set.members()) {
            const std::filesystem::path relative = m.file->path().lexically_relative(folder);
            const std::u8string name = (relative.empty() ? m.file->path() : relative).generic_u8string();
            add(name.size());
            add(std::as_bytes(std::span(name)));
            add(static_cast<std::uint64_t>(m.file->size()));
            add(static_cast<std::uint64_t>(m.offset));
            add(m.before.size());
            add(m.before);
            add(m.after);
        }
        add(journal_hash(bytes_));
    }

    const std::vector<std::byte>& bytes() const { return bytes_; }

private:
    void add(std::span<const std::byte> bytes) { bytes_.insert(bytes_.end(), bytes.begin(), bytes.end()); }
    void add(std::uint64_t number) { add(std::as_bytes(std::span(&number, 1))); }

    std::vector<std::byte> bytes_;
};

/// What a journal holds; its files are opened and must have the size that they had.
class journal_reader {
public:
    explicit journal_reader(const std::filesystem::path& journal) : path_(journal) {
        const disk_file file(journal, open_to_look);
        bytes_.resize(static_cast<std::size_t>(file.size()));
        file.read(0, bytes_);
        require(bytes_.size() >= journal_magic.size() + sizeof(std::uint64_t));
        rest_ = std::span(bytes_).first(bytes_.size() - sizeof(std::uint64_t));
        std::uint64_t hash = 0;
        std::memcpy(&hash, rest_.data() + rest_.size(), sizeof(hash));
        require(journal_hash(rest_) == hash && std::ranges::equal(take(journal_magic.size()), std::as_bytes(std::span(journal_magic))));
        const std::filesystem::path folder = folder_of(journal);
        for (std::uint64_t patches = number(); patches > 0; --patches) {
            read_patch(folder);
        }
        require(rest_.empty());
    }

    const patch_set& patches() const { return set_; }

private:
    void read_patch(const std::filesystem::path& folder) {
        const auto name = take(number());
        const std::filesystem::path file = folder / std::u8string(reinterpret_cast<const char8_t*>(name.data()), name.size());
        const index_t size = set_.open(file).size();
        const std::uint64_t expected = number(), offset = number(), length = number();
        if (!std::cmp_equal(size, expected)) {
            fail_file(file, fmt::format("expected {} bytes, got {}", expected, size));
        }
        require(std::in_range<index_t>(offset));
        const auto before = take(length), after = take(length);
        set_.add({file, static_cast<index_t>(offset), before, after});
    }

    std::span<const std::byte> take(std::uint64_t size) {
        require(size <= rest_.size());
        const auto out = rest_.first(static_cast<std::size_t>(size));
        rest_ = rest_.subspan(out.size());
        return out;
    }

    std::uint64_t number() {
        std::uint64_t out = 0;
        std::memcpy(&out, take(sizeof(out)).data(), sizeof(out));
        return out;
    }

    void require(bool ok) const {
        if (!ok) {
            fail_file(path_, "expected a journal of isic, got another file or a damaged one");
        }
    }

    std::filesystem::path path_;
    std::vector<std::byte> bytes_;
    std::span<const std::byte> rest_;
    patch_set set_;
};

/// Makes a journal that is complete or not there. Its name is certain to last only when its folder was synchronised.
inline void write_journal(const std::filesystem::path& journal, std::span<const std::byte> bytes) {
    const std::filesystem::path temporary = beside(journal, ".tmp");
    std::error_code code;
    try {
        const disk_file out(temporary, open_to_create);
        out.write(0, bytes);
        out.sync();
        std::filesystem::rename(temporary, journal, code);
        if (code) {
            fail_file(journal, fmt::format("cannot be created: {}", code.message()));
        }
    } catch (...) {
        std::filesystem::remove(temporary, code);
        throw;
    }
}

/// From a complete journal to the new files.
inline void carry_out(const std::filesystem::path& journal, const patch_set& set) {
    sync_folder_of(journal);  // before the first byte changes
    set.write();
    remove_file(journal);
    sync_folder_of(journal);
}

/// f(), for which a complete journal stands.
template <class F>
void keeping_journal(const std::filesystem::path& journal, F f) {
    try {
        f();
    } catch (const io_error& e) {
        throw io_error(fmt::format("{}; the journal {} is kept and can be carried out when that is mended", e.what(), journal.string()));
    }
}

inline recovery recover_locked(const std::filesystem::path& journal) {
    const bool unfinished = remove_file(beside(journal, ".tmp"));
    if (!is_there(journal)) {
        return unfinished ? recovery::discarded : recovery::nothing;
    }
    keeping_journal(journal, [&] {
        const journal_reader reader(journal);
        reader.patches().require_held("the old or the new bytes", [](std::byte found, std::byte before, std::byte after) {
            return found == before || found == after;
        });
        carry_out(journal, reader.patches());
    });
    return recovery::completed;
}

}  // namespace detail

/// Completes or forgets what an interrupted `patch_files` with this journal had begun; without one it writes nothing.
///
/// Errors: io_error naming the journal and the file if a file is gone, has another size, or holds bytes that are neither old
/// nor new, if the journal is damaged, or if another process is at work with it. The journal is kept then.
inline recovery recover_files(const std::filesystem::path& journal) {
    const auto is_there = [&](const char* suffix) { return detail::is_there(detail::beside(journal, suffix)); };
    if (!is_there("") && !is_there(".tmp") && !is_there(".lock")) {
        return recovery::nothing;
    }
    const detail::journal_lock lock(journal);
    return detail::recover_locked(journal);
}

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
inline void patch_files(const std::filesystem::path& journal, std::span<const file_patch> patches) {
    const detail::journal_lock lock(journal);
    detail::recover_locked(journal);
    detail::patch_set set;
    for (const file_patch& p : patches) {
        set.add(p);
    }
    set.require_disjoint();
    set.require_held("the bytes to replace", [](std::byte found, std::byte before, std::byte) { return found == before; });
    detail::write_journal(journal, detail::journal_writer(journal, set).bytes());
    detail::keeping_journal(journal, [&] { detail::carry_out(journal, set); });
}

}  // namespace isic

#undef ISIC_HAS_POSIX_FILES
