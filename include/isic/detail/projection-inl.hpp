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
#include <isic/detail/edit.hpp>
#include <isic/detail/codebook.hpp>
#include <isic/detail/gram_schmidt.hpp>
#include <isic/detail/projection_checks.hpp>
#include <isic/detail/row_blocks.hpp>

namespace isic::inline ISIC_ABI {

ISIC_INLINE void per_code::check(std::string_view function, std::string_view name, index_t codes) const {
    if (has_each_) {
        detail::require_shares(function, name, each_, codes);
    } else {
        detail::require_range(function, name, all_, 0.0, 1.0);
    }
}

namespace detail {

inline bool is_zero(any_view m, index_t k) {
    return visit(m, [&](auto rows) { return as_doubles(rows.row(k)).isZero(0); });
}

/// ||a - b||^2 of their rows k.
inline double squared_distance(any_view a, any_view b, index_t k) {
    return visit(a, [&]<class T>(matrix_span<const T> rows) {
        return (as_doubles(rows.row(k)) - as_doubles(typed<T>(b).row(k))).squaredNorm();
    });
}

/// Projection in float64 of one codebook into new rows; writes only when everything is known to be right.
class projector {
public:
    /// harm null: V is the identity.
    projector(std::string_view function, any_span codes, const subspace* harm, const projection_options& options)
        : function_(function), codes_(codes), harm_(harm), options_(options), edit_(edit_access::for_codebook(codes)) {
        check();
        visit(codes, [&]<class T>(matrix_span<T>) {
            rounding_ = rounding_unit<T>();
            least_ = static_cast<double>(std::numeric_limits<T>::denorm_min());
        });
    }

    edit run() {
        project_rows();
        settle_near_zero();
        record();
        write(rows_in(edit_access::after(edit_)));
        try {
            edit_access::fingerprint_after(edit_) = fingerprint(codes_);
            if (harm_ != nullptr) {
                edit_.summary.after = measured_leakage();
            }
        } catch (...) {  // out of memory, so without asking for any
            const any_span before = rows_in(edit_access::before(edit_));
            for (index_t i = 0; i < before.rows; ++i) {
                std::ranges::copy(before.row(i), codes_.row(edit_.ids()[static_cast<std::size_t>(i)]).begin());
            }
            throw;
        }
        return std::move(edit_);
    }

private:
    void check() {
        require_not_empty(function_, "a codebook", codes_);
        check_projection(function_, codes_.rows, codes_.cols, harm_, options_, [&](any_view m) { require_apart(function_, codes_, m); });
        if (harm_ != nullptr) {
            // A basis rounded to float would leak.
            part_.emplace(orthonormal_rest(map(harm_->basis), Eigen::MatrixXd(codes_.cols, 0)), options_.weights, options_.execution.simd);
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
    /// Rows of the edit, as the codebook's.
    any_span rows_in(raw_bytes& bytes) const {
        return {bytes.data(), static_cast<index_t>(bytes.size()) / codes_.row_bytes(), codes_.cols, codes_.cols, codes_.type};
    }
    Eigen::Map<const vector> goal(index_t k) const { return map(options_.target.empty() ? std::span(center_) : options_.target.row(k)); }

    struct row_numbers {
        double stored_norm;
        double norm;   // as the look-up reads it
        double scale;  // of rounding errors: the larger of the row's norm and the goal's
    };

    /// What a thread works with.
    struct workplace {
        row_block rows;   // old, then new
        row_block steps;  // toward the goal
        row_block rest;
        std::vector<row_numbers> numbers;
        kernel_memory memory = std::make_unique<scratch_memory>();
    };

    struct block_sums {
        double change = 0;                               // sum ||c' - c||^2
        double whole = 0;                                // sum ||c||^2
        std::optional<index_t> overflow = std::nullopt;  // the first row that does not fit
    };

    void project_rows() {
        const index_t d = codes_.cols;
        const blocks_of_rows blocks(codes_.rows, d);
        edit_access::before(edit_).resize(static_cast<std::size_t>(codes_.rows * codes_.row_bytes()));  // until it is known how many move
        edit_access::after(edit_).resize(edit_access::before(edit_).size());
        fresh_ = rows_in(edit_access::after(edit_));
        statuses_.assign(static_cast<std::size_t>(codes_.rows), row_status::stays);
        center_.assign(options_.center.begin(), options_.center.end());
        center_.resize(static_cast<std::size_t>(d));
        const auto values = static_cast<double>(codes_.rows * d);
        const double rank = harm_ == nullptr ? 0.0 : static_cast<double>(harm_->rank());
        const auto make = [&] {
            return workplace{row_block(blocks.length, d), row_block(blocks.length, d), row_block(blocks.length, d),
                             std::vector<row_numbers>(static_cast<std::size_t>(blocks.length))};
        };
        const auto project = [&](workplace& at, index_t start, index_t n) { return project_block(at, start, n); };
        sums_ = results_of_blocks(blocks, threads(2 * static_cast<double>(codes_.rows * codes_.row_bytes()), values * (8 * rank + 16)), make, project);
        for (const block_sums& sums : sums_) {
            if (sums.overflow) {
                std::vector<double> row(static_cast<std::size_t>(d));
                read_row(fresh_, *sums.overflow, row.data());
                const auto value = std::ranges::find_if(row, [](double x) { return !std::isfinite(x); });
                fail<numeric_error>(function_, fmt::format("edited rows that fit {}", name_of(codes_.type)),
                                    fmt::format("{} in row {}", *value, *sums.overflow));
            }
        }
    }

    block_sums project_block(workplace& at, index_t start, index_t n) {
        block_sums sums;
        read_block(at, start, n, sums);
        step_toward_goal(at, start, n);
        bool whole_moves = false;
        for (index_t i = 0; i < n; ++i) {
            const index_t k = start + i;
            if (strength(k) != 0 && at.steps.row(i).norm() > rounding(at.numbers[static_cast<std::size_t>(i)])) {
                at.rows.row(i) += strength(k) * at.steps.row(i);
                status_of(k) = row_status::moved;
                whole_moves = whole_moves || strength(k) == 1;
            }
        }
        // Once more for what rounding left ("twice is enough"); a partial move has nothing to clean.
        if (whole_moves && options_.weights.empty()) {
            step_toward_goal(at, start, n);
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

    void read_block(workplace& at, index_t start, index_t n, block_sums& sums) const {
        read_rows(codes_.block(start, n), at.rows.data(), at.rows.stride());
        for (index_t i = 0; i < n; ++i) {
            auto row = at.rows.row(i);
            if (is_padding(start + i)) {  // it may hold anything
                row.setZero();
                continue;
            }
            row_numbers& of = at.numbers[static_cast<std::size_t>(i)];
            const double square = row.squaredNorm();
            sums.whole += square;
            of.stored_norm = std::sqrt(square);
            if (options_.metric == metric::cosine && square > 0) {
                row /= of.stored_norm;
            }
            of.norm = options_.metric == metric::cosine ? row.norm() : of.stored_norm;
            of.scale = std::max(of.norm, goal(start + i).norm());
        }
    }

    /// steps <- (goal - rows) V diag(w) V^T
    void step_toward_goal(workplace& at, index_t start, index_t n) const {
        for (index_t i = 0; i < n; ++i) {
            at.steps.row(i) = goal(start + i) - at.rows.row(i);
        }
        if (part_) {
            (*part_)(at.steps, at.rest, n, *at.memory);
        }
    }

    /// How long a step can be by rounding alone.
    double rounding(const row_numbers& of) const {
        const double absolute = least_ * std::sqrt(static_cast<double>(codes_.cols));  // of subnormal entries
        return (4 * rounding_ + 8 * rounding_unit<double>()) * of.scale +
               (options_.metric == metric::l2 ? absolute : absolute / of.stored_norm);
    }

    void finish_row(workplace& at, index_t k, index_t i, block_sums& sums) {
        auto row = at.rows.row(i);
        const row_numbers& of = at.numbers[static_cast<std::size_t>(i)];
        const double norm = row.norm();
        const double noise = 16 * rounding_unit<double>() * of.scale;
        if (options_.target.empty() && norm < std::max(options_.near_zero_below * of.norm, noise)) {
            status_of(k) = row_status::near_zero;
            return;
        }
        if ((options_.keep_norms || options_.metric == metric::cosine) && norm > 0) {
            row *= of.stored_norm / norm;
        }
        if (!store_row(row.data(), fresh_, k) && !sums.overflow) {
            sums.overflow = k;
        }
        settle(k, sums);
    }

    /// A row whose new value is there moves if that differs.
    void settle(index_t k, block_sums& sums) {
        const bool same = std::memcmp(fresh_.row(k).data(), codes_.row(k).data(), static_cast<std::size_t>(codes_.row_bytes())) == 0;
        status_of(k) = same ? row_status::stays : row_status::moved;
        sums.change += same ? 0.0 : squared_distance(fresh_, codes_, k);
    }

    void settle_near_zero() {
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
            settle(k, sums_.front());
        }
    }

    void replace_by_nearest(const std::vector<index_t>& near_zero) {
        const std::vector<index_t> candidates =
            replacement_rows(function_, statuses_, [&](index_t k) { return !is_padding(k) && !is_zero(codes_, k); });
        const std::vector<index_t> nearest =
            nearest_codes(view_of(rows_at(near_zero)), view_of(rows_at(candidates)), options_.metric, {}, options_.execution);
        for (std::size_t i = 0; i < near_zero.size(); ++i) {
            const index_t chosen = candidates[static_cast<std::size_t>(nearest[i])];
            const any_span from = status_of(chosen) == row_status::moved ? fresh_ : codes_;
            std::ranges::copy(from.row(chosen), fresh_.row(near_zero[i]).begin());
        }
    }

    /// The old rows.
    row_matrix rows_at(const std::vector<index_t>& ids) const {
        row_matrix out(static_cast<index_t>(ids.size()), codes_.cols);
        for (std::size_t i = 0; i < ids.size(); ++i) {
            read_row(codes_, ids[i], out.row(static_cast<index_t>(i)).data());
        }
        return out;
    }

    /// Makes the edit what was done, before anything is written.
    void record() {
        if (harm_ != nullptr) {
            edit_.removed = *harm_;
        }
        edit_.center.assign(options_.center.begin(), options_.center.end());
        for (index_t k = 0; k < codes_.rows; ++k) {
            if (status_of(k) == row_status::moved) {
                edit_access::ids(edit_).push_back(k);
            }
        }
        const any_span before = rows_in(edit_access::before(edit_));
        for_each_of(edit_.ids(), [&](index_t, index_t k) { std::ranges::copy(codes_.row(k), before.row(k).begin()); });
        keep_moved(edit_access::before(edit_));
        keep_moved(edit_access::after(edit_));
        double change = 0;
        double whole = 0;
        for (const block_sums& sums : sums_) {
            change += sums.change;
            whole += sums.whole;
        }
        // Else norms are 0 or infinite, and rows seem to need no step.
        require<numeric_error>(whole > 0 && std::isfinite(whole + change), function_, "a codebook whose squares fit float64",
                               fmt::format("{}", whole + change));
        edit_.summary.moved = static_cast<index_t>(edit_.ids().size());
        edit_.summary.relative_change = std::sqrt(change / whole);
        if (harm_ != nullptr) {
            edit_.summary.before = measured_leakage();
        }
    }

    /// The rows of the edit into the codebook.
    void write(any_span rows) {
        for_each_of(edit_.ids(), [&](index_t i, index_t k) { std::ranges::copy(rows.row(i), codes_.row(k).begin()); });
    }

    /// copy(i, ids[i]) on several threads.
    template <class Copy>
    void for_each_of(const std::vector<index_t>& ids, const Copy& copy) const {
        const blocks_of_rows blocks(static_cast<index_t>(ids.size()), codes_.cols);
        for_each_block(blocks, threads(static_cast<double>(blocks.rows * codes_.row_bytes()), 0), [] { return nullptr; },
                       [&](std::nullptr_t, index_t start, index_t n) {
                           for (index_t i = start; i < start + n; ++i) {
                               copy(i, ids[static_cast<std::size_t>(i)]);
                           }
                       });
    }

    /// Rows [K x d] become those that moved.
    void keep_moved(raw_bytes& rows) const {
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
    std::optional<part_in_subspace> part_;  // none: V is the identity
    const projection_options& options_;
    edit edit_;
    any_span fresh_;               // the new rows, in the edit, until only those that move are kept
    double rounding_ = 0;          // of the dtype type, relative
    double least_ = 0;             // its smallest positive value
    std::vector<bool> is_padding_;
    std::vector<double> center_;   // [d]
    std::vector<row_status> statuses_;      // [K]
    std::vector<block_sums> sums_;
};

ISIC_INLINE edit project(std::string_view function, any_span codes, const subspace* harm, const projection_options& options) {
    return projector(function, codes, harm, options).run();
}

}  // namespace detail
}  // namespace isic::inline ISIC_ABI
