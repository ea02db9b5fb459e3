/// \file
/// Embedding differences, harmful minus safe: as rows, or streamed into moments without storing them.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include <isic/detail/id_list.hpp>
#include <isic/execution.hpp>
#include <isic/matrix.hpp>

namespace isic::inline ISIC_ABI {
namespace detail {

ISIC_API matrix<double> differences(any_view harmful, any_view safe);
ISIC_API matrix<double> pooled_differences(any_view harmful, any_view safe, index_t group);
ISIC_API matrix<double> histograms(const id_list& ids, index_t tokens_per_image, index_t codes);
ISIC_API matrix<double> bag_of_codes_differences(any_view codes, const id_list& harmful, const id_list& safe, index_t tokens_per_image);

}  // namespace detail

/// Paired differences D_i = harmful_i - safe_i, [n x d] float64.
///
/// Cost O(n d). Errors: shape_error unless both are n x d and not empty; numeric_error on NaN or infinity.
/// Source: Safe-CB, step 1 (published in words; the formula is a reconstruction).
template <matrix_like H, matrix_like S>
matrix<double> differences(const H& harmful, const S& safe) {
    return detail::differences(detail::view_of(harmful), detail::view_of(safe));
}

/// Differences of group means, [n / group x d]: row i pools the rows i*group ... (i+1)*group - 1 of both sides.
///
/// With one image's T position embeddings as a group this is the difference of pooled embeddings.
/// Errors: as `differences`; shape_error unless group >= 1 divides n.
template <matrix_like H, matrix_like S>
matrix<double> pooled_differences(const H& harmful, const S& safe, index_t group) {
    return detail::pooled_differences(detail::view_of(harmful), detail::view_of(safe), group);
}

/// Token histograms, [n x K]: entry (i, k) counts code k among row i of ids [n x T].
///
/// Errors: shape_error unless T >= 1 divides ids.size(); value_error on an id outside [0, K).
template <token_ids R>
matrix<double> histograms(const R& ids, index_t tokens_per_image, index_t codes) {
    return detail::histograms(detail::id_list(ids), tokens_per_image, codes);
}

/// Bag-of-codes differences D_i = C^T (h_i - s_i) / T, [n x d]: needs token counts only, no encoder.
///
/// codes [K x d]; harmful_ids, safe_ids [n x T] row by row. Cost O(n T d).
/// Errors: shape_error if lengths differ or T does not divide them; value_error on ids outside [0, K).
template <matrix_like C, token_ids H, token_ids S>
matrix<double> bag_of_codes_differences(const C& codes, const H& harmful_ids, const S& safe_ids,
                                        index_t tokens_per_image) {
    return detail::bag_of_codes_differences(detail::view_of(codes), detail::id_list(harmful_ids), detail::id_list(safe_ids),
                                            tokens_per_image);
}

/// How often each code was used, in images judged harmful and in safe ones; [K] counts each.
struct code_usage {
    std::vector<double> harmful;  ///< occurrences in harmful images
    std::vector<double> safe;     ///< occurrences in safe images
};

namespace detail {

/// What `difference_accumulator` collects, whatever the storage of the codebook.
class ISIC_API difference_moments {
public:
    explicit difference_moments(index_t width);
    explicit difference_moments(any_view codes);

    void add(const id_list& harmful, const id_list& safe);
    void add_safe(const id_list& safe);
    void add_rows(any_view harmful, any_view safe, const execution& exec);
    void merge(const difference_moments& other);

    index_t width() const { return width_; }
    index_t count() const { return count_; }
    const matrix<double>& second_moment() const { return second_; }
    const code_usage& usage() const { return usage_; }
    std::vector<double> mean() const;
    std::vector<double> safe_mean() const;
    matrix<double> safe_second_moment() const;

private:
    any_view required_codes(std::string_view function) const;
    index_t codes() const { return codes_ ? codes_->rows : 0; }

    index_t width_;
    index_t count_ = 0;
    index_t safe_rows_ = 0;
    matrix<double> second_;
    matrix<double> sum_;
    std::optional<matrix<double>> safe_second_;
    std::vector<double> safe_sum_;
    std::optional<any_view> codes_;
    code_usage usage_;
    matrix<double> differences_;  // those at hand
};

}  // namespace detail

/// Moments of differences, collected one pair of images at a time: O(d^2 + K) memory whatever is added.
///
/// Two ways in, not mixed: rows of embeddings (construct with the width d), or token ids looked up in a codebook
/// (construct with the codebook, which must outlive the accumulator and stay unchanged while pairs are added). The
/// difference at a position is codes[harmful id] - codes[safe id]. Sums are float64; `merge` equals one-shot up to
/// rounding. T is the codebook's dtype type.
template <scalar T = double>
class difference_accumulator {
public:
    /// For rows of width d >= 1. Errors: shape_error.
    explicit difference_accumulator(index_t width) : moments_(width) {}

    /// For token ids over a codebook [K x d]. Errors: shape_error if it is empty, numeric_error if not finite.
    template <matrix_like C>
        requires std::same_as<scalar_of<C>, T>
    explicit difference_accumulator(const C& codes) : moments_(any_view(detail::view_of(codes))) {}

    /// The same for a run-time type.
    explicit difference_accumulator(any_view codes) : moments_(codes) {}

    explicit difference_accumulator(const matrix<T>&&) = delete;  // the codebook must outlive the accumulator

    /// A pair of images as token ids, position by position; counts their usage.
    ///
    /// Cost O(T d^2) at most: positions with equal codes add nothing. Errors: shape_error if the lengths differ or the
    /// accumulator holds rows; value_error on an id outside [0, K). Nothing is added then.
    template <token_ids H, token_ids S>
    void add(const H& harmful_ids, const S& safe_ids) {
        moments_.add(detail::id_list(harmful_ids), detail::id_list(safe_ids));
    }

    /// Counts the codes of a safe image that is nobody's counterpart: more of them make harmfulness sharper. Errors:
    /// shape_error if the accumulator holds rows; value_error on an id outside [0, K). Nothing is counted then.
    template <token_ids S>
    void add_safe(const S& safe_ids) {
        moments_.add_safe(detail::id_list(safe_ids));
    }

    /// Paired rows of embeddings, [m x d] each. Errors: shape_error, numeric_error; nothing is added then.
    template <matrix_like H, matrix_like S>
    void add_rows(const H& harmful, const S& safe, const execution& exec = {}) {
        moments_.add_rows(detail::view_of(harmful), detail::view_of(safe), exec);
    }

    /// Adds what another accumulator saw. Errors: shape_error if width, codes or kind differ.
    void merge(const difference_accumulator& other) { moments_.merge(other.moments_); }

    index_t width() const { return moments_.width(); }                                ///< d
    index_t count() const { return moments_.count(); }                                ///< n, difference rows seen
    const matrix<double>& second_moment() const { return moments_.second_moment(); }  ///< D^T D, [d x d]
    const code_usage& usage() const { return moments_.usage(); }                      ///< [K]; empty for rows

    /// Mean difference, [d]; zero before the first pair.
    std::vector<double> mean() const { return moments_.mean(); }

    /// Mean of the safe embeddings, [d]: of safe rows, or of codes weighted by their use in safe images.
    std::vector<double> safe_mean() const { return moments_.safe_mean(); }

    /// Second moment of the safe embeddings, [d x d], not divided by their number. Cost O(K d^2) for token ids.
    matrix<double> safe_second_moment() const { return moments_.safe_second_moment(); }

    /// For isic's own parts.
    const detail::difference_moments& moments() const { return moments_; }

private:
    detail::difference_moments moments_;
};

/// The accumulator of a codebook stores as the codebook does.
template <matrix_like C>
    requires(!detail::is_any_matrix<C>)
difference_accumulator(const C&) -> difference_accumulator<scalar_of<C>>;
/// A width alone: rows of any type are added.
difference_accumulator(index_t) -> difference_accumulator<double>;
/// The same, so that a literal is no matrix.
difference_accumulator(int) -> difference_accumulator<double>;

}  // namespace isic::inline ISIC_ABI

#ifdef ISIC_HEADER_ONLY
#include <isic/detail/differences-inl.hpp>
#endif
