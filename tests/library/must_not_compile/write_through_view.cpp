// SPDX-License-Identifier: Apache-2.0
// A view reads; only a span writes.
// expect: assignment of read-only location|is not assignable|cannot assign to return value
#include <isic/matrix.hpp>

void check(isic::matrix_span<float> span, isic::matrix_view<float> view) {
    span(0, 0) = view(0, 0);
#ifdef ISIC_BROKEN
    view(0, 0) = span(0, 0);
#endif
}
