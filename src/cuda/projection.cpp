// SPDX-License-Identifier: Apache-2.0
#include <isic/cuda/projection.hpp>

#include <algorithm>

#include <isic/cuda/codebook.hpp>
#include <isic/cuda/metrics.hpp>

#include <fmt/format.h>

#include <isic/detail/eigen_view.hpp>
#include <isic/detail/gram_schmidt.hpp>
#include <isic/detail/projection_checks.hpp>

#include "checks.hpp"
#include "metrics_kernels.hpp"
#include "projection_kernels.hpp"

namespace isic::inline ISIC_ABI::cuda::detail {
namespace {

using isic::detail::require;
using isic::detail::require_size;

std::size_t row_bytes(const any_device_span& m) {
    return static_cast<std::size_t>(m.cols * isic::detail::size_of(m.type));
}

std::size_t pitch(const any_device_span& m) {
    return static_cast<std::size_t>(m.stride * isic::detail::size_of(m.type));
}

/// Overwrites rows with contiguous ones. Waits.
void write_rows(state& s, const any_device_span& to, const buffer& from) {
    copy_on_device(s, to.data, pitch(to), from.data(), row_bytes(to), row_bytes(to), static_cast<std::size_t>(to.rows));
    s.synchronize();
}

/// One projection: checks the arguments, uploads the small ones, runs the kernels, applies the near-zero policy.
class projection {
public:
    projection(const std::shared_ptr<state>& s, std::string_view function, any_device_span codes, const subspace* harm,
               const projection_options& options, const double* target)
        : s_(s), function_(function), codes_(codes), harm_(harm), options_(options) {
        check_arguments();
        const device_guard guard(s_->device());
        padding_ = padding_mask_of(s_, options_.padding, codes_.rows, function_);
        const bool any = require_finite_rows(s_, codes_, padding_.data(), function_, "the codebook");
        isic::detail::require_nonzero_codebook(function_, any);
        upload_options(target);
        if (harm_ != nullptr && harm_->rank() > 0) {
            record_.summary.before = leakage_now();
        }
    }

    edit_record run(bool can_undo) {
        const device_guard guard(s_->device());
        record_.type = codes_.type;
        record_.rows = codes_.rows;
        record_.cols = codes_.cols;
        keep_old_rows();  // for a failure half-way, too
        try {
            move_rows();
            measure();
        } catch (...) {
            restore_rows();
            throw;
        }
        if (!can_undo) {
            record_.before = {};
        }
        return std::move(record_);
    }

private:
    void check_arguments() {
        require_not_empty(function_, "a codebook", codes_);
        require_width(function_, codes_.cols);
        isic::detail::check_projection(function_, codes_.rows, codes_.cols, harm_, options_, [](any_view) {});
    }

    void upload_options(const double* target) {
        const index_t d = codes_.cols;
        if (harm_ != nullptr) {
            // A basis rounded to float would leak; each direction becomes a row.
            const Eigen::MatrixXd v = isic::detail::orthonormalise(isic::detail::map(harm_->basis));
            rank_ = v.cols();
            basis_ = to_device<double>(s_, {v.data(), static_cast<std::size_t>(v.size())});
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

    leakage_report leakage_now() const {
        return leakage(s_, codes_, *harm_, options_.center, options_.padding, options_.metric);
    }

    void keep_old_rows() {
        record_.before = buffer(s_, row_bytes(codes_) * static_cast<std::size_t>(codes_.rows));
        copy_on_device(*s_, record_.before.data(), row_bytes(codes_), codes_.data, pitch(codes_), row_bytes(codes_),
                       static_cast<std::size_t>(codes_.rows));
        s_->synchronize();  // a failed copy must not be restored
    }

    void restore_rows() noexcept {
        try {
            write_rows(*s_, codes_, record_.before);
        } catch (const cuda_error&) {  // the device is lost, and the codebook with it; the first error propagates
        }
    }

    void move_rows() {
        statuses_ = scratch<row_status>(s_, codes_.rows);
        const scratch<check_flags> flags = make_check_flags(s_);
        const projection_arguments a{codes_,
                                     harm_ != nullptr ? basis_or_placeholder() : nullptr,
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
                                     statuses_.data(),
                                     flags.data()};
        check(project_codes(a, s_->stream()), function_, "project_codes");
        const check_flags f = read_check_flags(*s_, flags);
        require<numeric_error>(f.overflow == no_offender, function_, "edited rows that fit the codebook's element type",
                               fmt::format("infinity in row {}", f.overflow));
        resolve_near_zero();
    }

    /// Device pointer to the basis; not null at rank 0 either, as null means the identity.
    const double* basis_or_placeholder() {
        if (basis_.data() == nullptr) {
            basis_ = scratch<double>(s_, 1);
        }
        return basis_.data();
    }

    void resolve_near_zero() {
        status_of_ = to_host(*s_, statuses_.data(), codes_.rows);
        const std::vector<index_t> near_zero = isic::detail::rows_with(status_of_, row_status::near_zero);
        record_.summary.near_zero = static_cast<index_t>(near_zero.size());
        if (!isic::detail::near_zero_rows_change(function_, options_, near_zero)) {
            return;
        }
        const auto n = static_cast<index_t>(near_zero.size());
        const scratch<std::int64_t> to = ids_to_device(near_zero);
        if (options_.near_zero == near_zero_policy::zero) {
            check(clear_rows(codes_, to.data(), n, statuses_.data(), s_->stream()), function_, "clear_rows");
        } else {
            const scratch<std::int64_t> from = nearest_replacements(near_zero, to);
            check(replace_rows(codes_, to.data(), from.data(), n, statuses_.data(), s_->stream()), function_,
                  "replace_rows");
        }
        status_of_ = to_host(*s_, statuses_.data(), codes_.rows);
    }

    scratch<std::int64_t> ids_to_device(const std::vector<index_t>& ids) const {
        const std::vector<std::int64_t> wide(ids.begin(), ids.end());
        return to_device<std::int64_t>(s_, wide);
    }

    /// The nearest replacement row, by the old values, of each near-zero row.
    scratch<std::int64_t> nearest_replacements(const std::vector<index_t>& near_zero,
                                               const scratch<std::int64_t>& ids) {
        const std::vector<index_t> candidates = replacement_rows();
        const index_t d = codes_.cols;
        const auto n = static_cast<index_t>(near_zero.size());
        const auto pool_size = static_cast<index_t>(candidates.size());
        const bool normalise = options_.metric == metric::cosine;
        const scratch<std::int64_t> pool_ids = ids_to_device(candidates);
        const scratch<double> queries(s_, n * d);
        const scratch<double> pool(s_, pool_size * d);
        const any_device_view old = old_rows();
        check(widen_rows(old, ids.data(), n, normalise, queries.data(), s_->stream()), function_, "widen_rows");
        check(widen_rows(old, pool_ids.data(), pool_size, normalise, pool.data(), s_->stream()), function_,
              "widen_rows");
        const scratch<std::int64_t> nearest_ids(s_, n);
        nearest(s_, {queries.data(), dtype::f64, n, d, d}, {pool.data(), dtype::f64, pool_size, d, d}, metric::l2, {},
                nearest_ids.data());
        std::vector<index_t> from;
        for (const std::int64_t i : to_host(*s_, nearest_ids.data(), n)) {
            from.push_back(candidates[static_cast<std::size_t>(i)]);
        }
        return ids_to_device(from);
    }

    any_device_view old_rows() const {
        return {record_.before.data(), codes_.type, codes_.rows, codes_.cols, codes_.cols};
    }

    std::vector<index_t> replacement_rows() {
        const std::vector<double> norms = row_norms();
        const std::vector<bool> is_padding = isic::detail::padding_mask(function_, options_.padding, codes_.rows);
        return isic::detail::replacement_rows(function_, status_of_, [&](index_t k) {
            const auto at = static_cast<std::size_t>(k);
            return norms[at] > 0 && !is_padding[at];
        });
    }

    std::vector<double> row_norms() const {
        const scratch<double> norms(s_, codes_.rows);
        check(measure_norms(old_rows(), norms.data(), s_->stream()), function_, "measure_norms");
        return to_host(*s_, norms.data(), codes_.rows);
    }

    void measure() {
        record_.ids = isic::detail::rows_with(status_of_, row_status::moved);
        record_.summary.moved = static_cast<index_t>(record_.ids.size());
        record_.hash_after = hash_of(s_, codes_);
        record_.summary.relative_change = drift(s_, old_rows(), codes_, options_.padding).relative;
        if (harm_ != nullptr && harm_->rank() > 0) {
            record_.summary.after = leakage_now();
        }
    }

    std::shared_ptr<state> s_;
    std::string_view function_;
    any_device_span codes_;
    const subspace* harm_;
    const projection_options& options_;
    index_t rank_ = 0;
    scratch<double> basis_;
    scratch<double> weights_;
    scratch<double> center_;
    scratch<double> strengths_;
    scratch<double> own_target_;
    const double* target_ = nullptr;
    scratch<std::uint8_t> padding_;
    scratch<row_status> statuses_;
    std::vector<row_status> status_of_;
    edit_record record_;
};

}  // namespace

edit_record project(const std::shared_ptr<state>& s, std::string_view function, any_device_span codes,
                    const subspace* harm, const projection_options& options, const double* target, bool can_undo) {
    return projection(s, function, codes, harm, options, target).run(can_undo);
}

void check_device_target(any_device_span codes, device_view<double> target, const projection_options& options) {
    if (target.empty()) {
        return;
    }
    constexpr std::string_view function = "project_out";
    require_size(function, "target rows", codes.rows, target.rows());
    require_size(function, "target columns", codes.cols, target.cols());
    require<shape_error>(target.stride() == codes.cols && options.target.empty(), function, "one contiguous target",
                         "two, or one with gaps");
    require_apart(function, codes, target);
}

void undo(const std::shared_ptr<state>& s, const edit_record& record, any_device_span codes) {
    constexpr std::string_view function = "device_edit::undo";
    require<value_error>(record.before.size() > 0, function, "an edit that kept the old rows (can_undo)",
                         "one that did not");
    require<value_error>(record.type == codes.type, function, "a codebook of the edit's element type", "another");
    require_size(function, "rows", record.rows, codes.rows);
    require_size(function, "columns", record.cols, codes.cols);
    const std::uint64_t hash = hash_of(s, codes);
    require<value_error>(hash == record.hash_after, function,
                         fmt::format("the edited codebook (hash {:016x})", record.hash_after),
                         fmt::format("{:016x}", hash));
    write_rows(*s, codes, record.before);
}

}  // namespace isic::inline ISIC_ABI::cuda::detail
