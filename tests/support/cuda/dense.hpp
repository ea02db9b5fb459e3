// SPDX-License-Identifier: Apache-2.0
/// \file
/// The stand-in's dense linear algebra: small matrices of double, by short rather than fast methods. It uses no
/// library, and so can be compared with any.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

namespace stand_in::detail {

/// Column-major.
struct dense {
    dense(std::int64_t rows_, std::int64_t cols_)
        : rows(rows_), cols(cols_), values(static_cast<std::size_t>(rows_ * cols_)) {}

    double& operator()(std::int64_t i, std::int64_t j) { return values[static_cast<std::size_t>(i + j * rows)]; }
    double operator()(std::int64_t i, std::int64_t j) const { return values[static_cast<std::size_t>(i + j * rows)]; }
    double* col(std::int64_t j) { return values.data() + j * rows; }
    const double* col(std::int64_t j) const { return values.data() + j * rows; }

    std::int64_t rows;
    std::int64_t cols;
    std::vector<double> values;
};

inline constexpr int most_sweeps = 60;
inline constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

inline dense identity(std::int64_t n) {
    dense eye(n, n);
    for (std::int64_t i = 0; i < n; ++i) {
        eye(i, i) = 1;
    }
    return eye;
}

inline double inner(const double* x, const double* y, std::int64_t n) {
    return std::inner_product(x, x + n, y, 0.0);
}

inline bool all_finite(const dense& a) {
    return std::ranges::all_of(a.values, [](double x) { return std::isfinite(x); });
}

struct rotation {
    double c;
    double s;
};

/// Makes [app apq; apq aqq] diagonal.
inline rotation jacobi_rotation(double app, double apq, double aqq) {
    const double theta = (aqq - app) / (2 * apq);
    const double t = std::copysign(1.0, theta) / (std::abs(theta) + std::hypot(theta, 1.0));
    const double c = 1 / std::hypot(t, 1.0);
    return {c, t * c};
}

/// (x, y) <- (c x - s y, s x + c y)
inline void rotate(rotation r, double* x, double* y, std::int64_t n, std::int64_t step = 1) {
    for (std::int64_t i = 0; i < n * step; i += step) {
        const double old = x[i];
        x[i] = r.c * old - r.s * y[i];
        y[i] = r.s * old + r.c * y[i];
    }
}

template <class Less>
std::vector<std::int64_t> sorted_order(std::int64_t n, Less less) {
    std::vector<std::int64_t> order(static_cast<std::size_t>(n));
    std::iota(order.begin(), order.end(), 0);
    std::ranges::stable_sort(order, less);
    return order;
}

inline dense columns_in_order(const dense& a, const std::vector<std::int64_t>& order) {
    dense sorted(a.rows, static_cast<std::int64_t>(order.size()));
    for (std::size_t j = 0; j < order.size(); ++j) {
        std::copy_n(a.col(order[j]), a.rows, sorted.col(static_cast<std::int64_t>(j)));
    }
    return sorted;
}

// ---- Symmetric eigenvalues

struct eigen_result {
    std::vector<double> values;  // ascending
    dense vectors;
};

/// Whether anything was rotated.
inline bool jacobi_sweep(dense& a, dense& v, double negligible) {
    const std::int64_t n = a.rows;
    bool rotated = false;
    for (std::int64_t p = 0; p < n; ++p) {
        for (std::int64_t q = p + 1; q < n; ++q) {
            if (std::abs(a(p, q)) <= negligible) {
                continue;
            }
            const rotation r = jacobi_rotation(a(p, p), a(p, q), a(q, q));
            rotate(r, a.col(p), a.col(q), n);
            rotate(r, &a(p, 0), &a(q, 0), n, n);
            rotate(r, v.col(p), v.col(q), n);
            rotated = true;
        }
    }
    return rotated;
}

/// Of a symmetric matrix, by cyclic Jacobi. All NaN if it is not finite.
inline eigen_result symmetric_eigen(dense a) {
    const std::int64_t n = a.rows;
    dense v = identity(n);
    if (!all_finite(a)) {
        std::ranges::fill(v.values, not_a_number);
        return {std::vector<double>(static_cast<std::size_t>(n), not_a_number), v};
    }
    const double negligible = 1e-18 * std::sqrt(inner(a.col(0), a.col(0), n * n));
    for (int sweep = 0; sweep < most_sweeps && jacobi_sweep(a, v, negligible); ++sweep) {}
    const auto order = sorted_order(n, [&](std::int64_t i, std::int64_t j) { return a(i, i) < a(j, j); });
    std::vector<double> values;
    for (const std::int64_t j : order) {
        values.push_back(a(j, j));
    }
    return {std::move(values), columns_in_order(v, order)};
}

// ---- Singular values

/// Makes columns `first` and later of u unit vectors at right angles to all before them.
inline void complete_orthonormal(dense& u, std::int64_t first) {
    std::int64_t axis = 0;
    for (std::int64_t j = first; j < u.cols; ++j) {
        const double enough = std::sqrt(static_cast<double>(u.rows - j) / static_cast<double>(2 * u.rows));
        double norm = 0;
        while (norm < enough) {  // one of the axes has at least the mean
            double* const column = u.col(j);
            std::fill_n(column, u.rows, 0.0);
            column[axis++ % u.rows] = 1;
            for (std::int64_t i = 0; i < 2 * j; ++i) {  // twice: once is not accurate
                const double* const other = u.col(i % j);
                const double along = inner(column, other, u.rows);
                for (std::int64_t k = 0; k < u.rows; ++k) {
                    column[k] -= along * other[k];
                }
            }
            norm = std::sqrt(inner(column, column, u.rows));
        }
        for (std::int64_t k = 0; k < u.rows; ++k) {
            u(k, j) /= norm;
        }
    }
}

struct svd_result {
    dense u;
    std::vector<double> values;  // descending
    dense v;
};

/// Whether anything was rotated.
inline bool one_sided_sweep(dense& a, dense& v) {
    bool rotated = false;
    for (std::int64_t p = 0; p < a.cols; ++p) {
        for (std::int64_t q = p + 1; q < a.cols; ++q) {
            const double pp = inner(a.col(p), a.col(p), a.rows);
            const double qq = inner(a.col(q), a.col(q), a.rows);
            const double pq = inner(a.col(p), a.col(q), a.rows);
            if (std::abs(pq) <= 1e-15 * std::sqrt(pp * qq)) {
                continue;
            }
            const rotation r = jacobi_rotation(pp, pq, qq);
            rotate(r, a.col(p), a.col(q), a.rows);
            rotate(r, v.col(p), v.col(q), v.rows);
            rotated = true;
        }
    }
    return rotated;
}

/// a = u diag(values) v', u with `u_cols` columns, of a matrix with rows >= cols, by one-sided Jacobi.
inline svd_result tall_svd(dense a, std::int64_t u_cols) {
    const std::int64_t n = a.cols;
    dense v = identity(n);
    for (int sweep = 0; sweep < most_sweeps && one_sided_sweep(a, v); ++sweep) {}
    std::vector<double> norms;
    for (std::int64_t j = 0; j < n; ++j) {
        norms.push_back(std::sqrt(inner(a.col(j), a.col(j), a.rows)));
    }
    const auto norm = [&](std::int64_t j) { return norms[static_cast<std::size_t>(j)]; };
    const auto order = sorted_order(n, [&](std::int64_t i, std::int64_t j) { return norm(i) > norm(j); });
    svd_result result{dense(a.rows, u_cols), {}, columns_in_order(v, order)};
    std::int64_t rank = 0;
    for (const std::int64_t j : order) {
        const auto column = static_cast<std::int64_t>(result.values.size());
        result.values.push_back(norm(j));
        if (norm(j) > 1e-15 * norm(order.front())) {
            std::transform(a.col(j), a.col(j) + a.rows, result.u.col(column), [&](double x) { return x / norm(j); });
            ++rank;
        }
    }
    complete_orthonormal(result.u, rank);
    return result;
}

inline dense transposed(const dense& a) {
    dense t(a.cols, a.rows);
    for (std::int64_t j = 0; j < a.cols; ++j) {
        for (std::int64_t i = 0; i < a.rows; ++i) {
            t(j, i) = a(i, j);
        }
    }
    return t;
}

inline svd_result all_nan_svd(std::int64_t rows, std::int64_t cols, std::int64_t u_cols, std::int64_t v_cols) {
    svd_result result{dense(rows, u_cols), {}, dense(cols, v_cols)};
    result.values.assign(static_cast<std::size_t>(std::min(rows, cols)), not_a_number);
    std::ranges::fill(result.u.values, not_a_number);
    std::ranges::fill(result.v.values, not_a_number);
    return result;
}

/// a = u diag(values) v', u and v with as many columns as values, or square. All NaN if a is not finite.
inline svd_result svd(const dense& a, bool square) {
    const std::int64_t k = std::min(a.rows, a.cols);
    const std::int64_t u_cols = square ? a.rows : k;
    const std::int64_t v_cols = square ? a.cols : k;
    if (!all_finite(a)) {
        return all_nan_svd(a.rows, a.cols, u_cols, v_cols);
    }
    if (a.rows >= a.cols) {
        return tall_svd(a, u_cols);
    }
    svd_result result = tall_svd(transposed(a), v_cols);
    std::swap(result.u, result.v);
    return result;
}

// ---- Householder and Cholesky, as LAPACK stores them

/// x <- (I - tau v v') x, where v is column `col` of a from its diagonal down, with 1 on the diagonal.
inline void reflect(const dense& a, std::int64_t col, double tau, double* x) {
    double along = x[col];
    for (std::int64_t i = col + 1; i < a.rows; ++i) {
        along += a(i, col) * x[i];
    }
    x[col] -= tau * along;
    for (std::int64_t i = col + 1; i < a.rows; ++i) {
        x[i] -= tau * along * a(i, col);
    }
}

/// Returns tau; a becomes R in its upper triangle and the reflectors below.
inline std::vector<double> householder_qr(dense& a) {
    std::vector<double> taus;
    for (std::int64_t k = 0; k < std::min(a.rows, a.cols); ++k) {
        const double below = std::sqrt(inner(a.col(k) + k + 1, a.col(k) + k + 1, a.rows - k - 1));
        if (below == 0) {
            taus.push_back(0);
            continue;
        }
        const double alpha = a(k, k);
        const double beta = -std::copysign(std::hypot(alpha, below), alpha);
        const double tau = (beta - alpha) / beta;
        for (std::int64_t i = k + 1; i < a.rows; ++i) {
            a(i, k) /= alpha - beta;
        }
        for (std::int64_t j = k + 1; j < a.cols; ++j) {
            reflect(a, k, tau, a.col(j));
        }
        a(k, k) = beta;
        taus.push_back(tau);
    }
    return taus;
}

/// The first a.cols columns of the product of the reflectors.
inline dense orthonormal_from_reflectors(const dense& a, const std::vector<double>& taus) {
    dense q(a.rows, a.cols);
    for (std::int64_t j = 0; j < a.cols; ++j) {
        q(j, j) = 1;
        for (auto k = static_cast<std::int64_t>(taus.size()) - 1; k >= 0; --k) {
            reflect(a, k, taus[static_cast<std::size_t>(k)], q.col(j));
        }
    }
    return q;
}

/// a = l l', of which l is made in the lower triangle. 0, or the order of the first minor that is not positive.
inline int cholesky(dense& a) {
    for (std::int64_t j = 0; j < a.cols; ++j) {
        double pivot = a(j, j);
        for (std::int64_t k = 0; k < j; ++k) {
            pivot -= a(j, k) * a(j, k);
        }
        if (!(pivot > 0)) {
            return static_cast<int>(j) + 1;
        }
        a(j, j) = std::sqrt(pivot);
        for (std::int64_t i = j + 1; i < a.rows; ++i) {
            double rest = a(i, j);
            for (std::int64_t k = 0; k < j; ++k) {
                rest -= a(i, k) * a(j, k);
            }
            a(i, j) = rest / a(j, j);
        }
    }
    return 0;
}

/// x <- (l l')^-1 x
inline void cholesky_solve(const dense& l, double* x) {
    const std::int64_t n = l.rows;
    for (std::int64_t i = 0; i < n; ++i) {
        for (std::int64_t k = 0; k < i; ++k) {
            x[i] -= l(i, k) * x[k];
        }
        x[i] /= l(i, i);
    }
    for (std::int64_t i = n - 1; i >= 0; --i) {
        for (std::int64_t k = i + 1; k < n; ++k) {
            x[i] -= l(k, i) * x[k];
        }
        x[i] /= l(i, i);
    }
}

}  // namespace stand_in::detail
