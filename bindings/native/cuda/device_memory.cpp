// SPDX-License-Identifier: Apache-2.0
#include "device_memory.hpp"

#include <isic/detail/checks.hpp>

#include <algorithm>
#include <array>
#include <functional>
#include <numeric>

namespace isic::python {
namespace {

constexpr std::string_view how_to_move = "isic.cuda.upload, Tensor.cuda() or cupy.asarray makes a copy there";

[[noreturn]] void fail_elsewhere(const gpu& on, std::string_view function, std::string_view name,
                                 const std::string& got) {
    fail<backend_error>(function, fmt::format("{} in memory of device {}", name, on.device()), got);
}

void require_device(const gpu& on, std::string_view function, std::string_view name, py::handle object) {
    if (!py::hasattr(object, "__dlpack_device__")) {
        return;
    }
    const auto [kind, number] = dlpack_device(object);
    if (is_host(kind)) {
        fail_elsewhere(on, function, name, fmt::format("memory of the CPU; {}", how_to_move));
    }
    if (kind != dlpack::cuda && kind != dlpack::cuda_managed) {
        fail_elsewhere(on, function, name, fmt::format("memory of a device of DLPack type {}", kind));
    }
    if (kind == dlpack::cuda && number != on.device()) {
        fail_elsewhere(on, function, name, fmt::format("device {}; make an isic.cuda.Backend for that one", number));
    }
}

/// A Python context manager, entered for the lifetime of this value.
class entered {
public:
    explicit entered(py::object context) : context_(std::move(context)) { context_.attr("__enter__")(); }
    ~entered() {
        try {
            context_.attr("__exit__")(py::none(), py::none(), py::none());
        } catch (py::error_already_set& e) {
            e.discard_as_unraisable("isic.cuda");
        }
    }
    entered(const entered&) = delete;
    entered& operator=(const entered&) = delete;

private:
    py::object context_;
};

/// Imports a torch tensor. The backend waits for torch's current stream, so torch exports without waiting, by stream
/// -1. torch exports from its current device only.
handed_over take_torch(gpu& on, std::string_view function, std::string_view name, py::handle object, access how) {
    const py::object values = object.attr("detach")();  // the same memory, without autograd, which refuses to export
    require_device(on, function, name, values);
    const py::object torch_cuda = loaded_torch().attr("cuda");
    const py::object current = torch_cuda.attr("current_stream")(values.attr("device"));
    on.backend().wait_stream(stream_of(current.attr("cuda_stream").cast<std::uintptr_t>()));
    const entered device(torch_cuda.attr("device")(values.attr("device")));
    return take_dlpack(function, name, values, how, py::dict("stream"_a = -1));
}

/// Strides in elements. __cuda_array_interface__ counts bytes; None: contiguous.
std::vector<index_t> strides_of(std::string_view function, std::string_view name, const layout& m,
                                const py::object& strides, index_t size) {
    std::vector<index_t> out(m.shape.size(), 1);
    if (strides.is_none()) {
        for (std::size_t i = out.size(); i-- > 1;) {
            out[i - 1] = out[i] * m.shape[i];
        }
        return out;
    }
    const auto bytes = strides.cast<std::vector<index_t>>();
    detail::require_size(function, fmt::format("strides of {}", name), static_cast<index_t>(m.shape.size()),
                         static_cast<index_t>(bytes.size()));
    for (std::size_t i = 0; i < bytes.size(); ++i) {
        if (m.shape[i] > 1 && bytes[i] % size != 0) {
            fail<shape_error>(function, fmt::format("{} with strides of whole elements", name),
                              fmt::format("{} bytes between elements of {}; {}", bytes[i], size, contiguous_copy));
        }
        out[i] = bytes[i] / size;
    }
    return out;
}

/// Waits for the stream that the interface names. Before version 3 it names none, and most libraries work in the order
/// of the default stream.
void wait_for_producer(gpu& on, const py::dict& interface) {
    if (interface["version"].cast<int>() < 3) {
        on.backend().wait_stream(nullptr);
    } else if (const py::object stream = interface.attr("get")("stream"); !stream.is_none()) {
        on.backend().wait_stream(stream_of(stream.cast<std::uintptr_t>()));
    }
}

handed_over take_interface(gpu& on, std::string_view function, std::string_view name, py::handle object) {
    const py::dict interface = object.attr("__cuda_array_interface__");
    if (!interface.attr("get")("mask").is_none()) {
        fail<value_error>(function, fmt::format("{} without a mask", name), "one with a mask");
    }
    const auto typestr = interface["typestr"].cast<std::string>();
    const auto data = interface["data"].cast<std::pair<std::uintptr_t, bool>>();
    layout m;
    m.type_name = typestr;
    m.shape = interface["shape"].cast<std::vector<index_t>>();
    m.data = reinterpret_cast<void*>(data.first);  // NOLINT: an address, by the protocol
    m.writable = !data.second;
    index_t size = 1;
    for (const element& e : elements) {
        if (e.typestr != nullptr && typestr == e.typestr) {
            size = e.bytes;
            if (e.code == dlpack::code_int) {
                m.integer_bits = 8 * e.bytes;
            } else if (e.code == dlpack::code_bool) {
                m.is_bool = true;
            } else {
                m.type = dtype_of(e);
            }
        }
    }
    m.strides = strides_of(function, name, m, interface.attr("get")("strides"), size);
    if (m.data != nullptr) {
        const std::optional<int> device = cuda::device_of(m.data);
        if (!device || *device != on.device()) {
            fail_elsewhere(on, function, name,
                           device ? fmt::format("device {}; make an isic.cuda.Backend for that one", *device)
                                  : fmt::format("memory of the CPU; {}", how_to_move));
        }
    }
    wait_for_producer(on, interface);
    return {std::move(m), py::reinterpret_borrow<py::object>(object)};
}

handed_over take(gpu& on, std::string_view function, std::string_view name, py::handle object, access how) {
    require_changeable(function, name, object, how);
    handed_over out;
    if (is_torch_tensor(object)) {
        out = take_torch(on, function, name, object, how);
    } else if (py::hasattr(object, "__dlpack__")) {
        require_device(on, function, name, object);
        out = take_dlpack(function, name, object, how, py::dict("stream"_a = on.stream()));
    } else if (py::hasattr(object, "__cuda_array_interface__")) {
        out = take_interface(on, function, name, object);
    } else {
        if (PyObject_CheckBuffer(object.ptr()) != 0) {  // an older numpy
            fail_elsewhere(on, function, name, fmt::format("memory of the CPU; {}", how_to_move));
        }
        fail_type(function, name, object, "isic.cuda.upload makes one");
    }
    return out;
}

const element* element_in(const layout& m) {
    if (m.type) {
        return &element_of(*m.type);
    }
    return m.integer_bits == 32   ? &elements[4]
           : m.integer_bits == 64 ? &elements[5]
           : m.is_bool            ? &elements[6]
                                  : nullptr;
}

index_t values_in(const std::vector<index_t>& shape) {
    return std::accumulate(shape.begin(), shape.end(), index_t(1), std::multiplies<>());
}

bool compact(const layout& m) {
    index_t expected = 1;
    for (std::size_t i = m.shape.size(); i-- > 0;) {
        if (m.shape[i] > 1 && m.strides[i] != expected) {
            return false;
        }
        expected *= m.shape[i];
    }
    return true;
}

void require_compact(std::string_view function, std::string_view name, const layout& m) {
    if (!compact(m) && values_in(m.shape) > 0) {
        fail<shape_error>(function, fmt::format("{} without gaps, row by row", name),
                          fmt::format("strides ({}) of shape ({}); make a copy (ascontiguousarray, Tensor.contiguous)",
                                      fmt::join(m.strides, ", "), fmt::join(m.shape, ", ")));
    }
}

void require_aligned(std::string_view function, std::string_view name, const void* data, index_t size) {
    require<value_error>(reinterpret_cast<std::uintptr_t>(data) % static_cast<std::uintptr_t>(size) == 0, function,
                         fmt::format("aligned memory in {}", name), "a pointer between two values");
}

/// The shape of a strided copy, in bytes.
struct byte_rows {
    std::size_t pitch;
    std::size_t width;
    std::size_t rows;
};

/// Errors: shape_error unless an array is contiguous; one of two dimensions may have strided rows.
byte_rows byte_rows_of(std::string_view function, std::string_view name, const layout& m, index_t size) {
    const auto bytes = [size](index_t n) { return static_cast<std::size_t>(n * size); };
    if (m.shape.size() == 2) {
        return {bytes(row_stride(function, name, m)), bytes(m.shape[1]), static_cast<std::size_t>(m.shape[0])};
    }
    require_compact(function, name, m);
    return {bytes(values_in(m.shape)), bytes(values_in(m.shape)), 1};
}

const element& require_element(std::string_view function, std::string_view name, const layout& m) {
    const element* type = element_in(m);
    if (type == nullptr) {
        fail<value_error>(function,
                          fmt::format("{} of float32, float64, float16, bfloat16, int32, int64 or bool", name),
                          m.type_name);
    }
    return *type;
}

/// numpy's own dtype, or that of ml_dtypes.
py::dtype numpy_type(std::string_view function, const element& type) {
    if (type.typestr != nullptr) {
        return py::dtype(type.name);
    }
    try {
        return py::dtype::from_args(py::module_::import("ml_dtypes").attr("bfloat16"));
    } catch (py::error_already_set& e) {
        if (!e.matches(PyExc_ImportError)) {
            throw;
        }
        fail<value_error>(function, "a type that numpy has",
                          "bfloat16; pip install ml_dtypes, which gives it to numpy");
    }
}

/// Uploads an array, a tensor or a list from the CPU.
shared_array upload_array(const shared_gpu& on, py::handle object) {
    constexpr std::string_view f = "upload", name = "the array";
    require_cpu(f, name, object);
    handed_over host;
    if (is_torch_tensor(object)) {
        host = take_dlpack(f, name, object.attr("detach")(), access::read);
    } else {
        const py::array a = py::module_::import("numpy").attr("asarray")(object).cast<py::array>();
        host = {layout_of(f, name, a), a};
    }
    const element& type = require_element(f, name, host.values);
    const byte_rows rows = byte_rows_of(f, name, host.values, type.bytes);
    auto out = std::make_shared<device_array>(on, type, host.values.shape);
    on->run([&] {
        cuda::detail::copy_to_device(*on->state(), out->data(), rows.width, host.values.data, rows.pitch, rows.width,
                                     rows.rows);
        return 0;
    });
    return out;
}

py::array download_array(gpu& on, py::handle object) {
    constexpr std::string_view f = "download", name = "the array";
    const handed_over device = take(on, f, name, object, access::read);
    const element& type = require_element(f, name, device.values);
    const byte_rows rows = byte_rows_of(f, name, device.values, type.bytes);
    const py::array out(numpy_type(f, type), device.values.shape);
    on.run([&] {
        cuda::detail::copy_to_host(*on.state(), const_cast<void*>(out.data()), rows.width, device.values.data,
                                   rows.pitch, rows.width, rows.rows);
        return 0;
    });
    return out;
}

/// Overwrites a codebook on the device with one on the CPU.
void write_codes(gpu& on, py::handle object, py::handle values) {
    constexpr std::string_view f = "write";
    const memory to = device_memory_of(on, f, "the array", object, access::edit);
    const memory from = memory_of(f, "the values", values, access::read);
    detail::require_size(f, "rows", to.rows, from.rows);
    detail::require_size(f, "columns", to.cols, from.cols);
    const element& type = element_of(to.type);
    require<value_error>(from.type == to.type, f, fmt::format("values of {}", type.name), element_of(from.type).name);
    const auto bytes = [&type](index_t n) { return static_cast<std::size_t>(n * type.bytes); };
    on.run([&] {
        cuda::detail::copy_to_device(*on.state(), to.data, bytes(to.stride), from.data, bytes(from.stride),
                                     bytes(from.cols), static_cast<std::size_t>(from.rows));
        return 0;
    });
    to.note_edit();
}

// ---- Export

template <class Managed>
struct exported {
    Managed managed{};
    shared_array array;
    std::vector<index_t> strides;
};

dlpack::tensor tensor_of(const device_array& a, index_t* strides) {
    return {a.data(),
            dlpack::cuda,
            a.on()->device(),
            static_cast<std::int32_t>(a.shape().size()),
            a.type().code,
            static_cast<std::uint8_t>(8 * a.type().bytes),
            1,
            const_cast<std::int64_t*>(a.shape().data()),
            strides,
            0};
}

/// A DLPack capsule of an array. The consumer renames it and calls the deleter, possibly without the GIL; an unused
/// capsule calls the deleter itself.
template <class Managed>
py::object capsule_of(const shared_array& array, const char* name, bool copied) {
    auto made = std::make_unique<exported<Managed>>();
    made->array = array;
    made->strides.assign(array->shape().size(), 1);
    for (std::size_t i = made->strides.size(); i-- > 1;) {
        made->strides[i - 1] = made->strides[i] * array->shape()[i];
    }
    made->managed.value = tensor_of(*array, made->strides.data());
    made->managed.context = made.get();
    made->managed.deleter = [](Managed* m) { delete static_cast<exported<Managed>*>(m->context); };
    if constexpr (std::same_as<Managed, dlpack::managed_versioned>) {
        made->managed.major = 1;
        made->managed.flags = copied ? dlpack::is_copied : 0;
    }
    const auto destroy = [](PyObject* capsule) {
        const char* const now = PyCapsule_GetName(capsule);
        if (now != nullptr && std::string_view(now).substr(0, 4) != "used") {
            auto* const m = static_cast<Managed*>(PyCapsule_GetPointer(capsule, now));
            m->deleter(m);
        }
    };
    auto out = py::reinterpret_steal<py::object>(PyCapsule_New(&made->managed, name, destroy));
    if (!out) {
        throw py::error_already_set();
    }
    made.release();  // NOLINT: the capsule owns it
    return out;
}

shared_array copied(const shared_array& array) {
    auto out = std::make_shared<device_array>(array->on(), array->type(), array->shape());
    array->on()->run([&] {
        cuda::detail::copy_on_device(*array->on()->state(), out->data(), out->bytes(), array->data(), out->bytes(),
                                     out->bytes(), 1);
        return 0;
    });
    return out;
}

/// __dlpack__: `stream` is the consumer's; None: the default stream; -1: no stream waits.
py::object export_dlpack(const shared_array& self, std::optional<std::int64_t> stream,
                         const std::optional<std::pair<int, int>>& max_version,
                         const std::optional<std::pair<int, int>>& dl_device, std::optional<bool> copy) {
    constexpr std::string_view f = "device_array::__dlpack__";
    if (const std::pair here{static_cast<int>(dlpack::cuda), self->on()->device()}; dl_device && *dl_device != here) {
        throw py::buffer_error(in_python_words(
            fmt::format("isic::{}: expected the device (2, {}), got ({}, {}); download() copies to the CPU", f,
                        here.second, dl_device->first, dl_device->second)));
    }
    const std::int64_t reader = stream.value_or(1);
    if (reader == 0 || reader < -1) {
        fail<value_error>(f, "a stream as DLPack numbers them: None, -1, 1, 2 or a handle", fmt::format("{}", reader));
    }
    const shared_array array = copy.value_or(false) ? copied(self) : self;
    if (reader != -1) {
        array->hand_over(static_cast<std::uintptr_t>(reader));
    }
    return max_version && max_version->first >= 1
               ? capsule_of<dlpack::managed_versioned>(array, "dltensor_versioned", copy.value_or(false))
               : capsule_of<dlpack::managed>(array, "dltensor", false);
}

py::dict interface_of(device_array& a) {
    if (a.type().typestr == nullptr) {
        throw py::attribute_error("__cuda_array_interface__: it knows no bfloat16; use __dlpack__");
    }
    a.hand_over(a.on()->stream());
    const py::object stream = a.on()->own_stream() ? py::none() : py::object(py::int_(a.on()->stream()));
    return py::dict("shape"_a = py::tuple(py::cast(a.shape())), "typestr"_a = a.type().typestr,
                    "data"_a = py::make_tuple(reinterpret_cast<std::uintptr_t>(a.data()), false),
                    "strides"_a = py::none(), "version"_a = 3, "stream"_a = stream);
}

}  // namespace

void* stream_of(std::uintptr_t handle) {
    return handle <= 1 ? nullptr : reinterpret_cast<void*>(handle);  // NOLINT: a handle
}

python_allocator::python_allocator(py::handle pair) {
    if (pair.is_none()) {
        return;
    }
    if (!py::isinstance<py::tuple>(pair) || py::len(pair) != 2 || PyCallable_Check(pair[py::int_(0)].ptr()) == 0 ||
        PyCallable_Check(pair[py::int_(1)].ptr()) == 0) {
        throw py::type_error(in_python_words(
            fmt::format("isic::cuda_backend: expected an allocator of two functions, allocate(bytes, stream) and "
                        "release(memory, bytes, stream), got {}",
                        type_name_of(pair))));
    }
    functions_ = std::make_unique<functions>(functions{pair[py::int_(0)], pair[py::int_(1)]});
}

python_allocator::~python_allocator() {
    if (Py_IsInitialized() == 0) {
        static_cast<void>(functions_.release());  // without the interpreter the objects cannot be released
        return;
    }
    const py::gil_scoped_acquire gil;
    functions_.reset();
}

device_allocator python_allocator::in_cpp() {
    if (functions_ == nullptr) {
        return {};
    }
    const auto allocate = [](void* context, std::size_t bytes, void* stream) -> void* {
        const py::gil_scoped_acquire gil;
        try {
            const py::object memory =
                static_cast<functions*>(context)->allocate(bytes, reinterpret_cast<std::uintptr_t>(stream));
            return reinterpret_cast<void*>(memory.cast<std::uintptr_t>());  // NOLINT: an address
        } catch (py::error_already_set& e) {
            e.discard_as_unraisable("isic.cuda.Backend");
        } catch (const py::cast_error&) {  // no address
        }
        return nullptr;
    };
    const auto release = [](void* context, void* memory, std::size_t bytes, void* stream) {
        if (Py_IsInitialized() == 0) {
            return;
        }
        const py::gil_scoped_acquire gil;
        try {
            static_cast<functions*>(context)->release(reinterpret_cast<std::uintptr_t>(memory), bytes,
                                                      reinterpret_cast<std::uintptr_t>(stream));
        } catch (py::error_already_set& e) {
            e.discard_as_unraisable("isic.cuda.Backend");
        }
    };
    return {allocate, release, functions_.get()};
}

gpu::gpu(int device, std::optional<std::uintptr_t> stream, py::object owner, py::handle allocator)
    : own_stream_(!stream),
      owner_(new py::object(std::move(owner)),
             [](py::object* p) {
                 if (Py_IsInitialized() != 0) {  // the last array may be destroyed without the GIL or the interpreter
                     const py::gil_scoped_acquire gil;
                     delete p;
                 }
             }),
      allocator_(allocator),
      backend_({.device = device,
                .stream = stream ? std::optional(stream_of(*stream)) : std::nullopt,
                .allocator = allocator_.in_cpp()}) {}

std::uintptr_t gpu::stream() const {
    return std::max<std::uintptr_t>(1, reinterpret_cast<std::uintptr_t>(backend_.stream()));
}

void gpu::wait_quietly() noexcept {
    try {
        backend_.synchronize();
    } catch (const cuda_error&) {  // the first error is reported
    }
}

memory device_memory_of(gpu& on, std::string_view function, std::string_view name, py::handle object, access how) {
    const handed_over taken = take(on, function, name, object, how);
    memory out = checked(function, name, taken.values, how);
    require_aligned(function, name, out.data, element_of(out.type).bytes);
    out.owner = taken.owner;
    if (is_torch_tensor(object)) {
        out.tensor = py::reinterpret_borrow<py::object>(object);
    }
    return out;
}

any_device_view view_of(const memory& m) {
    return span_of(m);
}

any_device_span span_of(const memory& m) {
    return {m.data, m.type, m.rows, m.cols, m.stride};
}

index_t device_values::size() const {
    return values_in(shape);
}

device_values device_values_of(gpu& on, std::string_view function, std::string_view name, py::handle object,
                               const std::vector<std::string_view>& types) {
    handed_over taken = take(on, function, name, object, access::read);
    const layout& m = taken.values;
    const element* type = element_in(m);
    if (type == nullptr || std::ranges::find(types, type->name) == types.end()) {
        fail<value_error>(function, fmt::format("{} of {}", name, fmt::join(types, " or ")),
                          type == nullptr ? m.type_name : type->name);
    }
    require_compact(function, name, m);
    require_aligned(function, name, m.data, type->bytes);
    return {m.data, type, m.shape, std::move(taken.owner)};
}

device_ids device_ids_of(gpu& on, std::string_view function, std::string_view name, py::handle object) {
    device_values v = device_values_of(on, function, name, object, {"int32", "int64"});
    return {{v.data, v.type->bytes == 8, v.size()}, std::move(v.shape), std::move(v.owner)};
}

device_array::device_array(shared_gpu on, const element& type, std::vector<index_t> shape)
    : on_(std::move(on)),
      type_(type),
      shape_(std::move(shape)),
      memory_(on_->state(), static_cast<std::size_t>(values_in(shape_) * type.bytes)) {}

device_array::~device_array() {
    if (seen_by_others_) {
        try {
            on_->backend().wait_stream(nullptr);  // consumers may have queued reads
        } catch (const cuda_error&) {             // the memory is freed in any case
        }
    }
}

void device_array::hand_over(std::uintptr_t stream) {
    seen_by_others_ = seen_by_others_ || stream != on_->stream() || on_->own_stream();
    on_->backend().record_stream(stream_of(stream));
}

void bind_device_memory(py::module_& m) {
    py::class_<gpu, shared_gpu>(m, "Backend")
        .def(py::init<int, std::optional<std::uintptr_t>, py::object, py::handle>(), "device"_a, "stream"_a, "owner"_a,
             "allocator"_a)
        .def_property_readonly("device", &gpu::device)
        .def_property_readonly("stream", &gpu::stream)
        .def_property_readonly("own_stream", &gpu::own_stream)
        .def_property_readonly("name", [](gpu& self) { return self.backend().name(); })
        .def("synchronize", [](gpu& self) {
            self.run([&] {
                self.backend().synchronize();
                return 0;
            });
        });

    py::class_<device_array, shared_array>(m, "DeviceArray")
        .def_property_readonly("shape", [](const device_array& a) { return py::tuple(py::cast(a.shape())); })
        .def_property_readonly("dtype", [](const device_array& a) { return a.type().name; })
        .def_property_readonly("backend", &device_array::on)
        .def("dlpack", &export_dlpack, "stream"_a, "max_version"_a, "dl_device"_a, "copy"_a)
        .def("cuda_array_interface", &interface_of);

    m.def("upload", &upload_array, "gpu"_a, "array"_a);
    m.def("download", [](gpu& on, py::handle array) { return download_array(on, array); }, "gpu"_a, "array"_a);
    m.def("write", &write_codes, "gpu"_a, "array"_a, "values"_a);
    m.def(
        "device_of", [](std::uintptr_t memory) { return cuda::device_of(reinterpret_cast<const void*>(memory)); },
        "memory"_a);
}

}  // namespace isic::python
