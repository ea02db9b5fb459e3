/// \file
/// Look-ups in a codebook: nearest codes, fingerprints of its bytes.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include <isic/matrix.hpp>

namespace isic {

/// How a model turns a vector into a code, and what it reads of a row.
enum class lookup {
    plain,         ///< nearest by squared distance; rows are read as they are
    l2_normalised  ///< rows are divided by their norm at every look-up (LlamaGen, Janus); only directions matter
};

namespace detail {

/// 64-bit FNV-1a over bytes, piece by piece.
class byte_hash {
public:
    void add(std::span<const std::byte> bytes) {
        for (const std::byte b : bytes) {
            value_ = (value_ ^ std::to_integer<std::uint64_t>(b)) * 0x100000001b3ULL;
        }
    }
    std::uint64_t value() const { return value_; }

private:
    std::uint64_t value_ = 0xcbf29ce484222325ULL;
};

/// Rows as float64, normalised if the look-up is; zero rows stay zero. Plain sums: equal rows give equal values wherever
/// they lie in memory.
template <scalar T>
row_matrix read_rows(matrix_view<T> m, lookup rule) {
    row_matrix out(m.rows(), m.cols());
    for (index_t i = 0; i < m.rows(); ++i) {
        double square = 0;
        for (index_t j = 0; j < m.cols(); ++j) {
            out(i, j) = static_cast<double>(m(i, j));
            square += out(i, j) * out(i, j);
        }
        if (rule == lookup::l2_normalised && square > 0) {
            out.row(i) /= std::sqrt(square);
        }
    }
    return out;
}

}  // namespace detail

/// Ids of the nearest codes, [n], by ||z - c||^2 (or of the normalised rows); ties go to the lowest id.
///
/// vectors [n x d], codes [K x d]; rows listed in `padding` never win and may hold anything. Cost O(n K d), in blocks;
/// codes that the fast products cannot tell apart are compared by their distances. Errors: shape_error if the codebook is
/// empty or the widths differ, value_error on padding ids or if all rows are padding, numeric_error on NaN or infinity.
template <matrix_like Z, matrix_like C>
std::vector<index_t> nearest_codes(const Z& vectors, const C& codes, lookup rule = lookup::plain,
                                   std::span<const index_t> padding = {}) {
    const auto z = detail::view_of(vectors);
    const auto c = detail::view_of(codes);
    detail::require_not_empty("nearest_codes", "a codebook", c);
    detail::require_size("nearest_codes", "columns in the vectors", c.cols(), z.cols());
    detail::require_finite("nearest_codes", "the vectors", z);
    const std::vector<bool> is_padding = detail::padding_mask("nearest_codes", padding, c.rows());
    const auto first_code = static_cast<index_t>(std::ranges::find(is_padding, false) - is_padding.begin());
    detail::require<value_error>(first_code < c.rows(), "nearest_codes", "a code that is no padding", "padding only");
    detail::require_finite("nearest_codes", "the codebook", c, &is_padding);
    detail::row_matrix book = detail::read_rows(c, rule);
    for (const index_t k : padding) {
        book.row(k).setZero();
    }
    // argmin ||z - c||^2 = argmax z.c - ||c||^2 / 2
    const detail::vector half_norms = 0.5 * book.rowwise().squaredNorm();
    const double largest = std::sqrt(2 * half_norms.maxCoeff());
    std::vector<index_t> out;
    out.reserve(static_cast<std::size_t>(z.rows()));
    constexpr index_t block = 64;
    detail::row_matrix scores;
    for (index_t start = 0; start < z.rows(); start += block) {
        const index_t n = std::min(block, z.rows() - start);
        const matrix_view<scalar_of<Z>> part(z.data() + start * z.stride(), n, z.cols(), z.stride());
        const detail::row_matrix rows = detail::read_rows(part, rule);
        scores.noalias() = rows * book.transpose();
        scores.rowwise() -= half_norms.transpose();
        for (index_t i = 0; i < n; ++i) {
            double best = -std::numeric_limits<double>::infinity();
            for (index_t k = 0; k < c.rows(); ++k) {
                best = is_padding[static_cast<std::size_t>(k)] ? best : std::max(best, scores(i, k));
            }
            const double floor = best - 1e-12 * largest * (rows.row(i).norm() + largest);
            double least = std::numeric_limits<double>::infinity();
            index_t nearest = first_code;
            for (index_t k = first_code; k < c.rows(); ++k) {
                if (scores(i, k) < floor || is_padding[static_cast<std::size_t>(k)]) {
                    continue;
                }
                double distance = 0;
                for (index_t j = 0; j < c.cols(); ++j) {
                    const double step = rows(i, j) - book(k, j);
                    distance += step * step;
                }
                if (distance < least) {  // the first of equals
                    least = distance;
                    nearest = k;
                }
            }
            out.push_back(nearest);
        }
    }
    return out;
}

/// 64-bit FNV-1a over shape, scalar size and the rows' bytes (not the gaps between strided rows).
///
/// Tells an edited codebook from the original; it is no defence against somebody who wants two codebooks to collide.
template <matrix_like C>
std::uint64_t fingerprint(const C& codes) {
    const auto c = detail::view_of(codes);
    detail::byte_hash hash;
    const std::int64_t shape[3] = {c.rows(), c.cols(), static_cast<std::int64_t>(sizeof(scalar_of<C>))};
    hash.add(std::as_bytes(std::span(shape)));
    for (index_t i = 0; i < c.rows(); ++i) {
        hash.add(std::as_bytes(c.row(i)));
    }
    return hash.value();
}

}  // namespace isic
