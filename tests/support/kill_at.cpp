// SPDX-License-Identifier: Apache-2.0
// A program that patches files and is killed at its N-th call that a disk could notice.
//
//   kill_at HOW N ACTION JOURNAL SIZE FILE...
//
// ACTION  patch    isic::patch_files, then back again
//         recover  isic::recover_files
//         plain    writes the new bytes without a journal
// HOW     die      killed before the call
//         tear     as die, but a write is done by half first
//         lose:S   as die, and the power fails: what was not synchronised is lost, all of it (S = 0) or parts that S chooses
//         lie:S    as lose, on a disk that synchronises nothing
//
// Prints how often each call came if it lives to the end. The calls are caught by defining them here.
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <list>
#include <map>
#include <random>
#include <string>
#include <vector>

#include <isic/detail/io/disk_file.hpp>
#include "support/patch_case.hpp"

namespace {

/// The function that a definition here hides.
template <class F>
F* real(const char* name) {
    return reinterpret_cast<F*>(dlsym(RTLD_NEXT, name));
}

ssize_t real_write(int fd, const void* bytes, size_t size, off_t at) {
    static auto* const f = real<ssize_t(int, const void*, size_t, off_t)>("pwrite");
    return f(fd, bytes, size, at);
}

std::string content(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
}

/// What is written, and what of it a power failure may take back.
class disk {
public:
    void configure(const std::string& how, long kill_at) {
        const auto colon = how.find(':');
        how_ = how.substr(0, colon);
        seed_ = colon == std::string::npos ? 0 : std::strtoul(how.c_str() + colon + 1, nullptr, 10);
        random_.seed(seed_);
        left_ = kill_at;
    }

    void report() const {
        for (const auto& [call, n] : calls_) {
            std::printf("%s %ld\n", call.c_str(), n);
        }
    }

    /// Kills at the chosen call; `last_act` is what a torn call still does.
    template <class Act>
    void count(const char* call, Act last_act) {
        if (left_ == 0) {  // not configured: the set-up
            return;
        }
        ++calls_[call];
        if (--left_ == 0) {
            if (how_ == "tear") {
                last_act();
            } else if (how_ == "lose" || how_ == "lie") {
                fail_power();
            }
            raise(SIGKILL);
        }
    }
    void count(const char* call) {
        count(call, [] {});
    }

    void note_write(int fd, size_t size, off_t at) {
        struct stat now{};
        fstat(fd, &now);
        std::string old(size, '\0');
        const ssize_t kept = pread(fd, old.data(), size, at);
        writes_.push_back(
            {dup(fd), now.st_ino, now.st_size, at, old.substr(0, kept > 0 ? static_cast<size_t>(kept) : 0), size});
    }

    void note_name(std::string undo_from, std::string undo_to, std::string lost) {
        names_.push_back({std::move(undo_from), std::move(undo_to), std::move(lost)});
    }

    void note_sync(int fd) {
        struct stat now{};
        fstat(fd, &now);
        if (how_ == "lie") {
            return;
        }
        if (S_ISDIR(now.st_mode)) {
            names_.clear();
        }
        writes_.remove_if([&](const write& w) { return w.inode == now.st_ino; });
    }

    bool keeps_notes() const { return how_ == "lose" || how_ == "lie"; }

private:
    struct write {
        int fd;
        ino_t inode;
        off_t old_size;
        off_t at;
        std::string old;
        size_t size;
    };
    struct name {  // from empty: `to` is created anew with `lost`; to empty: `from` is removed
        std::string from, to, lost;
    };

    /// The last names are lost first; of bytes, any sector.
    void fail_power() {
        for (auto w = writes_.rbegin(); w != writes_.rend(); ++w) {
            take_back(*w);
        }
        for (std::size_t n = seed_ == 0 ? names_.size() : random_() % (names_.size() + 1); n > 0; --n) {
            take_back(names_.back());
            names_.pop_back();
        }
    }

    void take_back(const write& w) {
        const size_t sector = 512;
        for (size_t from = 0; from < w.size; from += sector) {
            if (seed_ == 0 || random_() % 2 == 0) {
                std::string old = from < w.old.size() ? w.old.substr(from, sector) : "";
                old.resize(std::min(sector, w.size - from), '\0');
                real_write(w.fd, old.data(), old.size(), w.at + static_cast<off_t>(from));
            }
        }
        if (seed_ == 0 && ftruncate(w.fd, std::max(w.old_size, w.at + static_cast<off_t>(w.old.size()))) != 0) {
            abort();
        }
    }

    static void take_back(const name& n) {
        if (n.from.empty()) {
            std::ofstream(n.to, std::ios::binary) << n.lost;
        } else if (n.to.empty()) {
            real<int(const char*)>("unlink")(n.from.c_str());
        } else {
            real<int(const char*, const char*)>("rename")(n.from.c_str(), n.to.c_str());
        }
    }

    std::string how_;
    unsigned long seed_ = 0;
    std::mt19937 random_;
    long left_ = 0;
    std::map<std::string, long> calls_;
    std::list<write> writes_;
    std::vector<name> names_;
};

disk the_disk;

bool exists(const char* path) {
    struct stat there{};
    return stat(path, &there) == 0;
}

}  // namespace

extern "C" {

int open(const char* path, int flags, ...) {
    mode_t mode = 0;
    if ((flags & O_CREAT) != 0) {
        va_list more;
        va_start(more, flags);
        mode = va_arg(more, mode_t);
        va_end(more);
        the_disk.count("open");
        if (the_disk.keeps_notes() && !exists(path)) {
            the_disk.note_name(path, "", "");
        }
    }
    return real<int(const char*, int, ...)>("open")(path, flags, mode);
}

ssize_t pwrite(int fd, const void* bytes, size_t size, off_t at) {
    the_disk.count("pwrite", [&] { real_write(fd, bytes, size / 2, at); });
    if (the_disk.keeps_notes()) {
        the_disk.note_write(fd, size, at);
    }
    return real_write(fd, bytes, size, at);
}

int fsync(int fd) {
    the_disk.count("fsync");
    the_disk.note_sync(fd);
    return 0;  // nobody here pulls the plug
}

int flock(int fd, int operation) noexcept {
    the_disk.count("flock");
    return real<int(int, int)>("flock")(fd, operation);
}

int rename(const char* from, const char* to) noexcept {
    the_disk.count("rename");
    if (the_disk.keeps_notes()) {
        the_disk.note_name(to, from, "");
    }
    return real<int(const char*, const char*)>("rename")(from, to);
}

int remove(const char* path) noexcept {
    the_disk.count("remove");
    if (the_disk.keeps_notes() && exists(path)) {
        the_disk.note_name("", path, content(path));
    }
    return real<int(const char*)>("remove")(path);
}

int unlink(const char* path) noexcept {
    return remove(path);
}

}  // extern "C"

namespace {

std::vector<isic::file_patch> reversed(std::vector<isic::file_patch> patches) {
    for (auto& p : patches) {
        std::swap(p.before, p.after);
    }
    return patches;
}

void write_plainly(const std::vector<isic::file_patch>& patches) {
    for (const auto& p : patches) {
        const isic::detail::disk_file file(p.file, isic::detail::file_use::edit);
        file.write(p.offset, p.after);
        file.sync();
    }
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 6) {
        std::fprintf(stderr, "kill_at HOW N ACTION JOURNAL SIZE FILE...\n");
        return 2;
    }
    const std::string action = argv[3], journal = argv[4];
    const isic_test::patch_case what({argv + 6, argv + argc}, std::strtoul(argv[5], nullptr, 10));
    const auto patches = what.patches();
    the_disk.configure(argv[1], std::strtol(argv[2], nullptr, 10));
    if (action == "recover") {
        isic::recover_files(journal);
    } else if (action == "plain") {
        write_plainly(patches);
    } else {
        isic::patch_files(journal, patches);
        isic::patch_files(journal, reversed(patches));
    }
    the_disk.report();
}
