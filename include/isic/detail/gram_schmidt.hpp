// SPDX-License-Identifier: Apache-2.0
/// \file
/// Gram-Schmidt in float64: orthonormal columns, the part of a vector along them, and the signs of columns.
#pragma once

#include <string_view>

#include <isic/detail/eigen_view.hpp>

namespace isic::inline ISIC_ABI::detail {

/// x <- x - q q^T x for orthonormal columns q. Two passes: the second removes the rounding error of the first.
template <class Q>
void project_out(const Q& q, vector& x) {
    for (int pass = 0; pass < 2; ++pass) {
        x -= q * (q.transpose() * x);
    }
}

/// Eigenvalues, descending, and their orthonormal eigenvectors as columns.
struct eigen_pairs {
    vector values;
    Eigen::MatrixXd vectors;
};

/// An orthonormal basis of the columns of x, orthogonalised against the orthonormal columns of q too. A column that
/// keeps less than 1e-10 of its norm is dropped.
Eigen::MatrixXd orthonormalise_against(Eigen::MatrixXd x, const Eigen::MatrixXd& q);

/// An orthonormal basis of the columns of x. A column that keeps less than 1e-10 of its norm is dropped.
Eigen::MatrixXd orthonormalise(Eigen::MatrixXd x);

/// Deflates a second moment by a unit axis a: G <- (I - a a^T) G (I - a a^T).
ISIC_INTERNAL_API void deflate(Eigen::MatrixXd& gram, const vector& axis);

/// Makes the entry of largest magnitude of each column positive; among equal magnitudes the first decides.
ISIC_INTERNAL_API void fix_signs(Eigen::MatrixXd& v);

/// Throws value_error unless the columns of a basis [d x r] are orthonormal to 1e-6, which a basis stored in float32
/// satisfies.
ISIC_INTERNAL_API void require_orthonormal(std::string_view function, const matrix<double>& basis);

}  // namespace isic::inline ISIC_ABI::detail

#ifdef ISIC_HEADER_ONLY
#include <isic/detail/gram_schmidt-inl.hpp>
#endif
