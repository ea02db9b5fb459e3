// SPDX-License-Identifier: Apache-2.0
/// \file
/// The parts of isic._isic, one per header of the library.
#pragma once

#include <pybind11/pybind11.h>

namespace isic::python {

void bind_differences(pybind11::module_& m);
void bind_subspace(pybind11::module_& m);
void bind_projection(pybind11::module_& m);
void bind_update(pybind11::module_& m);
void bind_fused(pybind11::module_& m);
void bind_metrics(pybind11::module_& m);
void bind_loop(pybind11::module_& m);
void bind_io(pybind11::module_& m);

}  // namespace isic::python
