/// \file
/// How many singular vectors to keep: fixed, energy, Gavish-Donoho, sign-flip parallel analysis, budget.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <numeric>
#include <optional>
#include <span>
#include <string_view>

#include <isic/matrix.hpp>

namespace isic {

/// Which rule set the rank.
enum class rank_rule {
    fixed,          ///< the caller named it
    energy,         ///< smallest rank that holds the asked share of the squared singular values
    gavish_donoho,  ///< singular values above the optimal hard threshold
    sign_flip,      ///< singular values above those of sign-flipped data
    budget,         ///< the most the caller allows
    data            ///< the data have no more directions
};

/// The rule's name as it appears in reports.
constexpr std::string_view to_string(rank_rule rule) {
    switch (rule) {
        case rank_rule::fixed: return "fixed";
        case rank_rule::energy: return "energy";
        case rank_rule::gavish_donoho: return "gavish_donoho";
        case rank_rule::sign_flip: return "sign_flip";
        case rank_rule::budget: return "budget";
        case rank_rule::data: return "data";
    }
    return "unknown";
}

/// Rank options: the rank is the smallest that an active rule allows, never more than the data have.
struct rank_options {
    index_t fixed = 0;           ///< exact rank; 0 leaves it to the rules below
    double energy = 0.9;         ///< share of sum sigma^2 to hold, in (0, 1]; 0 turns the rule off
    bool gavish_donoho = true;   ///< active when min(n, d) >= 8: the median of fewer values is no noise estimate
    index_t sign_flips = 0;      ///< flipped copies for parallel analysis, e.g. 100; 0 turns the rule off; needs rows
    double quantile = 0.95;      ///< of the flipped singular values, in (0, 1)
    std::uint64_t seed = 0;      ///< of the flips
    index_t max_rank = 0;        ///< budget; 0 means max(1, d / 4); at most d - 1 unless `fixed` is set
};

/// The rank and the rule that set it.
struct rank_choice {
    index_t rank = 0;                      ///< singular vectors to keep
    rank_rule decided_by = rank_rule::data;  ///< the rule that allowed the least
};

/// Smallest r with sum_{i<r} sigma_i^2 >= share * sum sigma_i^2; 0 if all are zero.
///
/// sigma descending. Errors: value_error unless share is in (0, 1].
inline index_t energy_rank(std::span<const double> sigma, double share) {
    detail::require<value_error>(share > 0 && share <= 1, "energy_rank", "a share in (0, 1]", fmt::format("{}", share));
    // Both sums in the same order, and a few ulps of slack: rounding must not ask for a direction of zero energy.
    const double total = std::accumulate(sigma.begin(), sigma.end(), 0.0, [](double sum, double s) { return sum + s * s; });
    double held = 0;
    index_t r = 0;
    while (r < static_cast<index_t>(sigma.size()) && held < share * total * (1 - 1e-15)) {
        held += sigma[static_cast<std::size_t>(r)] * sigma[static_cast<std::size_t>(r)];
        ++r;
    }
    return r;
}

/// lambda*(beta) = sqrt(2 (beta + 1) + 8 beta / ((beta + 1) + sqrt(beta^2 + 14 beta + 1))), beta in (0, 1].
///
/// The optimal hard threshold is lambda* sqrt(n) s for white noise of known deviation s, n the larger side.
/// Source: Gavish and Donoho, arXiv 1305.5870.
inline double gavish_donoho_lambda(double beta) {
    detail::require<value_error>(beta > 0 && beta <= 1, "gavish_donoho_lambda", "beta in (0, 1]", fmt::format("{}", beta));
    return std::sqrt(2 * (beta + 1) + 8 * beta / ((beta + 1) + std::sqrt(beta * beta + 14 * beta + 1)));
}

/// Median of the Marchenko-Pastur distribution on [(1 - sqrt(beta))^2, (1 + sqrt(beta))^2], to about 1e-10.
///
/// With x = 1 + beta + 2 sqrt(beta) cos(t) the density becomes smooth in t; Simpson's rule and bisection.
inline double marchenko_pastur_median(double beta) {
    detail::require<value_error>(beta > 0 && beta <= 1, "marchenko_pastur_median", "beta in (0, 1]", fmt::format("{}", beta));
    const double root = std::sqrt(beta);
    // Mass of [x(t), upper edge]; the substitution x = 1 + beta + 2 root cos(t).
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

/// omega(beta) = lambda*(beta) / sqrt(median of Marchenko-Pastur): the threshold in units of the median singular value.
inline double gavish_donoho_omega(double beta) {
    return gavish_donoho_lambda(beta) / std::sqrt(marchenko_pastur_median(beta));
}

/// Number of singular values of an n x d matrix above omega(beta) * median, beta = min / max of n and d.
///
/// sigma: all min(n, d) values, descending. Assumes white noise. Errors: shape_error unless sigma has min(n, d) values.
inline index_t gavish_donoho_rank(std::span<const double> sigma, index_t n, index_t d) {
    const index_t small = std::min(n, d);
    detail::require_size("gavish_donoho_rank", "singular values", small, static_cast<index_t>(sigma.size()));
    if (small == 0) {
        return 0;
    }
    const auto at = [&](index_t i) { return sigma[static_cast<std::size_t>(i)]; };
    const double median = small % 2 ? at(small / 2) : 0.5 * (at(small / 2) + at(small / 2 - 1));
    const double threshold = gavish_donoho_omega(static_cast<double>(small) / static_cast<double>(std::max(n, d))) * median;
    return std::ranges::count_if(sigma, [&](double s) { return s > threshold; });
}

namespace detail {

/// splitmix64: one well-mixed 64-bit word per counter, so random choices depend on (seed, index) alone.
inline std::uint64_t mix(std::uint64_t x) {
    x += 0x9e3779b97f4a7c15ULL;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
    return x ^ (x >> 31);
}

/// Uniform in (-1, 1), a function of (seed, index).
inline double symmetric_uniform(std::uint64_t seed, std::uint64_t index) {
    return static_cast<double>(mix(mix(seed) ^ index) >> 11) * 0x1.0p-52 - 1.0;
}

}  // namespace detail
namespace detail {

/// Checks rank options against the width; returns the budget.
inline index_t rank_budget(const rank_options& o, index_t d, std::string_view function) {
    if (o.fixed < 0 || o.fixed > d) {
        fail<value_error>(function, fmt::format("rank.fixed in [0, d = {}]", d), fmt::format("{}", o.fixed));
    }
    const index_t most = o.fixed > 0 ? d : std::max<index_t>(1, d - 1);
    if (o.max_rank < 0 || o.max_rank > most) {
        fail<value_error>(function, fmt::format("rank.max_rank in [0, {}] for d = {}", most, d), fmt::format("{}", o.max_rank));
    }
    require_range(function, "rank.energy", o.energy, 0.0, 1.0);
    require<value_error>(o.sign_flips >= 0, function, "rank.sign_flips >= 0", fmt::format("{}", o.sign_flips));
    require<value_error>(o.quantile > 0 && o.quantile < 1, function, "rank.quantile in (0, 1)", fmt::format("{}", o.quantile));
    return o.max_rank > 0 ? o.max_rank : std::max<index_t>(1, d / 4);
}

/// Combines the rules. `flips_allow` is the rank from sign flips, if that rule ran.
inline rank_choice choose_rank(std::span<const double> sigma, index_t n, index_t d, const rank_options& o,
                               std::optional<index_t> flips_allow, std::string_view function) {
    const index_t budget = rank_budget(o, d, function);
    const double floor = sigma.empty() ? 0.0 : sigma[0] * 1e-7;  // the Gram matrix resolves sigma to sqrt(eps) of the first
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
        allow(gavish_donoho_rank(sigma.first(static_cast<std::size_t>(std::min(n, d))), n, d), rank_rule::gavish_donoho);
    }
    if (flips_allow) {
        allow(*flips_allow, rank_rule::sign_flip);
    }
    allow(budget, rank_rule::budget);
    return choice;
}

/// How many leading singular values and vectors the rules can ask for.
inline index_t rank_needed(const rank_options& o, index_t d) {
    return std::min(d, o.fixed > 0 ? o.fixed : rank_budget(o, d, "fit_subspace"));
}

/// Whether a rule looks at the whole spectrum.
inline bool needs_all_values(const rank_options& o, index_t n, index_t d) {
    return o.fixed == 0 && o.gavish_donoho && std::min(n, d) >= 8;
}

}  // namespace detail
}  // namespace isic
