// SPDX-License-Identifier: Apache-2.0
// What the library's results are compared with: float64, plain loops, no code of the library.
#pragma once

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <utility>
#include <vector>

#include <Eigen/Core>

#include <isic/matrix.hpp>
#include <isic/subspace.hpp>

#include "support/data.hpp"
#include "support/dense_algebra.hpp"

namespace isic_test {

using dense = Eigen::MatrixXd;

template <class T>
dense to_dense(isic::matrix_view<T> m) {
    dense out(m.rows(), m.cols());
    for (index_t i = 0; i < m.rows(); ++i) {
        for (index_t j = 0; j < m.cols(); ++j) {
            out(i, j) = static_cast<double>(m(i, j));
        }
    }
    return out;
}
template <class T>
dense to_dense(isic::matrix_span<T> m) {
    return to_dense(isic::matrix_view<T>(m));
}
template <class T>
dense to_dense(const isic::matrix<T>& m) {
    return to_dense(m.view());
}
inline isic::matrix<double> from_dense(const dense& m) {
    isic::matrix<double> out(m.rows(), m.cols());
    for (index_t i = 0; i < m.rows(); ++i) {
        for (index_t j = 0; j < m.cols(); ++j) {
            out(i, j) = m(i, j);
        }
    }
    return out;
}

inline dense product(const dense& a, const dense& b) {
    dense out(a.rows(), b.cols());
    multiply(a.data(), b.data(), a.rows(), a.cols(), b.cols(), out.data());
    return out;
}

/// Independent columns made orthonormal.
inline dense orthonormal(dense q) {
    orthonormalise(q.data(), q.rows(), q.cols());
    return q;
}

/// A thin singular value decomposition, u diag(values) v^T, values descending.
struct svd {
    explicit svd(const dense& x) : u(x.rows(), std::min(x.rows(), x.cols())), values(u.cols()), v(x.cols(), u.cols()) {
        decompose(x.data(), x.rows(), x.cols(), u.data(), values.data(), v.data());
    }

    dense u;
    Eigen::VectorXd values;
    dense v;
};

/// An orthonormal d x r basis of random directions.
inline dense random_basis(random& dice, index_t d, index_t r) {
    dense a(d, r);
    for (index_t i = 0; i < a.size(); ++i) {
        a.data()[i] = dice.normal();
    }
    return orthonormal(std::move(a));
}

/// An orthonormal basis of what is orthogonal to v [d x r]: [d x (d - r)].
inline dense complement(random& dice, const dense& v) {
    dense all(v.rows(), v.rows());
    all << v, random_basis(dice, v.rows(), v.rows() - v.cols());
    return orthonormal(all).rightCols(v.rows() - v.cols());
}

/// Coordinate axes as columns.
inline dense axis(index_t d, std::initializer_list<index_t> which) {
    dense out = dense::Zero(d, static_cast<index_t>(which.size()));
    index_t j = 0;
    for (const index_t i : which) {
        out(i, j++) = 1;
    }
    return out;
}

/// A subspace made by hand.
inline isic::subspace subspace_of(const dense& basis) {
    isic::subspace out;
    out.basis = from_dense(basis);
    out.singular_values.assign(static_cast<std::size_t>(basis.cols()), 1.0);
    out.energy = 1;
    out.chosen = {basis.cols(), isic::rank_rule::fixed};
    return out;
}

inline bool largest_entries_positive(const dense& v) {
    for (index_t j = 0; j < v.cols(); ++j) {
        index_t at = 0;
        v.col(j).cwiseAbs().maxCoeff(&at);
        if (v(at, j) < 0) {
            return false;
        }
    }
    return true;
}

/// max |V^T V - I|
inline double skew(const dense& v) {
    return v.cols() == 0 ? 0.0
                         : (product(v.transpose(), v) - dense::Identity(v.cols(), v.cols())).cwiseAbs().maxCoeff();
}

/// ||V V^T - W W^T||: 0 for the same span, 1 or more if one has a direction the other lacks.
inline double span_gap(const dense& v, const dense& w) {
    return (product(v, v.transpose()) - product(w, w.transpose())).norm();
}

/// ||C V|| / ||C||
inline double leak(const dense& codes, const dense& v) {
    return product(codes, v).norm() / codes.norm();
}

/// Row by row: c + s (t - c) V diag(w) V^T, in plain loops.
inline dense projected(const dense& codes, const dense& v, const dense& targets, const std::vector<double>& strength,
                       std::vector<double> weights = {}) {
    weights.resize(static_cast<std::size_t>(v.cols()), weights.empty() ? 1.0 : 0.0);
    dense out = codes;
    for (index_t k = 0; k < codes.rows(); ++k) {
        for (index_t i = 0; i < v.cols(); ++i) {
            double coefficient = 0;
            for (index_t j = 0; j < v.rows(); ++j) {
                coefficient += (targets(k, j) - codes(k, j)) * v(j, i);
            }
            for (index_t j = 0; j < v.rows(); ++j) {
                out(k, j) += strength[static_cast<std::size_t>(k)] * weights[static_cast<std::size_t>(i)] *
                             coefficient * v(j, i);
            }
        }
    }
    return out;
}

}  // namespace isic_test
