// SPDX-License-Identifier: Apache-2.0
/// \file
/// The journal of patches: the write-ahead log of `patch_files`.
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

/// Exclusive use of a journal for the lifetime of the object.
class journal_lock {
public:
    /// Errors: io_error if another process uses the journal.
    explicit journal_lock(const std::filesystem::path& journal);

private:
    path_lock lock_;
};

/// Patches with their open files; every file is opened once.
class patch_set {
public:
    struct member {
        const disk_file* file;
        index_t offset;
        std::span<const std::byte> before;
        std::span<const std::byte> after;
    };

    const std::vector<member>& members() const { return members_; }

    /// Opens a file, or returns it if it is open. Errors: io_error if it cannot be written.
    const disk_file& open(const std::filesystem::path& file);

    /// Adds a patch. Errors: value_error if lengths differ or the offset is negative, io_error if it exceeds the file.
    void add(const file_patch& p);

    /// Throws value_error if two patches overlap, by any names of one file.
    void require_disjoint() const;

    /// Throws io_error unless fits(found, before, after) for every byte.
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

    /// Writes and synchronises the new bytes.
    void write() const;

private:
    std::map<std::filesystem::path, std::unique_ptr<disk_file>> files_;
    std::vector<member> members_;
};

/// Serialises a journal: magic; number of patches; per patch the name and size of the file, offset, length, old bytes,
/// new bytes; a hash of all. Names are relative to the folder of the journal, numbers are 64-bit little-endian.
class journal_writer {
public:
    journal_writer(const std::filesystem::path& journal, const patch_set& set);

    const std::vector<std::byte>& bytes() const { return bytes_; }

private:
    void add(std::span<const std::byte> bytes);
    void add(std::uint64_t number);

    std::vector<std::byte> bytes_;
};

/// Parses a journal and opens its files. Errors: io_error if it is damaged, or if a file is missing or has another
/// size.
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

/// Creates a journal atomically. Its name is durable after its folder is synchronised.
void write_journal(const std::filesystem::path& journal, std::span<const std::byte> bytes);

}  // namespace isic::inline ISIC_ABI::detail

#ifdef ISIC_HEADER_ONLY
#include <isic/detail/io/journal-inl.hpp>
#endif
