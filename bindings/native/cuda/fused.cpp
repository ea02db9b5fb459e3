// SPDX-License-Identifier: Apache-2.0
#include <isic/cuda/fused.hpp>

#include <isic/detail/checks.hpp>

#include "module.hpp"
#include "states.hpp"

namespace isic::python {
namespace {

/// fused::device_basis in both precisions.
struct basis_pair : in_both<fused::device_basis> {
    basis_pair() = default;
    basis_pair(const shared_gpu& gpu, const subspace& s)
        : in_both{gpu->run([&] { return fused::device_basis<float>(gpu->backend(), s); }),
                  gpu->run([&] { return fused::device_basis<double>(gpu->backend(), s); })},
          on(gpu) {}

    shared_gpu on;
};

/// A basis of the backend of the call.
class bases_on_device : public basis_holder<basis_pair> {
public:
    bases_on_device(const shared_gpu& on, std::string_view function, std::string_view name, py::handle object)
        : basis_holder(function, name, object, [&](const subspace& s) { return basis_pair(on, s); }) {
        require_same_backend(function, "a Basis", on, get().on);
    }
};

/// Optional numbers on the device, in the arithmetic of the rows.
template <real A>
class numbers_on_device {
public:
    numbers_on_device(gpu& on, std::string_view function, std::string_view name, py::handle object) {
        if (!object.is_none()) {
            values_ =
                device_values_of(on, function, fmt::format("{} on the device", name), object, {element_of<A>().name});
        }
    }

    device_view<A> view() const {
        return values_ ? device_view<A>(static_cast<const A*>(values_->data), 1, values_->size()) : device_view<A>();
    }
    index_t size() const { return values_ ? values_->size() : 0; }

private:
    std::optional<device_values> values_;
};

void fused_project_out(const shared_gpu& on, py::handle rows, py::handle removed, py::handle strength,
                       py::handle center, py::handle weights) {
    constexpr const char* f = "fused::project_out";
    const memory book = device_memory_of(*on, f, "rows", rows, access::edit);
    const bases_on_device basis(on, f, "subspace", removed);
    with_device_span(book, [&]<class T>(device_span<T> span) {
        using A = fused::arithmetic_of<T>;
        const std::optional<double> all = number_in(strength);
        const numbers_on_device<A> each(*on, f, "strength",
                                        all ? py::object(py::none()) : py::reinterpret_borrow<py::object>(strength));
        detail::require_size(f, "values in strength", all ? 0 : span.rows(), each.size());
        const numbers_on_device<A> mu(*on, f, "center", center), w(*on, f, "weights", weights);
        const fused::device_projection_options<A> how{.uniform = static_cast<A>(all.value_or(1)),
                                                      .strength = each.view(),
                                                      .center = mu.view(),
                                                      .weights = w.view()};
        on->run([&] {
            fused::project_out(on->backend(), span, basis.get().of<A>(), how);
            return 0;
        });
    });
    book.note_edit();
}

/// The constraint of an update, with the arrays that it views. Lives for the duration of the call.
class limits_holder {
public:
    limits_holder(const shared_gpu& on, std::string_view function, py::handle orthogonal_to, py::handle locked)
        : basis_(on, function, "orthogonal_to", orthogonal_to) {
        if (!locked.is_none()) {
            locked_ = device_values_of(*on, function, "locked on the device", locked, {"bool"});
        }
    }

    template <real A>
    fused::device_constraint<A> of() const {
        const auto marks =
            locked_ ? device_view<std::uint8_t>(static_cast<const std::uint8_t*>(locked_->data), 1, locked_->size())
                    : device_view<std::uint8_t>();
        return {.orthogonal_to = basis_.get().of<A>(), .locked = marks};
    }

private:
    bases_on_device basis_;
    std::optional<device_values> locked_;
};

using fused_ema_state_on_device = either_state_on_device<device_ema_state>;

/// Runs take_step(codes, rows, state), all three in one arithmetic, without the GIL.
template <template <class> class State, class Step>
void step_rows(const char* f, const shared_gpu& on, py::handle codes, const char* name, py::handle rows,
               either_state_on_device<State>& state, Step&& take_step) {
    require_same_backend(f, "a state", on, state.on);
    const memory book = device_memory_of(*on, f, "codes", codes, access::edit),
                 other = device_memory_of(*on, f, name, rows, access::read);
    with_device_span(book, [&]<class T>(device_span<T> span) {
        using A = fused::arithmetic_of<T>;
        State<A>& found = get_real<A, State>(f, state.value, "as the codes are computed");
        with_device_span(other, [&]<class G>(device_span<G> more) {
            if constexpr (std::same_as<fused::arithmetic_of<G>, A>) {
                state.on = on;
                on->run([&] {
                    take_step(span, more, found);
                    return 0;
                });
            } else {
                fail<value_error>(f, fmt::format("{} computed in {}, as the codes are", name, element_of<A>().name),
                                  element_of<G>().name);
            }
        });
    });
    book.note_edit();
}

void fused_adam_update(const shared_gpu& on, py::handle codes, py::handle gradient, adam_state_on_device& state,
                       double rate, double beta1, double beta2, double epsilon, py::handle orthogonal_to,
                       py::handle locked) {
    constexpr const char* f = "fused::adam_update";
    const limits_holder limits(on, f, orthogonal_to, locked);
    const adam_options how{.rate = rate, .beta1 = beta1, .beta2 = beta2, .epsilon = epsilon};
    step_rows<device_adam_state>(f, on, codes, "gradient", gradient, state,
                                 [&]<class A>(auto span, auto slope, device_adam_state<A>& moments) {
                                     fused::adam_update(on->backend(), span, slope, moments, how, limits.of<A>());
                                 });
}

void fused_ema_update(const shared_gpu& on, py::handle codes, py::handle vectors, py::handle ids,
                      fused_ema_state_on_device& state, double decay, py::handle orthogonal_to, py::handle locked) {
    constexpr const char* f = "fused::ema_update";
    const limits_holder limits(on, f, orthogonal_to, locked);
    const device_ids all = device_ids_of(*on, f, "ids", ids);
    step_rows<device_ema_state>(
        f, on, codes, "vectors", vectors, state, [&]<class A>(auto span, auto z, device_ema_state<A>& sums) {
            const auto step = [&]<class Id>(const Id* data) {
                fused::ema_update(on->backend(), span, z, device_view<Id>(data, 1, all.ids.size), sums, decay,
                                  limits.of<A>());
            };
            all.ids.wide ? step(static_cast<const std::int64_t*>(all.ids.data))
                         : step(static_cast<const std::int32_t*>(all.ids.data));
        });
}

}  // namespace

void bind_device_fused(py::module_& m) {
    py::class_<basis_pair>(m, "FusedBasis")
        .def(py::init([](const shared_gpu& on, py::handle s) {
                 return basis_pair(on, subspace_of("fused::basis", "subspace", s));
             }),
             "gpu"_a, py::arg("subspace").none(false))
        .def_property_readonly("rank", [](const basis_pair& b) { return b.wide.rank(); })
        .def_property_readonly("width", [](const basis_pair& b) { return b.wide.width(); });

    py::class_<fused_ema_state_on_device> ema(m, "FusedEmaState");
    ema.def(init_state<device_ema_state>("fused::ema_state"), "dtype"_a);
    def_part(ema, "counts", "fused::ema_state::counts", [](auto& s) -> auto& { return s.counts; }, true);
    def_part(ema, "sums", "fused::ema_state::sums", [](auto& s) -> auto& { return s.sums; });

    m.def("fused_project_out", &fused_project_out, "gpu"_a, "rows"_a, py::arg("subspace").none(false), "strength"_a,
          "center"_a, "weights"_a);
    m.def("fused_adam_update", &fused_adam_update, "gpu"_a, "codes"_a, "gradient"_a, "state"_a, "rate"_a, "beta1"_a,
          "beta2"_a, "epsilon"_a, "orthogonal_to"_a, "locked"_a);
    m.def("fused_ema_update", &fused_ema_update, "gpu"_a, "codes"_a, "vectors"_a, "ids"_a, "state"_a, "decay"_a,
          "orthogonal_to"_a, "locked"_a);
}

}  // namespace isic::python
