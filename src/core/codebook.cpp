#include <isic/codebook.hpp>

#include <algorithm>
#include <cstdint>
#include <variant>

#include "byte_hash.hpp"
#include "rows.hpp"

namespace isic::detail {

/// Rows as T, where they lie if that is what they are, else copied.
template <class T>
class rows_as {
public:
    rows_as(any_view m, lookup rule) : view_(m.type == storage_of<T>() && rule == lookup::plain ? typed<T>(m) : matrix_view<T>()) {
        if (rule == lookup::l2_normalised) {
            copy_ = converted<T>(view_of(read_rows(m, rule)));
            view_ = copy_;
        } else if (m.type != storage_of<T>()) {
            copy_ = converted<T>(m);
            view_ = copy_;
        }
    }
    rows_as(const rows_as&) = delete;
    rows_as& operator=(const rows_as&) = delete;

    const matrix_view<T>& view() const { return view_; }

private:
    matrix<T> copy_;
    matrix_view<T> view_;
};

template <class T>
class packed_as {
public:
    packed_as(any_view codes, lookup rule, const std::vector<std::uint8_t>& padding, kernels::code_packing packing)
        : rows_(codes, rule),
          codes_(rows_.view().data(), rows_.view().rows(), rows_.view().cols(), rows_.view().stride(), padding.data(), kernels::best_simd(), packing) {}

    void nearest(any_view vectors, lookup rule, index_t* ids, const kernels::resources& use) const {
        const rows_as<T> z(vectors, rule);
        codes_.nearest(z.view().data(), z.view().rows(), z.view().stride(), ids, nullptr, use);
    }

private:
    rows_as<T> rows_;
    kernels::packed_codes<T> codes_;
};

class packed_codebook {
public:
    packed_codebook(std::string_view f, any_view codes, lookup rule, std::span<const index_t> padding, kernels::code_packing packing)
        : codes_(codes), rule_(rule) {
        require_not_empty(f, "a codebook", codes);
        const std::vector<bool> is_padding = padding_mask(f, padding, codes.rows);
        require<value_error>(std::ranges::find(is_padding, false) != is_padding.end(), f, "a code that is no padding", "padding only");
        require_finite(f, "the codebook", codes, &is_padding);
        padding_.assign(is_padding.begin(), is_padding.end());
        if (is_wide(codes)) {
            packed_.emplace<packed_as<double>>(codes, rule, padding_, packing);
        } else {
            packed_.emplace<packed_as<float>>(codes, rule, padding_, packing);
        }
    }

    void nearest(std::string_view f, any_view vectors, std::span<index_t> ids, const kernels::resources& use) const {
        require_size(f, "columns in the vectors", codes_.cols, vectors.cols);
        require_size(f, "ids", vectors.rows, static_cast<index_t>(ids.size()));
        require_threads(f, use.threads);
        require_finite(f, "the vectors", vectors);
        if (const auto* narrow = std::get_if<packed_as<float>>(&packed_); narrow != nullptr && !is_wide(vectors)) {
            narrow->nearest(vectors, rule_, ids.data(), use);
        } else if (const auto* wide = std::get_if<packed_as<double>>(&packed_)) {
            wide->nearest(vectors, rule_, ids.data(), use);
        } else {
            const auto packing = kernels::packing_for(vectors.rows, codes_.cols);
            packed_as<double>(codes_, rule_, padding_, packing).nearest(vectors, rule_, ids.data(), use);
        }
    }

private:
    bool is_wide(any_view m) const { return m.type == storage::f64 || rule_ == lookup::l2_normalised; }

    any_view codes_;
    lookup rule_;
    std::vector<std::uint8_t> padding_;
    std::variant<std::monostate, packed_as<float>, packed_as<double>> packed_;
};

std::vector<index_t> nearest_codes(any_view vectors, any_view codes, lookup rule, std::span<const index_t> padding,
                                   const kernels::resources& use) {
    constexpr std::string_view f = "nearest_codes";
    std::vector<index_t> out(static_cast<std::size_t>(vectors.rows));
    packed_codebook(f, codes, rule, padding, kernels::packing_for(vectors.rows, codes.cols)).nearest(f, vectors, out, use);
    return out;
}

std::uint64_t fingerprint(any_view codes) {
    byte_hash hash;
    const std::int64_t shape[3] = {codes.rows, codes.cols, size_of(codes.type)};
    hash.add(std::as_bytes(std::span(shape)));
    if (codes.stride == codes.cols) {  // one piece
        hash.add({codes.data, static_cast<std::size_t>(codes.rows * codes.row_bytes())});
    } else {
        for (index_t i = 0; i < codes.rows; ++i) {
            hash.add(codes.row(i));
        }
    }
    return hash.value();
}

}  // namespace isic::detail

namespace isic {

code_index::code_index(detail::any_view codes, lookup rule, std::span<const index_t> padding)
    : packed_(std::make_shared<detail::packed_codebook>("code_index", codes, rule, padding, kernels::code_packing::best)) {}

void code_index::nearest(detail::any_view vectors, std::span<index_t> ids, const kernels::resources& use) const {
    packed_->nearest("code_index::nearest", vectors, ids, use);
}

}  // namespace isic
