// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <isic/detail/checks.hpp>
#include <isic/detail/gram_schmidt.hpp>

#include <algorithm>
#include <cmath>
#include <utility>

#include <fmt/format.h>

namespace isic::inline ISIC_ABI::detail {

ISIC_INLINE Eigen::MatrixXd orthonormalise_against(Eigen::MatrixXd x, const Eigen::MatrixXd& q) {
    Eigen::MatrixXd kept(x.rows(), 0);
    for (index_t j = 0; j < x.cols(); ++j) {
        vector v = x.col(j);
        const double before = v.norm();
        project_out(q, v);
        project_out(kept, v);
        if (v.norm() > 1e-10 * before && before > 0) {
            kept.conservativeResize(Eigen::NoChange, kept.cols() + 1);
            kept.rightCols(1) = v.normalized();
        }
    }
    return kept;
}

ISIC_INLINE Eigen::MatrixXd orthonormalise(Eigen::MatrixXd x) {
    const index_t d = x.rows();
    return orthonormalise_against(std::move(x), Eigen::MatrixXd(d, 0));
}

ISIC_INLINE void deflate(Eigen::MatrixXd& gram, const vector& axis) {
    const vector ga = gram * axis;
    const vector half = ga - 0.5 * axis.dot(ga) * axis;
    gram -= half * axis.transpose() + axis * half.transpose();
}

ISIC_INLINE void fix_signs(Eigen::MatrixXd& v) {
    for (index_t j = 0; j < v.cols(); ++j) {
        const double largest = v.col(j).cwiseAbs().maxCoeff();
        index_t i = 0;
        while (std::abs(v(i, j)) < largest * (1 - 1e-9)) {
            ++i;
        }
        if (v(i, j) < 0) {
            v.col(j) *= -1;
        }
    }
}

ISIC_INLINE void require_orthonormal(std::string_view function, const matrix<double>& basis) {
    require_finite(function, "the basis", basis.view());
    const auto v = map(basis);
    double worst = 0;
    for (index_t i = 0; i < v.cols(); ++i) {
        for (index_t j = 0; j <= i; ++j) {
            worst = std::max(worst, std::abs(v.col(i).dot(v.col(j)) - (i == j ? 1.0 : 0.0)));
        }
    }
    require<value_error>(worst <= 1e-6, function, "orthonormal columns in the basis (span_of makes them so)",
                         fmt::format("an entry of V^T V off by {}", worst));
}

}  // namespace isic::inline ISIC_ABI::detail
