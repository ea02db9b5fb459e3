// The kernels of Adam and EMA, for every instruction set.
#include <isic/detail/kernels/targets.hpp>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "update.cpp"
#include <hwy/foreach_target.h>

#include <isic/detail/kernels/adam-inl.hpp>
#include <isic/detail/kernels/ema-inl.hpp>

#if HWY_ONCE
namespace isic::inline ISIC_ABI::detail::kernels {

template void adam(float*, index_t, const float*, index_t, float*, float*, index_t, index_t, index_t,
                   const adam_step<float>&, const execution&);
template void adam(double*, index_t, const double*, index_t, double*, double*, index_t, index_t, index_t,
                   const adam_step<double>&, const execution&);
template void ema(float*, index_t, float*, float*, index_t, index_t, index_t, const float*, index_t, const std::int32_t*,
                  index_t, const ema_step<float>&, ema_workspace<float>&, const execution&);
template void ema(float*, index_t, float*, float*, index_t, index_t, index_t, const float*, index_t, const std::int64_t*,
                  index_t, const ema_step<float>&, ema_workspace<float>&, const execution&);
template void ema(double*, index_t, double*, double*, index_t, index_t, index_t, const double*, index_t,
                  const std::int32_t*, index_t, const ema_step<double>&, ema_workspace<double>&, const execution&);
template void ema(double*, index_t, double*, double*, index_t, index_t, index_t, const double*, index_t,
                  const std::int64_t*, index_t, const ema_step<double>&, ema_workspace<double>&, const execution&);

}  // namespace isic::inline ISIC_ABI::detail::kernels
#endif
