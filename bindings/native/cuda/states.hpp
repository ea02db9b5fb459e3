// SPDX-License-Identifier: Apache-2.0
/// \file
/// States of updates on a device, as Python objects.
#pragma once

#include <utility>
#include <variant>

#include <isic/cuda/update.hpp>

#include "../precision.hpp"
#include "../values.hpp"
#include "device_memory.hpp"

namespace isic::python {

/// A value in the memory of a backend; no backend while the value is empty.
template <class T>
struct on_a_backend {
    shared_gpu on;
    T value;
};

/// A state in one of both precisions.
template <template <class> class State>
using either_state_on_device = on_a_backend<in_either<State>>;

using adam_state_on_device = either_state_on_device<device_adam_state>;

/// The constructor of an empty state in the precision that a word names.
template <template <class> class State>
auto init_state(const char* function) {
    return py::init([function](const std::string& word) {
        return either_state_on_device<State>{nullptr, empty_real<State>(function, word)};
    });
}

inline void require_same_backend(std::string_view function, std::string_view name, const shared_gpu& expected,
                                 const shared_gpu& got) {
    require<value_error>(got == nullptr || got == expected, function, fmt::format("{} of the same backend", name),
                         "one of another");
}

/// A copy of a matrix of a state, [cols] if flat; none while the state is empty.
template <class S>
shared_array part_of(const shared_gpu& on, const device_matrix<S>& m, bool flat = false) {
    if (m.empty()) {
        return nullptr;
    }
    return on->run([&] {
        return copy_of(on, m, flat ? std::vector<index_t>{m.cols()} : std::vector<index_t>{m.rows(), m.cols()});
    });
}

/// Assigns a copy of an array to a matrix of a state.
template <class S>
void set_part(std::string_view function, shared_gpu& on, device_matrix<S>& to, const shared_array& from) {
    require_same_backend(function, "an array", from->on(), on);
    const auto& shape = from->shape();
    const element& type = element_of<S>();
    require<value_error>(&from->type() == &type, function, type.name, from->type().name);
    require<shape_error>(shape.size() == 1 || shape.size() == 2, function, "one or two dimensions",
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

/// A property for a matrix of a state, `part(state)`. Reading copies, so that no array outlives the state.
template <class... States, class Part>
void def_part(py::class_<on_a_backend<std::variant<States...>>>& c, const char* name, const char* full_name, Part part,
              bool flat = false) {
    using state = on_a_backend<std::variant<States...>>;
    c.def_property(
        name,
        [part, flat](const state& s) {
            return std::visit([&](const auto& v) { return part_of(s.on, part(v), flat); }, s.value);
        },
        [part, full_name](state& s, const shared_array& from) {
            std::visit([&](auto& v) { set_part(full_name, s.on, part(v), from); }, s.value);
        });
}

}  // namespace isic::python
