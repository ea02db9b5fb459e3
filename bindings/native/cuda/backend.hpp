// SPDX-License-Identifier: Apache-2.0
/// \file
/// isic::cuda_backend, shared by Python threads.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>

#include <isic/cuda/backend.hpp>

#include "../memory.hpp"

namespace isic::python {

/// The cudaStream_t of a stream handle from Python; 0 and 1: the default stream, as in DLPack.
void* stream_of(std::uintptr_t handle);

/// A device allocator of two Python functions, allocate(bytes, stream) and release(memory, bytes, stream).
class python_allocator {
public:
    /// None: the backend's own pool. Errors: TypeError unless it is a pair of functions.
    explicit python_allocator(py::handle functions);
    ~python_allocator();
    python_allocator(const python_allocator&) = delete;
    python_allocator& operator=(const python_allocator&) = delete;

    device_allocator in_cpp();

private:
    struct functions {
        py::object allocate;
        py::object release;
    };
    std::unique_ptr<functions> functions_;
};

/// A device and a stream. Calls are serialised. On its own stream a call returns when its work is done; on a caller's
/// stream it returns as the C++ function does.
class gpu {
public:
    /// `owner` keeps a caller's stream alive while work may be queued on it.
    gpu(int device, std::optional<std::uintptr_t> stream, py::object owner, py::handle allocator);

    cuda_backend& backend() { return backend_; }
    const std::shared_ptr<cuda::detail::state>& state() const { return backend_.shared_state(); }
    int device() const { return backend_.device(); }
    bool own_stream() const { return own_stream_; }
    /// The stream's handle as DLPack numbers it: 1 for the default stream, never 0.
    std::uintptr_t stream() const;

    /// Calls f() without the GIL and returns what f returned.
    template <class F>
    auto run(F&& f) {
        const py::gil_scoped_release release;
        const std::lock_guard turn(busy_);
        if (!own_stream_) {
            return f();
        }
        try {
            auto out = f();
            backend_.synchronize();
            return out;
        } catch (...) {
            wait_quietly();  // queued work may use the caller's memory
            throw;
        }
    }

private:
    void wait_quietly() noexcept;

    bool own_stream_;
    std::shared_ptr<py::object> owner_;
    python_allocator allocator_;
    cuda_backend backend_;
    std::mutex busy_;
};

using shared_gpu = std::shared_ptr<gpu>;

}  // namespace isic::python
