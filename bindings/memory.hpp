/// \file
/// Memory of Python callers, seen where it lies: numpy, torch, DLPack producers and buffers.
#pragma once

#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <string>
#include <string_view>
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

/// "isic::difference_accumulator::add: expected ..." as Python spells it: "isic.DifferenceAccumulator.add: expected ...".
std::string in_python_words(const std::string& message);

/// What a codebook in Python may be stored as.
enum class storage { f32, f64, f16, bf16 };

/// Whether isic is going to write.
enum class access { read, edit };

/// rows x cols numbers in a Python object's memory, kept alive with this value. Make and destroy it with the GIL held.
struct memory {
    storage type = storage::f64;
    void* data = nullptr;
    index_t rows = 0;
    index_t cols = 0;
    index_t stride = 0;  // in elements
    py::object owner;    // whoever frees the memory
    py::object tensor;   // the torch tensor, if it is one

    /// Tells torch that the values changed, so that autograd refuses stale saved tensors. Call after an edit.
    void note_edit() const;
};

/// The memory of a codebook, never a copy of it. Errors name the fix: TypeError for no array, shape_error for a shape
/// that is not 2-D or rows that are not adjacent values, value_error for another dtype, or read-only memory that is to
/// be edited, backend_error for memory of a GPU.
memory memory_of(std::string_view function, std::string_view name, py::handle object, access how);

/// f(matrix_span<T>) of the storage type T.
template <class F>
auto with_span(const memory& m, F&& f) {
    switch (m.type) {
        case storage::f32: return f(matrix_span<float>(static_cast<float*>(m.data), m.rows, m.cols, m.stride));
        case storage::f16: return f(matrix_span<Eigen::half>(static_cast<Eigen::half*>(m.data), m.rows, m.cols, m.stride));
        case storage::bf16: return f(matrix_span<Eigen::bfloat16>(static_cast<Eigen::bfloat16*>(m.data), m.rows, m.cols, m.stride));
        default: return f(matrix_span<double>(static_cast<double*>(m.data), m.rows, m.cols, m.stride));
    }
}

/// f() without the GIL: other Python threads run meanwhile.
template <class F>
auto unlocked(F&& f) {
    const py::gil_scoped_release release;
    return f();
}

/// f(matrix_span<T>) without the GIL, for what only reads.
template <class F>
auto read_unlocked(const memory& m, F&& f) {
    return with_span(m, [&](auto span) { return unlocked([&] { return f(matrix_view<typename decltype(span)::value_type>(span)); }); });
}

/// f(matrix_span<T>) without the GIL, for what edits.
template <class F>
auto edit_unlocked(const memory& m, F&& f) {
    auto out = with_span(m, [&](auto span) { return unlocked([&] { return f(span); }); });
    m.note_edit();
    return out;
}

/// A float64 matrix that is no codebook: the caller's memory if it is float64 already, else a converted copy.
class doubles {
public:
    /// Of arrays, tensors and nested lists; None gives an empty one.
    doubles(std::string_view function, std::string_view name, py::handle object);

    matrix_view<double> view() const { return source_.data != nullptr ? borrowed() : copy_.view(); }
    /// An owning matrix, as options and states keep one.
    matrix<double> take() &&;

private:
    matrix_view<double> borrowed() const { return {static_cast<const double*>(source_.data), source_.rows, source_.cols, source_.stride}; }

    memory source_;
    matrix<double> copy_;
};

/// One-dimensional numbers as float64; None gives none.
std::vector<double> vector_of(std::string_view function, std::string_view name, py::handle object);

/// Integers of any shape, row by row.
struct id_array {
    std::vector<std::int64_t> ids;
    std::vector<index_t> shape;
};

/// Token ids of arrays, tensors and lists. Errors: value_error for other than integers, backend_error for a GPU's memory.
id_array ids_of(std::string_view function, std::string_view name, py::handle object);

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
py::array array_of(matrix<double> m);

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
