/// \file
/// What an edit cost, on a device.
#pragma once

#include <span>

#include <isic/cuda/codebook.hpp>
#include <isic/metrics.hpp>

namespace isic::inline ISIC_ABI {

namespace cuda {

/// Share of vectors whose nearest code changed. Waits.
double churn(const std::shared_ptr<state>& s, rows_in vectors, rows_in before, rows_in after, metric metric, std::span<const index_t> padding);
/// Leakage of rows, read normalised if asked. Waits.
leakage_report leaked(const std::shared_ptr<state>& s, rows_in codes, const subspace& harm, std::span<const double> center,
                      std::span<const index_t> padding, metric metric = metric::l2);
/// Drift between two codebooks. Waits.
drift_report drifted(const std::shared_ptr<state>& s, rows_in before, rows_in after, std::span<const index_t> padding);
/// Uses of each code, [codes]. Waits.
std::vector<double> counted(const std::shared_ptr<state>& s, ids_in ids, index_t codes);

}  // namespace cuda

/// Share of vectors [n x d] whose nearest code changed, in [0, 1]. Waits. Errors: as on the CPU; cuda_error.
template <device_matrix_like Z, device_matrix_like B, device_matrix_like A>
double nearest_code_churn(const cuda_backend& gpu, const Z& vectors, const B& before, const A& after, metric metric = metric::l2,
                          std::span<const index_t> padding = {}) {
    return cuda::churn(gpu.shared_state(), cuda::rows_of<typename Z::value_type>(vectors), cuda::rows_of<typename B::value_type>(before),
                       cuda::rows_of<typename A::value_type>(after), metric, padding);
}

/// Leakage of codes [K x d] into a subspace around a center. Waits. Errors: as on the CPU; cuda_error.
template <device_matrix_like C>
leakage_report leakage(const cuda_backend& gpu, const C& codes, const subspace& harm, std::span<const double> center = {},
                       std::span<const index_t> padding = {}) {
    return cuda::leaked(gpu.shared_state(), cuda::rows_of<typename C::value_type>(codes), harm, center, padding);
}

/// Drift between two codebooks [K x d]. Waits. Errors: as on the CPU; cuda_error.
template <device_matrix_like B, device_matrix_like A>
drift_report drift(const cuda_backend& gpu, const B& before, const A& after, std::span<const index_t> padding = {}) {
    return cuda::drifted(gpu.shared_state(), cuda::rows_of<typename B::value_type>(before), cuda::rows_of<typename A::value_type>(after),
                         padding);
}

/// How often each code occurs among ids, [K]. Waits. Errors: value_error on an id outside [0, K); cuda_error.
template <device_matrix_like I>
std::vector<double> usage_counts(const cuda_backend& gpu, const I& ids, index_t codes) {
    return cuda::counted(gpu.shared_state(), cuda::flat_ids<typename I::value_type>("usage_counts", ids), codes);
}

}  // namespace isic::inline ISIC_ABI
