// SPDX-License-Identifier: Apache-2.0
// The projection kernels, compiled once per instruction set.
#include <isic/detail/kernels/targets.hpp>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "projection.cpp"
#include <hwy/foreach_target.h>

#include <isic/detail/kernels/packed_basis-inl.hpp>
#include <isic/detail/kernels/project-inl.hpp>

#if HWY_ONCE
namespace isic::inline ISIC_ABI::detail::kernels {

template class packed_basis<float>;
template class packed_basis<double>;
template small_d_projection<float> small_d_projection_of(const projection<float>&, index_t);
template small_d_projection<double> small_d_projection_of(const projection<double>&, index_t);
template void project(float*, index_t, index_t, index_t, const projection<float>&, const execution&);
template void project(double*, index_t, index_t, index_t, const projection<double>&, const execution&);

}  // namespace isic::inline ISIC_ABI::detail::kernels
#endif
