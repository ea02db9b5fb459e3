/// \file
/// The harmful subspace of differences.
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include <isic/differences.hpp>
#include <isic/eigen.hpp>
#include <isic/fit_options.hpp>
#include <isic/matrix.hpp>
#include <isic/orthonormal.hpp>
#include <isic/rank.hpp>
#include <isic/subspace.hpp>

namespace isic {

namespace detail {

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
            fail<shape_error>("fit_subspace", "d >= 3 for centering::safe_axis", fmt::format("d = {}", gram.rows()));
        }
        require<value_error>(safe != nullptr && safe->trace() > 0, "fit_subspace",
                             "safe embeddings for centering::safe_axis", "none, or only zeros");
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

}  // namespace detail

/// Fits the harmful subspace to difference rows D [n x d]: V = top right singular vectors, by the float64 Gram matrix
/// on the smaller side and a symmetric eigen-solver (block Krylov for the top of a large one).
///
/// Rank by `options.rank`; result.chosen says which rule decided. Sign-flip parallel analysis flips single entries
/// (FlipPA, arXiv 2012.02985), after a random rotation (our addition): flipping whole rows would leave D^T D, hence
/// every singular value, unchanged.
/// Cost O(n d min(n, d)). Errors: shape_error if D is empty; numeric_error on NaN, infinity or D = 0; value_error for
/// a rank outside [0, d], or centering::safe_axis, which needs an accumulator.
/// Source: Safe-CB step 1, published in words ("top-k singular vectors of embedding differences").
template <matrix_like M>
subspace fit_subspace(const M& difference_rows, const fit_options& options = {}) {
    const auto view = detail::view_of(difference_rows);
    detail::require_not_empty("fit_subspace", "difference rows", view);
    detail::rank_budget(options.rank, view.cols(), "fit_subspace");
    detail::require_finite("fit_subspace", "the differences", view);
    matrix<double> rows = detail::to_double(view);
    Eigen::Map<Eigen::MatrixXd> x(rows.data(), view.cols(), view.rows());  // X = D^T: the same memory read by columns
    const index_t n = x.cols();
    double least = 0;
    if (options.center == centering::mean) {
        least = 1e-24 * x.squaredNorm();  // equal differences leave rounding, which is no direction
        const detail::vector mean = x.rowwise().mean();
        x.colwise() -= mean;
    }
    detail::require<value_error>(options.center != centering::safe_axis, "fit_subspace",
                                 "an accumulator with safe embeddings for centering::safe_axis", "difference rows alone");
    const double size = x.squaredNorm();
    detail::require<numeric_error>(size > least, "fit_subspace", "differences that are not all zero", "zeros only");
    detail::require<numeric_error>(std::isfinite(size), "fit_subspace", "differences whose squares are finite", "infinity");
    std::optional<index_t> flips;
    if (options.rank.fixed == 0 && options.rank.sign_flips > 0) {
        flips = detail::sign_flip_rank(x, options.rank);
    }
    const Eigen::MatrixXd gram = detail::small_gram(x);
    if (n >= x.rows()) {
        return detail::subspace_of_moment(gram, n, options.rank, flips);
    }
    // Fewer rows than columns: the n x n Gram matrix has the same singular values; V = D^T U / sigma, D^T = X.
    const detail::eigen_pairs left = detail::full_eigen(gram);
    subspace out;
    for (index_t i = 0; i < n; ++i) {
        out.singular_values.push_back(std::sqrt(std::max(0.0, left.values[i])));
    }
    out.chosen = detail::choose_rank(out.singular_values, n, x.rows(), options.rank, flips, "fit_subspace");
    Eigen::MatrixXd v = detail::orthonormal_rest(x * left.vectors.leftCols(out.chosen.rank),
                                                 Eigen::MatrixXd(x.rows(), 0));
    detail::fix_signs(v);
    out.chosen.rank = v.cols();
    out.basis = detail::from_eigen(v);
    out.energy = std::min(1.0, left.values.head(v.cols()).sum() / left.values.cwiseMax(0.0).sum());
    return out;
}

/// Fits the harmful subspace to streamed differences: as above, from their second moment [d x d]. Cost O(d^3).
///
/// Errors: shape_error before the first pair; numeric_error if every difference was zero; value_error for sign flips,
/// which need the rows themselves.
template <scalar T>
subspace fit_subspace(const difference_accumulator<T>& pairs, const fit_options& options = {}) {
    detail::require<shape_error>(pairs.count() > 0, "fit_subspace", "at least one pair", "an empty accumulator");
    detail::rank_budget(options.rank, pairs.width(), "fit_subspace");
    detail::require<value_error>(options.rank.sign_flips == 0, "fit_subspace", "difference rows for sign flips",
                                 "an accumulator, which keeps only moments");
    Eigen::MatrixXd gram = detail::map(pairs.second_moment());
    if (options.center != centering::none) {
        const std::vector<double> mean = pairs.mean();
        const matrix<double> safe = pairs.safe_second_moment();
        const Eigen::MatrixXd safe_gram = detail::map(safe);
        detail::center_moment(gram, Eigen::Map<const detail::vector>(mean.data(), pairs.width()), pairs.count(),
                              &safe_gram, options.center);
    }
    const double least = options.center == centering::none ? 0.0 : 1e-12 * detail::map(pairs.second_moment()).trace();
    detail::require<numeric_error>(!(gram.trace() <= least), "fit_subspace", "differences that are not all zero", "zeros only");
    return detail::subspace_of_moment(gram, pairs.count(), options.rank, std::nullopt);
}

}  // namespace isic
