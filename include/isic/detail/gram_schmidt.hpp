// Orthonormal columns: made, checked, and their signs.
#pragma once

#include <string_view>

#include <isic/detail/eigen_view.hpp>

namespace isic::inline ISIC_ABI::detail {

/// Takes from x its part along the orthonormal columns of q.
template <class Q>
void take_out(const Q& q, vector& x) {
    for (int pass = 0; pass < 2; ++pass) {  // twice is enough
        x -= q * (q.transpose() * x);
    }
}

/// Eigenvalues descending and the matching orthonormal eigenvectors.
struct eigen_pairs {
    vector values;
    Eigen::MatrixXd vectors;
};

/// Columns of x made orthonormal to q and to each other; those that vanish are dropped.
Eigen::MatrixXd orthonormal_rest(Eigen::MatrixXd x, const Eigen::MatrixXd& q);

/// Removes a unit axis from a second moment: (I - a a^T) G (I - a a^T).
ISIC_API void remove_axis(Eigen::MatrixXd& gram, const vector& axis);

/// Makes the entry of largest magnitude of each column positive; the first among equals.
ISIC_API void fix_signs(Eigen::MatrixXd& v);

/// Throws unless the columns of a basis [d x r] are orthonormal to 1e-6, as a basis stored in float32 still is.
ISIC_API void require_orthonormal(std::string_view function, const matrix<double>& basis);

}  // namespace isic::inline ISIC_ABI::detail

#ifdef ISIC_HEADER_ONLY
#include <isic/detail/gram_schmidt-inl.hpp>
#endif
