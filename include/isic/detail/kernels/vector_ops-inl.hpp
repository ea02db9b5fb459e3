/// \file
/// What the kernels share, compiled once per instruction set: parts of vectors, sums over lanes, rows less a subspace.
// Guarded as Highway asks: once per instruction set.
#if defined(ISIC_DETAIL_KERNELS_VECTOR_OPS_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef ISIC_DETAIL_KERNELS_VECTOR_OPS_INL
#undef ISIC_DETAIL_KERNELS_VECTOR_OPS_INL
#else
#define ISIC_DETAIL_KERNELS_VECTOR_OPS_INL
#endif

#include <algorithm>
#include <cstddef>
#include <type_traits>

#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include <isic/detail/kernels/rows.hpp>

HWY_BEFORE_NAMESPACE();
namespace isic::inline ISIC_ABI::detail::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

/// Lanes of a vector; known at compile time because targets without a fixed width are left out.
template <class D>
constexpr index_t lanes = static_cast<index_t>(hn::MaxLanes(D()));

/// The same vector, in a register: g++ would load it again for every use, and the loads are what binds.
template <class V>
HWY_INLINE V in_register(V v) {
#if HWY_ARCH_X86 && HWY_COMPILER_GCC_ACTUAL && HWY_TARGET != HWY_SCALAR
    asm("" : "+v"(v.raw));
#endif
    return v;
}

/// The first `count` lanes from memory, the others zero; reads nothing behind them.
template <class D, class T = hn::TFromD<D>>
HWY_INLINE hn::Vec<D> load_some(D d, const T* from, index_t count) {
    if (count >= lanes<D>) {
        return hn::LoadU(d, from);
    }
    if (count <= 0) {
        return hn::Zero(d);
    }
#if HWY_MEM_OPS_MIGHT_FAULT
    T part[lanes<D>] = {};
    for (index_t i = 0; i < count; ++i) {
        part[i] = from[i];
    }
    return hn::LoadU(d, part);
#else
    return hn::MaskedLoad(hn::FirstN(d, static_cast<size_t>(count)), d, from);
#endif
}

/// Writes the first `count` lanes and nothing behind them.
template <class D, class T = hn::TFromD<D>>
HWY_INLINE void store_some(D d, hn::Vec<D> v, T* to, index_t count) {
    if (count >= lanes<D>) {
        hn::StoreU(v, d, to);
        return;
    }
    if (count <= 0) {
        return;
    }
#if HWY_MEM_OPS_MIGHT_FAULT
    T part[lanes<D>];
    hn::StoreU(v, d, part);
    for (index_t i = 0; i < count; ++i) {
        to[i] = part[i];
    }
#else
    hn::BlendedStore(v, hn::FirstN(d, static_cast<size_t>(count)), d, to);
#endif
}

#if HWY_TARGET == HWY_SCALAR

/// Sums over the lanes of `Count` vectors.
template <std::size_t Count, class D, class T = hn::TFromD<D>>
HWY_INLINE void store_sums(D, const hn::Vec<D> (&v)[Count], T* to) {
    for (std::size_t i = 0; i < Count; ++i) {
        to[i] = hn::GetLane(v[i]);
    }
}

#else

/// Adds the 128-bit blocks of a vector and stores the sum.
template <class D, class T = hn::TFromD<D>>
HWY_INLINE void store_sum_of_blocks(D d, hn::Vec<D> v, T* to) {
    if constexpr (lanes<D> * sizeof(T) > 16) {
        const hn::Half<D> half;
        store_sum_of_blocks(half, hn::Add(hn::LowerHalf(half, v), hn::UpperHalf(half, v)), to);
    } else {
        hn::StoreU(v, d, to);
    }
}

/// In every block (a0 + a2 + ..., b0 + b2 + ..., a1 + a3 + ..., ...).
template <class D>
HWY_INLINE hn::Vec<D> add_crosswise(D d, hn::Vec<D> a, hn::Vec<D> b) {
    return hn::Add(hn::InterleaveLower(d, a, b), hn::InterleaveUpper(d, a, b));
}

/// Sums over the lanes of `Count` vectors, by a tree that adds as many at once as a block has lanes.
template <std::size_t Count, class D, class T = hn::TFromD<D>>
HWY_INLINE void store_sums(D d, const hn::Vec<D> (&v)[Count], T* to) {
    constexpr std::size_t at_once = 16 / sizeof(T);
    constexpr std::size_t last = Count - 1;
    T sums[(Count + at_once - 1) / at_once * at_once];
    HWY_UNROLL(8)
    for (std::size_t i = 0; i < Count; i += at_once) {
        const auto a = add_crosswise(d, v[i], v[i + 1 < Count ? i + 1 : last]);
        if constexpr (at_once == 4) {
            const auto b = add_crosswise(d, v[i + 2 < Count ? i + 2 : last], v[i + 3 < Count ? i + 3 : last]);
            const hn::RepartitionToWide<D> pairs;
            const auto low = hn::InterleaveLower(pairs, hn::BitCast(pairs, a), hn::BitCast(pairs, b));
            const auto high = hn::InterleaveUpper(pairs, hn::BitCast(pairs, a), hn::BitCast(pairs, b));
            store_sum_of_blocks(d, hn::Add(hn::BitCast(d, low), hn::BitCast(d, high)), sums + i);
        } else {
            store_sum_of_blocks(d, a, sums + i);
        }
    }
    for (std::size_t i = 0; i < Count; ++i) {
        to[i] = sums[i];
    }
}

#endif

#if HWY_TARGET != HWY_SCALAR

/// The vector of float whose lanes are value(0), value(1), ...
template <class Value>
HWY_INLINE hn::Vec<hn::ScalableTag<float>> tile_lanes(const Value& value) {
    const hn::ScalableTag<float> d;
    float entry[lanes<decltype(d)>];
    for (index_t lane = 0; lane < lanes<decltype(d)>; ++lane) {
        entry[lane] = value(lane);
    }
    return hn::LoadU(d, entry);
}

/// A matrix a I + b M [Width x Width] that is multiplied with rows of 4 or 8 floats side by side in a vector.
template <index_t Width>
class packed_matrix {
public:
    using V = hn::Vec<hn::ScalableTag<float>>;

    HWY_INLINE packed_matrix(float a, float b, const float (&m)[narrow][narrow]) {
        // What a lane multiplies the value with that lies `apart`, an exclusive or, from it in its row.
        for (index_t apart = 0; apart < Width; ++apart) {
            const float diagonal = apart == 0 ? a : 0.0F;
            entries_[apart] =
                tile_lanes([&](index_t lane) { return diagonal + b * m[(lane % Width) ^ apart][lane % Width]; });
        }
    }

    /// x (a I + b M).
    HWY_INLINE V times(V x) const { return rest(hn::Mul(x, entries_[0]), x); }

    /// from + x (a I + b M), rounded several times.
    HWY_INLINE V plus(V from, V x) const { return rest(hn::MulAdd(x, entries_[0], from), x); }

private:
    /// All but the first product. Two sums, so that neither waits for the other.
    HWY_INLINE V rest(V even, V x) const {
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

/// body(Width), which returns how many rows it did, for rows of 4 or 8 floats if a vector holds some of them whole; else 0.
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

/// Directions that are taken out together: a power of two of them, the last ones zero.
HWY_INLINE constexpr index_t together(index_t rank) {
    return rank <= 2 ? rank : rank <= 4 ? 4 : 8;
}

/// Rows of a step: as many as have room in the registers for their sums of products with `R` directions and as many factors.
template <std::size_t R>
constexpr std::size_t rows_together = HWY_TARGET == HWY_SCALAR || R < (HWY_TARGET == HWY_AVX2 ? 4 : 8) ? 2 : 1;

/// Sums of a product: a multiply-add must not wait for the one before.
template <std::size_t R>
constexpr std::size_t chains_of = R >= 4 ? 1 : 2;

constexpr index_t most_lag = 4;

/// Calls measure(i) for steps [0, count) and move(i) some steps later, or both at once: the later, the less that waits, but
/// the rows between should stay in L1. bytes: of the rows of a step.
template <class Rows>
HWY_INLINE void in_steps(Rows& rows, index_t count, index_t bytes) {
    if (HWY_TARGET == HWY_SCALAR) {  // which has not the registers for both at once
        for (index_t i = 0; i < count; ++i) {
            rows.measure(i);
            rows.move(i);
        }
        return;
    }
    const index_t lag = std::min(count, std::clamp<index_t>(8192 / bytes, 1, most_lag));
    for (index_t i = 0; i < lag; ++i) {
        rows.measure(i);
    }
    for (index_t i = lag; i < count; ++i) {
        rows.measure_and_move(i, i - lag);
    }
    for (index_t i = count - lag; i < count; ++i) {
        rows.move(i);
    }
}

/// x_i += sum_j factor[i R + j] b_j if it `Moves`, sum[i R + j] += y_i b_j if it `Measures`. Both share the loads of b.
template <bool Moves, bool Measures, std::size_t Rows, std::size_t R, class V, class D, class T>
HWY_INLINE void advance(D d, V (&x)[Rows], const V (&factor)[Rows * R], const V (&y)[Rows], V (&sum)[Rows * R],
                        const T* b) {
    HWY_UNROLL(8)
    for (std::size_t j = 0; j < R; ++j) {
        const V direction = in_register(hn::LoadU(d, b + j * static_cast<std::size_t>(lanes<D>)));
        HWY_UNROLL(2)
        for (std::size_t i = 0; i < Rows; ++i) {
            if constexpr (Measures) {
                sum[i * R + j] = hn::MulAdd(y[i], direction, sum[i * R + j]);
            }
            if constexpr (Moves) {
                x[i] = hn::MulAdd(factor[i * R + j], direction, x[i]);
            }
        }
    }
}

/// Sums of products with directions from `first` on to what the rows move by, f <- (t . v_j - f) s_i w_j for f[i R + j].
template <std::size_t Rows, std::size_t R, class T>
HWY_INLINE void sums_to_factors(const directions<T>& v, std::size_t first, const T (&strength)[Rows], T* f) {
    for (std::size_t i = 0; i < Rows; ++i) {
        for (std::size_t j = 0; j < R; ++j) {
            T& at = f[i * R + j];
            at = (v.offset[first + j] - at) * (strength[i] * v.weight[first + j]);
        }
    }
}

/// Where the directions from `first` on begin.
template <class T>
HWY_INLINE const T* packed_from(const directions<T>& v, index_t first) {
    constexpr index_t n = lanes<hn::ScalableTag<T>>;
    return v.packed + first * ((v.width + n - 1) / n * n);
}

/// Calls body(R) with the constant number of directions that are taken out together from `first` on.
template <class T, class Body>
HWY_INLINE void with_together(const directions<T>& v, index_t first, const Body& body) {
    switch (together(v.rank - first)) {
        case 1: return body(std::integral_constant<std::size_t, 1>());
        case 2: return body(std::integral_constant<std::size_t, 2>());
        case 4: return body(std::integral_constant<std::size_t, 4>());
        default: return body(std::integral_constant<std::size_t, 8>());
    }
}

}  // namespace isic::inline ISIC_ABI::detail::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
