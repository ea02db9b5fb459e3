// SPDX-License-Identifier: Apache-2.0
// Adam under a projection. A row stays in L1 from its gradient to its new value; rows with d <= 8 stay in registers.
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

/// Scratch memory of a thread for one block of rows.
template <class T>
struct adam_block_scratch {
    T* steps;        ///< [rows x stride]
    index_t rows;    ///< rows per block; even, at most `max_block_rows`
    index_t stride;  ///< values from one row to the next
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

#include <isic/detail/kernels/packed_rows-inl.hpp>
#include <isic/detail/kernels/row_tiles-inl.hpp>

HWY_BEFORE_NAMESPACE();
namespace isic::inline ISIC_ABI::detail::kernels::HWY_NAMESPACE {

/// Adam's formula for one vector. A step is `scale` times m / (sqrt(v) + epsilon); scale and epsilon include the bias
/// corrections.
template <class D, class T = hn::TFromD<D>>
struct adam_formula {
    using V = hn::Vec<D>;

    HWY_INLINE adam_formula(D tag, const adam_step<T>& step)
        : d(tag),
          beta1(hn::Set(d, step.beta1)),
          one_minus_beta1(hn::Set(d, T(1) - step.beta1)),
          beta2(hn::Set(d, step.beta2)),
          one_minus_beta2(hn::Set(d, T(1) - step.beta2)),
          epsilon(hn::Set(d, step.epsilon * std::sqrt(step.bias_correction2))),
          scale(-step.rate / step.bias_correction1 * std::sqrt(step.bias_correction2)) {}

    /// Updates m and v and returns m / (sqrt(v) + epsilon), which is NaN where v is infinite: see `zero_if_infinite`.
    HWY_INLINE V update_moments(V g, V& m, V& v) const {
        m = flush_to_zero(hn::MulAdd(one_minus_beta1, g, hn::Mul(beta1, m)));
        v = flush_to_zero(hn::MulAdd(hn::Mul(one_minus_beta2, g), g, hn::Mul(beta2, v)));
        return hn::Div(m, hn::Add(square_root(v), epsilon));
    }

    /// The step, zero where v is infinite.
    HWY_INLINE V zero_if_infinite(V step, V v) const {
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
    HWY_INLINE V square_root(V v) const {
#if ISIC_TARGET_HAS_AVX512
        // A Newton step from an estimate of 14 bits, exact to 2 units in the last place. The divider is busy with the division.
        if constexpr (sizeof(T) == sizeof(float)) {
            const V large = hn::Max(v, hn::Set(d, 1e-36F));
            const V estimate = hn::ApproximateReciprocalSqrt(large);
            const V root = hn::Mul(large, estimate);
            const V residual = hn::NegMulAdd(root, hn::Mul(estimate, hn::Set(d, 0.5F)), hn::Set(d, 0.5F));
            return hn::MulAdd(root, residual, root);
        }
#endif
        return hn::Sqrt(v);
    }

    /// Flushes x to zero before it becomes denormal: adding and subtracting `floor` rounds it off. Larger values keep their bits.
    HWY_INLINE V flush_to_zero(V x) const {
        const V floor = hn::Set(d, sizeof(T) == sizeof(float) ? T(0x1.8p-75) : T(0x1.8p-910));
        return hn::Sub(hn::Add(x, floor), floor);
    }
};

/// Adam for rows with d <= 8, one row at a time in registers. Width 0: d is known at run time only.
template <index_t Width, class T>
class adam_small_d_rows {
public:
    HWY_INLINE adam_small_d_rows(const adam_arrays<T>& arrays, const adam_step<T>& step, const small_d_projection<T>& p)
        : arrays_(arrays), projects_(step.rank > 0), formula_(D(), step) {
        for (index_t j = 0; j < small_d; ++j) {
            for (index_t i = 0; i < parts; ++i) {
                matrix_[j][i] = hn::LoadU(D(), p.matrix[j] + i * n);
            }
        }
    }

    HWY_INLINE void update(index_t k) const {
        row c = load(k);
        if (projects_) {
            project_out(arrays_.gradient + k * arrays_.gradient_stride, c.x);
        }
        T steps[small_d];
        update_moments(k, c, steps);
        if (projects_) {
            project_out(steps, c.x);
        }
        add_step(k, c);
    }

private:
    using D = hn::CappedTag<T, small_d>;
    using V = hn::Vec<D>;
    static constexpr index_t n = lanes<D>;
    static constexpr index_t parts = small_d / n;

    HWY_INLINE index_t width() const { return Width == 0 ? arrays_.width : Width; }

    /// A row in registers. x: the gradient, then the step.
    struct row {
        // NOLINTNEXTLINE(modernize-use-equals-default): a default one would lack the target's attributes
        HWY_INLINE row() {}

        V x[parts];
        V mean[parts];
        V square[parts];
        V code[parts];
    };

    /// Loads everything before the first store: the arrays may have equal page offsets, which delays a load after a store.
    HWY_INLINE row load(index_t k) const {
        row out;
        for (index_t i = 0; i < parts; ++i) {
            const index_t left = width() - i * n;
            out.x[i] = load_some(D(), arrays_.gradient + k * arrays_.gradient_stride + i * n, left);
            out.mean[i] = load_some(D(), arrays_.mean + k * arrays_.state_stride + i * n, left);
            out.square[i] = load_some(D(), arrays_.square + k * arrays_.state_stride + i * n, left);
            out.code[i] = in_register(load_some(D(), arrays_.codes + k * arrays_.stride + i * n, left));
        }
        return out;
    }

    /// x <- x - x M, each x_j broadcast from memory. Even and odd j are independent chains.
    HWY_INLINE void project_out(const T* from, V (&x)[parts]) const {
        V odd[parts];
        for (index_t i = 0; i < parts; ++i) {
            odd[i] = hn::Zero(D());
        }
        HWY_UNROLL(8)
        for (index_t j = 0; j < (Width == 0 ? small_d : Width); ++j) {
            if (Width == 0 && j == arrays_.width) {
                break;
            }
            const V x_j = hn::Set(D(), from[j]);
            HWY_UNROLL(8)
            for (index_t i = 0; i < parts; ++i) {
                V& sum = j % 2 == 0 ? x[i] : odd[i];
                sum = hn::NegMulAdd(x_j, matrix_[j][i], sum);
            }
        }
        for (index_t i = 0; i < parts; ++i) {
            x[i] = hn::Add(x[i], odd[i]);
        }
    }

    /// Stores the new moments, and the step in `steps` too.
    HWY_INLINE void update_moments(index_t k, row& c, T (&steps)[small_d]) const {
        for (index_t i = 0; i < parts; ++i) {
            const index_t left = width() - i * n;
            c.x[i] = formula_.zero_if_infinite(formula_.update_moments(c.x[i], c.mean[i], c.square[i]), c.square[i]);
            store_some(D(), c.mean[i], arrays_.mean + k * arrays_.state_stride + i * n, left);
            store_some(D(), c.square[i], arrays_.square + k * arrays_.state_stride + i * n, left);
            hn::StoreU(c.x[i], D(), steps + i * n);
        }
    }

    HWY_INLINE void add_step(index_t k, const row& c) const {
        for (index_t i = 0; i < parts; ++i) {
            const V moved = hn::MulAdd(hn::Set(D(), formula_.scale), c.x[i], c.code[i]);
            store_some(D(), moved, arrays_.codes + k * arrays_.stride + i * n, width() - i * n);
        }
    }

    const adam_arrays<T> arrays_;
    const bool projects_;
    const adam_formula<D> formula_;
    V matrix_[small_d][parts];
};

template <index_t Width, class T>
void adam_small_d(const adam_arrays<T>& arrays, const adam_step<T>& step, const small_d_projection<T>& p, index_t begin,
                  index_t end) {
    const adam_small_d_rows<Width, T> rows(arrays, step, p);
    const std::uint8_t* const locked = step.locked;
    for (index_t k = begin; k < end; ++k) {
        if (locked == nullptr || locked[k] == 0) {
            rows.update(k);
        }
    }
}

#if HWY_TARGET != HWY_SCALAR

/// Adam for contiguous rows of 4 or 8 floats, several in a vector, in blocks of vectors. Each block takes three sweeps: a single
/// one would wait for the chain of operations of each row, too long for out-of-order execution to overlap many.
template <index_t Width>
class adam_packed_rows {
public:
    HWY_INLINE adam_packed_rows(const adam_arrays<float>& arrays, const adam_step<float>& step,
                                const small_d_projection<float>& p)
        : arrays_(arrays),
          locked_(step.locked),
          formula_(D(), step),
          negated_(0.0F, -1.0F, p.matrix),
          scaled_(formula_.scale, -formula_.scale, p.matrix) {}

    /// Updates the rows from k on up to the first vector with a locked row, at most one block of them. Returns how many.
    HWY_INLINE index_t update_block(index_t k, index_t end) const {
        V x[block];
        const index_t count = load_gradients(k, end, x);
        update_moments(k, count, x);
        add_steps(k, count, x);
        return count * rows;
    }

    static constexpr index_t rows = rows_per_vector<Width>;
    static constexpr index_t block = 16;  ///< vectors

private:
    using D = hn::ScalableTag<float>;
    using V = hn::Vec<D>;
    static constexpr index_t n = lanes<D>;

    HWY_INLINE bool any_locked(index_t k) const {
        return locked_ != nullptr && !std::all_of(locked_ + k, locked_ + k + rows, [](auto x) { return x == 0; });
    }

    /// x: projected gradients. Returns the number of vectors.
    HWY_INLINE index_t load_gradients(index_t k, index_t end, V (&x)[block]) const {
        index_t count = 0;
        for (; count < block && k + (count + 1) * rows <= end && !any_locked(k + count * rows); ++count) {
            const index_t first = k * Width + count * n;
            const index_t later = first + block * n;  // a prefetch past the end does nothing
            hwy::Prefetch(arrays_.gradient + later);
            hwy::Prefetch(arrays_.mean + later);
            hwy::Prefetch(arrays_.square + later);
            hwy::Prefetch(arrays_.codes + later);
            const V g = hn::LoadU(D(), arrays_.gradient + first);
            x[count] = negated_.plus(g, g);
        }
        return count;
    }

    /// x: gradients, then steps.
    HWY_INLINE void update_moments(index_t k, index_t count, V (&x)[block]) const {
        V sum = hn::Zero(D());  // not finite if any square is not
        for (index_t i = 0; i < count; ++i) {
            const index_t first = k * Width + i * n;
            V m = hn::LoadU(D(), arrays_.mean + first);
            V v = hn::LoadU(D(), arrays_.square + first);
            x[i] = formula_.update_moments(x[i], m, v);
            sum = hn::Add(sum, v);
            hn::StoreU(m, D(), arrays_.mean + first);
            hn::StoreU(v, D(), arrays_.square + first);
        }
        if (!hn::AllTrue(D(), hn::Lt(sum, hn::Set(D(), std::numeric_limits<float>::infinity())))) {
            for (index_t i = 0; i < count; ++i) {
                x[i] = formula_.zero_if_infinite(x[i], hn::LoadU(D(), arrays_.square + k * Width + i * n));
            }
        }
    }

    HWY_INLINE void add_steps(index_t k, index_t count, const V (&x)[block]) const {
        for (index_t i = 0; i < count; ++i) {
            float* const codes = arrays_.codes + k * Width + i * n;
            hn::StoreU(hn::Add(hn::LoadU(D(), codes), scaled_.times(x[i])), D(), codes);
        }
    }

    const adam_arrays<float> arrays_;
    const std::uint8_t* const locked_;
    const adam_formula<D> formula_;
    const packed_matrix<Width> negated_;  ///< -M
    const packed_matrix<Width> scaled_;   ///< scale (I - M)
};

/// Returns how many rows it processed: all but the last few, which do not fill a vector.
template <index_t Width>
index_t adam_packed(const adam_arrays<float>& arrays, const adam_step<float>& step, const small_d_projection<float>& p,
                    index_t begin, index_t end) {
    using rows_of_width = adam_packed_rows<Width>;
    const rows_of_width packed(arrays, step, p);
    index_t k = begin;
    while (k + rows_of_width::rows <= end) {
        const index_t updated = packed.update_block(k, end);
        k += updated;
        if (updated < rows_of_width::block * rows_of_width::rows && k + rows_of_width::rows <= end) {  // a locked row
            adam_small_d<Width>(arrays, step, p, k, k + rows_of_width::rows);
            k += rows_of_width::rows;
        }
    }
    return k - begin;
}

#endif

template <class T>
void adam_small_d(const adam_arrays<T>& arrays, const adam_step<T>& step, const small_d_projection<T>& p, index_t begin,
                  index_t end) {
    if (arrays.stride == arrays.width && arrays.gradient_stride == arrays.width &&
        arrays.state_stride == arrays.width) {
        begin += with_packed_rows<T>(arrays.width,
                                     [&](auto width) { return adam_packed<width()>(arrays, step, p, begin, end); });
    }
    switch (arrays.width) {
        case 4: return adam_small_d<4>(arrays, step, p, begin, end);
        case 8: return adam_small_d<8>(arrays, step, p, begin, end);
        default: return adam_small_d<0>(arrays, step, p, begin, end);
    }
}

/// Adam for rows with d > 8, one sweep after the other over all rows of a block, so that the work of several rows overlaps.
template <class T>
class adam_large_d_block {
public:
    HWY_INLINE adam_large_d_block(const adam_arrays<T>& arrays, const adam_step<T>& step,
                                  const packed_basis_view<T>& basis, const adam_block_scratch<T>& scratch)
        : arrays_(arrays), locked_(step.locked), basis_(basis), formula_(D(), step) {
        for (index_t i = 0; i < scratch.rows; ++i) {
            steps_[i] = scratch.steps + i * scratch.stride;
        }
    }

    /// Updates the unlocked rows of [start, stop). rows_ahead: distance to the rows that are prefetched meanwhile.
    HWY_INLINE void update(index_t start, index_t stop, index_t rows_ahead) {
        count_ = 0;
        for (index_t k = start; k < stop; ++k) {
            if (locked_ == nullptr || locked_[k] == 0) {
                rows_[count_++] = k;
            }
        }
        load_gradients(rows_ahead);
        project_out(basis_, row_pointers<T>{steps_, nullptr, count_});
        update_moments(rows_ahead);
        project_out(basis_, row_pointers<T>{steps_, nullptr, count_});
        add_steps(rows_ahead);
    }

private:
    using D = hn::ScalableTag<T>;
    using V = hn::Vec<D>;
    static constexpr index_t n = lanes<D>;

    // Members are copied to locals: a store could change a member, and the compiler would load it again.
    HWY_INLINE void load_gradients(index_t rows_ahead) const {
        const adam_arrays<T> at = arrays_;
        for (index_t i = 0; i < count_; ++i) {
            const T* const gradient = at.gradient + rows_[i] * at.gradient_stride;
            T* const to = steps_[i];
            for (index_t k = 0; k < at.width; k += n) {
                hwy::Prefetch(gradient + rows_ahead * at.gradient_stride + k);
                const index_t left = at.width - k;
                store_some(D(), load_some(D(), gradient + k, left), to + k, left);
            }
        }
    }

    HWY_INLINE void update_moments(index_t rows_ahead) const {
        const adam_arrays<T> at = arrays_;
        const adam_formula<D> formula = formula_;
        for (index_t i = 0; i < count_; ++i) {
            T* const mean = at.mean + rows_[i] * at.state_stride;
            T* const square = at.square + rows_[i] * at.state_stride;
            T* const row = steps_[i];
            for (index_t k = 0; k < at.width; k += n) {
                hwy::Prefetch(mean + rows_ahead * at.state_stride + k);
                hwy::Prefetch(square + rows_ahead * at.state_stride + k);
                const index_t left = at.width - k;
                V m = load_some(D(), mean + k, left);
                V v = load_some(D(), square + k, left);
                const V g = load_some(D(), row + k, left);
                const V step = formula.zero_if_infinite(formula.update_moments(g, m, v), v);
                store_some(D(), m, mean + k, left);
                store_some(D(), v, square + k, left);
                store_some(D(), step, row + k, left);
            }
        }
    }

    HWY_INLINE void add_steps(index_t rows_ahead) const {
        const adam_arrays<T> at = arrays_;
        const V scale = hn::Set(D(), formula_.scale);
        for (index_t i = 0; i < count_; ++i) {
            T* const code = at.codes + rows_[i] * at.stride;
            const T* const step = steps_[i];
            for (index_t k = 0; k < at.width; k += n) {
                hwy::Prefetch(code + rows_ahead * at.stride + k);
                const index_t left = at.width - k;
                store_some(D(), hn::MulAdd(scale, load_some(D(), step + k, left), load_some(D(), code + k, left)),
                           code + k, left);
            }
        }
    }

    const adam_arrays<T> arrays_;
    const std::uint8_t* const locked_;
    const packed_basis_view<T> basis_;
    const adam_formula<D> formula_;
    index_t rows_[max_block_rows];  ///< the unlocked rows of the block
    index_t count_ = 0;             ///< their number
    T* steps_[max_block_rows];      ///< their gradients, then their steps
};

template <class T>
void adam_large_d(const adam_arrays<T>& arrays, const adam_step<T>& step, const packed_basis_view<T>& basis,
                  index_t begin, index_t end, const adam_block_scratch<T>& scratch) {
    adam_large_d_block<T> block(arrays, step, basis, scratch);
    for (index_t start = begin; start < end; start += scratch.rows) {
        const index_t rows_ahead = start + 2 * scratch.rows <= end ? scratch.rows : 0;
        block.update(start, std::min(start + scratch.rows, end), rows_ahead);
    }
}

}  // namespace isic::inline ISIC_ABI::detail::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif

#if HWY_ONCE && !defined(ISIC_DETAIL_KERNELS_ADAM_INL_DISPATCH)
#define ISIC_DETAIL_KERNELS_ADAM_INL_DISPATCH

namespace isic::inline ISIC_ABI::detail::kernels {

template <class T>
inline constexpr versions<void(const adam_arrays<T>&, const adam_step<T>&, const small_d_projection<T>&, index_t,
                               index_t)>
    adam_small_d_versions = ISIC_VERSIONS(adam_small_d<T>);
template <class T>
inline constexpr versions<void(const adam_arrays<T>&, const adam_step<T>&, const packed_basis_view<T>&, index_t,
                               index_t, const adam_block_scratch<T>&)>
    adam_large_d_versions = ISIC_VERSIONS(adam_large_d<T>);

template <class T>
void adam(const adam_arrays<T>& arrays, const adam_step<T>& step, const execution& exec) {
    const index_t d = arrays.width;
    const double values = static_cast<double>(arrays.count) * static_cast<double>(d);
    const row_ranges ranges(
        arrays.count, threads_for(exec, 7 * values * sizeof(T), values * static_cast<double>(20 + 8 * step.rank)));
    if (d <= small_d) {
        const auto run = choose(adam_small_d_versions<T>, exec.simd);
        const small_d_projection<T> small =
            small_d_projection_of(projection<T>{.basis = step.basis, .rank = step.rank}, d);
        for_each_range(ranges, [&](index_t, index_t begin, index_t end) { run(arrays, step, small, begin, end); });
        return;
    }
    const auto run = choose(adam_large_d_versions<T>, exec.simd);
    const packed_basis<T> basis(step.basis, step.rank, d, nullptr, nullptr, exec);
    const index_t stride = (d + 15) / 16 * 16;
    const index_t rows = std::clamp<index_t>(2048 / (d * static_cast<index_t>(sizeof(T))) / 2 * 2, 2, max_block_rows);
    detail::buffer<T> steps(static_cast<std::size_t>(rows * stride * ranges.count()), exec.scratch);
    for_each_range(ranges, [&](index_t i, index_t begin, index_t end) {
        run(arrays, step, basis.view(), begin, end, {steps.data() + i * rows * stride, rows, stride});
    });
}

}  // namespace isic::inline ISIC_ABI::detail::kernels

#endif
