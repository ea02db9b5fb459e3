// SPDX-License-Identifier: Apache-2.0
/// \file
/// Conversion of results and options to and from the classes of isic/_results.py.
#pragma once

#include <string_view>

#include <isic/edit.hpp>
#include <isic/execution.hpp>
#include <isic/harmfulness.hpp>
#include <isic/metrics.hpp>
#include <isic/projection.hpp>
#include <isic/subspace.hpp>
#include <isic/update.hpp>

#include "memory.hpp"

namespace isic::python {

/// A member of a module of the package, e.g. a result class.
py::object member(const char* module, const char* name);

/// An instance of a result class; arguments in the order of its fields.
template <class... Args>
py::object make_value(const char* name, Args&&... args) {
    return member("isic._results", name)(std::forward<Args>(args)...);
}

py::object object_of(const code_usage& usage);
py::object object_of(const code_scores& scores);
py::object object_of(const rank_choice& chosen);
py::object object_of(const subspace& s);
py::object object_of(const leakage_report& r);
py::object object_of(const edit_summary& s);
py::object object_of(const update_summary& s);
py::object object_of(const drift_report& r);
py::object object_of(const rate& r);

/// The C++ value of a Python object. Errors: TypeError for another class.
subspace subspace_of(std::string_view function, std::string_view name, py::handle object);

/// The caller's packed basis, or make(subspace) for the duration of the call; None: rank 0.
template <class Basis>
class basis_holder {
public:
    template <class Make>
    basis_holder(std::string_view function, std::string_view name, py::handle object, Make&& make) {
        if (py::isinstance<Basis>(object)) {
            kept_ = object.cast<const Basis*>();
        } else {
            made_ = object.is_none() ? Basis() : make(subspace_of(function, name, object));
            kept_ = &made_;
        }
    }
    basis_holder(const basis_holder&) = delete;
    basis_holder& operator=(const basis_holder&) = delete;

    const Basis& get() const { return *kept_; }

private:
    Basis made_;
    const Basis* kept_ = nullptr;
};
code_usage usage_of(std::string_view function, py::handle object);
rate rate_of(std::string_view function, py::handle object);
assignments assignments_of(std::string_view function, py::handle object);
constraint constraint_of(std::string_view function, py::handle object);

/// Enumerators by name.
rank_rule rank_rule_of(std::string_view function, std::string_view word);
centering centering_of(std::string_view function, std::string_view word);
metric metric_of(std::string_view function, std::string_view word);
near_zero_policy near_zero_policy_of(std::string_view function, std::string_view word);

}  // namespace isic::python
