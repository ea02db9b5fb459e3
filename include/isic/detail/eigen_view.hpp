// SPDX-License-Identifier: Apache-2.0
/// \file
/// Eigen maps of matrices, and rows of any dtype as float64.
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <span>
#include <type_traits>

#include <Eigen/Core>

#include <isic/matrix.hpp>

namespace isic::inline ISIC_ABI::detail {

using row_matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using vector = Eigen::VectorXd;
using row_map = Eigen::Map<const row_matrix>;

inline row_map map(const matrix<double>& m) {
    return {m.data(), m.rows(), m.cols()};
}
inline Eigen::Map<row_matrix> map(matrix<double>& m) {
    return {m.data(), m.rows(), m.cols()};
}
inline Eigen::Map<const vector> map(std::span<const double> values) {
    return {values.data(), static_cast<index_t>(values.size())};
}

inline any_view view_of(const row_matrix& m) {
    return matrix_view<double>(m.data(), m.rows(), m.cols());
}

template <class M>
matrix<double> from_eigen(const M& m) {
    matrix<double> out(m.rows(), m.cols());
    map(out) = m;
    return out;
}

/// A copy of all values as T; exact unless T is narrower.
template <class T>
matrix<T> converted(any_view m) {
    matrix<T> out(m.rows, m.cols);
    visit(m, [&](auto rows) {
        for (index_t i = 0; i < rows.rows(); ++i) {
            std::ranges::transform(rows.row(i), out.row(i).begin(), [](auto x) { return static_cast<T>(x); });
        }
    });
    return out;
}

/// A row as an Eigen expression of float64.
template <class T>
auto as_doubles(std::span<T> row) {
    using stored = Eigen::Matrix<std::remove_const_t<T>, Eigen::Dynamic, 1>;
    return Eigen::Map<const stored>(row.data(), static_cast<index_t>(row.size())).template cast<double>();
}

/// Copies row i as float64 to out [cols].
ISIC_API void read_row(any_view m, index_t i, double* out);
/// Copies all rows as float64, row i to out + i * stride.
ISIC_API void read_rows(any_view m, double* out, index_t stride);

/// Rounds float64 values [cols] into row i; false if a value overflows the dtype.
ISIC_API bool store_row(const double* values, any_span m, index_t i);

template <class T>
bool all_finite(std::span<const T> values) {
    if constexpr (std::floating_point<T>) {
        const Eigen::Map<const Eigen::ArrayX<T>> x(values.data(), static_cast<index_t>(values.size()));
        return (x - x).sum() == T(0);  // infinity - infinity is NaN  NOLINT(misc-redundant-expression)
    } else {
        return std::ranges::all_of(values, [](T x) { return std::isfinite(static_cast<float>(x)); });
    }
}

/// A copy of all values as float64.
ISIC_API matrix<double> to_double(any_view m);

}  // namespace isic::inline ISIC_ABI::detail

#ifdef ISIC_HEADER_ONLY
#include <isic/detail/eigen_view-inl.hpp>
#endif
