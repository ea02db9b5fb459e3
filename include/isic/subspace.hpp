/// \file
/// The harmful subspace: fitted to differences, merged over rounds and concepts, compared by principal angles.
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
#include <span>
#include <vector>

#include <Eigen/Eigenvalues>
#include <Eigen/SVD>

#include <isic/differences.hpp>
#include <isic/matrix.hpp>
#include <isic/rank.hpp>

namespace isic {

/// An orthonormal basis V [d x r] of what is to be removed, float64, with how its rank was chosen.
struct subspace {
    matrix<double> basis;                 ///< V, [d x r]; columns orthonormal to 1e-12, largest entry of each positive
    std::vector<double> singular_values;  ///< of the differences, descending; all that were computed
    double energy = 0;                    ///< share of the squared singular values that the basis holds
    rank_choice chosen;                   ///< the rank and the rule that decided it

    index_t width() const { return basis.rows(); }  ///< d
    index_t rank() const { return basis.cols(); }   ///< r
};

/// What is taken out of the differences before they are decomposed.
enum class centering {
    none,      ///< plain second moment: the mean difference, usually the strongest direction, stays
    mean,      ///< the mean difference; keeps only how pairs vary
    safe_axis  ///< the top right singular vector of the safe embeddings (ProFS, arXiv 2405.13967); needs d >= 3
};

/// Options of `fit_subspace`.
struct fit_options {
    rank_options rank = {};                  ///< rank rules
    centering center = centering::none;      ///< what to take out first
};

namespace detail {

inline constexpr index_t full_solver_width = 128;  // below this a full eigen-solve costs less than it saves

/// Eigenvalues descending and the matching orthonormal eigenvectors.
struct eigen_pairs {
    vector values;
    Eigen::MatrixXd vectors;
};

inline eigen_pairs full_eigen(const Eigen::MatrixXd& a) {
    const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(a);
    require<numeric_error>(solver.info() == Eigen::Success, "fit_subspace", "a converged eigen-solver", "no convergence");
    return {solver.eigenvalues().reverse(), solver.eigenvectors().rowwise().reverse()};
}

/// Columns of x made orthonormal to q and to each other (twice is enough); those that vanish are dropped.
inline Eigen::MatrixXd orthonormal_rest(Eigen::MatrixXd x, const Eigen::MatrixXd& q) {
    Eigen::MatrixXd kept(x.rows(), 0);
    for (index_t j = 0; j < x.cols(); ++j) {
        vector v = x.col(j);
        const double before = v.norm();
        for (int pass = 0; pass < 2; ++pass) {
            v -= q * (q.transpose() * v);
            v -= kept * (kept.transpose() * v);
        }
        if (v.norm() > 1e-10 * before && before > 0) {
            kept.conservativeResize(Eigen::NoChange, kept.cols() + 1);
            kept.rightCols(1) = v.normalized();
        }
    }
    return kept;
}

/// The top r eigenpairs of a symmetric positive semi-definite matrix by block Krylov with full reorthogonalisation.
///
/// A block of r + 4 columns finds eigenvalues of multiplicity up to r + 4; residuals are brought below 1e-13 of the
/// largest eigenvalue, otherwise the full solver answers. Deterministic start.
inline eigen_pairs top_eigen(const Eigen::MatrixXd& a, index_t r) {
    const index_t d = a.rows();
    if (d <= full_solver_width || r > d / 8) {
        return full_eigen(a);
    }
    const index_t block = r + 4;
    Eigen::MatrixXd start(d, block);
    for (index_t j = 0; j < block; ++j) {
        for (index_t i = 0; i < d; ++i) {
            start(i, j) = symmetric_uniform(static_cast<std::uint64_t>(j), static_cast<std::uint64_t>(i));
        }
    }
    Eigen::MatrixXd q = orthonormal_rest(start, Eigen::MatrixXd(d, 0));
    Eigen::MatrixXd last = q;
    Eigen::MatrixXd aq = a * q;
    while (q.cols() < d / 2) {
        const Eigen::MatrixXd next = orthonormal_rest(aq.rightCols(last.cols()), q);
        const eigen_pairs small = full_eigen(q.transpose() * aq);
        const Eigen::MatrixXd top = small.vectors.leftCols(r);
        const Eigen::MatrixXd residual = aq * top - q * top * small.values.head(r).asDiagonal();
        if (residual.norm() <= 1e-13 * std::max(small.values[0], 1e-300) || next.cols() == 0) {
            return {small.values.head(r), orthonormal_rest(q * top, Eigen::MatrixXd(d, 0))};
        }
        q.conservativeResize(Eigen::NoChange, q.cols() + next.cols());
        q.rightCols(next.cols()) = next;
        aq.conservativeResize(Eigen::NoChange, q.cols());
        aq.rightCols(next.cols()) = a * next;
        last = next;
    }
    return full_eigen(a);
}

/// Makes the entry of largest magnitude of each column positive; the first among equals.
inline void fix_signs(Eigen::MatrixXd& v) {
    for (index_t j = 0; j < v.cols(); ++j) {
        const double largest = v.col(j).cwiseAbs().maxCoeff();
        index_t i = 0;
        while (std::abs(v(i, j)) < largest * (1 - 1e-9)) {
            ++i;
        }
        if (v(i, j) < 0) {
            v.col(j) *= -1;
        }
    }
}

inline matrix<double> from_eigen(const Eigen::MatrixXd& v) {
    matrix<double> out(v.rows(), v.cols());
    map(out) = v;
    return out;
}

/// Throws unless the columns of a basis [d x r] are orthonormal to 1e-6, as a basis stored in float32 still is.
inline void require_orthonormal(std::string_view function, const matrix<double>& basis) {
    require_finite(function, "the basis", basis.view());
    const auto v = map(basis);
    const Eigen::MatrixXd error = v.transpose() * v - Eigen::MatrixXd::Identity(v.cols(), v.cols());
    const double worst = error.size() == 0 ? 0.0 : error.cwiseAbs().maxCoeff();
    require<value_error>(worst <= 1e-6, function, "orthonormal columns in the basis (span_of makes them so)",
                         fmt::format("an entry of V^T V off by {}", worst));
}

/// Checks rank options against the width; returns the budget.
inline index_t rank_budget(const rank_options& o, index_t d, std::string_view function) {
    if (o.fixed < 0 || o.fixed > d) {
        fail<value_error>(function, fmt::format("rank.fixed in [0, d = {}]", d), fmt::format("{}", o.fixed));
    }
    const index_t most = o.fixed > 0 ? d : std::max<index_t>(1, d - 1);
    if (o.max_rank < 0 || o.max_rank > most) {
        fail<value_error>(function, fmt::format("rank.max_rank in [0, {}] for d = {}", most, d), fmt::format("{}", o.max_rank));
    }
    require_range(function, "rank.energy", o.energy, 0.0, 1.0);
    require<value_error>(o.sign_flips >= 0, function, "rank.sign_flips >= 0", fmt::format("{}", o.sign_flips));
    require<value_error>(o.quantile > 0 && o.quantile < 1, function, "rank.quantile in (0, 1)", fmt::format("{}", o.quantile));
    return o.max_rank > 0 ? o.max_rank : std::max<index_t>(1, d / 4);
}

/// Combines the rules. `flips_allow` is the rank from sign flips, if that rule ran.
inline rank_choice choose_rank(std::span<const double> sigma, index_t n, index_t d, const rank_options& o,
                               std::optional<index_t> flips_allow, std::string_view function) {
    const index_t budget = rank_budget(o, d, function);
    const double floor = sigma.empty() ? 0.0 : sigma[0] * 1e-7;  // the Gram matrix resolves sigma to sqrt(eps) of the first
    rank_choice choice{std::ranges::count_if(sigma, [&](double s) { return s > floor; }), rank_rule::data};
    const auto allow = [&](index_t r, rank_rule rule) {
        if (r < choice.rank) {
            choice = {r, rule};
        }
    };
    if (o.fixed > 0) {
        if (o.fixed <= choice.rank) {
            choice = {o.fixed, rank_rule::fixed};
        }
        return choice;
    }
    if (o.energy > 0) {
        allow(energy_rank(sigma, o.energy), rank_rule::energy);
    }
    if (o.gavish_donoho && std::min(n, d) >= 8) {
        allow(gavish_donoho_rank(sigma.first(static_cast<std::size_t>(std::min(n, d))), n, d), rank_rule::gavish_donoho);
    }
    if (flips_allow) {
        allow(*flips_allow, rank_rule::sign_flip);
    }
    allow(budget, rank_rule::budget);
    return choice;
}

/// A symmetric PSD d x d second moment -> subspace.
inline subspace subspace_of_moment(const Eigen::MatrixXd& gram, index_t n, const rank_options& o,
                                   std::optional<index_t> flips_allow) {
    const index_t d = gram.rows();
    const index_t budget = o.fixed > 0 ? o.fixed : rank_budget(o, d, "fit_subspace");
    const bool all_values = o.fixed == 0 && o.gavish_donoho && std::min(n, d) >= 8;
    if (!gram.allFinite()) {
        fail<numeric_error>("fit_subspace", "finite differences", "NaN or infinity in their second moment");
    }
    const eigen_pairs pairs = all_values ? full_eigen(gram) : top_eigen(gram, std::min(budget, d));
    subspace out;
    const double total = gram.trace();
    const index_t meaningful = std::min(n, pairs.values.size());
    for (index_t i = 0; i < meaningful; ++i) {
        out.singular_values.push_back(std::sqrt(std::max(0.0, pairs.values[i])));
    }
    // Energy needs the whole spectrum's sum: pad it with the trace's remainder when only the top was computed.
    std::vector<double> sigma = out.singular_values;
    if (const double rest = total - pairs.values.head(meaningful).sum(); pairs.values.size() < d && rest > 1e-14 * total) {
        const double last = sigma.empty() ? 0.0 : sigma.back();
        for (double left = rest; left > 0 && last > 0 && static_cast<index_t>(sigma.size()) < d; left -= last * last) {
            sigma.push_back(std::min(last, std::sqrt(left)));
        }
    }
    out.chosen = choose_rank(sigma, n, d, o, flips_allow, "fit_subspace");
    Eigen::MatrixXd v = pairs.vectors.leftCols(out.chosen.rank);
    fix_signs(v);
    out.basis = from_eigen(v);
    out.energy = total > 0 ? std::min(1.0, pairs.values.head(out.chosen.rank).sum() / total) : 0.0;
    return out;
}

/// Removes a unit axis from a second moment: (I - a a^T) G (I - a a^T).
inline void remove_axis(Eigen::MatrixXd& gram, const vector& axis) {
    const vector ga = gram * axis;
    const double aga = axis.dot(ga);
    gram += aga * axis * axis.transpose() - ga * axis.transpose() - axis * ga.transpose();
    gram = 0.5 * (gram + gram.transpose()).eval();
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

inline vector singular_values_of(const row_matrix& m) {
    const Eigen::MatrixXd gram =
        m.cols() > m.rows() ? Eigen::MatrixXd(m * m.transpose()) : Eigen::MatrixXd(m.transpose() * m);
    return full_eigen(gram).values.cwiseMax(0.0).cwiseSqrt();
}

inline Eigen::MatrixXd random_rotation(index_t d, std::uint64_t seed) {
    Eigen::MatrixXd g(d, d);
    for (index_t i = 0; i < g.size(); ++i) {
        g.data()[i] = symmetric_uniform(seed, static_cast<std::uint64_t>(i));
    }
    return orthonormal_rest(g, Eigen::MatrixXd(d, 0));
}

/// Singular values above the quantile of those of randomly rotated, entrywise sign-flipped rows; counted from the first
/// until one fails. The rotation keeps singular values and spreads a signal that lies along one coordinate, which
/// flips alone would not destroy.
inline index_t sign_flip_rank(const row_matrix& rows, const rank_options& o) {
    const vector sigma = singular_values_of(rows);
    Eigen::MatrixXd null(sigma.size(), o.sign_flips);
    for (index_t f = 0; f < o.sign_flips; ++f) {
        const std::uint64_t seed = mix(o.seed + static_cast<std::uint64_t>(f));
        row_matrix flipped = rows * random_rotation(rows.cols(), seed);
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
    const matrix<double> copy = detail::to_double(view);
    detail::row_matrix d = detail::map(copy);
    const index_t n = d.rows();
    if (options.center == centering::mean) {
        const Eigen::RowVectorXd mean = d.colwise().mean();
        d.rowwise() -= mean;
    }
    detail::require<value_error>(options.center != centering::safe_axis, "fit_subspace",
                                 "an accumulator with safe embeddings for centering::safe_axis", "difference rows alone");
    // Equal differences leave rounding when their mean is taken out; that is no direction.
    const double least = options.center == centering::mean ? 1e-24 * detail::map(copy).squaredNorm() : 0.0;
    detail::require<numeric_error>(d.squaredNorm() > least, "fit_subspace", "differences that are not all zero", "zeros only");
    detail::require<numeric_error>(std::isfinite(d.squaredNorm()), "fit_subspace", "differences whose squares are finite",
                                   "infinity");
    std::optional<index_t> flips;
    if (options.rank.fixed == 0 && options.rank.sign_flips > 0) {
        flips = detail::sign_flip_rank(d, options.rank);
    }
    if (n >= d.cols()) {
        return detail::subspace_of_moment(d.transpose() * d, n, options.rank, flips);
    }
    // Fewer rows than columns: the n x n Gram matrix has the same singular values; V = D^T U / sigma.
    const detail::eigen_pairs left = detail::full_eigen(d * d.transpose());
    subspace out;
    for (index_t i = 0; i < n; ++i) {
        out.singular_values.push_back(std::sqrt(std::max(0.0, left.values[i])));
    }
    out.chosen = detail::choose_rank(out.singular_values, n, d.cols(), options.rank, flips, "fit_subspace");
    Eigen::MatrixXd v = detail::orthonormal_rest(d.transpose() * left.vectors.leftCols(out.chosen.rank),
                                                 Eigen::MatrixXd(d.cols(), 0));
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

/// Any orthonormal-ised set of directions as a subspace; columns [d x m] need not be orthogonal or independent.
///
/// Errors: shape_error if empty, numeric_error if not finite or all zero.
template <matrix_like M>
subspace span_of(const M& directions) {
    const auto view = detail::view_of(directions);
    detail::require_not_empty("span_of", "directions", view);
    detail::require_finite("span_of", "the directions", view);
    const matrix<double> copy = detail::to_double(view);
    subspace out;
    Eigen::MatrixXd v = detail::orthonormal_rest(detail::map(copy), Eigen::MatrixXd(view.rows(), 0));
    detail::require<numeric_error>(v.cols() > 0, "span_of", "a direction that is not zero", "zeros only");
    detail::fix_signs(v);
    out.basis = detail::from_eigen(v);
    out.singular_values.assign(static_cast<std::size_t>(v.cols()), 1.0);
    out.energy = 1;
    out.chosen = {v.cols(), rank_rule::fixed};
    return out;
}

namespace detail {

/// Sum of all squared singular values, also where only the largest were computed.
inline double total_energy(const subspace& s) {
    double held = 0;
    double sum = 0;
    for (std::size_t i = 0; i < s.singular_values.size(); ++i) {
        sum += s.singular_values[i] * s.singular_values[i];
        held = static_cast<index_t>(i) < s.rank() ? sum : held;
    }
    return s.energy > 0 ? std::max(sum, held / s.energy) : sum;
}

}  // namespace detail

/// The smallest subspace that contains both: rounds, or concepts. The first's columns come first, unchanged.
///
/// Directions of `second` within `tolerance` (sine of the angle) of `first` add nothing. The result's singular_values
/// are one per column: first's, then the size of second's differences along each new column. A subspace of rank 0
/// adds nothing, whatever its width if it is `subspace{}`. Errors: shape_error if the widths differ; value_error unless
/// tolerance is in [0, 1), or if the merged rank exceeds max_rank (0: no limit but d).
inline subspace merge(const subspace& first, const subspace& second, double tolerance = 1e-8, index_t max_rank = 0) {
    detail::require<value_error>(tolerance >= 0 && tolerance < 1, "merge", "tolerance in [0, 1)", fmt::format("{}", tolerance));
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
    const Eigen::MatrixXd outside = b - a * (a.transpose() * b);
    const Eigen::JacobiSVD<Eigen::MatrixXd> svd(outside, Eigen::ComputeThinU);
    const index_t fresh = (svd.singularValues().array() > tolerance).count();
    Eigen::MatrixXd rest = detail::orthonormal_rest(svd.matrixU().leftCols(fresh), a);
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
        out.singular_values.assign(first.singular_values.begin(), first.singular_values.begin() + first.rank());
        const Eigen::Map<const detail::vector> sigma(second.singular_values.data(), second.rank());
        for (index_t j = 0; j < rest.cols(); ++j) {
            out.singular_values.push_back((sigma.asDiagonal() * (b.transpose() * rest.col(j))).norm());
        }
        double held = 0;
        for (const double s : out.singular_values) {
            held += s * s;
        }
        const double total = detail::total_energy(first) + detail::total_energy(second);
        out.energy = total > 0 ? std::min(1.0, held / total) : 0.0;
    }
    return out;
}

/// Principal angles between two subspaces in radians, ascending, min(r1, r2) of them.
///
/// Small angles come from sines, large ones from cosines, so both ends are accurate. Errors: shape_error if the widths
/// differ or a rank is zero. Source: Knyazev and Argentati (2002).
inline std::vector<double> principal_angles(const subspace& first, const subspace& second) {
    detail::require_size("principal_angles", "rows in the second basis", first.width(), second.width());
    detail::require<shape_error>(first.rank() > 0 && second.rank() > 0, "principal_angles", "ranks >= 1",
                                 fmt::format("{} and {}", first.rank(), second.rank()));
    const bool swap = first.rank() < second.rank();
    const Eigen::MatrixXd a = detail::map(swap ? second.basis : first.basis);
    const Eigen::MatrixXd b = detail::map(swap ? first.basis : second.basis);
    const Eigen::MatrixXd inside = a.transpose() * b;
    const detail::vector cosines = Eigen::JacobiSVD<Eigen::MatrixXd>(inside).singularValues();
    // Singular values of their own: with the cosines' vectors, which tiny angles leave undetermined, they would mix.
    const detail::vector sines = Eigen::JacobiSVD<Eigen::MatrixXd>(b - a * inside).singularValues().reverse();
    std::vector<double> out;
    for (index_t i = 0; i < cosines.size(); ++i) {
        out.push_back(sines[i] < std::numbers::sqrt2 / 2 ? std::asin(sines[i]) : std::acos(std::min(1.0, cosines[i])));
    }
    std::ranges::sort(out);
    return out;
}

/// What is left of a codebook inside a subspace, measured on the stored (rounded) values.
struct leakage_report {
    double total = 0;    ///< ||(C - center) V||_F / ||C - center||_F
    double largest = 0;  ///< the same for the worst single row; rows equal to the center count as 0
};

/// Leakage of codes [K x d] into a subspace around a center [d] (empty: zero); rows in `padding` are no codes and do not
/// count. Cost O(K d r).
///
/// Errors: shape_error if widths differ or the codebook is empty; value_error on padding ids or a basis that is not
/// orthonormal; numeric_error on NaN or infinity.
template <matrix_like C>
leakage_report leakage(const C& codes, const subspace& harm, std::span<const double> center = {},
                       std::span<const index_t> padding = {}) {
    const auto c = detail::view_of(codes);
    detail::require_not_empty("leakage", "a codebook", c);
    detail::require_size("leakage", "rows in the basis", c.cols(), harm.width());
    if (!center.empty()) {
        detail::require_size("leakage", "values in the center", c.cols(), static_cast<index_t>(center.size()));
        detail::require_finite("leakage", "the center", center);
    }
    detail::require_orthonormal("leakage", harm.basis);
    const std::vector<bool> is_padding = detail::padding_mask("leakage", padding, c.rows());
    detail::require_finite("leakage", "the codebook", c, &is_padding);
    const auto v = detail::map(harm.basis);
    double inside = 0;
    double all = 0;
    leakage_report out;
    detail::vector row;
    for (index_t k = 0; k < c.rows(); ++k) {
        if (is_padding[static_cast<std::size_t>(k)]) {
            continue;
        }
        detail::load(c.row(k), row);
        if (!center.empty()) {
            row -= Eigen::Map<const detail::vector>(center.data(), c.cols());
        }
        const double in = (v.transpose() * row).squaredNorm();
        const double whole = row.squaredNorm();
        inside += in;
        all += whole;
        out.largest = std::max(out.largest, whole > 0 ? std::sqrt(in / whole) : 0.0);
    }
    out.total = all > 0 ? std::sqrt(inside / all) : 0.0;
    return out;
}

/// CURE weights f_i = alpha r_i / ((alpha - 1) r_i + 1), r_i = sigma_i^2 / sum sigma^2, one per basis vector, in [0, 1].
///
/// alpha = 1 gives the energies, alpha -> infinity the hard projection. Errors: value_error unless alpha > 0.
/// Source: CURE, arXiv 2505.12677.
inline std::vector<double> spectral_weights(const subspace& harm, double alpha) {
    detail::require<value_error>(alpha > 0 && std::isfinite(alpha), "spectral_weights", "alpha > 0", fmt::format("{}", alpha));
    detail::require<shape_error>(static_cast<index_t>(harm.singular_values.size()) >= harm.rank(), "spectral_weights",
                                 "a singular value per basis vector", fmt::format("{}", harm.singular_values.size()));
    const double total = detail::total_energy(harm);
    detail::require<numeric_error>(total > 0, "spectral_weights", "a singular value above 0", "none");
    std::vector<double> out;
    for (index_t i = 0; i < harm.rank(); ++i) {
        const double sigma = harm.singular_values[static_cast<std::size_t>(i)];
        const double share = sigma * sigma / total;
        out.push_back(alpha * share / ((alpha - 1) * share + 1));
    }
    return out;
}

}  // namespace isic
