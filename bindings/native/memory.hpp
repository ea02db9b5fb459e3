// SPDX-License-Identifier: Apache-2.0
/// \file
/// Memory of Python callers, read and edited in place: numpy arrays, torch tensors, DLPack producers and buffers.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <isic/error.hpp>
#include <isic/matrix.hpp>

namespace isic::python {

namespace py = pybind11;
using namespace pybind11::literals;

/// The package that documents a compiled module, and the Python names of its classes.
extern const std::string_view python_package;
extern const std::map<std::string, std::string, std::less<>> class_names;

/// "isic::difference_accumulator::add: expected ..." as Python spells it: "isic.DifferenceAccumulator.add: expected ...".
/// Options are named by their keywords.
std::string in_python_words(const std::string& message);

/// Throws an Error whose message has the form of the library's: "isic::function: expected ..., got ...".
template <class Error>
[[noreturn]] void fail(std::string_view function, std::string_view expected, std::string_view got) {
    throw Error(fmt::format("isic::{}: expected {}, got {}", function, expected, got));
}

/// Throws that Error unless `ok`.
template <class Error>
void require(bool ok, std::string_view function, std::string_view expected, std::string_view got) {
    if (!ok) {
        fail<Error>(function, expected, got);
    }
}

/// Access that a function needs: `edit` writes to the memory.
enum class access { read, edit };

/// The name of a codebook's element type in numpy and torch.
constexpr const char* name_of(dtype type) {
    switch (type) {
        case dtype::f32: return "float32";
        case dtype::f64: return "float64";
        case dtype::f16: return "float16";
        case dtype::bf16: return "bfloat16";
        default: return "another type";
    }
}

/// A matrix [rows x cols] in a Python object's memory, which this value keeps alive. Make and destroy it with the GIL held.
struct memory {
    dtype type = dtype::f64;
    void* data = nullptr;
    index_t rows = 0;
    index_t cols = 0;
    index_t stride = 0;  // in elements
    py::object owner;    // frees the memory
    py::object tensor;   // the torch tensor, if the object is one

    any_view view() const { return span(); }
    any_span span() const { return {static_cast<std::byte*>(data), rows, cols, stride, type}; }

    /// Increments the version of a torch tensor, so that autograd refuses stale saved tensors. Call after an edit.
    void note_edit() const;
};

/// The memory of a codebook, never a copy. Each error names the fix: TypeError unless the object is an array, shape_error
/// unless it has two dimensions and rows of adjacent values, value_error for another dtype or for read-only memory that
/// would be edited, backend_error for memory of a GPU.
memory memory_of(std::string_view function, std::string_view name, py::handle object, access how);

/// Releases the GIL, calls f() and returns what f returned.
template <class F>
auto unlocked(F&& f) {
    const py::gil_scoped_release release;
    return f();
}

/// Calls f(any_span) without the GIL, notes the edit and returns what f returned.
template <class F>
auto edit_unlocked(const memory& m, F&& f) {
    if constexpr (std::is_void_v<decltype(f(m.span()))>) {
        unlocked([&] { f(m.span()); });
        m.note_edit();
    } else {
        auto out = unlocked([&] { return f(m.span()); });
        m.note_edit();
        return out;
    }
}

/// A matrix of real numbers of any type: the caller's memory if isic can read it in place, else a float64 copy.
class floats {
public:
    /// Reads arrays, tensors and nested lists.
    floats(std::string_view function, std::string_view name, py::handle object);

    any_view view() const { return source_.view(); }

private:
    memory source_;
};

/// A matrix of float64: the caller's memory if it is one, else a copy.
class doubles {
public:
    /// Reads arrays, tensors and nested lists; None gives an empty matrix.
    doubles(std::string_view function, std::string_view name, py::handle object);

    matrix_view<double> view() const {
        return {static_cast<const double*>(source_.data), source_.rows, source_.cols, source_.stride};
    }
    /// A contiguous copy, for options and states that own their matrix.
    matrix<double> copy() const;

private:
    memory source_;
};

/// A contiguous array of T.
template <class T>
using adjacent_array = py::array_t<T, py::array::c_style>;

/// An array of T, float or double. The object itself if it is one, else a copy.
template <class T>
adjacent_array<T> numbers(std::string_view function, std::string_view name, py::handle object, index_t dimensions);

/// The value of a number or of an array without dimensions; none for other arrays and for lists.
std::optional<double> number_in(py::handle object);

/// Throws TypeError: an option has another kind than expected.
[[noreturn]] void fail_kind(std::string_view function, std::string_view name, std::string_view kind, py::handle object);

/// The kind of T in error messages, for options and for values that callbacks return.
template <class T>
constexpr const char* kind_of() {
    if constexpr (std::same_as<T, bool>) {
        return "True or False";
    } else if constexpr (std::integral<T>) {
        return "an integer";
    } else if constexpr (std::floating_point<T>) {
        return "a number";
    } else if constexpr (std::same_as<T, std::string>) {
        return "text";
    } else if constexpr (std::same_as<T, std::vector<std::string>>) {
        return "a list of texts";
    } else {
        static_assert(std::same_as<T, std::map<std::string, double>>);
        return "numbers by name";
    }
}

/// A Python object as T. Errors: TypeError for another kind, value_error for an integer that T cannot hold.
template <class T>
T option_of(std::string_view function, std::string_view name, py::handle object) {
    try {
        return object.cast<T>();
    } catch (const py::cast_error&) {
        if constexpr (std::integral<T>) {
            using limits = std::numeric_limits<T>;
            require<value_error>(PyLong_Check(object.ptr()) == 0, function,
                                 fmt::format("{} in [{}, {}]", name, limits::min(), limits::max()),
                                 py::str(object).cast<std::string>());
        }
        fail_kind(function, name, kind_of<T>(), object);
    }
}

/// A vector of float64; None gives an empty one.
std::vector<double> vector_of(std::string_view function, std::string_view name, py::handle object);

/// Integers of any shape, row-major.
struct id_array {
    std::vector<std::int64_t> ids;
    std::vector<index_t> shape;
};

/// Token ids of arrays, tensors and lists. Errors: value_error unless they are integers, backend_error for memory of a GPU.
id_array ids_of(std::string_view function, std::string_view name, py::handle object);

/// One bool per code, as in `locked`; None gives an empty array. Errors: value_error for numbers, which could be row numbers.
adjacent_array<bool> marks_of(std::string_view function, std::string_view name, py::handle object);

/// Row numbers, as in `padding`.
std::vector<index_t> indices_of(std::string_view function, std::string_view name, py::handle object);

/// An array that owns the values.
template <class T>
py::array array_of(std::vector<T> values, std::vector<index_t> shape) {
    auto* kept = new std::vector<T>(std::move(values));
    const py::capsule free(kept, [](void* p) { delete static_cast<std::vector<T>*>(p); });
    return py::array(py::dtype::of<T>(), std::vector<py::ssize_t>(shape.begin(), shape.end()), kept->data(), free);
}
template <class T>
py::array array_of(std::vector<T> values) {
    const auto size = static_cast<index_t>(values.size());
    return array_of(std::move(values), {size});
}
template <class T>
py::array array_of(matrix<T> m) {
    auto* kept = new matrix<T>(std::move(m));
    const py::capsule free(kept, [](void* p) { delete static_cast<matrix<T>*>(p); });
    return py::array(py::dtype::of<T>(), {kept->rows(), kept->cols()}, kept->data(), free);
}

/// The enumerator that a word names. Errors: value_error that lists the words.
template <class E>
E choice(std::string_view function, std::string_view name, std::string_view word,
         std::initializer_list<std::pair<std::string_view, E>> words) {
    std::string known;
    for (const auto& [text, value] : words) {
        if (word == text) {
            return value;
        }
        known += fmt::format("{}'{}'", known.empty() ? "" : ", ", text);
    }
    fail<value_error>(function, fmt::format("{} to be one of {}", name, known), fmt::format("'{}'", word));
}

}  // namespace isic::python
