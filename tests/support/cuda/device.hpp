// SPDX-License-Identifier: Apache-2.0
/// \file
/// What the parts of the stand-in share: memory, streams, and the checks at the start of every call.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include <cuda_runtime_api.h>

#include "races.hpp"
#include "stand_in.hpp"

namespace stand_in::detail {

using index_t = std::int64_t;

// ---- Memory

enum class memory_kind { device, pinned };

struct allocation {
    char* pages = nullptr;
    std::size_t page_bytes = 0;
    char* data = nullptr;
    std::size_t bytes = 0;
    memory_kind kind = memory_kind::device;
    int device = 0;
    bool freed = false;  // in stream order: using it is wrong although the memory may still be there
};

/// Allocations end at a guard page, and their addresses are never used again.
class memory {
public:
    memory();

    /// Null if the addresses have run out.
    void* allocate(std::size_t bytes, memory_kind kind, int device);
    void release(const void* data);
    void release_all();

    /// The allocation that p points into or at the end of.
    allocation* find(const void* p);

    /// Addresses that are, were or will be this memory's.
    const char* first_address() const { return region_; }
    static constexpr std::size_t addresses = std::size_t(64) << 30;

    /// Device memory is accessible between these two.
    void open();
    void close();

private:
    void protect_device_memory(int protection);

    char* region_ = nullptr;
    std::size_t top_ = 0;
    std::map<std::uintptr_t, allocation> live_;
    int open_ = 0;
};

memory& heap();

/// A violation unless rows x cols values of `element` bytes, columns `ld` apart, are inside one live allocation.
bool inside_allocation(const std::string& function, const std::string& argument, const void* p, index_t rows,
                       index_t cols, index_t ld, std::size_t element);

/// The same for a pointer about which nothing else is known.
bool is_device_pointer(const std::string& function, const std::string& argument, const void* p);

/// Column-major matrices in memory.
struct block_of_memory {
    const void* data = nullptr;
    index_t rows = 0;
    index_t cols = 0;
    index_t ld = 1;
    std::size_t element = 1;
};
bool overlap(const block_of_memory& a, const block_of_memory& b);

// ---- Streams

struct stream;

/// The first `tasks` tasks of a stream.
struct position {
    std::shared_ptr<stream> on;
    std::uint64_t tasks = 0;
};

struct task {
    std::function<void()> run;
    std::vector<position> after;
    bool always = false;  // done even when pending work is dropped: a free, an event
};

std::uint64_t new_stream_number();

struct stream {
    std::uint64_t number = new_stream_number();
    std::deque<task> pending;
    std::vector<std::shared_ptr<const past>> pasts;  // of every task that was enqueued; each holds itself too
    std::uint64_t enqueued = 0;
    std::uint64_t finished = 0;
    bool blocking = true;  // ordered with the default stream
    int device = 0;
};

/// Null, and a violation, if there is no such stream.
std::shared_ptr<stream> find_stream(const std::string& function, const void* handle);

void* add_stream(bool blocking);
void remove_stream(const void* handle);

void submit(const std::shared_ptr<stream>& to, task work);
void run_until(const position& until);
void run_all(const std::shared_ptr<stream>& on);

/// The same for a host that waits: what it does from then on comes after.
void wait_until(const position& until);
void wait_for_all(const std::shared_ptr<stream>& on);
void wait_for_every_stream();
void drop_pending(stream& on);
void drop_every_stream();

/// The device of the calling thread.
int& current_device();

// ---- Handles

/// An address that nothing can be read from and that is never used again.
void* new_handle();

template <class T>
class registry {
public:
    void* add(T object) {
        void* handle = new_handle();
        objects_.emplace(handle, std::move(object));
        return handle;
    }
    T* find(const void* handle) {
        const auto found = objects_.find(const_cast<void*>(handle));
        return found == objects_.end() ? nullptr : &found->second;
    }
    bool remove(const void* handle) { return objects_.erase(const_cast<void*>(handle)) != 0; }
    void clear() { objects_.clear(); }
    auto begin() { return objects_.begin(); }
    auto end() { return objects_.end(); }

private:
    std::map<void*, T> objects_;
};

/// `clear` runs at every reset.
void at_reset(std::function<void()> clear);

// ---- Calls

enum class needs { nothing, driver, device };
enum class refusal { none, no_driver, no_device, sticky, injected };

/// Counts a call, and says whether it is to fail.
class entry {
public:
    entry(const char* function, needs what);

    const std::string& function() const { return function_; }
    refusal why() const { return why_; }
    int code() const { return code_; }

private:
    void refuse(refusal why, int code);
    bool inject();

    std::unique_lock<std::recursive_mutex> lock_;
    std::string function_;
    refusal why_ = refusal::none;
    int code_ = 0;
};

/// The error that every call returns from now on; 0: none.
int sticky_error();
void set_sticky_error(int code);

/// cudaSuccess if a kernel may be launched like this; counted as "launch".
cudaError_t admit_launch(const void* kernel, dim3 grid, dim3 block, std::size_t shared_bytes, cudaStream_t stream);

struct library_handle {
    void* stream = nullptr;
    int device = 0;
};

/// A call of cuBLAS or cuSOLVER: the first check that fails decides what it returns.
template <class Status, Status NotInitialized, Status InvalidValue, Status ExecutionFailed>
class library_call {
public:
    explicit library_call(const char* function, needs what = needs::device) : entry_(function, what) {
        switch (entry_.why()) {
            case refusal::none: break;
            case refusal::no_driver:
            case refusal::no_device: status_ = NotInitialized; break;
            case refusal::sticky: status_ = ExecutionFailed; break;
            case refusal::injected: status_ = static_cast<Status>(entry_.code()); break;
        }
    }

    const std::string& function() const { return entry_.function(); }
    bool ok() const { return status_ == Status{}; }
    Status status() const { return status_; }

    /// The handle must be live and belong to the current device.
    void use(const library_handle* handle) {
        if (!ok()) {
            return;
        }
        if (handle == nullptr) {
            return fail(NotInitialized, "the handle is not live");
        }
        if (handle->device != current_device()) {
            return fail(InvalidValue, "the handle belongs to another device than the current one");
        }
        stream_ = find_stream(function(), handle->stream);
        if (stream_ == nullptr) {
            status_ = ExecutionFailed;
        }
    }

    void require(bool holds, const std::string& what) {
        if (ok() && !holds) {
            fail(InvalidValue, "required: " + what);
        }
    }

    template <class T>
    void matrix(const char* argument, const T* p, index_t rows, index_t cols, index_t ld) {
        require(ld >= std::max<index_t>(1, rows), std::string("leading dimension of ") + argument + " >= rows");
        device(argument, p, rows, cols, ld, sizeof(T));
    }

    template <class T>
    void vector(const char* argument, const T* p, index_t count, index_t step = 1) {
        require(step >= 1, std::string("step of ") + argument + " >= 1");  // negative steps are not emulated
        device(argument, p, 1, count, step, sizeof(T));
    }

    void workspace(const char* argument, const void* p, std::size_t given, std::size_t needed) {
        require(given >= needed, std::string(argument) + " at least as large as was asked for (" +
                                     std::to_string(needed) + " bytes, got " + std::to_string(given) + ")");
        device(argument, p, static_cast<index_t>(given), 1, static_cast<index_t>(given), 1);
    }

    void disjoint(const char* arguments, const block_of_memory& a, const block_of_memory& b) {
        require(!overlap(a, b), std::string(arguments) + " do not overlap");
    }

    Status submit(std::function<void()> work) {
        if (ok()) {
            detail::submit(stream_, {std::move(work), {}, false});
        }
        return status_;
    }

    /// For results that are written to the host.
    Status submit_and_wait(std::function<void()> work) {
        submit(std::move(work));
        if (ok()) {
            wait_for_all(stream_);
        }
        return status_;
    }

private:
    void fail(Status status, const std::string& text) {
        violation(function() + ": " + text);
        status_ = status;
    }

    void device(const char* argument, const void* p, index_t rows, index_t cols, index_t ld, std::size_t element) {
        if (ok() && !inside_allocation(function(), argument, p, rows, cols, ld, element)) {
            status_ = ExecutionFailed;
        }
    }

    entry entry_;
    Status status_{};
    std::shared_ptr<stream> stream_;
};

/// Nobody may count on what a workspace holds.
void scribble(void* p, std::size_t bytes);

}  // namespace stand_in::detail
