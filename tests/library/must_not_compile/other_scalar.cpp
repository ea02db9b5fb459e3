// An accumulator reads codes of the dtype type it was made for.
// expect: no matching (function|constructor) for
#include <isic/differences.hpp>

void check(const isic::matrix<float>& codes) {
    isic::difference_accumulator<float> same(codes);
    static_cast<void>(same);
#ifdef ISIC_BROKEN
    isic::difference_accumulator<double> other(codes);
    static_cast<void>(other);
#endif
}
