// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <deque>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include <pybind11/stl/filesystem.h>

#include <isic/io/edit.hpp>
#include <isic/io/patch.hpp>
#include <isic/io/safetensors.hpp>

#include "layout.hpp"
#include "module.hpp"
#include "values.hpp"

namespace isic::python {
namespace {

struct numpy_name {
    const char* name;
    dtype type;
    const char* package = "numpy";  // registers it with numpy
};

constexpr numpy_name numpy_names[] = {
    {"bool", dtype::boolean},
    {"uint8", dtype::u8},
    {"int8", dtype::i8},
    {"uint16", dtype::u16},
    {"int16", dtype::i16},
    {"uint32", dtype::u32},
    {"int32", dtype::i32},
    {"uint64", dtype::u64},
    {"int64", dtype::i64},
    {"float16", dtype::f16},
    {"float32", dtype::f32},
    {"float64", dtype::f64},
    {"complex64", dtype::c64},
    {"bfloat16", dtype::bf16, "ml_dtypes"},
    {"float8_e4m3fn", dtype::f8_e4m3, "ml_dtypes"},
    {"float8_e5m2", dtype::f8_e5m2, "ml_dtypes"},
    {"float8_e8m0fnu", dtype::f8_e8m0, "ml_dtypes"},
    {"float8_e4m3fnuz", dtype::f8_e4m3fnuz, "ml_dtypes"},
    {"float8_e5m2fnuz", dtype::f8_e5m2fnuz, "ml_dtypes"},
};

py::dtype numpy_type(dtype type) {
    const auto known = std::ranges::find(numpy_names, type, &numpy_name::type);
    if (known == std::end(numpy_names)) {
        throw value_error(fmt::format("isic::read_safetensors: expected tensors of a numpy dtype, got {}",
                                      detail::entry_of(type).safetensors));
    }
    try {
        py::module_::import(known->package);
    } catch (const py::error_already_set& e) {
        if (!e.matches(PyExc_ImportError)) {
            throw;
        }
        throw value_error(
            fmt::format("isic::read_safetensors: expected {0} for a {1} tensor, got no such package; pip install {0}",
                        known->package, known->name));
    }
    return py::dtype(known->name);
}

py::array array_of_tensor(tensor t) {
    const py::dtype type = numpy_type(t.type);
    auto* kept = new tensor(std::move(t));
    const py::capsule free(kept, [](void* p) { delete static_cast<tensor*>(p); });
    return py::array(type, std::vector<py::ssize_t>(kept->shape.begin(), kept->shape.end()), kept->bytes.data(), free);
}

/// The entry of a type name, or the end.
const numpy_name* find_type(std::string_view name) {
    return std::ranges::find(numpy_names, name, [](const numpy_name& n) { return std::string_view(n.name); });
}

/// The dtype name of a torch tensor, and the tensor for numpy: viewed as integers if numpy lacks the type.
std::pair<std::string, py::object> plain_tensor(py::object t) {
    t = t.attr("detach")();
    const std::string name = py::str(t.attr("dtype")).cast<std::string>().substr(std::string_view("torch.").size());
    if (const numpy_name* const known = find_type(name);
        known != std::end(numpy_names) && std::string_view(known->package) != "numpy") {
        t = t.attr("contiguous")().attr("view")(
            loaded_torch().attr(t.attr("element_size")().cast<int>() == 2 ? "int16" : "uint8"));
    }
    return {name, t};
}

tensor tensor_of_array(const std::string& name, py::handle object) {
    std::string type_name;
    py::object values = py::reinterpret_borrow<py::object>(object);
    if (is_torch_tensor(object)) {
        require_cpu("write_safetensors", fmt::format("'{}'", name), object);
        std::tie(type_name, values) = plain_tensor(values);
    }
    const py::array a = py::module_::import("numpy").attr("asarray")(values, "order"_a = "C").cast<py::array>();
    if (type_name.empty()) {
        type_name = py::str(a.dtype().attr("name")).cast<std::string>();
    }
    const numpy_name* const known = find_type(type_name);
    if (known != std::end(numpy_names) && a.dtype().attr("isnative").cast<bool>()) {
        const auto* bytes = static_cast<const std::byte*>(a.data());
        return {known->type, {a.shape(), a.shape() + a.ndim()}, {bytes, bytes + a.nbytes()}};
    }
    throw value_error(fmt::format(
        "isic::write_safetensors: expected '{}' of bool, integers or floats in this machine's byte order, got {}", name,
        py::str(a.dtype()).cast<std::string>()));
}

py::tuple read(const std::filesystem::path& path) {
    tensor_file file = unlocked([&] { return read_safetensors(path); });
    py::dict tensors;
    for (auto& [name, t] : file.tensors) {
        tensors[py::str(name)] = array_of_tensor(std::move(t));
    }
    return py::make_tuple(tensors, file.metadata);
}

void write(const std::filesystem::path& path, const py::dict& tensors,
           const std::map<std::string, std::string>& metadata) {
    tensor_file file;
    file.metadata = metadata;
    for (const auto& [name, values] : tensors) {
        const auto key = name.cast<std::string>();
        file.tensors.emplace(key, tensor_of_array(key, values));
    }
    unlocked([&] {
        write_safetensors(path, file);
        return 0;
    });
}

py::tuple tensors_in(const std::filesystem::path& path) {
    const safetensors_layout found = unlocked([&] { return read_safetensors_layout(path); });
    py::dict tensors;
    for (const auto& [name, place] : found.tensors) {
        tensors[py::str(name)] = py::make_tuple(detail::entry_of(place.type).safetensors,
                                                py::tuple(py::cast(place.shape)), place.offset, place.bytes);
    }
    return py::make_tuple(tensors, found.metadata);
}

/// A view of the bytes of an object. Make and destroy it with the GIL held.
class byte_buffer {
public:
    explicit byte_buffer(py::handle object) {
        if (PyObject_GetBuffer(object.ptr(), &buffer_, PyBUF_SIMPLE) != 0) {
            throw py::error_already_set();
        }
    }
    ~byte_buffer() { PyBuffer_Release(&buffer_); }
    byte_buffer(const byte_buffer&) = delete;
    byte_buffer& operator=(const byte_buffer&) = delete;

    std::span<const std::byte> bytes() const {
        return {static_cast<const std::byte*>(buffer_.buf), static_cast<std::size_t>(buffer_.len)};
    }

private:
    Py_buffer buffer_{};
};

using patch_tuple = std::tuple<std::filesystem::path, index_t, py::object, py::object>;

std::string recover(const std::filesystem::path& journal) {
    return std::string(to_string(unlocked([&] { return recover_files(journal); })));
}

void patch(const std::filesystem::path& journal, const std::vector<patch_tuple>& patches) {
    std::deque<byte_buffer> buffers;
    std::vector<file_patch> out;
    for (const auto& [file, offset, before, after] : patches) {
        const auto old_bytes = buffers.emplace_back(before).bytes();
        out.push_back({file, offset, old_bytes, buffers.emplace_back(after).bytes()});
    }
    unlocked([&] {
        patch_files(journal, out);
        return 0;
    });
}

}  // namespace

void bind_io(py::module_& m) {
    m.def(
        "save_edit",
        [](const std::filesystem::path& path, const edit& e) {
            unlocked([&] {
                save_edit(path, e);
                return 0;
            });
        },
        "path"_a, "edit"_a);
    m.def(
        "load_edit", [](const std::filesystem::path& path) { return unlocked([&] { return load_edit(path); }); },
        "path"_a);
    m.def("read_safetensors", &read, "path"_a);
    m.def("write_safetensors", &write, "path"_a, "tensors"_a, "metadata"_a);
    m.def("safetensors_layout", &tensors_in, "path"_a);
    m.def("patch_files", &patch, "journal"_a, "patches"_a);
    m.def("recover_files", &recover, "journal"_a);
    py::class_<detail::path_lock>(m, "PathLock")
        .def(py::init<std::filesystem::path>(), "path"_a)
        .def_property_readonly("held", &detail::path_lock::held)
        .def("release", &detail::path_lock::release);
}

}  // namespace isic::python
