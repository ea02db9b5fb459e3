// SPDX-License-Identifier: Apache-2.0
// The codebook must outlive the accumulator that reads it.
// expect: (use of deleted function|call to deleted (constructor|function))
#include <isic/differences.hpp>

void check(const isic::matrix<float>& codes) {
    isic::difference_accumulator pairs(codes);
    static_cast<void>(pairs);
#ifdef ISIC_BROKEN
    isic::difference_accumulator dangling(isic::matrix<float>(2, 3));
    static_cast<void>(dangling);
#endif
}
