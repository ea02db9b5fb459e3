#include <isic/edit.hpp>
#include <isic/projection.hpp>

#include "module.hpp"
#include "options.hpp"

namespace isic::python {
namespace {

edit python_project_out(py::handle codes, py::handle harm, const py::kwargs& options) {
    const memory book = memory_of("project_out", "codes", codes, access::edit);
    const subspace s = subspace_of("project_out", "harm", harm);
    const options_holder how("project_out", options);
    return edit_unlocked(book, [&](detail::any_span rows) { return detail::project("project_out", rows, &s, how.get()); });
}

edit python_remap(py::handle codes, const py::kwargs& options) {
    const memory book = memory_of("remap", "codes", codes, access::edit);
    const options_holder how("remap", options);
    return edit_unlocked(book, [&](detail::any_span rows) { return detail::project("remap", rows, nullptr, how.get()); });
}

edit between(py::handle before, py::handle after) {
    const memory b = memory_of("edit::between", "before", before, access::read);
    const memory a = memory_of("edit::between", "after", after, access::read);
    detail::require<value_error>(a.type == b.type, "edit::between", "codebooks of one dtype", "two");
    return unlocked([&] { return edit_access::between(b.view(), a.view()); });
}

void undo(const edit& self, py::handle codes) {
    const memory book = memory_of("edit::undo", "codes", codes, access::edit);
    with_rows(book.span(), [&](auto rows) { unlocked([&] { self.undo(rows); return 0; }); });
    book.note_edit();
}

void apply(const edit& self, py::handle codes) {
    const memory book = memory_of("edit::apply", "codes", codes, access::edit);
    with_rows(book.span(), [&](auto rows) { unlocked([&] { self.apply(rows); return 0; }); });
    book.note_edit();
}

}  // namespace

void bind_projection(py::module_& m) {
    py::class_<edit>(m, "Edit")
        .def_static("between", &between, "before"_a, "after"_a)
        .def("undo", &undo, "codes"_a)
        .def("apply", &apply, "codes"_a)
        .def_property_readonly("rows", &edit::rows)
        .def_property_readonly("cols", &edit::cols)
        .def_property_readonly("storage", &edit::storage)
        .def_property_readonly("fingerprint_before", &edit::fingerprint_before)
        .def_property_readonly("fingerprint_after", &edit::fingerprint_after)
        .def("ids", [](const edit& e) { return array_of(std::vector<std::int64_t>(e.ids().begin(), e.ids().end())); })
        .def("summary", [](const edit& e) { return object_of(e.summary); })
        .def("removed", [](const edit& e) { return object_of(e.removed); })
        .def("center", [](const edit& e) { return array_of(e.center); });
    m.def("project_out", &python_project_out);
    m.def("remap", &python_remap);
}

}  // namespace isic::python
