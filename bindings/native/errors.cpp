// SPDX-License-Identifier: Apache-2.0
#include "errors.hpp"

#include <string>
#include <utility>

#include <isic/error.hpp>

#include "memory.hpp"

namespace isic::python {

namespace {

void raise(const char* name, const std::exception& e) {
    const py::object type = py::module_::import("isic._errors").attr(name);
    PyErr_SetObject(type.ptr(), text_of(e).ptr());
}

}  // namespace

py::object text_of(const std::exception& e) {
    const std::string text = in_python_words(e.what());  // file names may not be UTF-8
    return py::reinterpret_steal<py::object>(
        PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "backslashreplace"));
}

void translate(std::exception_ptr thrown) {
    try {
        std::rethrow_exception(std::move(thrown));
    } catch (const shape_error& e) {
        raise("ShapeError", e);
    } catch (const value_error& e) {
        raise("ValueError", e);
    } catch (const numeric_error& e) {
        raise("NumericError", e);
    } catch (const io_error& e) {
        raise("IoError", e);
    } catch (const backend_error& e) {
        raise("BackendError", e);
    } catch (const error& e) {
        raise("Error", e);
    }
}

}  // namespace isic::python
