// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>

#include <fmt/format.h>

#include <isic/detail/checks.hpp>
#include <isic/detail/eigen_view.hpp>

namespace isic::inline ISIC_ABI::detail {

ISIC_INLINE void require_range(std::string_view function, std::string_view name, double value, double low,
                               double high) {
    if (!(value >= low && value <= high)) {
        fail<value_error>(function, fmt::format("{} in [{}, {}]", name, low, high), fmt::format("{}", value));
    }
}

ISIC_INLINE void require_threads(std::string_view function, int threads) {
    if (threads < 0) {
        fail<value_error>(function, "threads >= 0 (0: choose automatically)", fmt::format("{}", threads));
    }
}

ISIC_INLINE void require_size(std::string_view function, std::string_view name, index_t expected, index_t got) {
    if (expected != got) {
        fail<shape_error>(function, fmt::format("{} {}", expected, name), fmt::format("{}", got));
    }
}

/// The address past the last byte of a view.
inline std::uintptr_t end_address(any_view m) {
    return reinterpret_cast<std::uintptr_t>(m.empty() ? m.data : m.row(m.rows - 1).data() + m.row_bytes());
}

inline void require_finite_rows(std::string_view function, std::string_view name, auto m,
                                const std::vector<bool>* skipped) {
    for (index_t i = 0; i < m.rows(); ++i) {
        if (skipped != nullptr && (*skipped)[static_cast<std::size_t>(i)]) {
            continue;
        }
        if (all_finite(std::span<const typename decltype(m)::value_type>(m.row(i)))) {
            continue;
        }
        for (index_t j = 0; j < m.cols(); ++j) {
            if (const double value = static_cast<double>(m(i, j)); !std::isfinite(value)) {
                fail<numeric_error>(function, fmt::format("finite values in {}", name),
                                    fmt::format("{} at row {}, column {}", value, i, j));
            }
        }
    }
}

ISIC_INLINE void require_finite(std::string_view function, std::string_view name, any_view m,
                                const std::vector<bool>* skipped) {
    visit(m, [&](auto rows) { require_finite_rows(function, name, rows, skipped); });
}

ISIC_INLINE void require_finite(std::string_view function, std::string_view name, std::span<const double> values) {
    require_finite(function, name, matrix_view<double>(values.data(), 1, static_cast<index_t>(values.size())));
}

ISIC_INLINE void require_not_empty(std::string_view function, std::string_view name, any_view m) {
    if (m.empty()) {
        fail<shape_error>(function, fmt::format("{} with rows and columns", name),
                          fmt::format("{} x {}", m.rows, m.cols));
    }
}

ISIC_INLINE void require_shares(std::string_view function, std::string_view name, std::span<const double> values,
                                index_t codes) {
    require_size(function, fmt::format("values of {}", name), codes, static_cast<index_t>(values.size()));
    for (std::size_t k = 0; k < values.size(); ++k) {
        if (!(values[k] >= 0.0 && values[k] <= 1.0)) {  // formats the name only on an error
            require_range(function, fmt::format("{} of code {}", name, k), values[k], 0.0, 1.0);
        }
    }
}

ISIC_INLINE void require_ids(std::string_view function, const id_list& ids, index_t codes) {
    for (index_t t = 0; t < ids.size(); ++t) {
        if (ids[t] < 0 || ids[t] >= codes) {
            fail<value_error>(function, fmt::format("token ids in [0, {})", codes),
                              fmt::format("{} at position {}", ids.text(t), t));
        }
    }
}

ISIC_INLINE std::vector<bool> padding_mask(std::string_view function, std::span<const index_t> padding, index_t codes) {
    require_ids(function, id_list(padding), codes);
    std::vector<bool> out(static_cast<std::size_t>(codes), false);
    for (const index_t k : padding) {
        out[static_cast<std::size_t>(k)] = true;
    }
    return out;
}

ISIC_INLINE void require_counts(std::string_view function, std::span<const double> counts) {
    for (const double n : counts) {
        if (!(n >= 0 && std::isfinite(n))) {
            fail<value_error>(function, "counts >= 0", fmt::format("{}", n));
        }
    }
}

ISIC_INLINE void require_apart(std::string_view function, any_view a, any_view b) {
    const auto start_a = reinterpret_cast<std::uintptr_t>(a.data);
    const auto start_b = reinterpret_cast<std::uintptr_t>(b.data);
    bool apart = a.empty() || b.empty() || end_address(a) <= start_b || end_address(b) <= start_a;
    const auto stride = static_cast<std::uintptr_t>(a.stride * size_of(a.type));
    if (!apart && stride == static_cast<std::uintptr_t>(b.stride * size_of(b.type))) {
        // Offset of the rows of b within those of a.
        const std::uintptr_t shift =
            start_b >= start_a ? (start_b - start_a) % stride : (stride - (start_a - start_b) % stride) % stride;
        apart = shift >= static_cast<std::uintptr_t>(a.row_bytes()) &&
                shift + static_cast<std::uintptr_t>(b.row_bytes()) <= stride;
    }
    require<value_error>(apart, function, "separate memory for what is read and what is edited", "overlapping memory");
}

ISIC_INLINE void require_apart(std::string_view function, any_view a, std::span<const double> b) {
    require_apart(function, a, matrix_view<double>(b.data(), 1, static_cast<index_t>(b.size())));
}

}  // namespace isic::inline ISIC_ABI::detail
