#include "module.hpp"

#include <string>

#include <isic/error.hpp>
#include <isic/version.hpp>

#include "memory.hpp"

namespace isic::python {
namespace {

void raise(const char* name, const std::exception& e) {
    const py::object type = py::module_::import("isic._errors").attr(name);
    const std::string text = in_python_words(e.what());  // may name a file that is not UTF-8
    const auto decoded = py::reinterpret_steal<py::object>(PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "backslashreplace"));
    PyErr_SetObject(type.ptr(), decoded.ptr());
}

void translate(std::exception_ptr thrown) {
    try {
        std::rethrow_exception(thrown);
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

}  // namespace
}  // namespace isic::python

PYBIND11_MODULE(_isic, m) {
    using namespace isic::python;
    m.doc() = "The compiled part of isic; use the package isic.";
    m.attr("version") = isic::version_string;
    py::register_local_exception_translator(&translate);
    bind_differences(m);
    bind_subspace(m);
    bind_projection(m);
    bind_update(m);
    bind_metrics(m);
    bind_loop(m);
    bind_io(m);
}
