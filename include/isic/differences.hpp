/// \file
/// Embedding differences, harmful minus safe: as rows, or streamed into moments without storing them.
#pragma once

#include <algorithm>
#include <functional>
#include <optional>
#include <vector>

#include <isic/matrix.hpp>

namespace isic {

/// Paired differences D_i = harmful_i - safe_i, [n x d] float64.
///
/// Cost O(n d). Errors: shape_error unless both are n x d and not empty; numeric_error on NaN or infinity.
/// Source: Safe-CB, step 1 (published in words; the formula is a reconstruction).
template <matrix_like H, matrix_like S>
matrix<double> differences(const H& harmful, const S& safe) {
    const auto h = detail::view_of(harmful);
    const auto s = detail::view_of(safe);
    detail::require_not_empty("differences", "harmful rows", h);
    detail::require_size("differences", "safe rows", h.rows(), s.rows());
    detail::require_size("differences", "columns in safe", h.cols(), s.cols());
    detail::require_finite("differences", "harmful", h);
    detail::require_finite("differences", "safe", s);
    matrix<double> out(h.rows(), h.cols());
    for (index_t i = 0; i < h.rows(); ++i) {
        for (index_t j = 0; j < h.cols(); ++j) {
            out(i, j) = static_cast<double>(h(i, j)) - static_cast<double>(s(i, j));
        }
    }
    return out;
}

/// Differences of group means, [n / group x d]: row i pools the rows i*group ... (i+1)*group - 1 of both sides.
///
/// With one picture's T position embeddings as a group this is the difference of pooled embeddings.
/// Errors: as `differences`; shape_error unless group >= 1 divides n.
template <matrix_like H, matrix_like S>
matrix<double> pooled_differences(const H& harmful, const S& safe, index_t group) {
    const matrix<double> each = differences(harmful, safe);
    if (group < 1 || each.rows() % group != 0) {
        detail::fail<shape_error>("pooled_differences", "a group size that divides the rows",
                                  fmt::format("{} rows in groups of {}", each.rows(), group));
    }
    matrix<double> out(each.rows() / group, each.cols());
    for (index_t i = 0; i < each.rows(); ++i) {
        for (index_t j = 0; j < each.cols(); ++j) {
            out(i / group, j) += each(i, j) / static_cast<double>(group);
        }
    }
    return out;
}

/// Token histograms, [n x K]: entry (i, k) counts code k among row i of ids [n x T].
///
/// Errors: shape_error unless T >= 1 divides ids.size(); value_error on an id outside [0, K).
template <token_ids R>
matrix<double> histograms(const R& ids, index_t tokens_per_picture, index_t codes) {
    const auto all = detail::ids_of(ids);
    const auto size = static_cast<index_t>(all.size());
    if (tokens_per_picture < 1 || size % tokens_per_picture != 0) {
        detail::fail<shape_error>("histograms", "ids in rows of tokens_per_picture",
                                  fmt::format("{} ids in rows of {}", size, tokens_per_picture));
    }
    detail::require_ids("histograms", all, codes);
    matrix<double> out(size / tokens_per_picture, codes);
    for (index_t t = 0; t < size; ++t) {
        out(t / tokens_per_picture, static_cast<index_t>(all[static_cast<std::size_t>(t)])) += 1.0;
    }
    return out;
}

/// Bag-of-codes differences D_i = C^T (h_i - s_i) / T, [n x d]: needs token counts only, no encoder.
///
/// codes [K x d]; harmful_ids, safe_ids [n x T] row by row. Cost O(n T d).
/// Errors: shape_error if lengths differ or T does not divide them; value_error on ids outside [0, K).
template <matrix_like C, token_ids H, token_ids S>
matrix<double> bag_of_codes_differences(const C& codes, const H& harmful_ids, const S& safe_ids,
                                        index_t tokens_per_picture) {
    const auto book = detail::view_of(codes);
    const auto h = detail::ids_of(harmful_ids);
    const auto s = detail::ids_of(safe_ids);
    const auto size = static_cast<index_t>(h.size());
    detail::require_not_empty("bag_of_codes_differences", "a codebook", book);
    detail::require_size("bag_of_codes_differences", "safe ids", size, static_cast<index_t>(s.size()));
    if (size == 0 || tokens_per_picture < 1 || size % tokens_per_picture != 0) {
        detail::fail<shape_error>("bag_of_codes_differences", "ids in rows of tokens_per_picture",
                                  fmt::format("{} ids in rows of {}", size, tokens_per_picture));
    }
    detail::require_ids("bag_of_codes_differences", h, book.rows());
    detail::require_ids("bag_of_codes_differences", s, book.rows());
    detail::require_finite("bag_of_codes_differences", "the codebook", book);
    matrix<double> out(size / tokens_per_picture, book.cols());
    for (index_t t = 0; t < size; ++t) {
        const auto harmful = book.row(static_cast<index_t>(h[static_cast<std::size_t>(t)]));
        const auto safe = book.row(static_cast<index_t>(s[static_cast<std::size_t>(t)]));
        for (index_t j = 0; j < book.cols(); ++j) {
            const auto column = static_cast<std::size_t>(j);
            out(t / tokens_per_picture, j) += (static_cast<double>(harmful[column]) - static_cast<double>(safe[column])) /
                                              static_cast<double>(tokens_per_picture);
        }
    }
    return out;
}

/// How often each code was used, in pictures judged harmful and in safe ones; [K] counts each.
struct code_usage {
    std::vector<double> harmful;  ///< occurrences in harmful pictures
    std::vector<double> safe;     ///< occurrences in safe pictures
};

/// Moments of differences, collected one pair of pictures at a time: O(d^2 + K) memory whatever is added.
///
/// Two ways in, not mixed: rows of embeddings (construct with the width d), or token ids looked up in a codebook
/// (construct with the codebook, which must outlive the accumulator and stay unchanged while pairs are added). The
/// difference at a position is codes[harmful id] - codes[safe id]. Sums are float64; `merge` equals one-shot up to
/// rounding. T is the codebook's storage type.
template <scalar T = double>
class difference_accumulator {
public:
    /// For rows of width d >= 1. Errors: shape_error.
    explicit difference_accumulator(index_t width) : width_(width), second_(checked(width), width), sum_(1, width) {}

    /// For token ids over a codebook [K x d]. Errors: shape_error if it is empty, numeric_error if not finite.
    template <matrix_like C>
        requires std::same_as<scalar_of<C>, T>
    explicit difference_accumulator(const C& codes) : difference_accumulator(detail::view_of(codes).cols()) {
        codes_ = detail::view_of(codes);
        detail::require_not_empty("difference_accumulator", "a codebook", *codes_);
        detail::require_finite("difference_accumulator", "the codebook", *codes_);
        usage_.harmful.assign(static_cast<std::size_t>(codes_->rows()), 0.0);
        usage_.safe = usage_.harmful;
    }

    explicit difference_accumulator(const matrix<T>&&) = delete;  // the codebook must outlive the accumulator

    /// A pair of pictures as token ids, position by position; counts their usage.
    ///
    /// Cost O(T d^2) at most: positions with equal codes add nothing. Errors: shape_error if the lengths differ or the
    /// accumulator holds rows; value_error on an id outside [0, K). Nothing is added then.
    template <token_ids H, token_ids S>
    void add(const H& harmful_ids, const S& safe_ids) {
        const auto h = detail::ids_of(harmful_ids);
        const auto s = detail::ids_of(safe_ids);
        const auto book = required_codes("difference_accumulator::add");
        detail::require_size("difference_accumulator::add", "safe ids", static_cast<index_t>(h.size()),
                             static_cast<index_t>(s.size()));
        detail::require_ids("difference_accumulator::add", h, book.rows());
        detail::require_ids("difference_accumulator::add", s, book.rows());
        for (std::size_t t = 0; t < h.size(); ++t) {
            add_difference(book.row(static_cast<index_t>(h[t])), book.row(static_cast<index_t>(s[t])));
        }
        count(h, usage_.harmful);
        count(s, usage_.safe);
    }

    /// Counts the codes of a safe picture that is nobody's counterpart: more of them make harmfulness sharper.
    template <token_ids S>
    void add_safe(const S& safe_ids) {
        const auto s = detail::ids_of(safe_ids);
        detail::require_ids("difference_accumulator::add_safe", s, required_codes("difference_accumulator::add_safe").rows());
        count(s, usage_.safe);
    }

    /// Paired rows of embeddings, [m x d] each. Errors: shape_error, numeric_error; nothing is added then.
    template <matrix_like H, matrix_like S>
    void add_rows(const H& harmful, const S& safe) {
        const auto h = detail::view_of(harmful);
        const auto s = detail::view_of(safe);
        detail::require<shape_error>(!codes_, "difference_accumulator::add_rows", "an accumulator of rows",
                                     "one of token ids");
        detail::require_size("difference_accumulator::add_rows", "columns in harmful", width_, h.cols());
        detail::require_size("difference_accumulator::add_rows", "columns in safe", width_, s.cols());
        detail::require_size("difference_accumulator::add_rows", "safe rows", h.rows(), s.rows());
        detail::require_finite("difference_accumulator::add_rows", "harmful", h);
        detail::require_finite("difference_accumulator::add_rows", "safe", s);
        if (!safe_second_) {
            safe_second_.emplace(width_, width_);
            safe_sum_.assign(static_cast<std::size_t>(width_), 0.0);
        }
        detail::vector row;
        for (index_t i = 0; i < h.rows(); ++i) {
            add_difference(h.row(i), s.row(i));
            detail::load(s.row(i), row);
            detail::map(*safe_second_).noalias() += row * row.transpose();
            for (index_t j = 0; j < width_; ++j) {
                safe_sum_[static_cast<std::size_t>(j)] += row[j];
            }
            ++safe_rows_;
        }
    }

    /// Adds what another accumulator saw. Errors: shape_error if width, codes or kind differ.
    void merge(const difference_accumulator& other) {
        const auto codes = [](const auto& a) { return a.codes_ ? a.codes_->rows() : index_t{0}; };
        detail::require_size("difference_accumulator::merge", "columns", width_, other.width_);
        detail::require_size("difference_accumulator::merge", "codes", codes(*this), codes(other));
        detail::map(second_) += detail::map(other.second_);
        detail::map(sum_) += detail::map(other.sum_);
        count_ += other.count_;
        for (std::size_t k = 0; k < usage_.safe.size(); ++k) {
            usage_.harmful[k] += other.usage_.harmful[k];
            usage_.safe[k] += other.usage_.safe[k];
        }
        if (other.safe_second_) {
            if (!safe_second_) {
                safe_second_.emplace(width_, width_);
                safe_sum_.assign(static_cast<std::size_t>(width_), 0.0);
            }
            detail::map(*safe_second_) += detail::map(*other.safe_second_);
            std::ranges::transform(safe_sum_, other.safe_sum_, safe_sum_.begin(), std::plus{});
            safe_rows_ += other.safe_rows_;
        }
    }

    index_t width() const { return width_; }                          ///< d
    index_t count() const { return count_; }                          ///< n, difference rows seen
    const matrix<double>& second_moment() const { return second_; }   ///< D^T D, [d x d]
    const code_usage& usage() const { return usage_; }                ///< [K]; empty for rows

    /// Mean difference, [d]; zero before the first pair.
    std::vector<double> mean() const {
        std::vector<double> out(sum_.data(), sum_.data() + width_);
        std::ranges::for_each(out, [&](double& v) { v /= std::max<double>(1.0, static_cast<double>(count_)); });
        return out;
    }

    /// Mean of the safe embeddings, [d]: of safe rows, or of codes weighted by their use in safe pictures.
    std::vector<double> safe_mean() const {
        std::vector<double> out = codes_ ? std::vector<double>(static_cast<std::size_t>(width_), 0.0) : safe_sum_;
        out.resize(static_cast<std::size_t>(width_), 0.0);
        double total = codes_ ? 0.0 : static_cast<double>(safe_rows_);
        for (index_t k = 0; codes_ && k < codes_->rows(); ++k) {
            const double n = usage_.safe[static_cast<std::size_t>(k)];
            total += n;
            for (index_t j = 0; n > 0 && j < width_; ++j) {
                out[static_cast<std::size_t>(j)] += n * static_cast<double>((*codes_)(k, j));
            }
        }
        std::ranges::for_each(out, [&](double& v) { v /= std::max(1.0, total); });
        return out;
    }

    /// Second moment of the safe embeddings, [d x d], not divided by their number. Cost O(K d^2) for token ids.
    matrix<double> safe_second_moment() const {
        if (!codes_) {
            return safe_second_ ? *safe_second_ : matrix<double>(width_, width_);
        }
        matrix<double> out(width_, width_);
        detail::vector row;
        for (index_t k = 0; k < codes_->rows(); ++k) {
            if (const double n = usage_.safe[static_cast<std::size_t>(k)]; n > 0) {
                detail::load(codes_->row(k), row);
                detail::map(out).noalias() += n * row * row.transpose();
            }
        }
        return out;
    }

private:
    static index_t checked(index_t width) {
        detail::require<shape_error>(width >= 1, "difference_accumulator", "a width >= 1", fmt::format("{}", width));
        return width;
    }

    matrix_view<T> required_codes(std::string_view function) const {
        detail::require<shape_error>(codes_.has_value(), function, "an accumulator over a codebook", "one of rows");
        return *codes_;
    }

    template <class A, class B>
    void add_difference(std::span<A> harmful, std::span<B> safe) {
        ++count_;
        difference_.resize(width_);
        for (index_t j = 0; j < width_; ++j) {
            const auto column = static_cast<std::size_t>(j);
            difference_[j] = static_cast<double>(harmful[column]) - static_cast<double>(safe[column]);
        }
        if (difference_.isZero(0.0)) {
            return;
        }
        detail::map(second_).noalias() += difference_ * difference_.transpose();
        detail::map(sum_).row(0) += difference_.transpose();
    }

    template <class Id>
    static void count(std::span<const Id> ids, std::vector<double>& counts) {
        for (const Id id : ids) {
            counts[static_cast<std::size_t>(id)] += 1.0;
        }
    }

    index_t width_;
    index_t count_ = 0;
    index_t safe_rows_ = 0;
    matrix<double> second_;
    matrix<double> sum_;
    std::optional<matrix<double>> safe_second_;
    std::vector<double> safe_sum_;
    std::optional<matrix_view<T>> codes_;
    code_usage usage_;
    detail::vector difference_;
};

/// The accumulator of a codebook stores as the codebook does.
template <matrix_like C>
difference_accumulator(const C&) -> difference_accumulator<scalar_of<C>>;
/// A width alone: rows of any type are added.
difference_accumulator(index_t) -> difference_accumulator<double>;
/// The same, so that a literal is no matrix.
difference_accumulator(int) -> difference_accumulator<double>;

}  // namespace isic
