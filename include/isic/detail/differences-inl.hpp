// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <isic/differences.hpp>

#include <algorithm>
#include <functional>

#include <fmt/format.h>

#include <isic/detail/checks.hpp>
#include <isic/detail/eigen_view.hpp>
#include <isic/detail/kernels/kernels.hpp>
#include <isic/detail/moments.hpp>

namespace isic::inline ISIC_ABI {
namespace detail {

inline void require_pairs(std::string_view function, any_view harmful, any_view safe) {
    require_not_empty(function, "harmful rows", harmful);
    require_size(function, "safe rows", harmful.rows, safe.rows);
    require_size(function, "columns in safe", harmful.cols, safe.cols);
    require_finite(function, "harmful", harmful);
    require_finite(function, "safe", safe);
}

inline void count(const id_list& ids, std::vector<double>& counts) {
    for (index_t t = 0; t < ids.size(); ++t) {
        counts[static_cast<std::size_t>(ids[t])] += 1.0;
    }
}

ISIC_INLINE matrix<double> differences(any_view harmful, any_view safe) {
    require_pairs("differences", harmful, safe);
    matrix<double> out = to_double(harmful);
    const matrix<double> rows = to_double(safe);
    map(out) -= map(rows);
    return out;
}

ISIC_INLINE matrix<double> pooled_differences(any_view harmful, any_view safe, index_t group) {
    const matrix<double> each = differences(harmful, safe);
    if (group < 1 || each.rows() % group != 0) {
        fail<shape_error>("pooled_differences", "a group size that divides the rows",
                          fmt::format("{} rows in groups of {}", each.rows(), group));
    }
    matrix<double> out(each.rows() / group, each.cols());
    for (index_t i = 0; i < each.rows(); ++i) {
        map(out).row(i / group) += map(each).row(i) / static_cast<double>(group);
    }
    return out;
}

ISIC_INLINE matrix<double> histograms(const id_list& ids, index_t tokens_per_image, index_t codes) {
    if (tokens_per_image < 1 || ids.size() % tokens_per_image != 0) {
        fail<shape_error>("histograms", "ids in rows of tokens_per_image",
                          fmt::format("{} ids in rows of {}", ids.size(), tokens_per_image));
    }
    require_ids("histograms", ids, codes);
    matrix<double> out(ids.size() / tokens_per_image, codes);
    for (index_t t = 0; t < ids.size(); ++t) {
        out(t / tokens_per_image, ids[t]) += 1.0;
    }
    return out;
}

ISIC_INLINE matrix<double> bag_of_codes_differences(any_view codes, const id_list& harmful, const id_list& safe,
                                                    index_t tokens_per_image) {
    constexpr std::string_view f = "bag_of_codes_differences";
    require_not_empty(f, "a codebook", codes);
    require_size(f, "safe ids", harmful.size(), safe.size());
    if (harmful.size() == 0 || tokens_per_image < 1 || harmful.size() % tokens_per_image != 0) {
        fail<shape_error>(f, "ids in rows of tokens_per_image",
                          fmt::format("{} ids in rows of {}", harmful.size(), tokens_per_image));
    }
    require_ids(f, harmful, codes.rows);
    require_ids(f, safe, codes.rows);
    require_finite(f, "the codebook", codes);
    matrix<double> out(harmful.size() / tokens_per_image, codes.cols);
    visit(codes, [&](auto book) {
        for (index_t t = 0; t < harmful.size(); ++t) {
            for (index_t j = 0; j < book.cols(); ++j) {
                out(t / tokens_per_image, j) +=
                    (static_cast<double>(book(harmful[t], j)) - static_cast<double>(book(safe[t], j))) /
                    static_cast<double>(tokens_per_image);
            }
        }
    });
    return out;
}

}  // namespace detail

ISIC_INLINE difference_accumulator::difference_accumulator(index_t width) : width_(width) {
    detail::require<shape_error>(width >= 1, "difference_accumulator", "a width >= 1", fmt::format("{}", width));
    second_ = matrix<double>(width, width);
    sum_ = matrix<double>(1, width);
}

ISIC_INLINE difference_accumulator::difference_accumulator(any_view codes) : difference_accumulator(codes.cols) {
    detail::require_not_empty("difference_accumulator", "a codebook", codes);
    detail::require_finite("difference_accumulator", "the codebook", codes);
    codes_ = codes;
    usage_.harmful.assign(static_cast<std::size_t>(codes.rows), 0.0);
    usage_.safe = usage_.harmful;
}

ISIC_INLINE any_view difference_accumulator::required_codes(std::string_view function) const {
    detail::require<shape_error>(codes_.has_value(), function, "an accumulator over a codebook", "one of rows");
    return *codes_;
}

ISIC_INLINE void difference_accumulator::add_ids(const detail::id_list& harmful, const detail::id_list& safe) {
    constexpr std::string_view f = "difference_accumulator::add";
    const any_view codes = required_codes(f);
    detail::require_size(f, "safe ids", harmful.size(), safe.size());
    detail::require_ids(f, harmful, codes.rows);
    detail::require_ids(f, safe, codes.rows);
    constexpr index_t block = 256;
    if (differences_.empty()) {
        differences_ = matrix<double>(block, width_);
    }
    index_t filled = 0;
    const auto flush = [&] {
        detail::kernels::add_gram(differences_.data(), filled, width_, width_, second_.data(), sum_.data(),
                                  {.threads = 1});
        filled = 0;
    };
    visit(codes, [&](auto book) {
        for (index_t t = 0; t < harmful.size(); ++t) {
            if (harmful[t] == safe[t]) {
                continue;
            }
            for (index_t j = 0; j < width_; ++j) {
                differences_(filled, j) =
                    static_cast<double>(book(harmful[t], j)) - static_cast<double>(book(safe[t], j));
            }
            if (++filled == block) {
                flush();
            }
        }
    });
    flush();
    detail::kernels::mirror_upper(second_.data(), width_);
    count_ += harmful.size();
    detail::count(harmful, usage_.harmful);
    detail::count(safe, usage_.safe);
}

ISIC_INLINE void difference_accumulator::add_safe_ids(const detail::id_list& safe) {
    detail::require_ids("difference_accumulator::add_safe", safe,
                        required_codes("difference_accumulator::add_safe").rows);
    detail::count(safe, usage_.safe);
}

ISIC_INLINE void difference_accumulator::add_any_rows(any_view harmful, any_view safe, const execution& exec) {
    constexpr std::string_view f = "difference_accumulator::add_rows";
    detail::require<shape_error>(!codes_, f, "an accumulator of rows", "one of token ids");
    detail::require_size(f, "columns in harmful", width_, harmful.cols);
    detail::require_size(f, "columns in safe", width_, safe.cols);
    detail::require_size(f, "safe rows", harmful.rows, safe.rows);
    detail::require_threads(f, exec.threads);
    detail::require_finite(f, "harmful", harmful);
    detail::require_finite(f, "safe", safe);
    if (!safe_second_) {
        safe_second_.emplace(width_, width_);
        safe_sum_.assign(static_cast<std::size_t>(width_), 0.0);
    }
    detail::add_difference_moments(harmful, safe, second_, sum_.data(), exec);
    detail::add_moments(safe, *safe_second_, safe_sum_.data(), exec);
    count_ += harmful.rows;
    safe_rows_ += harmful.rows;
}

ISIC_INLINE void difference_accumulator::merge(const difference_accumulator& other) {
    detail::require_size("difference_accumulator::merge", "columns", width_, other.width_);
    detail::require_size("difference_accumulator::merge", "codes", codes(), other.codes());
    detail::map(second_) += detail::map(other.second_);
    detail::map(sum_) += detail::map(other.sum_);
    count_ += other.count_;
    std::ranges::transform(usage_.harmful, other.usage_.harmful, usage_.harmful.begin(), std::plus{});
    std::ranges::transform(usage_.safe, other.usage_.safe, usage_.safe.begin(), std::plus{});
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

ISIC_INLINE std::vector<double> difference_accumulator::mean() const {
    std::vector<double> out(sum_.data(), sum_.data() + width_);
    std::ranges::for_each(out, [&](double& v) { v /= std::max<double>(1.0, static_cast<double>(count_)); });
    return out;
}

ISIC_INLINE std::vector<double> difference_accumulator::safe_mean() const {
    std::vector<double> out = codes_ ? std::vector<double>() : safe_sum_;
    out.resize(static_cast<std::size_t>(width_), 0.0);
    double total = codes_ ? 0.0 : static_cast<double>(safe_rows_);
    visit(codes_.value_or(any_view()), [&](auto book) {
        for (index_t k = 0; k < book.rows(); ++k) {
            const double n = usage_.safe[static_cast<std::size_t>(k)];
            total += n;
            for (index_t j = 0; n > 0 && j < width_; ++j) {
                out[static_cast<std::size_t>(j)] += n * static_cast<double>(book(k, j));
            }
        }
    });
    std::ranges::for_each(out, [&](double& v) { v /= std::max(1.0, total); });
    return out;
}

ISIC_INLINE matrix<double> difference_accumulator::safe_second_moment() const {
    if (!codes_) {
        return safe_second_ ? *safe_second_ : matrix<double>(width_, width_);
    }
    matrix<double> out(width_, width_);
    detail::vector row(width_);
    for (index_t k = 0; k < codes_->rows; ++k) {
        if (const double n = usage_.safe[static_cast<std::size_t>(k)]; n > 0) {
            detail::read_row(*codes_, k, row.data());
            detail::map(out).noalias() += n * row * row.transpose();
        }
    }
    return out;
}

}  // namespace isic::inline ISIC_ABI
