// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <isic/detail/io/journal.hpp>

#include <cstring>
#include <iterator>
#include <string>
#include <system_error>
#include <utility>

#include <isic/error.hpp>

#include <isic/detail/byte_hash.hpp>

namespace isic::inline ISIC_ABI::detail {

inline constexpr std::string_view journal_magic = "isic.patch 1\n";

inline std::uint64_t journal_hash(std::span<const std::byte> bytes) {
    byte_hash hash;
    hash.add(bytes);
    return hash.value();
}

ISIC_INLINE journal_lock::journal_lock(const std::filesystem::path& journal) : lock_(beside(journal, ".lock")) {
    if (!lock_.held()) {
        fail_file(journal, "expected exclusive use of this journal, got another process");
    }
}

ISIC_INLINE const disk_file& patch_set::open(const std::filesystem::path& file) {
    const std::filesystem::path target = resolve(file);
    auto& opened = files_[target];
    if (!opened) {
        opened = std::make_unique<disk_file>(target, file_use::edit);
    }
    return *opened;
}

ISIC_INLINE void patch_set::add(const file_patch& p) {
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

ISIC_INLINE void patch_set::require_disjoint() const {
    std::map<std::pair<std::uintmax_t, std::uintmax_t>, std::map<index_t, index_t>> ends;
    for (const member& m : members_) {
        if (!m.before.empty()) {
            auto& of_file = ends[m.file->identity()];
            const index_t end = m.offset + static_cast<index_t>(m.before.size());
            const auto next = of_file.lower_bound(m.offset);
            const bool free = (next == of_file.end() || next->first >= end) &&
                              (next == of_file.begin() || std::prev(next)->second <= m.offset);
            detail::require<value_error>(free, "patch_files",
                                         fmt::format("patches of {} that do not overlap", m.file->path().string()),
                                         fmt::format("two at {}", m.offset));
            of_file.emplace(m.offset, end);
        }
    }
}

ISIC_INLINE void patch_set::write() const {
    for (const member& m : members_) {
        m.file->write(m.offset, m.after);
    }
    for (const auto& entry : files_) {
        entry.second->sync();
    }
}

ISIC_INLINE journal_writer::journal_writer(const std::filesystem::path& journal, const patch_set& set) {
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

ISIC_INLINE void journal_writer::add(std::span<const std::byte> bytes) {
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
}

ISIC_INLINE void journal_writer::add(std::uint64_t number) {
    add(std::as_bytes(std::span(&number, 1)));
}

ISIC_INLINE journal_reader::journal_reader(const std::filesystem::path& journal) : path_(journal) {
    const disk_file file(journal, file_use::read);
    bytes_.resize(static_cast<std::size_t>(file.size()));
    file.read(0, bytes_);
    require(bytes_.size() >= journal_magic.size() + sizeof(std::uint64_t));
    rest_ = std::span(bytes_).first(bytes_.size() - sizeof(std::uint64_t));
    std::uint64_t hash = 0;
    std::memcpy(&hash, rest_.data() + rest_.size(), sizeof(hash));
    require(journal_hash(rest_) == hash &&
            std::ranges::equal(take(journal_magic.size()), std::as_bytes(std::span(journal_magic))));
    const std::filesystem::path folder = folder_of(journal);
    for (std::uint64_t patches = number(); patches > 0; --patches) {
        read_patch(folder);
    }
    require(rest_.empty());
}

ISIC_INLINE void journal_reader::read_patch(const std::filesystem::path& folder) {
    const auto name = take(number());
    const std::filesystem::path file =
        folder / std::u8string(reinterpret_cast<const char8_t*>(name.data()), name.size());
    const index_t size = set_.open(file).size();
    const std::uint64_t expected = number(), offset = number(), length = number();
    if (!std::cmp_equal(size, expected)) {
        fail_file(file, fmt::format("expected {} bytes, got {}", expected, size));
    }
    require(std::in_range<index_t>(offset));
    const auto before = take(length), after = take(length);
    set_.add({file, static_cast<index_t>(offset), before, after});
}

ISIC_INLINE std::span<const std::byte> journal_reader::take(std::uint64_t size) {
    require(size <= rest_.size());
    const auto out = rest_.first(static_cast<std::size_t>(size));
    rest_ = rest_.subspan(out.size());
    return out;
}

ISIC_INLINE std::uint64_t journal_reader::number() {
    std::uint64_t out = 0;
    std::memcpy(&out, take(sizeof(out)).data(), sizeof(out));
    return out;
}

ISIC_INLINE void journal_reader::require(bool ok) const {
    if (!ok) {
        fail_file(path_, "expected a journal of isic, got another file or a damaged one");
    }
}

ISIC_INLINE void write_journal(const std::filesystem::path& journal, std::span<const std::byte> bytes) {
    const std::filesystem::path temporary = beside(journal, ".tmp");
    std::error_code code;
    try {
        const disk_file out(temporary, file_use::create);
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

}  // namespace isic::inline ISIC_ABI::detail
