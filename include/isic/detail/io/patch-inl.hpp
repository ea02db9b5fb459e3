// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <isic/io/patch.hpp>

#include <fmt/format.h>

#include <isic/error.hpp>

#include <isic/detail/io/disk_file.hpp>
#include <isic/detail/io/journal.hpp>

namespace isic::inline ISIC_ABI {

ISIC_INLINE std::string_view to_string(recovery r) {
    return r == recovery::nothing ? "nothing" : r == recovery::completed ? "completed" : "discarded";
}

namespace detail {

/// Writes the new bytes of a complete journal, then removes it.
inline void carry_out(const std::filesystem::path& journal, const patch_set& set) {
    sync_folder_of(journal);  // before the first byte changes
    set.write();
    remove_file(journal);
    sync_folder_of(journal);
}

/// Calls f while a complete journal exists; an io_error of f also names the journal.
template <class F>
void keeping_journal(const std::filesystem::path& journal, F f) {
    try {
        f();
    } catch (const io_error& e) {
        throw io_error(fmt::format("{}; the journal {} is kept and can be recovered", e.what(), journal.string()));
    }
}

inline recovery recover_locked(const std::filesystem::path& journal) {
    const bool unfinished = remove_file(beside(journal, ".tmp"));
    if (!is_there(journal)) {
        return unfinished ? recovery::discarded : recovery::nothing;
    }
    keeping_journal(journal, [&] {
        const journal_reader reader(journal);
        reader.patches().require_held(
            "the old or the new bytes",
            [](std::byte found, std::byte before, std::byte after) { return found == before || found == after; });
        carry_out(journal, reader.patches());
    });
    return recovery::completed;
}

}  // namespace detail

ISIC_INLINE recovery recover_files(const std::filesystem::path& journal) {
    const auto is_there = [&](const char* suffix) { return detail::is_there(detail::beside(journal, suffix)); };
    if (!is_there("") && !is_there(".tmp") && !is_there(".lock")) {
        return recovery::nothing;
    }
    const detail::journal_lock lock(journal);
    return detail::recover_locked(journal);
}

ISIC_INLINE void patch_files(const std::filesystem::path& journal, std::span<const file_patch> patches) {
    const detail::journal_lock lock(journal);
    detail::recover_locked(journal);
    detail::patch_set set;
    for (const file_patch& p : patches) {
        set.add(p);
    }
    set.require_disjoint();
    set.require_held("the bytes to replace",
                     [](std::byte found, std::byte before, std::byte) { return found == before; });
    detail::write_journal(journal, detail::journal_writer(journal, set).bytes());
    detail::keeping_journal(journal, [&] { detail::carry_out(journal, set); });
}

}  // namespace isic::inline ISIC_ABI
