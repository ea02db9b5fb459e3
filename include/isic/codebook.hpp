/// \file
/// Look-ups in a codebook: nearest codes, fingerprints of its bytes.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include <isic/execution.hpp>
#include <isic/matrix.hpp>

namespace isic::inline ISIC_ABI {

/// How a model turns a vector into a code, and what it reads of a row.
enum class metric {
    l2,            ///< nearest by squared distance; rows are read as they are
    cosine  ///< rows are divided by their norm at every look-up (LlamaGen, Janus); only directions matter
};

namespace detail {

class packed_codebook;
ISIC_API std::vector<index_t> nearest_codes(any_view vectors, any_view codes, metric metric, std::span<const index_t> padding,
                                   const execution& exec = {});
ISIC_API std::uint64_t fingerprint(any_view codes);

}  // namespace detail

/// A codebook packed for many look-ups: what `nearest_codes` makes for one call.
///
/// The codebook [K x d] must stay where it is, unchanged, while the index is used. Takes 4 to 5 K d bytes, 26 K more where
/// codes are sorted, and a copy of the codebook in float32 if it is stored narrower, in float64 if it is read normalised. Rows
/// listed in `padding` never win and may hold anything. Errors: shape_error if the codebook is empty, value_error on padding
/// ids or if all rows are padding, numeric_error on NaN or infinity.
class ISIC_API code_index {
public:
    /// Packs it. Cost O(K d); O(K d log K) where d <= 8 and K >= 1024: codes are then sorted by place, so that most of them
    /// need not be looked at. In 16 columns and more, scores in bytes rule most codes out where the processor multiplies
    /// bytes (AVX-512 VNNI). Neither changes an id.
    template <matrix_like C>
    explicit code_index(const C& codes, metric metric = metric::l2, std::span<const index_t> padding = {})
        : code_index(any_view(detail::view_of(codes)), metric, padding) {}
    /// The same for a run-time type.
    explicit code_index(any_view codes, metric metric = metric::l2, std::span<const index_t> padding = {});

    /// The codebook must outlive the index.
    template <scalar T>
    explicit code_index(const matrix<T>&&, metric = metric::l2, std::span<const index_t> = {}) = delete;

    /// Ids of the nearest codes, [n]. vectors [n x d]; those in float64 take a packing of their own if the codebook is
    /// stored narrower. Errors: shape_error if the widths differ, numeric_error on NaN or infinity.
    template <matrix_like Z>
    std::vector<index_t> nearest(const Z& vectors, const execution& exec = {}) const {
        const any_view rows = detail::view_of(vectors);
        std::vector<index_t> out(static_cast<std::size_t>(rows.rows));
        nearest(rows, out, exec);
        return out;
    }
    /// The same into `ids` [n]. Errors: shape_error, too, unless there is an id per vector.
    template <matrix_like Z>
    void nearest(const Z& vectors, std::span<index_t> ids, const execution& exec = {}) const {
        nearest(any_view(detail::view_of(vectors)), ids, exec);
    }
    /// The same for a run-time type.
    void nearest(any_view vectors, std::span<index_t> ids, const execution& exec = {}) const;

private:
    std::shared_ptr<const detail::packed_codebook> packed_;
};

/// Ids of the nearest codes, [n], by ||z - c||^2 (or of the normalised rows); ties go to the lowest id.
///
/// vectors [n x d], codes [K x d]; rows listed in `padding` never win and may hold anything. Cost O(n K d), less in
/// narrow codebooks, and to pack the codes, which a `code_index` does once. Fast products in bytes or float32 find the
/// candidates; float64 distances decide between those that they cannot tell apart, scaled where their squares do not fit
/// float64. Errors: shape_error if the codebook is empty or the widths differ, value_error on padding ids or if all rows are
/// padding, numeric_error on NaN or infinity.
template <matrix_like Z, matrix_like C>
std::vector<index_t> nearest_codes(const Z& vectors, const C& codes, metric metric = metric::l2,
                                   std::span<const index_t> padding = {}, const execution& exec = {}) {
    return detail::nearest_codes(detail::view_of(vectors), detail::view_of(codes), metric, padding, exec);
}

/// 64-bit XXH3 over shape, scalar size and the rows' bytes (not the gaps between strided rows).
///
/// Tells an edited codebook from the original; it is no defence against somebody who wants two codebooks to collide.
template <matrix_like C>
std::uint64_t fingerprint(const C& codes) {
    return detail::fingerprint(detail::view_of(codes));
}

}  // namespace isic::inline ISIC_ABI

#ifdef ISIC_HEADER_ONLY
#include <isic/detail/codebook-inl.hpp>
#endif
