// The reference of decompositions: Eigen's JacobiSVD, float64. Compiled once.
#pragma once

#include <algorithm>

#include "support/reference.hpp"

namespace isic_test {

/// x [rows x cols, by columns] = u diag(values) v^T, thin, values descending.
void decompose(const double* x, index_t rows, index_t cols, double* u, double* values, double* v);

struct svd {
    explicit svd(const dense& x) : u(x.rows(), std::min(x.rows(), x.cols())), values(u.cols()), v(x.cols(), u.cols()) {
        decompose(x.data(), x.rows(), x.cols(), u.data(), values.data(), v.data());
    }

    dense u;
    Eigen::VectorXd values;
    dense v;
};

}  // namespace isic_test
