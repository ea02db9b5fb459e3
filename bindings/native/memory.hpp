/// \file
/// Memory of Python callers, seen where it lies: numpy, torch, DLPack producers and buffers.
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

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <isic/matrix.hpp>

namespace isic::python {

namespace py = pybind11;
using namespace pybind11::literals;

/// What each compiled module says of itself: the package that documents it, and classes that have another name there.
extern const std::string_view python_package;
extern const std::map<std::string, std::string, std::less<>> class_names;

/// "isic::difference_accumulator::add: expected ..." as Python spells it: "isic.DifferenceAccumulator.add: expected ...", with
/// options by their keywords.
std::string in_python_words(const std::string& message);

using detail::storage;

/// Whether isic is going to write.
enum class access { read, edit };

/// rows x cols numbers in a Python object's memory, kept alive with this value. Make and destroy it with the GIL held.
struct memory {
    dtype type = dtype::f64;
    void* data = nullptr;
    index_t rows = 0;
    index_t cols = 0;
    index_t stride = 0;  // in elements
    py::object owner;    // whoever frees the memory
    py::object tensor;   // the torch tensor, if it is one

    any_view view() const { return span(); }
    any_span span() const { return {static_cast<std::byte*>(data), rows, cols, stride, type}; }

    /// Tells torch that the values changed, so that autograd refuses stale saved tensors. Call after an edit.
    void note_edit() const;
};

/// The memory of a codebook, never a copy of it. Errors name the fix: TypeError for no array, shape_error for a shape
/// that is not 2-D or rows that are not adjacent values, value_error for another dtype, or read-only memory that is to
/// be edited, backend_error for memory of a GPU.
memory memory_of(std::string_view function, std::string_view name, py::handle object, access how);

/// Rows that are known to be of T.
template <class T, class Byte>
auto span_as(detail::any_matrix<Byte> m) {
    using value = std::conditional_t<std::is_const_v<Byte>, const T, T>;
    return matrix_span<value>(reinterpret_cast<value*>(m.data), m.rows, m.cols, m.stride);
}

/// f(matrix_span<T>) of rows of dtype type T, for classes that isic compiles behind templates.
template <class Byte, class F>
auto with_rows(detail::any_matrix<Byte> m, F&& f) {
    switch (m.type) {
        case dtype::f32: return f(span_as<float>(m));
        case dtype::f16: return f(span_as<isic::half>(m));
        case dtype::bf16: return f(span_as<isic::bfloat16>(m));
        default: return f(span_as<double>(m));
    }
}

/// f() without the GIL: other Python threads run meanwhile.
template <class F>
auto unlocked(F&& f) {
    const py::gil_scoped_release release;
    return f();
}

/// f(any_span) without the GIL, for what edits.
template <class F>
auto edit_unlocked(const memory& m, F&& f) {
    auto out = unlocked([&] { return f(m.span()); });
    m.note_edit();
    return out;
}

/// Numbers that are no codebook, of any dtype type: the caller's memory if isic can read it as it lies, else a copy in
/// float64.
class floats {
public:
    /// Of arrays, tensors and nested lists.
    floats(std::string_view function, std::string_view name, py::handle object);

    any_view view() const { return source_.view(); }

private:
    memory source_;
};

/// The same where isic asks for float64.
class doubles {
public:
    /// Of arrays, tensors and nested lists; None gives an empty one.
    doubles(std::string_view function, std::string_view name, py::handle object);

    matrix_view<double> view() const { return span_as<double>(source_.view()); }
    /// An owning matrix, as options and states keep one.
    matrix<double> take() const { return detail::to_double(view()); }

private:
    memory source_;
};

/// An array of T without gaps.
template <class T>
using adjacent_array = py::array_t<T, py::array::c_style>;

/// Numbers as T: float or double. The object itself if it is such an array, else a copy.
template <class T>
adjacent_array<T> numbers(std::string_view function, std::string_view name, py::handle object, index_t dimensions);

/// What an object says if it is one number; none for arrays of a dimension and for lists.
std::optional<double> number_in(py::handle object);

/// TypeError for an option of another kind than expected.
[[noreturn]] void fail_kind(std::string_view function, std::string_view name, std::string_view kind, py::handle object);

/// What an option, or what a callback returns, is asked to be.
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
            detail::require<value_error>(PyLong_Check(object.ptr()) == 0, function, fmt::format("{} in [{}, {}]", name, limits::min(), limits::max()),
                                         py::str(object).cast<std::string>());
        }
        fail_kind(function, name, kind_of<T>(), object);
    }
}

/// One-dimensional numbers as float64; None gives none.
std::vector<double> vector_of(std::string_view function, std::string_view name, py::handle object);

/// Integers of any shape, row by row.
struct id_array {
    std::vector<std::int64_t> ids;
    std::vector<index_t> shape;
};

/// Token ids of arrays, tensors and lists. Errors: value_error for other than integers, backend_error for a GPU's memory.
id_array ids_of(std::string_view function, std::string_view name, py::handle object);

/// True or False per code, as in `locked`; None gives none. Errors: value_error for numbers, which may be meant as row numbers.
adjacent_array<bool> marks_of(std::string_view function, std::string_view name, py::handle object);

/// Row numbers, as in `padding`.
std::vector<index_t> indices_of(std::string_view function, std::string_view name, py::handle object);

/// Arrays that own what is moved into them.
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

/// The member of an enumeration that a word names. Errors: value_error that lists the words.
template <class E>
E choice(std::string_view function, std::string_view name, std::string_view word, std::initializer_list<std::pair<std::string_view, E>> words) {
    std::string known;
    for (const auto& [text, value] : words) {
        if (word == text) {
            return value;
        }
        known += fmt::format("{}'{}'", known.empty() ? "" : ", ", text);
    }
    detail::fail<value_error>(function, fmt::format("{} to be one of {}", name, known), fmt::format("'{}'", word));
}

}  // namespace isic::python
