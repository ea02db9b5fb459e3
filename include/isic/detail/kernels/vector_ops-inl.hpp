// SPDX-License-Identifier: Apache-2.0
/// \file
/// Vector operations that the kernels share: partial loads and stores, sums over lanes. Compiled once per instruction set.
// Guarded as Highway asks: once per instruction set.
#if defined(ISIC_DETAIL_KERNELS_VECTOR_OPS_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef ISIC_DETAIL_KERNELS_VECTOR_OPS_INL
#undef ISIC_DETAIL_KERNELS_VECTOR_OPS_INL
#else
#define ISIC_DETAIL_KERNELS_VECTOR_OPS_INL
#endif

#include <cstddef>

#include <isic/detail/kernels/rows.hpp>

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace isic::inline ISIC_ABI::detail::kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

/// Number of lanes of a vector, a constant: targets without a fixed vector width are disabled.
template <class D>
constexpr index_t lanes = static_cast<index_t>(hn::MaxLanes(D()));

/// Returns v, kept in a register: g++ would reload it for every use, and these kernels are bound by loads.
template <class V>
HWY_INLINE V in_register(V v) {
#if HWY_ARCH_X86 && HWY_COMPILER_GCC_ACTUAL && HWY_TARGET != HWY_SCALAR
    asm("" : "+v"(v.raw));
#endif
    return v;
}

/// Loads the first `count` lanes, zeroes the others. Reads nothing past them.
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

/// Stores the first `count` lanes. Writes nothing past them.
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

/// to[i] = sum over the lanes of v[i], for `Count` vectors.
template <std::size_t Count, class D, class T = hn::TFromD<D>>
HWY_INLINE void store_sums(D, const hn::Vec<D> (&v)[Count], T* to) {
    for (std::size_t i = 0; i < Count; ++i) {
        to[i] = hn::GetLane(v[i]);
    }
}

#else

/// Stores the sum of the 128-bit blocks of a vector: 16 / sizeof(T) values.
template <class D, class T = hn::TFromD<D>>
HWY_INLINE void store_sum_of_blocks(D d, hn::Vec<D> v, T* to) {
    if constexpr (lanes<D> * sizeof(T) > 16) {
        const hn::Half<D> half;
        store_sum_of_blocks(half, hn::Add(hn::LowerHalf(half, v), hn::UpperHalf(half, v)), to);
    } else {
        hn::StoreU(v, d, to);
    }
}

/// First level of the tree of sums: pairs of lanes of a and of b, interleaved within each 128-bit block.
template <class D>
HWY_INLINE hn::Vec<D> add_interleaved(D d, hn::Vec<D> a, hn::Vec<D> b) {
    return hn::Add(hn::InterleaveLower(d, a, b), hn::InterleaveUpper(d, a, b));
}

/// to[i] = sum over the lanes of v[i], for `Count` vectors. A tree reduces as many vectors at once as a 128-bit block has lanes.
template <std::size_t Count, class D, class T = hn::TFromD<D>>
HWY_INLINE void store_sums(D d, const hn::Vec<D> (&v)[Count], T* to) {
    constexpr std::size_t group = 16 / sizeof(T);
    constexpr std::size_t last = Count - 1;
    T sums[(Count + group - 1) / group * group];
    HWY_UNROLL(8)
    for (std::size_t i = 0; i < Count; i += group) {
        const auto a = add_interleaved(d, v[i], v[i + 1 < Count ? i + 1 : last]);
        if constexpr (group == 4) {
            const auto b = add_interleaved(d, v[i + 2 < Count ? i + 2 : last], v[i + 3 < Count ? i + 3 : last]);
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

}  // namespace isic::inline ISIC_ABI::detail::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
