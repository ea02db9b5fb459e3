// SPDX-License-Identifier: Apache-2.0
// The kernels of nearest-neighbour search, compiled once per instruction set.
#include <isic/detail/kernels/targets.hpp>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "codebook.cpp"
#include <hwy/foreach_target.h>

#include <isic/detail/kernels/nearest-inl.hpp>

#if HWY_ONCE
#include <isic/detail/kernels/kd_tree-inl.hpp>
#include <isic/detail/kernels/packed_codes-inl.hpp>

namespace isic::inline ISIC_ABI::detail::kernels {

template class packed_codes<float>;
template class packed_codes<double>;

}  // namespace isic::inline ISIC_ABI::detail::kernels
#endif
