// SPDX-License-Identifier: Apache-2.0
#include <isic/update.hpp>

#include "module.hpp"
#include "values.hpp"

namespace isic::python {
namespace {

/// A property for a matrix of a state. Reading copies, so that no array outlives the state.
template <class State>
void def_matrix(py::class_<State>& c, const char* name, const char* full_name, matrix<double> State::* field) {
    c.def_property(
        name, [field](const State& s) { return array_of(s.*field); },
        [field, full_name](State& s, py::handle values) { s.*field = doubles(full_name, "values", values).copy(); });
}

std::string state_text(const char* name, const matrix<double>& m) {
    return m.empty() ? fmt::format("{}()", name) : fmt::format("{}({} x {})", name, m.rows(), m.cols());
}

py::object python_assign(py::handle vectors, py::handle ids, index_t codes) {
    const floats z("assign", "vectors", vectors);
    const id_array all = ids_of("assign", "ids", ids);
    assignments out = unlocked([&] { return assign(z.view(), all.ids, codes); });
    return make_value("Assignments", array_of(std::move(out.counts)), array_of(std::move(out.sums)));
}

py::object python_ridge(py::handle codes, py::handle batch, double weight, py::handle limits) {
    const memory book = memory_of("ridge_update", "codes", codes, access::edit);
    const assignments all = assignments_of("ridge_update", batch);
    const constraint c = constraint_of("ridge_update", limits);
    return object_of(edit_unlocked(book, [&](any_span rows) { return ridge_update(rows, all, weight, c); }));
}

py::object python_ema(py::handle codes, ema_state<>& state, py::handle batch, double decay, py::handle limits) {
    const memory book = memory_of("ema_update", "codes", codes, access::edit);
    const assignments all = assignments_of("ema_update", batch);
    const constraint c = constraint_of("ema_update", limits);
    return object_of(edit_unlocked(book, [&](any_span rows) { return ema_update(rows, state, all, decay, c); }));
}

py::object python_sgd(py::handle codes, py::handle gradient, sgd_state& state, double rate, double momentum,
                      py::handle limits) {
    const memory book = memory_of("sgd_update", "codes", codes, access::edit);
    const floats g("sgd_update", "gradient", gradient);
    const constraint c = constraint_of("sgd_update", limits);
    return object_of(edit_unlocked(book, [&](any_span rows) {
        return sgd_update(rows, g.view(), state, {.rate = rate, .momentum = momentum}, c);
    }));
}

py::object python_adam(py::handle codes, py::handle gradient, adam_state<>& state, double rate, double beta1,
                       double beta2, double epsilon, py::handle limits) {
    const memory book = memory_of("adam_update", "codes", codes, access::edit);
    const floats g("adam_update", "gradient", gradient);
    const constraint c = constraint_of("adam_update", limits);
    const adam_options how{.rate = rate, .beta1 = beta1, .beta2 = beta2, .epsilon = epsilon};
    return object_of(edit_unlocked(book, [&](any_span rows) { return adam_update(rows, g.view(), state, how, c); }));
}

}  // namespace

void bind_update(py::module_& m) {
    py::class_<ema_state<>> ema(m, "EmaState",
                                "State of `ema_update`: decayed counts [K] and sums [K, d]. Empty until the first "
                                "update. The caller keeps it.");
    ema.def(py::init<>())
        .def_property(
            "counts", [](const ema_state<>& s) { return array_of(s.counts); },
            [](ema_state<>& s, py::handle values) { s.counts = vector_of("ema_state::counts", "values", values); })
        .def(py::pickle([](const ema_state<>& s) { return py::make_tuple(array_of(s.counts), array_of(s.sums)); },
                        [](const py::tuple& parts) {
                            return ema_state<>{vector_of("ema_state::counts", "values", parts[0]),
                                               doubles("ema_state::sums", "values", parts[1]).copy()};
                        }))
        .def("__repr__", [](const ema_state<>& s) { return state_text("EmaState", s.sums); });
    def_matrix(ema, "sums", "ema_state::sums", &ema_state<>::sums);

    py::class_<sgd_state> sgd(
        m, "SgdState", "State of `sgd_update`: velocity [K, d]. Empty until the first update. The caller keeps it.");
    sgd.def(py::init<>())
        .def(py::pickle([](const sgd_state& s) { return py::make_tuple(array_of(s.velocity)); },
                        [](const py::tuple& parts) {
                            return sgd_state{doubles("sgd_state::velocity", "values", parts[0]).copy()};
                        }))
        .def("__repr__", [](const sgd_state& s) { return state_text("SgdState", s.velocity); });
    def_matrix(sgd, "velocity", "sgd_state::velocity", &sgd_state::velocity);

    py::class_<adam_state<>> adam(
        m, "AdamState",
        "State of `adam_update`: mean and square of the projected gradient [K, d], steps taken. Empty until the first "
        "update. The caller keeps it.");
    adam.def(py::init<>())
        .def_readwrite("steps", &adam_state<>::steps)
        .def(py::pickle(
            [](const adam_state<>& s) { return py::make_tuple(array_of(s.mean), array_of(s.square), s.steps); },
            [](const py::tuple& parts) {
                return adam_state<>{doubles("adam_state::mean", "values", parts[0]).copy(),
                                    doubles("adam_state::square", "values", parts[1]).copy(), parts[2].cast<index_t>()};
            }))
        .def("__repr__", [](const adam_state<>& s) { return state_text("AdamState", s.mean); });
    def_matrix(adam, "mean", "adam_state::mean", &adam_state<>::mean);
    def_matrix(adam, "square", "adam_state::square", &adam_state<>::square);

    m.def("assign", &python_assign, "vectors"_a, "ids"_a, "codes"_a);
    m.def("ridge_update", &python_ridge, "codes"_a, "batch"_a, "weight"_a, "constraint"_a);
    m.def("ema_update", &python_ema, "codes"_a, "state"_a, "batch"_a, "decay"_a, "constraint"_a);
    m.def("sgd_update", &python_sgd, "codes"_a, "gradient"_a, "state"_a, "rate"_a, "momentum"_a, "constraint"_a);
    m.def("adam_update", &python_adam, "codes"_a, "gradient"_a, "state"_a, "rate"_a, "beta1"_a, "beta2"_a, "epsilon"_a,
          "constraint"_a);
}

}  // namespace isic::python
