// SPDX-License-Identifier: Apache-2.0
/// \file
/// Differences and their harmful subspace on a device.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include <isic/cuda/matrix.hpp>
#include <isic/differences.hpp>
#include <isic/subspace.hpp>

namespace isic::inline ISIC_ABI {

/// The eigensolver of a second moment on a device.
enum class eigen_solver {
    automatic,  ///< jacobi up to width 32; randomised if the rank rules need few pairs of many; otherwise, and as fallback, syevd
    syevd,   ///< cuSOLVER's divide and conquer: all pairs
    jacobi,  ///< cuSOLVER's gesvdj of the symmetric matrix: all pairs; fastest for small widths
    randomised  ///< block subspace iteration with Chebyshev polynomials: leading pairs, residual 1e-12 of the largest value
};

/// The solver's name in reports.
[[nodiscard]] constexpr std::string_view to_string(eigen_solver solver) noexcept {
    switch (solver) {
        case eigen_solver::automatic: return "automatic";
        case eigen_solver::syevd: return "syevd";
        case eigen_solver::jacobi: return "jacobi";
        case eigen_solver::randomised: return "randomised";
    }
    return "unknown";
}

/// Options of `fit_subspace` on a device.
struct device_fit_options {
    rank_options rank = {};                         ///< rank rules; sign flips need difference rows on the host
    centering center = centering::none;             ///< the mean or axis removed before the decomposition
    eigen_solver solver = eigen_solver::automatic;  ///< the eigensolver
};

/// A subspace and the solver that computed it.
struct device_fit {
    isic::subspace subspace;                    ///< the harmful subspace, on the host
    eigen_solver solver = eigen_solver::syevd;  ///< never `automatic`
};

namespace cuda::detail {

/// Moments of differences on a device: the implementation of `device_accumulator`. Not thread-safe.
class moments {
public:
    /// For rows; keep_safe: also the second moment of the safe rows.
    moments(std::shared_ptr<state> owner, index_t width, bool keep_safe);
    /// For token ids over a codebook. Waits.
    moments(std::shared_ptr<state> owner, any_device_view codes);
    moments(moments&&) noexcept;
    moments& operator=(moments&&) noexcept;
    ~moments();

    void add_rows(any_device_view harmful, any_device_view safe);  ///< asynchronous
    /// Rows that are differences already. Asynchronous.
    void add_differences(any_device_view rows);
    void add_ids(device_ids harmful, device_ids safe);  ///< asynchronous
    void add_safe(device_ids safe);                     ///< asynchronous
    void merge(const moments& other);                   ///< asynchronous; the same backend

    [[nodiscard]] index_t width() const noexcept;                           ///< d
    [[nodiscard]] index_t count() const noexcept;                           ///< n
    [[nodiscard]] matrix<double> second_moment() const;                     ///< waits
    [[nodiscard]] matrix<double> safe_second_moment() const;                ///< waits
    [[nodiscard]] std::vector<double> mean() const;                         ///< waits
    [[nodiscard]] std::vector<double> safe_mean() const;                    ///< waits
    [[nodiscard]] code_usage usage() const;                                 ///< waits
    [[nodiscard]] device_fit fit(const device_fit_options& options) const;  ///< waits

private:
    struct parts;
    std::unique_ptr<parts> parts_;
};

}  // namespace cuda::detail

/// `difference_accumulator` on a device: the same float64 moments, from rows or token ids on the device. Movable. Not thread-safe.
///
/// Adding is asynchronous: the device detects NaN, infinity and ids outside [0, K) and leaves them out. The next function that
/// waits (every one that returns values, and `fit_subspace`) throws numeric_error or value_error, and so do all later ones.
/// Differences are written in float64 chunks of 4096 rows; cuBLAS dsyrk adds their Gram matrix, as accurate as on the CPU. Memory
/// O(d^2 + K) and 4096 rows of d. Added memory must stay until the stream has passed the work.
class device_accumulator {
public:
    /// For rows of width d. keep_safe_moment: for centering::safe_axis, at twice the cost. Errors: shape_error, cuda_error.
    device_accumulator(const cuda_backend& gpu, index_t width, bool keep_safe_moment = false)
        : moments_(gpu.shared_state(), width, keep_safe_moment) {}
    /// For token ids over a codebook [K x d], which must outlive the accumulator unchanged. Waits. Errors: shape_error,
    /// numeric_error.
    template <device_matrix_like C>
    device_accumulator(const cuda_backend& gpu, const C& codes)
        : moments_(gpu.shared_state(), cuda::detail::view_of(codes)) {}

    /// One pair of images, or several: ids of equal shapes. Errors: shape_error if the sizes differ or the accumulator holds rows.
    template <device_matrix_like H, device_matrix_like S>
    void add(const H& harmful_ids, const S& safe_ids) {
        moments_.add_ids(cuda::detail::ids_of("device_accumulator::add", harmful_ids),
                         cuda::detail::ids_of("device_accumulator::add", safe_ids));
    }
    /// Counts the codes of safe images without a harmful counterpart.
    template <device_matrix_like S>
    void add_safe(const S& safe_ids) {
        moments_.add_safe(cuda::detail::ids_of("device_accumulator::add_safe", safe_ids));
    }
    /// Paired rows of embeddings, [m x d] each. Errors: shape_error.
    template <device_matrix_like H, device_matrix_like S>
    void add_rows(const H& harmful, const S& safe) {
        moments_.add_rows(cuda::detail::view_of(harmful), cuda::detail::view_of(safe));
    }
    /// Adds the sums of another accumulator of the same backend. Errors: shape_error if width, codes, kind or keep_safe_moment
    /// differ.
    void merge(const device_accumulator& other) { moments_.merge(other.moments_); }

    [[nodiscard]] index_t width() const noexcept { return moments_.width(); }  ///< d
    [[nodiscard]] index_t count() const noexcept { return moments_.count(); }  ///< n, number of difference rows
    [[nodiscard]] matrix<double> second_moment() const { return moments_.second_moment(); }  ///< D^T D, [d x d]; waits
    /// Second moment of the safe embeddings, [d x d]; of rows only with keep_safe_moment. Waits.
    [[nodiscard]] matrix<double> safe_second_moment() const { return moments_.safe_second_moment(); }
    [[nodiscard]] std::vector<double> mean() const { return moments_.mean(); }  ///< mean difference, [d]; waits
    /// Mean of the safe embeddings, [d]; of rows only with keep_safe_moment. Waits.
    [[nodiscard]] std::vector<double> safe_mean() const { return moments_.safe_mean(); }
    [[nodiscard]] code_usage usage() const { return moments_.usage(); }  ///< [K]; empty for rows; waits

    /// Used by `fit_subspace`.
    [[nodiscard]] const cuda::detail::moments& device_moments() const noexcept { return moments_; }

private:
    cuda::detail::moments moments_;
};

/// Fits the harmful subspace to differences accumulated on a device: V = the leading eigenvectors of D^T D, float64. Waits.
///
/// Only vectors and values are copied to the host; with centring also the moment [d x d]. Cost O(d^3). Errors: as on the CPU;
/// cuda_error (not_converged, out_of_memory). Source: as `fit_subspace`.
[[nodiscard]] inline device_fit fit_subspace(const device_accumulator& pairs, const device_fit_options& options = {}) {
    return pairs.device_moments().fit(options);
}

/// The same for difference rows D [n x d] on the device, by their moments; centring, too, is of the moments. Waits.
template <device_matrix_like M>
[[nodiscard]] device_fit fit_subspace(const cuda_backend& gpu, const M& difference_rows,
                                      const device_fit_options& options = {}) {
    const any_device_view rows = cuda::detail::view_of(difference_rows);
    cuda::detail::require_not_empty("fit_subspace", "difference rows", rows);
    cuda::detail::moments sums(gpu.shared_state(), rows.cols, false);
    sums.add_differences(rows);
    return sums.fit(options);
}

}  // namespace isic::inline ISIC_ABI
