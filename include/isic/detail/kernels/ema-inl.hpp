// Moving averages of the vectors assigned to each code. Where the sums [K x d] fit the cache they are made first, by
// adding vectors as they come; else vectors are sorted by code, and a code's sum lives as long as its row is worked on.
#ifndef ISIC_DETAIL_KERNELS_EMA_INL_ONCE
#define ISIC_DETAIL_KERNELS_EMA_INL_ONCE

#include <algorithm>

#include <isic/detail/kernels/kernels.hpp>
#include <isic/detail/kernels/parallel.hpp>
#include <isic/detail/kernels/rows.hpp>
#include <isic/detail/kernels/targets.hpp>

namespace isic::inline ISIC_ABI::detail::kernels {

/// The arrays of a step.
template <class T>
struct ema_rows {
    T* codes;
    index_t stride;
    T* counts;
    T* sums;
    index_t sums_stride;
    const T* vectors;
    index_t vectors_stride;
    index_t width;
    T decay;
    const std::uint8_t* locked;
    const index_t* starts;  ///< where the vectors of a code begin in `order`; [K + 1]
    const index_t* order;   ///< null: their sums are in `batch`
    T* batch;               ///< [K x d]
    index_t block;          ///< codes
};

}  // namespace isic::inline ISIC_ABI::detail::kernels

#endif

// Compiled once per instruction set.
#if defined(ISIC_DETAIL_KERNELS_EMA_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef ISIC_DETAIL_KERNELS_EMA_INL
#undef ISIC_DETAIL_KERNELS_EMA_INL
#else
#define ISIC_DETAIL_KERNELS_EMA_INL
#endif

#include <isic/detail/kernels/row_tiles-inl.hpp>

HWY_BEFORE_NAMESPACE();
namespace isic::inline ISIC_ABI::detail::kernels::HWY_NAMESPACE {

template <class T>
HWY_INLINE void add_row(const T* from, T* to, index_t width) {
    const hn::ScalableTag<T> d;
    constexpr index_t n = lanes<decltype(d)>;
    index_t k = 0;
    for (; k + 4 * n <= width; k += 4 * n) {
        HWY_UNROLL(4)
        for (index_t i = k; i < k + 4 * n; i += n) {
            hn::StoreU(hn::Add(hn::LoadU(d, to + i), hn::LoadU(d, from + i)), d, to + i);
        }
    }
    for (; k < width; k += n) {
        store_some(d, hn::Add(load_some(d, to + k, width - k), load_some(d, from + k, width - k)), to + k, width - k);
    }
}

/// The same for rows of `Width` values, a power of two of them.
template <index_t Width, class T>
HWY_INLINE void add_narrow_row(const T* from, T* to) {
    const hn::CappedTag<T, static_cast<std::size_t>(Width)> d;
    for (index_t k = 0; k < Width; k += lanes<decltype(d)>) {
        hn::StoreU(hn::Add(hn::LoadU(d, to + k), hn::LoadU(d, from + k)), d, to + k);
    }
}

/// Rows that are so many bytes, 1 to 16: how far ahead of its use a row is fetched.
template <class T>
HWY_INLINE index_t rows_ahead(index_t bytes, index_t width) {
    return std::clamp<index_t>(bytes / (width * static_cast<index_t>(sizeof(T))), 1, 16);
}

/// Adds the vectors of the codes [begin, end) to their sums, in their order. Width 0: known when it runs.
template <index_t Width, class T, class Id>
void scatter(const ema_rows<T>& all, const Id* ids, index_t n, index_t begin, index_t end) {
    const ema_rows<T> a = all;  // a copy that stores cannot change
    const index_t width = Width == 0 ? a.width : Width;
    const index_t next_sum = rows_ahead<T>(3072, width);
    const index_t next = rows_ahead<T>(8192, width);
    const bool is_long = width * static_cast<index_t>(sizeof(T)) >= 512;
    std::fill(a.batch + begin * width, a.batch + end * width, T(0));
    for (index_t i = 0; i < n; ++i) {
        const auto k = static_cast<index_t>(ids[i]);
        if constexpr (Width == 0) {  // wide sums do not stay in L1
            prefetch_row(a.batch + static_cast<index_t>(ids[std::min(i + next_sum, n - 1)]) * width, width);
            if (is_long) {
                prefetch_row_once(a.vectors + std::min(i + next, n - 1) * a.vectors_stride, width);
            }
        }
        if (k < begin || k >= end) {
            continue;
        }
        if constexpr (Width == 0) {
            add_row(a.vectors + i * a.vectors_stride, a.batch + k * width, width);
        } else {
            add_narrow_row<Width>(a.vectors + i * a.vectors_stride, a.batch + k * width);
        }
    }
}

template <class T, class Id>
void scatter(const ema_rows<T>& a, const Id* ids, index_t n, index_t begin, index_t end) {
    switch (a.width) {
        case 4: return scatter<4>(a, ids, n, begin, end);
        case 8: return scatter<8>(a, ids, n, begin, end);
        default: return scatter<0>(a, ids, n, begin, end);
    }
}

/// The new count of code k, stored.
template <class T>
HWY_INLINE T next_count(const ema_rows<T>& a, index_t k) {
    const T count = a.decay * a.counts[k] + (T(1) - a.decay) * static_cast<T>(a.starts[k + 1] - a.starts[k]);
    a.counts[k] = count;
    return count;
}

/// What a code is left with that has faded away.
template <class T>
void forget(const ema_rows<T>& a, index_t k) {
    a.counts[k] = 0;
    std::fill_n(a.sums + k * a.sums_stride, a.width, T(0));
}

template <class T>
HWY_INLINE bool is_locked(const ema_rows<T>& a, index_t k) {
    return a.locked != nullptr && a.locked[k] != 0;
}

#if HWY_TARGET != HWY_SCALAR

/// Codes of 4 or 8 floats without gaps, several in a vector, whose vectors' sums are in `batch`. Returns how many it did.
template <index_t Width>
index_t finish_packed(const ema_rows<float>& all, const narrow_projection<float>& p, index_t begin, index_t end) {
    const ema_rows<float> a = all;  // a copy that stores cannot change
    const hn::ScalableTag<float> d;
    using V = hn::Vec<decltype(d)>;
    constexpr index_t n = lanes<decltype(d)>;
    constexpr index_t rows = n / Width;
    const packed_matrix<Width> harmless(1.0F, -1.0F, p.matrix);
    const V decay = hn::Set(d, a.decay);
    const V rest = hn::Set(d, 1.0F - a.decay);
    V is_row[rows];  // 1 in the lanes of row i
    for (index_t i = 0; i < rows; ++i) {
        is_row[i] = tile_lanes([&](index_t lane) { return lane / Width == i ? 1.0F : 0.0F; });
    }
    index_t k = begin;
    for (; k + rows <= end; k += rows) {
        V each = hn::Zero(d);
        HWY_UNROLL(8)
        for (index_t i = 0; i < rows; ++i) {
            each = hn::MulAdd(is_row[i], hn::Set(d, next_count(a, k + i)), each);
        }
        auto stays = hn::Not(hn::Ge(each, hn::Set(d, count_floor<float>)));
        for (index_t i = k; !hn::AllFalse(d, stays) && i < k + rows; ++i) {
            if (a.counts[i] < count_floor<float>) {
                forget(a, i);
            }
        }
        for (index_t i = 0; a.locked != nullptr && i < rows; ++i) {
            stays = is_locked(a, k + i) ? hn::Or(stays, hn::Ne(is_row[i], hn::Zero(d))) : stays;
        }
        const index_t first = k * Width;
        const V old = hn::LoadU(d, a.codes + first);
        const V sum = hn::MulAdd(rest, hn::LoadU(d, a.batch + first), hn::Mul(decay, hn::LoadU(d, a.sums + first)));
        hn::StoreU(sum, d, a.sums + first);
        const V step = hn::Sub(hn::Div(sum, each), old);
        const V moved = hn::Add(old, harmless.times(step));
        hn::StoreU(hn::IfThenElse(stays, old, moved), d, a.codes + first);
    }
    return k - begin;
}

#endif

/// The sum of the vectors of code k, in `x`. Fetches the vector `next` places ahead in the order, at most `last`.
template <class T>
HWY_INLINE void add_vectors_of(const ema_rows<T>& a, index_t k, index_t next, index_t last, T* x) {
    std::fill(x, x + a.width, T(0));
    for (index_t i = a.starts[k]; i < a.starts[k + 1]; ++i) {
        prefetch_row(a.vectors + a.order[std::min(i + next, last)] * a.vectors_stride, a.width);
        add_row(a.vectors + a.order[i] * a.vectors_stride, x, a.width);
    }
}

/// Updates the codes [begin, end) in blocks. space: memory for a block.
template <class T>
void finish(const ema_rows<T>& all, const directions<T>& forbidden, [[maybe_unused]] const narrow_projection<T>& p,
            index_t begin, index_t end, T* space) {
    const ema_rows<T> a = all;  // a copy that stores cannot change
    if (a.order == nullptr && a.stride == a.width && a.sums_stride == a.width) {
        begin += with_packed_rows<T>(a.width, [&](auto width) { return finish_packed<width()>(a, p, begin, end); });
    }
    const hn::ScalableTag<T> d;
    const auto decay = hn::Set(d, a.decay);
    const auto rest = hn::Set(d, T(1) - a.decay);
    const index_t next_vector = rows_ahead<T>(3072, a.width);
    for (index_t start = begin; start < end; start += a.block) {
        T* steps[max_block_rows];
        T* codes[max_block_rows];
        index_t count = 0;
        for (index_t k = start; k < std::min(start + a.block, end); ++k) {
            T* const sum = a.sums + k * a.sums_stride;
            T* const code = a.codes + k * a.stride;
            T* const x = a.order == nullptr ? a.batch + k * a.width : space + (k - start) * a.width;
            if (a.order != nullptr) {
                const index_t next = std::min(k + 1, end - 1) - k;
                prefetch_row(sum + next * a.sums_stride, a.width);
                prefetch_row(code + next * a.stride, a.width);
                add_vectors_of(a, k, next_vector, a.starts[end] - 1, x);
            }
            const T each = next_count(a, k);
            if (each < count_floor<T>) {
                forget(a, k);
            }
            for (index_t i = 0; i < a.width; i += lanes<decltype(d)>) {
                const index_t left = a.width - i;
                const auto s = hn::MulAdd(rest, load_some(d, x + i, left), hn::Mul(decay, load_some(d, sum + i, left)));
                store_some(d, s, sum + i, left);
                store_some(d, hn::Sub(hn::Div(s, hn::Set(d, each)), load_some(d, code + i, left)), x + i, left);
            }
            if (each >= count_floor<T> && !is_locked(a, k)) {
                steps[count] = x;
                codes[count++] = code;
            }
        }
        take_out(forbidden, row_block<T>{steps, nullptr, count});
        for (index_t i = 0; i < count; ++i) {
            add_row(steps[i], codes[i], a.width);
        }
    }
}

}  // namespace isic::inline ISIC_ABI::detail::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif

#if HWY_ONCE && !defined(ISIC_DETAIL_KERNELS_EMA_INL_DISPATCH)
#define ISIC_DETAIL_KERNELS_EMA_INL_DISPATCH

namespace isic::inline ISIC_ABI::detail::kernels {

template <class T, class Id>
using scatter_function = void(const ema_rows<T>&, const Id*, index_t, index_t, index_t);
inline constexpr versions<scatter_function<float, std::int32_t>> scatter_f32_i32 = ISIC_VERSIONS(scatter);
inline constexpr versions<scatter_function<float, std::int64_t>> scatter_f32_i64 = ISIC_VERSIONS(scatter);
inline constexpr versions<scatter_function<double, std::int32_t>> scatter_f64_i32 = ISIC_VERSIONS(scatter);
inline constexpr versions<scatter_function<double, std::int64_t>> scatter_f64_i64 = ISIC_VERSIONS(scatter);

template <class T, class Id>
inline constexpr const auto& scatter_versions() {
    if constexpr (sizeof(T) == sizeof(float)) {
        if constexpr (sizeof(Id) == 4) {
            return scatter_f32_i32;
        } else {
            return scatter_f32_i64;
        }
    } else if constexpr (sizeof(Id) == 4) {
        return scatter_f64_i32;
    } else {
        return scatter_f64_i64;
    }
}

template <class T>
inline constexpr versions<void(const ema_rows<T>&, const directions<T>&, const narrow_projection<T>&, index_t, index_t, T*)> finish_versions =
    ISIC_VERSIONS(finish<T>);

/// Where the vectors of each code begin when they are sorted by code [K + 1], and which they are if `order` is wanted.
template <class T, class Id>
const index_t* sort_by_code(const Id* ids, index_t n, index_t count, bool order, ema_workspace<T>& space) {
    space.starts.assign(static_cast<std::size_t>(count + 2), 0);
    index_t* const starts = space.starts.data();
    for (index_t i = 0; i < n; ++i) {
        ++starts[static_cast<index_t>(ids[i]) + 2];
    }
    for (index_t k = 0; k < count; ++k) {
        starts[k + 2] += starts[k + 1];
    }
    if (!order) {
        return starts + 1;
    }
    space.order.resize(static_cast<std::size_t>(n));
    for (index_t i = 0; i < n; ++i) {  // starts[k + 1] moves from the begin of code k to its end
        space.order[static_cast<std::size_t>(starts[static_cast<index_t>(ids[i]) + 1]++)] = i;
    }
    return starts;
}

template <class T, class Id>
void ema(T* codes, index_t stride, T* counts, T* sums, index_t sums_stride, index_t count, index_t d, const T* vectors,
         index_t vectors_stride, const Id* ids, index_t n, const ema_step<T>& step, ema_workspace<T>& space,
         const execution& exec) {
    constexpr double cache = 1 << 20;
    const double values = static_cast<double>(count) * static_cast<double>(d);
    const bool fits = values * sizeof(T) <= cache || count < n / 4;
    const index_t* const starts = sort_by_code(ids, n, count, !fits, space);
    const double bytes = (4 * values + static_cast<double>(n) * static_cast<double>(d)) * sizeof(T);
    const row_ranges ranges(count, threads_for(exec, bytes, 4 * values * static_cast<double>(step.rank)));
    const index_t block = std::clamp<index_t>(2048 / (d * static_cast<index_t>(sizeof(T))), 2, max_block_rows);
    space.rows.resize(static_cast<std::size_t>(block * d * ranges.count()));
    if (fits) {
        space.sums.resize(static_cast<std::size_t>(count * d));
    }
    const ema_rows<T> rows{codes,
                           stride,
                           counts,
                           sums,
                           sums_stride,
                           vectors,
                           vectors_stride,
                           d,
                           step.decay,
                           step.locked,
                           starts,
                           fits ? nullptr : space.order.data(),
                           space.sums.data(),
                           block};
    const packed_directions<T> forbidden(step.basis, step.rank, d, nullptr, nullptr, exec);
    const narrow_projection<T> form =
        d <= narrow ? narrow_form(projection<T>{.basis = step.basis, .rank = step.rank}, d) : narrow_projection<T>();
    const auto add_vectors = choose(scatter_versions<T, Id>(), exec.simd);
    const auto run = choose(finish_versions<T>, exec.simd);
    for_each_range(ranges, [&](index_t i, index_t begin, index_t end) {
        if (fits) {
            add_vectors(rows, ids, n, begin, end);
        }
        run(rows, forbidden.view(), form, begin, end, space.rows.data() + i * block * d);
    });
}

}  // namespace isic::inline ISIC_ABI::detail::kernels

#endif
