// SPDX-License-Identifier: Apache-2.0
/// \file
/// isic::difference_accumulator with the memory of its codebook.
#pragma once

#include <isic/differences.hpp>

#include "memory.hpp"

namespace isic::python {

/// An accumulator that keeps its codebook alive.
struct accumulator {
    explicit accumulator(index_t width) : moments(width) {}
    explicit accumulator(memory codes) : book(std::move(codes)), moments(book.view()) {}

    memory book;
    difference_accumulator moments;
};

}  // namespace isic::python
