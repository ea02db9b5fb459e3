#include <cstddef>

#include <Eigen/SVD>

namespace isic_test {

void decompose(const double* x, std::ptrdiff_t rows, std::ptrdiff_t cols, double* u, double* values, double* v) {
    const Eigen::JacobiSVD<Eigen::MatrixXd, Eigen::HouseholderQRPreconditioner> both(
        Eigen::Map<const Eigen::MatrixXd>(x, rows, cols), Eigen::ComputeThinU | Eigen::ComputeThinV);
    Eigen::Map<Eigen::MatrixXd>(u, rows, both.matrixU().cols()) = both.matrixU();
    Eigen::Map<Eigen::VectorXd>(values, both.singularValues().size()) = both.singularValues();
    Eigen::Map<Eigen::MatrixXd>(v, cols, both.matrixV().cols()) = both.matrixV();
}

}  // namespace isic_test
