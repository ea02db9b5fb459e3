// SPDX-License-Identifier: Apache-2.0
/// \file
/// Translation of isic's exceptions to those of isic/_errors.py.
#pragma once

#include <exception>

#include <pybind11/pybind11.h>

namespace isic::python {

/// The message of an exception, with Python's names.
pybind11::object text_of(const std::exception& e);

/// Raises the Python exception of an isic exception; rethrows any other.
void translate(std::exception_ptr thrown);

}  // namespace isic::python
