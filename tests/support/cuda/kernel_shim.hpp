// SPDX-License-Identifier: Apache-2.0
/// \file
/// Compiles untouched CUDA kernels as C++ and runs them on the CPU. To be included before them. The kernels of a file
/// belong into unnamed namespaces, or GCC says that their shared memory is a "section type conflict".
///
/// Every thread of a block is a fiber; blocks run one after another. Both orders are random (`kernel_shim::seed`). A
/// thread runs on until it must wait, so that a missing barrier shows as wrong results. What a device leaves undefined
/// is an error: a barrier that not every thread of the block reaches in the same place, and a warp function whose mask
/// names a lane that does not come to it.
#pragma once

#define ISIC_KERNEL_SHIM 1

#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <array>
#include <cfloat>
#include <climits>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <new>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <cuda_runtime_api.h>
#include <vector_functions.h>

#include "device.hpp"
#include "fields.hpp"
#include "races.hpp"

#if defined(__SANITIZE_ADDRESS__)
#define ISIC_SHIM_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ISIC_SHIM_ASAN 1
#endif
#endif
#ifdef ISIC_SHIM_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(__clang__)  // kernels have #pragma unroll; GCC needs -Wno-unknown-pragmas on the command line
#pragma clang diagnostic ignored "-Wpass-failed"
#endif

#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __constant__
#undef __forceinline__
#undef __launch_bounds__
#undef __grid_constant__
#define __global__
#define __device__
#define __host__
#define __shared__ static __attribute__((section("isic_shared")))  // one for all blocks: they run one after another
#define __constant__ static
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

/// Declares `T name` in shared memory, in a template: the section of a variable is forgotten there (GCC bug 41091).
#define ISIC_SHARED(T, name)                              \
    static ::kernel_shim::shared_variable<T> name##_kept; \
    T& name = name##_kept.value()

/// Declares `T* name`, the dynamic shared memory of the block.
#define ISIC_DYN_SHARED(T, name) T* const name = static_cast<T*>(::kernel_shim::current().shared_memory())

// Where the linker put all variables that are __shared__; null if there are none.
extern "C" char __start_isic_shared[] __attribute__((weak));
extern "C" char __stop_isic_shared[] __attribute__((weak));

namespace kernel_shim {

/// What the kernel did wrong.
class kernel_error : public std::logic_error {
public:
    using std::logic_error::logic_error;
};

inline constexpr int lanes = 32;
inline constexpr std::size_t stack_bytes = 128 * 1024;
inline constexpr std::size_t most_threads = 1024;

inline std::mt19937& random() {
    static thread_local std::mt19937 generator(12345);
    return generator;
}

/// Chooses the order in which blocks and threads run.
inline void seed(unsigned value) {
    random().seed(value);
}

inline std::size_t random_below(std::size_t n) {
    return random()() % n;
}

// ---- Shared memory

inline std::vector<std::pair<char*, std::size_t>>& shared_variables() {
    static thread_local std::vector<std::pair<char*, std::size_t>> all;
    return all;
}

// Filled with NaN, so that nothing of the last block is taken for this one's.
inline void poison(char* p, std::size_t bytes) {
    std::memset(p, 0xFF, bytes);
}

// Made by the first thread that comes by: the first block finds it empty.
template <class T>
class shared_variable {
public:
    shared_variable() {
        shared_variables().emplace_back(bytes_, sizeof(T));
        stand_in::races::add_shared(bytes_, sizeof(T));
    }
    T& value() { return reinterpret_cast<T&>(bytes_); }

private:
    alignas(T) char bytes_[sizeof(T)];
};

// ---- Fibers

// A stack that goes from one context to another tells AddressSanitizer.
class stack_switch {
public:
    void leave([[maybe_unused]] const void* stack, [[maybe_unused]] std::size_t bytes) {
#ifdef ISIC_SHIM_ASAN
        __sanitizer_start_switch_fiber(&fake_stack_, stack, bytes);
#endif
    }
    void arrive() {
#ifdef ISIC_SHIM_ASAN
        __sanitizer_finish_switch_fiber(fake_stack_, &from_stack_, &from_bytes_);
#endif
    }
    const void* from_stack() const { return from_stack_; }
    std::size_t from_bytes() const { return from_bytes_; }

private:
    [[maybe_unused]] void* fake_stack_ = nullptr;
    const void* from_stack_ = nullptr;
    std::size_t from_bytes_ = 0;
};

// Addresses for the stacks of one block; memory is used as far as the stacks are.
inline char* stack_of(std::size_t number) {
    static thread_local char* const all = [] {
        void* p = mmap(nullptr, most_threads * stack_bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) {
            throw std::bad_alloc();
        }
        return static_cast<char*>(p);
    }();
    return all + number * stack_bytes;
}

#ifdef __x86_64__
// Where a stack left off. swapcontext asks the kernel for the signal mask at every switch, which is most of the time.
struct context {
    void* top = nullptr;
};

/// Leaves one stack and goes on where the other left off, or begins there.
__attribute__((naked, noinline)) inline void switch_context(context*, context*) {
    asm volatile(
        "pushq %rbp\n pushq %rbx\n pushq %r12\n pushq %r13\n pushq %r14\n pushq %r15\n"
        "movq %rsp, (%rdi)\n"
        "movq (%rsi), %rsp\n"
        "popq %r15\n popq %r14\n popq %r13\n popq %r12\n popq %rbx\n popq %rbp\n"
        "ret\n");
}

inline void begin_context(context& c, char* stack, void (*function)()) {
    void** top = reinterpret_cast<void**>(stack + stack_bytes) - 2;  // aligned as after a call
    *top = reinterpret_cast<void*>(function);
    c.top = top - 6;  // saved registers
}
#else
using context = ucontext_t;

inline void switch_context(context* from, context* to) {
    swapcontext(from, to);
}

inline void begin_context(context& c, char* stack, void (*function)()) {
    getcontext(&c);
    c.uc_stack.ss_sp = stack;
    c.uc_stack.ss_size = stack_bytes;
    c.uc_link = nullptr;
    makecontext(&c, function, 0);
}
#endif

// Runs threads one after another; one that has to wait keeps its fiber.
struct fiber {
    kernel_shim::context context{};
    char* stack = nullptr;
    stack_switch switching;
};

// ---- Threads and blocks

enum class waits_for { nothing, barrier, warp };

// The one function of a warp that orders memory.
inline constexpr std::string_view warp_barrier = "__syncwarp";

// Where a function was called. Not std::source_location, which clang 14 does not have.
struct place {
    const char* file = "";
    int line = 0;
};

// Threads meet only in the same function at the same place of the source.
struct meeting {
    std::string_view function;
    place at;
    bool operator==(const meeting& other) const {
        return at.line == other.at.line && function == other.function && std::string_view(at.file) == other.at.file;
    }
    std::string text() const { return std::string(function) + " at " + at.file + ":" + std::to_string(at.line); }
};

struct thread {
    uint3 index{};
    int linear = 0;
    fiber* on = nullptr;
    bool done = false;
    waits_for waiting = waits_for::nothing;
    meeting at;
    bool predicate = false;
    unsigned mask = 0;
    int source = 0;  // the lane it reads
    std::uint64_t offered = 0;
    std::uint64_t received = 0;
    unsigned ballot = 0;  // of the lanes that met

    int lane() const { return linear % lanes; }
};

class block {
public:
    block(dim3 grid_dim, dim3 block_dim, std::size_t shared_bytes, std::function<void()> body);

    void run(uint3 index);

    thread& running() { return *running_; }
    dim3 grid() const { return grid_; }
    dim3 dim() const { return dim_; }
    uint3 index() const { return index_; }
    void* shared_memory() { return shared_.data(); }
    int passed_predicates() const { return passed_predicates_; }

    void wait_at_barrier(const meeting& at, bool predicate);
    void wait_in_warp(const meeting& at, unsigned mask);

private:
    void poison_shared_memory();
    void start_threads();
    thread* next_thread(bool fresh_only);
    void switch_to(thread& t);
    fiber& idle_fiber();
    static void make_fiber(fiber& f, char* stack);
    void resume(fiber& f);
    void pause();
    void run_threads();
    static void fiber_main();

    void release(thread& t);
    void complete_barrier();
    bool waits_with_me(const thread& other);
    void complete_warp(unsigned mask);
    void exchange(thread& reader, unsigned mask);
    thread& lane_of_running_warp(int lane);
    [[noreturn]] void stuck() const;

    dim3 grid_;
    dim3 dim_;
    uint3 index_{};
    std::function<void()> body_;
    std::vector<std::max_align_t> shared_;
    std::vector<thread> threads_;
    std::vector<thread*> fresh_;
    std::vector<thread*> ready_;
    std::vector<std::unique_ptr<fiber>> fibers_;
    std::vector<fiber*> idle_;
    fiber scheduler_;
    thread* running_ = nullptr;
    fiber* running_fiber_ = nullptr;
    std::exception_ptr error_;
    int alive_ = 0;
    int at_barrier_ = 0;
    int passed_predicates_ = 0;
};

inline block*& current_block() {
    static thread_local block* b = nullptr;
    return b;
}

inline block& current() {
    return *current_block();
}

inline block::block(dim3 grid_dim, dim3 block_dim, std::size_t shared_bytes, std::function<void()> body)
    : grid_(grid_dim),
      dim_(block_dim),
      body_(std::move(body)),
      shared_((shared_bytes + sizeof(std::max_align_t) - 1) / sizeof(std::max_align_t)),
      threads_(static_cast<std::size_t>(block_dim.x) * block_dim.y * block_dim.z) {}

inline void block::start_threads() {
    fresh_.clear();
    ready_.clear();
    for (std::size_t i = 0; i < threads_.size(); ++i) {
        thread& t = threads_[i];
        const auto linear = static_cast<unsigned>(i);
        t = thread{};
        t.index = {linear % dim_.x, linear / dim_.x % dim_.y, linear / (dim_.x * dim_.y)};
        t.linear = static_cast<int>(i);
        fresh_.push_back(&t);
    }
    alive_ = static_cast<int>(threads_.size());
    at_barrier_ = 0;
}

inline void block::poison_shared_memory() {
    if (!shared_.empty()) {
        poison(reinterpret_cast<char*>(shared_.data()), shared_.size() * sizeof(std::max_align_t));
    }
    if (char* const first = __start_isic_shared; first != nullptr) {
        poison(first, static_cast<std::size_t>(__stop_isic_shared - first));
    }
    for (const auto& [p, bytes] : shared_variables()) {
        poison(p, bytes);
    }
}

inline void block::run(uint3 index) {
    index_ = index;
    stand_in::races::end_block();
    poison_shared_memory();
    start_threads();
    stand_in::races::begin_block(threads_.size(), shared_.data(), shared_.size() * sizeof(std::max_align_t));
    while (thread* t = next_thread(false)) {
        switch_to(*t);
        fiber& f = t->on == nullptr ? idle_fiber() : *t->on;
        t->on = &f;
        resume(f);
        if (error_ != nullptr) {
            std::rethrow_exception(error_);
        }
    }
    if (alive_ != 0) {
        stuck();
    }
}

inline thread* take_at(std::vector<thread*>& from, std::size_t i) {
    thread* const taken = from[i];
    from[i] = from.back();
    from.pop_back();
    return taken;
}

/// Any thread that can go on; `fresh_only`: null if that is one that has a fiber already.
inline thread* block::next_thread(bool fresh_only) {
    const std::size_t choices = fresh_.size() + ready_.size();
    if (choices == 0) {
        return nullptr;
    }
    const std::size_t choice = random_below(choices);
    if (choice < fresh_.size()) {
        return take_at(fresh_, choice);
    }
    return fresh_only ? nullptr : take_at(ready_, choice - fresh_.size());
}

inline void block::switch_to(thread& t) {
    running_ = &t;
    stand_in::races::run_thread(t.linear);
}

inline fiber& block::idle_fiber() {
    if (!idle_.empty()) {
        fiber* const f = idle_.back();
        idle_.pop_back();
        return *f;
    }
    fibers_.push_back(std::make_unique<fiber>());
    make_fiber(*fibers_.back(), stack_of(fibers_.size() - 1));
    return *fibers_.back();
}

inline void block::make_fiber(fiber& f, char* stack) {
    f.stack = stack;
#ifdef ISIC_SHIM_ASAN
    __asan_unpoison_memory_region(f.stack, stack_bytes);  // the last fiber here may have left variables behind
#endif
    begin_context(f.context, f.stack, fiber_main);
}

inline void block::resume(fiber& f) {
    running_fiber_ = &f;
    scheduler_.switching.leave(f.stack, stack_bytes);
    switch_context(&scheduler_.context, &f.context);
    scheduler_.switching.arrive();
}

inline void block::pause() {
    fiber& f = *running_fiber_;
    f.switching.leave(f.switching.from_stack(), f.switching.from_bytes());
    switch_context(&f.context, &scheduler_.context);
    f.switching.arrive();
}

inline void block::fiber_main() {
    current().running_fiber_->switching.arrive();
    for (;;) {
        current().run_threads();
        current().idle_.push_back(current().running_fiber_);
        current().pause();
    }
}

// As many as can be run without waiting.
inline void block::run_threads() {
    do {
        running_->on = running_fiber_;
        try {
            body_();
        } catch (...) {
            error_ = std::current_exception();
            return;
        }
        running_->done = true;
        --alive_;
        thread* const next = next_thread(true);
        if (next == nullptr) {
            return;
        }
        switch_to(*next);
    } while (true);
}

inline void block::release(thread& t) {
    t.waiting = waits_for::nothing;
    ready_.push_back(&t);
}

inline void block::wait_at_barrier(const meeting& at, bool predicate) {
    thread& me = running();
    me.waiting = waits_for::barrier;
    me.at = at;
    me.predicate = predicate;
    if (++at_barrier_ == static_cast<int>(threads_.size())) {
        complete_barrier();
    }
    pause();
}

inline void block::complete_barrier() {
    at_barrier_ = 0;
    passed_predicates_ = 0;
    for (thread& t : threads_) {
        if (!(t.at == threads_.front().at)) {
            throw kernel_error("threads of a block wait at different barriers: " + t.at.text() + " and " +
                               threads_.front().at.text());
        }
        passed_predicates_ += t.predicate ? 1 : 0;
        release(t);
    }
    stand_in::races::pass_barrier();
}

inline thread& block::lane_of_running_warp(int lane) {
    const auto linear = static_cast<std::size_t>(running().linear / lanes * lanes + lane);
    if (linear >= threads_.size()) {
        throw kernel_error(running().at.text() + ": the mask names lanes that the block does not have");
    }
    return threads_[linear];
}

inline bool names(unsigned mask, int lane) {
    return (mask >> lane & 1u) != 0;
}

inline void block::wait_in_warp(const meeting& at, unsigned mask) {
    thread& me = running();
    me.waiting = waits_for::warp;
    me.at = at;
    me.mask = mask;
    if (!names(mask, me.lane())) {
        throw kernel_error(at.text() + ": the caller is not in its own mask");
    }
    for (int lane = 0; lane < lanes; ++lane) {
        if (names(mask, lane) && !waits_with_me(lane_of_running_warp(lane))) {
            return pause();
        }
    }
    complete_warp(mask);
    pause();
}

inline bool block::waits_with_me(const thread& other) {
    return other.waiting == waits_for::warp && other.mask == running().mask;
}

inline void block::complete_warp(unsigned mask) {
    for (int lane = 0; lane < lanes; ++lane) {
        if (names(mask, lane)) {
            exchange(lane_of_running_warp(lane), mask);
        }
    }
    if (running().at.function == warp_barrier) {
        stand_in::races::pass_sync(mask);
    }
    for (int lane = 0; lane < lanes; ++lane) {
        if (names(mask, lane)) {
            release(lane_of_running_warp(lane));
        }
    }
}

inline void block::exchange(thread& reader, unsigned mask) {
    if (!(reader.at == running().at)) {
        throw kernel_error("lanes of a warp wait in different places: " + reader.at.text() + " and " +
                           running().at.text());
    }
    if (!names(mask, reader.source)) {
        throw kernel_error(reader.at.text() + ": lane " + std::to_string(reader.lane()) + " reads lane " +
                           std::to_string(reader.source) + ", which is not in the mask");
    }
    reader.received = lane_of_running_warp(reader.source).offered;
    reader.ballot = 0;
    for (int lane = 0; lane < lanes; ++lane) {
        if (names(mask, lane) && lane_of_running_warp(lane).predicate) {
            reader.ballot |= 1u << lane;
        }
    }
}

// Nobody can go on.
inline void block::stuck() const {
    const auto in_warp = std::ranges::find(threads_, waits_for::warp, &thread::waiting);
    if (in_warp != threads_.end()) {
        throw kernel_error(in_warp->at.text() +
                           ": the mask names lanes that have exited, wait elsewhere or gave another mask");
    }
    const auto at_barrier = std::ranges::find(threads_, waits_for::barrier, &thread::waiting);
    throw kernel_error(at_barrier->at.text() + ": " +
                       std::to_string(threads_.size() - static_cast<std::size_t>(alive_)) + " of " +
                       std::to_string(threads_.size()) + " threads have exited");
}

// ---- Launching

inline uint3 block_index(std::uint64_t linear, dim3 grid) {
    return {static_cast<unsigned>(linear % grid.x), static_cast<unsigned>(linear / grid.x % grid.y),
            static_cast<unsigned>(linear / (std::uint64_t(grid.x) * grid.y))};
}

/// Runs `body` as every thread of a grid, at once. Throws kernel_error.
inline void run_grid(dim3 grid, dim3 dim, std::size_t shared_bytes, std::function<void()> body) {
    std::vector<std::uint64_t> order(std::uint64_t(grid.x) * grid.y * grid.z);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random());
    block b(grid, dim, shared_bytes, std::move(body));
    struct restore_block {
        block* previous;
        ~restore_block() { current_block() = previous; }
    } const restore{std::exchange(current_block(), &b)};
    for (const std::uint64_t linear : order) {
        b.run(block_index(linear, grid));
    }
}

/// Every pointer in it is null or of device memory.
template <class P>
bool is_right_argument(const P& argument) {
    if constexpr (std::is_pointer_v<P>) {
        const auto p = const_cast<const void*>(static_cast<const volatile void*>(argument));
        return p == nullptr || stand_in::detail::is_device_pointer("launch", "a pointer given to the kernel", p);
    } else if constexpr (std::is_aggregate_v<P> && !std::is_empty_v<P>) {
        return with_fields(argument, [](const auto&... fields) { return (is_right_argument(fields) && ...); });
    } else {
        return true;
    }
}

/// What `isic::cuda::launch` does in the shim. A kernel that goes wrong is a violation, and from then on an error.
template <class... P, class... A>
cudaError_t launch(void (*kernel)(P...), dim3 grid, dim3 dim, std::size_t shared_bytes, cudaStream_t stream,
                   A&&... args) {
    const auto address = reinterpret_cast<const void*>(kernel);
    const cudaError_t code = stand_in::detail::admit_launch(address, grid, dim, shared_bytes, stream);
    if (code != cudaSuccess) {
        return code;
    }
    std::tuple<P...> values(static_cast<P>(std::forward<A>(args))...);
    if (!std::apply([](const P&... value) { return (is_right_argument(value) && ...); }, values)) {
        return cudaErrorInvalidValue;
    }
    stand_in::enqueue(stream, [=] { run_grid(grid, dim, shared_bytes, [&] { std::apply(kernel, values); }); });
    return cudaSuccess;
}

// ---- What the built-in functions of a kernel are made of

template <class T>
T exchange(const meeting& at, unsigned mask, T value, int source) {
    static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= sizeof(std::uint64_t));
    thread& me = current().running();
    me.offered = 0;
    std::memcpy(&me.offered, &value, sizeof value);
    me.source = source;
    current().wait_in_warp(at, mask);
    std::memcpy(&value, &me.received, sizeof value);
    return value;
}

inline unsigned vote(const meeting& at, unsigned mask, bool predicate) {
    thread& me = current().running();
    me.predicate = predicate;
    me.source = me.lane();
    current().wait_in_warp(at, mask);
    return me.ballot;
}

inline int my_lane() {
    return current().running().lane();
}

// The first lane of my group of `width` lanes.
inline int group_of_mine(int width) {
    return my_lane() / width * width;
}

template <class To, class From>
To same_bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

template <class T, class... Allowed>
concept one_of = (std::same_as<T, Allowed> || ...);

template <class T>
concept atomic_integer = one_of<T, int, unsigned, unsigned long long>;

}  // namespace kernel_shim

// ---- The names that kernels use

#define threadIdx (::kernel_shim::current().running().index)
#define blockIdx (::kernel_shim::current().index())
#define blockDim (::kernel_shim::current().dim())
#define gridDim (::kernel_shim::current().grid())
#define ISIC_SHIM_CALLER {__builtin_FILE(), __builtin_LINE()}
inline constexpr int warpSize = kernel_shim::lanes;

inline void __syncthreads(kernel_shim::place at = ISIC_SHIM_CALLER) {
    kernel_shim::current().wait_at_barrier({"__syncthreads", at}, false);
}
inline int __syncthreads_count(int predicate, kernel_shim::place at = ISIC_SHIM_CALLER) {
    kernel_shim::current().wait_at_barrier({"__syncthreads_count", at}, predicate != 0);
    return kernel_shim::current().passed_predicates();
}
inline int __syncthreads_or(int predicate, kernel_shim::place at = ISIC_SHIM_CALLER) {
    kernel_shim::current().wait_at_barrier({"__syncthreads_or", at}, predicate != 0);
    return kernel_shim::current().passed_predicates() != 0 ? 1 : 0;
}
inline int __syncthreads_and(int predicate, kernel_shim::place at = ISIC_SHIM_CALLER) {
    kernel_shim::current().wait_at_barrier({"__syncthreads_and", at}, predicate == 0);
    return kernel_shim::current().passed_predicates() == 0 ? 1 : 0;
}
inline void __syncwarp(unsigned mask = 0xffffffffu, kernel_shim::place at = ISIC_SHIM_CALLER) {
    kernel_shim::vote({kernel_shim::warp_barrier, at}, mask, false);
}

template <class T>
T __shfl_sync(unsigned mask, T value, int lane, int width = warpSize, kernel_shim::place at = ISIC_SHIM_CALLER) {
    const int source = kernel_shim::group_of_mine(width) + (lane & (width - 1));
    return kernel_shim::exchange({"__shfl_sync", at}, mask, value, source);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = warpSize,
                 kernel_shim::place at = ISIC_SHIM_CALLER) {
    const int me = kernel_shim::my_lane();
    const int source = me - static_cast<int>(delta);
    const bool there = source >= kernel_shim::group_of_mine(width);
    return kernel_shim::exchange({"__shfl_up_sync", at}, mask, value, there ? source : me);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = warpSize,
                   kernel_shim::place at = ISIC_SHIM_CALLER) {
    const int me = kernel_shim::my_lane();
    const int source = me + static_cast<int>(delta);
    const bool there = source < kernel_shim::group_of_mine(width) + width;
    return kernel_shim::exchange({"__shfl_down_sync", at}, mask, value, there ? source : me);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = warpSize, kernel_shim::place at = ISIC_SHIM_CALLER) {
    const int me = kernel_shim::my_lane();
    const int source = me ^ bits;
    const bool there = source < kernel_shim::group_of_mine(width) + width;
    return kernel_shim::exchange({"__shfl_xor_sync", at}, mask, value, there ? source : me);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, kernel_shim::place at = ISIC_SHIM_CALLER) {
    return kernel_shim::vote({"__ballot_sync", at}, mask, predicate != 0);
}
inline int __any_sync(unsigned mask, int predicate, kernel_shim::place at = ISIC_SHIM_CALLER) {
    return kernel_shim::vote({"__any_sync", at}, mask, predicate != 0) != 0 ? 1 : 0;
}
inline int __all_sync(unsigned mask, int predicate, kernel_shim::place at = ISIC_SHIM_CALLER) {
    return kernel_shim::vote({"__all_sync", at}, mask, predicate != 0) == mask ? 1 : 0;
}

inline void __threadfence() {}
inline void __threadfence_block() {}

// For the types that a device has them for; another thread never comes in between.
template <class T>
    requires kernel_shim::atomic_integer<T> || kernel_shim::one_of<T, float, double>
T atomicAdd(T* p, std::type_identity_t<T> value) {
    const stand_in::races::atomically all;
    return std::exchange(*p, static_cast<T>(*p + value));
}
template <class T>
    requires kernel_shim::atomic_integer<T> || kernel_shim::one_of<T, long long>
T atomicMin(T* p, std::type_identity_t<T> value) {
    const stand_in::races::atomically all;
    return std::exchange(*p, std::min(*p, value));
}
template <class T>
    requires kernel_shim::atomic_integer<T> || kernel_shim::one_of<T, long long>
T atomicMax(T* p, std::type_identity_t<T> value) {
    const stand_in::races::atomically all;
    return std::exchange(*p, std::max(*p, value));
}
template <class T>
    requires kernel_shim::atomic_integer<T> || kernel_shim::one_of<T, float>
T atomicExch(T* p, std::type_identity_t<T> value) {
    const stand_in::races::atomically all;
    return std::exchange(*p, value);
}
template <class T>
    requires kernel_shim::atomic_integer<T>
T atomicOr(T* p, std::type_identity_t<T> value) {
    const stand_in::races::atomically all;
    return std::exchange(*p, *p | value);
}
template <class T>
    requires kernel_shim::atomic_integer<T> || kernel_shim::one_of<T, unsigned short>
T atomicCAS(T* p, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
    const stand_in::races::atomically all;
    return std::exchange(*p, *p == expected ? value : *p);
}

template <class T>
T __ldg(const T* p) {
    return *p;
}

inline int __popc(unsigned x) {
    return __builtin_popcount(x);
}
inline int __popcll(unsigned long long x) {
    return __builtin_popcountll(x);
}
inline int __ffs(int x) {
    return __builtin_ffs(x);
}
inline int __ffsll(long long x) {
    return __builtin_ffsll(x);
}
inline int __clz(int x) {
    return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x));
}
inline int __clzll(long long x) {
    return x == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(x));
}

inline int __float_as_int(float x) {
    return kernel_shim::same_bits<int>(x);
}
inline unsigned __float_as_uint(float x) {
    return kernel_shim::same_bits<unsigned>(x);
}
inline float __int_as_float(int x) {
    return kernel_shim::same_bits<float>(x);
}
inline float __uint_as_float(unsigned x) {
    return kernel_shim::same_bits<float>(x);
}
inline long long __double_as_longlong(double x) {
    return kernel_shim::same_bits<long long>(x);
}
inline double __longlong_as_double(long long x) {
    return kernel_shim::same_bits<double>(x);
}

inline float rsqrtf(float x) {
    return 1 / std::sqrt(x);
}
inline double rsqrt(double x) {
    return 1 / std::sqrt(x);
}
inline float __fmaf_rn(float x, float y, float z) {
    return std::fma(x, y, z);
}
inline double __fma_rn(double x, double y, double z) {
    return std::fma(x, y, z);
}
inline float __fadd_rn(float x, float y) {
    return x + y;
}
inline float __fsub_rn(float x, float y) {
    return x - y;
}
inline float __fmul_rn(float x, float y) {
    return x * y;
}
inline float __fsqrt_rn(float x) {
    return std::sqrt(x);
}
inline double __dadd_rn(double x, double y) {
    return x + y;
}
inline double __dsub_rn(double x, double y) {
    return x - y;
}
inline double __dmul_rn(double x, double y) {
    return x * y;
}
inline double __dsqrt_rn(double x) {
    return std::sqrt(x);
}

template <class T>
    requires std::is_arithmetic_v<T>
T min(T x, std::type_identity_t<T> y) {
    return y < x ? y : x;
}
template <class T>
    requires std::is_arithmetic_v<T>
T max(T x, std::type_identity_t<T> y) {
    return x < y ? y : x;
}
