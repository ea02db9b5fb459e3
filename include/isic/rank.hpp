/// \file
/// How many singular vectors to keep: fixed, energy, Gavish-Donoho, sign-flip parallel analysis, budget.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include <isic/matrix.hpp>

namespace isic::inline ISIC_ABI {

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
ISIC_API index_t energy_rank(std::span<const double> sigma, double share);

/// lambda*(beta) = sqrt(2 (beta + 1) + 8 beta / ((beta + 1) + sqrt(beta^2 + 14 beta + 1))), beta in (0, 1].
///
/// The optimal hard threshold is lambda* sqrt(n) s for white noise of known deviation s, n the larger side.
/// Source: Gavish and Donoho, arXiv 1305.5870.
ISIC_API double gavish_donoho_lambda(double beta);

/// Median of the Marchenko-Pastur distribution on [(1 - sqrt(beta))^2, (1 + sqrt(beta))^2], to about 1e-10.
///
/// With x = 1 + beta + 2 sqrt(beta) cos(t) the density becomes smooth in t; Simpson's rule and bisection.
ISIC_API double marchenko_pastur_median(double beta);

/// omega(beta) = lambda*(beta) / sqrt(median of Marchenko-Pastur): the threshold in units of the median singular value.
ISIC_API double gavish_donoho_omega(double beta);

/// Number of singular values of an n x d matrix above omega(beta) * median, beta = min / max of n and d.
///
/// sigma: all min(n, d) values, descending. Assumes white noise. Errors: shape_error unless sigma has min(n, d) values.
ISIC_API index_t gavish_donoho_rank(std::span<const double> sigma, index_t n, index_t d);

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

/// Checks rank options against the width; returns the budget. `path` precedes the names of the options in messages.
ISIC_API index_t rank_budget(const rank_options& o, index_t d, std::string_view function, std::string_view path = "rank.");

/// Combines the rules. `flips_allow` is the rank from sign flips, if that rule ran.
ISIC_API rank_choice choose_rank(std::span<const double> sigma, index_t n, index_t d, const rank_options& o,
                        std::optional<index_t> flips_allow, std::string_view function);

/// How many leading singular values and vectors the rules can ask for.
ISIC_API index_t rank_needed(const rank_options& o, index_t d);

/// Whether a rule looks at the whole spectrum.
ISIC_API bool needs_all_values(const rank_options& o, index_t n, index_t d);

}  // namespace detail
}  // namespace isic::inline ISIC_ABI

#ifdef ISIC_HEADER_ONLY
#include <isic/detail/rank-inl.hpp>
#endif
