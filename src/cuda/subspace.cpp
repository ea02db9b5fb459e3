// SPDX-License-Identifier: Apache-2.0
#include <isic/cuda/subspace.hpp>

#include <algorithm>
#include <cmath>
#include <numeric>

#include <fmt/format.h>

#include <isic/detail/checks.hpp>
#include <isic/detail/subspace.hpp>

#include "checks.hpp"
#include "differences_kernels.hpp"
#include "eigensolver.hpp"

namespace isic::inline ISIC_ABI::cuda::detail {
namespace {

constexpr index_t chunk_rows = 4096;  // rows of float64 differences: up to a width of 1000 they fit the L2 cache
constexpr index_t sum_parts = chunk_rows / rows_per_difference_part;
constexpr std::string_view who = "device_accumulator";

using isic::detail::require;
using isic::detail::require_size;

index_t column_bytes(index_t n) {
    return n * static_cast<index_t>(sizeof(double));
}

any_device_view part_of(any_device_view m, index_t first, index_t n) {
    if (m.data == nullptr) {
        return {nullptr, m.type, n, m.cols, m.stride};
    }
    const auto* start = static_cast<const std::byte*>(m.data) + first * m.stride * isic::detail::size_of(m.type);
    return {start, m.type, n, m.cols, m.stride};
}

matrix<double> symmetric_to_host(state& s, const double* lower, index_t d) {
    const std::vector<double> values = to_host(s, lower, d * d);
    matrix<double> out(d, d);
    for (index_t j = 0; j < d; ++j) {
        for (index_t i = j; i < d; ++i) {
            out(i, j) = out(j, i) = values[static_cast<std::size_t>(j * d + i)];  // column-major, lower triangle
        }
    }
    return out;
}

}  // namespace

/// All sums are float64; matrices hold their lower triangle, column-major; sums of rows are in parts, [sum_parts x d].
struct moments::parts {
    std::shared_ptr<state> s;
    index_t d;
    any_device_view codes{};
    bool has_codes = false;
    bool keep_safe = false;
    index_t count = 0;
    index_t safe_rows = 0;
    scratch<double> second;
    scratch<double> sum;
    scratch<double> safe_second;
    scratch<double> safe_sum;
    scratch<double> chunk;
    scratch<unsigned long long> harmful_counts;
    scratch<unsigned long long> safe_counts;
    scratch<check_flags> flags;

    parts(std::shared_ptr<state> owner, index_t width) : s(std::move(owner)), d(width) {
        require<shape_error>(d >= 1, who, "a width >= 1", fmt::format("{}", d));
        second = zeros<double>(d * d);
        sum = zeros<double>(sum_parts * d);
        chunk = scratch<double>(s, chunk_rows * d);
        flags = make_check_flags(s);
    }

    template <class T>
    scratch<T> zeros(index_t n) {
        scratch<T> out(s, n);
        fill_bytes(*s, out.data(), 0, out.bytes());
        return out;
    }

    /// gram += X X^T for n columns of X [d x n] in the chunk. Column-major X is row-major rows.
    void add_chunk(index_t n, const scratch<double>& gram) {
        const double one = 1;
        const int width = static_cast<int>(d);
        check(cublasDsyrk_v2(s->blas(), CUBLAS_FILL_MODE_LOWER, CUBLAS_OP_N, width, static_cast<int>(n), &one,
                             chunk.data(), width, &one, gram.data(), width),
              who, "cublasDsyrk");
    }

    /// The sum of the parts; waits.
    std::vector<double> total(const scratch<double>& sums) const {
        std::vector<double> out = to_host(*s, sums.data(), sum_parts * d);
        for (std::size_t at = static_cast<std::size_t>(d); at < out.size(); ++at) {
            out[at % static_cast<std::size_t>(d)] += out[at];
        }
        out.resize(static_cast<std::size_t>(d));
        return out;
    }

    /// Throws if a kernel has flagged an added value or id. Waits.
    void throw_if_flagged() const {
        const check_flags f = to_host(*s, flags.data(), 1).front();
        require<value_error>(f.bad_id == no_offender, who, "token ids inside the codebook",
                             fmt::format("one outside, at position {} of a pair", f.bad_id));
        const auto width = static_cast<std::uint64_t>(d);
        if (f.not_finite != no_offender) {
            isic::detail::fail<numeric_error>(who, "finite differences",
                                              fmt::format("NaN or infinity in row {}, column {} of a pair",
                                                          f.not_finite / width, f.not_finite % width));
        }
    }

    std::vector<double> counts_to_host(const scratch<unsigned long long>& counts) const {
        const std::vector<unsigned long long> n = to_host(*s, counts.data(), codes.rows);
        return {n.begin(), n.end()};
    }
};

moments::moments(std::shared_ptr<state> owner, index_t width, bool keep_safe)
    : parts_(std::make_unique<parts>(std::move(owner), width)) {
    parts_->keep_safe = keep_safe;
    parts_->safe_sum = parts_->zeros<double>(sum_parts * width);
    if (keep_safe) {
        parts_->safe_second = parts_->zeros<double>(width * width);
    }
}

moments::moments(std::shared_ptr<state> owner, any_device_view codes) {
    require_not_empty(who, "a codebook", codes);
    parts_ = std::make_unique<parts>(std::move(owner), codes.cols);
    parts_->codes = codes;
    parts_->has_codes = true;
    require_finite_rows(parts_->s, codes, nullptr, who, "the codebook");
    parts_->harmful_counts = parts_->zeros<unsigned long long>(codes.rows);
    parts_->safe_counts = parts_->zeros<unsigned long long>(codes.rows);
}

moments::moments(moments&&) noexcept = default;
moments& moments::operator=(moments&&) noexcept = default;
moments::~moments() = default;

void moments::add_rows(any_device_view harmful, any_device_view safe) {
    parts& p = *parts_;
    require<shape_error>(!p.has_codes, who, "an accumulator of rows", "one of token ids");
    require_size(who, "columns in harmful", p.d, harmful.cols);
    require_size(who, "columns in safe", p.d, safe.cols);
    require_size(who, "safe rows", harmful.rows, safe.rows);
    const device_guard guard(p.s->device());
    for (index_t first = 0; first < harmful.rows; first += chunk_rows) {
        const index_t n = std::min(chunk_rows, harmful.rows - first);
        const auto subtract = [&](any_device_view from, any_device_view what, const scratch<double>& sums) {
            check(subtract_rows(part_of(from, first, n), part_of(what, first, n), first, p.chunk.data(), sums.data(),
                                p.flags.data(), p.s->stream()),
                  who, "subtract_rows");
        };
        subtract(harmful, safe, p.sum);
        p.add_chunk(n, p.second);
        if (p.keep_safe) {
            subtract(safe, {nullptr, safe.type, safe.rows, safe.cols, safe.stride}, p.safe_sum);
            p.add_chunk(n, p.safe_second);
        }
    }
    p.count += harmful.rows;
    p.safe_rows += safe.rows;
}

void moments::add_ids(device_ids harmful, device_ids safe) {
    parts& p = *parts_;
    require<shape_error>(p.has_codes, who, "an accumulator over a codebook", "one of rows");
    require_size(who, "safe ids", harmful.size, safe.size);
    if (harmful.size == 0) {
        return;
    }
    const device_guard guard(p.s->device());
    for (index_t first = 0; first < harmful.size; first += chunk_rows) {
        const index_t n = std::min(chunk_rows, harmful.size - first);
        check(subtract_codes(p.codes, harmful, safe, first, n, p.chunk.data(), p.sum.data(), p.flags.data(),
                             p.s->stream()),
              who, "subtract_codes");
        p.add_chunk(n, p.second);
    }
    check(count_codes(harmful, p.codes.rows, p.harmful_counts.data(), p.s->stream()), who, "count_codes");
    check(count_codes(safe, p.codes.rows, p.safe_counts.data(), p.s->stream()), who, "count_codes");
    p.count += harmful.size;
}

void moments::add_safe(device_ids safe) {
    parts& p = *parts_;
    require<shape_error>(p.has_codes, who, "an accumulator over a codebook", "one of rows");
    if (safe.size > 0) {
        const device_guard guard(p.s->device());
        check(check_ids(safe, p.codes.rows, p.flags.data(), p.s->stream()), who, "check_ids");
        check(count_codes(safe, p.codes.rows, p.safe_counts.data(), p.s->stream()), who, "count_codes");
    }
}

void moments::merge(const moments& other) {
    parts& p = *parts_;
    const parts& o = *other.parts_;
    require_size(who, "columns", p.d, o.d);
    require_size(who, "codes", p.codes.rows, o.codes.rows);
    require<value_error>(p.s == o.s, who, "accumulators of one backend", "two backends");
    require<shape_error>(p.keep_safe == o.keep_safe, who, "accumulators that both keep the safe moment or neither",
                         "one that does");
    const device_guard guard(p.s->device());
    const auto add = [&](const scratch<double>& to, const scratch<double>& from, index_t n) {
        const double one = 1;
        constexpr index_t most = index_t{1} << 30;  // cuBLAS counts with 32 bits
        for (index_t first = 0; first < n; first += most) {
            check(cublasDaxpy_v2(p.s->blas(), static_cast<int>(std::min(most, n - first)), &one, from.data() + first, 1,
                                 to.data() + first, 1),
                  who, "cublasDaxpy");
        }
    };
    add(p.second, o.second, p.d * p.d);
    add(p.sum, o.sum, sum_parts * p.d);
    if (p.keep_safe) {
        add(p.safe_second, o.safe_second, p.d * p.d);
        add(p.safe_sum, o.safe_sum, sum_parts * p.d);
    }
    if (p.has_codes) {
        check(add_counts(o.harmful_counts.data(), p.codes.rows, p.harmful_counts.data(), p.s->stream()), who,
              "add_counts");
        check(add_counts(o.safe_counts.data(), p.codes.rows, p.safe_counts.data(), p.s->stream()), who, "add_counts");
    }
    check(merge_check_flags(o.flags.data(), p.flags.data(), p.s->stream()), who, "merge_check_flags");
    p.count += o.count;
    p.safe_rows += o.safe_rows;
}

void moments::add_differences(any_device_view rows) {
    add_rows(rows, {nullptr, rows.type, rows.rows, rows.cols, rows.cols});
}

index_t moments::width() const noexcept {
    return parts_->d;
}
index_t moments::count() const noexcept {
    return parts_->count;
}
matrix<double> moments::second_moment() const {
    parts_->throw_if_flagged();
    return symmetric_to_host(*parts_->s, parts_->second.data(), parts_->d);
}

std::vector<double> moments::mean() const {
    parts_->throw_if_flagged();
    std::vector<double> out = parts_->total(parts_->sum);
    std::ranges::for_each(out, [&](double& x) { x /= std::max(1.0, static_cast<double>(parts_->count)); });
    return out;
}

code_usage moments::usage() const {
    parts_->throw_if_flagged();
    if (!parts_->has_codes) {
        return {};
    }
    return {parts_->counts_to_host(parts_->harmful_counts), parts_->counts_to_host(parts_->safe_counts)};
}

std::vector<double> moments::safe_mean() const {
    parts& p = *parts_;
    p.throw_if_flagged();
    std::vector<double> out;
    double total = static_cast<double>(p.safe_rows);
    if (p.has_codes) {
        const std::vector<double> counts = p.counts_to_host(p.safe_counts);
        total = std::accumulate(counts.begin(), counts.end(), 0.0);
        const scratch<double> weights = to_device<double>(p.s, counts);
        const scratch<double> sum = p.zeros<double>(p.d);
        const device_guard guard(p.s->device());
        for (index_t first = 0; first < p.codes.rows; first += chunk_rows) {
            const index_t n = std::min(chunk_rows, p.codes.rows - first);
            const double one = 1;
            check(widen_rows(part_of(p.codes, first, n), nullptr, n, false, p.chunk.data(), p.s->stream()), who,
                  "widen_rows");
            check(cublasDgemv_v2(p.s->blas(), CUBLAS_OP_N, static_cast<int>(p.d), static_cast<int>(n), &one,
                                 p.chunk.data(), static_cast<int>(p.d), weights.data() + first, 1, &one, sum.data(), 1),
                  who, "cublasDgemv");
        }
        out = to_host(*p.s, sum.data(), p.d);
    } else {
        require<value_error>(p.keep_safe || p.safe_rows == 0, who, "keep_safe_moment for the mean of the safe rows",
                             "an accumulator without");
        out = p.total(p.safe_sum);
    }
    std::ranges::for_each(out, [&](double& x) { x /= std::max(1.0, total); });
    return out;
}

matrix<double> moments::safe_second_moment() const {
    parts& p = *parts_;
    p.throw_if_flagged();
    if (!p.has_codes) {
        require<value_error>(p.keep_safe, who, "keep_safe_moment for the safe second moment", "an accumulator without");
        return symmetric_to_host(*p.s, p.safe_second.data(), p.d);
    }
    const scratch<double> gram = p.zeros<double>(p.d * p.d);
    const device_guard guard(p.s->device());
    for (index_t first = 0; first < p.codes.rows; first += chunk_rows) {
        const index_t n = std::min(chunk_rows, p.codes.rows - first);
        check(weigh_codes(part_of(p.codes, first, n), p.safe_counts.data() + first, p.chunk.data(), p.s->stream()), who,
              "weigh_codes");
        p.add_chunk(n, gram);
    }
    return symmetric_to_host(*p.s, gram.data(), p.d);
}

namespace {

/// Sum of the diagonal, gathered on the device: a strided copy to the host takes as long as one copy per row.
double trace_of(const std::shared_ptr<state>& s, const double* a, index_t d) {
    const scratch<double> gathered(s, d);
    const auto one = sizeof(double);
    copy_on_device(*s, gathered.data(), one, a, static_cast<std::size_t>(column_bytes(d + 1)), one,
                   static_cast<std::size_t>(d));
    const std::vector<double> diagonal = to_host(*s, gathered.data(), d);
    return std::accumulate(diagonal.begin(), diagonal.end(), 0.0);
}

}  // namespace

device_fit moments::fit(const device_fit_options& options) const {
    constexpr std::string_view function = "fit_subspace";
    parts& p = *parts_;
    const index_t d = p.d;
    require<shape_error>(p.count > 0, function, "at least one pair", "an empty accumulator");
    isic::detail::rank_budget(options.rank, d, function);
    require<value_error>(options.rank.sign_flips == 0, function, "difference rows on the host for sign flips",
                         "moments on a device");
    p.throw_if_flagged();
    const std::size_t bytes = p.second.bytes();
    const scratch<double> gram(p.s, d * d);  // the solver overwrites it
    copy_on_device(*p.s, gram.data(), bytes, p.second.data(), bytes, bytes, 1);
    const double whole = trace_of(p.s, p.second.data(), d);
    if (options.center != centering::none) {
        Eigen::MatrixXd moment = isic::detail::map(second_moment());
        if (options.center == centering::mean) {
            const std::vector<double> m = mean();
            const Eigen::Map<const Eigen::VectorXd> mean_difference(m.data(), d);
            moment -= static_cast<double>(p.count) * mean_difference * mean_difference.transpose();
        } else {
            require<shape_error>(d >= 3, function, "d >= 3 for the safe axis", fmt::format("d = {}", d));
            const matrix<double> safe = safe_second_moment();
            require<value_error>(isic::detail::map(safe).trace() > 0, function, "safe embeddings for the safe axis",
                                 "none, or only zeros");
            const scratch<double> safe_gram = to_device<double>(p.s, {safe.data(), static_cast<std::size_t>(d * d)});
            isic::detail::deflate(
                moment,
                leading_eigenpairs(p.s, safe_gram.data(), d, 1, false, eigen_solver::syevd).pairs.vectors.col(0));
        }
        copy_to_device(*p.s, gram.data(), bytes, moment.data(), bytes, bytes, 1);
    }
    const double trace = options.center == centering::none ? whole : trace_of(p.s, gram.data(), d);
    require<numeric_error>(std::isfinite(trace), function, "differences whose squares are finite", "infinity");
    require<numeric_error>(!(trace <= (options.center == centering::none ? 0.0 : 1e-12 * whole)), function,
                           "differences that are not all zero", "zeros only");
    const bool all_values = isic::detail::needs_all_values(options.rank, p.count, d);
    const solved s = leading_eigenpairs(p.s, gram.data(), d, isic::detail::rank_needed(options.rank, d, "fit_subspace"),
                                        all_values, options.solver);
    return {isic::detail::subspace_of_pairs(s.pairs, trace, p.count, options.rank, std::nullopt), s.solver};
}

}  // namespace isic::inline ISIC_ABI::cuda::detail
