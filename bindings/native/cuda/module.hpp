// SPDX-License-Identifier: Apache-2.0
/// \file
/// The parts of isic._cuda.
#pragma once

#include <pybind11/pybind11.h>

namespace isic::python {

void bind_device_memory(pybind11::module_& m);
void bind_device_subspace(pybind11::module_& m);
void bind_device_projection(pybind11::module_& m);
void bind_device_update(pybind11::module_& m);
void bind_device_metrics(pybind11::module_& m);
void bind_device_fused(pybind11::module_& m);
void bind_device_loop(pybind11::module_& m);

}  // namespace isic::python
