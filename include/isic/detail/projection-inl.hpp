// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <isic/projection.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include <isic/detail/checks.hpp>
#include <isic/detail/codebook.hpp>
#include <isic/detail/edit.hpp>
#include <isic/detail/gram_schmidt.hpp>
#include <isic/detail/projection_checks.hpp>
#include <isic/detail/row_blocks.hpp>
#include <isic/detail/row_status.hpp>

namespace isic::inline ISIC_ABI {

namespace detail {

ISIC_INLINE void require_shares(std::string_view function, std::string_view name, const per_code& values,
                                index_t codes) {
    if (values.has_each_) {
        require_shares(function, name, std::span<const double>(values.each_), codes);
    } else {
        require_range(function, name, values.all_, 0.0, 1.0);
    }
}

inline bool is_zero(any_view m, index_t k) {
    return visit(m, [&](auto rows) { return as_doubles(rows.row(k)).isZero(0); });
}

/// ||a - b||^2 of their rows k.
inline double squared_distance(any_view a, any_view b, index_t k) {
    return visit(a, [&]<class T>(matrix_span<const T> rows) {
        return (as_doubles(rows.row(k)) - as_doubles(typed<T>(b).row(k))).squaredNorm();
    });
}

/// One call of `project_out` or `remap`: new rows in float64 beside the codebook, and a write only after every check
/// has passed.
class projector {
public:
    /// harm null: V = identity.
    projector(std::string_view function, any_span codes, const subspace* harm, const projection_options& options)
        : function_(function), codes_(codes), harm_(harm), options_(options), edit_(edit_access::for_codebook(codes)) {
        check();
        visit(codes, [&]<class T>(matrix_span<T>) {
            rounding_ = rounding_unit<T>();
            least_ = static_cast<double>(std::numeric_limits<T>::denorm_min());
        });
    }

    edit run() {
        project_codes();
        apply_near_zero_policy();
        fill_summary();
        keep_moved_rows();
        write(rows_in(edit_access::after(edit_)));
        try {
            edit_access::fingerprint_after(edit_) = fingerprint(codes_);
            if (harm_ != nullptr) {
                edit_.summary.after = measured_leakage();
            }
        } catch (...) {
            restore();
            throw;
        }
        return std::move(edit_);
    }

private:
    void check() {
        require_not_empty(function_, "a codebook", codes_);
        check_projection(function_, codes_.rows, codes_.cols, harm_, options_,
                         [&](any_view m) { require_apart(function_, codes_, m); });
        if (harm_ != nullptr) {
            // A basis rounded to float would leak.
            part_.emplace(orthonormalise(map(harm_->basis)), options_.weights, options_.execution.simd);
        }
        is_padding_ = padding_mask(function_, options_.padding, codes_.rows);
        require_finite(function_, "the codebook", codes_, &is_padding_);
        bool any = false;
        for (index_t k = 0; k < codes_.rows && !any; ++k) {
            any = !is_padding(k) && !is_zero(codes_, k);
        }
        require_nonzero_codebook(function_, any);
    }

    leakage_report measured_leakage() const {
        if (harm_->rank() == 0) {
            return {};
        }
        if (options_.metric == metric::l2) {
            return leakage(codes_, *harm_, options_.center, options_.padding, options_.execution);
        }
        const row_matrix rows = read_rows(codes_, options_.metric);
        return leakage(view_of(rows), *harm_, options_.center, options_.padding, options_.execution);
    }

    int threads(double bytes, double flops) const { return kernels::threads_for(options_.execution, bytes, flops); }
    bool is_padding(index_t k) const { return is_padding_[static_cast<std::size_t>(k)]; }
    double strength(index_t k) const { return is_padding(k) ? 0.0 : options_.strength[k]; }
    row_status& status_of(index_t k) { return statuses_[static_cast<std::size_t>(k)]; }
    /// Rows of the edit, of the codebook's type and width.
    any_span rows_in(raw_bytes& bytes) const {
        return {bytes.data(), static_cast<index_t>(bytes.size()) / codes_.row_bytes(), codes_.cols, codes_.cols,
                codes_.type};
    }
    Eigen::Map<const vector> target(index_t k) const {
        return map(options_.target.empty() ? std::span(center_) : options_.target.row(k));
    }

    struct row_norms {
        double stored;
        double read;   // as the metric reads the row: 1 for cosine, up to rounding
        double scale;  // of rounding errors: the larger of `read` and the target's norm
    };

    /// Memory of one thread.
    struct thread_memory {
        row_block rows;   // old, then new
        row_block steps;  // toward the target
        row_block rest;   // of the steps, outside the subspace
        std::vector<row_norms> norms;
        kernel_memory memory = std::make_unique<scratch_memory>();
    };

    struct block_sums {
        double change = 0;                               // sum ||c' - c||^2
        double whole = 0;                                // sum ||c||^2
        std::optional<index_t> overflow = std::nullopt;  // the first row that overflows the dtype
    };

    void project_codes() {
        const index_t d = codes_.cols;
        const blocks_of_rows blocks(codes_.rows, d);
        edit_access::before(edit_).resize(static_cast<std::size_t>(
            codes_.rows * codes_.row_bytes()));  // shrinks when the number of moved rows is known
        edit_access::after(edit_).resize(edit_access::before(edit_).size());
        fresh_ = rows_in(edit_access::after(edit_));
        statuses_.assign(static_cast<std::size_t>(codes_.rows), row_status::stays);
        center_.assign(options_.center.begin(), options_.center.end());
        center_.resize(static_cast<std::size_t>(d));
        const auto values = static_cast<double>(codes_.rows * d);
        const double rank = harm_ == nullptr ? 0.0 : static_cast<double>(harm_->rank());
        const auto make = [&] {
            return thread_memory{row_block(blocks.length, d), row_block(blocks.length, d), row_block(blocks.length, d),
                                 std::vector<row_norms>(static_cast<std::size_t>(blocks.length))};
        };
        const auto project = [&](thread_memory& at, index_t start, index_t n) { return project_block(at, start, n); };
        sums_ = results_of_blocks(
            blocks, threads(2 * static_cast<double>(codes_.rows * codes_.row_bytes()), values * (8 * rank + 16)), make,
            project);
        require_no_overflow();
    }

    void require_no_overflow() const {
        for (const block_sums& sums : sums_) {
            if (sums.overflow) {
                std::vector<double> row(static_cast<std::size_t>(codes_.cols));
                read_row(fresh_, *sums.overflow, row.data());
                const auto value = std::ranges::find_if(row, [](double x) { return !std::isfinite(x); });
                fail<numeric_error>(function_, fmt::format("edited rows that fit {}", name_of(codes_.type)),
                                    fmt::format("{} in row {}", *value, *sums.overflow));
            }
        }
    }

    block_sums project_block(thread_memory& at, index_t start, index_t n) {
        block_sums sums;
        read_block(at, start, n, sums);
        step_toward_target(at, start, n);
        bool full_moves = false;
        for (index_t i = 0; i < n; ++i) {
            const index_t k = start + i;
            if (strength(k) != 0 && at.steps.row(i).norm() > step_rounding(at.norms[static_cast<std::size_t>(i)])) {
                at.rows.row(i) += strength(k) * at.steps.row(i);
                status_of(k) = row_status::moved;
                full_moves = full_moves || strength(k) == 1;
            }
        }
        // A second pass removes the rounding error of the first; after a partial move there is nothing to remove.
        if (full_moves && options_.weights.empty()) {
            step_toward_target(at, start, n);
            for (index_t i = 0; i < n; ++i) {
                if (status_of(start + i) == row_status::moved && strength(start + i) == 1) {
                    at.rows.row(i) += at.steps.row(i);
                }
            }
        }
        for (index_t i = 0; i < n; ++i) {
            if (status_of(start + i) == row_status::moved) {
                finish_row(at, start + i, i, sums);
            }
        }
        return sums;
    }

    void read_block(thread_memory& at, index_t start, index_t n, block_sums& sums) const {
        read_rows(codes_.block(start, n), at.rows.data(), at.rows.stride());
        for (index_t i = 0; i < n; ++i) {
            auto row = at.rows.row(i);
            if (is_padding(start + i)) {  // of any value
                row.setZero();
                continue;
            }
            row_norms& norms = at.norms[static_cast<std::size_t>(i)];
            const double square = row.squaredNorm();
            sums.whole += square;
            norms.stored = std::sqrt(square);
            if (options_.metric == metric::cosine && square > 0) {
                row /= norms.stored;
            }
            norms.read = options_.metric == metric::cosine ? row.norm() : norms.stored;
            norms.scale = std::max(norms.read, target(start + i).norm());
        }
    }

    /// steps <- (target - rows) V diag(w) V^T
    void step_toward_target(thread_memory& at, index_t start, index_t n) const {
        for (index_t i = 0; i < n; ++i) {
            at.steps.row(i) = target(start + i) - at.rows.row(i);
        }
        if (part_) {
            (*part_)(at.steps, at.rest, n, *at.memory);
        }
    }

    /// Bound of the length of a step that consists of rounding errors only.
    double step_rounding(const row_norms& norms) const {
        const double absolute = least_ * std::sqrt(static_cast<double>(codes_.cols));  // of subnormal entries
        return (4 * rounding_ + 8 * rounding_unit<double>()) * norms.scale +
               (options_.metric == metric::l2 ? absolute : absolute / norms.stored);
    }

    void finish_row(thread_memory& at, index_t k, index_t i, block_sums& sums) {
        auto row = at.rows.row(i);
        const row_norms& norms = at.norms[static_cast<std::size_t>(i)];
        const double norm = row.norm();
        const double noise = 16 * rounding_unit<double>() * norms.scale;
        if (options_.target.empty() && norm < std::max(options_.near_zero_below * norms.read, noise)) {
            status_of(k) = row_status::near_zero;
            return;
        }
        if ((options_.keep_norms || options_.metric == metric::cosine) && norm > 0) {
            row *= norms.stored / norm;
        }
        if (!store_row(row.data(), fresh_, k) && !sums.overflow) {
            sums.overflow = k;
        }
        compare_row(k, sums);
    }

    /// Sets the status of a row by its new bytes, and adds its change to the sums.
    void compare_row(index_t k, block_sums& sums) {
        const bool same =
            std::memcmp(fresh_.row(k).data(), codes_.row(k).data(), static_cast<std::size_t>(codes_.row_bytes())) == 0;
        status_of(k) = same ? row_status::stays : row_status::moved;
        sums.change += same ? 0.0 : squared_distance(fresh_, codes_, k);
    }

    void apply_near_zero_policy() {
        const std::vector<index_t> near_zero = rows_with(statuses_, row_status::near_zero);
        edit_.summary.near_zero = static_cast<index_t>(near_zero.size());
        if (!near_zero_rows_change(function_, options_, near_zero)) {
            return;
        }
        if (options_.near_zero == near_zero_policy::zero) {
            for (const index_t k : near_zero) {
                std::ranges::fill(fresh_.row(k), std::byte(0));
            }
        } else {
            replace_by_nearest(near_zero);
        }
        for (const index_t k : near_zero) {
            compare_row(k, sums_.front());
        }
    }

    void replace_by_nearest(const std::vector<index_t>& near_zero) {
        const std::vector<index_t> candidates =
            replacement_rows(function_, statuses_, [&](index_t k) { return !is_padding(k) && !is_zero(codes_, k); });
        const std::vector<index_t> nearest = nearest_codes(view_of(rows_at(near_zero)), view_of(rows_at(candidates)),
                                                           options_.metric, {}, options_.execution);
        for (std::size_t i = 0; i < near_zero.size(); ++i) {
            const index_t chosen = candidates[static_cast<std::size_t>(nearest[i])];
            const any_span from = status_of(chosen) == row_status::moved ? fresh_ : codes_;
            std::ranges::copy(from.row(chosen), fresh_.row(near_zero[i]).begin());
        }
    }

    /// Old rows as float64.
    row_matrix rows_at(const std::vector<index_t>& ids) const {
        row_matrix out(static_cast<index_t>(ids.size()), codes_.cols);
        for (std::size_t i = 0; i < ids.size(); ++i) {
            read_row(codes_, ids[i], out.row(static_cast<index_t>(i)).data());
        }
        return out;
    }

    /// Ids, numbers and subspace of the edit. Throws if the squares overflow; nothing is written yet.
    void fill_summary() {
        if (harm_ != nullptr) {
            edit_.removed = *harm_;
        }
        edit_.center.assign(options_.center.begin(), options_.center.end());
        for (index_t k = 0; k < codes_.rows; ++k) {
            if (status_of(k) == row_status::moved) {
                edit_access::ids(edit_).push_back(k);
            }
        }
        double change = 0;
        double whole = 0;
        for (const block_sums& sums : sums_) {
            change += sums.change;
            whole += sums.whole;
        }
        // Otherwise norms underflow to 0 or overflow, and no row would seem to move.
        require<numeric_error>(whole > 0 && std::isfinite(whole + change), function_,
                               "a codebook whose squares fit float64", fmt::format("{}", whole + change));
        edit_.summary.moved = static_cast<index_t>(edit_.ids().size());
        edit_.summary.relative_change = std::sqrt(change / whole);
        if (harm_ != nullptr) {
            edit_.summary.before = measured_leakage();
        }
    }

    /// Copies the moved rows, old and new, to the front of the edit's memory and releases the rest.
    void keep_moved_rows() {
        const any_span before = rows_in(edit_access::before(edit_));
        for_each_of(edit_.ids(), [&](index_t, index_t k) { std::ranges::copy(codes_.row(k), before.row(k).begin()); });
        compact(edit_access::before(edit_));
        compact(edit_access::after(edit_));
    }

    /// Copies the rows of the edit into the codebook.
    void write(any_span rows) {
        for_each_of(edit_.ids(), [&](index_t i, index_t k) { std::ranges::copy(rows.row(i), codes_.row(k).begin()); });
    }

    /// Calls copy(i, ids[i]) for all i, on several threads.
    template <class Copy>
    void for_each_of(const std::vector<index_t>& ids, const Copy& copy) const {
        const blocks_of_rows blocks(static_cast<index_t>(ids.size()), codes_.cols);
        for_each_block(
            blocks, threads(static_cast<double>(blocks.rows * codes_.row_bytes()), 0), [] { return nullptr; },
            [&](std::nullptr_t, index_t start, index_t n) {
                for (index_t i = start; i < start + n; ++i) {
                    copy(i, ids[static_cast<std::size_t>(i)]);
                }
            });
    }

    /// Puts the old rows back, without an allocation: the exception may be of exhausted memory.
    void restore() {
        const any_span before = rows_in(edit_access::before(edit_));
        for (index_t i = 0; i < before.rows; ++i) {
            std::ranges::copy(before.row(i), codes_.row(edit_.ids()[static_cast<std::size_t>(i)]).begin());
        }
    }

    /// rows [K x d] <- the rows that moved.
    void compact(raw_bytes& rows) const {
        const std::vector<index_t>& ids = edit_.ids();
        const auto size = static_cast<std::size_t>(codes_.row_bytes());
        for (std::size_t i = 0; i < ids.size(); ++i) {
            if (const auto k = static_cast<std::size_t>(ids[i]); k != i) {
                std::memcpy(rows.data() + i * size, rows.data() + k * size, size);
            }
        }
        rows.resize(ids.size() * size);
        rows.shrink_to_fit();
    }

    std::string_view function_;
    any_span codes_;
    const subspace* harm_;
    std::optional<part_in_subspace> part_;  // empty: V = identity
    const projection_options& options_;
    edit edit_;
    any_span fresh_;       // the new rows [K x d], in the edit's memory until `keep_moved_rows`
    double rounding_ = 0;  // rounding unit of the dtype
    double least_ = 0;     // its smallest positive value
    std::vector<bool> is_padding_;
    std::vector<double> center_;        // [d]
    std::vector<row_status> statuses_;  // [K]
    std::vector<block_sums> sums_;
};

ISIC_INLINE edit project(std::string_view function, any_span codes, const subspace* harm,
                         const projection_options& options) {
    return projector(function, codes, harm, options).run();
}

}  // namespace detail
}  // namespace isic::inline ISIC_ABI
