// SPDX-License-Identifier: Apache-2.0
// The Adam and EMA kernels, compiled once per instruction set.
#include <isic/detail/kernels/targets.hpp>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "update.cpp"
#include <hwy/foreach_target.h>

#include <isic/detail/kernels/adam-inl.hpp>
#include <isic/detail/kernels/ema-inl.hpp>

#if HWY_ONCE
namespace isic::inline ISIC_ABI::detail::kernels {

template void adam(const adam_arrays<float>&, const adam_step<float>&, const execution&);
template void adam(const adam_arrays<double>&, const adam_step<double>&, const execution&);
template void ema(const ema_arrays<float>&, const std::int32_t*, const ema_step<float>&, ema_workspace<float>&,
                  const execution&);
template void ema(const ema_arrays<float>&, const std::int64_t*, const ema_step<float>&, ema_workspace<float>&,
                  const execution&);
template void ema(const ema_arrays<double>&, const std::int32_t*, const ema_step<double>&, ema_workspace<double>&,
                  const execution&);
template void ema(const ema_arrays<double>&, const std::int64_t*, const ema_step<double>&, ema_workspace<double>&,
                  const execution&);

}  // namespace isic::inline ISIC_ABI::detail::kernels
#endif
