// SPDX-License-Identifier: Apache-2.0
// Gram matrices D^T D in float64. A block of rows is packed as float64 panels of columns, which stay in the cache; then each
// tile of the upper triangle sums its products over the block in registers.
#ifndef ISIC_DETAIL_KERNELS_GRAM_INL_ONCE
#define ISIC_DETAIL_KERNELS_GRAM_INL_ONCE

#include <isic/detail/kernels/kernels.hpp>
#include <isic/detail/kernels/parallel.hpp>
#include <isic/detail/kernels/rows.hpp>
#include <isic/detail/kernels/targets.hpp>

namespace isic::inline ISIC_ABI::detail::kernels {

inline constexpr index_t gram_block = 96;  ///< rows per block

/// Rows D = data, or D = data - subtrahend.
template <class T>
struct gram_rows {
    const T* data;
    index_t stride;
    const T* subtrahend;  ///< null: zero
    index_t subtrahend_stride;
    index_t width;
};

}  // namespace isic::inline ISIC_ABI::detail::kernels

#endif

// Compiled once per instruction set.
#if defined(ISIC_DETAIL_KERNELS_GRAM_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef ISIC_DETAIL_KERNELS_GRAM_INL
#undef ISIC_DETAIL_KERNELS_GRAM_INL
#else
#define ISIC_DETAIL_KERNELS_GRAM_INL
#endif

#include <isic/detail/kernels/vector_ops-inl.hpp>

HWY_BEFORE_NAMESPACE();
namespace isic::inline ISIC_ABI::detail::kernels::HWY_NAMESPACE {

using f64_tag = hn::ScalableTag<double>;
using f64_vector = hn::Vec<f64_tag>;
inline constexpr index_t f64_lanes = lanes<f64_tag>;

/// The first `count` lanes of a row, or of the difference of two rows, in float64.
template <bool Difference, class T>
HWY_INLINE f64_vector load_f64(const T* from, const T* subtrahend, index_t count) {
    const f64_tag d;
    if constexpr (Difference) {
        return hn::Sub(load_f64<false>(from, from, count), load_f64<false>(subtrahend, subtrahend, count));
    } else if constexpr (sizeof(T) == sizeof(double)) {
        return load_some(d, from, count);
    } else {
        return hn::PromoteTo(d, load_some(hn::Rebind<float, f64_tag>(), from, count));
    }
}

/// Packs `count` of the `left` rows from `start` on as panels [gram_block][Vectors * lanes] of float64. Zeros fill up the last
/// panel.
template <index_t Vectors, bool Difference, class T>
void pack_block(const gram_rows<T>& rows, index_t start, index_t count, index_t left, double* panels) {
    const f64_tag d;
    constexpr index_t columns = Vectors * f64_lanes;
    const index_t width = rows.width;
    const index_t stride = rows.stride;
    const index_t subtrahend_stride = Difference ? rows.subtrahend_stride : 0;
    const T* from = rows.data + start * stride;
    const T* subtrahend = Difference ? rows.subtrahend + start * subtrahend_stride : from;
    for (index_t i = 0; i < count; ++i) {
        const index_t rows_ahead = i + gram_block < left ? gram_block : 0;  // prefetched while this block is multiplied
        double* to = panels + i * columns;
        index_t first = 0;
        for (; first + columns <= width; first += columns) {
            HWY_UNROLL(3)
            for (index_t v = 0; v < columns; v += f64_lanes) {
                hwy::Prefetch(from + rows_ahead * stride + first + v);
                if constexpr (Difference) {
                    hwy::Prefetch(subtrahend + rows_ahead * subtrahend_stride + first + v);
                }
                hn::StoreU(load_f64<Difference>(from + first + v, subtrahend + first + v, f64_lanes), d, to + v);
            }
            to += columns * gram_block;
        }
        for (index_t v = 0; first < width && v < columns; v += f64_lanes) {
            hn::StoreU(load_f64<Difference>(from + first + v, subtrahend + first + v, width - first - v), d, to + v);
        }
        from += stride;
        subtrahend += subtrahend_stride;
    }
}

/// Adds the column sums of packed rows to `sums` [width].
template <index_t Vectors>
void add_columns(const double* panels, index_t count, index_t width, double* sums) {
    const f64_tag d;
    constexpr index_t columns = Vectors * f64_lanes;
    for (index_t first = 0; first < width; first += columns) {
        for (index_t v = 0; v < Vectors; ++v) {
            const index_t at = first + v * f64_lanes;
            const double* from = panels + first * gram_block + v * f64_lanes;
            f64_vector even = hn::Zero(d);
            f64_vector odd = hn::Zero(d);
            index_t i = 0;
            for (; i + 2 <= count; i += 2) {
                even = hn::Add(even, hn::LoadU(d, from + i * columns));
                odd = hn::Add(odd, hn::LoadU(d, from + (i + 1) * columns));
            }
            if (i < count) {
                even = hn::Add(even, hn::LoadU(d, from + i * columns));
            }
            even = hn::Add(even, odd);
            store_some(d, hn::Add(load_some(d, sums + at, width - at), even), sums + at, width - at);
        }
    }
}

/// gram[i, j] += sum over the block of x_i x_j for one tile: the rows i in [top, top + lanes) and the columns j of the panel from
/// `left` on. The first `Below` vectors of the panel lie below the diagonal and are skipped, and so are single entries below
/// it. x_top: column `top` of the packed block.
template <index_t Vectors, index_t Below>
HWY_INLINE void add_tile(const double* x_top, const double* panel, index_t count, index_t top, index_t left,
                         index_t width, double* gram) {
    const f64_tag d;
    constexpr index_t columns = Vectors * f64_lanes;
    f64_vector sum[f64_lanes][Vectors];
    HWY_UNROLL(8)
    for (index_t i = 0; i < f64_lanes; ++i) {  // NOLINT(modernize-loop-convert): unrolled
        HWY_UNROLL(3)
        for (index_t v = Below; v < Vectors; ++v) {
            sum[i][v] = hn::Zero(d);
        }
    }
    for (index_t b = 0; b < count; ++b) {
        f64_vector x[Vectors];
        HWY_UNROLL(3)
        for (index_t v = Below; v < Vectors; ++v) {
            x[v] = in_register(hn::LoadU(d, panel + v * f64_lanes));
        }
        HWY_UNROLL(8)
        for (index_t i = 0; i < f64_lanes; ++i) {
            const f64_vector y = Vectors - Below == 1 ? hn::Set(d, x_top[i]) : in_register(hn::Set(d, x_top[i]));
            HWY_UNROLL(3)
            for (index_t v = Below; v < Vectors; ++v) {
                sum[i][v] = hn::MulAdd(y, x[v], sum[i][v]);
            }
        }
        x_top += columns;
        panel += columns;
    }
    const bool inside = left >= top + f64_lanes - 1 && left + columns <= width;
    HWY_UNROLL(8)
    for (index_t i = 0; i < f64_lanes; ++i) {
        double* const row = gram + (top + i) * width + left;
        HWY_UNROLL(3)
        for (index_t v = Below; v < Vectors; ++v) {
            if (inside) {
                hn::StoreU(hn::Add(hn::LoadU(d, row + v * f64_lanes), sum[i][v]), d, row + v * f64_lanes);
            } else {
                double part[f64_lanes];
                hn::StoreU(sum[i][v], d, part);
                for (index_t lane = 0; lane < f64_lanes; ++lane) {
                    const index_t j = left + v * f64_lanes + lane;
                    if (j >= top + i && j < width) {
                        gram[(top + i) * width + j] += part[lane];
                    }
                }
            }
        }
    }
}

/// Adds the products of the rows [begin, end). panels: scratch memory for a packed block.
template <index_t Vectors, class T>
void add_rows(const gram_rows<T>& rows, index_t begin, index_t end, double* panels, double* gram, double* sums) {
    constexpr index_t columns = Vectors * f64_lanes;
    for (index_t start = begin; start < end; start += gram_block) {
        const index_t count = end - start < gram_block ? end - start : gram_block;
        if (rows.subtrahend == nullptr) {
            pack_block<Vectors, false>(rows, start, count, end - start, panels);
        } else {
            pack_block<Vectors, true>(rows, start, count, end - start, panels);
        }
        if (sums != nullptr) {
            add_columns<Vectors>(panels, count, rows.width, sums);
        }
        for (index_t left = 0; left < rows.width; left += columns) {
            for (index_t top = 0; top < left + columns && top < rows.width; top += f64_lanes) {
                const double* const x_top = panels + top / columns * columns * gram_block + top % columns;
                const double* const panel = panels + left * gram_block;
                if (Vectors > 2 && top == left + 2 * f64_lanes) {
                    add_tile<Vectors, Vectors - 1>(x_top, panel, count, top, left, rows.width, gram);
                } else if (Vectors > 1 && top == left + f64_lanes) {
                    add_tile<Vectors, Vectors == 1 ? 0 : 1>(x_top, panel, count, top, left, rows.width, gram);
                } else {
                    add_tile<Vectors, 0>(x_top, panel, count, top, left, rows.width, gram);
                }
            }
        }
    }
}

#if HWY_TARGET != HWY_SCALAR

/// Sums of the products of all pairs of columns, for rows that fit one vector: a row times its rotations by 0, 1, ..., lanes / 2.
class rotated_products {
public:
    static constexpr index_t rotations = f64_lanes / 2 + 1;
    using rotation = decltype(hn::SetTableIndices(f64_tag(), static_cast<const std::int64_t*>(nullptr)));

    HWY_INLINE rotated_products() { clear(); }

    HWY_INLINE void clear() {
        for (index_t t = 0; t < rotations; ++t) {
            sum_[t] = hn::Zero(f64_tag());
        }
    }

    HWY_INLINE void add(f64_vector x, const rotation (&by)[rotations]) {
        sum_[0] = hn::MulAdd(x, x, sum_[0]);
        HWY_UNROLL(4)
        for (index_t t = 1; t < rotations; ++t) {
            sum_[t] = hn::MulAdd(x, hn::TableLookupLanes(x, by[t]), sum_[t]);
        }
    }

    HWY_INLINE void add(const rotated_products& other) {
        for (index_t t = 0; t < rotations; ++t) {
            sum_[t] = hn::Add(sum_[t], other.sum_[t]);
        }
    }

    /// Adds the sums to the upper triangle. The rotation by lanes / 2 holds every pair twice; one of each counts.
    void add_to(index_t width, double* gram) const {
        for (index_t t = 0; t < rotations; ++t) {
            double part[f64_lanes];
            hn::StoreU(sum_[t], f64_tag(), part);
            for (index_t i = 0; i < (t == f64_lanes / 2 ? t : f64_lanes); ++i) {
                const index_t j = (i + t) % f64_lanes;
                if (i < width && j < width) {
                    gram[(i < j ? i * width + j : j * width + i)] += part[i];
                }
            }
        }
    }

private:
    f64_vector sum_[rotations];
};

/// Adds the products of rows that fit one vector.
template <bool Difference, class T>
void add_rotated_rows(const gram_rows<T>& rows, index_t begin, index_t end, double* gram, double* sums) {
    const f64_tag d;
    rotated_products::rotation by[rotated_products::rotations];
    for (index_t t = 0; t < rotated_products::rotations; ++t) {
        std::int64_t lane_from[f64_lanes];
        for (index_t i = 0; i < f64_lanes; ++i) {
            lane_from[i] = (i + t) % f64_lanes;
        }
        by[t] = hn::SetTableIndices(d, lane_from);
    }
    const auto row = [&](index_t i) HWY_ATTR {
        const T* const subtrahend = Difference ? rows.subtrahend + i * rows.subtrahend_stride : nullptr;
        return load_f64<Difference>(rows.data + i * rows.stride, subtrahend, rows.width);
    };
    constexpr index_t rows_ahead = 256;  // a prefetch past the end does nothing
    rotated_products all;
    f64_vector sum = hn::Zero(d);
    for (index_t start = begin; start < end; start += gram_block) {  // sums per block first: smaller rounding errors
        const index_t stop = end - start < gram_block ? end : start + gram_block;
        rotated_products even;
        rotated_products odd;
        f64_vector even_sum = hn::Zero(d);
        f64_vector odd_sum = hn::Zero(d);
        index_t i = start;
        for (; i + 2 <= stop; i += 2) {
            hwy::Prefetch(rows.data + (i + rows_ahead) * rows.stride);
            if constexpr (Difference) {
                hwy::Prefetch(rows.subtrahend + (i + rows_ahead) * rows.subtrahend_stride);
            }
            const f64_vector x = row(i);
            const f64_vector y = row(i + 1);
            even.add(x, by);
            odd.add(y, by);
            even_sum = hn::Add(even_sum, x);
            odd_sum = hn::Add(odd_sum, y);
        }
        if (i < stop) {
            even.add(row(i), by);
            even_sum = hn::Add(even_sum, row(i));
        }
        even.add(odd);
        all.add(even);
        sum = hn::Add(sum, hn::Add(even_sum, odd_sum));
    }
    all.add_to(rows.width, gram);
    if (sums != nullptr) {
        store_some(d, hn::Add(load_some(d, sums, rows.width), sum), sums, rows.width);
    }
}

#endif

/// Chooses the panel width: narrow panels waste less where d is small.
template <class T>
void add_rows(const gram_rows<T>& rows, index_t begin, index_t end, double* panels, double* gram, double* sums) {
    if (rows.width <= f64_lanes) {
#if HWY_TARGET == HWY_SCALAR
        add_rows<1>(rows, begin, end, panels, gram, sums);
#else
        if (rows.subtrahend == nullptr) {
            add_rotated_rows<false>(rows, begin, end, gram, sums);
        } else {
            add_rotated_rows<true>(rows, begin, end, gram, sums);
        }
#endif
    } else if (rows.width <= 4 * f64_lanes) {
        add_rows<2>(rows, begin, end, panels, gram, sums);
    } else {
        add_rows<3>(rows, begin, end, panels, gram, sums);
    }
}

}  // namespace isic::inline ISIC_ABI::detail::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif

#if HWY_ONCE && !defined(ISIC_DETAIL_KERNELS_GRAM_INL_DISPATCH)
#define ISIC_DETAIL_KERNELS_GRAM_INL_DISPATCH

namespace isic::inline ISIC_ABI::detail::kernels {

template <class T>
inline constexpr versions<void(const gram_rows<T>&, index_t, index_t, double*, double*, double*)> add_rows_versions =
    ISIC_VERSIONS(add_rows<T>);

template <class T>
void add_rows_in_ranges(const gram_rows<T>& rows, index_t n, double* gram, double* sums, const execution& exec) {
    if (n == 0) {
        return;
    }
    const auto run = choose(add_rows_versions<T>, exec.simd);
    const index_t d = rows.width;
    const double values = static_cast<double>(n) * static_cast<double>(d);
    const row_ranges ranges(n, threads_for(exec, values * sizeof(T), values * static_cast<double>(d + 1)), gram_block);
    const auto panels = static_cast<std::size_t>((d + 24) * gram_block);  // the last panel may extend past column d
    const auto entries = static_cast<std::size_t>(d * d);
    const auto partial =
        ranges.count() == 1 ? 0 : entries + static_cast<std::size_t>(d);  // a thread's Gram matrix and sums
    const std::size_t per_thread = (panels + partial + 7) / 8 * 8;
    detail::buffer<double> scratch(per_thread * static_cast<std::size_t>(ranges.count()), 0.0, exec.scratch);
    const auto scratch_of = [&](index_t i) { return scratch.data() + per_thread * static_cast<std::size_t>(i); };
    for_each_range(ranges, [&](index_t i, index_t begin, index_t end) {
        double* const panel_scratch = scratch_of(i);
        double* const to = partial == 0 ? gram : panel_scratch + panels;
        double* const sums_to = sums == nullptr || partial == 0 ? sums : panel_scratch + panels + entries;
        run(rows, begin, end, panel_scratch, to, sums_to);
    });
    for (index_t i = 0; partial != 0 && i < ranges.count(); ++i) {
        const double* const from = scratch_of(i) + panels;
        for (index_t r = 0; r < d; ++r) {
            for (index_t c = r; c < d; ++c) {
                gram[r * d + c] += from[r * d + c];
            }
        }
        for (index_t c = 0; sums != nullptr && c < d; ++c) {
            sums[c] += from[static_cast<index_t>(entries) + c];
        }
    }
}

template <class T>
void add_gram(const T* rows, index_t n, index_t d, index_t stride, double* gram, double* column_sums,
              const execution& exec) {
    add_rows_in_ranges<T>({rows, stride, nullptr, 0, d}, n, gram, column_sums, exec);
}

template <class T>
void add_difference_gram(const T* harmful, index_t harmful_stride, const T* safe, index_t safe_stride, index_t n,
                         index_t d, double* gram, double* column_sums, const execution& exec) {
    add_rows_in_ranges<T>({harmful, harmful_stride, safe, safe_stride, d}, n, gram, column_sums, exec);
}

ISIC_INLINE void mirror_upper(double* gram, index_t d) {
    for (index_t r = 0; r < d; ++r) {
        for (index_t c = 0; c < r; ++c) {
            gram[r * d + c] = gram[c * d + r];
        }
    }
}

}  // namespace isic::inline ISIC_ABI::detail::kernels

#endif
