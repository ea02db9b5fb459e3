// SPDX-License-Identifier: Apache-2.0
#include "support/dense_algebra.hpp"

#include <Eigen/SVD>

namespace isic_test {

using map = Eigen::Map<Eigen::MatrixXd>;
using const_map = Eigen::Map<const Eigen::MatrixXd>;

void decompose(const double* x, std::ptrdiff_t rows, std::ptrdiff_t cols, double* u, double* values, double* v) {
    const Eigen::JacobiSVD<Eigen::MatrixXd, Eigen::HouseholderQRPreconditioner> both(
        const_map(x, rows, cols), Eigen::ComputeThinU | Eigen::ComputeThinV);
    map(u, rows, both.matrixU().cols()) = both.matrixU();
    map(values, both.singularValues().size(), 1) = both.singularValues();
    map(v, cols, both.matrixV().cols()) = both.matrixV();
}

void orthonormalise(double* q, std::ptrdiff_t rows, std::ptrdiff_t cols) {
    map columns(q, rows, cols);
    for (std::ptrdiff_t j = 0; j < cols; ++j) {
        for (int pass = 0; pass < 2; ++pass) {
            for (std::ptrdiff_t other = 0; other < j; ++other) {
                columns.col(j) -= columns.col(other).dot(columns.col(j)) * columns.col(other);
            }
            columns.col(j).normalize();
        }
    }
}

void multiply(const double* a, const double* b, std::ptrdiff_t rows, std::ptrdiff_t inner, std::ptrdiff_t cols,
              double* out) {
    map(out, rows, cols) = const_map(a, rows, inner).lazyProduct(const_map(b, inner, cols));
}

}  // namespace isic_test
