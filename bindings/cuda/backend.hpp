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

/// A device and a stream. Calls take turns; on a stream of its own they return when their work is done, so that Python need
/// not know about that stream. On a caller's stream they return as the C++ functions do.
class gpu {
public:
    /// `owner` keeps a caller's stream alive for as long as anything may be queued on it.
    gpu(int device, std::optional<std::uintptr_t> stream, py::object owner);

    cuda_backend& backend() { return backend_; }
    const std::shared_ptr<cuda::state>& state() const { return backend_.shared_state(); }
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
    cuda_backend backend_;
    std::mutex busy_;
};

using shared_gpu = std::shared_ptr<gpu>;

}  // namespace isic::python
