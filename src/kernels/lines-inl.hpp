/// \file
/// Directions taken out of rows cache line by cache line, compiled once per instruction set.
// Guarded as Highway asks: once per instruction set.
#if defined(ISIC_KERNELS_LINES_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef ISIC_KERNELS_LINES_INL
#undef ISIC_KERNELS_LINES_INL
#else
#define ISIC_KERNELS_LINES_INL
#endif

#include "vectors-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace isic::kernels::HWY_NAMESPACE {

/// Takes `R` directions out of rows without gaps, in vectors that are cache lines: one that lies across two takes twice as
/// long to load and to store. A line that two rows share waits in a register for the second, as memory just written in part
/// is slow to read. The sums are those of `take_out`, in the same order, wherever rows begin.
template <std::size_t R, class T>
class lines_of_rows {
public:
    HWY_INLINE lines_of_rows(const directions<T>& v, const strong_rows<T>& c, index_t begin, index_t end)
        : v_(v),
          uniform_(c.uniform),
          last_(v.width / n),
          tail_(hn::FirstN(D(), static_cast<std::size_t>(v.lead))),
          line_(c.row(begin) - v.lead),
          left_(end - begin) {
        before_ = shared_ = hn::MaskedLoad(hn::Not(tail_), D(), line_);
    }

    /// Two rows at once share loads of the directions, but they load and store in bursts, which memory does not like.
    HWY_INLINE void run(bool from_memory) {
        bool is_first = true;
        for (; left_ >= 2 && !from_memory; is_first = false) {
            step<2>(is_first);
        }
        for (; left_ >= 1; is_first = false) {
            step<1>(is_first);
        }
        hn::BlendedStore(shared_, tail_, D(), line_);
    }

private:
    using D = hn::ScalableTag<T>;
    using V = hn::Vec<D>;
    static constexpr index_t n = lanes<D>;
    static constexpr std::size_t chains = 2 * R >= 8 ? 1 : 2;  // as `store_products` of two rows

    /// Line k of the directions.
    HWY_INLINE const T* packed(index_t k) const { return v_.packed + k * static_cast<index_t>(R) * n; }

    /// Lines k of `Rows` rows.
    template <std::size_t Rows>
    HWY_INLINE void load(const T* line, index_t k, V (&x)[Rows]) const {
        HWY_UNROLL(2)
        for (std::size_t i = 0; i < Rows; ++i) {
            x[i] = hn::LoadU(D(), line + (static_cast<index_t>(i) * last_ + k) * n);
        }
    }

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

    /// The next `Rows` rows.
    template <std::size_t Rows>
    HWY_INLINE void step(bool is_first) {
        const D d;
        constexpr index_t rows = static_cast<index_t>(Rows);
        const index_t ahead = left_ > 4 + rows ? 4 * v_.width : 0;
        const auto head = hn::Not(tail_);
        V edge[Rows + 1];  // the lines in which the rows and the one behind them begin
        edge[0] = before_;
        if constexpr (Rows == 2) {
            edge[1] = hn::LoadU(d, line_ + last_ * n);
        }
        T* const end = line_ + rows * last_ * n;
        edge[Rows] = left_ > rows ? hn::LoadU(d, end) : hn::MaskedLoad(tail_, d, end);

        V sum[chains][Rows * R];
        HWY_UNROLL(8)
        for (std::size_t i = 0; i < Rows * R; ++i) {
            sum[0][i] = hn::Zero(d);
            sum[chains - 1][i] = hn::Zero(d);
        }
        V x[Rows];
        HWY_UNROLL(2)
        for (std::size_t i = 0; i < Rows; ++i) {
            x[i] = hn::IfThenElseZero(head, edge[i]);
        }
        add_products<Rows, R>(d, x, packed(0), sum[0]);
        for (index_t k = 1; k < last_; k += 2) {
            HWY_UNROLL(2)
            for (index_t i = 0; i < rows; ++i) {
                hwy::Prefetch(line_ + ahead + (i * last_ + k) * n);
                hwy::Prefetch(line_ + ahead + (i * last_ + k + 1) * n);
            }
            load<Rows>(line_, k, x);
            add_products<Rows, R>(d, x, packed(k), sum[chains - 1]);
            if (k + 1 < last_) {
                load<Rows>(line_, k + 1, x);
                add_products<Rows, R>(d, x, packed(k + 1), sum[0]);
            }
        }
        HWY_UNROLL(2)
        for (std::size_t i = 0; i < Rows; ++i) {
            x[i] = hn::IfThenElseZero(tail_, edge[i + 1]);
        }
        add_products<Rows, R>(d, x, packed(last_), sum[0]);

        T factor[Rows * R];
        store_turned<Rows * R>(sum, factor);
        V f[Rows * R];
        HWY_UNROLL(8)
        for (std::size_t i = 0; i < Rows * R; ++i) {
            f[i] = hn::Set(d, (v_.offset[i % R] - factor[i]) * (uniform_ * v_.weight[i % R]));
        }

        V heads[Rows];
        V tails[Rows];
        HWY_UNROLL(2)
        for (std::size_t i = 0; i < Rows; ++i) {
            heads[i] = i == 0 ? shared_ : edge[i];
            tails[i] = edge[i + 1];
        }
        add_directions<Rows, R>(d, heads, packed(0), f);
        add_directions<Rows, R>(d, tails, packed(last_), f);
        if (is_first) {
            hn::BlendedStore(heads[0], head, d, line_);
        } else {
            hn::StoreU(hn::IfThenElse(head, heads[0], shared_), d, line_);
        }
        for (index_t k = 1; k < last_; ++k) {
            load<Rows>(line_, k, x);
            add_directions<Rows, R>(d, x, packed(k), f);
            HWY_UNROLL(2)
            for (std::size_t i = 0; i < Rows; ++i) {
                hn::StoreU(x[i], d, line_ + (static_cast<index_t>(i) * last_ + k) * n);
            }
        }
        if constexpr (Rows == 2) {
            hn::StoreU(hn::IfThenElse(head, heads[1], tails[0]), d, line_ + last_ * n);
        }
        shared_ = hn::IfThenElse(tail_, tails[Rows - 1], edge[Rows]);
        before_ = edge[Rows];
        line_ = end;
        left_ -= rows;
    }

    const directions<T> v_;
    const T uniform_;
    const index_t last_;  // the line of a row that the next one begins in; even
    const hn::Mask<D> tail_;
    T* line_;
    index_t left_;
    V before_;  // the line that the next row begins in, as it was: its sums need not wait for the row before
    V shared_;  // the same with that row moved
};

}  // namespace isic::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
