/// \file
/// Options of projections, as keywords.
#pragma once

#include <isic/projection.hpp>

#include "values.hpp"

namespace isic::python {

/// What projection_options only views, kept for the time of the call.
class options_holder {
public:
    options_holder(std::string_view function, const py::kwargs& o)
        : target_(function, "target", o["target"]),
          center_(vector_of(function, "center", o["center"])),
          padding_(indices_of(function, "padding", o["padding"])) {
        if (o.contains("weights")) {
            weights_ = vector_of(function, "weights", o["weights"]);
        }
        options_.strength = strength_of(function, o["strength"]);
        options_.target = target_.view();
        options_.center = center_;
        options_.weights = weights_;
        options_.keep_norms = o["keep_norms"].cast<bool>();
        options_.rule = lookup_of(function, o["rule"].cast<std::string>());
        options_.padding = padding_;
        options_.vanished = vanished_of(function, o["vanished"].cast<std::string>());
        options_.vanish_below = o["vanish_below"].cast<double>();
        if (o.contains("threads")) {  // not on a device
            options_.use = resources_of(function, o["threads"].cast<int>());
        }
    }
    options_holder(const options_holder&) = delete;
    options_holder& operator=(const options_holder&) = delete;

    const projection_options& get() const { return options_; }

private:
    static per_code strength_of(std::string_view function, py::handle strength) {
        if (const auto all = number_in(strength)) {
            return *all;
        }
        return vector_of(function, "strength", strength);
    }

    doubles target_;
    std::vector<double> center_;
    std::vector<double> weights_;
    std::vector<index_t> padding_;
    projection_options options_;
};

}  // namespace isic::python
