// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <isic/update.hpp>

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <span>

#include <fmt/format.h>

#include <isic/execution.hpp>

#include <isic/detail/checks.hpp>
#include <isic/detail/gram_schmidt.hpp>
#include <isic/detail/kernels/kernels.hpp>
#include <isic/detail/row_blocks.hpp>
#include <isic/detail/update_checks.hpp>

namespace isic::inline ISIC_ABI {
namespace detail {

ISIC_INLINE void check(std::string_view function, const constraint& limits, index_t codes, index_t width) {
    const auto& [locked, orthogonal_to, keep_norms, within, anchor, execution] = limits;
    require_threads(function, execution.threads);
    if (!locked.empty()) {
        require_size(function, "values in constraint.locked", codes, static_cast<index_t>(locked.size()));
    }
    if (orthogonal_to.rank() > 0) {
        require_size(function, "rows in constraint.orthogonal_to", width, orthogonal_to.width());
        require_orthonormal(function, orthogonal_to.basis);
    }
    require<value_error>(within > 0, function, "constraint.within > 0", fmt::format("{}", within));
    if (std::isfinite(within)) {
        require_size(function, "rows in constraint.anchor", codes, anchor.rows());
        require_size(function, "columns in constraint.anchor", width, anchor.cols());
        // A locked row may be padding, of any value.
        require_finite(function, "constraint.anchor", anchor.view(), locked.empty() ? nullptr : &locked);
    }
}

/// x <- x - V V^T x. A subspace of rank 0 fits every width.
inline void project_out(const subspace& harm, vector& x) {
    if (harm.rank() > 0) {
        project_out(map(harm.basis), x);
    }
}

/// Whether code k is not locked.
inline bool may_move(const constraint& c, index_t k) {
    return c.locked.empty() || !c.locked[static_cast<std::size_t>(k)];
}

/// row + step, constrained: projected, scaled to the norm of the row, moved into the radius of the anchor.
inline vector constrained_row(const constraint& c, index_t k, const vector& row, vector step) {
    project_out(c.orthogonal_to, step);
    vector out = row + step;
    if (c.keep_norms && out.norm() > 0) {
        out *= row.norm() / out.norm();
    }
    if (std::isfinite(c.within)) {
        const vector anchor = map(c.anchor).row(k).transpose();
        if (const double distance = (out - anchor).norm(); distance > c.within) {
            out = anchor + (out - anchor) * (c.within / distance);
        }
    }
    return out;
}

ISIC_INLINE void check(std::string_view function, const sgd_options& options) {
    const auto [rate, momentum] = options;
    require<value_error>(rate > 0 && std::isfinite(rate), function, "a finite rate > 0", fmt::format("{}", rate));
    require<value_error>(momentum >= 0 && momentum < 1, function, "momentum in [0, 1)", fmt::format("{}", momentum));
}

ISIC_INLINE void check(std::string_view function, const adam_options& options, std::string_view path) {
    const auto [rate, beta1, beta2, epsilon] = options;
    const auto require_option = [&](bool valid, std::string_view expected, double got) {
        if (!valid) {
            fail<value_error>(function, fmt::format(fmt::runtime(expected), path), fmt::format("{}", got));
        }
    };
    require_option(rate > 0 && std::isfinite(rate), "a finite {}rate > 0", rate);
    require_option(epsilon > 0 && std::isfinite(epsilon), "a finite {}epsilon > 0", epsilon);
    require_option(beta1 >= 0 && beta1 < 1, "{}beta1 in [0, 1)", beta1);
    require_option(beta2 >= 0 && beta2 < 1, "{}beta2 in [0, 1)", beta2);
}

/// Moves every code by step_of(k, row, step), which returns false to leave a row as it is. Blocks of rows run on
/// several threads; step_of may write what belongs to code k only.
template <class Step>
update_summary move_rows(any_span codes, const constraint& limits, const Step& step_of) {
    const index_t d = codes.cols;
    struct thread_memory {
        vector row;
        vector step;
        std::vector<std::byte> rounded;
    };
    const auto make = [&] {
        return thread_memory{vector(d), vector(d), std::vector<std::byte>(static_cast<std::size_t>(codes.row_bytes()))};
    };
    const blocks_of_rows blocks(codes.rows, d);
    const auto move_block = [&](thread_memory& at, index_t start, index_t n) {
        update_summary done;
        const any_span rounded(at.rounded.data(), 1, d, d, codes.type);
        for (index_t k = start; k < start + n; ++k) {
            read_row(codes, k, at.row.data());
            if (!step_of(k, at.row, at.step) || !may_move(limits, k)) {
                continue;
            }
            const vector fresh = constrained_row(limits, k, at.row, at.step);
            if (!store_row(fresh.data(), rounded, 0)) {
                ++done.overflowed;
                continue;
            }
            read_row(rounded, 0, at.step.data());
            if (at.step != at.row) {
                ++done.moved;
                done.largest_step = std::max(done.largest_step, (fresh - at.row).norm());
                std::ranges::copy(at.rounded, codes.row(k).begin());
            }
        }
        return done;
    };
    update_summary out;
    const double bytes = static_cast<double>(codes.rows * codes.row_bytes());
    const double flops = static_cast<double>(codes.rows * d * (30 + 8 * limits.orthogonal_to.rank()));
    for (const update_summary& done :
         results_of_blocks(blocks, kernels::threads_for(limits.execution, bytes, flops), make, move_block)) {
        out.moved += done.moved;
        out.overflowed += done.overflowed;
        out.largest_step = std::max(out.largest_step, done.largest_step);
    }
    return out;
}

inline void check_codes(std::string_view function, any_view codes, const constraint& limits) {
    require_not_empty(function, "a codebook", codes);
    check(function, limits, codes.rows, codes.cols);
    // A locked row may be padding, of any value.
    require_finite(function, "the codebook", codes, limits.locked.empty() ? nullptr : &limits.locked);
    require_apart(function, codes, limits.anchor.view());
}

inline void check_assignments(std::string_view function, any_view codes, const assignments& batch) {
    check_assignments_shape(function, codes.rows, codes.cols, static_cast<index_t>(batch.counts.size()),
                            batch.sums.rows(), batch.sums.cols());
    require_finite(function, "the sums", batch.sums.view());
    require_counts(function, batch.counts);
    require_apart(function, codes, batch.sums.view());
}

inline void check_gradient(std::string_view function, any_view codes, any_view gradient) {
    check_gradient_shape(function, codes.rows, codes.cols, gradient.rows, gradient.cols);
    require_finite(function, "the gradient", gradient);
    require_apart(function, codes, gradient);
}

/// Creates state matrices in the first step; throws shape_error unless they have the codebook's shape. All are checked
/// before one is created.
inline void prepare_states(std::string_view function, index_t rows, index_t cols,
                           std::initializer_list<matrix<double>*> states) {
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

ISIC_INLINE assignments assign(any_view vectors, const id_list& ids, index_t codes) {
    check_assign("assign", codes, vectors.rows, ids.size());
    require_ids("assign", ids, codes);
    require_finite("assign", "the vectors", vectors);
    assignments out{std::vector<double>(static_cast<std::size_t>(codes), 0.0), matrix<double>(codes, vectors.cols)};
    vector row(vectors.cols);
    for (index_t i = 0; i < vectors.rows; ++i) {
        out.counts[static_cast<std::size_t>(ids[i])] += 1;
        read_row(vectors, i, row.data());
        map(out.sums).row(ids[i]) += row.transpose();
    }
    return out;
}

ISIC_INLINE update_summary ridge_update(any_span codes, const assignments& batch, double lambda,
                                        const constraint& limits) {
    check_codes("ridge_update", codes, limits);
    check_assignments("ridge_update", codes, batch);
    check_lambda("ridge_update", lambda);
    return move_rows(codes, limits, [&](index_t k, const vector& row, vector& step) {
        const double n = batch.counts[static_cast<std::size_t>(k)];
        if (n == 0) {
            return false;
        }
        step = (map(batch.sums).row(k).transpose() - n * row) / (n + lambda);
        return true;
    });
}

ISIC_INLINE update_summary ema_update(any_span codes, ema_state<>& state, const assignments& batch, double decay,
                                      const constraint& limits) {
    check_codes("ema_update", codes, limits);
    check_assignments("ema_update", codes, batch);
    check_decay("ema_update", decay);
    if (state.counts.empty()) {
        state.counts.assign(static_cast<std::size_t>(codes.rows), 1.0);
        state.sums = to_double(codes);
    }
    check_ema_state("ema_update", codes.rows, codes.cols, static_cast<index_t>(state.counts.size()), state.sums.rows(),
                    state.sums.cols());
    return move_rows(codes, limits, [&](index_t k, const vector& row, vector& step) {
        double& n = state.counts[static_cast<std::size_t>(k)];
        n = decay * n + (1 - decay) * batch.counts[static_cast<std::size_t>(k)];
        auto sum = map(state.sums).row(k);
        if (n < count_floor<double>) {
            n = 0;
            sum.setZero();
            return false;
        }
        sum = decay * sum + (1 - decay) * map(batch.sums).row(k);
        step = sum.transpose() / n - row;
        return true;
    });
}

ISIC_INLINE update_summary sgd_update(any_span codes, any_view gradient, sgd_state& state, const sgd_options& options,
                                      const constraint& limits) {
    check_codes("sgd_update", codes, limits);
    check_gradient("sgd_update", codes, gradient);
    check("sgd_update", options);
    prepare_states("sgd_update", codes.rows, codes.cols, {&state.velocity});
    return move_rows(codes, limits, [&](index_t k, const vector&, vector& step) {
        read_row(gradient, k, step.data());
        for (index_t j = 0; j < codes.cols; ++j) {
            double& v = state.velocity(k, j);
            v = options.momentum * v + step[j];
            step[j] = -options.rate * v;
        }
        return true;
    });
}

ISIC_INLINE update_summary adam_update(any_span codes, any_view gradient, adam_state<>& state,
                                       const adam_options& options, const constraint& limits) {
    check_codes("adam_update", codes, limits);
    check_gradient("adam_update", codes, gradient);
    check("adam_update", options);
    check_steps("adam_update", state.steps);
    prepare_states("adam_update", codes.rows, codes.cols, {&state.mean, &state.square});
    ++state.steps;
    const double bias_correction1 = 1 - std::pow(options.beta1, static_cast<double>(state.steps));
    const double bias_correction2 = 1 - std::pow(options.beta2, static_cast<double>(state.steps));
    return move_rows(codes, limits, [&](index_t k, const vector&, vector& step) {
        bool any = false;
        read_row(gradient, k, step.data());
        project_out(limits.orthogonal_to, step);
        for (index_t j = 0; j < codes.cols; ++j) {
            const double x = step[j];
            double& m = state.mean(k, j);
            double& v = state.square(k, j);
            m = options.beta1 * m + (1 - options.beta1) * x;
            v = options.beta2 * v + (1 - options.beta2) * x * x;
            step[j] = -options.rate * (m / bias_correction1) / (std::sqrt(v / bias_correction2) + options.epsilon);
            any = any || m != 0;
        }
        return any;
    });
}

}  // namespace detail
}  // namespace isic::inline ISIC_ABI
