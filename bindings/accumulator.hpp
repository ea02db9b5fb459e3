/// \file
/// isic::difference_accumulator for Python, over any storage type.
#pragma once

#include <variant>

#include <isic/differences.hpp>

#include "memory.hpp"

namespace isic::python {

/// Keeps the codebook that it looks into alive.
struct accumulator {
    using variant = std::variant<difference_accumulator<float>, difference_accumulator<double>, difference_accumulator<Eigen::half>,
                                 difference_accumulator<Eigen::bfloat16>>;

    explicit accumulator(index_t width);
    explicit accumulator(py::handle codes);

    memory book;
    variant pairs;
};

}  // namespace isic::python
