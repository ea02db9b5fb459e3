// SPDX-License-Identifier: Apache-2.0
// What the tests of the backend share.
#pragma once

#include <doctest/doctest.h>

#include <isic/cuda/codebook.hpp>
#include <isic/cuda/fused.hpp>
#include <isic/cuda/metrics.hpp>
#include <isic/cuda/projection.hpp>
#include <isic/cuda/subspace.hpp>
#include <isic/cuda/update.hpp>
#include <isic/detail/eigen_view.hpp>

#include "support/data.hpp"
#include "support/errors.hpp"

namespace isic_test {

/// The bytes of a device matrix.
template <class T>
std::vector<std::byte> bytes_on(const isic::cuda_backend& gpu, const isic::device_matrix<T>& m) {
    return bytes_of(isic::download(gpu, m));
}

inline std::vector<std::int64_t> ids_on(const isic::cuda_backend& gpu, const isic::device_matrix<std::int64_t>& m) {
    std::vector<std::int64_t> out(static_cast<std::size_t>(m.cols()));
    isic::download<std::int64_t>(gpu, m.view(), out.data(), m.cols());
    return out;
}

/// Rows whose directions fall off: the leading ones are well apart.
inline isic::matrix<double> decaying(random& r, index_t n, index_t d, double by = 0.7) {
    isic::matrix<double> out = r.matrix(n, d);
    for (index_t i = 0; i < n; ++i) {
        for (index_t j = 0; j < d; ++j) {
            out(i, j) *= std::pow(by, static_cast<double>(j));
        }
    }
    return out;
}

inline double largest_difference(const isic::matrix<double>& a, const isic::matrix<double>& b) {
    REQUIRE(a.rows() == b.rows());
    REQUIRE(a.cols() == b.cols());
    double worst = 0;
    for (index_t i = 0; i < a.rows(); ++i) {
        for (index_t j = 0; j < a.cols(); ++j) {
            worst = std::max(worst, std::abs(a(i, j) - b(i, j)));
        }
    }
    return worst;
}

/// The most by which two codebooks differ, in units of the last place at the size of the first's largest value.
template <class T>
double ulps_apart(const isic::matrix<T>& a, const isic::matrix<T>& b) {
    double largest = 0;
    for (index_t i = 0; i < a.rows(); ++i) {
        for (index_t j = 0; j < a.cols(); ++j) {
            largest = std::max(largest, std::abs(static_cast<double>(a(i, j))));
        }
    }
    return largest_difference(isic::detail::to_double(a.view()), isic::detail::to_double(b.view())) /
           (2 * unit<T> * largest);
}

}  // namespace isic_test
