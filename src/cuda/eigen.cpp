#include "eigen.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels.hpp"

namespace isic::cuda {
namespace {

constexpr std::string_view caller = "fit_subspace";
constexpr index_t jacobi_width = 32;      // up to here one kernel of Jacobi sweeps beats a tridiagonalisation
constexpr index_t randomised_width = 256;  // from here a few products beat it, if few directions are wanted
constexpr index_t spare_columns = 8;
constexpr int most_iterations = 40;

using isic::detail::eigen_pairs;

int as_int(index_t n) {
    isic::detail::require<value_error>(n <= std::numeric_limits<int>::max(), caller, "sizes that fit 32 bits", fmt::format("{}", n));
    return static_cast<int>(n);
}

/// info of a cuSOLVER routine; waits.
void check_device_info(state& s, const scratch<int>& info, std::string_view call) {
    check_info(to_host(s, info.data(), 1).front(), caller, call);
}

/// values ascending and all vectors as columns of a, in a's memory. Waits.
std::vector<double> syevd(const std::shared_ptr<state>& s, double* a, index_t d) {
    constexpr cudaDataType type = CUDA_R_64F;
    const scratch<double> values(s, d);
    const scratch<int> info(s, 1);
    std::size_t device_bytes = 0;
    std::size_t host_bytes = 0;
    check(cusolverDnXsyevd_bufferSize(s->solver(), s->solver_params(), CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_LOWER, d, type, a, d, type,
                                      values.data(), type, &device_bytes, &host_bytes),
          caller, "cusolverDnXsyevd_bufferSize");
    const scratch<std::byte> device_work(s, static_cast<index_t>(device_bytes));
    std::vector<std::byte> host_work(host_bytes);
    const wait_on_exit wait(*s);
    check(cusolverDnXsyevd(s->solver(), s->solver_params(), CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_LOWER, d, type, a, d, type,
                           values.data(), type, device_work.data(), device_bytes, host_work.data(), host_bytes, info.data()),
          caller, "cusolverDnXsyevd");
    check_device_info(*s, info, "cusolverDnXsyevd");
    return to_host(*s, values.data(), d);
}

/// Columns [first, first + n) of a column-major matrix of d rows. Waits.
Eigen::MatrixXd columns_to_host(state& s, const double* a, index_t d, index_t first, index_t n) {
    const std::vector<double> values = to_host(s, a + first * d, d * n);
    return Eigen::Map<const Eigen::MatrixXd>(values.data(), d, n);
}

eigen_pairs by_syevd(const std::shared_ptr<state>& s, double* a, index_t d, index_t wanted) {
    const std::vector<double> ascending = syevd(s, a, d);
    const Eigen::MatrixXd vectors = columns_to_host(*s, a, d, d - wanted, wanted);
    return {Eigen::Map<const Eigen::VectorXd>(ascending.data(), d).reverse(), vectors.rowwise().reverse()};
}

/// Nothing promises orthonormal columns where values are zero, and NaN is no failure to cuSOLVER.
void require_orthonormal_pairs(const eigen_pairs& pairs) {
    const index_t n = pairs.vectors.cols();
    const double off = (pairs.vectors.transpose() * pairs.vectors - Eigen::MatrixXd::Identity(n, n)).norm();
    if (!(off <= 1e-9)) {
        throw cuda_error(fmt::format("isic::{}: cusolverDnDgesvdj gave directions that are not orthonormal, off by {}", caller, off),
                         cuda_failure::not_converged, "cuSOLVER", 0);
    }
}

eigen_pairs by_jacobi(const std::shared_ptr<state>& s, double* a, index_t d, index_t wanted) {
    gesvdjInfo_t raw = nullptr;
    check(cusolverDnCreateGesvdjInfo(&raw), caller, "cusolverDnCreateGesvdjInfo");
    const unique_handle<gesvdjInfo_t, cusolverDnDestroyGesvdjInfo> options(raw);
    check(mirror_lower(a, d, s->stream()), caller, "mirror_lower");
    const int n = as_int(d);
    const scratch<double> values(s, d);
    const scratch<double> left(s, d * d);
    const scratch<double> right(s, d * d);
    const scratch<int> info(s, 1);
    int work_size = 0;
    check(cusolverDnDgesvdj_bufferSize(s->solver(), CUSOLVER_EIG_MODE_VECTOR, 1, n, n, a, n, values.data(), left.data(), n, right.data(), n,
                                       &work_size, options.get()),
          caller, "cusolverDnDgesvdj_bufferSize");
    const scratch<double> work(s, work_size);
    check(cusolverDnDgesvdj(s->solver(), CUSOLVER_EIG_MODE_VECTOR, 1, n, n, a, n, values.data(), left.data(), n, right.data(), n, work.data(),
                            work_size, info.data(), options.get()),
          caller, "cusolverDnDgesvdj");
    check_device_info(*s, info, "cusolverDnDgesvdj");
    const std::vector<double> descending = to_host(*s, values.data(), d);
    eigen_pairs pairs{Eigen::Map<const Eigen::VectorXd>(descending.data(), d), columns_to_host(*s, left.data(), d, 0, wanted)};
    require_orthonormal_pairs(pairs);
    return pairs;
}

/// Subspace iteration with Rayleigh-Ritz; all matrices column-major on the device.
class subspace_iteration {
public:
    subspace_iteration(const std::shared_ptr<state>& s, const double* a, index_t d, index_t wanted)
        : s_(s), a_(a), d_(d), block_(std::min(d, wanted + spare_columns)), wanted_(wanted), q_(s, d * block_), image_(s, d * block_),
          ritz_(s, d * block_), small_(s, block_ * block_), reflectors_(s, block_) {
        std::vector<double> start(static_cast<std::size_t>(d * block_));
        for (std::size_t i = 0; i < start.size(); ++i) {
            start[i] = isic::detail::symmetric_uniform(0, i);
        }
        copy_to_device(*s_, q_.data(), bytes(), start.data(), bytes(), bytes(), 1);
    }

    /// Empty if the residual does not become small.
    std::optional<eigen_pairs> run() {
        double last = std::numeric_limits<double>::infinity();
        for (int i = 0; i < most_iterations; ++i) {
            orthonormalise();
            product(CUBLAS_OP_N, d_, block_, d_, a_, d_, q_.data(), d_, image_.data());          // A Q
            product(CUBLAS_OP_T, block_, block_, d_, q_.data(), d_, image_.data(), d_, small_.data());  // Q^T A Q
            const std::vector<double> ascending = syevd(s_, small_.data(), block_);
            product(CUBLAS_OP_N, d_, block_, block_, q_.data(), d_, small_.data(), block_, ritz_.data());  // vectors, ascending
            const Eigen::MatrixXd vectors = leading(ritz_);
            product(CUBLAS_OP_N, d_, block_, block_, image_.data(), d_, small_.data(), block_, ritz_.data());  // A times vectors
            const Eigen::VectorXd values = Eigen::Map<const Eigen::VectorXd>(ascending.data(), block_).reverse().head(wanted_);
            const double residual = (leading(ritz_) - vectors * values.asDiagonal()).norm();
            if (residual <= 1e-12 * std::max(values[0], std::numeric_limits<double>::min())) {
                return eigen_pairs{values, vectors};
            }
            if (i >= 4 && residual * std::pow(residual / last, most_iterations - i) > 1e-12 * values[0]) {
                return std::nullopt;  // at this pace it takes too long
            }
            last = residual;
            copy_on_device(*s_, q_.data(), bytes(), ritz_.data(), bytes(), bytes(), 1);
        }
        return std::nullopt;
    }

private:
    std::size_t bytes() const { return static_cast<std::size_t>(d_ * block_) * sizeof(double); }

    /// The last `wanted` columns, reversed: the leading pairs come first. Waits.
    Eigen::MatrixXd leading(const scratch<double>& m) const {
        return columns_to_host(*s_, m.data(), d_, block_ - wanted_, wanted_).rowwise().reverse();
    }

    /// out [m x n] = op(a) b, depth k.
    void product(cublasOperation_t op, index_t m, index_t n, index_t k, const double* a, index_t lda, const double* b, index_t ldb,
                 double* out) {
        const double one = 1;
        const double zero = 0;
        check(cublasDgemm_v2(s_->blas(), op, CUBLAS_OP_N, as_int(m), as_int(n), as_int(k), &one, a, as_int(lda), b, as_int(ldb), &zero, out,
                             as_int(m)),
              caller, "cublasDgemm");
    }

    /// q <- the Q of its QR factorisation.
    void orthonormalise() {
        const int rows = as_int(d_);
        const int cols = as_int(block_);
        int factor_size = 0;
        int form_size = 0;
        check(cusolverDnDgeqrf_bufferSize(s_->solver(), rows, cols, q_.data(), rows, &factor_size), caller, "cusolverDnDgeqrf_bufferSize");
        check(cusolverDnDorgqr_bufferSize(s_->solver(), rows, cols, cols, q_.data(), rows, reflectors_.data(), &form_size), caller,
              "cusolverDnDorgqr_bufferSize");
        const int size = std::max(factor_size, form_size);
        const scratch<double> work(s_, size);
        const scratch<int> info(s_, 1);
        check(cusolverDnDgeqrf(s_->solver(), rows, cols, q_.data(), rows, reflectors_.data(), work.data(), size, info.data()), caller,
              "cusolverDnDgeqrf");
        check_device_info(*s_, info, "cusolverDnDgeqrf");
        check(cusolverDnDorgqr(s_->solver(), rows, cols, cols, q_.data(), rows, reflectors_.data(), work.data(), size, info.data()), caller,
              "cusolverDnDorgqr");
        check_device_info(*s_, info, "cusolverDnDorgqr");
    }

    std::shared_ptr<state> s_;
    const double* a_;
    index_t d_;
    index_t block_;
    index_t wanted_;
    scratch<double> q_;
    scratch<double> image_;
    scratch<double> ritz_;
    scratch<double> small_;
    scratch<double> reflectors_;
};

eigen_solver chosen(eigen_solver solver, index_t d, index_t wanted, bool all_values) {
    const bool few = !all_values && wanted <= d / 8;
    if (solver == eigen_solver::randomised) {
        isic::detail::require<value_error>(!all_values, caller, "rank rules that need few values (Gavish-Donoho needs all) for eigen_solver::randomised",
                                           "one that needs all");
        return solver;
    }
    if (solver != eigen_solver::automatic) {
        return solver;
    }
    if (d <= jacobi_width) {
        return eigen_solver::jacobi;
    }
    return few && d >= randomised_width ? eigen_solver::randomised : eigen_solver::syevd;
}

}  // namespace

solved leading_eigenpairs(const std::shared_ptr<state>& s, double* a, index_t d, index_t wanted, bool all_values, eigen_solver solver) {
    const on_device guard(s->device());
    const eigen_solver used = chosen(solver, d, wanted, all_values);
    if (used == eigen_solver::jacobi) {
        const bool may_fail = solver == eigen_solver::automatic;  // its sweeps are limited, which syevd's steps are not
        const scratch<double> kept(s, may_fail ? d * d : 0);
        copy_on_device(*s, kept.data(), kept.bytes(), a, kept.bytes(), kept.bytes(), 1);
        try {
            return {by_jacobi(s, a, d, wanted), used};
        } catch (const cuda_error& e) {
            if (!may_fail || e.failure() != cuda_failure::not_converged) {
                throw;
            }
        }
        copy_on_device(*s, a, kept.bytes(), kept.data(), kept.bytes(), kept.bytes(), 1);
    }
    if (used == eigen_solver::randomised) {
        check(mirror_lower(a, d, s->stream()), caller, "mirror_lower");
        if (auto pairs = subspace_iteration(s, a, d, wanted).run()) {
            return {std::move(*pairs), used};
        }
    }
    return {by_syevd(s, a, d, wanted), eigen_solver::syevd};
}

}  // namespace isic::cuda
