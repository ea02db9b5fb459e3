// SPDX-License-Identifier: Apache-2.0
// Replacing bytes inside files: all or nothing, whoever is killed and whatever the disk forgets.
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <isic/io/patch.hpp>

#include <isic/detail/io/disk_file.hpp>
#include <isic/detail/io/journal.hpp>
#include "support/files.hpp"
#include "support/patch_case.hpp"

#if defined(__unix__) || defined(__APPLE__)
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {

using isic::file_patch;
using isic::index_t;
using isic::recovery;
using isic_test::get;
using isic_test::patch_case;
using isic_test::put;
using isic_test::scratch_folder;

std::span<const std::byte> text_bytes(std::string_view text) {
    return std::as_bytes(std::span(text));
}

/// Two files to patch, in a folder with nothing else, and the journal beside them.
class patched_folder {
public:
    explicit patched_folder(std::size_t size = 100) : what_({folder_.file("a"), folder_.file("b")}, size) { reset(); }

    void reset() const {
        std::filesystem::remove_all(journal());
        for (const auto& file : what_.files()) {
            put(file, what_.old_file());
        }
    }

    std::filesystem::path journal() const { return folder_.file("journal"); }
    std::filesystem::path file(const std::string& name) const { return folder_.file(name); }
    index_t count() const { return folder_.count(); }
    std::vector<file_patch> patches() const { return what_.patches(); }
    void patch() const { isic::patch_files(journal(), patches()); }

    /// A complete journal, and nothing patched yet.
    void commit() const {
        isic::detail::patch_set set;
        for (const file_patch& p : patches()) {
            set.add(p);
        }
        isic::detail::write_journal(journal(), isic::detail::journal_writer(journal(), set).bytes());
    }

    /// "old", "new", or "neither".
    std::string state() const {
        std::set<std::string> found;
        for (const auto& file : what_.files()) {
            const std::string bytes = get(file);
            found.insert(bytes == what_.old_file() ? "old" : bytes == what_.new_file() ? "new" : "neither");
        }
        return found.size() == 1 ? *found.begin() : "neither";
    }

    /// The arguments after HOW, N and ACTION.
    std::string arguments(std::size_t size) const {
        return fmt::format("{} {} {} {}", journal().string(), size, file("a").string(), file("b").string());
    }

private:
    scratch_folder folder_;
    patch_case what_;
};

/// The message of the io_error that f raises, or "".
template <class F>
std::string refused(F f) {
    try {
        f();
    } catch (const isic::io_error& e) {
        return e.what();
    }
    return "";
}

bool has(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("patch: the bytes are replaced and nothing is left behind") {
    const patched_folder f;
    CHECK(f.state() == "old");
    CHECK(isic::recover_files(f.journal()) == recovery::nothing);
    f.patch();
    CHECK(f.state() == "new");
    CHECK(f.count() == 2);
    CHECK(isic::recover_files(f.journal()) == recovery::nothing);
    isic::patch_files(f.journal(), {});
    CHECK(f.count() == 2);

    // several places of one file, far apart in a file that nobody could hold
    const index_t far = index_t{1} << 33;
    std::filesystem::resize_file(f.file("a"), static_cast<std::uintmax_t>(far) + 5);
    const std::string zeros(5, '\0');
    isic::patch_files(f.journal(), std::vector<file_patch>{{f.file("a"), far, text_bytes(zeros), text_bytes("after")},
                                                           {f.file("a"), 0, text_bytes("head"), text_bytes("HEAD")},
                                                           {f.file("a"), 4, text_bytes(" and"), text_bytes(" AND")}});
    const isic::detail::disk_file a(f.file("a"), isic::detail::file_use::read);
    std::string start(8, ' '), end(5, ' ');
    a.read(0, std::as_writable_bytes(std::span(start)));
    a.read(far, std::as_writable_bytes(std::span(end)));
    CHECK(start == "HEAD AND");
    CHECK(end == "after");
}

TEST_CASE("patch: what does not fit is refused and nothing is written") {
    const patched_folder f;
    const std::string a = f.file("a").string();
    const auto patched_with = [&](std::vector<file_patch> patches) {
        patches.insert(patches.begin(),
                       {f.file("b"), 0, text_bytes("head"), text_bytes("HEAD")});  // which alone would fit
        isic::patch_files(f.journal(), patches);
    };
    CHECK(has(refused([&] { patched_with({{a, 0, text_bytes("heal"), text_bytes("HEAD")}}); }),
              a + ": expected the bytes to replace, got another byte at 3"));
    CHECK(has(refused([&] { patched_with({{a, 1 << 20, text_bytes("x"), text_bytes("y")}}); }),
              a + ": expected 1 bytes at 1048576, got a file of 123"));
    CHECK(
        has(refused([&] { patched_with({{a, 122, text_bytes("lx"), text_bytes("yy")}}); }), "expected 2 bytes at 122"));
    CHECK(has(refused([&] { patched_with({{f.file("none"), 0, text_bytes("x"), text_bytes("y")}}); }),
              "none: cannot be found"));
    CHECK(
        has(refused([&] { patched_with({{f.file("."), 0, text_bytes("x"), text_bytes("y")}}); }), "cannot be opened"));
    const auto is_nonsense = [&](const std::vector<file_patch>& patches) {
        CHECK_THROWS_AS(patched_with(patches), isic::value_error);
    };
    const file_patch four{a, 0, text_bytes("head"), text_bytes("HEAD")};
    is_nonsense({{a, 0, text_bytes("head"), text_bytes("HEADS")}});
    is_nonsense({{a, -1, text_bytes("h"), text_bytes("H")}});
    is_nonsense({four, {a, 3, text_bytes("d "), text_bytes("D ")}});
    is_nonsense({{a, 1, text_bytes("e"), text_bytes("E")}, four});
    is_nonsense({four, {a, 0, text_bytes("he"), text_bytes("HE")}});
    std::filesystem::create_hard_link(a, f.file("other name"));
    is_nonsense({four, {f.file("other name"), 3, text_bytes("d"), text_bytes("D")}});
    std::filesystem::remove(f.file("other name"));
    CHECK(has(refused([&] { isic::patch_files(f.file("no/folder/journal"), f.patches()); }), "cannot be opened"));
    CHECK(f.state() == "old");
    CHECK(f.count() == 2);
    patched_with({four});  // and what fits is not
    CHECK(get(a).starts_with("HEAD and more"));
}

TEST_CASE("patch: links stay links, and every name of a file shows the new bytes") {
    const patched_folder f;
    std::filesystem::create_directories(f.file("snapshot"));
    std::filesystem::create_symlink("../a", f.file("snapshot/link"));
    std::filesystem::create_hard_link(f.file("a"), f.file("snapshot/hard"));
    const file_patch patch{f.file("snapshot/link"), 0, text_bytes("head"), text_bytes("HEAD")};
    isic::patch_files(f.file("snapshot/journal"), std::vector{patch});
    CHECK(std::filesystem::is_symlink(f.file("snapshot/link")));
    CHECK(get(f.file("a")).starts_with("HEAD"));
    CHECK(get(f.file("snapshot/hard")).starts_with("HEAD"));
}

TEST_CASE("patch: a journal is carried out wherever its folder went") {
    const patched_folder f;
    f.commit();
    CHECK(f.state() == "old");
    std::filesystem::create_directory(f.file("moved"));
    for (const char* name : {"a", "b", "journal"}) {
        std::filesystem::rename(f.file(name), f.file("moved") / name);
    }
    CHECK(isic::recover_files(f.file("moved/journal")) == recovery::completed);
    for (const char* name : {"a", "b"}) {
        std::filesystem::rename(f.file("moved") / name, f.file(name));
    }
    std::filesystem::remove(f.file("moved"));
    CHECK(f.state() == "new");
    CHECK(f.count() == 2);
}

TEST_CASE("patch: the next call recovers first") {
    const patched_folder f;
    f.commit();
    put(f.file("c"), "other");
    isic::patch_files(f.journal(), std::vector<file_patch>{{f.file("c"), 0, text_bytes("other"), text_bytes("OTHER")}});
    CHECK(f.state() == "new");
    CHECK(get(f.file("c")) == "OTHER");
    f.reset();
    put(f.file("journal.tmp"), "half a journal");
    put(f.file("journal.lock"), "");
    CHECK(isic::recover_files(f.journal()) == recovery::discarded);
    CHECK(f.state() == "old");
    CHECK(f.count() == 3);
}

TEST_CASE("patch: recovery refuses other files and keeps the journal") {
    const patched_folder f;
    f.commit();
    const std::string good = get(f.file("a")), journal = get(f.journal());
    const auto why = [&] { return refused([&] { isic::recover_files(f.journal()); }); };
    const auto names_both = [&](const std::string& reason, const std::string& part) {
        return has(reason, part) && has(reason, f.file("a").string()) && has(reason, f.journal().string());
    };
    std::filesystem::remove(f.file("a"));
    CHECK(names_both(why(), "cannot be found"));
    put(f.file("a"), good + "x");
    CHECK(names_both(why(), "expected 123 bytes, got 124"));
    std::string other = good;
    other[51] = static_cast<char>(~good[51]);  // a byte that is the same before and after
    put(f.file("a"), other);
    CHECK(names_both(why(), "expected the old or the new bytes, got another byte at 51"));
    CHECK(names_both(refused([&] { f.patch(); }), "another byte at 51"));
    CHECK(get(f.journal()) == journal);
    CHECK(get(f.file("b")) == good);
    put(f.file("a"), good);
    CHECK(isic::recover_files(f.journal()) == recovery::completed);
    CHECK(f.state() == "new");
}

TEST_CASE("patch: a damaged journal is refused, whichever byte it is") {
    const patched_folder f;
    f.commit();
    const std::string journal = get(f.journal());
    const auto holds = [&](const std::string& bytes) {
        put(f.journal(), bytes);
        return has(refused([&] { isic::recover_files(f.journal()); }), "expected a journal of isic") &&
               get(f.journal()) == bytes && f.state() == "old";
    };
    for (std::size_t at = 0; at < journal.size(); ++at) {
        std::string bad = journal;
        bad[at] = static_cast<char>(bad[at] ^ 1);
        REQUIRE_MESSAGE(holds(bad), at);
        REQUIRE_MESSAGE(holds(journal.substr(0, at)), at);
    }
    CHECK(holds(journal + "x"));
    put(f.journal(), journal);
    CHECK(isic::recover_files(f.journal()) == recovery::completed);
}

TEST_CASE("patch: one at a time") {
    const patched_folder f;
    {
        const isic::detail::journal_lock held(f.journal());
        CHECK(has(refused([&] { f.patch(); }), "got another process"));
        CHECK(has(refused([&] { isic::recover_files(f.journal()); }), "got another process"));
        CHECK(f.count() == 3);
    }
    CHECK(f.state() == "old");
    CHECK(f.count() == 2);

    // four processes count together in one file; without the lock they would overwrite each other's steps
    const auto file = f.file("a");
    const std::uint64_t steps = 25;
    std::uint64_t total = 0;
    put(file, std::string(8, '\0'));
    std::vector<pid_t> children;
    for (int child = 0; child < 4; ++child) {
        children.push_back(fork());
        if (children.back() == 0) {
            for (std::uint64_t done = 0; done < steps;) {
                std::uint64_t now = 0;
                std::memcpy(&now, get(file).data(), sizeof(now));
                const std::uint64_t next = now + 1;
                const file_patch step{file, 0, std::as_bytes(std::span(&now, 1)), std::as_bytes(std::span(&next, 1))};
                done += refused([&] { isic::patch_files(f.journal(), std::vector{step}); }).empty();
            }
            _exit(0);
        }
    }
    for (const pid_t child : children) {
        int status = 1;
        waitpid(child, &status, 0);
        CHECK(status == 0);
    }
    std::memcpy(&total, get(file).data(), sizeof(total));
    CHECK(total == 4 * steps);
    CHECK(f.count() == 2);
}

TEST_CASE("patch: without room for the journal nothing is changed") {
    const patched_folder f(100'000);
    const pid_t child = fork();
    if (child == 0) {
        signal(SIGXFSZ, SIG_IGN);
        const rlimit limit{250'000, 250'000};  // the files fit, the journal does not
        setrlimit(RLIMIT_FSIZE, &limit);
        _exit(has(refused([&] { f.patch(); }), "journal.tmp: cannot be written") ? 0 : 1);
    }
    int status = 1;
    waitpid(child, &status, 0);
    CHECK(status == 0);
    CHECK(f.state() == "old");
    CHECK(f.count() == 2);
    f.patch();
    CHECK(f.state() == "new");
}

TEST_CASE("patch: a file that may not be written to is refused") {
    if (geteuid() == 0) {
        MESSAGE("skipped: root may write to every file");
        return;
    }
    const patched_folder f;
    std::filesystem::permissions(f.file("b"), std::filesystem::perms::owner_read);
    CHECK(has(refused([&] { f.patch(); }), "cannot be opened: Permission denied"));
    CHECK(get(f.file("a")) == get(f.file("b")));
    CHECK(f.count() == 2);
}

#ifdef ISIC_KILL_AT

namespace {

constexpr int forever = 1'000'000;  // more calls than there are

/// Runs tests/support/kill_at.cpp; whether it was killed.
bool is_killed(const patched_folder& f, std::size_t size, const std::string& how, int n, const std::string& action) {
    const std::string command =
        fmt::format("exec {} {} {} {} {} >/dev/null", ISIC_KILL_AT, how, n, action, f.arguments(size));
    const int status = std::system(command.c_str());
    REQUIRE((WIFSIGNALED(status) || WEXITSTATUS(status) == 0));
    return WIFSIGNALED(status);
}

/// What files were found as, how often: right after the crash, and after recovery.
struct tally {
    int crashes = 0;
    std::multiset<std::string> crashed, recovered;

    template <class Recover>
    std::string add(const patched_folder& f, Recover recover) {
        ++crashes;
        crashed.insert(f.state());
        const std::string why = refused(recover);
        return *recovered.insert(why.empty() ? f.state() : "refused");
    }
    std::string add(const patched_folder& f) {
        return add(f, [&] { isic::recover_files(f.journal()); });
    }
};

/// Kills an action at its first call, its second, ... until it lives.
template <class After>
void kill_everywhere(const patched_folder& f, std::size_t size, const std::string& how, const std::string& action,
                     After after) {
    for (int n = 1;; ++n) {
        f.reset();
        if (!is_killed(f, size, how, n, action)) {
            return;
        }
        after(n);
    }
}

}  // namespace

TEST_CASE("patch: every call to the disk is one that the kills see") {
    const patched_folder f;
    const std::string command = fmt::format("{} die {} patch {}", ISIC_KILL_AT, forever, f.arguments(100));
    std::FILE* const out = popen(command.c_str(), "r");
    std::array<char, 200> text{};
    const std::size_t size = std::fread(text.data(), 1, text.size(), out);
    pclose(out);
    // there and back again: journal and two files written and synchronised, the folder synchronised twice
    CHECK(std::string(text.data(), size) == "flock 2\nfsync 10\nopen 4\npwrite 6\nremove 6\nrename 2\n");
}

TEST_CASE("patch: killed anywhere, by hand or by a power failure, it is all or nothing") {
    for (const std::size_t size : {100, 100'000}) {
        const patched_folder f(size);
        std::vector<std::string> ways{"die", "lose:1"};
        if (size == 100) {
            ways.insert(ways.end(), {"tear", "lose:0", "lose:2", "lose:3", "lose:4", "lose:5"});
        }
        tally all;
        for (const std::string& how : ways) {
            kill_everywhere(f, size, how, "patch", [&](int n) {
                const std::string state = all.add(f, [&] { is_killed(f, size, "die", forever, "recover"); });
                REQUIRE_MESSAGE((state == "old" || state == "new"), how << " at " << n << ": " << state);
                REQUIRE(isic::recover_files(f.journal()) == recovery::nothing);
                REQUIRE(f.count() == 2);
            });
        }
        CHECK(all.crashes == static_cast<int>(ways.size()) * 30);
        CHECK(all.crashed.count("neither") > 0);  // it is recovery that mends them
        CHECK(all.recovered.count("old") > 0);
        CHECK(all.recovered.count("new") > 0);
    }
}

TEST_CASE("patch: recovery may be killed too") {
    const std::size_t size = 100;
    const patched_folder f(size);
    int crashes = 0;
    for (const std::string how : {"tear", "lose:1"}) {
        kill_everywhere(f, size, how, "patch", [&](int n) {
            if (!std::filesystem::exists(f.journal())) {
                return;
            }
            for (int m = 1; is_killed(f, size, how, m, "recover"); ++m) {
                ++crashes;
                isic::recover_files(f.journal());
                REQUIRE_MESSAGE(f.state() != "neither", how << " at " << n << ", then at " << m);
                REQUIRE(f.count() == 2);
                f.reset();
                REQUIRE(is_killed(f, size, how, n, "patch"));
            }
        });
    }
    CHECK(crashes > 100);
}

TEST_CASE("patch: it takes the journal, and a disk that keeps what it synchronised") {
    const patched_folder f;
    tally plain, lied_to;
    for (const std::string how : {"die", "tear"}) {
        kill_everywhere(f, 100, how, "plain", [&](int) { plain.add(f); });
    }
    CHECK(plain.recovered.count("neither") > 0);
    for (int seed = 0; seed < 4; ++seed) {
        kill_everywhere(f, 100, fmt::format("lie:{}", seed), "patch", [&](int) { lied_to.add(f); });
    }
    CHECK(lied_to.recovered.count("neither") + lied_to.recovered.count("refused") > 0);
}

#endif
#else

TEST_CASE("patch: elsewhere it says what it needs") {
    const isic_test::scratch_folder folder;
    CHECK(isic::recover_files(folder.file("journal")) == isic::recovery::nothing);
    CHECK_THROWS_AS(isic::patch_files(folder.file("journal"), {}), isic::io_error);
}

#endif
