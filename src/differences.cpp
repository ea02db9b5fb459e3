// SPDX-License-Identifier: Apache-2.0
// The Gram kernel, compiled once per instruction set.
#include <isic/detail/kernels/targets.hpp>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "differences.cpp"
#include <hwy/foreach_target.h>

#include <isic/detail/kernels/gram-inl.hpp>

#if HWY_ONCE
namespace isic::inline ISIC_ABI::detail::kernels {

template void add_gram(const float*, index_t, index_t, index_t, double*, double*, const execution&);
template void add_gram(const double*, index_t, index_t, index_t, double*, double*, const execution&);
template void add_difference_gram(const float*, index_t, const float*, index_t, index_t, index_t, double*, double*,
                                  const execution&);
template void add_difference_gram(const double*, index_t, const double*, index_t, index_t, index_t, double*, double*,
                                  const execution&);

}  // namespace isic::inline ISIC_ABI::detail::kernels
#endif
