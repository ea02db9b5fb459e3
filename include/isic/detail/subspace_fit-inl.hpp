// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <isic/subspace.hpp>

#include <algorithm>
#include <cmath>
#include <optional>

#include <fmt/format.h>

#include <isic/rank.hpp>

#include <isic/detail/checks.hpp>
#include <isic/detail/eigensolver.hpp>
#include <isic/detail/moments.hpp>
#include <isic/detail/subspace.hpp>

namespace isic::inline ISIC_ABI {
namespace detail {

inline constexpr std::string_view fit_function = "fit_subspace";

using columns_view = Eigen::Ref<const Eigen::MatrixXd>;

/// Throws numeric_error unless the squared norm of the differences is finite and above `least`.
inline void require_spread(double squared_norm, double least) {
    require<numeric_error>(squared_norm > least, fit_function, "differences that are not all zero", "zeros only");
    require<numeric_error>(std::isfinite(squared_norm), fit_function, "differences whose squares are finite",
                           "infinity");
}

/// The subspace of a symmetric positive semi-definite second moment [d x d] of n differences.
inline subspace subspace_of_moment(const Eigen::MatrixXd& gram, index_t n, const rank_options& o,
                                   std::optional<index_t> flips_allow) {
    if (!gram.allFinite()) {
        fail<numeric_error>(fit_function, "finite differences", "NaN or infinity in their second moment");
    }
    const index_t d = gram.rows();
    const eigen_pairs pairs = needs_all_values(o, n, d)
                                  ? full_eigen(gram, fit_function)
                                  : top_eigen(gram, rank_needed(o, d, fit_function), fit_function);
    return subspace_of_pairs(pairs, gram.trace(), n, o, flips_allow);
}

/// X X^T or X^T X, the smaller.
inline Eigen::MatrixXd small_gram(const columns_view& x) {
    if (x.cols() < x.rows()) {
        return x.transpose() * x;
    }
    return x * x.transpose();
}

inline vector singular_values_of(const columns_view& x) {
    return full_eigen(small_gram(x), fit_function).values.cwiseMax(0.0).cwiseSqrt();
}

inline Eigen::MatrixXd random_rotation(index_t d, std::uint64_t seed) {
    Eigen::MatrixXd g(d, d);
    for (index_t i = 0; i < g.size(); ++i) {
        g.data()[i] = symmetric_uniform(seed, static_cast<std::uint64_t>(i));
    }
    return orthonormalise(g);
}

/// Number of leading singular values of the columns [d x n] above the quantile of those of randomly rotated, entrywise
/// sign-flipped columns. The rotation keeps singular values and spreads a signal along one coordinate, which flips
/// alone would keep.
inline index_t sign_flip_rank(const columns_view& x, const rank_options& o) {
    const vector sigma = singular_values_of(x);
    Eigen::MatrixXd null(sigma.size(), o.sign_flips);
    for (index_t f = 0; f < o.sign_flips; ++f) {
        const std::uint64_t seed = mix(o.seed + static_cast<std::uint64_t>(f));
        Eigen::MatrixXd flipped = random_rotation(x.rows(), seed) * x;
        for (index_t i = 0; i < flipped.size(); ++i) {
            flipped.data()[i] *= mix(~seed ^ static_cast<std::uint64_t>(i)) & 1U ? -1.0 : 1.0;
        }
        null.col(f) = singular_values_of(flipped);
    }
    const auto at = static_cast<index_t>(std::ceil(o.quantile * static_cast<double>(o.sign_flips))) - 1;
    for (index_t r = 0; r < sigma.size(); ++r) {
        vector row = null.row(r).transpose();
        std::sort(row.begin(), row.end());
        if (!(sigma[r] > row[at])) {
            return r;
        }
    }
    return sigma.size();
}

/// At least as many rows as columns, uncentred: the second moment, accumulated in one pass without a copy of the rows.
/// NaN and infinity reach the trace, so the rows are searched for them only if the trace is not finite.
inline subspace fit_streamed_rows(any_view rows, const fit_options& options) {
    matrix<double> gram(rows.cols, rows.cols);
    add_moments(rows, gram, nullptr, options.execution);
    const double squared_norm = map(gram).trace();
    if (!std::isfinite(squared_norm)) {
        require_finite(fit_function, "the differences", rows);
        fail<numeric_error>(fit_function, "differences whose squares are finite", "infinity");
    }
    require_spread(squared_norm, 0);
    return subspace_of_moment(map(gram), rows.rows, options.rank, std::nullopt);
}

/// Fewer rows than columns: the n x n Gram matrix X^T X has the same singular values, and V = X U / sigma.
inline subspace fit_few_columns(const columns_view& x, const Eigen::MatrixXd& gram, const rank_options& o,
                                std::optional<index_t> flips_allow) {
    const index_t n = x.cols();
    const eigen_pairs left = full_eigen(gram, fit_function);
    subspace out;
    for (index_t i = 0; i < n; ++i) {
        out.singular_values.push_back(std::sqrt(std::max(0.0, left.values[i])));
    }
    out.chosen = choose_rank(out.singular_values, n, x.rows(), o, flips_allow, fit_function);
    Eigen::MatrixXd v = orthonormalise(x * left.vectors.leftCols(out.chosen.rank));
    fix_signs(v);
    out.chosen.rank = v.cols();
    out.basis = from_eigen(v);
    out.energy = std::min(1.0, left.values.head(v.cols()).sum() / left.values.cwiseMax(0.0).sum());
    return out;
}

/// A float64 copy of the rows: centred, sign-flipped, decomposed on the smaller side.
inline subspace fit_copied_rows(any_view difference_rows, const fit_options& options, bool flips_signs) {
    matrix<double> rows = to_double(difference_rows);
    // X = D^T, [d x n]: the same memory read by columns.
    Eigen::Map<Eigen::MatrixXd> x(rows.data(), difference_rows.cols, difference_rows.rows);
    double least = 0;
    if (options.center == centering::mean) {
        least = 1e-24 * x.squaredNorm();  // equal differences leave rounding errors only
        const vector mean = x.rowwise().mean();
        x.colwise() -= mean;
    }
    require_spread(x.squaredNorm(), least);
    std::optional<index_t> flips_allow;
    if (flips_signs) {
        flips_allow = sign_flip_rank(x, options.rank);
    }
    const Eigen::MatrixXd gram = small_gram(x);
    return x.cols() >= x.rows() ? subspace_of_moment(gram, x.cols(), options.rank, flips_allow)
                                : fit_few_columns(x, gram, options.rank, flips_allow);
}

ISIC_INLINE subspace fit_subspace(any_view difference_rows, const fit_options& options) {
    require_not_empty(fit_function, "difference rows", difference_rows);
    rank_budget(options.rank, difference_rows.cols, fit_function);
    require_threads(fit_function, options.execution.threads);
    const bool flips_signs = options.rank.fixed == 0 && options.rank.sign_flips > 0;
    if (options.center == centering::none && !flips_signs && difference_rows.rows >= difference_rows.cols) {
        return fit_streamed_rows(difference_rows, options);
    }
    require_finite(fit_function, "the differences", difference_rows);
    require<value_error>(options.center != centering::safe_axis, fit_function,
                         "an accumulator with safe embeddings for the safe axis", "difference rows alone");
    return fit_copied_rows(difference_rows, options, flips_signs);
}

/// Removes the mean difference, or the leading axis of the safe embeddings, from a second moment.
inline void center_moment(Eigen::MatrixXd& gram, const difference_accumulator& pairs, centering how) {
    if (how == centering::mean) {
        const std::vector<double> values = pairs.mean();
        const vector mean = map(std::span<const double>(values));
        gram -= static_cast<double>(pairs.count()) * mean * mean.transpose();
    } else if (how == centering::safe_axis) {
        if (gram.rows() < 3) {
            fail<shape_error>(fit_function, "d >= 3 for the safe axis", fmt::format("d = {}", gram.rows()));
        }
        const matrix<double> moment = pairs.safe_second_moment();
        const Eigen::MatrixXd safe = map(moment);
        require<value_error>(safe.trace() > 0, fit_function, "safe embeddings for the safe axis",
                             "none, or only zeros");
        deflate(gram, full_eigen(safe, fit_function).vectors.col(0));
    }
}

}  // namespace detail

ISIC_INLINE subspace fit_subspace(const difference_accumulator& pairs, const fit_options& options) {
    using detail::fit_function;
    detail::require<shape_error>(pairs.count() > 0, fit_function, "at least one pair", "an empty accumulator");
    detail::rank_budget(options.rank, pairs.width(), fit_function);
    detail::require_threads(fit_function, options.execution.threads);
    detail::require<value_error>(options.rank.sign_flips == 0, fit_function, "difference rows for sign flips",
                                 "an accumulator, which keeps only moments");
    Eigen::MatrixXd gram = detail::map(pairs.second_moment());
    detail::center_moment(gram, pairs, options.center);
    const double least = options.center == centering::none ? 0.0 : 1e-12 * detail::map(pairs.second_moment()).trace();
    detail::require<numeric_error>(!(gram.trace() <= least), fit_function, "differences that are not all zero",
                                   "zeros only");
    return detail::subspace_of_moment(gram, pairs.count(), options.rank, std::nullopt);
}

}  // namespace isic::inline ISIC_ABI
