/// \file
/// Directions taken out of blocks of rows, compiled once per instruction set.
// Guarded as Highway asks: once per instruction set.
#if defined(ISIC_DETAIL_KERNELS_ROW_TILES_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef ISIC_DETAIL_KERNELS_ROW_TILES_INL
#undef ISIC_DETAIL_KERNELS_ROW_TILES_INL
#else
#define ISIC_DETAIL_KERNELS_ROW_TILES_INL
#endif

#include <isic/detail/kernels/vector_ops-inl.hpp>

HWY_BEFORE_NAMESPACE();
namespace isic::inline ISIC_ABI::detail::kernels::HWY_NAMESPACE {

/// Rows anywhere, none twice.
template <class T>
struct row_block {
    T* const* rows;
    const T* strength;  ///< null: 1
    index_t count;
    index_t ahead = 0;  ///< values from a row to the one that is brought into the cache meanwhile
};

/// Takes `R` directions out of the rows of a block. While some move, the products of those a few steps later are summed:
/// both share the loads of the directions, and neither waits for the memory or for the other's sums over lanes.
template <std::size_t R, class T>
class block_of_rows {
public:
    HWY_INLINE block_of_rows(const directions<T>& v, index_t first, const row_block<T>& rows)
        : v_(v),
          first_(static_cast<std::size_t>(first)),
          ahead_(first == 0 ? rows.ahead : 0),
          rows_(rows),
          packed_(packed_from(v, first)) {}

    HWY_INLINE void run() {
        const index_t bytes = at_once * v_.width * static_cast<index_t>(sizeof(T));
        in_steps(*this, (rows_.count + at_once - 1) / at_once, bytes);
    }

    HWY_INLINE void measure(index_t i) { step<false, true>(0, i); }
    HWY_INLINE void move(index_t i) { step<true, false>(i, 0); }
    HWY_INLINE void measure_and_move(index_t i, index_t j) { step<true, true>(j, i); }

private:
    using D = hn::ScalableTag<T>;
    using V = hn::Vec<D>;
    static constexpr index_t n = lanes<D>;
    static constexpr std::size_t Rows = rows_together<R>;
    static constexpr index_t at_once = static_cast<index_t>(Rows);
    static constexpr std::size_t chains = chains_of<R>;
    static constexpr index_t packed_step = static_cast<index_t>(R) * n;

    /// Which row is row i of a step; the last step may do the last row twice at once.
    HWY_INLINE index_t place(index_t step, std::size_t i) const {
        return std::min(step * at_once + static_cast<index_t>(i), rows_.count - 1);
    }

    /// Rows to move and by which factors, rows to measure and the sums so far.
    struct work {
        T* to[Rows];
        const T* from[Rows];
        V factor[Rows * R];
        V sum[chains][Rows * R];
    };

    /// Values k, k + 1, ... of both; `b`: the directions there. Only the last vector is not whole.
    template <bool Moves, bool Measures, bool Whole>
    HWY_INLINE void advance_to(index_t k, std::size_t chain, const T* b, work& w) const {
        const D d;
        V x[Rows];
        V y[Rows];
        HWY_UNROLL(2)
        for (std::size_t i = 0; i < Rows; ++i) {
            if constexpr (Measures) {
                hwy::Prefetch(w.from[i] + ahead_ + k);
                y[i] = Whole ? hn::LoadU(d, w.from[i] + k) : load_some(d, w.from[i] + k, v_.width - k);
            }
            if constexpr (Moves) {
                x[i] = Whole ? hn::LoadU(d, w.to[i] + k) : load_some(d, w.to[i] + k, v_.width - k);
            }
        }
        advance<Moves, Measures, Rows, R>(d, x, w.factor, y, w.sum[chain], b);
        HWY_UNROLL(2)
        for (std::size_t i = 0; Moves && i < Rows; ++i) {
            Whole ? hn::StoreU(x[i], d, w.to[i] + k) : store_some(d, x[i], w.to[i] + k, v_.width - k);
        }
    }

    /// Moves the rows of one step and sums the products of those of another.
    template <bool Moves, bool Measures>
    HWY_INLINE void step(index_t moved, index_t measured) {
        const D d;
        work w;
        HWY_UNROLL(2)
        for (std::size_t i = 0; i < Rows; ++i) {
            w.to[i] = Moves ? rows_.rows[place(moved, i)] : nullptr;
            w.from[i] = Measures ? rows_.rows[place(measured, i)] : nullptr;
        }
        HWY_UNROLL(8)
        for (std::size_t i = 0; i < Rows * R; ++i) {
            w.factor[i] = Moves ? hn::Set(d, factor_[moved % most_lag][i]) : hn::Zero(d);
            w.sum[0][i] = hn::Zero(d);
            w.sum[chains - 1][i] = hn::Zero(d);
        }
        const T* b = packed_;
        index_t k = 0;
        for (; k + static_cast<index_t>(chains) * n <= v_.width; k += static_cast<index_t>(chains) * n) {
            HWY_UNROLL(2)
            for (std::size_t c = 0; c < chains; ++c, b += packed_step) {
                advance_to<Moves, Measures, true>(k + static_cast<index_t>(c) * n, c, b, w);
            }
        }
        for (; k < v_.width; k += n, b += packed_step) {
            advance_to<Moves, Measures, false>(k, 0, b, w);
        }
        if constexpr (Measures) {
            HWY_UNROLL(8)
            for (std::size_t i = 0; chains == 2 && i < Rows * R; ++i) {
                w.sum[0][i] = hn::Add(w.sum[0][i], w.sum[chains - 1][i]);
            }
            T* const factor = factor_[measured % most_lag];
            store_sums(d, w.sum[0], factor);
            T strength[Rows];
            for (std::size_t i = 0; i < Rows; ++i) {
                strength[i] = rows_.strength == nullptr ? T(1) : rows_.strength[place(measured, i)];
            }
            sums_to_factors<Rows, R>(v_, first_, strength, factor);
        }
    }

    const directions<T> v_;
    const std::size_t first_;
    const index_t ahead_;
    const row_block<T> rows_;
    const T* const packed_;
    T factor_[most_lag][Rows * R];
};

/// Takes the directions out of a few rows, eight after the other, in the midst of other work: no call empties the registers.
template <class T>
HWY_INLINE void take_out(const directions<T>& v, const row_block<T>& rows) {
    for (index_t first = 0; first < v.rank; first += 8) {
        switch (together(v.rank - first)) {
            case 1: block_of_rows<1, T>(v, first, rows).run(); break;
            case 2: block_of_rows<2, T>(v, first, rows).run(); break;
            case 4: block_of_rows<4, T>(v, first, rows).run(); break;
            default: block_of_rows<8, T>(v, first, rows).run(); break;
        }
    }
}

}  // namespace isic::inline ISIC_ABI::detail::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
