/// \file
/// Directions taken out of rows cache line by cache line, compiled once per instruction set.
// Guarded as Highway asks: once per instruction set.
#if defined(ISIC_DETAIL_KERNELS_ALIGNED_ROWS_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef ISIC_DETAIL_KERNELS_ALIGNED_ROWS_INL
#undef ISIC_DETAIL_KERNELS_ALIGNED_ROWS_INL
#else
#define ISIC_DETAIL_KERNELS_ALIGNED_ROWS_INL
#endif

#include <isic/detail/kernels/vector_ops-inl.hpp>

HWY_BEFORE_NAMESPACE();
namespace isic::inline ISIC_ABI::detail::kernels::HWY_NAMESPACE {

/// Takes `R` directions out of rows without gaps as `block_of_rows` does, with the same sums in the same order, in vectors
/// that are cache lines: one that lies across two takes twice as long to load and to store. A line that two rows share waits
/// in a register for the second, as memory just written in part is slow to read.
template <std::size_t R, class T>
class lines_of_rows {
public:
    HWY_INLINE lines_of_rows(const directions<T>& v, const strong_rows<T>& c, index_t begin, index_t end)
        : v_(v),
          uniform_(c.uniform),
          last_(v.width / n),
          tail_(hn::FirstN(D(), static_cast<std::size_t>(v.lead))),
          head_(hn::Not(tail_)),
          begin_(c.row(begin) - v.lead),
          count_(end - begin),
          shared_(hn::MaskedLoad(head_, D(), begin_)) {}

    HWY_INLINE void run(bool from_memory) {
        index_t done = 0;
        if (!from_memory || R > 2) {  // else loads and stores best take turns
            in_steps(*this, count_ / at_once, at_once * v_.width * static_cast<index_t>(sizeof(T)));
            done = count_ / at_once * at_once;
        }
        for (index_t i = done; i < count_; ++i) {
            step<1, false, true>(0, i);
            step<1, true, false>(i, 0);
        }
        hn::BlendedStore(shared_, tail_, D(), begin_ + count_ * v_.width);
    }

    HWY_INLINE void measure(index_t i) { step<Rows, false, true>(0, i * at_once); }
    HWY_INLINE void move(index_t i) { step<Rows, true, false>(i * at_once, 0); }
    HWY_INLINE void measure_and_move(index_t i, index_t j) { step<Rows, true, true>(j * at_once, i * at_once); }

private:
    using D = hn::ScalableTag<T>;
    using V = hn::Vec<D>;
    static constexpr index_t n = lanes<D>;
    static constexpr std::size_t Rows = rows_together<R>;
    static constexpr index_t at_once = static_cast<index_t>(Rows);
    static constexpr std::size_t chains = chains_of<R>;

    /// Line k of the directions.
    HWY_INLINE const T* packed(index_t k) const { return v_.packed + k * static_cast<index_t>(R) * n; }

    /// The lanes of sums back to where they are in rows that begin with a line, summed.
    template <std::size_t Count>
    HWY_INLINE void store_turned(const V (&sum)[chains][Count], T* to) const {
        const D d;
        const hn::RebindToSigned<D> di;
        using index = hn::TFromD<decltype(di)>;
        const auto place = hn::Add(hn::Iota(di, 0), hn::Set(di, static_cast<index>(v_.lead)));
        const auto turn = hn::IndicesFromVec(d, hn::And(place, hn::Set(di, static_cast<index>(n - 1))));
        V whole[Count];
        HWY_UNROLL(8)
        for (std::size_t i = 0; i < Count; ++i) {
            whole[i] = hn::TableLookupLanes(chains == 2 ? hn::Add(sum[0][i], sum[chains - 1][i]) : sum[0][i], turn);
        }
        store_sums(d, whole, to);
    }

    /// Moves `Count` rows of one step and sums the products of as many of another.
    template <std::size_t Count, bool Moves, bool Measures>
    HWY_INLINE void step(index_t moved, index_t measured) {
        const D d;
        const index_t width = v_.width;
        T* const to = begin_ + moved * width;
        const T* const from = begin_ + measured * width;
        V f[Count * R];
        V sum[chains][Count * R];
        HWY_UNROLL(8)
        for (std::size_t i = 0; i < Count * R; ++i) {
            f[i] = Moves ? hn::Set(d, factor_[moved / at_once % most_lag][i]) : hn::Zero(d);
            sum[0][i] = hn::Zero(d);
            sum[chains - 1][i] = hn::Zero(d);
        }
        V x[Count];
        V y[Count];
        const auto at = [&](std::size_t i, index_t k) HWY_ATTR { return static_cast<index_t>(i) * width + k * n; };

        V edge[Count + 1];  // the lines in which the rows and the one behind them begin
        V heads[Count];
        V tails[Count];
        HWY_UNROLL(2)
        for (std::size_t i = 0; i < Count; ++i) {
            if constexpr (Moves) {
                edge[i + 1] = i + 1 < Count || moved + static_cast<index_t>(Count) < count_
                                  ? hn::LoadU(d, to + at(i + 1, 0))
                                  : hn::MaskedLoad(tail_, d, to + at(i + 1, 0));
                heads[i] = i == 0 ? shared_ : edge[i];
                tails[i] = edge[i + 1];
            }
            if constexpr (Measures) {
                hwy::Prefetch(from + ahead + static_cast<index_t>(i) * n);
                y[i] = hn::MaskedLoad(head_, d, from + at(i, 0));
            }
        }
        advance<Moves, Measures, Count, R>(d, heads, f, y, sum[0], packed(0));
        if constexpr (Moves) {
            const V first = hn::IfThenElse(head_, heads[0], shared_);
            moved == 0 ? hn::BlendedStore(first, head_, d, to) : hn::StoreU(first, d, to);
        }
        const auto advance_to = [&](index_t k, std::size_t chain) HWY_ATTR {
            HWY_UNROLL(2)
            for (std::size_t i = 0; i < Count; ++i) {
                if constexpr (Measures) {
                    hwy::Prefetch(from + ahead + (k * static_cast<index_t>(Count) + static_cast<index_t>(i)) * n);
                    y[i] = hn::LoadU(d, from + at(i, k));
                }
                if constexpr (Moves) {
                    x[i] = hn::LoadU(d, to + at(i, k));
                }
            }
            advance<Moves, Measures, Count, R>(d, x, f, y, sum[chain], packed(k));
            HWY_UNROLL(2)
            for (std::size_t i = 0; Moves && i < Count; ++i) {
                hn::StoreU(x[i], d, to + at(i, k));
            }
        };
        index_t k = 1;
        for (; k + 1 < last_; k += 2) {
            advance_to(k, chains - 1);
            advance_to(k + 1, 0);
        }
        advance_to(k, chains - 1);
        HWY_UNROLL(2)
        for (std::size_t i = 0; Measures && i < Count; ++i) {
            y[i] = hn::MaskedLoad(tail_, d, from + at(i + 1, 0));
        }
        advance<Moves, Measures, Count, R>(d, tails, f, y, sum[0], packed(last_));
        if constexpr (Moves) {
            if constexpr (Count == 2) {
                hn::StoreU(hn::IfThenElse(head_, heads[1], tails[0]), d, to + at(1, 0));
            }
            shared_ = hn::IfThenElse(tail_, tails[Count - 1], edge[Count]);
        }
        if constexpr (Measures) {
            T* const factor = factor_[measured / at_once % most_lag];
            store_turned(sum, factor);
            T strength[Count];
            std::fill(strength, strength + Count, uniform_);
            sums_to_factors<Count, R>(v_, 0, strength, factor);
        }
    }

    static constexpr index_t ahead = 8192 / static_cast<index_t>(sizeof(T));  // past the end nothing is fetched

    const directions<T> v_;
    const T uniform_;
    const index_t last_;  // the line of a row that the next one begins in; even
    const hn::Mask<D> tail_;
    const hn::Mask<D> head_;
    T* const begin_;
    const index_t count_;
    V shared_;  // the line in which the next row to move begins, with what the row before has become
    T factor_[most_lag][Rows * R];
};

}  // namespace isic::inline ISIC_ABI::detail::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
