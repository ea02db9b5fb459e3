// SPDX-License-Identifier: Apache-2.0
#include "module.hpp"

#include <isic/version.hpp>

#include "errors.hpp"
#include "memory.hpp"

namespace isic::python {

const std::string_view python_package = "isic";
const std::map<std::string, std::string, std::less<>> class_names = {
    {"adam_state", "AdamState"},
    {"basis", "Basis"},
    {"code_index", "CodeIndex"},
    {"counterpart_targets", "CounterpartTargets"},
    {"difference_accumulator", "DifferenceAccumulator"},
    {"ema_state", "EmaState"},
    {"lexicon", "Lexicon"}};

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
    bind_fused(m);
    bind_metrics(m);
    bind_loop(m);
    bind_io(m);
}
