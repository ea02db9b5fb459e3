// SPDX-License-Identifier: Apache-2.0
/// \file
/// Values of fused functions in float32 or float64, chosen at run time. For every backend: `Value` is a class template.
#pragma once

#include <string>
#include <string_view>
#include <variant>

#include "memory.hpp"

namespace isic::python {

/// The name of T in numpy and torch.
template <real T>
constexpr const char* real_name() {
    return std::same_as<T, float> ? "float32" : "float64";
}

/// A value in both precisions.
template <template <class> class Value>
struct in_both {
    Value<float> narrow;
    Value<double> wide;

    template <real T>
    const Value<T>& of() const {
        if constexpr (std::same_as<T, float>) {
            return narrow;
        } else {
            return wide;
        }
    }
};

/// A value in one of both precisions.
template <template <class> class Value>
using in_either = std::variant<Value<float>, Value<double>>;

/// The state in the precision of T. Errors: value_error, with the reason, if it has the other one.
template <real T, template <class> class Value>
Value<T>& get_real(std::string_view function, in_either<Value>& value, std::string_view reason = "as the codes are") {
    auto* found = std::get_if<Value<T>>(&value);
    require<value_error>(found != nullptr, function, fmt::format("a state of {}, {}", real_name<T>(), reason),
                         "one of the other type");
    return *found;
}

/// An empty value in the precision that a word names. Errors: value_error for another word.
template <template <class> class Value>
in_either<Value> empty_real(std::string_view function, std::string_view word) {
    const bool wide = choice<bool>(function, "dtype", word, {{"float32", false}, {"float64", true}});
    return wide ? in_either<Value>(Value<double>()) : in_either<Value>(Value<float>());
}

}  // namespace isic::python
