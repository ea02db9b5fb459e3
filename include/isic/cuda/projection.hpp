// SPDX-License-Identifier: Apache-2.0
/// \file
/// Projection of a subspace out of a codebook on a device, in place, and its undo.
#pragma once

#include <cstdint>
#include <vector>

#include <isic/cuda/matrix.hpp>
#include <isic/edit.hpp>
#include <isic/projection.hpp>

namespace isic::inline ISIC_ABI {

namespace cuda::detail {

/// The contents of a `device_edit`.
struct edit_record {
    buffer before;                 ///< the old rows, contiguous; empty if the edit cannot be undone
    dtype type = dtype::f32;       ///< element type of the codebook
    index_t rows = 0;              ///< K
    index_t cols = 0;              ///< d
    std::uint64_t hash_after = 0;  ///< hash of the edited codebook's bytes
    edit_summary summary;          ///< counts, leakage and drift
    std::vector<index_t> ids;      ///< rows whose bytes changed, ascending
};

/// Projects in place, or remaps if harm is null. `target`: device pointer to [K x d] contiguous float64, or null. Waits.
edit_record project(const std::shared_ptr<state>& s, std::string_view function, any_device_span codes,
                    const subspace* harm, const projection_options& options, const double* target, bool can_undo);
/// Restores the old rows. Waits.
void undo(const std::shared_ptr<state>& s, const edit_record& record, any_device_span codes);
/// Throws unless the target is contiguous, of the codebook's shape, apart from it, and the only one.
void check_device_target(any_device_span codes, device_view<double> target, const projection_options& options);

}  // namespace cuda::detail

/// The record of a projection on a device; undoes it there, bit for bit. Movable. Not thread-safe, like its backend.
class device_edit {
public:
    device_edit() = default;
    /// Used by `project_out` and `remap`.
    device_edit(std::shared_ptr<cuda::detail::state> owner, cuda::detail::edit_record record)
        : owner_(std::move(owner)), record_(std::move(record)) {}

    /// Restores the old bytes. Waits. Errors: shape_error; value_error if `codes` is not the edited codebook or the old rows were
    /// not kept; nothing is written then.
    template <mutable_device_matrix_like C>
    void undo(C&& codes) const {
        cuda::detail::undo(owner_, record_, cuda::detail::span_of(codes));
    }

    [[nodiscard]] const edit_summary& summary() const noexcept {
        return record_.summary;
    }  ///< counts, leakage and drift
    [[nodiscard]] const std::vector<index_t>& ids() const noexcept { return record_.ids; }  ///< changed rows, ascending
    [[nodiscard]] bool can_undo() const noexcept {
        return record_.before.size() > 0;
    }  ///< whether the old rows were kept

private:
    std::shared_ptr<cuda::detail::state> owner_;
    cuda::detail::edit_record record_;
};

/// Options of `project_out` that only the device version has.
struct device_projection_options {
    device_view<double> target = {};  ///< t [K x d] contiguous on the device, in place of projection_options::target
    bool can_undo = true;             ///< keep the old rows on the device: K d values of memory
};

/// Projects a subspace out of a codebook on the device, in place: c_k <- c_k + s_k (t_k - c_k) V diag(w) V^T, in float64, rounded
/// once. Every option means what it means on the CPU. Waits.
///
/// Besides the projection it checks for NaN, copies the old rows, measures leakage and drift and hashes the bytes, one pass each.
/// Arguments are checked before a row is written; after a later failure the old rows are restored from the copy. Cost O(K d r).
/// Errors: as on the CPU; value_error if d > 4096; cuda_error.
template <mutable_device_matrix_like C>
device_edit project_out(const cuda_backend& gpu, C&& codes, const subspace& harm,
                        const projection_options& options = {}, const device_projection_options& device = {}) {
    const any_device_span c = cuda::detail::span_of(codes);
    cuda::detail::check_device_target(c, device.target, options);
    return {gpu.shared_state(),
            cuda::detail::project(gpu.shared_state(), "project_out", c, &harm, options,
                                  device.target.empty() ? nullptr : device.target.data(), device.can_undo)};
}

/// Full remap, V = identity: c_k <- c_k + s_k (t_k - c_k), options.target on the host. Waits. Errors: as `project_out`.
template <mutable_device_matrix_like C>
device_edit remap(const cuda_backend& gpu, C&& codes, const projection_options& options) {
    return {gpu.shared_state(), cuda::detail::project(gpu.shared_state(), "remap", cuda::detail::span_of(codes),
                                                      nullptr, options, nullptr, true)};
}

}  // namespace isic::inline ISIC_ABI
