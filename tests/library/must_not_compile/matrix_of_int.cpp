// SPDX-License-Identifier: Apache-2.0
// Codes are float, double, half or bfloat16; integers are token ids.
// expect: constraints? (failure|not satisfied)
#include <isic/matrix.hpp>

void check() {
    isic::matrix<float> codes(2, 3);
    static_cast<void>(codes);
#ifdef ISIC_BROKEN
    isic::matrix<int> ids(2, 3);
    static_cast<void>(ids);
#endif
}
