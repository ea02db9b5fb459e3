// SPDX-License-Identifier: Apache-2.0
/// \file
/// numpy arrays as memory of isic.
#include "layout.hpp"

#include <optional>

namespace isic::python {
namespace {

/// The element type of a codebook; none for any other type.
std::optional<dtype> type_of_array(const py::dtype& type) {
    switch (type.kind()) {
        case 'f':
            switch (type.itemsize()) {
                case 2: return dtype::f16;
                case 4: return dtype::f32;
                case 8: return dtype::f64;
                default: return std::nullopt;
            }
        case 'V':
            return py::str(type.attr("name")).cast<std::string>() == "bfloat16" ? std::optional(dtype::bf16)
                                                                                : std::nullopt;
        default: return std::nullopt;
    }
}

}  // namespace

bool is_codebook_type(const py::dtype& type) {
    return type_of_array(type).has_value();
}

layout layout_of(std::string_view function, std::string_view name, const py::array& a) {
    const bool native = a.dtype().attr("isnative").cast<bool>();
    const auto size = a.itemsize();
    layout m;
    m.type_name = py::str(a.dtype()).cast<std::string>();
    m.type = native ? type_of_array(a.dtype()) : std::nullopt;
    m.integer_bits = native && a.dtype().kind() == 'i' ? static_cast<int>(8 * size) : 0;
    m.is_bool = a.dtype().kind() == 'b';
    m.writable = a.writeable();
    m.data = const_cast<void*>(a.data());
    for (py::ssize_t i = 0; i < a.ndim(); ++i) {
        m.shape.push_back(a.shape(i));
        m.strides.push_back(size > 0 ? a.strides(i) / size : 0);
        if ((m.type || m.integer_bits > 0 || m.is_bool) && a.shape(i) > 1 && a.strides(i) % size != 0) {
            fail<shape_error>(function, fmt::format("{} with strides of whole elements", name),
                              fmt::format("{} bytes between elements of {}; {}", a.strides(i), size, contiguous_copy));
        }
    }
    if (m.type && reinterpret_cast<std::uintptr_t>(m.data) % static_cast<std::uintptr_t>(size) != 0) {
        fail<shape_error>(function, fmt::format("aligned memory in {}", name),
                          fmt::format("memory off its alignment; {}", contiguous_copy));
    }
    return m;
}

memory memory_of_array(std::string_view function, std::string_view name, const py::array& a, access how) {
    memory out = checked(function, name, layout_of(function, name, a), how);
    out.owner = a;
    return out;
}

py::array host_array(std::string_view function, std::string_view name, py::handle object) {
    if (py::isinstance<py::array>(object)) {
        return py::reinterpret_borrow<py::array>(object);
    }
    require_cpu(function, name, object);
    py::object plain = py::reinterpret_borrow<py::object>(object);
    if (is_torch_tensor(object)) {
        plain = plain.attr("detach")();
        if (plain.attr("dtype").equal(loaded_torch().attr("bfloat16"))) {
            plain = plain.attr("float")();  // numpy has no bfloat16
        }
    }
    return py::module_::import("numpy").attr("asarray")(plain).cast<py::array>();
}

}  // namespace isic::python
