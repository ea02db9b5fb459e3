// SPDX-License-Identifier: Apache-2.0
/// \file
/// Nearest-neighbour search in a codebook, and fingerprints of its bytes.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include <isic/execution.hpp>
#include <isic/matrix.hpp>

namespace isic::inline ISIC_ABI {

/// The distance by which a model chooses the nearest code, as FAISS' metric type.
enum class metric {
    l2,     ///< squared Euclidean distance of the rows as stored
    cosine  ///< squared Euclidean distance of the rows divided by their norms (LlamaGen, Janus); zero rows stay zero
};

namespace detail {

class packed_codebook;
ISIC_API std::vector<index_t> nearest_codes(any_view vectors, any_view codes, metric metric,
                                            std::span<const index_t> padding, const execution& exec = {});
ISIC_API std::uint64_t fingerprint(any_view codes);

}  // namespace detail

/// A codebook packed for nearest-neighbour search: `nearest_codes` without packing the codes for every call.
///
/// The codebook [K x d] must outlive the index at the same address, unchanged. The index takes 4 to 5 K d bytes, 26 K
/// more with a k-d tree, and a copy of the codebook in float32 if it is stored narrower, in float64 for the cosine
/// metric. Rows listed in `padding` are never the nearest and may hold anything. Queries on one index from several
/// threads are safe.
///
/// Errors: shape_error if the codebook is empty, value_error on padding ids or if all rows are padding, numeric_error
/// on NaN or infinity.
///
/// \snippet snippets.cpp codebook
class ISIC_API code_index {
public:
    /// Packs the codebook. Cost O(K d); O(K d log K) where d <= 8 and K >= 1024, for a k-d tree that prunes most codes.
    /// For d >= 16, int8 scores prune most codes on processors with int8 products (AVX-512 VNNI). Neither changes an
    /// id.
    template <matrix_like C>
    explicit code_index(const C& codes, metric metric = metric::l2, std::span<const index_t> padding = {})
        : code_index(any_view(detail::view_of(codes)), metric, padding) {}
    /// Packs a codebook of a run-time type.
    explicit code_index(any_view codes, metric metric = metric::l2, std::span<const index_t> padding = {});

    /// The codebook must outlive the index.
    template <scalar T>
    explicit code_index(const matrix<T>&&, metric = metric::l2, std::span<const index_t> = {}) = delete;

    /// Ids of the nearest codes, [n]. vectors [n x d]. If the vectors are float64 and the codebook is not, the call
    /// packs the codebook again in float64. Errors: shape_error if the widths differ, value_error on threads,
    /// numeric_error on NaN or infinity.
    template <matrix_like Z>
    [[nodiscard]] std::vector<index_t> nearest(const Z& vectors, const execution& exec = {}) const {
        const any_view rows = detail::view_of(vectors);
        std::vector<index_t> out(static_cast<std::size_t>(rows.rows));
        nearest(rows, out, exec);
        return out;
    }
    /// Writes the ids of the nearest codes to `ids` [n]. Errors: also shape_error if the size of `ids` is not n.
    template <matrix_like Z>
    void nearest(const Z& vectors, std::span<index_t> ids, const execution& exec = {}) const {
        nearest(any_view(detail::view_of(vectors)), ids, exec);
    }
    /// Writes the ids for vectors of a run-time type.
    void nearest(any_view vectors, std::span<index_t> ids, const execution& exec = {}) const;

private:
    std::shared_ptr<const detail::packed_codebook> packed_;
};

/// Ids of the nearest codes, [n]: argmin_k ||z - c_k||^2, of the normalised rows for the cosine metric; of equally near
/// codes, the lowest id.
///
/// vectors [n x d], codes [K x d]. Rows listed in `padding` are never the nearest and may hold anything. Cost O(n K d),
/// less for small d, plus packing, which a `code_index` does once. Float32 or int8 scores find the candidates; float64
/// distances re-rank them, scaled by a power of two where their squares do not fit float64.
///
/// Errors: shape_error if the codebook is empty or the widths differ, value_error on threads, on padding ids or if all
/// rows are padding, numeric_error on NaN or infinity.
template <matrix_like Z, matrix_like C>
[[nodiscard]] std::vector<index_t> nearest_codes(const Z& vectors, const C& codes, metric metric = metric::l2,
                                                 std::span<const index_t> padding = {}, const execution& exec = {}) {
    return detail::nearest_codes(detail::view_of(vectors), detail::view_of(codes), metric, padding, exec);
}

/// 64-bit XXH3 hash of the shape, the scalar size and the bytes of the rows, without the gaps between strided rows.
///
/// It detects an edited codebook. It is not cryptographic: collisions can be constructed.
template <matrix_like C>
[[nodiscard]] std::uint64_t fingerprint(const C& codes) {
    return detail::fingerprint(detail::view_of(codes));
}

}  // namespace isic::inline ISIC_ABI

#ifdef ISIC_HEADER_ONLY
#include <isic/detail/codebook-inl.hpp>
#endif
