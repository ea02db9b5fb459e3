// SPDX-License-Identifier: Apache-2.0
/// \file
/// isic::cuda_backend as Python's threads share it.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>

#include <isic/cuda/backend.hpp>

#include "../memory.hpp"

namespace isic::python {

/// CUDA's number of a stream that Python hands over: 1 is the default stream, as in DLPack.
void* stream_of(std::uintptr_t handle);

/// What Python gives memory of a device by: a pair of functions, allocate(bytes, stream) and release(memory, bytes, stream).
class python_allocator {
public:
    /// None: none. Errors: TypeError for anything else than a pair of functions.
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

/// A device and a stream. Calls take turns; on a stream of its own they return when their work is done, so that Python need
/// not know about that stream. On a caller's stream they return as the C++ functions do.
class gpu {
public:
    /// `owner` keeps a caller's stream alive for as long as anything may be queued on it.
    gpu(int device, std::optional<std::uintptr_t> stream, py::object owner, py::handle allocator);

    cuda_backend& backend() { return backend_; }
    const std::shared_ptr<cuda::detail::state>& state() const { return backend_.shared_state(); }
    int device() const { return backend_.device(); }
    bool own_stream() const { return own_stream_; }
    /// As the protocols number streams: 1 for the default stream, never 0.
    std::uintptr_t stream() const;

    /// f() without the GIL.
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
            wait_quietly();  // what is queued may use the caller's memory
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
