#include "memory.hpp"

#include <algorithm>
#include <cctype>
#include <optional>

namespace isic::python {
namespace {

// The part of the DLPack ABI, versions 0.x and 1.x, that a consumer needs (github.com/dmlc/dlpack).
namespace dlpack {

constexpr std::int32_t cpu = 1;
constexpr std::int32_t cuda_host = 3;  // pinned memory of the CPU
constexpr std::int32_t rocm_host = 11;
constexpr std::uint8_t code_float = 2;
constexpr std::uint8_t code_bfloat = 4;
constexpr std::uint64_t read_only = 1;
constexpr std::uint64_t is_copied = 2;

struct tensor {
    void* data;
    std::int32_t device_type;
    std::int32_t device_id;
    std::int32_t ndim;
    std::uint8_t code;
    std::uint8_t bits;
    std::uint16_t lanes;
    std::int64_t* shape;
    std::int64_t* strides;  // in elements; null: compact
    std::uint64_t byte_offset;
};

struct managed {
    tensor value;
    void* context;
    void (*deleter)(managed*);
};

struct managed_versioned {
    std::uint32_t major;
    std::uint32_t minor;
    void* context;
    void (*deleter)(managed_versioned*);
    std::uint64_t flags;
    tensor value;
};

}  // namespace dlpack

constexpr std::string_view contiguous_copy = "make a copy (numpy.ascontiguousarray, Tensor.contiguous), edit that and copy it back";

/// What every kind of memory is checked as, in elements.
struct layout {
    void* data = nullptr;
    std::vector<index_t> shape;
    std::vector<index_t> strides;
    std::optional<storage> type;
    std::string type_name;
    bool writable = true;
};

std::string type_name_of(py::handle object) {
    return py::str(py::type::of(object).attr("__module__")).cast<std::string>() + "." +
           py::str(py::type::of(object).attr("__qualname__")).cast<std::string>();
}

/// torch, if somebody imported it; isic never does.
py::object loaded_torch() {
    const py::dict modules = py::module_::import("sys").attr("modules");
    return modules.contains("torch") ? modules["torch"].cast<py::object>() : py::none();
}

bool is_torch_tensor(py::handle object) {
    const py::object torch = loaded_torch();
    return !torch.is_none() && py::hasattr(torch, "Tensor") && py::isinstance(object, torch.attr("Tensor"));
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
    const index_t rows = m.shape[0], cols = m.shape[1];
    const bool adjacent = cols <= 1 || m.strides[1] == 1;
    const index_t stride = rows > 1 ? m.strides[0] : cols;
    if (!adjacent || (stride < cols && rows > 0 && cols > 0)) {
        detail::fail<shape_error>(function, fmt::format("{} whose rows are adjacent values and do not overlap", name),
                                  fmt::format("strides ({}, {}) of shape ({}, {}); {}", m.strides[0], m.strides[1], rows, cols, contiguous_copy));
    }
    memory out;
    out.type = *m.type;
    out.data = m.data;
    out.rows = rows;
    out.cols = cols;
    out.stride = std::max(stride, cols);
    return out;
}

std::optional<storage> storage_of(const py::dtype& type) {
    switch (type.kind()) {
        case 'f':
            switch (type.itemsize()) {
                case 2: return storage::f16;
                case 4: return storage::f32;
                case 8: return storage::f64;
                default: return std::nullopt;
            }
        case 'V': return py::str(type.attr("name")).cast<std::string>() == "bfloat16" ? std::optional(storage::bf16) : std::nullopt;
        default: return std::nullopt;
    }
}

memory memory_of_array(std::string_view function, std::string_view name, const py::array& a, access how) {
    layout m;
    m.type_name = py::str(a.dtype()).cast<std::string>();
    m.type = a.dtype().attr("isnative").cast<bool>() ? storage_of(a.dtype()) : std::nullopt;
    m.writable = a.writeable();
    m.data = const_cast<void*>(a.data());
    const auto size = a.itemsize();
    for (py::ssize_t i = 0; i < a.ndim(); ++i) {
        m.shape.push_back(a.shape(i));
        m.strides.push_back(size > 0 ? a.strides(i) / size : 0);
        if (m.type && a.shape(i) > 1 && a.strides(i) % size != 0) {
            detail::fail<shape_error>(function, fmt::format("{} with strides of whole elements", name),
                                      fmt::format("{} bytes between elements of {}; {}", a.strides(i), size, contiguous_copy));
        }
    }
    if (m.type && reinterpret_cast<std::uintptr_t>(m.data) % static_cast<std::uintptr_t>(size) != 0) {
        detail::fail<shape_error>(function, fmt::format("aligned memory in {}", name), fmt::format("memory off its alignment; {}", contiguous_copy));
    }
    memory out = checked(function, name, m, how);
    out.owner = a;
    return out;
}

layout layout_of(const dlpack::tensor& t) {
    layout m;
    m.data = static_cast<char*>(t.data) + t.byte_offset;
    m.type_name = fmt::format("DLPack type {} of {} bits", static_cast<int>(t.code), static_cast<int>(t.bits));
    if (t.lanes == 1 && t.code == dlpack::code_float && (t.bits == 16 || t.bits == 32 || t.bits == 64)) {
        m.type = t.bits == 16 ? storage::f16 : t.bits == 32 ? storage::f32 : storage::f64;
    } else if (t.lanes == 1 && t.code == dlpack::code_bfloat && t.bits == 16) {
        m.type = storage::bf16;
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

void require_cpu(std::string_view function, std::string_view name, py::handle object) {
    if (!py::hasattr(object, "__dlpack_device__")) {
        return;
    }
    const auto device = object.attr("__dlpack_device__")().cast<py::tuple>();
    const auto kind = py::int_(device[0]).cast<std::int32_t>();
    if (kind != dlpack::cpu && kind != dlpack::cuda_host && kind != dlpack::rocm_host) {
        detail::fail<backend_error>(function, fmt::format("{} in memory of the CPU", name),
                                    fmt::format("memory of a device of DLPack type {}, and this build of isic has no CUDA; pass a copy on the CPU "
                                                "(Tensor.cpu()) and copy the result back", kind));
    }
}

/// Newer producers take max_version and copy, older ones nothing; some take the one without the other.
py::capsule dlpack_capsule(py::handle object) {
    const py::object produce = object.attr("__dlpack__");
    const auto attempt = [&](const py::dict& arguments) -> std::optional<py::capsule> {
        try {
            return produce(**arguments).cast<py::capsule>();
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
    return produce().cast<py::capsule>();
}

memory memory_of_dlpack(std::string_view function, std::string_view name, py::handle object, access how) {
    require_cpu(function, name, object);
    py::capsule capsule = dlpack_capsule(object);
    if (PyCapsule_IsValid(capsule.ptr(), "dltensor_versioned") != 0) {
        const py::capsule owner = take_over<dlpack::managed_versioned>(capsule, "used_dltensor_versioned");
        const auto* held = owner.get_pointer<dlpack::managed_versioned>();
        if (held->major != 1) {
            detail::fail<value_error>(function, "DLPack version 1", fmt::format("version {}.{}", held->major, held->minor));
        }
        layout m = layout_of(held->value);
        m.writable = (held->flags & dlpack::read_only) == 0;
        if (how == access::edit && (held->flags & dlpack::is_copied) != 0) {
            detail::fail<value_error>(function, fmt::format("the memory of {} itself", name), "a copy that its producer made");
        }
        memory out = checked(function, name, m, how);
        out.owner = owner;
        return out;
    }
    if (PyCapsule_IsValid(capsule.ptr(), "dltensor") == 0) {
        detail::fail<value_error>(function, fmt::format("an unused DLPack capsule from {}", name), "another one");
    }
    const py::capsule owner = take_over<dlpack::managed>(capsule, "used_dltensor");
    memory out = checked(function, name, layout_of(owner.get_pointer<dlpack::managed>()->value), how);
    out.owner = owner;
    return out;
}

[[noreturn]] void fail_type(std::string_view function, std::string_view name, py::handle object) {
    if (py::hasattr(object, "__cuda_array_interface__")) {
        detail::fail<backend_error>(function, fmt::format("{} in memory of the CPU", name),
                                    "memory of a GPU, and this build of isic has no CUDA; pass a copy on the CPU and copy the result back");
    }
    std::string hint = "numpy.asarray or torch.tensor makes one";
    if (py::hasattr(object, "weight")) {
        hint = "pass its .weight";
    } else if (py::hasattr(object, "basis")) {
        hint = "pass its .basis";
    }
    throw py::type_error(in_python_words(fmt::format("isic::{}: expected {} as an array or a tensor, got {}; {}", function, name,
                                                     type_name_of(object), hint)));
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

py::array_t<double, py::array::c_style> numbers(std::string_view function, std::string_view name, py::handle object, py::ssize_t ndim) {
    const py::array a = host_array(function, name, object);
    const char kind = a.dtype().kind();
    const bool number = kind == 'f' || kind == 'i' || kind == 'u' || kind == 'b' || storage_of(a.dtype()).has_value();
    if (!number && a.size() > 0) {
        detail::fail<value_error>(function, fmt::format("real numbers in {}", name), py::str(a.dtype()).cast<std::string>());
    }
    if (a.ndim() != ndim) {
        detail::fail<shape_error>(function, fmt::format("{} of {} dimension{}", name, ndim, ndim == 1 ? "" : "s"), fmt::format("{}", a.ndim()));
    }
    return a.attr("astype")("float64", "order"_a = "C").cast<py::array_t<double, py::array::c_style>>();
}

}  // namespace

std::string in_python_words(const std::string& message) {
    const auto end = message.find(": ");
    if (message.rfind("isic::", 0) != 0 || end == std::string::npos) {
        return message;
    }
    std::string name = message.substr(6, end - 6);
    if (const auto of_class = name.find("::"); of_class != std::string::npos) {
        std::string out;
        for (std::size_t i = 0; i < of_class; ++i) {
            const bool starts_word = i == 0 || name[i - 1] == '_';
            if (name[i] != '_') {
                out += starts_word ? static_cast<char>(std::toupper(static_cast<unsigned char>(name[i]))) : name[i];
            }
        }
        name = out + "." + name.substr(of_class + 2);
    }
    return "isic." + name + message.substr(end);
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
    if (how == access::edit && type_name_of(object).rfind("jax", 0) == 0) {  // says nothing of it in its capsules
        detail::fail<value_error>(function, fmt::format("writable memory in {}", name),
                                  "an array of jax, which nobody may change; edit numpy.array(...) of it and make a new one of that");
    }
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
    if (PyObject_CheckBuffer(object.ptr()) != 0) {
        return memory_of_array(function, name, py::module_::import("numpy").attr("asarray")(object).cast<py::array>(), how);
    }
    fail_type(function, name, object);
}

doubles::doubles(std::string_view function, std::string_view name, py::handle object) {
    if (object.is_none()) {
        return;
    }
    if (py::isinstance<py::array>(object)) {
        const auto a = py::reinterpret_borrow<py::array>(object);
        const bool adjacent = a.ndim() == 2 && a.strides(1) == 8 && a.strides(0) >= a.shape(1) * 8 && a.strides(0) % 8 == 0;
        if (adjacent && a.dtype().equal(py::dtype::of<double>()) && a.size() > 0) {
            source_ = memory_of_array(function, name, a, access::read);
            return;
        }
    }
    const auto values = numbers(function, name, object, 2);
    copy_ = matrix<double>(values.shape(0), values.shape(1));
    std::copy_n(values.data(), values.size(), copy_.data());
}

matrix<double> doubles::take() && {
    return source_.data != nullptr ? detail::to_double(borrowed()) : std::move(copy_);
}

std::vector<double> vector_of(std::string_view function, std::string_view name, py::handle object) {
    if (object.is_none()) {
        return {};
    }
    const auto values = numbers(function, name, object, 1);
    return {values.data(), values.data() + values.size()};
}

id_array ids_of(std::string_view function, std::string_view name, py::handle object) {
    const py::array a = host_array(function, name, object);
    if (const char kind = a.dtype().kind(); kind != 'i' && kind != 'u' && a.size() > 0) {
        detail::fail<value_error>(function, fmt::format("integers in {}", name),
                                  fmt::format("{}; token ids are made integers by astype(int)", py::str(a.dtype()).cast<std::string>()));
    }
    // An id too large for int64 turns negative and is refused as an id.
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

py::array array_of(matrix<double> m) {
    auto* kept = new matrix<double>(std::move(m));
    const py::capsule free(kept, [](void* p) { delete static_cast<matrix<double>*>(p); });
    return py::array(py::dtype::of<double>(), {kept->rows(), kept->cols()}, kept->data(), free);
}

}  // namespace isic::python
