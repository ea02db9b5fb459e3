// SPDX-License-Identifier: Apache-2.0
// A codebook has rows and columns; a plain list of numbers has not.
// expect: no matching function for call to .*project_out
#include <isic/projection.hpp>

#include <vector>

void check(std::vector<float>& numbers, const isic::subspace& harm) {
    isic::project_out(isic::matrix_span<float>(numbers.data(), 1, 4), harm);
#ifdef ISIC_BROKEN
    isic::project_out(numbers, harm);
#endif
}
