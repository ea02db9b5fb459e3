#include <isic/cuda/projection.hpp>

#include <algorithm>

#include <isic/cuda/codebook.hpp>
#include <isic/cuda/metrics.hpp>

#include <isic/detail/gram_schmidt.hpp>
#include "kernels.hpp"
#include "look.hpp"

namespace isic::inline ISIC_ABI::cuda {
namespace {

using isic::detail::require;
using isic::detail::require_size;

std::size_t row_bytes(const rows_out& m) {
    return static_cast<std::size_t>(m.cols * bytes_of(m.type));
}

std::size_t pitch(const rows_out& m) {
    return static_cast<std::size_t>(m.stride * bytes_of(m.type));
}

/// Overwrites rows with others that have no gaps. Waits.
void write_rows(state& s, const rows_out& to, const buffer& from) {
    copy_on_device(s, to.data, pitch(to), from.data(), row_bytes(to), row_bytes(to), static_cast<std::size_t>(to.rows));
    s.synchronize();
}

/// One projection: checks everything, uploads what is small, runs the kernels, settles what near_zero.
class projection {
public:
    projection(const std::shared_ptr<state>& s, std::string_view function, rows_out codes, const subspace* harm,
               const projection_options& options, const double* target)
        : s_(s), function_(function), codes_(codes), harm_(harm), options_(options) {
        check_arguments();
        const on_device guard(s_->device());
        padding_ = padding_mask_of(s_, options_.padding, codes_.rows, function_);
        const bool any = require_finite_rows(s_, read_only(codes_), padding_.data(), function_, "the codebook");
        require<numeric_error>(any, function_, "a codebook with a row that is not zero", "zeros only");
        upload_options(target);
        if (harm_ != nullptr && harm_->rank() > 0) {
            record_.summary.before = leakage_now();
        }
    }

    edit_record run(bool can_undo) {
        const on_device guard(s_->device());
        record_.type = codes_.type;
        record_.rows = codes_.rows;
        record_.cols = codes_.cols;
        keep_old_rows();  // also for a failure half-way
        try {
            move_rows();
            measure();
        } catch (...) {
            put_back();
            throw;
        }
        if (!can_undo) {
            record_.before = {};
        }
        return std::move(record_);
    }

private:
    void check_arguments() {
        const index_t d = codes_.cols;
        require<shape_error>(codes_.rows > 0 && d > 0, function_, "a codebook with rows and columns", fmt::format("{} x {}", codes_.rows, d));
        require<value_error>(d <= widest_row, function_, fmt::format("a width of at most {} on a device", widest_row), fmt::format("{}", d));
        if (harm_ != nullptr) {
            require_size(function_, "rows in the basis", d, harm_->width());
            require<value_error>(harm_->rank() <= d, function_, "a rank of at most d", fmt::format("{} > {}", harm_->rank(), d));
            isic::detail::require_orthonormal(function_, harm_->basis);
            if (!options_.weights.empty()) {
                require_size(function_, "weights", harm_->rank(), static_cast<index_t>(options_.weights.size()));
                for (const double w : options_.weights) {
                    isic::detail::require_range(function_, "weights", w, 0.0, 1.0);
                }
            }
        } else {
            require<shape_error>(!options_.target.empty(), function_, "a target per code", "none");
            require<value_error>(options_.weights.empty(), function_, "no weights in a full remap", "weights");
        }
        if (!options_.center.empty()) {
            require_size(function_, "values in the center", d, static_cast<index_t>(options_.center.size()));
            isic::detail::require_finite(function_, "the center", options_.center);
        }
        if (!options_.target.empty()) {
            require_size(function_, "target rows", codes_.rows, options_.target.rows());
            require_size(function_, "target columns", d, options_.target.cols());
            isic::detail::require_finite(function_, "the targets", options_.target);
        }
        isic::detail::require_shares(function_, "strength", options_.strength, codes_.rows);
        isic::detail::require_range(function_, "near_zero_below", options_.near_zero_below, 0.0, 1.0);
    }

    void upload_options(const double* target) {
        const index_t d = codes_.cols;
        if (harm_ != nullptr) {
            // A basis rounded to float would leak; each direction becomes a row.
            const Eigen::MatrixXd v = isic::detail::orthonormalise(isic::detail::map(harm_->basis));
            rank_ = v.cols();
            directions_ = to_device<double>(s_, {v.data(), static_cast<std::size_t>(v.size())});
            weights_ = to_device<double>(s_, options_.weights);
        }
        center_ = to_device<double>(s_, options_.center);
        std::vector<double> strengths(static_cast<std::size_t>(codes_.rows));
        for (index_t k = 0; k < codes_.rows; ++k) {
            strengths[static_cast<std::size_t>(k)] = options_.strength[k];
        }
        strengths_ = to_device<double>(s_, strengths);
        target_ = target;
        if (target != nullptr) {
            require_finite_rows(s_, {target, dtype::f64, codes_.rows, d, d}, nullptr, function_, "the targets");
        } else if (!options_.target.empty()) {
            const matrix<double> whole = isic::detail::to_double(options_.target);
            own_target_ = to_device<double>(s_, {whole.data(), static_cast<std::size_t>(whole.rows() * d)});
            target_ = own_target_.data();
        }
    }

    leakage_report leakage_now() const { return leaked(s_, read_only(codes_), *harm_, options_.center, options_.padding, options_.metric); }

    void keep_old_rows() {
        record_.before = buffer(s_, row_bytes(codes_) * static_cast<std::size_t>(codes_.rows));
        copy_on_device(*s_, record_.before.data(), row_bytes(codes_), codes_.data, pitch(codes_), row_bytes(codes_),
                       static_cast<std::size_t>(codes_.rows));
        s_->synchronize();  // a copy that failed must not be put back
    }

    void put_back() noexcept {
        try {
            write_rows(*s_, codes_, record_.before);
        } catch (const cuda_error&) {  // the device is lost, and the codebook with it; the first error is reported
        }
    }

    void move_rows() {
        outcomes_ = scratch<outcome>(s_, codes_.rows);
        const scratch<findings> found = nothing(s_);
        const projection_arguments a{codes_,
                                     harm_ != nullptr ? identity_safe_directions() : nullptr,
                                     rank_,
                                     weights_.data(),
                                     strengths_.data(),
                                     1.0,
                                     target_,
                                     center_.data(),
                                     padding_.data(),
                                     options_.keep_norms,
                                     options_.metric == metric::cosine,
                                     options_.near_zero_below,
                                     outcomes_.data(),
                                     found.data()};
        check(project_rows(a, s_->stream()), function_, "project_rows");
        const findings f = found_by(*s_, found);
        require<numeric_error>(f.overflow == nothing_found, function_, "edited rows that fit the codebook's dtype type",
                               fmt::format("infinity in row {}", f.overflow));
        settle_near_zero();
    }

    /// A basis of rank 0 removes nothing; a null pointer would mean the identity.
    const double* identity_safe_directions() {
        if (directions_.data() == nullptr) {
            directions_ = scratch<double>(s_, 1);
        }
        return directions_.data();
    }

    std::vector<index_t> rows_with(outcome which) const {
        std::vector<index_t> out;
        for (std::size_t k = 0; k < outcome_of_.size(); ++k) {
            if (outcome_of_[k] == which) {
                out.push_back(static_cast<index_t>(k));
            }
        }
        return out;
    }

    void settle_near_zero() {
        outcome_of_ = to_host(*s_, outcomes_.data(), codes_.rows);
        const std::vector<index_t> near_zero = rows_with(outcome::near_zero);
        record_.summary.near_zero = static_cast<index_t>(near_zero.size());
        if (near_zero.empty() || options_.near_zero == near_zero_policy::skip) {
            return;
        }
        require<numeric_error>(options_.near_zero != near_zero_policy::error, function_,
                               fmt::format("at least {} of each row's norm left", options_.near_zero_below),
                               fmt::format("less in {} rows, the first {}", near_zero.size(), near_zero.front()));
        const auto n = static_cast<index_t>(near_zero.size());
        const scratch<std::int64_t> to = ids_to_device(near_zero);
        if (options_.near_zero == near_zero_policy::zero) {
            check(clear_rows(codes_, to.data(), n, outcomes_.data(), s_->stream()), function_, "clear_rows");
        } else {
            const scratch<std::int64_t> from = nearest_usable(near_zero, to);
            check(replace_rows(codes_, to.data(), from.data(), n, outcomes_.data(), s_->stream()), function_, "replace_rows");
        }
        outcome_of_ = to_host(*s_, outcomes_.data(), codes_.rows);
    }

    scratch<std::int64_t> ids_to_device(const std::vector<index_t>& ids) const {
        const std::vector<std::int64_t> wide(ids.begin(), ids.end());
        return to_device<std::int64_t>(s_, wide);
    }

    /// For each vanished row the nearest row, by the old values, that neither vanished nor is zero nor padding; one that
    /// did not move if there is any.
    scratch<std::int64_t> nearest_usable(const std::vector<index_t>& near_zero, const scratch<std::int64_t>& lost_ids) {
        const std::vector<index_t> candidates = usable_rows();
        const index_t d = codes_.cols;
        const auto n = static_cast<index_t>(near_zero.size());
        const auto pool_size = static_cast<index_t>(candidates.size());
        const bool normalise = options_.metric == metric::cosine;
        const scratch<std::int64_t> pool_ids = ids_to_device(candidates);
        const scratch<double> lost(s_, n * d);
        const scratch<double> pool(s_, pool_size * d);
        const rows_in old = old_rows();
        check(widen_rows(old, lost_ids.data(), n, normalise, lost.data(), s_->stream()), function_, "widen_rows");
        check(widen_rows(old, pool_ids.data(), pool_size, normalise, pool.data(), s_->stream()), function_, "widen_rows");
        const scratch<std::int64_t> nearest_ids(s_, n);
        nearest(s_, {lost.data(), dtype::f64, n, d, d}, {pool.data(), dtype::f64, pool_size, d, d}, metric::l2, {}, nearest_ids.data());
        std::vector<index_t> from;
        for (const std::int64_t i : to_host(*s_, nearest_ids.data(), n)) {
            from.push_back(candidates[static_cast<std::size_t>(i)]);
        }
        return ids_to_device(from);
    }

    rows_in old_rows() const { return {record_.before.data(), codes_.type, codes_.rows, codes_.cols, codes_.cols}; }

    std::vector<index_t> usable_rows() {
        const std::vector<double> norms = row_norms();
        const std::vector<bool> is_padding = isic::detail::padding_mask(function_, options_.padding, codes_.rows);
        std::vector<index_t> still;
        std::vector<index_t> others;
        for (index_t k = 0; k < codes_.rows; ++k) {
            const auto at = static_cast<std::size_t>(k);
            if (norms[at] > 0 && !is_padding[at] && outcome_of_[at] != outcome::near_zero) {
                (outcome_of_[at] == outcome::moved ? others : still).push_back(k);
            }
        }
        const std::vector<index_t>& candidates = still.empty() ? others : still;
        require<numeric_error>(!candidates.empty(), function_, "a row that does not vanish", "none; choose another policy");
        return candidates;
    }

    std::vector<double> row_norms() const {
        const scratch<double> norms(s_, codes_.rows);
        check(measure_norms(old_rows(), norms.data(), s_->stream()), function_, "measure_norms");
        return to_host(*s_, norms.data(), codes_.rows);
    }

    void measure() {
        record_.ids = rows_with(outcome::moved);
        record_.summary.moved = static_cast<index_t>(record_.ids.size());
        record_.hash_after = hash_of(s_, read_only(codes_));
        record_.summary.relative_change = drifted(s_, old_rows(), read_only(codes_), options_.padding).relative;
        if (harm_ != nullptr && harm_->rank() > 0) {
            record_.summary.after = leakage_now();
        }
    }

    std::shared_ptr<state> s_;
    std::string_view function_;
    rows_out codes_;
    const subspace* harm_;
    const projection_options& options_;
    index_t rank_ = 0;
    scratch<double> directions_;
    scratch<double> weights_;
    scratch<double> center_;
    scratch<double> strengths_;
    scratch<double> own_target_;
    const double* target_ = nullptr;
    scratch<std::uint8_t> padding_;
    scratch<outcome> outcomes_;
    std::vector<outcome> outcome_of_;
    edit_record record_;
};

}  // namespace

edit_record project(const std::shared_ptr<state>& s, std::string_view function, rows_out codes, const subspace* harm,
                    const projection_options& options, const double* target, bool can_undo) {
    return projection(s, function, codes, harm, options, target).run(can_undo);
}

void undo(const std::shared_ptr<state>& s, const edit_record& record, rows_out codes) {
    constexpr std::string_view function = "device_edit::undo";
    require<value_error>(record.before.size() > 0, function, "an edit that kept the old rows (can_undo)", "one that did not");
    require<value_error>(record.type == codes.type, function, "a codebook of the edit's dtype type", "another");
    require_size(function, "rows", record.rows, codes.rows);
    require_size(function, "columns", record.cols, codes.cols);
    const std::uint64_t hash = hash_of(s, read_only(codes));
    require<value_error>(hash == record.hash_after, function, fmt::format("the edited codebook (hash {:016x})", record.hash_after),
                         fmt::format("{:016x}", hash));
    write_rows(*s, codes, record.before);
}

}  // namespace isic::inline ISIC_ABI::cuda
