// SPDX-License-Identifier: Apache-2.0
// A span becomes a view by itself; a view never becomes a span.
// expect: conversion from .*matrix_span<const float>.* to non-scalar type|no viable conversion from .*matrix_view<float>|no viable conversion from .*matrix_span<const float>
#include <isic/matrix.hpp>

void check(isic::matrix_span<float> span) {
    isic::matrix_view<float> view = span;
    static_cast<void>(view);
#ifdef ISIC_BROKEN
    isic::matrix_span<float> again = view;
    static_cast<void>(again);
#endif
}
