#include <filesystem>
#include <map>
#include <string>

#include <pybind11/stl/filesystem.h>

#include <isic/edit_file.hpp>
#include <isic/io.hpp>

#include "module.hpp"
#include "values.hpp"

namespace isic::python {
namespace {

constexpr std::pair<const char*, dtype> numpy_names[] = {
    {"bool", dtype::boolean}, {"uint8", dtype::u8},   {"int8", dtype::i8},     {"uint16", dtype::u16},  {"int16", dtype::i16},
    {"uint32", dtype::u32},   {"int32", dtype::i32},  {"uint64", dtype::u64},  {"int64", dtype::i64},   {"float16", dtype::f16},
    {"bfloat16", dtype::bf16}, {"float32", dtype::f32}, {"float64", dtype::f64}};

/// numpy knows bfloat16 only where ml_dtypes is installed.
py::dtype numpy_type(dtype type) {
    if (type == dtype::bf16) {
        try {
            return py::dtype::from_args(py::module_::import("ml_dtypes").attr("bfloat16"));
        } catch (const py::error_already_set& e) {
            if (!e.matches(PyExc_ImportError)) {
                throw;
            }
            throw value_error("isic::read_safetensors: expected ml_dtypes for a bfloat16 tensor, got no such package; pip install ml_dtypes");
        }
    }
    for (const auto& [name, known] : numpy_names) {
        if (known == type) {
            return py::dtype(name);
        }
    }
    throw value_error("isic::read_safetensors: expected a type that numpy has, got another");
}

py::array array_of_tensor(tensor t) {
    const py::dtype type = numpy_type(t.type);
    auto* kept = new tensor(std::move(t));
    const py::capsule free(kept, [](void* p) { delete static_cast<tensor*>(p); });
    return py::array(type, std::vector<py::ssize_t>(kept->shape.begin(), kept->shape.end()), kept->bytes.data(), free);
}

tensor tensor_of_array(const std::string& name, py::handle object) {
    const py::module_ numpy = py::module_::import("numpy");
    const py::array a = numpy.attr("asarray")(object, "order"_a = "C").cast<py::array>();
    const auto type_name = py::str(a.dtype().attr("name")).cast<std::string>();
    for (const auto& [known, type] : numpy_names) {
        if (type_name == known && a.dtype().attr("isnative").cast<bool>()) {
            const auto* bytes = static_cast<const std::byte*>(a.data());
            return {type, {a.shape(), a.shape() + a.ndim()}, {bytes, bytes + a.nbytes()}};
        }
    }
    throw value_error(fmt::format("isic::write_safetensors: expected '{}' of bool, integers or floats, got {}", name, type_name));
}

py::tuple read(const std::filesystem::path& path) {
    tensor_file file = unlocked([&] { return read_safetensors(path); });
    py::dict tensors;
    for (auto& [name, t] : file.tensors) {
        tensors[py::str(name)] = array_of_tensor(std::move(t));
    }
    return py::make_tuple(tensors, file.metadata);
}

void write(const std::filesystem::path& path, const py::dict& tensors, const std::map<std::string, std::string>& metadata) {
    tensor_file file;
    file.metadata = metadata;
    for (const auto& [name, values] : tensors) {
        const auto key = name.cast<std::string>();
        file.tensors.emplace(key, tensor_of_array(key, values));
    }
    unlocked([&] { write_safetensors(path, file); return 0; });
}

}  // namespace

void bind_io(py::module_& m) {
    m.def("save_edit", [](const std::filesystem::path& path, const edit& e) { unlocked([&] { save_edit(path, e); return 0; }); }, "path"_a, "edit"_a);
    m.def("load_edit", [](const std::filesystem::path& path) { return unlocked([&] { return load_edit(path); }); }, "path"_a);
    m.def("read_safetensors", &read, "path"_a);
    m.def("write_safetensors", &write, "path"_a, "tensors"_a, "metadata"_a);
}

}  // namespace isic::python
