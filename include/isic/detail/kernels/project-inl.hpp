// SPDX-License-Identifier: Apache-2.0
// Projection of rows. Rows with d <= 8 are multiplied by the d x d matrix V W V^T, which stays in registers; wider rows pass a
// software pipeline, in which some rows are updated while the products of later ones with the basis are summed.
#ifndef ISIC_DETAIL_KERNELS_PROJECT_INL_ONCE
#define ISIC_DETAIL_KERNELS_PROJECT_INL_ONCE

#include <algorithm>
#include <cstdint>

#include <isic/detail/kernels/kernels.hpp>
#include <isic/detail/kernels/parallel.hpp>
#include <isic/detail/kernels/rows.hpp>
#include <isic/detail/kernels/targets.hpp>

#endif

// Compiled once per instruction set.
#if defined(ISIC_DETAIL_KERNELS_PROJECT_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef ISIC_DETAIL_KERNELS_PROJECT_INL
#undef ISIC_DETAIL_KERNELS_PROJECT_INL
#else
#define ISIC_DETAIL_KERNELS_PROJECT_INL
#endif

#include <isic/detail/kernels/aligned_rows-inl.hpp>
#include <isic/detail/kernels/packed_rows-inl.hpp>
#include <isic/detail/kernels/row_tiles-inl.hpp>

HWY_BEFORE_NAMESPACE();
namespace isic::inline ISIC_ABI::detail::kernels::HWY_NAMESPACE {

/// Projects rows of `Width` values one by one: each c_j, broadcast from memory, times row j of the matrix.
template <index_t Width, class T>
void project_small_d(const small_d_projection<T>& p, const row_batch<T>& c, index_t begin, index_t end) {
    const hn::CappedTag<T, small_d> d;
    using V = hn::Vec<decltype(d)>;
    constexpr index_t n = lanes<decltype(d)>;
    constexpr index_t parts = (Width + n - 1) / n;
    V matrix[Width][parts];
    V projected_center[parts];
    for (index_t part = 0; part < parts; ++part) {
        projected_center[part] = hn::LoadU(d, p.projected_center + part * n);
        for (index_t j = 0; j < Width; ++j) {
            matrix[j][part] = hn::LoadU(d, p.matrix[j] + part * n);
        }
    }
    for (index_t i = begin; i < end; ++i) {
        const T strength = c.strength_of(i);
        if (strength == 0) {
            continue;
        }
        T* const row = c.row(i);
        V step[parts];
        for (index_t part = 0; part < parts; ++part) {
            step[part] = projected_center[part];
        }
        HWY_UNROLL(8)
        for (index_t j = 0; j < Width; ++j) {
            const V x = hn::Set(d, row[j]);
            HWY_UNROLL(8)
            for (index_t part = 0; part < parts; ++part) {
                step[part] = hn::NegMulAdd(x, matrix[j][part], step[part]);
            }
        }
        HWY_UNROLL(8)
        for (index_t part = 0; part < parts; ++part) {
            const V old = load_some(d, row + part * n, Width - part * n);
            store_some(d, hn::MulAdd(hn::Set(d, strength), step[part], old), row + part * n, Width - part * n);
        }
    }
}

#if HWY_TARGET != HWY_SCALAR

using float_vector = hn::Vec<hn::ScalableTag<float>>;

/// Step of two vectors of rows, before `direction` and the strength scale it.
struct step_pair {
    float_vector x;
    float_vector y;
};

/// Step along a single basis vector of 8 values: w (t . v - c . v) v, of which w v is `direction`.
struct rank_one_step {
    float_vector direction;  ///< w v
    float_vector basis;      ///< v
    float_vector center_product;

    HWY_INLINE explicit rank_one_step(const small_d_projection<float>& p)
        : direction(vector_of_lanes([&](index_t lane) { return p.weight * p.direction[lane % 8]; })),
          basis(repeated_row<8>(p.direction)),
          center_product(hn::Set(hn::ScalableTag<float>(), p.center_product)) {}

    HWY_INLINE step_pair operator()(float_vector x, float_vector y) const {
        const hn::ScalableTag<float> d;
        float_vector sum = add_interleaved(d, hn::Mul(x, basis), hn::Mul(y, basis));  // even lanes: x, odd lanes: y
        sum = hn::Add(sum, hn::Shuffle1032(sum));
        sum = hn::Add(sum, hn::SwapAdjacentBlocks(sum));
        const float_vector difference = hn::Sub(center_product, sum);
        return {hn::DupEven(difference), hn::DupOdd(difference)};
    }
};

/// Step by the matrix M: t M - c M.
template <index_t Width>
struct matrix_step {
    float_vector direction;  ///< 1
    packed_matrix<Width> negated;
    float_vector projected_center;

    HWY_INLINE explicit matrix_step(const small_d_projection<float>& p)
        : direction(hn::Set(hn::ScalableTag<float>(), 1.0F)),
          negated(0.0F, -1.0F, p.matrix),
          projected_center(repeated_row<Width>(p.projected_center)) {}

    HWY_INLINE step_pair operator()(float_vector x, float_vector y) const {
        return {negated.plus(projected_center, x), negated.plus(projected_center, y)};
    }
};

/// c + s step for rows of one strength.
struct uniform_strength {
    float_vector factor;

    HWY_INLINE uniform_strength(const row_batch<float>& c, float_vector direction)
        : factor(hn::Mul(hn::Set(hn::ScalableTag<float>(), c.uniform), direction)) {}

    HWY_INLINE float_vector apply(index_t, float_vector c, float_vector step) const {
        return hn::MulAdd(factor, step, c);
    }
};

/// c + s_i step; rows of strength 0 keep their bytes.
template <index_t Width>
struct strength_per_row {
    const float* strength;
    float_vector direction;
    decltype(hn::SetTableIndices(hn::ScalableTag<float>(), static_cast<const std::int32_t*>(nullptr))) row_of_lane;

    HWY_INLINE strength_per_row(const row_batch<float>& c, float_vector step_direction)
        : strength(c.strength), direction(step_direction), row_of_lane(lane_table()) {}

    HWY_INLINE float_vector apply(index_t i, float_vector c, float_vector step) const {
        const hn::ScalableTag<float> d;
        const float_vector s = hn::TableLookupLanes(load_some(d, strength + i, rows_per_vector<Width>), row_of_lane);
        return hn::IfThenElse(hn::Eq(s, hn::Zero(d)), c, hn::MulAdd(hn::Mul(s, direction), step, c));
    }

private:
    static HWY_INLINE auto lane_table() {
        const hn::ScalableTag<float> d;
        std::int32_t row[lanes<decltype(d)>];
        for (index_t lane = 0; lane < lanes<decltype(d)>; ++lane) {
            row[lane] = static_cast<std::int32_t>(lane / Width);
        }
        return hn::SetTableIndices(d, row);
    }
};

/// Projects contiguous rows of `Width` floats, two vectors of rows at once. Returns how many rows it processed.
template <index_t Width, class Step, class Strength>
HWY_INLINE index_t project_row_vectors(const Step& step, const Strength& strength, const row_batch<float>& c,
                                       index_t begin, index_t end) {
    const hn::ScalableTag<float> d;
    constexpr index_t rows = rows_per_vector<Width>;
    index_t i = begin;
    for (; i + 2 * rows <= end; i += 2 * rows) {
        float* const first = c.data + i * Width;
        float* const second = first + lanes<decltype(d)>;
        const float_vector x = hn::LoadU(d, first);
        const float_vector y = hn::LoadU(d, second);
        const step_pair steps = step(x, y);
        hn::StoreU(strength.apply(i, x, steps.x), d, first);
        hn::StoreU(strength.apply(i + rows, y, steps.y), d, second);
    }
    return i - begin;
}

template <index_t Width, class Step>
HWY_INLINE index_t project_row_vectors(const Step& step, const row_batch<float>& c, index_t begin, index_t end) {
    if (c.strength == nullptr) {
        return project_row_vectors<Width>(step, uniform_strength(c, step.direction), c, begin, end);
    }
    return project_row_vectors<Width>(step, strength_per_row<Width>(c, step.direction), c, begin, end);
}

/// Projects contiguous rows of 4 or 8 floats, several in a vector. Returns how many rows it processed.
template <index_t Width>
index_t project_packed_rows(const small_d_projection<float>& p, const row_batch<float>& c, index_t begin, index_t end) {
    if constexpr (Width == 8) {
        if (p.rank_one) {
            return project_row_vectors<Width>(rank_one_step(p), c, begin, end);
        }
    }
    return project_row_vectors<Width>(matrix_step<Width>(p), c, begin, end);
}

#endif

template <class T>
void project_small_d(const small_d_projection<T>& p, const row_batch<T>& c, index_t begin, index_t end) {
    if (c.stride == c.width && (c.strength != nullptr || c.uniform != 0)) {
        begin +=
            with_packed_rows<T>(c.width, [&](auto width) { return project_packed_rows<width()>(p, c, begin, end); });
    }
    switch (c.width) {
        case 1: return project_small_d<1>(p, c, begin, end);
        case 2: return project_small_d<2>(p, c, begin, end);
        case 3: return project_small_d<3>(p, c, begin, end);
        case 4: return project_small_d<4>(p, c, begin, end);
        case 5: return project_small_d<5>(p, c, begin, end);
        case 6: return project_small_d<6>(p, c, begin, end);
        case 7: return project_small_d<7>(p, c, begin, end);
        default: return project_small_d<8>(p, c, begin, end);
    }
}

inline constexpr index_t project_block_rows = 64;             ///< largest number of rows per block
inline constexpr index_t streaming_bytes = index_t{1} << 24;  ///< rows of this size do not fit the cache

/// The alignment offset of rows for which `aligned_rows` is faster: vectors are whole cache lines, and the rows do not begin a
/// line or come from memory. -1: `row_tiles` is faster.
template <class T>
index_t alignment_offset_of(const row_batch<T>& c, index_t count, index_t rank) {
    constexpr index_t n = lanes<hn::ScalableTag<T>>;
    constexpr std::size_t line = 64;
    const std::size_t bytes_into_line = reinterpret_cast<std::uintptr_t>(c.data) % line;
    const bool supported = n * sizeof(T) == line && bytes_into_line % sizeof(T) == 0 && c.stride == c.width &&
                           c.width % (2 * n) == 0 && c.width >= 8 * n && c.strength == nullptr && c.uniform != 0;
    const bool from_memory = count * c.width * static_cast<index_t>(sizeof(T)) >= streaming_bytes;
    const bool faster = rank <= 8 && (from_memory || bytes_into_line > 0);
    return supported && faster ? static_cast<index_t>(bytes_into_line / sizeof(T)) : -1;
}

template <std::size_t R, class T>
HWY_NOINLINE void project_aligned_rows(const packed_basis_view<T>& basis, const row_batch<T>& c, index_t begin,
                                       index_t end) {
    const bool from_memory = (end - begin) * basis.width * static_cast<index_t>(sizeof(T)) >= streaming_bytes;
    aligned_rows<R, T>(basis, c, begin, end).project_out(from_memory);
}

template <class T>
void project_aligned_rows(const packed_basis_view<T>& basis, const row_batch<T>& c, index_t begin, index_t end) {
    with_basis_tile(basis, 0, [&](auto width) HWY_ATTR { project_aligned_rows<width()>(basis, c, begin, end); });
}

template <std::size_t R, class T>
HWY_NOINLINE void project_row_tiles(const packed_basis_view<T>& basis, index_t first, const row_pointers<T>& rows) {
    row_tiles<R, T>(basis, first, rows).project_out();
}

/// Projects rows block by block. A block stays in the cache while one tile of the basis after the other is projected out.
template <class T>
void project_large_d(const packed_basis_view<T>& basis, const row_batch<T>& c, index_t begin, index_t end) {
    const index_t cached_rows = (index_t{1} << 18) / (c.width * static_cast<index_t>(sizeof(T)));
    const index_t block =
        basis.rank <= 8 ? project_block_rows : std::clamp<index_t>(cached_rows, 8, project_block_rows);
    const index_t rows_ahead = basis.rank <= 8 ? 4 : block;
    T* rows[project_block_rows];
    T strength[project_block_rows];
    for (index_t start = begin; start < end; start += block) {
        index_t count = 0;
        for (index_t i = start; i < std::min(start + block, end); ++i) {
            if (c.strength_of(i) != 0) {
                rows[count] = c.row(i);
                strength[count++] = c.strength_of(i);
            }
        }
        const row_pointers<T> all{rows, strength, count, start + block + rows_ahead <= end ? rows_ahead * c.stride : 0};
        for (index_t first = 0; first < basis.rank; first += 8) {
            with_basis_tile(basis, first, [&](auto width) HWY_ATTR { project_row_tiles<width()>(basis, first, all); });
        }
    }
}

}  // namespace isic::inline ISIC_ABI::detail::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif

#if HWY_ONCE && !defined(ISIC_DETAIL_KERNELS_PROJECT_INL_DISPATCH)
#define ISIC_DETAIL_KERNELS_PROJECT_INL_DISPATCH

namespace isic::inline ISIC_ABI::detail::kernels {

template <class T>
inline constexpr versions<void(const small_d_projection<T>&, const row_batch<T>&, index_t, index_t)>
    project_small_d_versions = ISIC_VERSIONS(project_small_d<T>);
template <class T>
inline constexpr versions<void(const packed_basis_view<T>&, const row_batch<T>&, index_t, index_t)>
    project_large_d_versions = ISIC_VERSIONS(project_large_d<T>);
template <class T>
inline constexpr versions<void(const packed_basis_view<T>&, const row_batch<T>&, index_t, index_t)>
    project_aligned_versions = ISIC_VERSIONS(project_aligned_rows<T>);
template <class T>
inline constexpr versions<index_t(const row_batch<T>&, index_t, index_t)> alignment_offset_versions =
    ISIC_VERSIONS(alignment_offset_of<T>);

template <class T>
void project(T* rows, index_t n, index_t d, index_t stride, const projection<T>& p, const execution& exec) {
    if (n == 0 || p.rank == 0) {
        return;
    }
    const row_batch<T> c{rows, d, stride, p.strength, p.uniform};
    const double values = static_cast<double>(n) * static_cast<double>(d);
    const row_ranges ranges(n, threads_for(exec, 2 * values * sizeof(T), 4 * values * static_cast<double>(p.rank)));
    if (d <= small_d) {
        const auto run = choose(project_small_d_versions<T>, exec.simd);
        const small_d_projection<T> small = small_d_projection_of(p, d);
        for_each_range(ranges, [&](index_t, index_t begin, index_t end) { run(small, c, begin, end); });
        return;
    }
    const index_t alignment_offset = choose(alignment_offset_versions<T>, exec.simd)(c, n, p.rank);
    const bool aligned = alignment_offset >= 0;
    const auto run = choose(aligned ? project_aligned_versions<T> : project_large_d_versions<T>, exec.simd);
    const packed_basis<T> basis(p.basis, p.rank, d, p.center, p.weights, exec, aligned ? alignment_offset : 0);
    for_each_range(ranges, [&](index_t, index_t begin, index_t end) { run(basis.view(), c, begin, end); });
}

}  // namespace isic::inline ISIC_ABI::detail::kernels

#endif
