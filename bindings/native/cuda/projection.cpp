// SPDX-License-Identifier: Apache-2.0
#include <isic/cuda/projection.hpp>

#include "../options.hpp"
#include "device_memory.hpp"
#include "module.hpp"

namespace isic::python {
namespace {

struct edit_on_device {
    shared_gpu on;
    device_edit edit;
};

/// Whether an object is in memory of a device.
bool on_a_device(py::handle object) {
    if (py::hasattr(object, "__dlpack_device__")) {
        return !is_host(dlpack_device(object).first);
    }
    return py::hasattr(object, "__cuda_array_interface__");
}

edit_on_device python_project_out(const shared_gpu& on, py::handle codes, py::handle removed, py::kwargs options) {
    constexpr std::string_view f = "project_out";
    const memory book = device_memory_of(*on, f, "codes", codes, access::edit);
    const subspace s = subspace_of(f, "subspace", removed);
    device_projection_options more;
    more.can_undo = option_of<bool>("project_out", "can_undo", options["can_undo"]);
    memory target;
    if (on_a_device(options["target"])) {
        target = device_memory_of(*on, f, "target", options["target"], access::read);
        require<value_error>(target.type == dtype::f64, f, "a target of float64 on the device",
                             element_of(target.type).name);
        more.target = {static_cast<const double*>(target.data), target.rows, target.cols, target.stride};
        options["target"] = py::none();
    }
    const options_holder how(f, options);
    device_edit done = with_device_span(
        book, [&](auto span) { return on->run([&] { return project_out(on->backend(), span, s, how.get(), more); }); });
    book.note_edit();
    return {on, std::move(done)};
}

edit_on_device python_remap(const shared_gpu& on, py::handle codes, const py::kwargs& options) {
    const memory book = device_memory_of(*on, "remap", "codes", codes, access::edit);
    const options_holder how("remap", options);
    device_edit done = with_device_span(
        book, [&](auto span) { return on->run([&] { return remap(on->backend(), span, how.get()); }); });
    book.note_edit();
    return {on, std::move(done)};
}

void undo(const edit_on_device& self, py::handle codes) {
    const memory book = device_memory_of(*self.on, "device_edit::undo", "codes", codes, access::edit);
    with_device_span(book, [&](auto span) {
        return self.on->run([&] {
            self.edit.undo(span);
            return 0;
        });
    });
    book.note_edit();
}

}  // namespace

void bind_device_projection(py::module_& m) {
    py::class_<edit_on_device>(m, "Edit")
        .def("undo", &undo, "codes"_a)
        .def("ids",
             [](const edit_on_device& e) {
                 return array_of(std::vector<std::int64_t>(e.edit.ids().begin(), e.edit.ids().end()));
             })
        .def("summary", [](const edit_on_device& e) { return object_of(e.edit.summary()); })
        .def_property_readonly("can_undo", [](const edit_on_device& e) { return e.edit.can_undo(); });
    m.def("project_out", &python_project_out);
    m.def("remap", &python_remap);
}

}  // namespace isic::python
