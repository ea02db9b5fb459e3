/// \file
/// Look-ups in a codebook that lies on a device.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include <isic/codebook.hpp>
#include <isic/cuda/matrix.hpp>

namespace isic::inline ISIC_ABI {

namespace cuda {

class packed_codebook;
std::shared_ptr<const packed_codebook> pack_codebook(const std::shared_ptr<state>& s, rows_in codes, metric metric, std::span<const index_t> padding);
/// Asynchronous.
void nearest(const packed_codebook& codes, rows_in vectors, std::int64_t* ids);
/// Checks the vectors, and packs the codebook for one call. Waits.
void nearest(const std::shared_ptr<state>& s, rows_in vectors, rows_in codes, metric metric, std::span<const index_t> padding, std::int64_t* ids);

}  // namespace cuda

/// `code_index` on a device: a codebook packed for many look-ups.
///
/// The codebook [K x d] must stay where it is, unchanged, while the index is used. Takes 4 K d bytes. Rows listed in `padding`
/// never win and may hold anything. Cost O(K d). Waits. Errors: as on the CPU; cuda_error.
class device_code_index {
public:
    /// Packs it.
    template <device_matrix_like C>
    device_code_index(const cuda_backend& gpu, const C& codes, metric metric = metric::l2, std::span<const index_t> padding = {})
        : gpu_(gpu), packed_(cuda::pack_codebook(gpu.shared_state(), cuda::rows_of<typename C::value_type>(codes), metric, padding)) {}

    /// Ids of the nearest codes, [1 x n] on the device. vectors [n x d] of any storage; one that holds NaN or infinity, for which
    /// nobody looks, gets the first code that is no padding. Cost O(n K d), memory 4 n d bytes. Asynchronous. Errors: shape_error if
    /// the widths differ; cuda_error.
    template <device_matrix_like Z>
    device_matrix<std::int64_t> nearest(const Z& vectors) const {
        device_matrix<std::int64_t> ids(gpu_, 1, vectors.rows());
        cuda::nearest(*packed_, cuda::rows_of<typename Z::value_type>(vectors), ids.data());
        return ids;
    }

private:
    cuda_backend gpu_;
    std::shared_ptr<const cuda::packed_codebook> packed_;
};

/// Ids of the nearest codes, [1 x n] int64 on the device, by ||z - c||^2 in float64 (or of the normalised rows); ties go
/// to the lowest id. No matrix of distances is made.
///
/// vectors [n x d], codes [K x d] of any storage; rows in `padding` never win. Scores in float32 find the candidates; distances
/// in float64 decide between those that they cannot tell apart. Waits while it looks for NaN; memory 4 (n + K) d bytes. Cost
/// O(n K d). Errors: as on the CPU; cuda_error.
template <device_matrix_like Z, device_matrix_like C>
device_matrix<std::int64_t> nearest_codes(const cuda_backend& gpu, const Z& vectors, const C& codes, metric metric = metric::l2,
                                          std::span<const index_t> padding = {}) {
    device_matrix<std::int64_t> ids(gpu, 1, vectors.rows());
    cuda::nearest(gpu.shared_state(), cuda::rows_of<typename Z::value_type>(vectors), cuda::rows_of<typename C::value_type>(codes), metric,
                  padding, ids.data());
    return ids;
}

}  // namespace isic::inline ISIC_ABI
