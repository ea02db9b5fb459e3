/// \file
/// isic::difference_accumulator for Python, over any dtype type.
#pragma once

#include <isic/differences.hpp>

#include "memory.hpp"

namespace isic::python {

/// Keeps the codebook that it looks into alive.
struct accumulator {
    explicit accumulator(index_t width) : moments(width) {}
    explicit accumulator(memory codes) : book(std::move(codes)), moments(book.view()) {}

    memory book;
    detail::difference_moments moments;
};

}  // namespace isic::python
