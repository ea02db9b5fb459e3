#include <isic/projection.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <unordered_map>
#include <utility>

#include "orthonormal.hpp"

namespace isic {

void per_code::check(std::string_view function, std::string_view name, index_t codes) const {
    if (has_each_) {
        detail::require_shares(function, name, each_, codes);
    } else {
        detail::require_range(function, name, all_, 0.0, 1.0);
    }
}

namespace detail {
namespace {

/// Projection in float64 of one codebook into staged new rows; writes only when everything is known to be right.
template <scalar T>
class projector {
public:
    /// basis null: V is the identity.
    projector(std::string_view function, matrix_span<T> codes, const subspace* harm, const projection_options& options)
        : function_(function), codes_(codes), harm_(harm), options_(options), edit_(edit_access::for_codebook(codes)) {
        check();
    }

    edit run() {
        constexpr index_t block = 64;
        for (index_t start = 0; start < codes_.rows(); start += block) {
            project_block(start, std::min(block, codes_.rows() - start));
        }
        settle_vanished();
        record();
        for (const auto& [k, row] : staged_) {
            std::copy(row.begin(), row.end(), codes_.row(k).begin());
        }
        edit_access::fingerprint_after(edit_) = fingerprint(codes_);
        if (harm_ != nullptr) {
            edit_.removed = *harm_;
            edit_.summary.after = measured_leakage();
        }
        edit_.center.assign(options_.center.begin(), options_.center.end());
        return std::move(edit_);
    }

private:
    void check() {
        require_not_empty(function_, "a codebook", codes_);
        const index_t d = codes_.cols();
        if (harm_ != nullptr) {
            require_size(function_, "rows in the basis", d, harm_->width());
            require<value_error>(harm_->rank() <= d, function_, "a rank of at most d", fmt::format("{} > {}", harm_->rank(), d));
            require_orthonormal(function_, harm_->basis);
            v_ = orthonormal_rest(map(harm_->basis), Eigen::MatrixXd(d, 0));  // a basis rounded to float would leak
            require_apart(function_, codes_, harm_->basis.view());
            if (!options_.weights.empty()) {
                require_size(function_, "weights", harm_->rank(), static_cast<index_t>(options_.weights.size()));
                for (const double w : options_.weights) {
                    require_range(function_, "weights", w, 0.0, 1.0);
                }
                require_apart(function_, codes_, options_.weights);
            }
        } else {
            require<shape_error>(!options_.target.empty(), function_, "a target per code", "none");
            require<value_error>(options_.weights.empty(), function_, "no weights in a full remap", "weights");
        }
        if (!options_.center.empty()) {
            require_size(function_, "values in the center", d, static_cast<index_t>(options_.center.size()));
            require_finite(function_, "the center", options_.center);
            require_apart(function_, codes_, options_.center);
        }
        if (!options_.target.empty()) {
            require_size(function_, "target rows", codes_.rows(), options_.target.rows());
            require_size(function_, "target columns", d, options_.target.cols());
            require_finite(function_, "the targets", options_.target);
            require_apart(function_, codes_, options_.target);
        }
        options_.strength.check(function_, "strength", codes_.rows());
        require_range(function_, "vanish_below", options_.vanish_below, 0.0, 1.0);
        is_padding_ = padding_mask(function_, options_.padding, codes_.rows());
        require_finite(function_, "the codebook", codes_, &is_padding_);
        bool any = false;
        for (index_t k = 0; k < codes_.rows() && !any; ++k) {
            any = !is_padding_[static_cast<std::size_t>(k)] &&
                  std::ranges::any_of(codes_.row(k), [](T x) { return static_cast<double>(x) != 0.0; });
        }
        require<numeric_error>(any, function_, "a codebook with a row that is not zero", "zeros only");
        if (harm_ != nullptr) {
            edit_.summary.before = measured_leakage();
        }
    }

    leakage_report measured_leakage() const {
        if (harm_->rank() == 0) {
            return {};
        }
        if (options_.rule == lookup::plain) {
            return leakage(codes_, *harm_, options_.center, options_.padding);
        }
        const row_matrix rows = read_rows(codes_, options_.rule);
        return leakage(view_of(rows), *harm_, options_.center, options_.padding);
    }

    double strength(index_t k) const { return is_padding_[static_cast<std::size_t>(k)] ? 0.0 : options_.strength[k]; }

    void project_block(index_t start, index_t n) {
        const row_matrix old = read_rows(any_view(codes_).block(start, n), options_.rule);
        row_matrix goal = row_matrix::Zero(n, codes_.cols());
        if (!options_.target.empty()) {
            goal = Eigen::Map<const row_matrix, 0, Eigen::OuterStride<>>(options_.target.data() + start * options_.target.stride(), n,
                                                                        codes_.cols(), Eigen::OuterStride<>(options_.target.stride()));
        } else if (!options_.center.empty()) {
            goal.rowwise() = Eigen::Map<const Eigen::RowVectorXd>(options_.center.data(), codes_.cols());
        }
        const row_matrix step = toward(goal - old);
        row_matrix fresh = old;
        for (index_t i = 0; i < n; ++i) {
            fresh.row(i) += strength(start + i) * step.row(i);
        }
        // Once more for what rounding left ("twice is enough"); a partial move has nothing to clean.
        const row_matrix rest = options_.weights.empty() ? toward(goal - fresh) : row_matrix();
        for (index_t i = 0; i < n; ++i) {
            const index_t k = start + i;
            const double scale = std::max(old.row(i).norm(), goal.row(i).norm());
            const double absolute = smallest() * std::sqrt(static_cast<double>(codes_.cols()));  // of subnormal entries
            const double rounding = (4 * rounding_unit<T>() + 8 * rounding_unit<double>()) * scale +
                                    (options_.rule == lookup::plain ? absolute : absolute / stored_norm(k));
            if (strength(k) == 0 || step.row(i).norm() <= rounding) {
                continue;
            }
            vector row = fresh.row(i).transpose();
            if (rest.size() > 0 && strength(k) == 1) {
                row += rest.row(i).transpose();
            }
            const double noise = 16 * rounding_unit<double>() * scale;
            if (options_.target.empty() && row.norm() < std::max(options_.vanish_below * old.row(i).norm(), noise)) {
                vanished_.push_back(k);
                continue;
            }
            if ((options_.keep_norms || options_.rule == lookup::l2_normalised) && row.norm() > 0) {
                row *= stored_norm(k) / row.norm();
            }
            stage(k, row);
        }
    }

    /// (t - c) V diag(w) V^T
    row_matrix toward(const row_matrix& difference) const {
        if (harm_ == nullptr) {
            return difference;
        }
        row_matrix coefficients = difference * v_;
        if (!options_.weights.empty()) {
            coefficients *= Eigen::Map<const vector>(options_.weights.data(), harm_->rank()).asDiagonal();
        }
        return coefficients * v_.transpose();
    }

    static double smallest() { return static_cast<double>(std::numeric_limits<T>::denorm_min()); }

    double stored_norm(index_t k) const {
        vector row;
        load(std::span<const T>(codes_.row(k)), row);
        return row.norm();
    }

    void stage(index_t k, const vector& row) {
        std::vector<T> values(static_cast<std::size_t>(codes_.cols()));
        store(row, std::span<T>(values));
        for (const T value : values) {
            if (!std::isfinite(static_cast<double>(value))) {
                fail<numeric_error>(function_, fmt::format("edited rows that fit {}", name_of(storage_of<T>())),
                                    fmt::format("{} in row {}", static_cast<double>(value), k));
            }
        }
        staged_.emplace_back(k, std::move(values));
    }

    void settle_vanished() {
        edit_.summary.vanished = static_cast<index_t>(vanished_.size());
        if (vanished_.empty() || options_.vanished == vanished_rows::skip) {
            return;
        }
        require<numeric_error>(options_.vanished != vanished_rows::error, function_,
                               fmt::format("at least {} of each row's norm left", options_.vanish_below),
                               fmt::format("less in {} rows, the first {}", vanished_.size(), vanished_.front()));
        if (options_.vanished == vanished_rows::zero) {
            for (const index_t k : vanished_) {
                stage(k, vector::Zero(codes_.cols()));
            }
        } else {
            replace_by_nearest();
        }
        std::ranges::sort(staged_, {}, [](const auto& s) { return s.first; });
    }

    void replace_by_nearest() {
        std::unordered_map<index_t, std::size_t> moved;
        for (std::size_t i = 0; i < staged_.size(); ++i) {
            moved[staged_[i].first] = i;
        }
        std::vector<index_t> still;
        std::vector<index_t> others;
        for (index_t k = 0; k < codes_.rows(); ++k) {
            const bool zero = std::ranges::all_of(codes_.row(k), [](T x) { return static_cast<double>(x) == 0.0; });
            const bool usable = !zero && !is_padding_[static_cast<std::size_t>(k)] && !std::ranges::binary_search(vanished_, k);
            if (usable) {
                (moved.contains(k) ? others : still).push_back(k);
            }
        }
        const std::vector<index_t>& candidates = still.empty() ? others : still;
        require<numeric_error>(!candidates.empty(), function_, "a row that does not vanish", "none; choose another policy");
        row_matrix pool(static_cast<index_t>(candidates.size()), codes_.cols());
        vector row;
        for (std::size_t i = 0; i < candidates.size(); ++i) {
            load(std::span<const T>(codes_.row(candidates[i])), row);
            pool.row(static_cast<index_t>(i)) = row.transpose();
        }
        row_matrix lost(static_cast<index_t>(vanished_.size()), codes_.cols());
        for (std::size_t i = 0; i < vanished_.size(); ++i) {
            load(std::span<const T>(codes_.row(vanished_[i])), row);
            lost.row(static_cast<index_t>(i)) = row.transpose();
        }
        const std::vector<index_t> nearest = nearest_codes(view_of(lost), view_of(pool), options_.rule, {});
        for (std::size_t i = 0; i < vanished_.size(); ++i) {
            const index_t k = vanished_[i];
            const index_t chosen = candidates[static_cast<std::size_t>(nearest[i])];
            const auto found = moved.find(chosen);
            const auto source = found == moved.end() ? std::span<const T>(codes_.row(chosen)) : std::span<const T>(staged_[found->second].second);
            staged_.emplace_back(k, std::vector<T>(source.begin(), source.end()));
        }
    }

    void record() {
        std::erase_if(staged_, [&](const auto& s) {
            return std::memcmp(s.second.data(), codes_.row(s.first).data(), codes_.row(s.first).size_bytes()) == 0;
        });
        double change = 0;
        for (const auto& [k, row] : staged_) {
            edit_access::add_row(edit_, k, std::as_bytes(codes_.row(k)), std::as_bytes(std::span(row)));
            for (std::size_t j = 0; j < row.size(); ++j) {
                const double step = static_cast<double>(row[j]) - static_cast<double>(codes_.row(k)[j]);
                change += step * step;
            }
        }
        double whole = 0;
        for (index_t k = 0; k < codes_.rows(); ++k) {
            if (is_padding_[static_cast<std::size_t>(k)]) {
                continue;
            }
            for (const T value : codes_.row(k)) {
                whole += static_cast<double>(value) * static_cast<double>(value);
            }
        }
        edit_.summary.moved = static_cast<index_t>(staged_.size());
        edit_.summary.relative_change = std::sqrt(change / whole);
    }

    std::string_view function_;
    matrix_span<T> codes_;
    const subspace* harm_;
    row_matrix v_;
    const projection_options& options_;
    edit edit_;
    std::vector<bool> is_padding_;
    std::vector<index_t> vanished_;
    std::vector<std::pair<index_t, std::vector<T>>> staged_;
};

}  // namespace

edit project(std::string_view function, any_span codes, const subspace* harm, const projection_options& options) {
    return visit(codes, [&]<class T>(matrix_span<T> c) { return projector<T>(function, c, harm, options).run(); });
}

}  // namespace detail
}  // namespace isic
