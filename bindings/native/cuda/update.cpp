// SPDX-License-Identifier: Apache-2.0
#include "../values.hpp"
#include "module.hpp"
#include "states.hpp"

namespace isic::python {
namespace {

using ema_state_on_device = on_a_backend<std::variant<device_ema_state<double>>>;
using sgd_state_on_device = either_state_on_device<device_sgd_state>;
using assignments_on_device = on_a_backend<device_assignments>;
using constraint_on_device = on_a_backend<device_constraint>;
using summary_on_device = on_a_backend<update_future>;

const device_constraint& limits_of(std::string_view function, const shared_gpu& on,
                                   const constraint_on_device* limits) {
    static const device_constraint none;
    if (limits == nullptr) {
        return none;
    }
    require_same_backend(function, "a constraint", on, limits->on);
    return limits->value;
}

/// Runs update(span) of a codebook without the GIL.
template <class F>
summary_on_device updated(std::string_view function, const shared_gpu& on, py::handle codes, F&& update) {
    const memory book = device_memory_of(*on, function, "codes", codes, access::edit);
    update_future out = with_device_span(book, [&](auto span) { return on->run([&] { return update(span); }); });
    book.note_edit();
    return {on, std::move(out)};
}

assignments_on_device python_assign(const shared_gpu& on, py::handle vectors, py::handle ids, index_t codes) {
    const memory z = device_memory_of(*on, "assign", "vectors", vectors, access::read);
    const device_ids all = device_ids_of(*on, "assign", "ids", ids);
    return {on, with_device_span(z, [&](auto span) {
                return on->run([&] {
                    const auto assigned = [&]<class Id>(const Id* data) {
                        return assign(on->backend(), span, device_view<Id>(data, 1, all.ids.size), codes);
                    };
                    return all.ids.wide ? assigned(static_cast<const std::int64_t*>(all.ids.data))
                                        : assigned(static_cast<const std::int32_t*>(all.ids.data));
                });
            })};
}

summary_on_device python_ridge(const shared_gpu& on, py::handle codes, const assignments_on_device& batch,
                               double weight, const constraint_on_device* limits) {
    const device_constraint& c = limits_of("ridge_update", on, limits);
    require_same_backend("ridge_update", "a batch", on, batch.on);
    return updated("ridge_update", on, codes,
                   [&](auto span) { return ridge_update(on->backend(), span, batch.value, weight, c); });
}

summary_on_device python_ema(const shared_gpu& on, py::handle codes, ema_state_on_device& state,
                             const assignments_on_device& batch, double decay, const constraint_on_device* limits) {
    const device_constraint& c = limits_of("ema_update", on, limits);
    require_same_backend("ema_update", "a batch", on, batch.on);
    require_same_backend("ema_update", "a state", on, state.on);
    state.on = on;
    return updated("ema_update", on, codes, [&](auto span) {
        return ema_update(on->backend(), span, std::get<0>(state.value), batch.value, decay, c);
    });
}

template <class State, class Step>
summary_on_device step(std::string_view function, const shared_gpu& on, py::handle codes, py::handle gradient,
                       State& state, Step&& take_step) {
    require_same_backend(function, "a state", on, state.on);
    const memory g = device_memory_of(*on, function, "gradient", gradient, access::read);
    state.on = on;
    return updated(function, on, codes, [&](auto span) {
        return with_device_span(
            g, [&](auto slope) { return std::visit([&](auto& s) { return take_step(span, slope, s); }, state.value); });
    });
}

summary_on_device python_sgd(const shared_gpu& on, py::handle codes, py::handle gradient, sgd_state_on_device& state,
                             double rate, double momentum, const constraint_on_device* limits) {
    const device_constraint& c = limits_of("sgd_update", on, limits);
    const sgd_options how{.rate = rate, .momentum = momentum};
    return step("sgd_update", on, codes, gradient, state,
                [&](auto span, auto slope, auto& s) { return sgd_update(on->backend(), span, slope, s, how, c); });
}

summary_on_device python_adam(const shared_gpu& on, py::handle codes, py::handle gradient, adam_state_on_device& state,
                              double rate, double beta1, double beta2, double epsilon,
                              const constraint_on_device* limits) {
    const device_constraint& c = limits_of("adam_update", on, limits);
    const adam_options how{.rate = rate, .beta1 = beta1, .beta2 = beta2, .epsilon = epsilon};
    return step("adam_update", on, codes, gradient, state,
                [&](auto span, auto slope, auto& s) { return adam_update(on->backend(), span, slope, s, how, c); });
}

constraint_on_device make_constraint(const shared_gpu& on, py::handle limits, index_t codes, index_t width) {
    const constraint host = constraint_of("device_constraint", limits);
    return {on, on->run([&] { return device_constraint(on->backend(), host, codes, width); })};
}

}  // namespace

void bind_device_update(py::module_& m) {
    py::class_<constraint_on_device>(m, "Constraint")
        .def(py::init(&make_constraint), "gpu"_a, "limits"_a, "codes"_a, "width"_a);

    py::class_<assignments_on_device>(m, "Assignments")
        .def("counts", [](const assignments_on_device& a) { return part_of(a.on, a.value.counts, true); })
        .def("sums", [](const assignments_on_device& a) { return part_of(a.on, a.value.sums); });

    py::class_<summary_on_device>(m, "PendingSummary").def("get", [](const summary_on_device& s) {
        return object_of(s.on->run([&] { return s.value.get(); }));
    });

    py::class_<ema_state_on_device> ema(m, "EmaState");
    ema.def(py::init<>());
    def_part(ema, "counts", "ema_state::counts", [](auto& s) -> auto& { return s.counts; }, true);
    def_part(ema, "sums", "ema_state::sums", [](auto& s) -> auto& { return s.sums; });

    py::class_<sgd_state_on_device> sgd(m, "SgdState");
    sgd.def(init_state<device_sgd_state>("sgd_state"), "dtype"_a);
    def_part(sgd, "velocity", "sgd_state::velocity", [](auto& s) -> auto& { return s.velocity; });

    py::class_<adam_state_on_device> adam(m, "AdamState");
    adam.def(init_state<device_adam_state>("adam_state"), "dtype"_a)
        .def_property(
            "steps",
            [](const adam_state_on_device& s) { return std::visit([](const auto& v) { return v.steps; }, s.value); },
            [](adam_state_on_device& s, index_t steps) { std::visit([&](auto& v) { v.steps = steps; }, s.value); });
    def_part(adam, "mean", "adam_state::mean", [](auto& s) -> auto& { return s.mean; });
    def_part(adam, "square", "adam_state::square", [](auto& s) -> auto& { return s.square; });

    m.def("assign", &python_assign, "gpu"_a, "vectors"_a, "ids"_a, "codes"_a);
    m.def("ridge_update", &python_ridge, "gpu"_a, "codes"_a, "batch"_a, "weight"_a, "constraint"_a.none(true));
    m.def("ema_update", &python_ema, "gpu"_a, "codes"_a, "state"_a, "batch"_a, "decay"_a, "constraint"_a.none(true));
    m.def("sgd_update", &python_sgd, "gpu"_a, "codes"_a, "gradient"_a, "state"_a, "rate"_a, "momentum"_a,
          "constraint"_a.none(true));
    m.def("adam_update", &python_adam, "gpu"_a, "codes"_a, "gradient"_a, "state"_a, "rate"_a, "beta1"_a, "beta2"_a,
          "epsilon"_a, "constraint"_a.none(true));
}

}  // namespace isic::python
