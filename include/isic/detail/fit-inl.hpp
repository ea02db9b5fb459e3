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

namespace isic::inline ISIC_ABI::detail {

/// A symmetric PSD d x d second moment -> subspace.
inline subspace subspace_of_moment(const Eigen::MatrixXd& gram, index_t n, const rank_options& o,
                                   std::optional<index_t> flips_allow) {
    if (!gram.allFinite()) {
        fail<numeric_error>("fit_subspace", "finite differences", "NaN or infinity in their second moment");
    }
    const index_t d = gram.rows();
    const eigen_pairs pairs = needs_all_values(o, n, d) ? full_eigen(gram) : top_eigen(gram, rank_needed(o, d));
    return subspace_of_pairs(pairs, gram.trace(), n, o, flips_allow);
}

inline void center_moment(Eigen::MatrixXd& gram, const vector& mean, index_t n, const Eigen::MatrixXd* safe,
                          centering how) {
    if (how == centering::mean) {
        gram -= static_cast<double>(n) * mean * mean.transpose();
    } else if (how == centering::safe_axis) {
        if (gram.rows() < 3) {
            fail<shape_error>("fit_subspace", "d >= 3 for the safe axis", fmt::format("d = {}", gram.rows()));
        }
        require<value_error>(safe != nullptr && safe->trace() > 0, "fit_subspace",
                             "safe embeddings for the safe axis", "none, or only zeros");
        remove_axis(gram, full_eigen(*safe).vectors.col(0));
    }
}

using columns_view = Eigen::Ref<const Eigen::MatrixXd>;

/// X X^T or X^T X, the smaller.
inline Eigen::MatrixXd small_gram(const columns_view& x) {
    if (x.cols() < x.rows()) {
        return x.transpose() * x;
    }
    return x * x.transpose();
}

inline vector singular_values_of(const columns_view& x) {
    return full_eigen(small_gram(x)).values.cwiseMax(0.0).cwiseSqrt();
}

inline Eigen::MatrixXd random_rotation(index_t d, std::uint64_t seed) {
    Eigen::MatrixXd g(d, d);
    for (index_t i = 0; i < g.size(); ++i) {
        g.data()[i] = symmetric_uniform(seed, static_cast<std::uint64_t>(i));
    }
    return orthonormal_rest(g, Eigen::MatrixXd(d, 0));
}

/// Singular values above the quantile of those of randomly rotated, entrywise sign-flipped columns [d x n]; counted from
/// the first until one fails. The rotation keeps singular values and spreads a signal that lies along one coordinate,
/// which flips alone would not destroy.
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

/// Of at least as many rows as columns: only their second moment is kept, and NaN or infinity are looked for if it has any.
inline subspace fit_many_rows(any_view rows, const fit_options& options) {
    matrix<double> gram(rows.cols, rows.cols);
    add_moments(rows, gram, nullptr, options.execution);
    const double size = map(gram).trace();
    if (!std::isfinite(size)) {
        require_finite("fit_subspace", "the differences", rows);
        fail<numeric_error>("fit_subspace", "differences whose squares are finite", "infinity");
    }
    require<numeric_error>(size > 0, "fit_subspace", "differences that are not all zero", "zeros only");
    return subspace_of_moment(map(gram), rows.rows, options.rank, std::nullopt);
}

ISIC_INLINE subspace fit_subspace(any_view difference_rows, const fit_options& options) {
    require_not_empty("fit_subspace", "difference rows", difference_rows);
    rank_budget(options.rank, difference_rows.cols, "fit_subspace");
    require_threads("fit_subspace", options.execution.threads);
    const bool flips_signs = options.rank.fixed == 0 && options.rank.sign_flips > 0;
    if (options.center == centering::none && !flips_signs && difference_rows.rows >= difference_rows.cols) {
        return fit_many_rows(difference_rows, options);
    }
    require_finite("fit_subspace", "the differences", difference_rows);
    matrix<double> rows = to_double(difference_rows);
    Eigen::Map<Eigen::MatrixXd> x(rows.data(), difference_rows.cols, difference_rows.rows);  // X = D^T: the same memory read by columns
    const index_t n = x.cols();
    double least = 0;
    if (options.center == centering::mean) {
        least = 1e-24 * x.squaredNorm();  // equal differences leave rounding, which is no direction
        const vector mean = x.rowwise().mean();
        x.colwise() -= mean;
    }
    require<value_error>(options.center != centering::safe_axis, "fit_subspace",
                                 "an accumulator with safe embeddings for the safe axis", "difference rows alone");
    const double size = x.squaredNorm();
    require<numeric_error>(size > least, "fit_subspace", "differences that are not all zero", "zeros only");
    require<numeric_error>(std::isfinite(size), "fit_subspace", "differences whose squares are finite", "infinity");
    std::optional<index_t> flips;
    if (flips_signs) {
        flips = sign_flip_rank(x, options.rank);
    }
    const Eigen::MatrixXd gram = small_gram(x);
    if (n >= x.rows()) {
        return subspace_of_moment(gram, n, options.rank, flips);
    }
    // Fewer rows than columns: the n x n Gram matrix has the same singular values; V = D^T U / sigma, D^T = X.
    const eigen_pairs left = full_eigen(gram);
    subspace out;
    for (index_t i = 0; i < n; ++i) {
        out.singular_values.push_back(std::sqrt(std::max(0.0, left.values[i])));
    }
    out.chosen = choose_rank(out.singular_values, n, x.rows(), options.rank, flips, "fit_subspace");
    Eigen::MatrixXd v = orthonormal_rest(x * left.vectors.leftCols(out.chosen.rank),
                                                 Eigen::MatrixXd(x.rows(), 0));
    fix_signs(v);
    out.chosen.rank = v.cols();
    out.basis = from_eigen(v);
    out.energy = std::min(1.0, left.values.head(v.cols()).sum() / left.values.cwiseMax(0.0).sum());
    return out;
}

ISIC_INLINE subspace fit_subspace(const difference_moments& pairs, const fit_options& options) {
    require<shape_error>(pairs.count() > 0, "fit_subspace", "at least one pair", "an empty accumulator");
    rank_budget(options.rank, pairs.width(), "fit_subspace");
    require_threads("fit_subspace", options.execution.threads);
    require<value_error>(options.rank.sign_flips == 0, "fit_subspace", "difference rows for sign flips",
                                 "an accumulator, which keeps only moments");
    Eigen::MatrixXd gram = map(pairs.second_moment());
    if (options.center != centering::none) {
        const std::vector<double> mean = pairs.mean();
        const matrix<double> safe = pairs.safe_second_moment();
        const Eigen::MatrixXd safe_gram = map(safe);
        center_moment(gram, Eigen::Map<const vector>(mean.data(), pairs.width()), pairs.count(),
                              &safe_gram, options.center);
    }
    const double least = options.center == centering::none ? 0.0 : 1e-12 * map(pairs.second_moment()).trace();
    require<numeric_error>(!(gram.trace() <= least), "fit_subspace", "differences that are not all zero", "zeros only");
    return subspace_of_moment(gram, pairs.count(), options.rank, std::nullopt);
}

}  // namespace isic::inline ISIC_ABI::detail
