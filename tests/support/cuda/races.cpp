// SPDX-License-Identifier: Apache-2.0
#include "races.hpp"

#ifdef ISIC_WATCH_RACES

#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdio>
#include <set>
#include <unordered_map>
#include <utility>

#include "device.hpp"

extern "C" char __start_isic_shared[] __attribute__((weak));  // all that is __shared__
extern "C" char __stop_isic_shared[] __attribute__((weak));
extern "C" char __data_start[];  // all that is static
extern "C" char _end[];

namespace stand_in::races {
namespace {

constexpr int lanes = 32;
constexpr std::size_t page_bytes = 4096;

using clocks = std::array<std::uint32_t, lanes>;

enum class kind : std::uint8_t { read, write, atomic };

constexpr const char* name_of(kind k) {
    return k == kind::read ? "read" : k == kind::write ? "write" : "atomic access";
}

// Who touched something, and when.
struct access {
    const void* code = nullptr;
    std::uint32_t task = 0;   // numbered through all streams
    std::uint32_t block = 0;  // numbered through all grids
    std::uint32_t epoch = 0;  // barriers that the block had passed
    std::uint32_t clock = 0;  // and the lane's syncs since it began
    std::uint32_t thread = 0;

    std::uint32_t warp() const { return thread / lanes; }
    std::uint32_t lane() const { return thread % lanes; }
};

// How far apart those are who touched something since the last barrier.
enum class spread : std::uint8_t { nobody, thread, warp, block, grid };

// All accesses of one kind to one place that a later one can race with: who was first, and as much about the others as
// decides. Of tasks that nothing orders, the last one only.
struct accesses {
    access first;
    spread by = spread::nobody;
    std::uint32_t lane_clocks = 0;  // where spread is a warp
};

struct cell {
    accesses reads;
    accesses writes;
    accesses atomics;
};

// A page of memory in cells of `bytes`: as fine as the finest access.
struct page {
    std::size_t bytes = 8;
    std::vector<cell> cells = std::vector<cell>(page_bytes / 8);

    void refine(std::size_t to) {
        std::vector<cell> finer;
        for (const cell& c : cells) {
            finer.insert(finer.end(), bytes / to, c);
        }
        cells = std::move(finer);
        bytes = to;
    }
};

struct task_order {
    std::uint64_t stream = 0;
    std::uint64_t number = 0;
    std::shared_ptr<const past> before;
};

struct watch {
    access now;
    const char* device = nullptr;
    std::vector<std::pair<const char*, std::size_t>> shared;
    std::pair<const char*, std::size_t> dynamic_shared;
    bool in_block = false;
    std::vector<clocks> threads;      // of the block: what each knows of the lanes of its warp
    std::vector<clocks> lane_clocks;  // of places that several lanes have touched since the last barrier
    std::vector<task_order> tasks = {{}};
    std::uint32_t last_block = 0;
    int atomic_depth = 0;
    std::unordered_map<std::uintptr_t, page> pages;
    std::uintptr_t last_page_number = 0;
    page* last_page = nullptr;
    std::uint32_t last_asked = 0;  // a task, and whether it came before
    bool last_answer = false;
    std::set<std::pair<const void*, const void*>> known;
    std::vector<std::string> found;
};

watch w;

bool is_inside(std::uintptr_t address, const char* first, std::size_t bytes) {
    return address - reinterpret_cast<std::uintptr_t>(first) < bytes;
}

enum class memory { device, shared, of_program, of_thread };

memory memory_of(std::uintptr_t address) {
    const auto holds = [&](const auto& part) { return is_inside(address, part.first, part.second); };
    const std::pair<const char*, std::size_t> section{
        __start_isic_shared, static_cast<std::size_t>(__stop_isic_shared - __start_isic_shared)};
    if (is_inside(address, w.device, detail::memory::addresses)) {
        return memory::device;
    }
    if (is_inside(address, __data_start, static_cast<std::size_t>(_end - __data_start))) {
        return holds(section) || std::ranges::any_of(w.shared, holds) ? memory::shared : memory::of_program;
    }
    return holds(w.dynamic_shared) ? memory::shared : memory::of_thread;
}

bool task_came_before(std::uint32_t task) {
    if (task != w.last_asked) {
        const task_order& asked = w.tasks[task];
        const past& before = *w.tasks[w.now.task].before;
        const auto known = before.find(asked.stream);
        w.last_asked = task;
        w.last_answer = known != before.end() && known->second >= asked.number;
    }
    return w.last_answer;
}

// Whether the running thread knows of all that its warp's lanes did up to these clocks.
bool knows(const clocks& of_lanes) {
    const clocks& mine = w.threads[w.now.thread];
    for (std::uint32_t lane = 0; lane < lanes; ++lane) {
        if (lane != w.now.lane() && of_lanes[lane] > mine[lane]) {
            return false;
        }
    }
    return true;
}

bool are_before_now(const accesses& those, bool shared) {
    const access& now = w.now;
    const access& first = those.first;
    if (those.by == spread::nobody || (shared && first.block != now.block)) {
        return true;  // every block has shared memory of its own
    }
    if (first.task != now.task) {
        return task_came_before(first.task);
    }
    if (those.by == spread::grid || first.block != now.block) {
        return false;
    }
    if (first.epoch != now.epoch) {
        return true;
    }
    if (those.by == spread::block || first.warp() != now.warp()) {
        return false;
    }
    if (those.by == spread::warp) {
        return knows(w.lane_clocks[those.lane_clocks]);
    }
    return first.thread == now.thread || first.clock <= w.threads[now.thread][first.lane()];
}

// The running thread is one of them from now on.
void join(accesses& those, const access& now, bool shared) {
    const access& first = those.first;
    const bool same_block = those.by != spread::nobody && first.block == now.block;
    const bool same_grid = those.by != spread::nobody && first.task == now.task && !shared;
    if (same_grid && (those.by == spread::grid || !same_block)) {
        those.by = spread::grid;
        return;
    }
    const bool same_thread = those.by == spread::thread && first.thread == now.thread;
    if (!same_block || first.epoch != now.epoch || same_thread) {
        those = {now, spread::thread, 0};
        return;
    }
    if (those.by == spread::block || first.warp() != now.warp()) {
        those.by = spread::block;
        return;
    }
    if (those.by == spread::thread) {
        those.by = spread::warp;
        those.lane_clocks = static_cast<std::uint32_t>(w.lane_clocks.size());
        w.lane_clocks.emplace_back()[first.lane()] = first.clock;
    }
    w.lane_clocks[those.lane_clocks][now.lane()] = now.clock;
}

// ---- Saying what was found

std::string run(const std::string& command) {
    std::string text;
    if (FILE* out = popen(command.c_str(), "r")) {
        for (std::array<char, 256> some{}; std::fgets(some.data(), some.size(), out) != nullptr;) {
            text += some.data();
        }
        pclose(out);
    }
    return text;
}

// File and line, where binutils are.
std::string place_of(const void* code) {
    Dl_info module{};
    std::array<char, 4096> program{};
    if (dladdr(code, &module) == 0 || readlink("/proc/self/exe", program.data(), program.size() - 1) < 0) {
        return "an unknown place";
    }
    std::array<char, 32> offset{};
    const auto distance = static_cast<const char*>(code) - static_cast<const char*>(module.dli_fbase);
    std::snprintf(offset.data(), offset.size(), "%#zx", static_cast<std::size_t>(distance) - 1);
    std::string text = run("addr2line -s -e '" + std::string(program.data()) + "' " + offset.data() + " 2>/dev/null");
    text.resize(std::min(text.size(), text.find_first_of(" \n")));
    return text.empty() ? offset.data() : text;
}

std::string whose(const accesses& those) {
    const access& now = w.now;
    if (those.first.task != now.task) {
        return "of two tasks that neither streams nor events put in order";
    }
    if (those.first.block != now.block || those.by == spread::grid) {
        return "of two blocks";
    }
    if (those.by == spread::block || those.first.warp() != now.warp()) {
        return "of two warps with no barrier between";
    }
    return "of two lanes with no __syncwarp between";
}

std::string where(const void* p, bool shared) {
    if (shared) {
        return "in shared memory";
    }
    const detail::allocation* a = detail::heap().find(p);
    return a == nullptr ? "in device memory"
                        : "at byte " + std::to_string(static_cast<const char*>(p) - a->data) + " of an allocation of " +
                              std::to_string(a->bytes);
}

void report_static(const void* code) {
    if (w.known.insert({code, code}).second) {
        w.found.push_back("race: a kernel uses a static variable that is not in shared memory, at " + place_of(code) +
                          "; in a template it needs ISIC_SHARED");
    }
}

void report(const accesses& those, kind earlier, kind later, const void* p, bool shared) {
    if (w.known.insert({those.first.code, w.now.code}).second) {
        w.found.push_back(std::string("race: a ") + name_of(earlier) + " at " + place_of(those.first.code) + " and a " +
                          name_of(later) + " at " + place_of(w.now.code) + ", " + whose(those) + ", " +
                          where(p, shared));
    }
}

// ---- Watching

page& page_of(std::uintptr_t number) {
    if (w.last_page == nullptr || number != w.last_page_number) {
        w.last_page = &w.pages[number];
        w.last_page_number = number;
    }
    return *w.last_page;
}

void touch(cell& c, kind how, const void* p, bool shared) {
    const auto against = [&](const accesses& those, kind earlier) {
        if (!are_before_now(those, shared)) {
            report(those, earlier, how, p, shared);
        }
    };
    against(c.writes, kind::write);
    if (how != kind::read) {
        against(c.reads, kind::read);
    }
    if (how != kind::atomic) {
        against(c.atomics, kind::atomic);
    }
    switch (how) {
        case kind::read: return join(c.reads, w.now, shared);
        case kind::atomic: return join(c.atomics, w.now, shared);
        case kind::write: c = {{}, {w.now, spread::thread, 0}, {}};
    }
}

void touch_in_page(std::uintptr_t address, std::size_t bytes, kind how, bool shared) {
    page& there = page_of(address / page_bytes);
    const std::size_t fits = std::size_t(1) << std::countr_zero(address | bytes);
    if (fits < there.bytes) {
        there.refine(fits);
    }
    const std::size_t first = address % page_bytes / there.bytes;
    for (std::size_t i = 0; i < bytes / there.bytes; ++i) {
        touch(there.cells[first + i], how, reinterpret_cast<const void*>(address + i * there.bytes), shared);
    }
}

__attribute__((noinline)) void touch_watched(std::uintptr_t address, std::size_t bytes, kind how, bool shared,
                                             const void* code) {
    w.now.code = code;
    w.now.clock = w.threads[w.now.thread][w.now.lane()];
    while (bytes != 0) {
        const std::size_t here = std::min(bytes, page_bytes - address % page_bytes);
        touch_in_page(address, here, w.atomic_depth != 0 ? kind::atomic : how, shared);
        address += here;
        bytes -= here;
    }
}

// Most accesses are to what one thread has for itself, also those of the functions here, of which the linker may have
// taken a watched version.
inline void touch(const void* p, std::size_t bytes, kind how, const void* code) {
    const auto address = reinterpret_cast<std::uintptr_t>(p);
    if (w.now.task == 0) {
        return;
    }
    switch (memory_of(address)) {
        case memory::device: return touch_watched(address, bytes, how, false, code);
        case memory::shared: return touch_watched(address, bytes, how, true, code);
        case memory::of_program: return w.in_block ? report_static(code) : void();
        case memory::of_thread: return;
    }
}

// n independent threads, each with its own shared memory; no block.
void enter(const void* shared, std::size_t shared_bytes, std::size_t threads) {
    w.dynamic_shared = {static_cast<const char*>(shared), shared_bytes};
    w.in_block = false;
    w.now.block = ++w.last_block;
    w.now.epoch = 0;
    w.now.thread = 0;
    w.lane_clocks.clear();
    w.threads.assign(threads, clocks{});
    for (std::size_t i = 0; i < threads; ++i) {
        w.threads[i][i % lanes] = 1;
    }
}

}  // namespace

void begin_task(std::uint64_t stream, std::uint64_t number, std::shared_ptr<const past> before) {
    w.device = detail::heap().first_address();
    w.tasks.push_back({stream, number, std::move(before)});
    w.now.task = static_cast<std::uint32_t>(w.tasks.size() - 1);
    w.last_asked = 0;
    w.last_answer = false;
    enter(nullptr, 0, 1);
}

void end_task() {
    w.now.task = 0;
}

void add_shared(const void* p, std::size_t bytes) {
    w.shared.emplace_back(static_cast<const char*>(p), bytes);
}

void end_block() {
    enter(w.dynamic_shared.first, w.dynamic_shared.second, 1);
}

void begin_block(std::size_t threads, const void* shared, std::size_t shared_bytes) {
    enter(shared, shared_bytes, threads);
    w.in_block = true;
}

void run_thread(int linear) {
    w.now.thread = static_cast<std::uint32_t>(linear);
}

void pass_barrier() {
    ++w.now.epoch;
    w.lane_clocks.clear();
}

void pass_sync(unsigned mask) {
    const std::size_t first = w.now.warp() * std::size_t(lanes);
    const auto named = [&](std::size_t lane) { return (mask >> lane & 1U) != 0; };
    clocks joined{};
    for (std::size_t lane = 0; lane < lanes; ++lane) {
        for (std::size_t of = 0; named(lane) && of < lanes; ++of) {
            joined[of] = std::max(joined[of], w.threads[first + lane][of]);
        }
    }
    for (std::size_t lane = 0; lane < lanes; ++lane) {
        if (named(lane)) {
            w.threads[first + lane] = joined;
            ++w.threads[first + lane][lane];
        }
    }
}

atomically::atomically() {
    ++w.atomic_depth;
}

atomically::~atomically() {
    --w.atomic_depth;
}

void release(const void* p, std::size_t bytes) {
    touch(p, bytes, kind::write, __builtin_return_address(0));
    const auto first = reinterpret_cast<std::uintptr_t>(p) / page_bytes;
    for (std::uintptr_t number = first; number <= (reinterpret_cast<std::uintptr_t>(p) + bytes) / page_bytes;
         ++number) {
        w.pages.erase(number);
    }
    w.last_page = nullptr;
}

std::vector<std::string> take_found() {
    w.known.clear();
    return std::exchange(w.found, {});
}

// ---- What the compiler calls

namespace {

void read(const void* p, std::size_t bytes, const void* code) {
    touch(p, bytes, kind::read, code);
}

void write(const void* p, std::size_t bytes, const void* code) {
    touch(p, bytes, kind::write, code);
}

void atomic(const void* p, std::size_t bytes, const void* code) {
    touch(p, bytes, kind::atomic, code);
}

}  // namespace
}  // namespace stand_in::races

extern "C" {

#define ISIC_WATCH(name, how, bytes)                                 \
    void __tsan_##name(void* p);                                     \
    void __tsan_##name(void* p) {                                    \
        stand_in::races::how(p, bytes, __builtin_return_address(0)); \
    }
ISIC_WATCH(read1, read, 1)
ISIC_WATCH(read2, read, 2)
ISIC_WATCH(read4, read, 4)
ISIC_WATCH(read8, read, 8)
ISIC_WATCH(read16, read, 16)
ISIC_WATCH(write1, write, 1)
ISIC_WATCH(write2, write, 2)
ISIC_WATCH(write4, write, 4)
ISIC_WATCH(write8, write, 8)
ISIC_WATCH(write16, write, 16)
ISIC_WATCH(volatile_read4, atomic, 4)  // relaxed ones, on a device
ISIC_WATCH(volatile_read8, atomic, 8)
ISIC_WATCH(volatile_write4, atomic, 4)
ISIC_WATCH(volatile_write8, atomic, 8)
ISIC_WATCH(unaligned_read2, read, 2)
ISIC_WATCH(unaligned_read4, read, 4)
ISIC_WATCH(unaligned_read8, read, 8)
ISIC_WATCH(unaligned_read16, read, 16)
ISIC_WATCH(unaligned_write2, write, 2)
ISIC_WATCH(unaligned_write4, write, 4)
ISIC_WATCH(unaligned_write8, write, 8)
ISIC_WATCH(unaligned_write16, write, 16)

void __tsan_read_range(void* p, std::size_t bytes);
void __tsan_read_range(void* p, std::size_t bytes) {
    stand_in::races::read(p, bytes, __builtin_return_address(0));
}

void __tsan_write_range(void* p, std::size_t bytes);
void __tsan_write_range(void* p, std::size_t bytes) {
    stand_in::races::write(p, bytes, __builtin_return_address(0));
}

void __tsan_init();
void __tsan_init() {}
void __tsan_func_entry(void*);
void __tsan_func_entry(void*) {}
void __tsan_func_exit();
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*);
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**);
void __tsan_vptr_read(void**) {}

// Counts of references and the like, in memory that is not watched.
unsigned char __tsan_atomic8_load(const unsigned char* p, int);
unsigned char __tsan_atomic8_load(const unsigned char* p, int) {
    return __atomic_load_n(p, __ATOMIC_SEQ_CST);
}
unsigned __tsan_atomic32_fetch_add(unsigned* p, unsigned value, int);
unsigned __tsan_atomic32_fetch_add(unsigned* p, unsigned value, int) {
    return __atomic_fetch_add(p, value, __ATOMIC_SEQ_CST);
}
unsigned long __tsan_atomic64_fetch_add(unsigned long* p, unsigned long value, int);
unsigned long __tsan_atomic64_fetch_add(unsigned long* p, unsigned long value, int) {
    return __atomic_fetch_add(p, value, __ATOMIC_SEQ_CST);
}

// Calls of these are no accesses to the compiler: the linker brings them here (--wrap).
void* __real_memcpy(void*, const void*, std::size_t);
void* __wrap_memcpy(void*, const void*, std::size_t);
void* __wrap_memcpy(void* to, const void* from, std::size_t bytes) {
    stand_in::races::read(from, bytes, __builtin_return_address(0));
    stand_in::races::write(to, bytes, __builtin_return_address(0));
    return __real_memcpy(to, from, bytes);
}

void* __real_memmove(void*, const void*, std::size_t);
void* __wrap_memmove(void*, const void*, std::size_t);
void* __wrap_memmove(void* to, const void* from, std::size_t bytes) {
    stand_in::races::read(from, bytes, __builtin_return_address(0));
    stand_in::races::write(to, bytes, __builtin_return_address(0));
    return __real_memmove(to, from, bytes);
}

void* __real_memset(void*, int, std::size_t);
void* __wrap_memset(void*, int, std::size_t);
void* __wrap_memset(void* p, int value, std::size_t bytes) {
    stand_in::races::write(p, bytes, __builtin_return_address(0));
    return __real_memset(p, value, bytes);
}

}  // extern "C"

#endif
