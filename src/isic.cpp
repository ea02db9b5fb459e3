// SPDX-License-Identifier: Apache-2.0
// Everything but files and SIMD kernels.
#include <isic/isic.hpp>

#include <isic/detail/checks-inl.hpp>
#include <isic/detail/codebook-inl.hpp>
#include <isic/detail/differences-inl.hpp>
#include <isic/detail/edit-inl.hpp>
#include <isic/detail/eigen_view-inl.hpp>
#include <isic/detail/eigensolver-inl.hpp>
#include <isic/detail/error-inl.hpp>
#include <isic/detail/execution-inl.hpp>
#include <isic/detail/fused-inl.hpp>
#include <isic/detail/gram_schmidt-inl.hpp>
#include <isic/detail/harmfulness-inl.hpp>
#include <isic/detail/lexicon-inl.hpp>
#include <isic/detail/loop-inl.hpp>
#include <isic/detail/matrix-inl.hpp>
#include <isic/detail/metrics-inl.hpp>
#include <isic/detail/moments-inl.hpp>
#include <isic/detail/projection-inl.hpp>
#include <isic/detail/rank-inl.hpp>
#include <isic/detail/subspace-inl.hpp>
#include <isic/detail/subspace_fit-inl.hpp>
#include <isic/detail/subspace_merge-inl.hpp>
#include <isic/detail/update-inl.hpp>
#include <isic/detail/version-inl.hpp>

namespace isic::inline ISIC_ABI::fused {

template class ISIC_API basis<float>;
template class ISIC_API basis<double>;

namespace detail {

template ISIC_API void project_out(matrix_span<float>, const basis<float>&, const projection_options<float>&);
template ISIC_API void project_out(matrix_span<double>, const basis<double>&, const projection_options<double>&);
template ISIC_API void adam_update(matrix_span<float>, matrix_view<float>, adam_state<float>&, const adam_options&,
                                   const constraint<float>&);
template ISIC_API void adam_update(matrix_span<double>, matrix_view<double>, adam_state<double>&, const adam_options&,
                                   const constraint<double>&);
template ISIC_API void ema_update(matrix_span<float>, matrix_view<float>, const isic::detail::id_list&,
                                  ema_state<float>&, double, const constraint<float>&);
template ISIC_API void ema_update(matrix_span<double>, matrix_view<double>, const isic::detail::id_list&,
                                  ema_state<double>&, double, const constraint<double>&);

}  // namespace detail
}  // namespace isic::inline ISIC_ABI::fused
