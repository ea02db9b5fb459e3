// SPDX-License-Identifier: Apache-2.0
#include <isic/cuda/metrics.hpp>

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include <isic/detail/eigen_view.hpp>
#include <isic/detail/metrics_checks.hpp>

#include "checks.hpp"
#include "metrics_kernels.hpp"

namespace isic::inline ISIC_ABI::cuda::detail {
namespace {

using isic::detail::require;

}  // namespace

double nearest_code_churn(const std::shared_ptr<state>& s, any_device_view vectors, any_device_view before,
                          any_device_view after, metric metric, std::span<const index_t> padding) {
    constexpr std::string_view function = "nearest_code_churn";
    isic::detail::check_nearest_code_churn(shape_of(vectors), shape_of(before), shape_of(after));
    const scratch<std::int64_t> old_ids(s, vectors.rows);
    const scratch<std::int64_t> new_ids(s, vectors.rows);
    nearest(s, vectors, before, metric, padding, old_ids.data());
    nearest(s, vectors, after, metric, padding, new_ids.data());
    const device_guard guard(s->device());
    const scratch<unsigned long long> differing(s, 1);
    fill_bytes(*s, differing.data(), 0, differing.bytes());
    check(count_differing(old_ids.data(), new_ids.data(), vectors.rows, differing.data(), s->stream()), function,
          "count_differing");
    const auto same = static_cast<double>(vectors.rows) - static_cast<double>(to_host(*s, differing.data(), 1).front());
    return 1.0 - same / static_cast<double>(vectors.rows);  // rounded as on the CPU
}

leakage_report leakage(const std::shared_ptr<state>& s, any_device_view codes, const subspace& harm,
                       std::span<const double> center, std::span<const index_t> padding, metric metric) {
    constexpr std::string_view function = "leakage";
    isic::detail::check_leakage(shape_of(codes), harm, center);
    const device_guard guard(s->device());
    const scratch<std::uint8_t> mask = padding_mask_of(s, padding, codes.rows, function);
    require_finite_rows(s, codes, mask.data(), function, "the codebook");
    const Eigen::MatrixXd v = isic::detail::map(harm.basis);
    const scratch<double> directions = to_device<double>(s, {v.data(), static_cast<std::size_t>(v.size())});
    const scratch<double> middle = to_device<double>(s, center);
    const index_t n = (codes.rows + rows_per_partial - 1) / rows_per_partial;
    const scratch<leakage_part> parts(s, n);
    check(measure_leakage(codes, {directions.data(), v.cols(), codes.cols}, middle.data(), mask.data(),
                          metric == metric::cosine, parts.data(), s->stream()),
          function, "measure_leakage");
    leakage_part sum{};
    for (const leakage_part& part : to_host(*s, parts.data(), n)) {
        sum.inside += part.inside;
        sum.all += part.all;
        sum.largest = std::max(sum.largest, part.largest);
    }
    return {sum.all > 0 ? std::sqrt(sum.inside / sum.all) : 0.0, std::sqrt(sum.largest)};
}

drift_report drift(const std::shared_ptr<state>& s, any_device_view before, any_device_view after,
                   std::span<const index_t> padding) {
    constexpr std::string_view function = "drift";
    isic::detail::check_drift(shape_of(before), shape_of(after));
    const device_guard guard(s->device());
    const scratch<std::uint8_t> mask = padding_mask_of(s, padding, before.rows, function);
    require_finite_rows(s, before, mask.data(), function, "the codebook before");
    require_finite_rows(s, after, mask.data(), function, "the codebook after");
    const index_t n = (before.rows + rows_per_partial - 1) / rows_per_partial;
    const scratch<drift_part> parts(s, n);
    check(measure_drift(before, after, mask.data(), parts.data(), s->stream()), function, "measure_drift");
    drift_part sum{};
    for (const drift_part& part : to_host(*s, parts.data(), n)) {
        sum.change += part.change;
        sum.whole += part.whole;
        sum.distance += part.distance;
        sum.largest = std::max(sum.largest, part.largest);
        sum.moved += part.moved;
    }
    isic::detail::require_nonzero_before(sum.whole);
    const std::vector<bool> is_padding = isic::detail::padding_mask(function, padding, before.rows);
    const auto counted_rows = static_cast<double>(std::ranges::count(is_padding, false));
    return {std::sqrt(sum.change / sum.whole), sum.distance / counted_rows, sum.largest,
            static_cast<index_t>(sum.moved)};
}

std::vector<double> usage_counts(const std::shared_ptr<state>& s, device_ids ids, index_t codes) {
    constexpr std::string_view function = "usage_counts";
    require<shape_error>(codes > 0, function, "at least one code", fmt::format("{}", codes));
    require_ids_inside(s, ids, codes, function);
    const device_guard guard(s->device());
    const scratch<unsigned long long> counts(s, codes);
    fill_bytes(*s, counts.data(), 0, counts.bytes());
    if (ids.size > 0) {
        check(count_codes(ids, codes, counts.data(), s->stream()), function, "count_codes");
    }
    const std::vector<unsigned long long> n = to_host(*s, counts.data(), codes);
    return {n.begin(), n.end()};
}

}  // namespace isic::inline ISIC_ABI::cuda::detail
