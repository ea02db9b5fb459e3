// SPDX-License-Identifier: Apache-2.0
/// \file
/// Rank selection: fixed, energy, Gavish-Donoho, sign-flip parallel analysis, budget.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include <isic/matrix.hpp>

namespace isic::inline ISIC_ABI {

/// The rule that decided the rank.
enum class rank_rule {
    fixed,          ///< set by the caller
    energy,         ///< the smallest rank with the required share of the squared singular values
    gavish_donoho,  ///< singular values above the optimal hard threshold
    sign_flip,      ///< singular values above those of sign-flipped data
    budget,         ///< the maximum set by the caller
    data            ///< the numerical rank of the data
};

/// The name of the rule, as in reports and files.
[[nodiscard]] constexpr std::string_view to_string(rank_rule rule) {
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

/// Options of rank selection: the rank is the minimum over the active rules, at most the numerical rank of the data.
struct rank_options {
    index_t fixed = 0;          ///< exact rank; 0: the rules below decide
    double energy = 0.9;        ///< share of sum sigma^2 to keep, in (0, 1]; 0: rule off
    bool gavish_donoho = true;  ///< active when min(n, d) >= 8: the median of fewer values is no noise estimate
    index_t sign_flips = 0;     ///< sign-flipped copies, e.g. 100; 0: rule off; needs difference rows
    double quantile = 0.95;     ///< of the flipped singular values, in (0, 1)
    std::uint64_t seed = 0;     ///< seed of the flips
    index_t max_rank = 0;       ///< budget; 0: max(1, d / 4); at most d - 1 unless `fixed` is set
};

/// The rank and the rule that set it.
struct rank_choice {
    index_t rank = 0;                        ///< singular vectors to keep
    rank_rule decided_by = rank_rule::data;  ///< the rule with the minimum
};

/// Smallest r with sum_{i<r} sigma_i^2 >= share * sum sigma_i^2; 0 if all are zero.
///
/// sigma [m], descending. Cost O(m). Errors: value_error unless share is in (0, 1].
[[nodiscard]] ISIC_API index_t energy_rank(std::span<const double> sigma, double share);

/// The optimal hard threshold lambda*(beta) = sqrt(2 (beta + 1) + 8 beta / ((beta + 1) + sqrt(beta^2 + 14 beta + 1))),
/// beta in (0, 1].
///
/// For white noise of known deviation s the threshold is lambda* sqrt(n) s, n the larger side. Errors: value_error
/// unless beta is in (0, 1]. Source: Gavish and Donoho, arXiv 1305.5870.
[[nodiscard]] ISIC_API double gavish_donoho_lambda(double beta);

/// The median of the Marchenko-Pastur distribution on [(1 - sqrt(beta))^2, (1 + sqrt(beta))^2], to about 1e-10.
///
/// Simpson's rule and bisection in t, x = 1 + beta + 2 sqrt(beta) cos(t), where the density is smooth. Errors:
/// value_error unless beta is in (0, 1].
[[nodiscard]] ISIC_API double marchenko_pastur_median(double beta);

/// omega(beta) = lambda*(beta) / sqrt(median of Marchenko-Pastur): the threshold in units of the median singular value.
[[nodiscard]] ISIC_API double gavish_donoho_omega(double beta);

/// The number of singular values of an [n x d] matrix above omega(beta) * median, beta = min(n, d) / max(n, d).
///
/// sigma: all min(n, d) values, descending. Assumes white noise. Errors: shape_error unless sigma has min(n, d) values.
/// Source: Gavish and Donoho, arXiv 1305.5870.
[[nodiscard]] ISIC_API index_t gavish_donoho_rank(std::span<const double> sigma, index_t n, index_t d);

namespace detail {

/// splitmix64: a 64-bit hash of a counter. Random numbers depend on (seed, index) only.
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

/// Throws value_error naming `function` unless the options fit width d; returns the budget. `path` precedes the names of the
/// options in messages.
ISIC_API index_t rank_budget(const rank_options& o, index_t d, std::string_view function,
                             std::string_view path = "rank.");

/// The rank by the active rules. `flips_allow` is the rank of the sign-flip rule, if active. Errors: as `rank_budget`.
ISIC_API rank_choice choose_rank(std::span<const double> sigma, index_t n, index_t d, const rank_options& o,
                                 std::optional<index_t> flips_allow, std::string_view function);

/// The largest rank that the rules can choose.
ISIC_API index_t rank_needed(const rank_options& o, index_t d, std::string_view function);

/// Whether an active rule needs the whole spectrum.
ISIC_API bool needs_all_values(const rank_options& o, index_t n, index_t d);

}  // namespace detail
}  // namespace isic::inline ISIC_ABI

#ifdef ISIC_HEADER_ONLY
#include <isic/detail/rank-inl.hpp>
#endif
