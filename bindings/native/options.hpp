// SPDX-License-Identifier: Apache-2.0
/// \file
/// Options of projections, from keywords.
#pragma once

#include <isic/projection.hpp>

#include "values.hpp"

namespace isic::python {

/// Options of a projection, with the arrays that they view. Lives for the duration of the call.
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
        options_.keep_norms = option_of<bool>(function, "keep_norms", o["keep_norms"]);
        options_.metric = metric_of(function, option_of<std::string>(function, "metric", o["metric"]));
        options_.padding = padding_;
        options_.near_zero =
            near_zero_policy_of(function, option_of<std::string>(function, "near_zero", o["near_zero"]));
        options_.near_zero_below = option_of<double>(function, "near_zero_below", o["near_zero_below"]);
        if (o.contains("threads")) {  // absent for a device
            options_.execution = {.threads = option_of<int>(function, "threads", o["threads"])};
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
        const auto each = numbers<double>(function, "strength", strength, 1);
        return std::vector<double>(each.data(), each.data() + each.size());
    }

    doubles target_;
    std::vector<double> center_;
    std::vector<double> weights_;
    std::vector<index_t> padding_;
    projection_options options_;
};

}  // namespace isic::python
