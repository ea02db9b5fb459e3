/// \file
/// Nearest codes and what an edit cost, on a device.
#pragma once

#include <span>

#include <isic/cuda/device_matrix.hpp>
#include <isic/metrics.hpp>

namespace isic {

namespace cuda {

/// ids [n] of the nearest codes.
void nearest(const std::shared_ptr<state>& s, rows_in vectors, rows_in codes, lookup rule, std::span<const index_t> padding, std::int64_t* ids);
/// Share of vectors whose nearest code changed. Waits.
double churn(const std::shared_ptr<state>& s, rows_in vectors, rows_in before, rows_in after, lookup rule, std::span<const index_t> padding);
/// Leakage of rows, read normalised if asked. Waits.
leakage_report leaked(const std::shared_ptr<state>& s, rows_in codes, const subspace& harm, std::span<const double> center,
                      std::span<const index_t> padding, lookup rule = lookup::plain);
/// Drift between two codebooks. Waits.
drift_report drifted(const std::shared_ptr<state>& s, rows_in before, rows_in after, std::span<const index_t> padding);
/// Uses of each code, [codes]. Waits.
std::vector<double> counted(const std::shared_ptr<state>& s, ids_in ids, index_t codes);

}  // namespace cuda

/// Ids of the nearest codes, [1 x n] int64 on the device, by ||z - c||^2 in float64 (or of the normalised rows); ties go
/// to the lowest id. No matrix of distances is made.
///
/// vectors [n x d], codes [K x d] of any storage; rows in `padding` never win. Waits while it looks for NaN; memory
/// 8 (n + K) d bytes. Cost O(n K d). Errors: as on the CPU; cuda_error.
template <device_matrix_like Z, device_matrix_like C>
device_matrix<std::int64_t> nearest_codes(const cuda_backend& gpu, const Z& vectors, const C& codes, lookup rule = lookup::plain,
                                          std::span<const index_t> padding = {}) {
    device_matrix<std::int64_t> ids(gpu, 1, vectors.rows());
    cuda::nearest(gpu.shared_state(), cuda::rows_of<typename Z::value_type>(vectors), cuda::rows_of<typename C::value_type>(codes), rule,
                  padding, ids.data());
    return ids;
}

/// Share of vectors [n x d] whose nearest code changed, in [0, 1]. Waits. Errors: as on the CPU; cuda_error.
template <device_matrix_like Z, device_matrix_like B, device_matrix_like A>
double nearest_code_churn(const cuda_backend& gpu, const Z& vectors, const B& before, const A& after, lookup rule = lookup::plain,
                          std::span<const index_t> padding = {}) {
    return cuda::churn(gpu.shared_state(), cuda::rows_of<typename Z::value_type>(vectors), cuda::rows_of<typename B::value_type>(before),
                       cuda::rows_of<typename A::value_type>(after), rule, padding);
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

}  // namespace isic
