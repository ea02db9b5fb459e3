/// \file
/// Taking a subspace out of a codebook that lies on a device, in place, and undoing it there.
#pragma once

#include <cstdint>
#include <vector>

#include <isic/cuda/matrix.hpp>
#include <isic/edit.hpp>
#include <isic/projection.hpp>

namespace isic::inline ISIC_ABI {

namespace cuda {

/// What an edit needs to be undone on the device; what `device_edit` holds.
struct edit_record {
    buffer before;                        ///< the rows as they were, contiguous; empty if the edit cannot be undone
    dtype type = dtype::f32;          ///< of the codebook
    index_t rows = 0;                     ///< K
    index_t cols = 0;                     ///< d
    std::uint64_t hash_after = 0;         ///< of the edited codebook's bytes
    edit_summary summary;                 ///< what was done
    std::vector<index_t> ids;             ///< rows whose bytes changed, ascending
};

/// Projects (harm) or remaps (no harm) in place. Waits.
edit_record project(const std::shared_ptr<state>& s, std::string_view function, rows_out codes, const subspace* harm,
                    const projection_options& options, const double* target, bool can_undo);
/// Puts the old rows back. Waits.
void undo(const std::shared_ptr<state>& s, const edit_record& record, rows_out codes);

}  // namespace cuda

/// What was done to a codebook on a device; undoes it there, bit for bit.
class device_edit {
public:
    device_edit() = default;
    /// For `project_out` and `remap`.
    device_edit(std::shared_ptr<cuda::state> owner, cuda::edit_record record) : owner_(std::move(owner)), record_(std::move(record)) {}

    /// Puts the old bytes back. Waits. Errors: shape_error, value_error if `codes` is not the edited codebook or the edit
    /// keeps no old rows; nothing is written then.
    template <mutable_device_matrix_like C>
    void undo(C&& codes) const {
        cuda::undo(owner_, record_, cuda::writable(device_span<typename std::remove_cvref_t<C>::value_type>(codes)));
    }

    const edit_summary& summary() const { return record_.summary; }   ///< what was done, in numbers
    const std::vector<index_t>& ids() const { return record_.ids; }   ///< rows that changed, ascending
    bool can_undo() const { return record_.before.size() > 0; }       ///< whether the old rows were kept

private:
    std::shared_ptr<cuda::state> owner_;
    cuda::edit_record record_;
};

/// Options of `project_out` on a device that the CPU does not have.
struct device_projection_options {
    device_view<double> target = {};  ///< t [K x d] contiguous on the device; projection_options::target must be empty then
    bool can_undo = true;             ///< keep the old rows on the device afterwards: K d values of memory
};

/// Projects a subspace out of a codebook on the device, in place: c_k <- c_k + s_k (t_k - c_k) V diag(w) V^T, in float64,
/// rounded once; every option means what it does on the CPU. Waits: the result has numbers.
///
/// Beside the projection it looks for NaN, keeps the old rows, measures leakage and drift and hashes the bytes, a pass each.
///
/// Whatever is wrong is found before a row is written, or the old rows, of which a copy is made first, are put back. Cost
/// O(K d r) and one pass to look for NaN. Errors: as on the CPU; value_error if d > 4096; cuda_error.
template <mutable_device_matrix_like C>
device_edit project_out(const cuda_backend& gpu, C&& codes, const subspace& harm, const projection_options& options = {},
                        const device_projection_options& on_device = {}) {
    using T = typename std::remove_cvref_t<C>::value_type;
    const device_span<T> c = codes;
    const device_view<double> target = on_device.target;
    if (!target.empty()) {
        detail::require_size("project_out", "target rows", c.rows(), target.rows());
        detail::require_size("project_out", "target columns", c.cols(), target.cols());
        detail::require<shape_error>(target.stride() == c.cols() && options.target.empty(), "project_out", "one contiguous target",
                                     "two, or one with gaps");
        cuda::require_apart("project_out", device_view<T>(c), target);
    }
    return {gpu.shared_state(), cuda::project(gpu.shared_state(), "project_out", cuda::writable(c), &harm, options,
                                              target.empty() ? nullptr : target.data(), on_device.can_undo)};
}

/// Full remap, V = identity: c_k <- c_k + s_k (t_k - c_k); options.target on the host. Errors: as `project_out`.
template <mutable_device_matrix_like C>
device_edit remap(const cuda_backend& gpu, C&& codes, const projection_options& options) {
    using T = typename std::remove_cvref_t<C>::value_type;
    return {gpu.shared_state(), cuda::project(gpu.shared_state(), "remap", cuda::writable(device_span<T>(codes)), nullptr, options, nullptr, true)};
}

}  // namespace isic::inline ISIC_ABI
