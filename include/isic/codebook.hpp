/// \file
/// Look-ups in a codebook: nearest codes, fingerprints of its bytes.
#pragma once

#include <algorithm>
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

/// Rows as float64, normalised if the look-up is; zero rows stay zero.
template <scalar T>
row_matrix read_rows(matrix_view<T> m, lookup rule) {
    row_matrix out(m.rows(), m.cols());
    for (index_t i = 0; i < m.rows(); ++i) {
        for (index_t j = 0; j < m.cols(); ++j) {
            out(i, j) = static_cast<double>(m(i, j));
        }
        if (rule == lookup::l2_normalised && out.row(i).squaredNorm() > 0) {
            out.row(i).normalize();
        }
    }
    return out;
}

}  // namespace detail

/// Ids of the nearest codes, [n], by ||z - c||^2 (or of the normalised rows); ties go to the lowest id.
///
/// vectors [n x d], codes [K x d]; rows listed in `padding` never win. Cost O(n K d), in blocks. Errors: shape_error if
/// empty or of unequal width, numeric_error on NaN or infinity.
template <matrix_like Z, matrix_like C>
std::vector<index_t> nearest_codes(const Z& vectors, const C& codes, lookup rule = lookup::plain,
                                   std::span<const index_t> padding = {}) {
    const auto z = detail::view_of(vectors);
    const auto c = detail::view_of(codes);
    detail::require_not_empty("nearest_codes", "a codebook", c);
    detail::require_size("nearest_codes", "columns in the vectors", c.cols(), z.cols());
    detail::require_finite("nearest_codes", "the vectors", z);
    detail::require_finite("nearest_codes", "the codebook", c);
    detail::require_ids("nearest_codes", padding, c.rows());
    const detail::row_matrix book = detail::read_rows(c, rule);
    // argmin ||z - c||^2 = argmax z.c - ||c||^2 / 2
    detail::vector half_norms = 0.5 * book.rowwise().squaredNorm();
    for (const index_t k : padding) {
        half_norms[k] = std::numeric_limits<double>::infinity();
    }
    std::vector<index_t> out;
    out.reserve(static_cast<std::size_t>(z.rows()));
    constexpr index_t block = 64;
    detail::row_matrix scores;
    for (index_t start = 0; start < z.rows(); start += block) {
        const index_t n = std::min(block, z.rows() - start);
        const matrix_view<scalar_of<Z>> part(z.data() + start * z.stride(), n, z.cols(), z.stride());
        scores.noalias() = detail::read_rows(part, rule) * book.transpose();
        scores.rowwise() -= half_norms.transpose();
        for (index_t i = 0; i < n; ++i) {
            const double* score = scores.row(i).data();
            out.push_back(std::max_element(score, score + c.rows()) - score);  // the first of equals
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
    std::uint64_t hash = 0xcbf29ce484222325ULL;
    const auto add = [&](const void* data, std::size_t size) {
        const auto* bytes = static_cast<const unsigned char*>(data);
        for (std::size_t i = 0; i < size; ++i) {
            hash = (hash ^ bytes[i]) * 0x100000001b3ULL;
        }
    };
    const std::int64_t shape[3] = {c.rows(), c.cols(), static_cast<std::int64_t>(sizeof(scalar_of<C>))};
    add(shape, sizeof shape);
    for (index_t i = 0; i < c.rows(); ++i) {
        add(c.row(i).data(), c.row(i).size_bytes());
    }
    return hash;
}

}  // namespace isic
