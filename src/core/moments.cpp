#include "moments.hpp"

#include <algorithm>

#include "rows.hpp"

namespace isic::detail {
namespace {

constexpr index_t block_rows = 256;  // rows that are converted at a time

/// f(first row, number of rows) for all blocks of n rows.
template <class F>
void for_each_block(index_t n, F f) {
    for (index_t start = 0; start < n; start += block_rows) {
        f(start, std::min(block_rows, n - start));
    }
}

template <class T>
void add_gram(matrix_view<T> rows, matrix<double>& gram, double* sums, const kernels::resources& use) {
    kernels::add_gram(rows.data(), rows.rows(), rows.cols(), rows.stride(), gram.data(), sums, use);
}

template <class T>
void add_difference_gram(matrix_view<T> harmful, matrix_view<T> safe, matrix<double>& gram, double* sums, const kernels::resources& use) {
    kernels::add_difference_gram(harmful.data(), harmful.stride(), safe.data(), safe.stride(), harmful.rows(), harmful.cols(),
                                 gram.data(), sums, use);
}

}  // namespace

void add_moments(any_view rows, matrix<double>& gram, double* sums, const kernels::resources& use) {
    if (rows.type == storage::f32) {
        add_gram(typed<float>(rows), gram, sums, use);
    } else if (rows.type == storage::f64) {
        add_gram(typed<double>(rows), gram, sums, use);
    } else {
        for_each_block(rows.rows, [&](index_t start, index_t n) {
            add_gram(converted<float>(rows.block(start, n)).view(), gram, sums, use);
        });
    }
    kernels::mirror_upper(gram.data(), gram.rows());
}

void add_difference_moments(any_view harmful, any_view safe, matrix<double>& gram, double* sums, const kernels::resources& use) {
    const auto both = [&](storage type) { return harmful.type == type && safe.type == type; };
    if (both(storage::f32)) {
        add_difference_gram(typed<float>(harmful), typed<float>(safe), gram, sums, use);
    } else if (both(storage::f64)) {
        add_difference_gram(typed<double>(harmful), typed<double>(safe), gram, sums, use);
    } else {
        for_each_block(harmful.rows, [&](index_t start, index_t n) {
            add_difference_gram(to_double(harmful.block(start, n)).view(), to_double(safe.block(start, n)).view(), gram, sums, use);
        });
    }
    kernels::mirror_upper(gram.data(), gram.rows());
}

}  // namespace isic::detail
