// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <isic/codebook.hpp>

#include <algorithm>
#include <cstdint>
#include <variant>

#include <isic/detail/byte_hash.hpp>
#include <isic/detail/checks.hpp>
#include <isic/detail/codebook.hpp>
#include <isic/detail/kernels/kernels.hpp>

namespace isic::inline ISIC_ABI::detail {

inline double sum_of_squares(std::span<const double> row) {
    double sum = 0;
    for (const double x : row) {
        sum += x * x;
    }
    return sum;
}

/// Scales a row by a power of two to a largest value in [1, 2), so that its squares fit float64.
inline void scale_near_one(std::span<double> row) {
    double largest = 0;
    for (const double x : row) {
        largest = std::max(largest, std::abs(x));
    }
    if (largest > 0) {
        const int exponent = std::ilogb(largest);
        std::ranges::transform(row, row.begin(), [&](double x) { return std::scalbn(x, -exponent); });
    }
}

ISIC_INLINE row_matrix read_rows(any_view m, metric metric) {
    row_matrix out(m.rows, m.cols);
    read_rows(m, out.data(), m.cols);
    for (index_t i = 0; i < m.rows && metric == metric::cosine; ++i) {
        const std::span<double> row(out.data() + i * m.cols, static_cast<std::size_t>(m.cols));
        double square = sum_of_squares(row);
        if (!(square >= static_cast<double>(m.cols) * std::numeric_limits<double>::min() && std::isfinite(square))) {
            scale_near_one(row);
            square = sum_of_squares(row);
        }
        if (square > 0) {
            out.row(i) /= std::sqrt(square);
        }
    }
    return out;
}

/// Rows of type T, prepared for a metric: a view of the given rows where they are that already, else a copy.
template <class T>
class metric_rows {
public:
    metric_rows(any_view m, metric metric)
        : view_(m.type == dtype_of<T>() && metric == metric::l2 ? typed<T>(m) : matrix_view<T>()) {
        if (metric == metric::cosine) {
            copy_ = converted<T>(view_of(read_rows(m, metric)));
            view_ = copy_;
        } else if (m.type != dtype_of<T>()) {
            copy_ = converted<T>(m);
            view_ = copy_;
        }
    }
    metric_rows(const metric_rows&) = delete;
    metric_rows& operator=(const metric_rows&) = delete;

    const matrix_view<T>& view() const { return view_; }

private:
    matrix<T> copy_;
    matrix_view<T> view_;
};

/// Codes packed in T.
template <class T>
class packed_in {
public:
    packed_in(any_view codes, metric metric, const std::vector<std::uint8_t>& padding, kernels::code_packing packing)
        : rows_(codes, metric),
          codes_(rows_.view().data(), rows_.view().rows(), rows_.view().cols(), rows_.view().stride(), padding.data(),
                 best_simd(), packing) {}

    void nearest(any_view vectors, metric metric, index_t* ids, const execution& exec) const {
        const metric_rows<T> z(vectors, metric);
        codes_.nearest(z.view().data(), z.view().rows(), z.view().stride(), ids, nullptr, exec);
    }

private:
    metric_rows<T> rows_;
    kernels::packed_codes<T> codes_;
};

/// A checked codebook packed in float64 for the cosine metric and for float64 codes, else in float32.
class packed_codebook {
public:
    packed_codebook(std::string_view f, any_view codes, metric metric, std::span<const index_t> padding,
                    kernels::code_packing packing)
        : codes_(codes), metric_(metric) {
        require_not_empty(f, "a codebook", codes);
        const std::vector<bool> is_padding = padding_mask(f, padding, codes.rows);
        require<value_error>(std::ranges::find(is_padding, false) != is_padding.end(), f, "a code that is no padding",
                             "padding only");
        require_finite(f, "the codebook", codes, &is_padding);
        padding_.assign(is_padding.begin(), is_padding.end());
        if (needs_float64(codes)) {
            packed_.emplace<packed_in<double>>(codes, metric, padding_, packing);
        } else {
            packed_.emplace<packed_in<float>>(codes, metric, padding_, packing);
        }
    }

    void nearest(std::string_view f, any_view vectors, std::span<index_t> ids, const execution& exec) const {
        require_size(f, "columns in the vectors", codes_.cols, vectors.cols);
        require_size(f, "ids", vectors.rows, static_cast<index_t>(ids.size()));
        require_threads(f, exec.threads);
        require_finite(f, "the vectors", vectors);
        const auto* const in_float32 = std::get_if<packed_in<float>>(&packed_);
        if (in_float32 != nullptr && !needs_float64(vectors)) {
            in_float32->nearest(vectors, metric_, ids.data(), exec);
        } else if (const auto* in_float64 = std::get_if<packed_in<double>>(&packed_)) {
            in_float64->nearest(vectors, metric_, ids.data(), exec);
        } else {
            const auto packing = kernels::packing_for(vectors.rows, codes_.cols);
            packed_in<double>(codes_, metric_, padding_, packing).nearest(vectors, metric_, ids.data(), exec);
        }
    }

private:
    bool needs_float64(any_view m) const { return m.type == dtype::f64 || metric_ == metric::cosine; }

    any_view codes_;
    metric metric_;
    std::vector<std::uint8_t> padding_;
    std::variant<std::monostate, packed_in<float>, packed_in<double>> packed_;
};

ISIC_INLINE std::vector<index_t> nearest_codes(any_view vectors, any_view codes, metric metric,
                                               std::span<const index_t> padding, const execution& exec) {
    constexpr std::string_view f = "nearest_codes";
    std::vector<index_t> out(static_cast<std::size_t>(vectors.rows));
    const kernels::code_packing packing = kernels::packing_for(vectors.rows, codes.cols);
    packed_codebook(f, codes, metric, padding, packing).nearest(f, vectors, out, exec);
    return out;
}

ISIC_INLINE std::uint64_t fingerprint(any_view codes) {
    byte_hash hash;
    const std::int64_t shape[3] = {codes.rows, codes.cols, size_of(codes.type)};
    hash.add(std::as_bytes(std::span(shape)));
    if (codes.stride == codes.cols) {  // contiguous
        hash.add({codes.data, static_cast<std::size_t>(codes.rows * codes.row_bytes())});
    } else {
        for (index_t i = 0; i < codes.rows; ++i) {
            hash.add(codes.row(i));
        }
    }
    return hash.value();
}

}  // namespace isic::inline ISIC_ABI::detail

namespace isic::inline ISIC_ABI {

ISIC_INLINE code_index::code_index(any_view codes, metric metric, std::span<const index_t> padding)
    : packed_(std::make_shared<detail::packed_codebook>("code_index", codes, metric, padding,
                                                        detail::kernels::code_packing::best)) {}

ISIC_INLINE void code_index::nearest(any_view vectors, std::span<index_t> ids, const execution& exec) const {
    packed_->nearest("code_index::nearest", vectors, ids, exec);
}

}  // namespace isic::inline ISIC_ABI
