// SPDX-License-Identifier: Apache-2.0
/// \file
/// Symmetric eigenproblems, complete or leading pairs only, and the singular values of a matrix of few columns.
#pragma once

#include <string_view>

#include <isic/detail/gram_schmidt.hpp>

namespace isic::inline ISIC_ABI::detail {

/// All eigenpairs of a symmetric matrix. Cost O(d^3). Errors: numeric_error naming `function` if the solver does not
/// converge.
ISIC_INTERNAL_API eigen_pairs full_eigen(const Eigen::MatrixXd& a, std::string_view function);

/// The leading r eigenpairs of a symmetric positive semi-definite matrix, by block Krylov with full
/// reorthogonalisation.
///
/// A block of r + 4 columns finds eigenvalues of multiplicity up to r + 4. It stops at residuals below 1e-13 of the
/// largest eigenvalue; without convergence, and for small or large r / d, the full solver computes the result. The
/// start is deterministic. Errors: as `full_eigen`.
ISIC_INTERNAL_API eigen_pairs top_eigen(const Eigen::MatrixXd& a, index_t r, std::string_view function);

/// The n singular values of x [m x n], descending, with the left singular vectors (zero for a singular value of zero).
///
/// One-sided Jacobi: small values keep digits that x^T x would lose. For the few columns of a basis: O(m n^2) per
/// sweep, and typically fewer than ten sweeps. Source: Hestenes (1958).
ISIC_INTERNAL_API eigen_pairs left_singular(Eigen::MatrixXd x);

}  // namespace isic::inline ISIC_ABI::detail

#ifdef ISIC_HEADER_ONLY
#include <isic/detail/eigensolver-inl.hpp>
#endif
