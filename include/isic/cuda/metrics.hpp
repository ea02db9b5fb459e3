// SPDX-License-Identifier: Apache-2.0
/// \file
/// The cost of an edit, measured on a device.
#pragma once

#include <span>
#include <vector>

#include <isic/cuda/codebook.hpp>
#include <isic/metrics.hpp>

namespace isic::inline ISIC_ABI {

namespace cuda::detail {

double nearest_code_churn(const std::shared_ptr<state>& s, any_device_view vectors, any_device_view before,
                          any_device_view after, metric metric, std::span<const index_t> padding);
leakage_report leakage(const std::shared_ptr<state>& s, any_device_view codes, const subspace& harm,
                       std::span<const double> center, std::span<const index_t> padding, metric metric = metric::l2);
drift_report drift(const std::shared_ptr<state>& s, any_device_view before, any_device_view after,
                   std::span<const index_t> padding);
std::vector<double> usage_counts(const std::shared_ptr<state>& s, device_ids ids, index_t codes);

}  // namespace cuda::detail

/// Share of vectors [n x d] whose nearest code changed, in [0, 1]. Waits. Errors: as on the CPU; cuda_error.
template <device_matrix_like Z, device_matrix_like B, device_matrix_like A>
[[nodiscard]] double nearest_code_churn(const cuda_backend& gpu, const Z& vectors, const B& before, const A& after,
                                        metric metric = metric::l2, std::span<const index_t> padding = {}) {
    return cuda::detail::nearest_code_churn(gpu.shared_state(), cuda::detail::view_of(vectors),
                                            cuda::detail::view_of(before), cuda::detail::view_of(after), metric,
                                            padding);
}

/// Leakage of codes [K x d] into a subspace around a center [d]. Waits. Errors: as on the CPU; cuda_error.
template <device_matrix_like C>
[[nodiscard]] leakage_report leakage(const cuda_backend& gpu, const C& codes, const subspace& harm,
                                     std::span<const double> center = {}, std::span<const index_t> padding = {}) {
    return cuda::detail::leakage(gpu.shared_state(), cuda::detail::view_of(codes), harm, center, padding);
}

/// Drift between two codebooks [K x d]. Waits. Errors: as on the CPU; cuda_error.
template <device_matrix_like B, device_matrix_like A>
[[nodiscard]] drift_report drift(const cuda_backend& gpu, const B& before, const A& after,
                                 std::span<const index_t> padding = {}) {
    return cuda::detail::drift(gpu.shared_state(), cuda::detail::view_of(before), cuda::detail::view_of(after),
                               padding);
}

/// Number of occurrences of each code among the ids, [K]. Waits. Errors: value_error on an id outside [0, K); cuda_error.
template <device_matrix_like I>
[[nodiscard]] std::vector<double> usage_counts(const cuda_backend& gpu, const I& ids, index_t codes) {
    return cuda::detail::usage_counts(gpu.shared_state(), cuda::detail::ids_of("usage_counts", ids), codes);
}

}  // namespace isic::inline ISIC_ABI
