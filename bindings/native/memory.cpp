#include "layout.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <optional>

namespace isic::python {
namespace {

std::optional<storage> storage_of(const py::dtype& type) {
    switch (type.kind()) {
        case 'f':
            switch (type.itemsize()) {
                case 2: return dtype::f16;
                case 4: return dtype::f32;
                case 8: return dtype::f64;
                default: return std::nullopt;
            }
        case 'V': return py::str(type.attr("name")).cast<std::string>() == "bfloat16" ? std::optional(dtype::bf16) : std::nullopt;
        default: return std::nullopt;
    }
}

/// A type of DLPack as numpy and torch call it.
std::string name_of_type(int code, int bits) {
    constexpr std::array<const char*, 7> names{"int", "uint", "float", nullptr, "bfloat", "complex", "bool"};
    if (code < 0 || code >= static_cast<int>(names.size()) || names[static_cast<std::size_t>(code)] == nullptr) {
        return fmt::format("DLPack type {} of {} bits", code, bits);
    }
    return code == dlpack::code_bool ? "bool" : fmt::format("{}{}", names[static_cast<std::size_t>(code)], bits);
}

layout layout_of_tensor(const dlpack::tensor& t) {
    layout m;
    m.data = static_cast<char*>(t.data) + t.byte_offset;
    m.type_name = name_of_type(t.code, t.bits);
    if (t.lanes == 1 && t.code == dlpack::code_float && (t.bits == 16 || t.bits == 32 || t.bits == 64)) {
        m.type = t.bits == 16 ? dtype::f16 : t.bits == 32 ? dtype::f32 : dtype::f64;
    } else if (t.lanes == 1 && t.code == dlpack::code_bfloat && t.bits == 16) {
        m.type = dtype::bf16;
    } else if (t.lanes == 1 && t.code == dlpack::code_int) {
        m.integer_bits = t.bits;
    } else if (t.lanes == 1 && t.code == dlpack::code_bool && t.bits == 8) {
        m.is_bool = true;
    }
    m.shape.assign(t.shape, t.shape + t.ndim);
    m.strides.assign(m.shape.size(), 1);
    for (std::size_t i = m.shape.size(); i-- > 0;) {
        m.strides[i] = t.strides != nullptr ? t.strides[i] : i + 1 < m.shape.size() ? m.strides[i + 1] * m.shape[i + 1] : 1;
    }
    return m;
}

/// Takes a capsule over, as the protocol asks: renames it, and calls the deleter when the result is destroyed.
template <class Managed>
py::capsule take_over(py::capsule& capsule, const char* used_name) {
    auto* held = static_cast<Managed*>(PyCapsule_GetPointer(capsule.ptr(), PyCapsule_GetName(capsule.ptr())));
    if (held == nullptr || PyCapsule_SetName(capsule.ptr(), used_name) != 0) {
        throw py::error_already_set();
    }
    return py::capsule(held, [](void* p) {
        if (auto* m = static_cast<Managed*>(p); m->deleter != nullptr) {
            m->deleter(m);
        }
    });
}

/// Newer producers take max_version and copy, older ones nothing; some take the one without the other.
py::capsule dlpack_capsule(py::handle object, const py::dict& always) {
    const py::object produce = object.attr("__dlpack__");
    const auto attempt = [&](const py::dict& more) -> std::optional<py::capsule> {
        try {
            return produce(**always, **more).cast<py::capsule>();
        } catch (py::error_already_set& e) {
            if (!e.matches(PyExc_TypeError)) {
                throw;
            }
            return std::nullopt;
        }
    };
    const py::tuple version = py::make_tuple(1, 1);
    if (auto newest = attempt(py::dict("max_version"_a = version, "copy"_a = false))) {
        return *newest;
    }
    if (auto newer = attempt(py::dict("max_version"_a = version))) {
        return *newer;
    }
    return produce(**always).cast<py::capsule>();
}

memory memory_of_array(std::string_view function, std::string_view name, const py::array& a, access how) {
    memory out = checked(function, name, layout_of(function, name, a), how);
    out.owner = a;
    return out;
}

memory memory_of_dlpack(std::string_view function, std::string_view name, py::handle object, access how) {
    try {
        require_cpu(function, name, object);
        const handed_over taken = take_dlpack(function, name, object, how);
        memory out = checked(function, name, taken.values, how);
        out.owner = taken.owner;
        return out;
    } catch (const py::error_already_set& e) {  // of the producer: memory that is not there, or sparse
        if (!e.matches(PyExc_Exception)) {
            throw;
        }
        detail::fail<value_error>(function, fmt::format("{} in memory that its library hands out", name),
                                  fmt::format("\"{}\" from it", py::str(e.value()).cast<std::string>()));
    }
}

/// Any array-like on the CPU as a numpy array; may copy.
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

/// Rows as float64, converted unless they are.
memory converted(std::string_view function, std::string_view name, py::handle object) {
    const auto values = numbers<double>(function, name, object, 2);
    memory out;
    out.data = const_cast<double*>(values.data());
    out.rows = values.shape(0);
    out.cols = out.stride = values.shape(1);
    out.owner = values;
    return out;
}

/// Rows that need no conversion; none of a dtype or a layout that isic cannot read.
std::optional<memory> as_it_lies(std::string_view function, std::string_view name, py::handle object) {
    if (!py::isinstance<py::array>(object) && !py::hasattr(object, "__dlpack__")) {
        return std::nullopt;
    }
    try {
        return memory_of(function, name, object, access::read);
    } catch (const shape_error&) {
        return std::nullopt;
    } catch (const value_error&) {
        return std::nullopt;
    }
}

}  // namespace

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

layout layout_of(std::string_view function, std::string_view name, const py::array& a) {
    const bool native = a.dtype().attr("isnative").cast<bool>();
    const auto size = a.itemsize();
    layout m;
    m.type_name = py::str(a.dtype()).cast<std::string>();
    m.type = native ? storage_of(a.dtype()) : std::nullopt;
    m.integer_bits = native && a.dtype().kind() == 'i' ? static_cast<int>(8 * size) : 0;
    m.is_bool = a.dtype().kind() == 'b';
    m.writable = a.writeable();
    m.data = const_cast<void*>(a.data());
    for (py::ssize_t i = 0; i < a.ndim(); ++i) {
        m.shape.push_back(a.shape(i));
        m.strides.push_back(size > 0 ? a.strides(i) / size : 0);
        if ((m.type || m.integer_bits > 0 || m.is_bool) && a.shape(i) > 1 && a.strides(i) % size != 0) {
            detail::fail<shape_error>(function, fmt::format("{} with strides of whole elements", name),
                                      fmt::format("{} bytes between elements of {}; {}", a.strides(i), size, contiguous_copy));
        }
    }
    if (m.type && reinterpret_cast<std::uintptr_t>(m.data) % static_cast<std::uintptr_t>(size) != 0) {
        detail::fail<shape_error>(function, fmt::format("aligned memory in {}", name), fmt::format("memory off its alignment; {}", contiguous_copy));
    }
    return m;
}

index_t row_stride(std::string_view function, std::string_view name, const layout& m) {
    const index_t rows = m.shape[0], cols = m.shape[1];
    const bool adjacent = cols <= 1 || m.strides[1] == 1;
    const index_t stride = rows > 1 ? m.strides[0] : cols;
    if (rows > 0 && cols > 0 && (!adjacent || stride < cols)) {
        detail::fail<shape_error>(function, fmt::format("{} whose rows are adjacent values and do not overlap", name),
                                  fmt::format("strides ({}, {}) of shape ({}, {}); {}", m.strides[0], m.strides[1], rows, cols, contiguous_copy));
    }
    return std::max(stride, cols);
}

memory checked(std::string_view function, std::string_view name, const layout& m, access how) {
    if (m.shape.size() != 2) {
        detail::fail<shape_error>(function, fmt::format("{} of two dimensions", name),
                                  fmt::format("shape [{}]; pass its slices one by one, or reshape(-1, width)", fmt::join(m.shape, ", ")));
    }
    if (!m.type) {
        detail::fail<value_error>(function, fmt::format("{} of float32, float64, float16 or bfloat16", name),
                                  fmt::format("{}; convert it first, e.g. to float32", m.type_name));
    }
    if (how == access::edit && !m.writable) {
        detail::fail<value_error>(function, fmt::format("writable memory in {}", name),
                                  "read-only memory; edit a copy of it and hand that back to your model");
    }
    memory out;
    out.type = *m.type;
    out.data = m.data;
    out.rows = m.shape[0];
    out.cols = m.shape[1];
    out.stride = row_stride(function, name, m);
    return out;
}

std::pair<std::int32_t, std::int32_t> dlpack_device(py::handle object) {
    const auto device = object.attr("__dlpack_device__")().cast<py::tuple>();
    return {py::int_(device[0]).cast<std::int32_t>(), py::int_(device[1]).cast<std::int32_t>()};
}

bool is_host(std::int32_t kind) {
    return kind == dlpack::cpu || kind == dlpack::cuda_host || kind == dlpack::rocm_host;
}

void require_cpu(std::string_view function, std::string_view name, py::handle object) {
    if (!py::hasattr(object, "__dlpack_device__")) {
        return;
    }
    if (const auto kind = dlpack_device(object).first; !is_host(kind)) {
        detail::fail<backend_error>(function, fmt::format("{} in memory of the CPU", name),
                                    fmt::format("memory of a device of DLPack type {}; pass a copy on the CPU (Tensor.cpu()), or give a "
                                                "codebook on a GPU to isic.cuda", kind));
    }
}

void require_changeable(std::string_view function, std::string_view name, py::handle object, access how) {
    if (how == access::edit && type_name_of(object).rfind("jax", 0) == 0) {  // says nothing of it in its capsules
        detail::fail<value_error>(function, fmt::format("writable memory in {}", name),
                                  "an array of jax, which nobody may change; edit a copy (numpy.array) and make a new one of that");
    }
}

handed_over take_dlpack(std::string_view function, std::string_view name, py::handle object, access how, const py::dict& arguments) {
    py::capsule capsule = dlpack_capsule(object, arguments);
    if (PyCapsule_IsValid(capsule.ptr(), "dltensor_versioned") != 0) {
        const py::capsule owner = take_over<dlpack::managed_versioned>(capsule, "used_dltensor_versioned");
        const auto* held = owner.get_pointer<dlpack::managed_versioned>();
        if (held->major != 1) {
            detail::fail<value_error>(function, "DLPack version 1", fmt::format("version {}.{}", held->major, held->minor));
        }
        layout m = layout_of_tensor(held->value);
        m.writable = (held->flags & dlpack::read_only) == 0;
        if (how == access::edit && (held->flags & dlpack::is_copied) != 0) {
            detail::fail<value_error>(function, fmt::format("the memory of {} itself", name), "a copy that its producer made");
        }
        return {std::move(m), owner};
    }
    if (PyCapsule_IsValid(capsule.ptr(), "dltensor") == 0) {
        detail::fail<value_error>(function, fmt::format("an unused DLPack capsule from {}", name), "another one");
    }
    const py::capsule owner = take_over<dlpack::managed>(capsule, "used_dltensor");
    return {layout_of_tensor(owner.get_pointer<dlpack::managed>()->value), owner};
}

void fail_type(std::string_view function, std::string_view name, py::handle object, std::string how) {
    if (py::hasattr(object, "weight")) {
        how = "pass its .weight";
    } else if (py::hasattr(object, "basis")) {
        how = "pass its .basis";
    }
    throw py::type_error(in_python_words(fmt::format("isic::{}: expected {} as an array or a tensor, got {}; {}", function, name,
                                                     type_name_of(object), how)));
}

namespace {

/// What was expected, with options named as the keywords that they are in Python; what was got is the caller's text.
std::string options_in_python_words(std::string rest) {
    constexpr std::array<std::pair<std::string_view, std::string_view>, 5> words{{{"rank.fixed", "rank"},
                                                                                  {"rank.", ""},
                                                                                  {"harmfulness.prior_per_code", "prior_per_code"},
                                                                                  {"options.rewrite", "rewrite"},
                                                                                  {"lambda ", "weight "}}};
    for (const auto& [there, here] : words) {
        if (const auto at = rest.find(there); at < rest.find(", got ")) {
            rest.replace(at, there.size(), here);
        }
    }
    return rest;
}

}  // namespace

std::string in_python_words(const std::string& message) {
    const auto end = message.find(": ");
    if (message.rfind("isic::", 0) != 0 || end == std::string::npos) {
        return message;
    }
    std::string name = message.substr(6, end - 6);
    const auto of_class = name.find("::");
    const std::string first = name.substr(0, of_class);
    std::string out;
    if (const auto known = class_names.find(first); known != class_names.end()) {
        out = known->second;
    } else if (of_class == std::string::npos) {
        out = first;
    } else {
        for (std::size_t i = 0; i < first.size(); ++i) {
            if (first[i] != '_') {
                const bool starts_word = i == 0 || first[i - 1] == '_';
                out += starts_word ? static_cast<char>(std::toupper(static_cast<unsigned char>(first[i]))) : first[i];
            }
        }
    }
    return std::string(python_package) + "." + out + (of_class == std::string::npos ? "" : "." + name.substr(of_class + 2)) +
           options_in_python_words(message.substr(end));
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
        const py::object values = object.attr("detach")();  // the same memory, without autograd, which refuses to export
        memory out = memory_of_dlpack(function, name, values, how);
        out.tensor = py::reinterpret_borrow<py::object>(object);
        return out;
    }
    if (py::hasattr(object, "__dlpack__")) {
        return memory_of_dlpack(function, name, object, how);
    }
    if (py::hasattr(object, "__cuda_array_interface__")) {
        detail::fail<backend_error>(function, fmt::format("{} in memory of the CPU", name),
                                    "memory of a GPU; pass a copy on the CPU, or give a codebook on a GPU to isic.cuda");
    }
    if (PyObject_CheckBuffer(object.ptr()) != 0) {
        return memory_of_array(function, name, py::module_::import("numpy").attr("asarray")(object).cast<py::array>(), how);
    }
    fail_type(function, name, object);
}

floats::floats(std::string_view function, std::string_view name, py::handle object) {
    auto found = as_it_lies(function, name, object);
    source_ = found ? *std::move(found) : converted(function, name, object);
}

doubles::doubles(std::string_view function, std::string_view name, py::handle object) {
    if (object.is_none()) {
        return;
    }
    auto found = as_it_lies(function, name, object);
    source_ = found && found->type == dtype::f64 ? *std::move(found) : converted(function, name, object);
}

template <class T>
adjacent_array<T> numbers(std::string_view function, std::string_view name, py::handle object, index_t dimensions) {
    const py::array a = host_array(function, name, object);
    const char kind = a.dtype().kind();
    const bool number = kind == 'f' || kind == 'i' || kind == 'u' || kind == 'b' || storage_of(a.dtype()).has_value();
    if (!number && a.size() > 0) {
        detail::fail<value_error>(function, fmt::format("real numbers in {}", name), py::str(a.dtype()).cast<std::string>());
    }
    if (a.ndim() != dimensions) {
        detail::fail<shape_error>(function, fmt::format("{} of {} dimension{}", name, dimensions, dimensions == 1 ? "" : "s"), fmt::format("{}", a.ndim()));
    }
    return py::module_::import("numpy").attr("require")(a, py::dtype::of<T>(), "CA").template cast<adjacent_array<T>>();
}
template adjacent_array<float> numbers(std::string_view, std::string_view, py::handle, index_t);
template adjacent_array<double> numbers(std::string_view, std::string_view, py::handle, index_t);

std::optional<double> number_in(py::handle object) {
    const bool number = py::hasattr(object, "ndim") ? object.attr("ndim").cast<int>() == 0 : PyNumber_Check(object.ptr()) != 0;
    return number ? std::optional(py::float_(py::reinterpret_borrow<py::object>(object)).cast<double>()) : std::nullopt;
}

void fail_kind(std::string_view function, std::string_view name, std::string_view kind, py::handle object) {
    throw py::type_error(in_python_words(fmt::format("isic::{}: expected {} to be {}, got {}", function, name, kind, type_name_of(object))));
}

std::vector<double> vector_of(std::string_view function, std::string_view name, py::handle object) {
    if (object.is_none()) {
        return {};
    }
    const auto values = numbers<double>(function, name, object, 1);
    return {values.data(), values.data() + values.size()};
}

adjacent_array<bool> marks_of(std::string_view function, std::string_view name, py::handle object) {
    if (object.is_none()) {
        return adjacent_array<bool>(0);
    }
    const py::array a = host_array(function, name, object);
    if (a.ndim() != 1) {
        detail::fail<shape_error>(function, fmt::format("{} of 1 dimension", name), fmt::format("{}", a.ndim()));
    }
    if (a.dtype().kind() != 'b' && a.size() > 0) {
        detail::fail<value_error>(function, fmt::format("True or False per code in {}", name),
                                  fmt::format("{}; astype(bool) makes that of zeros and ones, numpy.isin(range(K), ids) of row numbers",
                                              py::str(a.dtype()).cast<std::string>()));
    }
    return py::module_::import("numpy").attr("require")(a, py::dtype::of<bool>(), "CA").cast<adjacent_array<bool>>();
}

id_array ids_of(std::string_view function, std::string_view name, py::handle object) {
    const py::array a = host_array(function, name, object);
    if (const char kind = a.dtype().kind(); kind != 'i' && kind != 'u' && a.size() > 0) {
        const char* const fix = kind == 'b' ? "numpy.flatnonzero makes row numbers of a mask" : "token ids are made integers by astype(int)";
        detail::fail<value_error>(function, fmt::format("integers in {}", name), fmt::format("{}; {}", py::str(a.dtype()).cast<std::string>(), fix));
    }
    if (a.dtype().kind() == 'u' && a.itemsize() == 8 && a.size() > 0) {
        const auto largest = a.attr("max")().cast<std::uint64_t>();
        detail::require<value_error>(largest <= static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()), function,
                                     fmt::format("integers below 2^63 in {}", name), fmt::format("{}", largest));
    }
    const auto values = a.attr("astype")("int64", "order"_a = "C").cast<py::array_t<std::int64_t, py::array::c_style>>();
    id_array out{{values.data(), values.data() + values.size()}, {}};
    out.shape.assign(values.shape(), values.shape() + values.ndim());
    return out;
}

std::vector<index_t> indices_of(std::string_view function, std::string_view name, py::handle object) {
    if (object.is_none()) {
        return {};
    }
    const id_array ids = ids_of(function, name, object);
    return {ids.ids.begin(), ids.ids.end()};
}

}  // namespace isic::python
