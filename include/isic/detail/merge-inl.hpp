#pragma once

#include <isic/subspace.hpp>

#include <algorithm>
#include <cmath>
#include <numbers>

#include <fmt/format.h>

#include <isic/detail/checks.hpp>
#include <isic/detail/eigensolver.hpp>

namespace isic::inline ISIC_ABI {

/// The columns of x without their part along the orthonormal columns of q.
inline Eigen::MatrixXd outside(Eigen::MatrixXd x, const Eigen::MatrixXd& q) {
    for (index_t j = 0; j < x.cols(); ++j) {
        detail::vector column = x.col(j);
        detail::take_out(q, column);
        x.col(j) = column;
    }
    return x;
}

ISIC_INLINE subspace merge(const subspace& first, const subspace& second, double tolerance, index_t max_rank) {
    detail::require<value_error>(tolerance >= 0 && tolerance < 1, "merge", "tolerance in [0, 1)", fmt::format("{}", tolerance));
    detail::require<value_error>(max_rank >= 0, "merge", "max_rank >= 0", fmt::format("{}", max_rank));
    if (first.width() > 0 && second.width() > 0) {
        detail::require_size("merge", "rows in the second basis", first.width(), second.width());
    }
    if (first.rank() == 0 || second.rank() == 0) {
        const subspace& only = second.rank() > 0 || first.width() == 0 ? second : first;
        if (max_rank > 0 && only.rank() > max_rank) {
            detail::fail<value_error>("merge", fmt::format("a merged rank of at most {}", max_rank), fmt::format("{}", only.rank()));
        }
        return only;
    }
    const Eigen::MatrixXd a = detail::map(first.basis);
    const Eigen::MatrixXd b = detail::map(second.basis);
    const detail::eigen_pairs svd = detail::left_singular(outside(b, a));
    const index_t fresh = (svd.values.array() > tolerance).count();
    Eigen::MatrixXd rest = detail::orthonormal_rest(svd.vectors.leftCols(fresh), a);
    detail::fix_signs(rest);
    if (max_rank > 0 && a.cols() + rest.cols() > max_rank) {
        detail::fail<value_error>("merge", fmt::format("a merged rank of at most {}", max_rank),
                                  fmt::format("{} + {}", a.cols(), rest.cols()));
    }
    subspace out = first;
    Eigen::MatrixXd v(a.rows(), a.cols() + rest.cols());
    v << a, rest;
    out.basis = detail::from_eigen(v);
    out.chosen.rank = v.cols();
    const auto known = [](const subspace& s) { return static_cast<index_t>(s.singular_values.size()) >= s.rank(); };
    out.singular_values.clear();
    if (known(first) && known(second)) {
        const Eigen::Map<const detail::vector> sigma(second.singular_values.data(), second.rank());
        double held = 0;
        for (index_t j = 0; j < v.cols(); ++j) {
            const double of_first = j < first.rank() ? first.singular_values[static_cast<std::size_t>(j)] : 0.0;
            const double of_second = (sigma.asDiagonal() * (b.transpose() * v.col(j))).norm();
            out.singular_values.push_back(std::hypot(of_first, of_second));
            held += out.singular_values.back() * out.singular_values.back();
        }
        const double total = detail::total_energy(first) + detail::total_energy(second);
        out.energy = total > 0 ? std::min(1.0, held / total) : 0.0;
    }
    return out;
}

ISIC_INLINE std::vector<double> principal_angles(const subspace& first, const subspace& second) {
    detail::require_size("principal_angles", "rows in the second basis", first.width(), second.width());
    detail::require<shape_error>(first.rank() > 0 && second.rank() > 0, "principal_angles", "ranks >= 1",
                                 fmt::format("{} and {}", first.rank(), second.rank()));
    const bool swap = first.rank() < second.rank();
    const Eigen::MatrixXd a = detail::map(swap ? second.basis : first.basis);
    const Eigen::MatrixXd b = detail::map(swap ? first.basis : second.basis);
    const Eigen::MatrixXd inside = a.transpose() * b;
    const detail::vector cosines = detail::left_singular(inside).values;
    // Singular values of their own: with the cosines' vectors, which tiny angles leave undetermined, they would mix.
    const detail::vector sines = detail::left_singular(outside(b, a)).values.reverse();
    std::vector<double> out;
    for (index_t i = 0; i < cosines.size(); ++i) {
        out.push_back(sines[i] < std::numbers::sqrt2 / 2 ? std::asin(sines[i]) : std::acos(std::min(1.0, cosines[i])));
    }
    std::ranges::sort(out);
    return out;
}

}  // namespace isic::inline ISIC_ABI
