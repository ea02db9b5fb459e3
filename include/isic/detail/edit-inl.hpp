// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <isic/edit.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>

#include <fmt/format.h>

#include <isic/detail/checks.hpp>
#include <isic/detail/edit.hpp>
#include <isic/detail/eigen_view.hpp>

namespace isic::inline ISIC_ABI {

ISIC_INLINE edit edit::between_rows(any_view before, any_view after) {
    detail::require_size("edit::between", "rows", before.rows, after.rows);
    detail::require_size("edit::between", "columns", before.cols, after.cols);
    edit out = for_codebook(before);
    double change = 0;
    double whole = 0;
    visit(before, [&]<class T>(matrix_span<T> b) {
        const auto a = detail::typed<std::remove_const_t<T>>(after);
        for (index_t k = 0; k < b.rows(); ++k) {
            if (std::memcmp(before.row(k).data(), after.row(k).data(), before.row(k).size()) != 0) {
                out.add_row(k, before.row(k), after.row(k));
            }
            double row_change = 0;
            double row = 0;
            for (index_t j = 0; j < b.cols(); ++j) {
                const double x = static_cast<double>(b(k, j));
                const double step = static_cast<double>(a(k, j)) - x;
                row_change += step * step;
                row += x * x;
            }
            if (std::isfinite(row_change)) {
                change += row_change;
                whole += row;
            }
        }
    });
    out.summary.moved = static_cast<index_t>(out.ids_.size());
    out.summary.relative_change = whole > 0 ? std::sqrt(change / whole) : 0.0;
    out.fingerprint_after_ = detail::fingerprint(after);
    return out;
}

ISIC_INLINE edit edit::for_codebook(any_view codes) {
    edit out;
    out.rows_ = codes.rows;
    out.cols_ = codes.cols;
    out.type_ = codes.type;
    out.fingerprint_before_ = detail::fingerprint(codes);
    return out;
}

ISIC_INLINE void edit::add_row(index_t id, std::span<const std::byte> before, std::span<const std::byte> after) {
    ids_.push_back(id);
    before_.insert(before_.end(), before.begin(), before.end());
    after_.insert(after_.end(), after.begin(), after.end());
}

ISIC_INLINE void edit::write(any_span codes, const detail::raw_bytes& bytes, std::uint64_t expected,
                             std::string_view function, std::string_view which) const {
    detail::require<value_error>(rows_ > 0 || cols_ > 0, function, "an edit of a codebook", "an empty edit");
    detail::require<value_error>(type_ == codes.type, function, fmt::format("a codebook of {}", detail::name_of(type_)),
                                 detail::name_of(codes.type));
    detail::require_size(function, "rows", rows_, codes.rows);
    detail::require_size(function, "columns", cols_, codes.cols);
    const std::uint64_t got = detail::fingerprint(codes);
    detail::require<value_error>(got == expected, function,
                                 fmt::format("the {} codebook (fingerprint {:016x})", which, expected),
                                 fmt::format("{:016x}", got));
    const auto size = static_cast<std::size_t>(codes.row_bytes());
    for (std::size_t i = 0; i < ids_.size(); ++i) {
        std::memcpy(codes.row(ids_[i]).data(), bytes.data() + i * size, size);
    }
}

}  // namespace isic::inline ISIC_ABI
