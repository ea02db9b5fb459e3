// SPDX-License-Identifier: Apache-2.0
// A const codebook is left alone.
// expect: no matching function for call to .*project_out
#include <isic/projection.hpp>

void check(isic::matrix<float>& codes, const isic::subspace& harm) {
    isic::project_out(codes, harm);
#ifdef ISIC_BROKEN
    isic::project_out(std::as_const(codes), harm);
#endif
}
