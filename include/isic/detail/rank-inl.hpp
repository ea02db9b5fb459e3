// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <isic/rank.hpp>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

#include <fmt/format.h>

#include <isic/detail/checks.hpp>

namespace isic::inline ISIC_ABI {

ISIC_INLINE index_t energy_rank(std::span<const double> sigma, double share) {
    detail::require<value_error>(share > 0 && share <= 1, "energy_rank", "a share in (0, 1]", fmt::format("{}", share));
    // Equal order of both sums and a few ulps of slack: rounding must not add a direction of zero energy.
    const double total =
        std::accumulate(sigma.begin(), sigma.end(), 0.0, [](double sum, double s) { return sum + s * s; });
    double held = 0;
    index_t r = 0;
    while (r < static_cast<index_t>(sigma.size()) && held < share * total * (1 - 1e-15)) {
        held += sigma[static_cast<std::size_t>(r)] * sigma[static_cast<std::size_t>(r)];
        ++r;
    }
    return r;
}

ISIC_INLINE double gavish_donoho_lambda(double beta) {
    detail::require<value_error>(beta > 0 && beta <= 1, "gavish_donoho_lambda", "beta in (0, 1]",
                                 fmt::format("{}", beta));
    return std::sqrt(2 * (beta + 1) + 8 * beta / ((beta + 1) + std::sqrt(beta * beta + 14 * beta + 1)));
}

ISIC_INLINE double marchenko_pastur_median(double beta) {
    detail::require<value_error>(beta > 0 && beta <= 1, "marchenko_pastur_median", "beta in (0, 1]",
                                 fmt::format("{}", beta));
    const double root = std::sqrt(beta);
    // The mass of [x(t), upper edge], x(t) = 1 + beta + 2 root cos(t).
    const auto mass_above = [&](double t) {
        constexpr int steps = 1000;
        double sum = 0;
        for (int i = 1; i <= steps; ++i) {  // the integrand is 0 at t = 0
            const double s = t * i / steps;
            const double x = 1 + beta + 2 * root * std::cos(s);
            sum += std::sin(s) * std::sin(s) / x * (i == steps ? 1 : i % 2 ? 4 : 2);
        }
        return sum * t / (3 * steps) * 2 / std::numbers::pi;
    };
    double low = 0;
    double high = std::numbers::pi;
    for (int i = 0; i < 60; ++i) {
        const double mid = 0.5 * (low + high);
        (mass_above(mid) < 0.5 ? low : high) = mid;
    }
    return 1 + beta + 2 * root * std::cos(0.5 * (low + high));
}

ISIC_INLINE double gavish_donoho_omega(double beta) {
    return gavish_donoho_lambda(beta) / std::sqrt(marchenko_pastur_median(beta));
}

ISIC_INLINE index_t gavish_donoho_rank(std::span<const double> sigma, index_t n, index_t d) {
    const index_t small = std::min(n, d);
    detail::require_size("gavish_donoho_rank", "singular values", small, static_cast<index_t>(sigma.size()));
    if (small == 0) {
        return 0;
    }
    const auto at = [&](index_t i) { return sigma[static_cast<std::size_t>(i)]; };
    const double median = small % 2 ? at(small / 2) : 0.5 * (at(small / 2) + at(small / 2 - 1));
    const double threshold =
        gavish_donoho_omega(static_cast<double>(small) / static_cast<double>(std::max(n, d))) * median;
    return std::ranges::count_if(sigma, [&](double s) { return s > threshold; });
}

namespace detail {

ISIC_INLINE index_t rank_budget(const rank_options& o, index_t d, std::string_view function, std::string_view path) {
    if (o.fixed < 0 || o.fixed > d) {
        fail<value_error>(function, fmt::format("{}fixed in [0, d = {}]", path, d), fmt::format("{}", o.fixed));
    }
    const index_t most = o.fixed > 0 ? d : std::max<index_t>(1, d - 1);
    if (o.max_rank < 0 || o.max_rank > most) {
        fail<value_error>(function, fmt::format("{}max_rank in [0, {}] for d = {}", path, most, d),
                          fmt::format("{}", o.max_rank));
    }
    require_range(function, fmt::format("{}energy", path), o.energy, 0.0, 1.0);
    if (o.sign_flips < 0) {
        fail<value_error>(function, fmt::format("{}sign_flips >= 0", path), fmt::format("{}", o.sign_flips));
    }
    if (!(o.quantile > 0 && o.quantile < 1)) {
        fail<value_error>(function, fmt::format("{}quantile in (0, 1)", path), fmt::format("{}", o.quantile));
    }
    return o.max_rank > 0 ? o.max_rank : std::max<index_t>(1, d / 4);
}

ISIC_INLINE rank_choice choose_rank(std::span<const double> sigma, index_t n, index_t d, const rank_options& o,
                                    std::optional<index_t> flips_allow, std::string_view function) {
    const index_t budget = rank_budget(o, d, function);
    const double floor =
        sigma.empty() ? 0.0 : sigma[0] * 1e-7;  // the Gram matrix resolves sigma down to sqrt(eps) sigma_0
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
        allow(gavish_donoho_rank(sigma.first(static_cast<std::size_t>(std::min(n, d))), n, d),
              rank_rule::gavish_donoho);
    }
    if (flips_allow) {
        allow(*flips_allow, rank_rule::sign_flip);
    }
    allow(budget, rank_rule::budget);
    return choice;
}

ISIC_INLINE index_t rank_needed(const rank_options& o, index_t d, std::string_view function) {
    return std::min(d, o.fixed > 0 ? o.fixed : rank_budget(o, d, function));
}

ISIC_INLINE bool needs_all_values(const rank_options& o, index_t n, index_t d) {
    return o.fixed == 0 && o.gavish_donoho && std::min(n, d) >= 8;
}

}  // namespace detail
}  // namespace isic::inline ISIC_ABI
