// Rows less a subspace. The narrow ones (d <= 8) multiply by the d x d matrix, whose rows stay in registers; of the others
// some are moved while the products of later ones with the subspace are summed.
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
#include <isic/detail/kernels/row_tiles-inl.hpp>

HWY_BEFORE_NAMESPACE();
namespace isic::inline ISIC_ABI::detail::kernels::HWY_NAMESPACE {

/// Narrow rows one by one: c_j from memory to all lanes times row j of the matrix.
template <index_t Width, class T>
void project_narrow(const narrow_projection<T>& p, const strong_rows<T>& c, index_t begin, index_t end) {
    const hn::CappedTag<T, narrow> d;
    using V = hn::Vec<decltype(d)>;
    constexpr index_t n = lanes<decltype(d)>;
    constexpr index_t parts = (Width + n - 1) / n;
    V matrix[Width][parts];
    V target[parts];
    for (index_t part = 0; part < parts; ++part) {
        target[part] = hn::LoadU(d, p.target + part * n);
        for (index_t j = 0; j < Width; ++j) {
            matrix[j][part] = hn::LoadU(d, p.matrix[j] + part * n);
        }
    }
    for (index_t i = begin; i < end; ++i) {
        const T strength = c.at(i);
        if (strength == 0) {
            continue;
        }
        T* const row = c.row(i);
        V step[parts];
        for (index_t part = 0; part < parts; ++part) {
            step[part] = target[part];
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

/// Rows of 4 or 8 floats without gaps, several in a vector, two vectors at once. Returns how many rows it did.
template <index_t Width>
index_t project_packed(const narrow_projection<float>& p, const strong_rows<float>& c, index_t begin, index_t end) {
    const hn::ScalableTag<float> d;
    using V = hn::Vec<decltype(d)>;
    struct two {
        V x;
        V y;
    };
    constexpr index_t n = lanes<decltype(d)>;
    constexpr index_t rows = n / Width;

    // Two vectors of rows move by step(x, y) times `direction` and their strength; move(i, x, step) moves the rows from i on.
    const auto sweep = [&](auto step, auto move) HWY_ATTR {
        index_t i = begin;
        for (; i + 2 * rows <= end; i += 2 * rows) {
            const V x = hn::LoadU(d, c.data + i * Width);
            const V y = hn::LoadU(d, c.data + i * Width + n);
            const two steps = step(x, y);
            move(i, x, steps.x);
            move(i + rows, y, steps.y);
        }
        return i - begin;
    };
    const auto by_strength = [&](V direction, auto step) HWY_ATTR {
        if (c.strength == nullptr) {
            const V factor = hn::Mul(hn::Set(d, c.uniform), direction);
            return sweep(step, [&](index_t i, V x, V by) HWY_ATTR {
                hn::StoreU(hn::MulAdd(factor, by, x), d, c.data + i * Width);
            });
        }
        std::int32_t row_of_lane[n];
        for (index_t lane = 0; lane < n; ++lane) {
            row_of_lane[lane] = static_cast<std::int32_t>(lane / Width);
        }
        const auto spread = hn::SetTableIndices(d, row_of_lane);
        return sweep(step, [&](index_t i, V x, V by) HWY_ATTR {
            const V strength = hn::TableLookupLanes(load_some(d, c.strength + i, rows), spread);
            const V moved = hn::MulAdd(hn::Mul(strength, direction), by, x);
            hn::StoreU(hn::IfThenElse(hn::Eq(strength, hn::Zero(d)), x, moved), d, c.data + i * Width);
        });
    };

    if (p.single && Width == 8) {
        const V direction = tile_lanes([&](index_t lane) { return p.weight * p.direction[lane % Width]; });
        const V along = tile_lanes([&](index_t lane) { return p.direction[lane % Width]; });
        const V offset = hn::Set(d, p.offset);
        return by_strength(direction, [&](V x, V y) HWY_ATTR {
            const V a = hn::Mul(x, along);
            const V b = hn::Mul(y, along);
            V sum = hn::Add(hn::InterleaveLower(d, a, b), hn::InterleaveUpper(d, a, b));  // of x in the even lanes
            sum = hn::Add(sum, hn::Shuffle1032(sum));
            sum = hn::Add(sum, hn::SwapAdjacentBlocks(sum));
            const V rest = hn::Sub(offset, sum);
            return two{hn::DupEven(rest), hn::DupOdd(rest)};
        });
    }
    const packed_matrix<Width> less(0.0F, -1.0F, p.matrix);
    const V target = tile_lanes([&](index_t lane) { return p.target[lane % Width]; });
    return by_strength(hn::Set(d, 1.0F),
                       [&](V x, V y) HWY_ATTR { return two{less.plus(target, x), less.plus(target, y)}; });
}

#endif

template <class T>
void project_narrow(const narrow_projection<T>& p, const strong_rows<T>& c, index_t begin, index_t end) {
    if (c.stride == c.width && (c.strength != nullptr || c.uniform != 0)) {
        begin += with_packed_rows<T>(c.width, [&](auto width) { return project_packed<width()>(p, c, begin, end); });
    }
    switch (c.width) {
        case 1: return project_narrow<1>(p, c, begin, end);
        case 2: return project_narrow<2>(p, c, begin, end);
        case 3: return project_narrow<3>(p, c, begin, end);
        case 4: return project_narrow<4>(p, c, begin, end);
        case 5: return project_narrow<5>(p, c, begin, end);
        case 6: return project_narrow<6>(p, c, begin, end);
        case 7: return project_narrow<7>(p, c, begin, end);
        default: return project_narrow<8>(p, c, begin, end);
    }
}

inline constexpr index_t project_block_rows = 64;
inline constexpr index_t many_bytes = index_t{1} << 24;  ///< of rows that come from memory

/// Values from the cache line in which rows begin to them, if they are best taken line by line: where a vector is a line,
/// and rows do not begin with one or come from memory. -1 otherwise.
template <class T>
index_t lead_of(const strong_rows<T>& c, index_t count, index_t rank) {
    constexpr index_t n = lanes<hn::ScalableTag<T>>;
    constexpr std::size_t line = 64;
    const std::size_t place = reinterpret_cast<std::uintptr_t>(c.data) % line;
    const bool can = n * sizeof(T) == line && place % sizeof(T) == 0 && c.stride == c.width && c.width % (2 * n) == 0 &&
                     c.width >= 8 * n && c.strength == nullptr && c.uniform != 0;
    const bool from_memory = count * c.width * static_cast<index_t>(sizeof(T)) >= many_bytes;
    const bool pays = rank <= 8 && (from_memory || place > 0);
    return can && pays ? static_cast<index_t>(place / sizeof(T)) : -1;
}

template <std::size_t R, class T>
HWY_NOINLINE void take_out_of_lines(const directions<T>& v, const strong_rows<T>& c, index_t begin, index_t end) {
    lines_of_rows<R, T>(v, c, begin, end).run((end - begin) * v.width * static_cast<index_t>(sizeof(T)) >= many_bytes);
}

template <class T>
void project_by_lines(const directions<T>& v, const strong_rows<T>& c, index_t begin, index_t end) {
    with_together(v, 0, [&](auto together) HWY_ATTR { take_out_of_lines<together()>(v, c, begin, end); });
}

template <std::size_t R, class T>
HWY_NOINLINE void take_out_of_block(const directions<T>& v, index_t first, const row_block<T>& rows) {
    block_of_rows<R, T>(v, first, rows).run();
}

/// Wide rows in blocks, which stay in the cache while eight directions after the other are taken out.
template <class T>
void project_wide(const directions<T>& v, const strong_rows<T>& c, index_t begin, index_t end) {
    const index_t fit = (index_t{1} << 18) / (c.width * static_cast<index_t>(sizeof(T)));
    const index_t block = v.rank <= 8 ? project_block_rows : std::clamp<index_t>(fit, 8, project_block_rows);
    T* rows[project_block_rows];
    T strength[project_block_rows];
    for (index_t start = begin; start < end; start += block) {
        index_t count = 0;
        for (index_t i = start; i < std::min(start + block, end); ++i) {
            if (c.at(i) != 0) {
                rows[count] = c.row(i);
                strength[count++] = c.at(i);
            }
        }
        const index_t next = v.rank <= 8 ? 4 : block;
        const row_block<T> some{rows, strength, count, start + block + next <= end ? next * c.stride : 0};
        for (index_t first = 0; first < v.rank; first += 8) {
            with_together(v, first, [&](auto together) HWY_ATTR { take_out_of_block<together()>(v, first, some); });
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
inline constexpr versions<void(const narrow_projection<T>&, const strong_rows<T>&, index_t, index_t)> project_narrow_versions =
    ISIC_VERSIONS(project_narrow<T>);
template <class T>
inline constexpr versions<void(const directions<T>&, const strong_rows<T>&, index_t, index_t)> project_wide_versions =
    ISIC_VERSIONS(project_wide<T>);
template <class T>
inline constexpr versions<void(const directions<T>&, const strong_rows<T>&, index_t, index_t)> by_lines_versions =
    ISIC_VERSIONS(project_by_lines<T>);
template <class T>
inline constexpr versions<index_t(const strong_rows<T>&, index_t, index_t)> lead_versions = ISIC_VERSIONS(lead_of<T>);

template <class T>
void project(T* rows, index_t n, index_t d, index_t stride, const projection<T>& p, const execution& exec) {
    if (n == 0 || p.rank == 0) {
        return;
    }
    const strong_rows<T> c{rows, d, stride, p.strength, p.uniform};
    const double values = static_cast<double>(n) * static_cast<double>(d);
    const row_ranges ranges(n, threads_for(exec, 2 * values * sizeof(T), 4 * values * static_cast<double>(p.rank)));
    if (d <= narrow) {
        const auto run = choose(project_narrow_versions<T>, exec.simd);
        const narrow_projection<T> form = narrow_form(p, d);
        for_each_range(ranges, [&](index_t, index_t begin, index_t end) { run(form, c, begin, end); });
        return;
    }
    const index_t lead = choose(lead_versions<T>, exec.simd)(c, n, p.rank);
    const auto run = choose(lead < 0 ? project_wide_versions<T> : by_lines_versions<T>, exec.simd);
    const packed_directions<T> v(p.basis, p.rank, d, p.center, p.weights, exec, lead < 0 ? 0 : lead);
    for_each_range(ranges, [&](index_t, index_t begin, index_t end) { run(v.view(), c, begin, end); });
}

}  // namespace isic::inline ISIC_ABI::detail::kernels

#endif
