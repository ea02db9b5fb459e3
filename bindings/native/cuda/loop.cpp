// SPDX-License-Identifier: Apache-2.0
#include <isic/cuda/loop.hpp>

#include "../values.hpp"
#include "device_memory.hpp"
#include "module.hpp"

namespace isic::python {
namespace {

/// cuda::detail::codebook_mirror and the host copy that it reads.
class mirror_on_device {
public:
    mirror_on_device(const shared_gpu& on, py::handle device, py::handle host)
        : on_(on), host_(memory_of(function, "the host's codebook", host, access::edit)), mirror_(made(device)) {}

    void send(py::handle device) {
        const memory to = device_memory_of(*on_, function, "the codebook", device, access::edit);
        on_->run([&] {
            mirror_.send(span_of(to));
            return 0;
        });
        to.note_edit();
    }

private:
    static constexpr const char* function = "self_improve";

    cuda::detail::codebook_mirror made(py::handle device) const {
        const memory from = device_memory_of(*on_, function, "the codebook", device, access::read);
        return on_->run([&] { return cuda::detail::codebook_mirror(on_->state(), view_of(from), host_.span()); });
    }

    shared_gpu on_;
    memory host_;
    cuda::detail::codebook_mirror mirror_;
};

}  // namespace

/// CodebookMirror(gpu, device, host) downloads; send(device) uploads the host's codebook if its bytes have changed.
void bind_device_loop(py::module_& m) {
    py::class_<mirror_on_device>(m, "CodebookMirror")
        .def(py::init<const shared_gpu&, py::handle, py::handle>(), "gpu"_a, "device"_a, "host"_a)
        .def("send", &mirror_on_device::send, "device"_a);
}

}  // namespace isic::python
