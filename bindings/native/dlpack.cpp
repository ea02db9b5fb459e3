// SPDX-License-Identifier: Apache-2.0
/// \file
/// DLPack producers as memory of isic.
#include "layout.hpp"

#include <array>
#include <optional>

namespace isic::python {
namespace {

/// The name of a DLPack type in numpy and torch.
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
        m.strides[i] = t.strides != nullptr     ? t.strides[i]
                       : i + 1 < m.shape.size() ? m.strides[i + 1] * m.shape[i + 1]
                                                : 1;
    }
    return m;
}

/// Consumes a capsule as the protocol requires: renames it, and calls the deleter when the result is destroyed.
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

/// Newer producers accept max_version and copy, some only max_version, older ones neither.
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

}  // namespace

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
        fail<backend_error>(
            function, fmt::format("{} in memory of the CPU", name),
            fmt::format("memory of a device of DLPack type {}; pass a copy on the CPU (Tensor.cpu()), or use "
                        "isic.cuda",
                        kind));
    }
}

void require_changeable(std::string_view function, std::string_view name, py::handle object, access how) {
    if (how == access::edit && type_name_of(object).starts_with("jax")) {  // its capsules do not say read-only
        fail<value_error>(function, fmt::format("writable memory in {}", name),
                          "an array of jax, which is immutable; edit a copy (numpy.array) and convert it back");
    }
}

handed_over take_dlpack(std::string_view function, std::string_view name, py::handle object, access how,
                        const py::dict& arguments) {
    py::capsule capsule = dlpack_capsule(object, arguments);
    if (PyCapsule_IsValid(capsule.ptr(), "dltensor_versioned") != 0) {
        const py::capsule owner = take_over<dlpack::managed_versioned>(capsule, "used_dltensor_versioned");
        const auto* held = owner.get_pointer<dlpack::managed_versioned>();
        if (held->major != 1) {
            fail<value_error>(function, "DLPack version 1", fmt::format("version {}.{}", held->major, held->minor));
        }
        layout m = layout_of_tensor(held->value);
        m.writable = (held->flags & dlpack::read_only) == 0;
        if (how == access::edit && (held->flags & dlpack::is_copied) != 0) {
            fail<value_error>(function, fmt::format("the memory of {} itself", name), "a copy that its producer made");
        }
        return {std::move(m), owner};
    }
    if (PyCapsule_IsValid(capsule.ptr(), "dltensor") == 0) {
        fail<value_error>(function, fmt::format("an unused DLPack capsule from {}", name), "another one");
    }
    const py::capsule owner = take_over<dlpack::managed>(capsule, "used_dltensor");
    return {layout_of_tensor(owner.get_pointer<dlpack::managed>()->value), owner};
}

memory memory_of_dlpack(std::string_view function, std::string_view name, py::handle object, access how) {
    try {
        require_cpu(function, name, object);
        const handed_over taken = take_dlpack(function, name, object, how);
        memory out = checked(function, name, taken.values, how);
        out.owner = taken.owner;
        return out;
    } catch (const py::error_already_set& e) {  // raised by the producer, e.g. for sparse or meta tensors
        if (!e.matches(PyExc_Exception)) {
            throw;
        }
        fail<value_error>(function, fmt::format("{} in memory that its library exports", name),
                          fmt::format("\"{}\" from it", py::str(e.value()).cast<std::string>()));
    }
}

}  // namespace isic::python
