// Adam under a projection. A row stays in L1 from its gradient to its new value; narrow rows stay in registers.
#ifndef ISIC_DETAIL_KERNELS_ADAM_INL_ONCE
#define ISIC_DETAIL_KERNELS_ADAM_INL_ONCE

#include <algorithm>
#include <cmath>
#include <limits>

#include <isic/detail/kernels/kernels.hpp>
#include <isic/detail/kernels/parallel.hpp>
#include <isic/detail/kernels/rows.hpp>
#include <isic/detail/kernels/targets.hpp>

namespace isic::inline ISIC_ABI::detail::kernels {

/// The arrays of a step.
template <class T>
struct adam_rows {
    T* codes;
    index_t stride;
    const T* gradient;
    index_t gradient_stride;
    T* mean;
    T* square;
    index_t state_stride;
    index_t width;
};

}  // namespace isic::inline ISIC_ABI::detail::kernels

#endif

// Compiled once per instruction set.
#if defined(ISIC_DETAIL_KERNELS_ADAM_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef ISIC_DETAIL_KERNELS_ADAM_INL
#undef ISIC_DETAIL_KERNELS_ADAM_INL
#else
#define ISIC_DETAIL_KERNELS_ADAM_INL
#endif

#include <isic/detail/kernels/row_tiles-inl.hpp>

HWY_BEFORE_NAMESPACE();
namespace isic::inline ISIC_ABI::detail::kernels::HWY_NAMESPACE {

/// The arithmetic of one vector. A step is `scale` times m / (sqrt(v) + epsilon), both factors with the biases in them.
template <class D, class T = hn::TFromD<D>>
struct moments {
    using V = hn::Vec<D>;

    HWY_INLINE moments(D tag, const adam_step<T>& step)
        : d(tag),
          beta1(hn::Set(d, step.beta1)),
          one_minus_beta1(hn::Set(d, T(1) - step.beta1)),
          beta2(hn::Set(d, step.beta2)),
          one_minus_beta2(hn::Set(d, T(1) - step.beta2)),
          epsilon(hn::Set(d, step.epsilon * std::sqrt(step.bias_correction2))),
          scale(-step.rate / step.bias_correction1 * std::sqrt(step.bias_correction2)) {}

    /// New moments, and m / (sqrt(v) + epsilon); NaN where v is infinite, see `settle`.
    HWY_INLINE V next(V g, V& m, V& v) const {
        m = forget(hn::MulAdd(one_minus_beta1, g, hn::Mul(beta1, m)));
        v = forget(hn::MulAdd(hn::Mul(one_minus_beta2, g), g, hn::Mul(beta2, v)));
#if HWY_TARGET == HWY_AVX3
        // From an estimate of 14 bits and a Newton step, to 2 units in the last place: the processor divides meanwhile, but
        // has no time for a root too.
        if constexpr (sizeof(T) == sizeof(float)) {
            const V large = hn::Max(v, hn::Set(d, 1e-36F));
            const V estimate = hn::ApproximateReciprocalSqrt(large);
            const V root = hn::Mul(large, estimate);
            const V rest = hn::NegMulAdd(root, hn::Mul(estimate, hn::Set(d, 0.5F)), hn::Set(d, 0.5F));
            return hn::Div(m, hn::Add(hn::MulAdd(root, rest, root), epsilon));
        }
#endif
        return hn::Div(m, hn::Add(hn::Sqrt(v), epsilon));
    }

    /// Zero where v is infinite, else the step.
    HWY_INLINE V settle(V step, V v) const {
        return hn::IfThenZeroElse(hn::Eq(v, hn::Set(d, std::numeric_limits<T>::infinity())), step);
    }

    D d;
    V beta1;
    V one_minus_beta1;
    V beta2;
    V one_minus_beta2;
    V epsilon;
    T scale;

private:
    /// Zero in place of what would soon be denormal: rounded off beside a number that no larger one notices.
    HWY_INLINE V forget(V x) const {
        const V beside = hn::Set(d, sizeof(T) == sizeof(float) ? T(0x1.8p-75) : T(0x1.8p-910));
        return hn::Sub(hn::Add(x, beside), beside);
    }
};

/// Narrow rows in registers; Width 0: known when it runs.
template <index_t Width, class T>
void adam_narrow(const adam_rows<T>& a, const adam_step<T>& step, const narrow_projection<T>& p, index_t begin,
                 index_t end) {
    const hn::CappedTag<T, narrow> d;
    using V = hn::Vec<decltype(d)>;
    constexpr index_t n = lanes<decltype(d)>;
    constexpr index_t parts = narrow / n;
    const moments<decltype(d)> moment(d, step);
    const adam_rows<T> at = a;  // a copy that stores cannot change
    const std::uint8_t* const locked = step.locked;
    const index_t width = Width == 0 ? at.width : Width;
    const bool free = step.rank == 0;
    V matrix[narrow][parts];
    for (index_t j = 0; j < narrow; ++j) {
        for (index_t i = 0; i < parts; ++i) {
            matrix[j][i] = hn::LoadU(d, p.matrix[j] + i * n);
        }
    }
    // x less x times the matrix; x_j come from memory to all lanes. Two sums, so that the second does not wait.
    const auto take_out = [&](const T* from, V(&x)[parts]) HWY_ATTR {
        V odd[parts];
        for (index_t i = 0; i < parts; ++i) {
            odd[i] = hn::Zero(d);
        }
        HWY_UNROLL(8)
        for (index_t j = 0; j < width; ++j) {
            const V all = hn::Set(d, from[j]);
            HWY_UNROLL(8)
            for (index_t i = 0; i < parts; ++i) {
                V& sum = j % 2 == 0 ? x[i] : odd[i];
                sum = hn::NegMulAdd(all, matrix[j][i], sum);
            }
        }
        for (index_t i = 0; i < parts; ++i) {
            x[i] = hn::Add(x[i], odd[i]);
        }
    };
    for (index_t k = begin; k < end; ++k) {
        if (locked != nullptr && locked[k] != 0) {
            continue;
        }
        const T* const gradient = at.gradient + k * at.gradient_stride;
        T* const mean = at.mean + k * at.state_stride;
        T* const square = at.square + k * at.state_stride;
        T* const code = at.codes + k * at.stride;
        // All loads come before the first store: the arrays may lie at the same place of their pages, which the
        // processor takes for a conflict.
        V x[parts];
        V m[parts];
        V v[parts];
        V old[parts];
        for (index_t i = 0; i < parts; ++i) {
            const index_t left = width - i * n;
            x[i] = load_some(d, gradient + i * n, left);
            m[i] = load_some(d, mean + i * n, left);
            v[i] = load_some(d, square + i * n, left);
            old[i] = in_register(load_some(d, code + i * n, left));
        }
        if (!free) {
            take_out(gradient, x);
        }
        T steps[narrow];
        for (index_t i = 0; i < parts; ++i) {
            x[i] = moment.settle(moment.next(x[i], m[i], v[i]), v[i]);
            store_some(d, m[i], mean + i * n, width - i * n);
            store_some(d, v[i], square + i * n, width - i * n);
            hn::StoreU(x[i], d, steps + i * n);
        }
        if (!free) {
            take_out(steps, x);
        }
        for (index_t i = 0; i < parts; ++i) {
            store_some(d, hn::MulAdd(hn::Set(d, moment.scale), x[i], old[i]), code + i * n, width - i * n);
        }
    }
}

#if HWY_TARGET != HWY_SCALAR

/// Rows of 4 or 8 floats without gaps, several in a vector. Returns how many rows it did.
template <index_t Width>
index_t adam_packed(const adam_rows<float>& a, const adam_step<float>& step, const narrow_projection<float>& p,
                    index_t begin, index_t end) {
    const hn::ScalableTag<float> d;
    using V = hn::Vec<decltype(d)>;
    constexpr index_t n = lanes<decltype(d)>;
    constexpr index_t rows = n / Width;
    const moments<decltype(d)> moment(d, step);
    const packed_matrix<Width> less(0.0F, -1.0F, p.matrix);
    const packed_matrix<Width> scaled(moment.scale, -moment.scale, p.matrix);
    const adam_rows<float> at = a;  // a copy that stores cannot change
    const auto is_free = [&](index_t k) {
        return step.locked == nullptr || std::all_of(step.locked + k, step.locked + k + rows, [](auto x) { return x == 0; });
    };
    // A block of vectors in three sweeps: one alone would have the processor wait for a row's chain of operations, of which
    // it cannot look far enough ahead to begin many.
    constexpr index_t block = 16;
    V x[block];
    index_t k = begin;
    while (k + rows <= end) {
        index_t count = 0;
        for (; count < block && k + (count + 1) * rows <= end && is_free(k + count * rows); ++count) {
            const index_t first = k * Width + count * n;
            const index_t later = first + 16 * n;  // a prefetch past the end does nothing
            hwy::Prefetch(at.gradient + later);
            hwy::Prefetch(at.mean + later);
            hwy::Prefetch(at.square + later);
            hwy::Prefetch(at.codes + later);
            const V g = hn::LoadU(d, at.gradient + first);
            x[count] = less.plus(g, g);
        }
        V all = hn::Zero(d);  // not finite if any square is not
        for (index_t i = 0; i < count; ++i) {
            const index_t first = k * Width + i * n;
            V m = hn::LoadU(d, at.mean + first);
            V v = hn::LoadU(d, at.square + first);
            x[i] = moment.next(x[i], m, v);
            all = hn::Add(all, v);
            hn::StoreU(m, d, at.mean + first);
            hn::StoreU(v, d, at.square + first);
        }
        if (!hn::AllTrue(d, hn::Lt(all, hn::Set(d, std::numeric_limits<float>::infinity())))) {
            for (index_t i = 0; i < count; ++i) {
                x[i] = moment.settle(x[i], hn::LoadU(d, at.square + k * Width + i * n));
            }
        }
        for (index_t i = 0; i < count; ++i) {
            const index_t first = k * Width + i * n;
            hn::StoreU(hn::Add(hn::LoadU(d, at.codes + first), scaled.times(x[i])), d, at.codes + first);
        }
        k += count * rows;
        if (count < block && k + rows <= end) {
            adam_narrow<Width>(a, step, p, k, k + rows);
            k += rows;
        }
    }
    return k - begin;
}

#endif

template <class T>
void adam_narrow(const adam_rows<T>& a, const adam_step<T>& step, const narrow_projection<T>& p, index_t begin,
                 index_t end) {
    if (a.stride == a.width && a.gradient_stride == a.width && a.state_stride == a.width) {
        begin += with_packed_rows<T>(a.width, [&](auto width) { return adam_packed<width()>(a, step, p, begin, end); });
    }
    switch (a.width) {
        case 4: return adam_narrow<4>(a, step, p, begin, end);
        case 8: return adam_narrow<8>(a, step, p, begin, end);
        default: return adam_narrow<0>(a, step, p, begin, end);
    }
}

/// Wide rows in blocks, each step for all rows of one, so that the processor works on several. block: even. x: memory for a
/// block, rows `room` values apart.
template <class T>
void adam_wide(const adam_rows<T>& a, const adam_step<T>& step, const directions<T>& forbidden, index_t begin,
               index_t end, index_t block, index_t room, T* x) {
    const hn::ScalableTag<T> d;
    using V = hn::Vec<decltype(d)>;
    constexpr index_t n = lanes<decltype(d)>;
    const moments<decltype(d)> moment(d, step);
    const adam_rows<T> at = a;  // a copy that stores cannot change
    T* steps[max_block_rows];
    for (index_t i = 0; i < block; ++i) {
        steps[i] = x + i * room;
    }
    for (index_t start = begin; start < end; start += block) {
        index_t rows[max_block_rows];
        index_t count = 0;
        for (index_t k = start; k < std::min(start + block, end); ++k) {
            if (step.locked == nullptr || step.locked[k] == 0) {
                rows[count++] = k;
            }
        }
        const index_t more = start + 2 * block <= end ? block : 0;  // rows, to what is brought into the cache meanwhile
        for (index_t i = 0; i < count; ++i) {
            const T* const gradient = at.gradient + rows[i] * at.gradient_stride;
            for (index_t k = 0; k < at.width; k += n) {
                hwy::Prefetch(gradient + more * at.gradient_stride + k);
                store_some(d, load_some(d, gradient + k, at.width - k), x + i * room + k, at.width - k);
            }
        }
        take_out(forbidden, row_block<T>{steps, nullptr, count});
        for (index_t i = 0; i < count; ++i) {
            T* const mean = at.mean + rows[i] * at.state_stride;
            T* const square = at.square + rows[i] * at.state_stride;
            for (index_t k = 0; k < at.width; k += n) {
                hwy::Prefetch(mean + more * at.state_stride + k);
                hwy::Prefetch(square + more * at.state_stride + k);
                const index_t left = at.width - k;
                V m = load_some(d, mean + k, left);
                V v = load_some(d, square + k, left);
                const V s = moment.settle(moment.next(load_some(d, x + i * room + k, left), m, v), v);
                store_some(d, m, mean + k, left);
                store_some(d, v, square + k, left);
                store_some(d, s, x + i * room + k, left);
            }
        }
        take_out(forbidden, row_block<T>{steps, nullptr, count});
        for (index_t i = 0; i < count; ++i) {
            T* const code = at.codes + rows[i] * at.stride;
            for (index_t k = 0; k < at.width; k += n) {
                hwy::Prefetch(code + more * at.stride + k);
                const index_t left = at.width - k;
                const V by = load_some(d, x + i * room + k, left);
                store_some(d, hn::MulAdd(hn::Set(d, moment.scale), by, load_some(d, code + k, left)), code + k, left);
            }
        }
    }
}

}  // namespace isic::inline ISIC_ABI::detail::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif

#if HWY_ONCE && !defined(ISIC_DETAIL_KERNELS_ADAM_INL_DISPATCH)
#define ISIC_DETAIL_KERNELS_ADAM_INL_DISPATCH

namespace isic::inline ISIC_ABI::detail::kernels {

template <class T>
inline constexpr versions<void(const adam_rows<T>&, const adam_step<T>&, const narrow_projection<T>&, index_t, index_t)>
    adam_narrow_versions = ISIC_VERSIONS(adam_narrow<T>);
template <class T>
inline constexpr versions<void(const adam_rows<T>&, const adam_step<T>&, const directions<T>&, index_t, index_t, index_t, index_t, T*)>
    adam_wide_versions = ISIC_VERSIONS(adam_wide<T>);

template <class T>
void adam(T* codes, index_t stride, const T* gradient, index_t gradient_stride, T* mean, T* square,
          index_t state_stride, index_t count, index_t d, const adam_step<T>& step, const execution& exec) {
    const adam_rows<T> rows{codes, stride, gradient, gradient_stride, mean, square, state_stride, d};
    const double values = static_cast<double>(count) * static_cast<double>(d);
    const row_ranges ranges(count,
                            threads_for(exec, 7 * values * sizeof(T), values * static_cast<double>(20 + 8 * step.rank)));
    if (d <= narrow) {
        const auto run = choose(adam_narrow_versions<T>, exec.simd);
        const narrow_projection<T> form = narrow_form(projection<T>{.basis = step.basis, .rank = step.rank}, d);
        for_each_range(ranges, [&](index_t, index_t begin, index_t end) { run(rows, step, form, begin, end); });
        return;
    }
    const auto run = choose(adam_wide_versions<T>, exec.simd);
    const packed_directions<T> forbidden(step.basis, step.rank, d, nullptr, nullptr, exec);
    const index_t room = (d + 15) / 16 * 16;
    const index_t block = std::clamp<index_t>(2048 / (d * static_cast<index_t>(sizeof(T))) / 2 * 2, 2, max_block_rows);
    detail::buffer<T> x(static_cast<std::size_t>(block * room * ranges.count()), exec.scratch);
    for_each_range(ranges, [&](index_t i, index_t begin, index_t end) {
        run(rows, step, forbidden.view(), begin, end, block, room, x.data() + i * block * room);
    });
}

}  // namespace isic::inline ISIC_ABI::detail::kernels

#endif
