// SPDX-License-Identifier: Apache-2.0
/// \file
/// Rows of 4 or 8 floats without gaps, several in a vector. Compiled once per instruction set.
// Guarded as Highway asks: once per instruction set.
#if defined(ISIC_DETAIL_KERNELS_PACKED_ROWS_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef ISIC_DETAIL_KERNELS_PACKED_ROWS_INL
#undef ISIC_DETAIL_KERNELS_PACKED_ROWS_INL
#else
#define ISIC_DETAIL_KERNELS_PACKED_ROWS_INL
#endif

#include <type_traits>

#include <isic/detail/kernels/vector_ops-inl.hpp>

HWY_BEFORE_NAMESPACE();
namespace isic::inline ISIC_ABI::detail::kernels::HWY_NAMESPACE {

/// Calls body(Width), which returns how many rows it processed, if rows of `width` values pack into vectors; returns 0 else.
template <class T, class Body>
HWY_INLINE index_t with_packed_rows([[maybe_unused]] index_t width, [[maybe_unused]] const Body& body) {
#if HWY_TARGET != HWY_SCALAR
    if constexpr (std::is_same_v<T, float>) {
        if constexpr (lanes<hn::ScalableTag<float>> >= 8) {
            if (width == 8) {
                return body(std::integral_constant<index_t, 8>());
            }
        }
        if (width == 4) {
            return body(std::integral_constant<index_t, 4>());
        }
    }
#endif
    return 0;
}

#if HWY_TARGET != HWY_SCALAR

/// Number of rows of `Width` floats in a vector.
template <index_t Width>
inline constexpr index_t rows_per_vector = lanes<hn::ScalableTag<float>> / Width;

/// The vector of float whose lanes are value(0), value(1), ...
template <class Value>
HWY_INLINE hn::Vec<hn::ScalableTag<float>> vector_of_lanes(const Value& value) {
    const hn::ScalableTag<float> d;
    float entry[lanes<decltype(d)>];
    for (index_t lane = 0; lane < lanes<decltype(d)>; ++lane) {
        entry[lane] = value(lane);
    }
    return hn::LoadU(d, entry);
}

/// The vector that repeats the first `Width` entries of a row.
template <index_t Width>
HWY_INLINE hn::Vec<hn::ScalableTag<float>> repeated_row(const float* row) {
    return vector_of_lanes([&](index_t lane) { return row[lane % Width]; });
}

/// A matrix a I + b M [Width x Width] that multiplies every row in a vector from the right.
template <index_t Width>
class packed_matrix {
public:
    using V = hn::Vec<hn::ScalableTag<float>>;

    HWY_INLINE packed_matrix(float a, float b, const float (&m)[small_d][small_d]) {
        // entries_[distance] multiplies the value whose column is the lane's own column xor `distance`.
        for (index_t distance = 0; distance < Width; ++distance) {
            const float diagonal = distance == 0 ? a : 0.0F;
            entries_[distance] = vector_of_lanes(
                [&](index_t lane) { return diagonal + b * m[(lane % Width) ^ distance][lane % Width]; });
        }
    }

    /// x (a I + b M).
    HWY_INLINE V times(V x) const { return add_other_products(hn::Mul(x, entries_[0]), x); }

    /// c + x (a I + b M).
    HWY_INLINE V plus(V c, V x) const { return add_other_products(hn::MulAdd(x, entries_[0], c), x); }

private:
    /// Adds all products but the first. The even and the odd ones are independent chains.
    HWY_INLINE V add_other_products(V even, V x) const {
        V odd = hn::Mul(hn::Shuffle2301(x), entries_[1]);
        even = hn::MulAdd(hn::Shuffle1032(x), entries_[2], even);
        odd = hn::MulAdd(hn::Shuffle0123(x), entries_[3], odd);
        if constexpr (Width == 8) {
            const V y = hn::SwapAdjacentBlocks(x);
            even = hn::MulAdd(y, entries_[4], even);
            odd = hn::MulAdd(hn::Shuffle2301(y), entries_[5], odd);
            even = hn::MulAdd(hn::Shuffle1032(y), entries_[6], even);
            odd = hn::MulAdd(hn::Shuffle0123(y), entries_[7], odd);
        }
        return hn::Add(even, odd);
    }

    V entries_[Width];
};

#endif

}  // namespace isic::inline ISIC_ABI::detail::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
