/// \file
/// The journal of patches: what is to be written into which files, on the medium before the first of them changes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include <isic/io/patch.hpp>
#include <isic/matrix.hpp>

#include <isic/detail/io/disk_file.hpp>
#include <isic/detail/io/files.hpp>

namespace isic::inline ISIC_ABI::detail {

/// Keeps other processes off a journal while it lives.
class journal_lock {
public:
    /// Errors: io_error if another process holds it.
    explicit journal_lock(const std::filesystem::path& journal);

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
    const disk_file& open(const std::filesystem::path& file);

    /// Errors: value_error if the patch makes no sense, io_error if it goes beyond the file's end.
    void add(const file_patch& p);

    /// Errors: value_error if two patches touch the same byte, by whatever names of its file.
    void require_disjoint() const;

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

    /// Returns when the new bytes are on the medium.
    void write() const;

private:
    std::map<std::filesystem::path, std::unique_ptr<disk_file>> files_;
    std::vector<member> members_;
};

/// A journal: magic; how many patches; of each its file's name and size, its offset and length, old and new bytes; a hash of it all.
/// Names are relative to the journal's folder, numbers 64-bit little-endian.
class journal_writer {
public:
    journal_writer(const std::filesystem::path& journal, const patch_set& set);

    const std::vector<std::byte>& bytes() const { return bytes_; }

private:
    void add(std::span<const std::byte> bytes);
    void add(std::uint64_t number);

    std::vector<std::byte> bytes_;
};

/// What a journal holds; its files are opened and must have the size that they had.
class journal_reader {
public:
    explicit journal_reader(const std::filesystem::path& journal);

    const patch_set& patches() const { return set_; }

private:
    void read_patch(const std::filesystem::path& folder);
    std::span<const std::byte> take(std::uint64_t size);
    std::uint64_t number();
    void require(bool ok) const;

    std::filesystem::path path_;
    std::vector<std::byte> bytes_;
    std::span<const std::byte> rest_;
    patch_set set_;
};

/// Makes a journal that is complete or not there. Its name is certain to last only when its folder was synchronised.
void write_journal(const std::filesystem::path& journal, std::span<const std::byte> bytes);

}  // namespace isic::inline ISIC_ABI::detail

#ifdef ISIC_HEADER_ONLY
#include <isic/detail/io/journal-inl.hpp>
#endif
