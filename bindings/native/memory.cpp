// SPDX-License-Identifier: Apache-2.0
/// \file
/// Memory of Python callers: dispatch by the kind of object, and checks of shape, dtype and strides.
#include "layout.hpp"

#include <algorithm>

namespace isic::python {

std::string type_name_of(py::handle object) {
    return py::str(py::type::of(object).attr("__module__")).cast<std::string>() + "." +
           py::str(py::type::of(object).attr("__qualname__")).cast<std::string>();
}

py::object loaded_torch() {
    const py::dict modules = py::module_::import("sys").attr("modules");
    return modules.contains("torch") ? modules["torch"].cast<py::object>() : py::none();
}

bool is_torch_tensor(py::handle object) {
    const py::object torch = loaded_torch();
    return !torch.is_none() && py::hasattr(torch, "Tensor") && py::isinstance(object, torch.attr("Tensor"));
}

index_t row_stride(std::string_view function, std::string_view name, const layout& m) {
    const index_t rows = m.shape[0], cols = m.shape[1];
    const bool adjacent = cols <= 1 || m.strides[1] == 1;
    const index_t stride = rows > 1 ? m.strides[0] : cols;
    if (rows > 0 && cols > 0 && (!adjacent || stride < cols)) {
        fail<shape_error>(function, fmt::format("{} whose rows are adjacent values and do not overlap", name),
                          fmt::format("strides ({}, {}) of shape ({}, {}); {}", m.strides[0], m.strides[1], rows, cols,
                                      contiguous_copy));
    }
    return std::max(stride, cols);
}

memory checked(std::string_view function, std::string_view name, const layout& m, access how) {
    if (m.shape.size() != 2) {
        fail<shape_error>(
            function, fmt::format("{} of two dimensions", name),
            fmt::format("shape [{}]; pass its slices one at a time, or reshape(-1, width)", fmt::join(m.shape, ", ")));
    }
    if (!m.type) {
        fail<value_error>(function, fmt::format("{} of float32, float64, float16 or bfloat16", name),
                          fmt::format("{}; convert it first, e.g. to float32", m.type_name));
    }
    if (how == access::edit && !m.writable) {
        fail<value_error>(function, fmt::format("writable memory in {}", name),
                          "read-only memory; edit a copy and assign it to the model");
    }
    memory out;
    out.type = *m.type;
    out.data = m.data;
    out.rows = m.shape[0];
    out.cols = m.shape[1];
    out.stride = row_stride(function, name, m);
    return out;
}

void fail_type(std::string_view function, std::string_view name, py::handle object, std::string how) {
    if (py::hasattr(object, "weight")) {
        how = "pass its .weight";
    } else if (py::hasattr(object, "basis")) {
        how = "pass its .basis";
    }
    throw py::type_error(in_python_words(fmt::format("isic::{}: expected {} as an array or a tensor, got {}; {}",
                                                     function, name, type_name_of(object), how)));
}

void memory::note_edit() const {
    if (tensor && !tensor.is_none() && !tensor.attr("is_inference")().cast<bool>()) {
        const py::object graph = loaded_torch().attr("autograd").attr("graph");
        if (py::hasattr(graph, "increment_version")) {
            graph.attr("increment_version")(tensor);
        }
    }
}

memory memory_of(std::string_view function, std::string_view name, py::handle object, access how) {
    require_changeable(function, name, object, how);
    if (py::isinstance<py::array>(object)) {
        return memory_of_array(function, name, py::reinterpret_borrow<py::array>(object), how);
    }
    if (is_torch_tensor(object)) {
        const py::object values = object.attr("detach")();  // the same memory; autograd forbids the export
        memory out = memory_of_dlpack(function, name, values, how);
        out.tensor = py::reinterpret_borrow<py::object>(object);
        return out;
    }
    if (py::hasattr(object, "__dlpack__")) {
        return memory_of_dlpack(function, name, object, how);
    }
    if (py::hasattr(object, "__cuda_array_interface__")) {
        fail<backend_error>(function, fmt::format("{} in memory of the CPU", name),
                            "memory of a GPU; pass a copy on the CPU, or use isic.cuda");
    }
    if (PyObject_CheckBuffer(object.ptr()) != 0) {
        return memory_of_array(function, name, py::module_::import("numpy").attr("asarray")(object).cast<py::array>(),
                               how);
    }
    fail_type(function, name, object);
}

}  // namespace isic::python
