// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <isic/detail/eigen_view.hpp>
#include <isic/detail/rounding.hpp>

namespace isic::inline ISIC_ABI::detail {

ISIC_INLINE matrix<double> to_double(any_view m) {
    return converted<double>(m);
}

ISIC_INLINE void read_rows(any_view m, double* out, index_t stride) {
    visit(m, [&](auto rows) {
        for (index_t i = 0; i < rows.rows(); ++i) {
            Eigen::Map<vector>(out + i * stride, m.cols) = as_doubles(rows.row(i));
        }
    });
}

ISIC_INLINE void read_row(any_view m, index_t i, double* out) {
    read_rows(m.block(i, 1), out, m.cols);
}

ISIC_INLINE bool store_row(const double* values, any_span m, index_t i) {
    return visit(m, [&]<class T>(matrix_span<T> rows) {
        if constexpr (std::floating_point<T>) {
            Eigen::Map<Eigen::VectorX<T>>(rows.row(i).data(), m.cols) =
                Eigen::Map<const vector>(values, m.cols).cast<T>();
        } else {
            std::transform(values, values + m.cols, rows.row(i).begin(), rounded<T>);
        }
        return all_finite(std::span<const T>(rows.row(i)));
    });
}

}  // namespace isic::inline ISIC_ABI::detail
