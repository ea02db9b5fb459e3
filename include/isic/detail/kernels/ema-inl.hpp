// SPDX-License-Identifier: Apache-2.0
// Exponential moving averages of the vectors assigned to each code. Where the batch sums [K x d] fit the cache, one pass over
// the vectors makes them all (scatter-add); else the vectors are sorted by code, and a code is summed and updated in one go.
#ifndef ISIC_DETAIL_KERNELS_EMA_INL_ONCE
#define ISIC_DETAIL_KERNELS_EMA_INL_ONCE

#include <algorithm>

#include <isic/detail/kernels/kernels.hpp>
#include <isic/detail/kernels/parallel.hpp>
#include <isic/detail/kernels/rows.hpp>
#include <isic/detail/kernels/targets.hpp>

namespace isic::inline ISIC_ABI::detail::kernels {

/// The arguments of an EMA step, and its vectors grouped by code.
template <class T>
struct ema_batch {
    ema_arrays<T> arrays;
    T decay;                     ///< a
    const std::uint8_t* locked;  ///< [K] or null
    const index_t* starts;       ///< start of each code's vectors in `order` [K + 1]
    const index_t* order;        ///< vectors sorted by code [n]; null: `sums` holds their sums
    T* sums;                     ///< batch sums [K x d]
    index_t block;               ///< codes per block

    index_t size(index_t k) const { return starts[k + 1] - starts[k]; }
    bool is_locked(index_t k) const { return locked != nullptr && locked[k] != 0; }
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

#include <isic/detail/kernels/packed_rows-inl.hpp>
#include <isic/detail/kernels/row_tiles-inl.hpp>

HWY_BEFORE_NAMESPACE();
namespace isic::inline ISIC_ABI::detail::kernels::HWY_NAMESPACE {

/// to += from, `width` values.
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

/// to += from, `Width` values, a power of two.
template <index_t Width, class T>
HWY_INLINE void add_row(const T* from, T* to) {
    const hn::CappedTag<T, static_cast<std::size_t>(Width)> d;
    for (index_t k = 0; k < Width; k += lanes<decltype(d)>) {
        hn::StoreU(hn::Add(hn::LoadU(d, to + k), hn::LoadU(d, from + k)), d, to + k);
    }
}

/// Prefetch distance of `bytes` in rows, 1 to 16.
template <class T>
HWY_INLINE index_t rows_in(index_t bytes, index_t width) {
    return std::clamp<index_t>(bytes / (width * static_cast<index_t>(sizeof(T))), 1, 16);
}

/// Sums the vectors of the codes [begin, end) in their order. Width 0: d is known at run time only.
template <index_t Width, class T, class Id>
void scatter_add(const ema_batch<T>& batch, const Id* ids, index_t begin, index_t end) {
    const ema_arrays<T> a = batch.arrays;  // a local copy: stores cannot alias it
    T* const sums = batch.sums;
    const index_t width = Width == 0 ? a.width : Width;
    const index_t sums_ahead = rows_in<T>(3072, width);
    const index_t vectors_ahead = rows_in<T>(8192, width);
    const bool prefetches_vectors = width * static_cast<index_t>(sizeof(T)) >= 512;
    std::fill(sums + begin * width, sums + end * width, T(0));
    for (index_t i = 0; i < a.vector_count; ++i) {
        const auto k = static_cast<index_t>(ids[i]);
        if constexpr (Width == 0) {  // sums of small d stay in L1
            prefetch_row(sums + static_cast<index_t>(ids[std::min(i + sums_ahead, a.vector_count - 1)]) * width, width);
            if (prefetches_vectors) {
                prefetch_row_once(a.vectors + std::min(i + vectors_ahead, a.vector_count - 1) * a.vectors_stride,
                                  width);
            }
        }
        if (k < begin || k >= end) {
            continue;
        }
        if constexpr (Width == 0) {
            add_row(a.vectors + i * a.vectors_stride, sums + k * width, width);
        } else {
            add_row<Width>(a.vectors + i * a.vectors_stride, sums + k * width);
        }
    }
}

template <class T, class Id>
void scatter_add(const ema_batch<T>& batch, const Id* ids, index_t begin, index_t end) {
    switch (batch.arrays.width) {
        case 4: return scatter_add<4>(batch, ids, begin, end);
        case 8: return scatter_add<8>(batch, ids, begin, end);
        default: return scatter_add<0>(batch, ids, begin, end);
    }
}

/// Updates and returns the count of code k.
template <class T>
HWY_INLINE T update_count(const ema_batch<T>& batch, index_t k) {
    const T count = batch.decay * batch.arrays.counts[k] + (T(1) - batch.decay) * static_cast<T>(batch.size(k));
    batch.arrays.counts[k] = count;
    return count;
}

/// Flushes the count and the sum of code k to zero.
template <class T>
void flush_to_zero(const ema_batch<T>& batch, index_t k) {
    batch.arrays.counts[k] = 0;
    std::fill_n(batch.arrays.sums + k * batch.arrays.sums_stride, batch.arrays.width, T(0));
}

#if HWY_TARGET != HWY_SCALAR

/// Updates contiguous codes of 4 or 8 floats, several in a vector, from the batch sums.
template <index_t Width>
class ema_packed_codes {
public:
    static constexpr index_t rows = rows_per_vector<Width>;

    HWY_INLINE ema_packed_codes(const ema_batch<float>& batch, const small_d_projection<float>& p)
        : batch_(batch),
          complement_(1.0F, -1.0F, p.matrix),
          decay_(hn::Set(D(), batch.decay)),
          one_minus_decay_(hn::Set(D(), 1.0F - batch.decay)) {
        for (index_t i = 0; i < rows; ++i) {
            row_lanes_[i] = vector_of_lanes([&](index_t lane) { return lane / Width == i ? 1.0F : 0.0F; });
        }
    }

    /// Updates the codes of the vector from code k on.
    HWY_INLINE void update(index_t k) const {
        const V counts = update_counts(k);
        const auto empty = hn::Not(hn::Ge(counts, hn::Set(D(), count_floor<float>)));
        if (!hn::AllFalse(D(), empty)) {
            flush_empty_codes(k);
        }
        const auto fixed = with_locked(empty, k);
        const index_t first = k * Width;
        float* const codes = batch_.arrays.codes + first;
        const V old = hn::LoadU(D(), codes);
        const V step = hn::Sub(hn::Div(update_sums(first), counts), old);
        const V moved = hn::Add(old, complement_.times(step));
        hn::StoreU(hn::IfThenElse(fixed, old, moved), D(), codes);
    }

private:
    using D = hn::ScalableTag<float>;
    using V = hn::Vec<D>;
    using M = hn::Mask<D>;

    /// The new counts, each in all lanes of its code.
    HWY_INLINE V update_counts(index_t k) const {
        V counts = hn::Zero(D());
        HWY_UNROLL(8)
        for (index_t i = 0; i < rows; ++i) {
            counts = hn::MulAdd(row_lanes_[i], hn::Set(D(), update_count(batch_, k + i)), counts);
        }
        return counts;
    }

    HWY_INLINE void flush_empty_codes(index_t k) const {
        for (index_t i = k; i < k + rows; ++i) {
            if (batch_.arrays.counts[i] < count_floor<float>) {
                flush_to_zero(batch_, i);
            }
        }
    }

    /// Adds the lanes of locked codes to a mask.
    HWY_INLINE M with_locked(M mask, index_t k) const {
        for (index_t i = 0; batch_.locked != nullptr && i < rows; ++i) {
            mask = batch_.is_locked(k + i) ? hn::Or(mask, hn::Ne(row_lanes_[i], hn::Zero(D()))) : mask;
        }
        return mask;
    }

    HWY_INLINE V update_sums(index_t first) const {
        float* const sums = batch_.arrays.sums + first;
        const V sum =
            hn::MulAdd(one_minus_decay_, hn::LoadU(D(), batch_.sums + first), hn::Mul(decay_, hn::LoadU(D(), sums)));
        hn::StoreU(sum, D(), sums);
        return sum;
    }

    const ema_batch<float> batch_;
    const packed_matrix<Width> complement_;  ///< I - M
    const V decay_;
    const V one_minus_decay_;
    V row_lanes_[rows];  ///< 1 in the lanes of row i, else 0
};

/// Returns how many codes it updated: all but the last few, which do not fill a vector.
template <index_t Width>
index_t update_packed_codes(const ema_batch<float>& batch, const small_d_projection<float>& p, index_t begin,
                            index_t end) {
    const ema_packed_codes<Width> codes(batch, p);
    index_t k = begin;
    for (; k + codes.rows <= end; k += codes.rows) {
        codes.update(k);
    }
    return k - begin;
}

#endif

/// Updates codes of any width in blocks.
template <class T>
class ema_codes {
public:
    HWY_INLINE ema_codes(const ema_batch<T>& batch, const packed_basis_view<T>& basis, index_t end, T* space)
        : batch_(batch),
          basis_(basis),
          end_(end),
          last_vector_(batch.order == nullptr ? 0 : batch.starts[end] - 1),
          vectors_ahead_(rows_in<T>(3072, batch.arrays.width)),
          space_(space) {}

    HWY_INLINE void update(index_t start, index_t stop) const {
        T* steps[max_block_rows];
        T* codes[max_block_rows];
        index_t count = 0;
        for (index_t k = start; k < stop; ++k) {
            T* const x = batch_sum(k, k - start);
            const T code_count = update_count(batch_, k);
            if (code_count < count_floor<T>) {
                flush_to_zero(batch_, k);
            }
            update_sum(k, code_count, x);
            if (code_count >= count_floor<T> && !batch_.is_locked(k)) {
                steps[count] = x;
                codes[count++] = batch_.arrays.codes + k * batch_.arrays.stride;
            }
        }
        project_out(basis_, row_pointers<T>{steps, nullptr, count});
        for (index_t i = 0; i < count; ++i) {
            add_row(steps[i], codes[i], batch_.arrays.width);
        }
    }

private:
    using D = hn::ScalableTag<T>;

    /// The sum of the vectors of code k, row `row` of its block.
    HWY_INLINE T* batch_sum(index_t k, index_t row) const {
        const ema_arrays<T>& a = batch_.arrays;
        if (batch_.order == nullptr) {
            return batch_.sums + k * a.width;
        }
        const index_t next = std::min(k + 1, end_ - 1);
        prefetch_row(a.sums + next * a.sums_stride, a.width);
        prefetch_row(a.codes + next * a.stride, a.width);
        T* const sum = space_ + row * a.width;
        std::fill(sum, sum + a.width, T(0));
        for (index_t i = batch_.starts[k]; i < batch_.starts[k + 1]; ++i) {
            prefetch_row(a.vectors + batch_.order[std::min(i + vectors_ahead_, last_vector_)] * a.vectors_stride,
                         a.width);
            add_row(a.vectors + batch_.order[i] * a.vectors_stride, sum, a.width);
        }
        return sum;
    }

    /// Updates the sum of code k. x: its batch sum, then its step, sum / count - code.
    HWY_INLINE void update_sum(index_t k, T count, T* x) const {
        const D d;
        const ema_arrays<T>& a = batch_.arrays;
        const auto decay = hn::Set(d, batch_.decay);
        const auto one_minus_decay = hn::Set(d, T(1) - batch_.decay);
        T* const sums = a.sums + k * a.sums_stride;
        const T* const code = a.codes + k * a.stride;
        for (index_t i = 0; i < a.width; i += lanes<D>) {
            const index_t left = a.width - i;
            const auto old = load_some(d, sums + i, left);
            const auto sum = hn::MulAdd(one_minus_decay, load_some(d, x + i, left), hn::Mul(decay, old));
            store_some(d, sum, sums + i, left);
            store_some(d, hn::Sub(hn::Div(sum, hn::Set(d, count)), load_some(d, code + i, left)), x + i, left);
        }
    }

    const ema_batch<T> batch_;
    const packed_basis_view<T> basis_;
    const index_t end_;          ///< of the codes of this thread
    const index_t last_vector_;  ///< of these codes, an index into `order`
    const index_t vectors_ahead_;
    T* const space_;  ///< batch sums of a block where vectors are sorted [block x d]
};

/// Updates the codes [begin, end). space: scratch memory for a block.
template <class T>
void update_codes(const ema_batch<T>& batch, const packed_basis_view<T>& basis,
                  [[maybe_unused]] const small_d_projection<T>& p, index_t begin, index_t end, T* space) {
    const ema_arrays<T>& a = batch.arrays;
    if (batch.order == nullptr && a.stride == a.width && a.sums_stride == a.width) {
        begin += with_packed_rows<T>(a.width,
                                     [&](auto width) { return update_packed_codes<width()>(batch, p, begin, end); });
    }
    const ema_codes<T> codes(batch, basis, end, space);
    for (index_t start = begin; start < end; start += batch.block) {
        codes.update(start, std::min(start + batch.block, end));
    }
}

}  // namespace isic::inline ISIC_ABI::detail::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif

#if HWY_ONCE && !defined(ISIC_DETAIL_KERNELS_EMA_INL_DISPATCH)
#define ISIC_DETAIL_KERNELS_EMA_INL_DISPATCH

namespace isic::inline ISIC_ABI::detail::kernels {

template <class T, class Id>
using scatter_add_function = void(const ema_batch<T>&, const Id*, index_t, index_t);
inline constexpr versions<scatter_add_function<float, std::int32_t>> scatter_add_f32_i32 = ISIC_VERSIONS(scatter_add);
inline constexpr versions<scatter_add_function<float, std::int64_t>> scatter_add_f32_i64 = ISIC_VERSIONS(scatter_add);
inline constexpr versions<scatter_add_function<double, std::int32_t>> scatter_add_f64_i32 = ISIC_VERSIONS(scatter_add);
inline constexpr versions<scatter_add_function<double, std::int64_t>> scatter_add_f64_i64 = ISIC_VERSIONS(scatter_add);

template <class T, class Id>
inline constexpr const auto& scatter_add_versions() {
    if constexpr (sizeof(T) == sizeof(float)) {
        if constexpr (sizeof(Id) == 4) {
            return scatter_add_f32_i32;
        } else {
            return scatter_add_f32_i64;
        }
    } else if constexpr (sizeof(Id) == 4) {
        return scatter_add_f64_i32;
    } else {
        return scatter_add_f64_i64;
    }
}

template <class T>
inline constexpr versions<void(const ema_batch<T>&, const packed_basis_view<T>&, const small_d_projection<T>&, index_t,
                               index_t, T*)>
    update_codes_versions = ISIC_VERSIONS(update_codes<T>);

/// Counting sort of the vectors by code. Returns the start of each code's vectors [K + 1]; writes
/// `space.order` [n] only if `order`.
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
    for (index_t i = 0; i < n; ++i) {  // starts[k + 1] advances from the start of code k to its end
        space.order[static_cast<std::size_t>(starts[static_cast<index_t>(ids[i]) + 1]++)] = i;
    }
    return starts;
}

template <class T, class Id>
void ema(const ema_arrays<T>& arrays, const Id* ids, const ema_step<T>& step, ema_workspace<T>& space,
         const execution& exec) {
    constexpr double cache = 1 << 20;  // bytes
    const index_t count = arrays.count;
    const index_t n = arrays.vector_count;
    const index_t d = arrays.width;
    const double values = static_cast<double>(count) * static_cast<double>(d);
    const bool scatters = values * sizeof(T) <= cache || count < n / 4;
    const index_t* const starts = sort_by_code(ids, n, count, !scatters, space);
    const double bytes = (4 * values + static_cast<double>(n) * static_cast<double>(d)) * sizeof(T);
    const row_ranges ranges(count, threads_for(exec, bytes, 4 * values * static_cast<double>(step.rank)));
    const index_t block = std::clamp<index_t>(2048 / (d * static_cast<index_t>(sizeof(T))), 2, max_block_rows);
    space.rows.resize(static_cast<std::size_t>(block * d * ranges.count()));
    if (scatters) {
        space.sums.resize(static_cast<std::size_t>(count * d));
    }
    const ema_batch<T> batch{.arrays = arrays,
                             .decay = step.decay,
                             .locked = step.locked,
                             .starts = starts,
                             .order = scatters ? nullptr : space.order.data(),
                             .sums = space.sums.data(),
                             .block = block};
    const packed_basis<T> basis(step.basis, step.rank, d, nullptr, nullptr, exec);
    const small_d_projection<T> small =
        d <= small_d ? small_d_projection_of(projection<T>{.basis = step.basis, .rank = step.rank}, d)
                     : small_d_projection<T>();
    const auto add_vectors = choose(scatter_add_versions<T, Id>(), exec.simd);
    const auto update = choose(update_codes_versions<T>, exec.simd);
    for_each_range(ranges, [&](index_t i, index_t begin, index_t end) {
        if (scatters) {
            add_vectors(batch, ids, begin, end);
        }
        update(batch, basis.view(), small, begin, end, space.rows.data() + i * block * d);
    });
}

}  // namespace isic::inline ISIC_ABI::detail::kernels

#endif
