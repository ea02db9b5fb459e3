// SPDX-License-Identifier: Apache-2.0
/// \file
/// A basis projected out of contiguous rows, cache line by cache line. Compiled once per instruction set.
// Guarded as Highway asks: once per instruction set.
#if defined(ISIC_DETAIL_KERNELS_ALIGNED_ROWS_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef ISIC_DETAIL_KERNELS_ALIGNED_ROWS_INL
#undef ISIC_DETAIL_KERNELS_ALIGNED_ROWS_INL
#else
#define ISIC_DETAIL_KERNELS_ALIGNED_ROWS_INL
#endif

#include <isic/detail/kernels/pipeline-inl.hpp>

HWY_BEFORE_NAMESPACE();
namespace isic::inline ISIC_ABI::detail::kernels::HWY_NAMESPACE {

/// Projects a tile of `R` basis vectors out of contiguous rows, with the same sums in the same order as `row_tiles`, in vectors
/// that are whole cache lines: a vector across two lines takes twice as long to load and to store.
///
/// Rows begin `alignment_offset` values after the start of a line, so two neighbours share a line: the tail of the one, the
/// head of the other. The updated tail waits in a register until the head is updated too, because loads from partially
/// written lines stall.
template <std::size_t R, class T>
class aligned_rows {
public:
    HWY_INLINE aligned_rows(const packed_basis_view<T>& basis, const row_batch<T>& c, index_t begin, index_t end)
        : basis_(basis),
          strength_(c.uniform),
          last_line_(basis.width / n),
          tail_(hn::FirstN(D(), static_cast<std::size_t>(basis.alignment_offset))),
          head_(hn::Not(tail_)),
          lines_(c.row(begin) - basis.alignment_offset),
          count_(end - begin),
          shared_(hn::MaskedLoad(head_, D(), lines_)) {}

    HWY_INLINE void project_out(bool from_memory) {
        index_t done = 0;
        if (!from_memory || R > 2) {  // else loads and stores are faster in turns
            run_pipeline(*this, count_ / tile_rows, tile_rows * basis_.width * static_cast<index_t>(sizeof(T)));
            done = count_ / tile_rows * tile_rows;
        }
        for (index_t row = done; row < count_; ++row) {
            sum_row_products<1>(row);
            update_rows<1>(row);
        }
        hn::BlendedStore(shared_, tail_, D(), lines_ + count_ * basis_.width);
    }

    HWY_INLINE void sum_products(index_t tile) { sum_row_products<Rows>(tile * tile_rows); }
    HWY_INLINE void update(index_t tile) { update_rows<Rows>(tile * tile_rows); }
    HWY_INLINE void sum_products_and_update(index_t products_tile, index_t update_tile) {
        products_stage<Rows> products(*this, products_tile * tile_rows);
        update_stage<Rows> update(*this, update_tile * tile_rows);
        traverse(products, update);
        store_factors(products, products_tile * tile_rows);
    }

private:
    using D = hn::ScalableTag<T>;
    using V = hn::Vec<D>;
    static constexpr index_t n = lanes<D>;
    static constexpr std::size_t Rows = rows_per_tile<R>;
    static constexpr index_t tile_rows = static_cast<index_t>(Rows);
    static constexpr index_t prefetch_distance = 8192 / static_cast<index_t>(sizeof(T));

    static HWY_INLINE index_t slot(index_t row) { return pipeline_slot(row / tile_rows); }

    /// The products of `Count` rows from `row` on.
    template <std::size_t Count>
    struct products_stage : row_products<Count, R, T> {
        const aligned_rows& rows;
        const T* from;  ///< line 0 of the first row

        HWY_INLINE products_stage(const aligned_rows& all, index_t row) : rows(all), from(all.line(row)) {}

        HWY_INLINE void load_head() {
            HWY_UNROLL(2)
            for (std::size_t i = 0; i < Count; ++i) {
                hwy::Prefetch(from + prefetch_distance + static_cast<index_t>(i) * n);
                this->x[i] = hn::MaskedLoad(rows.head_, D(), from + rows.at(i, 0));
            }
        }
        HWY_INLINE void load(index_t k) {
            HWY_UNROLL(2)
            for (std::size_t i = 0; i < Count; ++i) {
                hwy::Prefetch(from + prefetch_distance +
                              (k * static_cast<index_t>(Count) + static_cast<index_t>(i)) * n);
                this->x[i] = hn::LoadU(D(), from + rows.at(i, k));
            }
        }
        HWY_INLINE void load_tail() {
            HWY_UNROLL(2)
            for (std::size_t i = 0; i < Count; ++i) {
                this->x[i] = hn::MaskedLoad(rows.tail_, D(), from + rows.at(i + 1, 0));
            }
        }
        HWY_INLINE void store_head() {}
        HWY_INLINE void store(index_t) {}
        HWY_INLINE void store_tail() {}
    };

    /// The update of `Count` rows from `row` on.
    template <std::size_t Count>
    struct update_stage : row_update<Count, R, T> {
        aligned_rows& rows;
        T* to;  ///< line 0 of the first row
        bool is_first;
        bool is_last;
        V next_line;    ///< the line that the last row shares with the row after it, not updated
        V second_head;  ///< line 0 of the second row, its head updated

        HWY_INLINE update_stage(aligned_rows& all, index_t row)
            : row_update<Count, R, T>(all.factors_, slot(row)),
              rows(all),
              to(all.line(row)),
              is_first(row == 0),
              is_last(row + static_cast<index_t>(Count) == all.count_) {}

        HWY_INLINE void load_head() {
            this->x[0] = rows.shared_;
            if constexpr (Count == 2) {
                this->x[1] = hn::LoadU(D(), to + rows.at(1, 0));
            }
        }
        HWY_INLINE void store_head() {
            const V line = hn::IfThenElse(rows.head_, this->x[0], rows.shared_);
            is_first ? hn::BlendedStore(line, rows.head_, D(), to) : hn::StoreU(line, D(), to);
            second_head = this->x[Count - 1];
        }
        HWY_INLINE void load(index_t k) {
            HWY_UNROLL(2)
            for (std::size_t i = 0; i < Count; ++i) {
                this->x[i] = hn::LoadU(D(), to + rows.at(i, k));
            }
        }
        HWY_INLINE void store(index_t k) {
            HWY_UNROLL(2)
            for (std::size_t i = 0; i < Count; ++i) {
                hn::StoreU(this->x[i], D(), to + rows.at(i, k));
            }
        }
        HWY_INLINE void load_tail() {
            if constexpr (Count == 2) {
                this->x[0] = hn::LoadU(D(), to + rows.at(1, 0));
            }
            const T* const next = to + rows.at(Count, 0);
            next_line = is_last ? hn::MaskedLoad(rows.tail_, D(), next) : hn::LoadU(D(), next);
            this->x[Count - 1] = next_line;
        }
        HWY_INLINE void store_tail() {
            if constexpr (Count == 2) {
                hn::StoreU(hn::IfThenElse(rows.head_, second_head, this->x[0]), D(), to + rows.at(1, 0));
            }
            rows.shared_ = hn::IfThenElse(rows.tail_, this->x[Count - 1], next_line);
        }
    };

    template <std::size_t Count>
    HWY_INLINE void sum_row_products(index_t row) {
        products_stage<Count> products(*this, row);
        traverse(products);
        store_factors(products, row);
    }

    template <std::size_t Count>
    HWY_INLINE void update_rows(index_t row) {
        update_stage<Count> update(*this, row);
        traverse(update);
    }

    /// Runs the stages over the lines of their rows: the head, the whole lines, the tail.
    template <class... Stages>
    HWY_INLINE void traverse(Stages&... stages) const {
        constexpr std::size_t other = accumulators<R> - 1;
        (stages.load_head(), ...);
        multiply_add<R>(basis_line(0), 0, stages...);
        (stages.store_head(), ...);
        index_t k = 1;
        for (; k + 1 < last_line_; k += 2) {
            traverse_line(k, other, stages...);
            traverse_line(k + 1, 0, stages...);
        }
        traverse_line(k, other, stages...);
        (stages.load_tail(), ...);
        multiply_add<R>(basis_line(last_line_), 0, stages...);
        (stages.store_tail(), ...);
    }

    template <class... Stages>
    HWY_INLINE void traverse_line(index_t k, std::size_t accumulator, Stages&... stages) const {
        (stages.load(k), ...);
        multiply_add<R>(basis_line(k), accumulator, stages...);
        (stages.store(k), ...);
    }

    template <std::size_t Count>
    HWY_INLINE void store_factors(const products_stage<Count>& products, index_t row) {
        const auto rotation = lane_rotation();
        V total[Count * R];
        HWY_UNROLL(8)
        for (std::size_t i = 0; i < Count * R; ++i) {
            total[i] = hn::TableLookupLanes(products.total(i), rotation);
        }
        T* const factors = factors_[slot(row)];
        store_sums(D(), total, factors);
        T strength[Count];
        std::fill(strength, strength + Count, strength_);
        products_to_factors<Count, R>(basis_, 0, strength, factors);
    }

    /// Rotates lanes to where they are for rows that begin a line, so that sums over lanes add in the same order.
    HWY_INLINE auto lane_rotation() const {
        const hn::RebindToSigned<D> di;
        using index = hn::TFromD<decltype(di)>;
        const auto lane = hn::Add(hn::Iota(di, 0), hn::Set(di, static_cast<index>(basis_.alignment_offset)));
        return hn::IndicesFromVec(D(), hn::And(lane, hn::Set(di, static_cast<index>(n - 1))));
    }

    /// The line in which a row begins.
    HWY_INLINE T* line(index_t row) const { return lines_ + row * basis_.width; }

    /// Values from line 0 of the first row of a tile to line k of its row i.
    HWY_INLINE index_t at(std::size_t i, index_t k) const { return static_cast<index_t>(i) * basis_.width + k * n; }

    /// Line k of the packed basis.
    HWY_INLINE const T* basis_line(index_t k) const { return basis_.values + k * static_cast<index_t>(R) * n; }

    const packed_basis_view<T> basis_;
    const T strength_;         ///< s of every row
    const index_t last_line_;  ///< index of a row's last line, in which the next row begins; even
    const hn::Mask<D> tail_;   ///< lanes of a shared line that belong to the row before
    const hn::Mask<D> head_;   ///< the other lanes
    T* const lines_;
    const index_t count_;
    V shared_;  ///< line 0 of the next row to update, its tail updated already
    T factors_[max_pipeline_lag][Rows * R];
};

}  // namespace isic::inline ISIC_ABI::detail::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
