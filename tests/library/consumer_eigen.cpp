// SPDX-License-Identifier: Apache-2.0
// A program that uses Eigen too, for wider vectors than the library is compiled for: both align memory differently, and
// neither frees what the other allocated.
#include <cstdio>

#include <Eigen/Eigenvalues>

#include <isic/subspace.hpp>

int main() {
    const Eigen::MatrixXd a = Eigen::MatrixXd::Random(40, 40);
    const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(a * a.transpose());
    isic::matrix<double> rows(60, 40);
    for (isic::index_t i = 0; i < 2400; ++i) {
        rows.data()[i] = static_cast<double>(i * 37 % 101) / 101;
    }
    const isic::subspace harm = isic::fit_subspace(rows, {.rank = {.fixed = 3}});
    const double leakage = isic::leakage(rows, harm).total;
    std::printf("smallest eigenvalue %g, leakage %g\n", solver.eigenvalues()(0), leakage);
    return solver.eigenvalues()(0) > -1e-9 && leakage > 0 && leakage <= 1 ? 0 : 1;
}
