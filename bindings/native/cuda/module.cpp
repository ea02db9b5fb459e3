// SPDX-License-Identifier: Apache-2.0
#include "module.hpp"

#include <isic/cuda/backend.hpp>

#include "../errors.hpp"
#include "../values.hpp"

namespace isic::python {

const std::string_view python_package = "isic.cuda";
const std::map<std::string, std::string, std::less<>> class_names = {{"cuda_backend", "Backend"},
                                                                     {"device_accumulator", "DifferenceAccumulator"},
                                                                     {"device_constraint", "Constraint"},
                                                                     {"device_edit", "Edit"},
                                                                     {"basis", "Basis"},
                                                                     {"ema_state", "EmaState"},
                                                                     {"sgd_state", "SgdState"},
                                                                     {"adam_state", "AdamState"}};

namespace {

const char* word_of(cuda_failure failure) {
    switch (failure) {
        case cuda_failure::no_device: return "no_device";
        case cuda_failure::out_of_memory: return "out_of_memory";
        case cuda_failure::not_converged: return "not_converged";
        case cuda_failure::invalid_value: return "invalid_value";
        case cuda_failure::other: break;
    }
    return "other";
}

void translate_cuda(std::exception_ptr thrown) {
    try {
        std::rethrow_exception(thrown);
    } catch (const cuda_error& e) {
        const py::object type = member("isic.cuda._errors", "CudaError");
        PyErr_SetObject(type.ptr(), type(text_of(e), word_of(e.failure()), e.library(), e.code()).ptr());
    }
}

}  // namespace
}  // namespace isic::python

PYBIND11_MODULE(_cuda, m) {
    using namespace isic::python;
    m.doc() = "The compiled part of isic.cuda; use the package.";
    py::register_local_exception_translator(&translate);
    py::register_local_exception_translator(&translate_cuda);  // asked first
    m.def("available", &isic::cuda::available);
    m.def("unavailable_reason", &isic::cuda::unavailable_reason);
    m.def("device_count", &isic::cuda::device_count);
    bind_device_memory(m);
    bind_device_subspace(m);
    bind_device_projection(m);
    bind_device_update(m);
    bind_device_metrics(m);
    bind_device_fused(m);
    bind_device_loop(m);
}
