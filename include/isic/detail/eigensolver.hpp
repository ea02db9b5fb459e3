// Decompositions: symmetric eigenproblems, all pairs or the top of a large one, and the singular values of few columns.
#pragma once

#include <isic/detail/gram_schmidt.hpp>

namespace isic::inline ISIC_ABI::detail {

/// All eigenpairs of a symmetric matrix. Errors: numeric_error if the solver does not converge.
ISIC_API eigen_pairs full_eigen(const Eigen::MatrixXd& a);

/// The top r eigenpairs of a symmetric positive semi-definite matrix by block Krylov with full reorthogonalisation.
///
/// A block of r + 4 columns finds eigenvalues of multiplicity up to r + 4; residuals are brought below 1e-13 of the
/// largest eigenvalue, otherwise the full solver answers. Deterministic start.
ISIC_API eigen_pairs top_eigen(const Eigen::MatrixXd& a, index_t r);

/// Singular values of x [m x n], n of them, descending, with the left singular vectors (zero where the value is).
///
/// One-sided Jacobi (Hestenes 1958): small values keep digits that x^T x would lose. Meant for the few columns of a
/// basis: O(m n^2) a sweep, and a handful of sweeps.
ISIC_API eigen_pairs left_singular(Eigen::MatrixXd x);

}  // namespace isic::inline ISIC_ABI::detail

#ifdef ISIC_HEADER_ONLY
#include <isic/detail/eigensolver-inl.hpp>
#endif
