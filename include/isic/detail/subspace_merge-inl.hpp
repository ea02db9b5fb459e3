// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <isic/subspace.hpp>

#include <algorithm>
#include <cmath>
#include <numbers>

#include <fmt/format.h>

#include <isic/detail/checks.hpp>
#include <isic/detail/eigensolver.hpp>

namespace isic::inline ISIC_ABI {
namespace detail {

/// The columns of x, orthogonalised against the orthonormal columns of q.
inline Eigen::MatrixXd orthogonalised(Eigen::MatrixXd x, const Eigen::MatrixXd& q) {
    for (index_t j = 0; j < x.cols(); ++j) {
        vector column = x.col(j);
        project_out(q, column);
        x.col(j) = column;
    }
    return x;
}

inline void require_rank(index_t rank, index_t max_rank, const std::string& got) {
    if (max_rank > 0 && rank > max_rank) {
        fail<value_error>("merge", fmt::format("a merged rank of at most {}", max_rank), got);
    }
}

/// The directions of b outside the span of a, orthonormal; those within `tolerance` (sine of the angle) of a are
/// dropped.
inline Eigen::MatrixXd new_directions(const Eigen::MatrixXd& a, const Eigen::MatrixXd& b, double tolerance) {
    const eigen_pairs svd = left_singular(orthogonalised(b, a));
    const index_t fresh = (svd.values.array() > tolerance).count();
    Eigen::MatrixXd out = orthonormalise_against(svd.vectors.leftCols(fresh), a);
    fix_signs(out);
    return out;
}

/// Sets singular values and energy of the merged basis v. Without a singular value per basis vector of both there are
/// none.
inline void merge_spectra(subspace& merged, const Eigen::MatrixXd& v, const subspace& first, const subspace& second,
                          const Eigen::MatrixXd& b) {
    merged.singular_values.clear();
    const auto known = [](const subspace& s) { return static_cast<index_t>(s.singular_values.size()) >= s.rank(); };
    if (!known(first) || !known(second)) {
        return;
    }
    const Eigen::Map<const vector> sigma(second.singular_values.data(), second.rank());
    double held = 0;
    for (index_t j = 0; j < v.cols(); ++j) {
        const double of_first = j < first.rank() ? first.singular_values[static_cast<std::size_t>(j)] : 0.0;
        const double of_second = (sigma.asDiagonal() * (b.transpose() * v.col(j))).norm();
        merged.singular_values.push_back(std::hypot(of_first, of_second));
        held += merged.singular_values.back() * merged.singular_values.back();
    }
    const double total = total_energy(first) + total_energy(second);
    merged.energy = total > 0 ? std::min(1.0, held / total) : 0.0;
}

}  // namespace detail

ISIC_INLINE subspace merge(const subspace& first, const subspace& second, double tolerance, index_t max_rank) {
    detail::require<value_error>(tolerance >= 0 && tolerance < 1, "merge", "tolerance in [0, 1)",
                                 fmt::format("{}", tolerance));
    detail::require<value_error>(max_rank >= 0, "merge", "max_rank >= 0", fmt::format("{}", max_rank));
    if (first.width() > 0 && second.width() > 0) {
        detail::require_size("merge", "rows in the second basis", first.width(), second.width());
    }
    if (first.rank() == 0 || second.rank() == 0) {
        const subspace& only = second.rank() > 0 || first.width() == 0 ? second : first;
        detail::require_rank(only.rank(), max_rank, fmt::format("{}", only.rank()));
        return only;
    }
    const Eigen::MatrixXd a = detail::map(first.basis);
    const Eigen::MatrixXd b = detail::map(second.basis);
    const Eigen::MatrixXd added = detail::new_directions(a, b, tolerance);
    detail::require_rank(a.cols() + added.cols(), max_rank, fmt::format("{} + {}", a.cols(), added.cols()));
    Eigen::MatrixXd v(a.rows(), a.cols() + added.cols());
    v << a, added;
    subspace out = first;
    out.basis = detail::from_eigen(v);
    out.chosen.rank = v.cols();
    detail::merge_spectra(out, v, first, second, b);
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
    // A decomposition of their own: tiny angles do not determine the singular vectors of the cosines.
    const detail::vector sines = detail::left_singular(detail::orthogonalised(b, a)).values.reverse();
    std::vector<double> out;
    for (index_t i = 0; i < cosines.size(); ++i) {
        out.push_back(sines[i] < std::numbers::sqrt2 / 2 ? std::asin(sines[i]) : std::acos(std::min(1.0, cosines[i])));
    }
    std::ranges::sort(out);
    return out;
}

}  // namespace isic::inline ISIC_ABI
