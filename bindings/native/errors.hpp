/// \file
/// Exceptions of isic as those of isic/_errors.py.
#pragma once

#include <exception>

#include <pybind11/pybind11.h>

namespace isic::python {

/// What an exception says, in Python's words.
pybind11::object text_of(const std::exception& e);

/// Raises an exception of isic as its Python one; what is not isic's is thrown again.
void translate(std::exception_ptr thrown);

}  // namespace isic::python
