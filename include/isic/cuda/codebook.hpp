// SPDX-License-Identifier: Apache-2.0
/// \file
/// Nearest-neighbour search in a codebook on a device.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include <isic/codebook.hpp>
#include <isic/cuda/matrix.hpp>

namespace isic::inline ISIC_ABI {

namespace cuda::detail {

class packed_codebook;
std::shared_ptr<const packed_codebook> pack_codebook(const std::shared_ptr<state>& s, any_device_view codes,
                                                     metric metric, std::span<const index_t> padding);
/// Asynchronous.
void nearest(const packed_codebook& codes, any_device_view vectors, std::int64_t* ids);
/// Checks the vectors, and packs the codebook for one call. Waits.
void nearest(const std::shared_ptr<state>& s, any_device_view vectors, any_device_view codes, metric metric,
             std::span<const index_t> padding, std::int64_t* ids);

}  // namespace cuda::detail

/// `code_index` on a device: a codebook packed once for many queries. Copies share the packed codes. Not thread-safe, like its
/// backend.
///
/// The codebook [K x d] must stay where it is, unchanged, while the index is in use. Memory 4 K d bytes. Rows listed in `padding`
/// never win and may hold anything. Cost O(K d). Waits. Errors: as on the CPU; cuda_error.
class device_code_index {
public:
    /// Packs the codes.
    template <device_matrix_like C>
    device_code_index(const cuda_backend& gpu, const C& codes, metric metric = metric::l2,
                      std::span<const index_t> padding = {})
        : gpu_(gpu),
          packed_(cuda::detail::pack_codebook(gpu.shared_state(), cuda::detail::view_of(codes), metric, padding)) {}

    /// Ids of the nearest codes, [1 x n] on the device; vectors [n x d] of any storage type. Vectors are not checked: one that
    /// holds NaN or infinity gets the first code that is no padding. Cost O(n K d), memory 4 n d bytes. Asynchronous. Errors:
    /// shape_error if the widths differ; cuda_error.
    template <device_matrix_like Z>
    [[nodiscard]] device_matrix<std::int64_t> nearest(const Z& vectors) const {
        device_matrix<std::int64_t> ids(gpu_, 1, vectors.rows());
        cuda::detail::nearest(*packed_, cuda::detail::view_of(vectors), ids.data());
        return ids;
    }

private:
    cuda_backend gpu_;
    std::shared_ptr<const cuda::detail::packed_codebook> packed_;
};

/// Ids of the nearest codes, [1 x n] int64 on the device, by ||z - c||^2 in float64 (cosine: of the normalised rows). Ties go to
/// the lowest id.
///
/// vectors [n x d], codes [K x d] of any storage type; rows in `padding` never win. float32 scores find the candidates; float64
/// distances re-rank them where the scores are ambiguous. Waits for the check of the vectors. Memory 4 (n + K) d bytes; no matrix
/// of distances is stored. Cost O(n K d). Errors: as on the CPU; cuda_error.
template <device_matrix_like Z, device_matrix_like C>
[[nodiscard]] device_matrix<std::int64_t> nearest_codes(const cuda_backend& gpu, const Z& vectors, const C& codes,
                                                        metric metric = metric::l2,
                                                        std::span<const index_t> padding = {}) {
    device_matrix<std::int64_t> ids(gpu, 1, vectors.rows());
    cuda::detail::nearest(gpu.shared_state(), cuda::detail::view_of(vectors), cuda::detail::view_of(codes), metric,
                          padding, ids.data());
    return ids;
}

}  // namespace isic::inline ISIC_ABI
