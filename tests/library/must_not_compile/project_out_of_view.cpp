// SPDX-License-Identifier: Apache-2.0
// Projection edits in place, so it needs memory that may be written: not a view, not a const matrix.
// expect: no matching function for call to .*project_out
#include <isic/projection.hpp>

void check(isic::matrix<float>& codes, const isic::subspace& harm) {
    isic::project_out(codes, harm);
    isic::project_out(codes.span(), harm);
#ifdef ISIC_BROKEN
    isic::project_out(codes.view(), harm);
#endif
}
