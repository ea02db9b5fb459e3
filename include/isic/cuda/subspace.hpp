/// \file
/// Differences and their harmful subspace on a device.
#pragma once

#include <memory>
#include <vector>

#include <isic/cuda/matrix.hpp>
#include <isic/differences.hpp>
#include <isic/subspace.hpp>

namespace isic::inline ISIC_ABI {

/// How the second moment is decomposed on a device.
enum class eigen_solver {
    automatic,   ///< jacobi up to width 32, randomised where the rules ask for few directions of many; else, and where they fail, syevd
    syevd,       ///< cuSOLVER's divide and conquer: all values
    jacobi,      ///< cuSOLVER's gesvdj of the symmetric matrix: all values, best for small widths
    randomised   ///< block subspace iteration with Chebyshev polynomials for the leading values only, to a residual of 1e-12 of the largest
};

/// The solver's name as it appears in reports.
constexpr std::string_view to_string(eigen_solver solver) {
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
    rank_options rank = {};                         ///< rank rules; sign flips need rows on the host
    centering center = centering::none;             ///< what to take out first
    eigen_solver solver = eigen_solver::automatic;  ///< how to decompose
};

/// A subspace, and the solver that found it.
struct device_fit {
    subspace harm;                              ///< on the host
    eigen_solver solver = eigen_solver::syevd;  ///< never `automatic`
};

namespace cuda {

/// Moments of differences on a device; what `device_accumulator` holds.
class moments {
public:
    /// For rows; keep_safe: also the second moment of the safe rows.
    moments(std::shared_ptr<state> owner, index_t width, bool keep_safe);
    /// For token ids over a codebook. Waits.
    moments(std::shared_ptr<state> owner, rows_in codes);
    moments(moments&&) noexcept;
    moments& operator=(moments&&) noexcept;
    ~moments();

    void add_rows(rows_in harmful, rows_in safe);   ///< asynchronous
    void add_ids(ids_in harmful, ids_in safe);      ///< asynchronous
    void add_safe(ids_in safe);                     ///< asynchronous
    void merge(const moments& other);               ///< asynchronous; the same backend

    index_t width() const;                          ///< d
    index_t count() const;                          ///< n
    matrix<double> second_moment() const;           ///< waits
    matrix<double> safe_second_moment() const;      ///< waits
    std::vector<double> mean() const;               ///< waits
    std::vector<double> safe_mean() const;          ///< waits
    code_usage usage() const;                       ///< waits
    device_fit fit(const device_fit_options& options) const;  ///< waits

private:
    struct parts;
    std::unique_ptr<parts> parts_;
};

}  // namespace cuda

/// `difference_accumulator` on a device: the same moments, float64, from rows or token ids that lie there.
///
/// Adding is asynchronous: NaN, infinity and ids outside [0, K) are found on the device, left out, and reported by the
/// next function that waits (all that return values, and `fit_subspace`), with numeric_error or value_error; from then on
/// the accumulator is spoilt. Differences are written in float64 chunks of 4096 rows and their Gram matrix is added by
/// cuBLAS dsyrk: as accurate as on the CPU. Memory O(d^2 + K) and 4096 rows of d. What is added must stay until the stream has
/// passed it. T is the codebook's dtype type.
template <scalar T = float>
class device_accumulator {
public:
    /// For rows of width d. keep_safe_moment: for centering::safe_axis, at twice the cost. Errors: shape_error, cuda_error.
    device_accumulator(const cuda_backend& gpu, index_t width, bool keep_safe_moment = false)
        : moments_(gpu.shared_state(), width, keep_safe_moment) {}
    /// For token ids over a codebook [K x d], which must outlive it unchanged. Waits. Errors: shape_error, numeric_error.
    device_accumulator(const cuda_backend& gpu, device_view<T> codes) : moments_(gpu.shared_state(), cuda::rows_of<T>(codes)) {}

    /// A pair of images, or of many: ids of one shape. Errors: shape_error if the sizes differ or it holds rows.
    template <device_matrix_like H, device_matrix_like S>
    void add(const H& harmful_ids, const S& safe_ids) {
        moments_.add_ids(cuda::flat_ids<typename H::value_type>("device_accumulator::add", harmful_ids),
                         cuda::flat_ids<typename S::value_type>("device_accumulator::add", safe_ids));
    }
    /// Counts the codes of safe images that are nobody's counterpart.
    template <device_matrix_like S>
    void add_safe(const S& safe_ids) {
        moments_.add_safe(cuda::flat_ids<typename S::value_type>("device_accumulator::add_safe", safe_ids));
    }
    /// Paired rows of embeddings, [m x d] each. Errors: shape_error.
    template <device_matrix_like H, device_matrix_like S>
    void add_rows(const H& harmful, const S& safe) {
        moments_.add_rows(cuda::rows_of<typename H::value_type>(harmful), cuda::rows_of<typename S::value_type>(safe));
    }
    /// Adds what another accumulator of the same backend saw. Errors: shape_error if width, codes, kind or keep_safe_moment differ.
    void merge(const device_accumulator& other) { moments_.merge(other.moments_); }

    index_t width() const { return moments_.width(); }                                        ///< d
    index_t count() const { return moments_.count(); }                                        ///< n, difference rows seen
    matrix<double> second_moment() const { return moments_.second_moment(); }                 ///< D^T D, [d x d]; waits
    matrix<double> safe_second_moment() const { return moments_.safe_second_moment(); }       ///< [d x d]; rows: keep_safe_moment; waits
    std::vector<double> mean() const { return moments_.mean(); }                              ///< mean difference, [d]; waits
    std::vector<double> safe_mean() const { return moments_.safe_mean(); }                    ///< [d]; rows: keep_safe_moment; waits
    code_usage usage() const { return moments_.usage(); }                                     ///< [K]; empty for rows; waits

    /// For `fit_subspace`.
    const cuda::moments& device_moments() const { return moments_; }

private:
    cuda::moments moments_;
};

/// Fits the harmful subspace to differences streamed on a device: V = the leading eigenvectors of D^T D, float64. Waits.
///
/// Only vectors and values come to the host, and with centring the moment [d x d]. Cost O(d^3). Errors: as on the CPU; cuda_error (not_converged,
/// out_of_memory). Source: as `fit_subspace`.
template <scalar T>
device_fit fit_subspace(const device_accumulator<T>& pairs, const device_fit_options& options = {}) {
    return pairs.device_moments().fit(options);
}

/// The same for difference rows D [n x d] on the device, by their moments: centring, too, is of the moments. Waits.
template <device_matrix_like M>
device_fit fit_subspace(const cuda_backend& gpu, const M& difference_rows, const device_fit_options& options = {}) {
    using T = typename M::value_type;
    const device_view<T> rows = difference_rows;
    detail::require<shape_error>(!rows.empty(), "fit_subspace", "difference rows with rows and columns",
                                 fmt::format("{} x {}", rows.rows(), rows.cols()));
    cuda::moments sums(gpu.shared_state(), rows.cols(), false);
    sums.add_rows(cuda::rows_of<T>(rows), {nullptr, cuda::dtype_of<T>(), rows.rows(), rows.cols(), rows.cols()});
    return sums.fit(options);
}

}  // namespace isic::inline ISIC_ABI
