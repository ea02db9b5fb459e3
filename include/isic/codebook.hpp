/// \file
/// Look-ups in a codebook: nearest codes, fingerprints of its bytes.
#pragma once

#include <cstdint>
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

std::vector<index_t> nearest_codes(any_view vectors, any_view codes, lookup rule, std::span<const index_t> padding);
std::uint64_t fingerprint(any_view codes);

}  // namespace detail

/// Ids of the nearest codes, [n], by ||z - c||^2 (or of the normalised rows); ties go to the lowest id.
///
/// vectors [n x d], codes [K x d]; rows listed in `padding` never win and may hold anything. Cost O(n K d), in blocks;
/// codes that the fast products cannot tell apart are compared by their distances. Errors: shape_error if the codebook is
/// empty or the widths differ, value_error on padding ids or if all rows are padding, numeric_error on NaN or infinity.
template <matrix_like Z, matrix_like C>
std::vector<index_t> nearest_codes(const Z& vectors, const C& codes, lookup rule = lookup::plain,
                                   std::span<const index_t> padding = {}) {
    return detail::nearest_codes(detail::view_of(vectors), detail::view_of(codes), rule, padding);
}

/// 64-bit FNV-1a over shape, scalar size and the rows' bytes (not the gaps between strided rows).
///
/// Tells an edited codebook from the original; it is no defence against somebody who wants two codebooks to collide.
template <matrix_like C>
std::uint64_t fingerprint(const C& codes) {
    return detail::fingerprint(detail::view_of(codes));
}

}  // namespace isic
