/// \file
/// Constrained updates of a codebook: closed-form ridge, EMA, SGD, Adam. The state is the caller's to keep.
#pragma once

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <span>
#include <string_view>
#include <vector>

#include <isic/constraint.hpp>
#include <isic/matrix.hpp>

namespace isic {

/// What an update did.
struct update_summary {
    index_t moved = 0;        ///< rows whose values changed
    index_t overflowed = 0;   ///< rows left as they were because the new values did not fit the storage type
    double largest_step = 0;  ///< max ||c_k' - c_k|| of the moved rows
};

/// Vectors by the code they were assigned to: counts n [K] and sums [K x d], what ridge and EMA updates consume.
struct assignments {
    std::vector<double> counts;  ///< n_k
    matrix<double> sums;         ///< sum of the vectors assigned to code k
};

/// Collects vectors [n x d] by id. Errors: shape_error, value_error on ids, numeric_error on NaN or infinity.
template <matrix_like Z, token_ids R>
assignments assign(const Z& vectors, const R& ids, index_t codes) {
    const auto z = detail::view_of(vectors);
    const auto all = detail::ids_of(ids);
    detail::require<shape_error>(codes > 0, "assign", "at least one code", fmt::format("{}", codes));
    detail::require_size("assign", "ids", z.rows(), static_cast<index_t>(all.size()));
    detail::require_ids("assign", all, codes);
    detail::require_finite("assign", "the vectors", z);
    assignments out{std::vector<double>(static_cast<std::size_t>(codes), 0.0), matrix<double>(codes, z.cols())};
    for (index_t i = 0; i < z.rows(); ++i) {
        const auto k = static_cast<index_t>(all[static_cast<std::size_t>(i)]);
        out.counts[static_cast<std::size_t>(k)] += 1;
        for (index_t j = 0; j < z.cols(); ++j) {
            out.sums(k, j) += static_cast<double>(z(i, j));
        }
    }
    return out;
}

namespace detail {

/// Moves every code by step_of(k, row) under the constraint; step_of returns false to leave a row alone.
template <class T, class Step>
update_summary move_rows(matrix_span<T> codes, const constraint& limits, Step step_of) {
    update_summary out;
    vector row;
    vector step(codes.cols());
    std::vector<T> rounded(static_cast<std::size_t>(codes.cols()));
    for (index_t k = 0; k < codes.rows(); ++k) {
        load(std::span<const T>(codes.row(k)), row);
        if (!step_of(k, row, step) || !may_move(limits, k)) {
            continue;
        }
        const vector fresh = constrained_row(limits, k, row, step);
        store(fresh, std::span<T>(rounded));
        if (!std::ranges::all_of(rounded, [](T x) { return std::isfinite(static_cast<double>(x)); })) {
            ++out.overflowed;
            continue;
        }
        if (!std::ranges::equal(rounded, codes.row(k))) {
            ++out.moved;
            out.largest_step = std::max(out.largest_step, (fresh - row).norm());
            std::ranges::copy(rounded, codes.row(k).begin());
        }
    }
    return out;
}

template <class T>
void check_codes(std::string_view function, matrix_span<T> codes, const constraint& limits) {
    require_not_empty(function, "a codebook", matrix_view<T>(codes));
    limits.check(function, codes.rows(), codes.cols());
    // A locked row may be padding and hold anything.
    require_finite(function, "the codebook", matrix_view<T>(codes), limits.locked.empty() ? nullptr : &limits.locked);
    require_apart(function, codes, limits.anchor.view());
}

template <class T>
void check_assignments(std::string_view function, matrix_span<T> codes, const assignments& batch) {
    require_size(function, "counts", codes.rows(), static_cast<index_t>(batch.counts.size()));
    require_size(function, "rows of sums", codes.rows(), batch.sums.rows());
    require_size(function, "columns of sums", codes.cols(), batch.sums.cols());
    require_finite(function, "the sums", batch.sums.view());
    require_counts(function, batch.counts);
    require_apart(function, codes, batch.sums.view());
}

template <class T, class G>
void check_gradient(std::string_view function, matrix_span<T> codes, matrix_span<G> gradient) {
    require_size(function, "gradient rows", codes.rows(), gradient.rows());
    require_size(function, "gradient columns", codes.cols(), gradient.cols());
    require_finite(function, "the gradient", matrix_view<typename matrix_span<G>::value_type>(gradient));
    require_apart(function, codes, gradient);
}

/// State matrices: made on first use, afterwards their shape must stay. All are checked before one is made.
inline void prepare_states(std::string_view function, index_t rows, index_t cols, std::initializer_list<matrix<double>*> states) {
    for (const matrix<double>* state : states) {
        require_size(function, "rows in the optimiser state", rows, state->empty() ? rows : state->rows());
        require_size(function, "columns in the optimiser state", cols, state->empty() ? cols : state->cols());
    }
    for (matrix<double>* state : states) {
        if (state->empty()) {
            *state = matrix<double>(rows, cols);
        }
    }
}

}  // namespace detail

/// Closed-form refit: delta_k = P (sum_i z_i - n_k c_k) / (n_k + lambda), the minimiser of
/// sum_i ||z_i - c_k - P delta||^2 + lambda ||delta||^2 over the vectors z_i assigned to code k; P from the constraint.
///
/// Codes with n_k = 0 stay. Cost O(K d r). Errors: value_error unless lambda >= 0; shape and numeric errors before
/// anything is written. Source: derived; one projected, damped k-means step.
template <mutable_matrix_like C>
update_summary ridge_update(C&& codes, const assignments& batch, double lambda, const constraint& limits = {}) {
    const auto c = as_span(codes);
    detail::check_codes("ridge_update", c, limits);
    detail::check_assignments("ridge_update", c, batch);
    detail::require<value_error>(lambda >= 0 && std::isfinite(lambda), "ridge_update", "lambda >= 0", fmt::format("{}", lambda));
    return detail::move_rows(c, limits, [&](index_t k, const detail::vector& row, detail::vector& step) {
        const double n = batch.counts[static_cast<std::size_t>(k)];
        if (n == 0) {
            return false;
        }
        step = (detail::map(batch.sums).row(k).transpose() - n * row) / (n + lambda);
        return true;
    });
}

/// State of `ema_update`: decayed counts and sums. Start from {} (the first batch sets it).
struct ema_state {
    std::vector<double> counts;  ///< [K]
    matrix<double> sums;         ///< [K x d]
};

/// Exponential moving averages: n <- a n + (1 - a) n_b, s <- a s + (1 - a) s_b, step s / n - c. Codes with n = 0 stay.
///
/// An empty state starts at one count of the present row per code, so the first step is small. Errors: value_error
/// unless decay is in [0, 1); shape and numeric errors before anything is written.
template <mutable_matrix_like C>
update_summary ema_update(C&& codes, ema_state& state, const assignments& batch, double decay, const constraint& limits = {}) {
    const auto c = as_span(codes);
    detail::check_codes("ema_update", c, limits);
    detail::check_assignments("ema_update", c, batch);
    detail::require<value_error>(decay >= 0 && decay < 1, "ema_update", "decay in [0, 1)", fmt::format("{}", decay));
    if (state.counts.empty()) {
        state.counts.assign(static_cast<std::size_t>(c.rows()), 1.0);
        state.sums = detail::to_double(matrix_view<scalar_of<C>>(c));
    }
    detail::require_size("ema_update", "counts in the state", c.rows(), static_cast<index_t>(state.counts.size()));
    detail::require_size("ema_update", "rows of sums in the state", c.rows(), state.sums.rows());
    detail::require_size("ema_update", "columns of sums in the state", c.cols(), state.sums.cols());
    return detail::move_rows(c, limits, [&](index_t k, const detail::vector& row, detail::vector& step) {
        double& n = state.counts[static_cast<std::size_t>(k)];
        n = decay * n + (1 - decay) * batch.counts[static_cast<std::size_t>(k)];
        auto sum = detail::map(state.sums).row(k);
        sum = decay * sum + (1 - decay) * detail::map(batch.sums).row(k);
        if (n <= 0) {
            return false;
        }
        step = sum.transpose() / n - row;
        return true;
    });
}

/// Options of `sgd_update`.
struct sgd_options {
    double rate = 0.1;      ///< learning rate, > 0
    double momentum = 0.0;  ///< in [0, 1)

    /// Throws value_error unless both are in their ranges.
    void check(std::string_view function) const {
        detail::require<value_error>(rate > 0 && std::isfinite(rate), function, "rate > 0", fmt::format("{}", rate));
        detail::require<value_error>(momentum >= 0 && momentum < 1, function, "momentum in [0, 1)", fmt::format("{}", momentum));
    }
};

/// State of `sgd_update`; starts empty.
struct sgd_state {
    matrix<double> velocity;  ///< [K x d]
};

/// v <- momentum v + g; step -rate v, projected by the constraint. gradient [K x d], any storage.
///
/// Errors: value_error on options, shape and numeric errors; nothing is written then.
template <mutable_matrix_like C, matrix_like G>
update_summary sgd_update(C&& codes, const G& gradient, sgd_state& state, const sgd_options& options = {},
                          const constraint& limits = {}) {
    const auto c = as_span(codes);
    const auto g = detail::view_of(gradient);
    detail::check_codes("sgd_update", c, limits);
    detail::check_gradient("sgd_update", c, g);
    options.check("sgd_update");
    detail::prepare_states("sgd_update", c.rows(), c.cols(), {&state.velocity});
    return detail::move_rows(c, limits, [&](index_t k, const detail::vector&, detail::vector& step) {
        for (index_t j = 0; j < c.cols(); ++j) {
            double& v = state.velocity(k, j);
            v = options.momentum * v + static_cast<double>(g(k, j));
            step[j] = -options.rate * v;
        }
        return true;
    });
}

/// Options of `adam_update`.
struct adam_options {
    double rate = 1e-3;     ///< learning rate, > 0
    double beta1 = 0.9;     ///< decay of the mean, in [0, 1)
    double beta2 = 0.999;   ///< decay of the square, in [0, 1)
    double epsilon = 1e-8;  ///< > 0

    /// Throws value_error unless all are in their ranges.
    void check(std::string_view function) const {
        detail::require<value_error>(rate > 0 && std::isfinite(rate), function, "rate > 0", fmt::format("{}", rate));
        detail::require<value_error>(epsilon > 0 && std::isfinite(epsilon), function, "epsilon > 0", fmt::format("{}", epsilon));
        detail::require<value_error>(beta1 >= 0 && beta1 < 1, function, "beta1 in [0, 1)", fmt::format("{}", beta1));
        detail::require<value_error>(beta2 >= 0 && beta2 < 1, function, "beta2 in [0, 1)", fmt::format("{}", beta2));
    }
};

/// State of `adam_update`; starts empty.
struct adam_state {
    matrix<double> mean;    ///< [K x d], of the projected gradient
    matrix<double> square;  ///< [K x d]
    index_t steps = 0;      ///< steps taken
};

/// Adam on the projected gradient whose finished step is projected too: c <- c - P rate m^ / (sqrt(v^) + epsilon), m and v
/// the moments of P g. gradient [K x d], any storage.
///
/// The preconditioner works entry by entry and does not commute with P. Without the outer P the step would leak; without
/// the inner one it would turn what P forbids into motion elsewhere, climb, and not rest at the constrained minimum.
/// Errors: value_error on options, shape and numeric errors; nothing is written then.
template <mutable_matrix_like C, matrix_like G>
update_summary adam_update(C&& codes, const G& gradient, adam_state& state, const adam_options& options = {},
                           const constraint& limits = {}) {
    const auto c = as_span(codes);
    const auto g = detail::view_of(gradient);
    detail::check_codes("adam_update", c, limits);
    detail::check_gradient("adam_update", c, g);
    options.check("adam_update");
    detail::require<value_error>(state.steps >= 0, "adam_update", "steps >= 0 in the state", fmt::format("{}", state.steps));
    detail::prepare_states("adam_update", c.rows(), c.cols(), {&state.mean, &state.square});
    ++state.steps;
    const double unbias_mean = 1 - std::pow(options.beta1, static_cast<double>(state.steps));
    const double unbias_square = 1 - std::pow(options.beta2, static_cast<double>(state.steps));
    detail::vector row_gradient;
    return detail::move_rows(c, limits, [&](index_t k, const detail::vector&, detail::vector& step) {
        bool any = false;
        detail::load(g.row(k), row_gradient);
        detail::take_out(limits.orthogonal_to, row_gradient);
        for (index_t j = 0; j < c.cols(); ++j) {
            const double x = row_gradient[j];
            double& m = state.mean(k, j);
            double& v = state.square(k, j);
            m = options.beta1 * m + (1 - options.beta1) * x;
            v = options.beta2 * v + (1 - options.beta2) * x * x;
            step[j] = -options.rate * (m / unbias_mean) / (std::sqrt(v / unbias_square) + options.epsilon);
            any = any || m != 0;
        }
        return any;
    });
}

}  // namespace isic
