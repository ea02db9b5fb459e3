// SPDX-License-Identifier: Apache-2.0
/// \file
/// Embedding differences, harmful minus safe: as rows, or streamed into moments.
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
ISIC_API matrix<double> bag_of_codes_differences(any_view codes, const id_list& harmful, const id_list& safe,
                                                 index_t tokens_per_image);

}  // namespace detail

/// Paired differences D_i = harmful_i - safe_i, [n x d] float64.
///
/// Cost O(n d). Errors: shape_error if the shapes differ or are empty; numeric_error on NaN or infinity.
/// Source: Safe-CB, step 1 (published in words; the formula is a reconstruction).
template <matrix_like H, matrix_like S>
[[nodiscard]] matrix<double> differences(const H& harmful, const S& safe) {
    return detail::differences(detail::view_of(harmful), detail::view_of(safe));
}

/// Differences of group means, [n / group x d]: row i is the mean of the differences in [i * group, (i + 1) * group).
///
/// With the T positions of one image as a group these are differences of pooled embeddings. Cost O(n d). Errors: as
/// `differences`; shape_error unless group >= 1 divides n.
template <matrix_like H, matrix_like S>
[[nodiscard]] matrix<double> pooled_differences(const H& harmful, const S& safe, index_t group) {
    return detail::pooled_differences(detail::view_of(harmful), detail::view_of(safe), group);
}

/// Token histograms, [n x K]: entry (i, k) counts code k in row i of ids [n x T].
///
/// Cost O(n (T + K)). Errors: shape_error unless T >= 1 divides ids.size(); value_error on an id outside [0, K).
template <token_ids R>
[[nodiscard]] matrix<double> histograms(const R& ids, index_t tokens_per_image, index_t codes) {
    return detail::histograms(detail::id_list(ids), tokens_per_image, codes);
}

/// Bag-of-codes differences D_i = C^T (h_i - s_i) / T, [n x d], h_i and s_i the token histograms of pair i; no encoder
/// needed.
///
/// codes [K x d]; harmful_ids, safe_ids [n x T] row by row. Cost O(n T d).
/// Errors: shape_error if lengths differ or T does not divide them; value_error on ids outside [0, K).
template <matrix_like C, token_ids H, token_ids S>
[[nodiscard]] matrix<double> bag_of_codes_differences(const C& codes, const H& harmful_ids, const S& safe_ids,
                                                      index_t tokens_per_image) {
    return detail::bag_of_codes_differences(detail::view_of(codes), detail::id_list(harmful_ids),
                                            detail::id_list(safe_ids), tokens_per_image);
}

/// Usage counts per code in harmful and in safe images, [K] each.
struct code_usage {
    std::vector<double> harmful;  ///< occurrences in harmful images
    std::vector<double> safe;     ///< occurrences in safe images
};

/// Moments of embedding differences, streamed one pair of images at a time: O(d^2 + K) memory for any number of pairs.
///
/// The constructor decides the input: rows of embeddings (of the width d), or token ids over a codebook [K x d], which
/// must outlive the accumulator and stay unchanged while pairs are added. The difference at a position is
/// codes[harmful id] - codes[safe id]. Sums are float64.
///
/// Thread-safety: const members may run concurrently; `add`, `add_safe`, `add_rows` and `merge` need exclusive access.
/// For parallel streams keep one accumulator per thread and merge them.
///
/// \snippet snippets.cpp differences
class ISIC_API difference_accumulator {
public:
    /// For rows of width d. Errors: shape_error unless d >= 1.
    explicit difference_accumulator(index_t width);

    /// For token ids over a codebook [K x d] of any dtype. Errors: shape_error if it is empty, numeric_error on NaN or
    /// infinity.
    explicit difference_accumulator(any_view codes);
    /// The same for a typed codebook.
    template <matrix_like C>
        requires(!detail::is_any_matrix<C>)
    explicit difference_accumulator(const C& codes) : difference_accumulator(any_view(detail::view_of(codes))) {}

    /// Deleted: the codebook must outlive the accumulator.
    template <scalar T>
    explicit difference_accumulator(const matrix<T>&&) = delete;

    /// Adds a pair of images as token ids, position by position, and counts their usage.
    ///
    /// Cost O(T d^2); positions with equal codes cost O(1). Errors: shape_error if the lengths differ or the
    /// accumulator holds rows; value_error on an id outside [0, K). On an error nothing is added.
    template <token_ids H, token_ids S>
    void add(const H& harmful_ids, const S& safe_ids) {
        add_ids(detail::id_list(harmful_ids), detail::id_list(safe_ids));
    }

    /// Counts the codes of a safe image without a harmful counterpart; more safe images sharpen `code_harmfulness`.
    ///
    /// Cost O(T). Errors: shape_error if the accumulator holds rows; value_error on an id outside [0, K). On an error
    /// nothing is counted.
    template <token_ids S>
    void add_safe(const S& safe_ids) {
        add_safe_ids(detail::id_list(safe_ids));
    }

    /// Adds paired rows of embeddings, [m x d] each. Cost O(m d^2).
    ///
    /// Errors: shape_error if the shapes differ or the accumulator holds token ids; numeric_error on NaN or infinity;
    /// value_error on a negative number of threads. On an error nothing is added.
    template <matrix_like H, matrix_like S>
    void add_rows(const H& harmful, const S& safe, const execution& exec = {}) {
        add_any_rows(detail::view_of(harmful), detail::view_of(safe), exec);
    }

    /// Adds the sums of another accumulator; equals one accumulator over both streams, up to rounding. Cost O(d^2 + K).
    ///
    /// Errors: shape_error if width, number of codes or kind of input differ.
    void merge(const difference_accumulator& other);

    [[nodiscard]] index_t width() const noexcept { return width_; }  ///< d
    [[nodiscard]] index_t count() const noexcept { return count_; }  ///< n, difference rows added
    [[nodiscard]] const matrix<double>& second_moment() const noexcept { return second_; }  ///< D^T D, [d x d]
    [[nodiscard]] const code_usage& usage() const noexcept { return usage_; }               ///< [K]; empty for rows

    /// Mean difference, [d]; zero before the first pair.
    [[nodiscard]] std::vector<double> mean() const;

    /// Mean of the safe embeddings, [d]: of the safe rows, or of the codes weighted by their use in safe images.
    [[nodiscard]] std::vector<double> safe_mean() const;

    /// Second moment S^T S of the safe embeddings S, [d x d], a sum over the embeddings. Cost O(K d^2) for token ids.
    [[nodiscard]] matrix<double> safe_second_moment() const;

private:
    void add_ids(const detail::id_list& harmful, const detail::id_list& safe);
    void add_safe_ids(const detail::id_list& safe);
    void add_any_rows(any_view harmful, any_view safe, const execution& exec);
    any_view required_codes(std::string_view function) const;
    index_t codes() const noexcept { return codes_ ? codes_->rows : 0; }

    index_t width_;
    index_t count_ = 0;
    index_t safe_rows_ = 0;
    matrix<double> second_;                      // D^T D
    matrix<double> sum_;                         // 1^T D, [1 x d]
    std::optional<matrix<double>> safe_second_;  // of rows
    std::vector<double> safe_sum_;               // of rows
    std::optional<any_view> codes_;              // empty: rows
    code_usage usage_;
    matrix<double> differences_;  // a block of rows that `add` fills
};

}  // namespace isic::inline ISIC_ABI

#ifdef ISIC_HEADER_ONLY
#include <isic/detail/differences-inl.hpp>
#endif
