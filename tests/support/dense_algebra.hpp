// SPDX-License-Identifier: Apache-2.0
// What takes the reference long, by columns in float64: compiled once, optimised and never sanitized.
#pragma once

#include <cstddef>

namespace isic_test {

/// x [rows x cols] = u diag(values) v^T, thin, values descending, by Eigen's JacobiSVD.
void decompose(const double* x, std::ptrdiff_t rows, std::ptrdiff_t cols, double* u, double* values, double* v);

/// Independent columns of q [rows x cols] made orthonormal, twice over.
void orthonormalise(double* q, std::ptrdiff_t rows, std::ptrdiff_t cols);

/// out [rows x cols] = a [rows x inner] b [inner x cols], in plain sums.
void multiply(const double* a, const double* b, std::ptrdiff_t rows, std::ptrdiff_t inner, std::ptrdiff_t cols,
              double* out);

}  // namespace isic_test
