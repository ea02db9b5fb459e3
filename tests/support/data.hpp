// SPDX-License-Identifier: Apache-2.0
// Seeded random data, strided memory with guards, and the storage types every typed test runs over.
#pragma once

#include <cstddef>
#include <cstring>
#include <limits>
#include <random>
#include <span>
#include <vector>

#include <doctest/doctest.h>

#include <isic/matrix.hpp>

TYPE_TO_STRING(isic::half);
TYPE_TO_STRING(isic::bfloat16);
#define ISIC_STORAGE float, double, isic::half, isic::bfloat16

namespace isic_test {

using isic::index_t;

inline constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();
inline constexpr double infinity = std::numeric_limits<double>::infinity();

/// Half the spacing of T at 1, written down rather than asked of the library.
template <class T>
constexpr double unit = sizeof(T) == 8   ? 0x1p-53
                        : sizeof(T) == 4 ? 0x1p-24
                                         : 0;
template <>
inline constexpr double unit<isic::half> = 0x1p-11;
template <>
inline constexpr double unit<isic::bfloat16> = 0x1p-8;

class random {
public:
    explicit random(std::uint64_t seed) : engine_(seed) {}

    double normal() { return normal_(engine_); }
    /// In [0, 1).
    double uniform() { return static_cast<double>(engine_() >> 11) * 0x1p-53; }
    /// In [0, n).
    index_t below(index_t n) { return static_cast<index_t>(engine_() % static_cast<std::uint64_t>(n)); }

    template <class T = double>
    isic::matrix<T> matrix(index_t rows, index_t cols, double scale = 1.0) {
        isic::matrix<T> out(rows, cols);
        for (index_t i = 0; i < rows; ++i) {
            for (index_t j = 0; j < cols; ++j) {
                out(i, j) = static_cast<T>(scale * normal());
            }
        }
        return out;
    }
    std::vector<double> numbers(index_t n) {
        std::vector<double> out;
        for (index_t i = 0; i < n; ++i) {
            out.push_back(uniform());
        }
        return out;
    }
    template <class Id = index_t>
    std::vector<Id> ids(index_t n, index_t codes) {
        std::vector<Id> out;
        for (index_t i = 0; i < n; ++i) {
            out.push_back(static_cast<Id>(below(codes)));
        }
        return out;
    }

private:
    std::mt19937_64 engine_;
    std::normal_distribution<double> normal_;
};

/// The bytes of anything contiguous.
template <class R>
std::vector<std::byte> bytes_of(const R& values) {
    const auto bytes = std::as_bytes(std::span(values.data(), std::size(values)));
    return {bytes.begin(), bytes.end()};
}
template <class T>
std::vector<std::byte> bytes_of(const isic::matrix<T>& m) {
    return bytes_of(std::span<const T>(m.data(), static_cast<std::size_t>(m.rows() * m.cols())));
}

/// A copy of a matrix with `gap` guard values after each row and before the first.
template <class T>
class strided {
public:
    strided(const isic::matrix<T>& m, index_t gap)
        : rows_(m.rows()),
          cols_(m.cols()),
          gap_(gap),
          values_(static_cast<std::size_t>(gap + m.rows() * (m.cols() + gap)), guard()) {
        for (index_t i = 0; i < rows_; ++i) {
            for (index_t j = 0; j < cols_; ++j) {
                span()(i, j) = m(i, j);
            }
        }
    }

    isic::matrix_span<T> span() { return {values_.data() + gap_, rows_, cols_, cols_ + gap_}; }
    /// All bytes, gaps included.
    std::vector<std::byte> bytes() const { return bytes_of(values_); }
    bool gaps_intact() const {
        for (std::size_t i = 0; i < values_.size(); ++i) {
            const index_t column = (static_cast<index_t>(i) - gap_ + cols_ + gap_) % (cols_ + gap_);
            const bool in_gap = static_cast<index_t>(i) < gap_ || column >= cols_;
            const T expected = guard();
            if (in_gap && std::memcmp(&values_[i], &expected, sizeof(T)) != 0) {
                return false;
            }
        }
        return true;
    }

private:
    static T guard() { return static_cast<T>(-77.0F); }

    index_t rows_;
    index_t cols_;
    index_t gap_;
    std::vector<T> values_;
};

template <class T>
isic::matrix<T> from_rows(std::initializer_list<std::initializer_list<double>> rows) {
    isic::matrix<T> out(static_cast<index_t>(rows.size()), static_cast<index_t>(rows.begin()->size()));
    index_t i = 0;
    for (const auto& row : rows) {
        index_t j = 0;
        for (const double value : row) {
            out(i, j++) = static_cast<T>(value);
        }
        ++i;
    }
    return out;
}

}  // namespace isic_test
