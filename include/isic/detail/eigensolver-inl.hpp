// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <isic/detail/eigensolver.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string_view>
#include <utility>

#include <Eigen/Eigenvalues>

#include <isic/rank.hpp>

namespace isic::inline ISIC_ABI::detail {

inline constexpr index_t full_solver_width = 128;  // up to this d the full solver is faster

/// Rotates columns p and q so that they are orthogonal; false if they already are, to rounding.
inline bool make_orthogonal(Eigen::MatrixXd& x, index_t p, index_t q) {
    const double pp = x.col(p).squaredNorm();
    const double qq = x.col(q).squaredNorm();
    const double pq = x.col(p).dot(x.col(q));
    const double rounding = std::numeric_limits<double>::epsilon() * static_cast<double>(x.rows());
    if (!(std::abs(pq) > rounding * std::sqrt(pp * qq))) {
        return false;
    }
    const double zeta = (qq - pp) / (2 * pq);
    const double tangent = std::copysign(1.0, zeta) / (std::abs(zeta) + std::hypot(1.0, zeta));
    const double cosine = 1 / std::hypot(1.0, tangent);
    const vector old = x.col(p);
    x.col(p) = cosine * (old - tangent * x.col(q));
    x.col(q) = cosine * (tangent * old + x.col(q));
    return true;
}

ISIC_INLINE eigen_pairs full_eigen(const Eigen::MatrixXd& a, std::string_view function) {
    const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(a);
    require<numeric_error>(solver.info() == Eigen::Success, function, "a converged eigen-solver", "no convergence");
    return {solver.eigenvalues().reverse(), solver.eigenvectors().rowwise().reverse()};
}

ISIC_INLINE eigen_pairs top_eigen(const Eigen::MatrixXd& a, index_t r, std::string_view function) {
    const index_t d = a.rows();
    if (d <= full_solver_width || r > d / 8) {
        return full_eigen(a, function);
    }
    const index_t block = r + 4;
    Eigen::MatrixXd start(d, block);
    for (index_t j = 0; j < block; ++j) {
        for (index_t i = 0; i < d; ++i) {
            start(i, j) = symmetric_uniform(static_cast<std::uint64_t>(j), static_cast<std::uint64_t>(i));
        }
    }
    Eigen::MatrixXd q = orthonormalise(start);
    Eigen::MatrixXd last = q;
    Eigen::MatrixXd aq = a * q;
    while (q.cols() < d / 2) {
        const Eigen::MatrixXd next = orthonormalise_against(aq.rightCols(last.cols()), q);
        const eigen_pairs small = full_eigen(q.transpose() * aq, function);
        const Eigen::MatrixXd top = small.vectors.leftCols(r);
        const Eigen::MatrixXd residual = aq * top - q * top * small.values.head(r).asDiagonal();
        if (residual.norm() <= 1e-13 * std::max(small.values[0], 1e-300) || next.cols() == 0) {
            return {small.values.head(r), orthonormalise(q * top)};
        }
        q.conservativeResize(Eigen::NoChange, q.cols() + next.cols());
        q.rightCols(next.cols()) = next;
        aq.conservativeResize(Eigen::NoChange, q.cols());
        aq.rightCols(next.cols()) = a * next;
        last = next;
    }
    return full_eigen(a, function);
}

ISIC_INLINE eigen_pairs left_singular(Eigen::MatrixXd x) {
    bool rotated = true;
    for (int sweep = 0; rotated && sweep < 60; ++sweep) {
        rotated = false;
        for (index_t p = 0; p < x.cols(); ++p) {
            for (index_t q = p + 1; q < x.cols(); ++q) {
                rotated |= make_orthogonal(x, p, q);
            }
        }
    }
    eigen_pairs out{x.colwise().norm().transpose(), std::move(x)};
    for (index_t p = 0; p < out.values.size(); ++p) {
        index_t largest = 0;
        out.values.tail(out.values.size() - p).maxCoeff(&largest);
        std::swap(out.values[p], out.values[p + largest]);
        out.vectors.col(p).swap(out.vectors.col(p + largest));
        if (out.values[p] > 0) {
            out.vectors.col(p) /= out.values[p];
        }
    }
    return out;
}

}  // namespace isic::inline ISIC_ABI::detail
