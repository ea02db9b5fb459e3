// SPDX-License-Identifier: Apache-2.0
#include "eigensolver.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include <Eigen/Cholesky>

#include <fmt/format.h>
#include <isic/detail/eigensolver.hpp>

#include "differences_kernels.hpp"

namespace isic::inline ISIC_ABI::cuda::detail {
namespace {

constexpr std::string_view caller = "fit_subspace";
constexpr index_t jacobi_width = 32;       // up to here one kernel of Jacobi sweeps beats a tridiagonalisation
constexpr index_t randomised_width = 256;  // from here a few products beat it, if few directions are wanted
constexpr index_t few_directions = 64;     // and the host soon solves what is left of the problem
constexpr int most_iterations = 12;
constexpr int most_products = 16;  // in one iteration

using isic::detail::eigen_pairs;

int as_int(index_t n) {
    isic::detail::require<value_error>(n <= std::numeric_limits<int>::max(), caller, "sizes that fit 32 bits",
                                       fmt::format("{}", n));
    return static_cast<int>(n);
}

/// The info of a cuSOLVER routine. Waits.
void check_device_info(state& s, const scratch<int>& info, std::string_view call) {
    check_info(to_host(s, info.data(), 1).front(), caller, call);
}

/// Eigenvalues ascending; overwrites a by the eigenvectors, as columns. Waits.
std::vector<double> syevd(const std::shared_ptr<state>& s, double* a, index_t d) {
    constexpr cudaDataType type = CUDA_R_64F;
    const scratch<double> values(s, d);
    const scratch<int> info(s, 1);
    std::size_t device_bytes = 0;
    std::size_t host_bytes = 0;
    check(cusolverDnXsyevd_bufferSize(s->solver(), s->solver_params(), CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_LOWER,
                                      d, type, a, d, type, values.data(), type, &device_bytes, &host_bytes),
          caller, "cusolverDnXsyevd_bufferSize");
    const scratch<std::byte> device_work(s, static_cast<index_t>(device_bytes));
    std::vector<std::byte> host_work(host_bytes);
    const wait_on_exit wait(*s);
    check(cusolverDnXsyevd(s->solver(), s->solver_params(), CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_LOWER, d, type,
                           a, d, type, values.data(), type, device_work.data(), device_bytes, host_work.data(),
                           host_bytes, info.data()),
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

/// cuSOLVER does not guarantee orthonormal columns for zero values, and does not report NaN.
void require_orthonormal_pairs(const eigen_pairs& pairs) {
    const index_t n = pairs.vectors.cols();
    const double off = (pairs.vectors.transpose() * pairs.vectors - Eigen::MatrixXd::Identity(n, n)).norm();
    if (!(off <= 1e-9)) {
        throw cuda_error(
            fmt::format("isic::{}: cusolverDnDgesvdj gave directions that are not orthonormal, off by {}", caller, off),
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
    check(cusolverDnDgesvdj_bufferSize(s->solver(), CUSOLVER_EIG_MODE_VECTOR, 1, n, n, a, n, values.data(), left.data(),
                                       n, right.data(), n, &work_size, options.get()),
          caller, "cusolverDnDgesvdj_bufferSize");
    const scratch<double> work(s, work_size);
    check(cusolverDnDgesvdj(s->solver(), CUSOLVER_EIG_MODE_VECTOR, 1, n, n, a, n, values.data(), left.data(), n,
                            right.data(), n, work.data(), work_size, info.data(), options.get()),
          caller, "cusolverDnDgesvdj");
    check_device_info(*s, info, "cusolverDnDgesvdj");
    const std::vector<double> descending = to_host(*s, values.data(), d);
    eigen_pairs pairs{Eigen::Map<const Eigen::VectorXd>(descending.data(), d),
                      columns_to_host(*s, left.data(), d, 0, wanted)};
    require_orthonormal_pairs(pairs);
    return pairs;
}

/// Coefficients that make the columns Y orthonormal, from Y^T Y; empty if a column is nearly dependent on others.
Eigen::MatrixXd orthonormalising(const Eigen::MatrixXd& gram) {
    const Eigen::VectorXd squares = gram.diagonal();
    const Eigen::VectorXd scale = (squares.array() > 0).select(squares.array().sqrt().inverse(), 1.0);
    const Eigen::MatrixXd scaled = scale.asDiagonal() * gram * scale.asDiagonal();
    const Eigen::LLT<Eigen::MatrixXd> factor(scaled);
    if (factor.info() != Eigen::Success || !(factor.matrixLLT().diagonal().minCoeff() > 1e-6)) {
        return {};
    }
    const Eigen::MatrixXd identity = Eigen::MatrixXd::Identity(gram.rows(), gram.cols());
    return scale.asDiagonal() * factor.matrixU().solve(identity);
}

/// Subspace iteration with Rayleigh-Ritz steps on the host. Between two steps a Chebyshev polynomial of the matrix amplifies the wanted
/// eigenvectors against the rest, whose eigenvalues are below the block's last. All matrices are column-major on the device.
class subspace_iteration {
public:
    subspace_iteration(const std::shared_ptr<state>& s, const double* a, index_t d, index_t wanted)
        : s_(s),
          a_(a),
          d_(d),
          block_(std::min(d, wanted + std::clamp<index_t>(wanted / 2, 8, 32))),
          wanted_(wanted),
          columns_(s, 2 * d * block_),
          ritz_(s, d * block_),
          images_(s, d * block_),
          small_(s, 2 * block_ * block_) {
        std::vector<double> start(static_cast<std::size_t>(d * block_));
        for (std::size_t i = 0; i < start.size(); ++i) {
            start[i] = isic::detail::symmetric_uniform(0, i);
        }
        copy_to_device(*s_, columns_.data(), bytes(), start.data(), bytes(), bytes(), 1);
    }

    /// Empty if the residual does not converge.
    std::optional<eigen_pairs> run() {
        double last = std::numeric_limits<double>::infinity();
        for (int i = 0; i < most_iterations; ++i) {
            const Eigen::VectorXd values = rayleigh_ritz();
            if (values.size() == 0) {
                return std::nullopt;
            }
            const Eigen::MatrixXd vectors = columns_to_host(*s_, ritz_.data(), d_, 0, wanted_);
            const Eigen::MatrixXd off =
                columns_to_host(*s_, images_.data(), d_, 0, wanted_) - vectors * values.head(wanted_).asDiagonal();
            const double residual = off.norm() / std::max(values[0], std::numeric_limits<double>::min());
            if (residual <= 1e-12) {
                return eigen_pairs{values.head(wanted_), vectors};
            }
            if (!std::isfinite(residual) ||
                (i >= 4 && residual * std::pow(residual / last, most_iterations - i) > 1e-12)) {
                return std::nullopt;  // at this pace it takes too long
            }
            last = residual;
            filter(values, residual);
        }
        return std::nullopt;
    }

private:
    std::size_t bytes() const { return static_cast<std::size_t>(d_ * block_) * sizeof(double); }

    /// Computes the Ritz vectors of the columns and their products with the matrix. Returns the Ritz values, descending; empty if a
    /// column is nearly dependent on others. Waits.
    Eigen::VectorXd rayleigh_ritz() {
        double* const image = columns_.data() + d_ * block_;
        product(CUBLAS_OP_N, d_, block_, d_, 1, a_, columns_.data(), 0, image);
        product(CUBLAS_OP_T, block_, 2 * block_, d_, 1, columns_.data(), columns_.data(), 0,
                small_.data());  // Y^T [Y, A Y]
        const Eigen::MatrixXd both = columns_to_host(*s_, small_.data(), block_, 0, 2 * block_);
        const Eigen::MatrixXd basis = orthonormalising(both.leftCols(block_));
        if (basis.size() == 0) {
            return {};
        }
        const eigen_pairs pairs =
            isic::detail::full_eigen(basis.transpose() * both.rightCols(block_) * basis, "fit_subspace");
        const Eigen::MatrixXd combinations = basis * pairs.vectors;
        const std::size_t small_bytes = static_cast<std::size_t>(block_ * block_) * sizeof(double);
        copy_to_device(*s_, small_.data(), small_bytes, combinations.data(), small_bytes, small_bytes, 1);
        product(CUBLAS_OP_N, d_, block_, block_, 1, columns_.data(), small_.data(), 0, ritz_.data());
        product(CUBLAS_OP_N, d_, block_, block_, 1, image, small_.data(), 0, images_.data());
        return pairs.values;
    }

    /// columns <- T(2 A / b - 1) ritz, T a Chebyshev polynomial: |T| <= 1 below b. The degree is limited so that remainders of the
    /// leading vectors in the others do not outgrow these.
    void filter(const Eigen::VectorXd& values, double residual) {
        const double b = std::max(values[block_ - 1], 1e-14 * values[0]);
        const double growth = std::min(1e12, 1e6 / std::min(1.0, residual));
        const double degree = std::log(2 * growth) / std::acosh(2 * values[0] / b - 1);  // infinite where all are alike
        double* before = ritz_.data();
        double* now = columns_.data();
        copy_on_device(*s_, now, bytes(), before, bytes(), bytes(), 1);
        product(CUBLAS_OP_N, d_, block_, d_, 2 / b, a_, before, -1, now);
        for (int i = 2; i <= most_products && i <= degree; ++i) {
            const double minus_two = -2;
            product(CUBLAS_OP_N, d_, block_, d_, 4 / b, a_, now, -1, before);
            check(cublasDaxpy_v2(s_->blas(), as_int(d_ * block_), &minus_two, now, 1, before, 1), caller,
                  "cublasDaxpy");
            std::swap(before, now);
        }
        if (now != columns_.data()) {
            copy_on_device(*s_, columns_.data(), bytes(), now, bytes(), bytes(), 1);
        }
    }

    /// out [m x n] = alpha op(a) b + beta out, inner dimension k; all contiguous.
    void product(cublasOperation_t op, index_t m, index_t n, index_t k, double alpha, const double* a, const double* b,
                 double beta, double* out) {
        check(cublasDgemm_v2(s_->blas(), op, CUBLAS_OP_N, as_int(m), as_int(n), as_int(k), &alpha, a,
                             as_int(op == CUBLAS_OP_N ? m : k), b, as_int(k), &beta, out, as_int(m)),
              caller, "cublasDgemm");
    }

    std::shared_ptr<state> s_;
    const double* a_;
    index_t d_;
    index_t block_;  // columns
    index_t wanted_;
    scratch<double> columns_;  // Y, and A Y behind them
    scratch<double> ritz_;
    scratch<double> images_;
    scratch<double> small_;
};

eigen_solver chosen(eigen_solver solver, index_t d, index_t wanted, bool all_values) {
    const bool few = !all_values && wanted <= d / 8 && wanted <= few_directions;
    if (solver == eigen_solver::randomised) {
        isic::detail::require<value_error>(
            !all_values, caller,
            "rank rules that need few values (Gavish-Donoho needs all) for eigen_solver::randomised",
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

solved leading_eigenpairs(const std::shared_ptr<state>& s, double* a, index_t d, index_t wanted, bool all_values,
                          eigen_solver solver) {
    const device_guard guard(s->device());
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

}  // namespace isic::inline ISIC_ABI::cuda::detail
