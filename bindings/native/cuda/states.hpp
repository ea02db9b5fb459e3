// SPDX-License-Identifier: Apache-2.0
/// \file
/// What updates keep on a device between steps, as Python's objects.
#pragma once

#include <variant>

#include <isic/cuda/update.hpp>

#include "../values.hpp"
#include "device_memory.hpp"

namespace isic::python {

/// What an update reads or keeps, and the backend that it lies with; none while a state is empty.
template <class T>
struct on_a_backend {
    shared_gpu on;
    T value;
};

using adam_state_on_device = on_a_backend<std::variant<device_adam_state<float>, device_adam_state<double>>>;

/// A state of float or double, as the word says.
template <class State, class Float, class Double>
auto state_of(const char* function) {
    return py::init([function](const std::string& dtype) {
        return choice<bool>(function, "dtype", dtype, {{"float32", false}, {"float64", true}})
                   ? State{nullptr, Double{}}
                   : State{nullptr, Float{}};
    });
}

inline void require_same_backend(std::string_view function, std::string_view name, const shared_gpu& expected,
                                 const shared_gpu& got) {
    detail::require<value_error>(got == nullptr || got == expected, function,
                                 fmt::format("{} of the same backend", name), "one of another");
}

/// A copy of a part of a state; none while it is empty.
template <class S>
shared_array part_of(const shared_gpu& on, const device_matrix<S>& m, bool flat = false) {
    if (m.empty()) {
        return nullptr;
    }
    return on->run([&] {
        return copy_of(on, m, flat ? std::vector<index_t>{m.cols()} : std::vector<index_t>{m.rows(), m.cols()});
    });
}

/// Puts a copy of an array into a state.
template <class S>
void set_part(std::string_view function, shared_gpu& on, device_matrix<S>& to, const shared_array& from) {
    require_same_backend(function, "an array", from->on(), on);
    const auto& shape = from->shape();
    const element& type = element_of<S>();
    detail::require<value_error>(&from->type() == &type, function, type.name, from->type().name);
    detail::require<shape_error>(shape.size() == 1 || shape.size() == 2, function, "one or two dimensions",
                                 fmt::format("{}", shape.size()));
    device_matrix<S> fresh(from->on()->backend(), shape.size() == 1 ? 1 : shape[0], shape.back());
    from->on()->run([&] {
        cuda::detail::copy_on_device(*from->on()->state(), fresh.data(), from->bytes(), from->data(), from->bytes(),
                                     from->bytes(), 1);
        return 0;
    });
    to = std::move(fresh);
    on = from->on();
}

/// A property of a state of either type.
template <class State, class Float, class Double>
void def_part(py::class_<State>& c, const char* name, const char* full_name, device_matrix<float> Float::* narrow,
              device_matrix<double> Double::* wide, bool flat = false) {
    const auto field = [narrow, wide]<class S>(S& s) -> auto& {
        if constexpr (std::same_as<std::remove_const_t<S>, Float>) {
            return s.*narrow;
        } else {
            return s.*wide;
        }
    };
    c.def_property(
        name,
        [field, flat](const State& s) {
            return std::visit([&](const auto& v) { return part_of(s.on, field(v), flat); }, s.value);
        },
        [field, full_name](State& s, const shared_array& from) {
            std::visit([&](auto& v) { set_part(full_name, s.on, field(v), from); }, s.value);
        });
}

}  // namespace isic::python
