// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <isic/detail/moments.hpp>

#include <algorithm>

#include <isic/detail/eigen_view.hpp>
#include <isic/detail/kernels/kernels.hpp>

namespace isic::inline ISIC_ABI::detail {

inline constexpr index_t block_rows = 256;  // rows per conversion

/// Calls f(first row, number of rows) for every block of n rows.
template <class F>
void for_each_block(index_t n, F f) {
    for (index_t start = 0; start < n; start += block_rows) {
        f(start, std::min(block_rows, n - start));
    }
}

template <class T>
void add_gram(matrix_view<T> rows, matrix<double>& gram, double* sums, const execution& exec) {
    kernels::add_gram(rows.data(), rows.rows(), rows.cols(), rows.stride(), gram.data(), sums, exec);
}

template <class T>
void add_difference_gram(matrix_view<T> harmful, matrix_view<T> safe, matrix<double>& gram, double* sums,
                         const execution& exec) {
    kernels::add_difference_gram(harmful.data(), harmful.stride(), safe.data(), safe.stride(), harmful.rows(),
                                 harmful.cols(), gram.data(), sums, exec);
}

ISIC_INLINE void add_moments(any_view rows, matrix<double>& gram, double* sums, const execution& exec) {
    if (rows.type == dtype::f32) {
        add_gram(typed<float>(rows), gram, sums, exec);
    } else if (rows.type == dtype::f64) {
        add_gram(typed<double>(rows), gram, sums, exec);
    } else {
        for_each_block(rows.rows, [&](index_t start, index_t n) {
            add_gram(converted<float>(rows.block(start, n)).view(), gram, sums, exec);
        });
    }
    kernels::mirror_upper(gram.data(), gram.rows());
}

ISIC_INLINE void add_difference_moments(any_view harmful, any_view safe, matrix<double>& gram, double* sums,
                                        const execution& exec) {
    const auto both = [&](dtype type) { return harmful.type == type && safe.type == type; };
    if (both(dtype::f32)) {
        add_difference_gram(typed<float>(harmful), typed<float>(safe), gram, sums, exec);
    } else if (both(dtype::f64)) {
        add_difference_gram(typed<double>(harmful), typed<double>(safe), gram, sums, exec);
    } else {
        for_each_block(harmful.rows, [&](index_t start, index_t n) {
            add_difference_gram(to_double(harmful.block(start, n)).view(), to_double(safe.block(start, n)).view(), gram,
                                sums, exec);
        });
    }
    kernels::mirror_upper(gram.data(), gram.rows());
}

}  // namespace isic::inline ISIC_ABI::detail
