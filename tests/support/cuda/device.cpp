// SPDX-License-Identifier: Apache-2.0
#include "device.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <exception>
#include <new>

namespace stand_in {
namespace detail {
namespace {

constexpr std::size_t page = 4096;
constexpr std::size_t alignment = 16;
constexpr unsigned char canary = 0xA5;
constexpr unsigned char nan_byte = 0xFF;
constexpr unsigned char scribble_byte = 0x5A;

std::size_t round_up(std::size_t n, std::size_t to) {
    return (n + to - 1) / to * to;
}

bool all_canaries(const char* first, const char* last) {
    return std::all_of(first, last, [](char c) { return static_cast<unsigned char>(c) == canary; });
}

void check_canaries(const allocation& a) {
    const std::string what = "an allocation of " + std::to_string(a.bytes) + " bytes";
    if (!all_canaries(a.pages, a.data)) {
        violation("written before " + what);
    }
    if (!all_canaries(a.data + a.bytes, a.pages + a.page_bytes)) {
        violation("written after " + what);
    }
}

struct world {
    std::recursive_mutex lock;
    memory heap;
    std::shared_ptr<stream> default_stream = std::make_shared<stream>();
    past host;  // what the host has waited for
    int sticky_error = 0;
    std::vector<std::function<void()>> at_reset;
};

world& the_world() {
    static world w;
    return w;
}

// From the first value to behind the last one.
std::size_t span_bytes(index_t rows, index_t cols, index_t ld, std::size_t element) {
    return static_cast<std::size_t>((cols - 1) * ld + rows) * element;
}

}  // namespace

// ---- Memory

memory::memory() {
    void* region = mmap(nullptr, addresses, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (region == MAP_FAILED) {
        throw std::bad_alloc();
    }
    region_ = static_cast<char*>(region);
}

void* memory::allocate(std::size_t bytes, memory_kind kind, int device) {
    const std::size_t padded = round_up(std::max<std::size_t>(bytes, 1), alignment);
    const std::size_t page_bytes = round_up(padded, page);
    if (top_ + page_bytes + 2 * page > addresses) {
        return nullptr;
    }
    top_ += page;  // the guard page
    allocation a{region_ + top_, page_bytes, region_ + top_ + page_bytes - padded, bytes, kind, device, false};
    top_ += page_bytes;
    mprotect(a.pages, a.page_bytes, PROT_READ | PROT_WRITE);
    std::memset(a.pages, canary, a.page_bytes);
    std::memset(a.data, nan_byte, bytes);
    if (kind == memory_kind::device && open_ == 0) {
        mprotect(a.pages, a.page_bytes, PROT_NONE);
    }
    live_[reinterpret_cast<std::uintptr_t>(a.data)] = a;
    return a.data;
}

void memory::release(const void* data) {
    const auto found = live_.find(reinterpret_cast<std::uintptr_t>(data));
    if (found == live_.end()) {
        return;
    }
    const allocation a = found->second;
    live_.erase(found);
    races::release(a.data, a.bytes);
    mprotect(a.pages, a.page_bytes, PROT_READ | PROT_WRITE);
    check_canaries(a);
    madvise(a.pages, a.page_bytes, MADV_DONTNEED);
    mprotect(a.pages, a.page_bytes, PROT_NONE);
}

void memory::release_all() {
    while (!live_.empty()) {
        release(live_.begin()->second.data);
    }
}

allocation* memory::find(const void* p) {
    const auto address = reinterpret_cast<std::uintptr_t>(p);
    auto next = live_.upper_bound(address);
    if (next == live_.begin()) {
        return nullptr;
    }
    allocation& a = std::prev(next)->second;
    return address <= reinterpret_cast<std::uintptr_t>(a.data) + a.bytes ? &a : nullptr;
}

void memory::open() {
    if (open_++ == 0) {
        protect_device_memory(PROT_READ | PROT_WRITE);
    }
}

void memory::close() {
    if (--open_ == 0) {
        protect_device_memory(PROT_NONE);
    }
}

void memory::protect_device_memory(int protection) {
    for (const auto& [address, a] : live_) {
        if (a.kind == memory_kind::device) {
            mprotect(a.pages, a.page_bytes, protection);
        }
    }
}

memory& heap() {
    return the_world().heap;
}

bool is_device_pointer(const std::string& function, const std::string& argument, const void* p) {
    const allocation* a = heap().find(p);
    if (a == nullptr) {
        violation(function + ": " + argument + " is not in device memory");
        return false;
    }
    if (a->freed) {
        violation(function + ": " + argument + " has been freed");
        return false;
    }
    return true;
}

bool inside_allocation(const std::string& function, const std::string& argument, const void* p, index_t rows,
                       index_t cols, index_t ld, std::size_t element) {
    if (rows <= 0 || cols <= 0) {
        return true;
    }
    if (!is_device_pointer(function, argument, p)) {
        return false;
    }
    const allocation& a = *heap().find(p);
    const std::size_t needed = span_bytes(rows, cols, ld, element);
    const auto there = static_cast<std::size_t>(a.data + a.bytes - static_cast<const char*>(p));
    if (needed > there) {
        violation(function + ": " + argument + " needs " + std::to_string(needed) + " bytes (" + std::to_string(rows) +
                  " x " + std::to_string(cols) + ", leading dimension " + std::to_string(ld) + "), there are " +
                  std::to_string(there));
        return false;
    }
    return true;
}

bool overlap(const block_of_memory& a, const block_of_memory& b) {
    if (a.rows <= 0 || a.cols <= 0 || b.rows <= 0 || b.cols <= 0) {
        return false;
    }
    const auto a_first = reinterpret_cast<std::uintptr_t>(a.data);
    const auto b_first = reinterpret_cast<std::uintptr_t>(b.data);
    if (b_first < a_first) {
        return overlap(b, a);
    }
    const auto apart = static_cast<std::size_t>(b_first - a_first);
    if (apart >= span_bytes(a.rows, a.cols, a.ld, a.element)) {
        return false;
    }
    if (a.ld != b.ld || a.element != b.element) {
        return true;  // not always, but nobody should do it
    }
    // Blocks of one larger matrix: b begins `down` rows below and `right` columns beside a.
    const auto values = static_cast<index_t>(apart / a.element);
    const index_t down = values % a.ld;
    const index_t right = values / a.ld;
    const bool below = down < a.rows && right < a.cols;
    const bool wraps = a.ld - down < b.rows && right + 1 < a.cols;
    return below || wraps;
}

void scribble(void* p, std::size_t bytes) {
    if (bytes != 0) {
        std::memset(p, scribble_byte, bytes);
    }
}

// ---- Streams

namespace {

registry<std::shared_ptr<stream>>& streams() {
    static registry<std::shared_ptr<stream>> all;
    return all;
}

struct memory_access {
    memory_access() { heap().open(); }
    ~memory_access() { heap().close(); }
    memory_access(const memory_access&) = delete;
    memory_access& operator=(const memory_access&) = delete;
};

position end_of(const std::shared_ptr<stream>& s) {
    return {s, s->enqueued};
}

void join(past& into, const past& other) {
    for (const auto& [stream, tasks] : other) {
        into[stream] = std::max(into[stream], tasks);
    }
}

// What has happened when these tasks are done.
const past& past_of(const position& done) {
    static const past nothing;
    return done.tasks == 0 ? nothing : *done.on->pasts[done.tasks - 1];
}

// Of the task that comes next on a stream.
std::shared_ptr<const past> next_past(const std::shared_ptr<stream>& on, const task& next) {
    past p = past_of(end_of(on));
    join(p, the_world().host);
    for (const position& before : next.after) {
        join(p, past_of(before));
    }
    p[on->number] = on->enqueued + 1;
    return std::make_shared<const past>(std::move(p));
}

// The default stream and blocking streams wait for each other.
void add_default_stream_order(const std::shared_ptr<stream>& to, task& work) {
    const auto& default_stream = the_world().default_stream;
    if (to == default_stream) {
        for (const auto& [handle, other] : streams()) {
            if (other->blocking) {
                work.after.push_back(end_of(other));
            }
        }
    } else if (to->blocking) {
        work.after.push_back(end_of(default_stream));
    }
}

// The next one of a stream; what it comes after has been done.
void run(stream& on, const task& work) {
    const std::uint64_t number = on.finished + 1;
    if (sticky_error() == 0 || work.always) {
        races::begin_task(on.number, number, on.pasts[number - 1]);
        try {
            work.run();
        } catch (const std::exception& e) {  // a kernel that went wrong
            violation(e.what());
            set_sticky_error(cudaErrorLaunchFailure);
        }
        races::end_task();
    }
    on.finished = number;
}

void run_next(stream& on) {
    const task next = std::move(on.pending.front());
    on.pending.pop_front();
    for (const position& before : next.after) {
        run_until(before);
    }
    run(on, next);
}

bool is_default_stream(const void* handle) {
    return handle == nullptr || handle == cudaStreamLegacy;
}

}  // namespace

std::shared_ptr<stream> find_stream(const std::string& function, const void* handle) {
    if (is_default_stream(handle)) {
        return the_world().default_stream;
    }
    const auto* found = streams().find(handle);
    if (found == nullptr) {
        violation(function + ": not a live stream");
        return nullptr;
    }
    return *found;
}

void* add_stream(bool blocking) {
    auto made = std::make_shared<stream>();
    made->blocking = blocking;
    made->device = current_device();
    return streams().add(std::move(made));
}

void remove_stream(const void* handle) {
    streams().remove(handle);
}

std::uint64_t new_stream_number() {
    static std::uint64_t last = 0;
    return ++last;
}

void wait_for_every_stream() {
    wait_for_all(the_world().default_stream);
    for (const auto& [handle, s] : streams()) {
        wait_for_all(s);
    }
}

void submit(const std::shared_ptr<stream>& to, task work) {
    add_default_stream_order(to, work);
    to->pasts.push_back(next_past(to, work));
    to->pending.push_back(std::move(work));
    ++to->enqueued;
    if (!control().deferred) {
        run_all(to);
    }
}

void run_until(const position& until) {
    if (until.on->finished >= until.tasks) {
        return;
    }
    const memory_access access;
    while (until.on->finished < until.tasks) {
        run_next(*until.on);
    }
}

void run_all(const std::shared_ptr<stream>& on) {
    run_until(end_of(on));
}

void wait_until(const position& until) {
    run_until(until);
    join(the_world().host, past_of(until));
}

void wait_for_all(const std::shared_ptr<stream>& on) {
    wait_until(end_of(on));
}

void drop_pending(stream& on) {
    const memory_access access;
    while (!on.pending.empty()) {
        const task next = std::move(on.pending.front());
        on.pending.pop_front();
        if (next.always) {
            run(on, next);
        } else {
            ++on.finished;
        }
    }
}

void drop_every_stream() {
    drop_pending(*the_world().default_stream);
    for (const auto& [handle, s] : streams()) {
        drop_pending(*s);
    }
}

int& current_device() {
    thread_local int device = 0;
    return device;
}

// ---- Handles and calls

void* new_handle() {
    static std::atomic<std::uintptr_t> last{0x10000};
    return reinterpret_cast<void*>(last += 16);
}

void at_reset(std::function<void()> clear) {
    the_world().at_reset.push_back(std::move(clear));
}

int sticky_error() {
    return the_world().sticky_error;
}

void set_sticky_error(int code) {
    the_world().sticky_error = code;
}

namespace {

std::string without_version(std::string name) {
    if (name.ends_with("_v2")) {
        name.resize(name.size() - 3);
    }
    return name;
}

}  // namespace

entry::entry(const char* function, needs what) : lock_(the_world().lock), function_(without_version(function)) {
    const bool injected = inject();
    if (what != needs::nothing && !control().driver) {
        refuse(refusal::no_driver, cudaErrorInsufficientDriver);
    } else if (what == needs::device && control().devices == 0) {
        refuse(refusal::no_device, cudaErrorNoDevice);
    } else if (what != needs::nothing && sticky_error() != 0) {
        refuse(refusal::sticky, sticky_error());
    } else if (injected) {
        const fault& planned = control().faults.at(function_);
        refuse(refusal::injected, planned.code);
        if (planned.sticky) {
            set_sticky_error(planned.code);
        }
    }
}

void entry::refuse(refusal why, int code) {
    why_ = why;
    code_ = code;
}

bool entry::inject() {
    const int nth = ++control().calls[function_];
    const auto planned = control().faults.find(function_);
    return planned != control().faults.end() && (planned->second.nth == 0 || planned->second.nth == nth);
}

}  // namespace detail

// ---- What a test sees

state& control() {
    static state s;
    return s;
}

void reset() {
    detail::world& w = detail::the_world();
    const std::lock_guard lock(w.lock);
    for (const auto& [handle, on] : detail::streams()) {
        on->pending.clear();  // tasks refer to other streams, which refer back
    }
    w.default_stream->pending.clear();
    detail::streams().clear();
    w.default_stream = std::make_shared<detail::stream>();
    w.heap.release_all();
    w.host.clear();
    w.sticky_error = 0;
    for (const auto& clear : w.at_reset) {
        clear();
    }
    detail::current_device() = 0;
    control() = state{};
}

bool quiescent() {
    return report().empty();
}

std::string report() {
    const std::lock_guard lock(detail::the_world().lock);
    const live_objects& live = control().live;
    const std::pair<const char*, int> counts[] = {{"streams", live.streams},
                                                  {"events", live.events},
                                                  {"pools", live.pools},
                                                  {"buffers", live.buffers},
                                                  {"host buffers", live.host_buffers},
                                                  {"cuBLAS handles", live.blas},
                                                  {"cuSOLVER handles", live.solvers},
                                                  {"params", live.params},
                                                  {"gesvdj infos", live.gesvdj_infos},
                                                  {"syevj infos", live.syevj_infos}};
    std::string text;
    for (const auto& [name, count] : counts) {
        if (count != 0) {
            text += std::to_string(count) + " " + name + " alive\n";
        }
    }
    if (!detail::the_world().default_stream->pending.empty()) {
        text += "work is pending on the default stream\n";
    }
    for (const std::string& v : control().violations) {
        text += v + "\n";
    }
    return text;
}

void violation(std::string text) {
    control().violations.push_back(std::move(text));
}

void enqueue(void* stream, std::function<void()> work) {
    const std::lock_guard lock(detail::the_world().lock);
    const auto on = detail::find_stream("enqueue", stream);
    if (on != nullptr) {
        detail::submit(on, {std::move(work), {}, false});
    }
}

}  // namespace stand_in
