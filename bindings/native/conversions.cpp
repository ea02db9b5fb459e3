// SPDX-License-Identifier: Apache-2.0
/// \file
/// Numbers, ids and marks of arrays, tensors and lists.
#include "layout.hpp"

#include <algorithm>
#include <cstdint>
#include <limits>

namespace isic::python {
namespace {

/// A float64 matrix, converted if the object has another type.
memory converted(std::string_view function, std::string_view name, py::handle object) {
    const auto values = numbers<double>(function, name, object, 2);
    memory out;
    out.data = const_cast<double*>(values.data());
    out.rows = values.shape(0);
    out.cols = out.stride = values.shape(1);
    out.owner = values;
    return out;
}

/// The object's own memory; none if isic cannot read its dtype or layout.
std::optional<memory> read_in_place(std::string_view function, std::string_view name, py::handle object) {
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

floats::floats(std::string_view function, std::string_view name, py::handle object) {
    auto found = read_in_place(function, name, object);
    source_ = found ? *std::move(found) : converted(function, name, object);
}

doubles::doubles(std::string_view function, std::string_view name, py::handle object) {
    if (object.is_none()) {
        return;
    }
    auto found = read_in_place(function, name, object);
    source_ = found && found->type == dtype::f64 ? *std::move(found) : converted(function, name, object);
}

matrix<double> doubles::copy() const {
    const matrix_view<double> from = view();
    matrix<double> out(from.rows(), from.cols());
    for (index_t i = 0; i < from.rows(); ++i) {
        std::ranges::copy(from.row(i), out.row(i).begin());
    }
    return out;
}

template <class T>
adjacent_array<T> numbers(std::string_view function, std::string_view name, py::handle object, index_t dimensions) {
    const py::array a = host_array(function, name, object);
    const char kind = a.dtype().kind();
    const bool number = kind == 'f' || kind == 'i' || kind == 'u' || kind == 'b' || is_codebook_type(a.dtype());
    if (!number && a.size() > 0) {
        fail<value_error>(function, fmt::format("real numbers in {}", name), py::str(a.dtype()).cast<std::string>());
    }
    if (a.ndim() != dimensions) {
        fail<shape_error>(function, fmt::format("{} of {} dimension{}", name, dimensions, dimensions == 1 ? "" : "s"),
                          fmt::format("{}", a.ndim()));
    }
    return py::module_::import("numpy").attr("require")(a, py::dtype::of<T>(), "CA").template cast<adjacent_array<T>>();
}
template adjacent_array<float> numbers(std::string_view, std::string_view, py::handle, index_t);
template adjacent_array<double> numbers(std::string_view, std::string_view, py::handle, index_t);

std::optional<double> number_in(py::handle object) {
    const bool number =
        py::hasattr(object, "ndim") ? object.attr("ndim").cast<int>() == 0 : PyNumber_Check(object.ptr()) != 0;
    return number ? std::optional(py::float_(py::reinterpret_borrow<py::object>(object)).cast<double>()) : std::nullopt;
}

void fail_kind(std::string_view function, std::string_view name, std::string_view kind, py::handle object) {
    throw py::type_error(in_python_words(
        fmt::format("isic::{}: expected {} to be {}, got {}", function, name, kind, type_name_of(object))));
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
        fail<shape_error>(function, fmt::format("{} of 1 dimension", name), fmt::format("{}", a.ndim()));
    }
    if (a.dtype().kind() != 'b' && a.size() > 0) {
        fail<value_error>(
            function, fmt::format("True or False per code in {}", name),
            fmt::format("{}; convert zeros and ones by astype(bool), row numbers by numpy.isin(range(K), ids)",
                        py::str(a.dtype()).cast<std::string>()));
    }
    return py::module_::import("numpy").attr("require")(a, py::dtype::of<bool>(), "CA").cast<adjacent_array<bool>>();
}

id_array ids_of(std::string_view function, std::string_view name, py::handle object) {
    const py::array a = host_array(function, name, object);
    if (const char kind = a.dtype().kind(); kind != 'i' && kind != 'u' && a.size() > 0) {
        const char* const fix =
            kind == 'b' ? "convert a mask to row numbers by numpy.flatnonzero" : "convert token ids by astype(int)";
        fail<value_error>(function, fmt::format("integers in {}", name),
                          fmt::format("{}; {}", py::str(a.dtype()).cast<std::string>(), fix));
    }
    if (a.dtype().kind() == 'u' && a.itemsize() == 8 && a.size() > 0) {
        const auto largest = a.attr("max")().cast<std::uint64_t>();
        require<value_error>(largest <= static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()), function,
                             fmt::format("integers below 2^63 in {}", name), fmt::format("{}", largest));
    }
    const auto values =
        a.attr("astype")("int64", "order"_a = "C").cast<py::array_t<std::int64_t, py::array::c_style>>();
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
