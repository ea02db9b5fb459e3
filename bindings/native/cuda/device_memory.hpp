// SPDX-License-Identifier: Apache-2.0
/// \file
/// Memory of Python callers on a device, read and edited in place: torch tensors, DLPack producers and
/// __cuda_array_interface__.
#pragma once

#include <atomic>

#include <isic/cuda/matrix.hpp>

#include "../layout.hpp"
#include "backend.hpp"

namespace isic::python {

/// An element type of device arrays: codebook values, token ids or row marks.
struct element {
    const char* name;     // numpy's
    const char* typestr;  // of __cuda_array_interface__, which knows no bfloat16
    int bytes;
    std::uint8_t code;  // DLPack's
};

/// Element types of device arrays.
inline constexpr element elements[] = {
    {"float32", "<f4", 4, dlpack::code_float}, {"float64", "<f8", 8, dlpack::code_float},
    {"float16", "<f2", 2, dlpack::code_float}, {"bfloat16", nullptr, 2, dlpack::code_bfloat},
    {"int32", "<i4", 4, dlpack::code_int},     {"int64", "<i8", 8, dlpack::code_int},
    {"bool", "|b1", 1, dlpack::code_bool}};

/// The element of a scalar type.
inline const element& element_of(dtype type) {
    return elements[type == dtype::f32 ? 0 : type == dtype::f64 ? 1 : type == dtype::f16 ? 2 : 3];
}

/// The scalar type of one of the first four elements.
inline dtype dtype_of(const element& e) {
    constexpr dtype types[] = {dtype::f32, dtype::f64, dtype::f16, dtype::bf16};
    return types[&e - elements];
}

template <class T>
const element& element_of() {
    if constexpr (std::same_as<T, std::int64_t>) {
        return elements[5];
    } else {
        return element_of(isic::detail::dtype_of<T>());
    }
}

/// A codebook or other rows on the backend's device, as `memory_of` on the CPU. Later work on the backend's stream
/// waits for work that the producer has queued. Errors: backend_error for memory of the CPU or of another device.
memory device_memory_of(gpu& on, std::string_view function, std::string_view name, py::handle object, access how);

/// The run-time-typed views of device memory.
any_device_view view_of(const memory& m);
any_device_span span_of(const memory& m);

/// Calls f(device_span<T>) for the element type T of the memory.
template <class F>
auto with_device_span(const memory& m, F&& f) {
    switch (m.type) {
        case dtype::f32: return f(device_span<float>(static_cast<float*>(m.data), m.rows, m.cols, m.stride));
        case dtype::f16: return f(device_span<isic::half>(static_cast<isic::half*>(m.data), m.rows, m.cols, m.stride));
        case dtype::bf16:
            return f(device_span<isic::bfloat16>(static_cast<isic::bfloat16*>(m.data), m.rows, m.cols, m.stride));
        default: return f(device_span<double>(static_cast<double*>(m.data), m.rows, m.cols, m.stride));
    }
}

/// A contiguous array of any shape on the backend's device.
struct device_values {
    const void* data;
    const element* type;
    std::vector<index_t> shape;
    py::object owner;

    index_t size() const;
};
/// Errors: value_error unless it has one of the types.
device_values device_values_of(gpu& on, std::string_view function, std::string_view name, py::handle object,
                               const std::vector<std::string_view>& types);

/// Token ids on the backend's device, int32 or int64 of any shape.
struct device_ids {
    cuda::detail::device_ids ids;
    std::vector<index_t> shape;
    py::object owner;
};
device_ids device_ids_of(gpu& on, std::string_view function, std::string_view name, py::handle object);

/// A contiguous array on a device, owned by Python. Its memory is freed in the order of its backend's stream.
class device_array {
public:
    device_array(shared_gpu on, const element& type, std::vector<index_t> shape);
    ~device_array();
    device_array(const device_array&) = delete;
    device_array& operator=(const device_array&) = delete;

    const shared_gpu& on() const { return on_; }
    const element& type() const { return type_; }
    const std::vector<index_t>& shape() const { return shape_; }
    std::size_t bytes() const { return memory_.size(); }
    void* data() const { return memory_.data(); }

    /// Makes a consumer's stream wait for the backend's. The backend's stream then waits for the default stream before
    /// the memory is freed.
    void hand_over(std::uintptr_t stream);

private:
    shared_gpu on_;
    const element& type_;
    std::vector<index_t> shape_;
    cuda::detail::buffer memory_;
    std::atomic<bool> seen_by_others_ = false;
};

using shared_array = std::shared_ptr<device_array>;

/// A copy of a device matrix as an array of the given shape.
template <class T>
shared_array copy_of(const shared_gpu& on, const device_matrix<T>& m, std::vector<index_t> shape) {
    auto out = std::make_shared<device_array>(on, element_of<T>(), std::move(shape));
    cuda::detail::copy_on_device(*on->state(), out->data(), out->bytes(), m.data(), out->bytes(), out->bytes(), 1);
    return out;
}

void bind_device_memory(py::module_& m);

}  // namespace isic::python
