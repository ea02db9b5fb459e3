// SPDX-License-Identifier: Apache-2.0
#include <isic/edit.hpp>
#include <isic/io/edit.hpp>
#include <isic/projection.hpp>

#include <algorithm>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "module.hpp"
#include "options.hpp"

namespace isic::python {
namespace {

edit python_project_out(py::handle codes, py::handle removed, const py::kwargs& options) {
    const memory book = memory_of("project_out", "codes", codes, access::edit);
    const subspace s = subspace_of("project_out", "subspace", removed);
    const options_holder how("project_out", options);
    return edit_unlocked(book, [&](any_span rows) { return project_out(rows, s, how.get()); });
}

edit python_remap(py::handle codes, const py::kwargs& options) {
    const memory book = memory_of("remap", "codes", codes, access::edit);
    const options_holder how("remap", options);
    return edit_unlocked(book, [&](any_span rows) { return remap(rows, how.get()); });
}

edit between(py::handle before, py::handle after) {
    const memory b = memory_of("edit::between", "before", before, access::read);
    const memory a = memory_of("edit::between", "after", after, access::read);
    return unlocked([&] { return edit::between(b.view(), a.view()); });
}

void undo(const edit& self, py::handle codes) {
    const memory book = memory_of("edit::undo", "codes", codes, access::edit);
    edit_unlocked(book, [&](any_span rows) { self.undo(rows); });
}

void apply(const edit& self, py::handle codes) {
    const memory book = memory_of("edit::apply", "codes", codes, access::edit);
    edit_unlocked(book, [&](any_span rows) { self.apply(rows); });
}

constexpr const char* pickled = "a pickled edit";
using pickled_tensor = std::tuple<std::string, std::vector<index_t>, py::bytes>;  // type, shape, bytes

/// The tensors and metadata that `save_edit` writes.
py::tuple state_of_edit(const edit& self) {
    const tensor_file file = detail::file_of_edit(self);
    std::map<std::string, pickled_tensor> tensors;
    for (const auto& [name, t] : file.tensors) {
        tensors.emplace(name, pickled_tensor(detail::entry_of(t.type).safetensors, t.shape,
                                             py::bytes(reinterpret_cast<const char*>(t.bytes.data()), t.bytes.size())));
    }
    return py::make_tuple(tensors, file.metadata);
}

edit edit_of_state(const std::map<std::string, pickled_tensor>& tensors,
                   const std::map<std::string, std::string>& metadata) {
    tensor_file file{{}, metadata};
    for (const auto& [name, t] : tensors) {
        const auto& [type_name, shape, bytes] = t;
        const auto type = std::ranges::find(detail::dtypes, type_name, &detail::dtype_entry::safetensors);
        require<io_error>(type != detail::dtypes.end(), "edit::__setstate__", "types of safetensors", type_name);
        const std::string_view text = bytes;
        const auto* const first = reinterpret_cast<const std::byte*>(text.data());
        file.tensors.emplace(name, tensor{type->type, shape, {first, first + text.size()}});
    }
    return detail::edit_of_file(pickled, file);
}

}  // namespace

void bind_projection(py::module_& m) {
    py::class_<edit>(m, "Edit")
        .def_static("between", &between, "before"_a, "after"_a)
        .def("undo", &undo, "codes"_a)
        .def("apply", &apply, "codes"_a)
        .def_property_readonly("rows", &edit::rows)
        .def_property_readonly("cols", &edit::cols)
        .def_property_readonly("storage", [](const edit& self) { return detail::name_of(self.type()); })
        .def_property_readonly("fingerprint_before", &edit::fingerprint_before)
        .def_property_readonly("fingerprint_after", &edit::fingerprint_after)
        .def("ids", [](const edit& e) { return array_of(std::vector<std::int64_t>(e.ids().begin(), e.ids().end())); })
        .def("summary", [](const edit& e) { return object_of(e.summary); })
        .def("removed", [](const edit& e) { return object_of(e.removed); })
        .def("center", [](const edit& e) { return array_of(e.center); })
        .def(py::pickle(&state_of_edit, [](const py::tuple& state) {
            return edit_of_state(state[0].cast<std::map<std::string, pickled_tensor>>(),
                                 state[1].cast<std::map<std::string, std::string>>());
        }));
    m.def("project_out", &python_project_out);
    m.def("remap", &python_remap);
}

}  // namespace isic::python
