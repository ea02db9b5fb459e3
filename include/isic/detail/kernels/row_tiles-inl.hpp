// SPDX-License-Identifier: Apache-2.0
/// \file
/// A basis projected out of blocks of rows, tile by tile. Compiled once per instruction set.
// Guarded as Highway asks: once per instruction set.
#if defined(ISIC_DETAIL_KERNELS_ROW_TILES_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef ISIC_DETAIL_KERNELS_ROW_TILES_INL
#undef ISIC_DETAIL_KERNELS_ROW_TILES_INL
#else
#define ISIC_DETAIL_KERNELS_ROW_TILES_INL
#endif

#include <isic/detail/kernels/pipeline-inl.hpp>

HWY_BEFORE_NAMESPACE();
namespace isic::inline ISIC_ABI::detail::kernels::HWY_NAMESPACE {

/// Pointers to distinct rows; no two overlap.
template <class T>
struct row_pointers {
    T* const* rows;
    const T* strength;  ///< s [count]; null: 1
    index_t count;
    index_t prefetch_distance = 0;  ///< values from a row to the row that is prefetched meanwhile
};

/// Projects a tile of `R` basis vectors, from vector `first` on, out of rows.
template <std::size_t R, class T>
class row_tiles {
public:
    HWY_INLINE row_tiles(const packed_basis_view<T>& basis, index_t first, const row_pointers<T>& rows)
        : basis_(basis),
          first_(static_cast<std::size_t>(first)),
          prefetch_distance_(first == 0 ? rows.prefetch_distance : 0),
          rows_(rows),
          values_(basis_tile(basis, first)) {}

    HWY_INLINE void project_out() {
        const index_t bytes = tile_rows * basis_.width * static_cast<index_t>(sizeof(T));
        run_pipeline(*this, (rows_.count + tile_rows - 1) / tile_rows, bytes);
    }

    HWY_INLINE void sum_products(index_t tile) {
        products_stage products(*this, tile);
        traverse(products);
        store_factors(products, tile);
    }

    HWY_INLINE void update(index_t tile) {
        update_stage update(*this, tile);
        traverse(update);
    }

    HWY_INLINE void sum_products_and_update(index_t products_tile, index_t update_tile) {
        products_stage products(*this, products_tile);
        update_stage update(*this, update_tile);
        traverse(products, update);
        store_factors(products, products_tile);
    }

private:
    using D = hn::ScalableTag<T>;
    using V = hn::Vec<D>;
    static constexpr index_t n = lanes<D>;
    static constexpr std::size_t Rows = rows_per_tile<R>;
    static constexpr index_t tile_rows = static_cast<index_t>(Rows);

    /// Row i of a tile, as an index into `rows_`. The last tile may hold the last row twice.
    HWY_INLINE index_t row_index(index_t tile, std::size_t i) const {
        return std::min(tile * tile_rows + static_cast<index_t>(i), rows_.count - 1);
    }

    /// Values [k, k + n) of a row, zeros past its end unless `Whole`.
    template <bool Whole>
    static HWY_INLINE V load_vector(const T* row, index_t k, index_t width) {
        return Whole ? hn::LoadU(D(), row + k) : load_some(D(), row + k, width - k);
    }

    /// The products of a tile, which reads its rows.
    struct products_stage : row_products<Rows, R, T> {
        const T* from[Rows];
        index_t prefetch_distance;
        index_t width;

        HWY_INLINE products_stage(const row_tiles& tiles, index_t tile)
            : prefetch_distance(tiles.prefetch_distance_), width(tiles.basis_.width) {
            HWY_UNROLL(2)
            for (std::size_t i = 0; i < Rows; ++i) {
                from[i] = tiles.rows_.rows[tiles.row_index(tile, i)];
            }
        }

        template <bool Whole>
        HWY_INLINE void load(index_t k) {
            HWY_UNROLL(2)
            for (std::size_t i = 0; i < Rows; ++i) {
                hwy::Prefetch(from[i] + prefetch_distance + k);
                this->x[i] = load_vector<Whole>(from[i], k, width);
            }
        }

        template <bool Whole>
        HWY_INLINE void store(index_t) {}
    };

    /// The update of a tile, which reads and writes its rows.
    struct update_stage : row_update<Rows, R, T> {
        T* to[Rows];
        index_t width;

        HWY_INLINE update_stage(row_tiles& tiles, index_t tile)
            : row_update<Rows, R, T>(tiles.factors_, pipeline_slot(tile)), width(tiles.basis_.width) {
            HWY_UNROLL(2)
            for (std::size_t i = 0; i < Rows; ++i) {
                to[i] = tiles.rows_.rows[tiles.row_index(tile, i)];
            }
        }

        template <bool Whole>
        HWY_INLINE void load(index_t k) {
            HWY_UNROLL(2)
            for (std::size_t i = 0; i < Rows; ++i) {
                this->x[i] = load_vector<Whole>(to[i], k, width);
            }
        }

        template <bool Whole>
        HWY_INLINE void store(index_t k) {
            HWY_UNROLL(2)
            for (std::size_t i = 0; i < Rows; ++i) {
                Whole ? hn::StoreU(this->x[i], D(), to[i] + k) : store_some(D(), this->x[i], to[i] + k, width - k);
            }
        }
    };

    /// Runs the stages over the whole width; only the last vector may be partial.
    template <class... Stages>
    HWY_INLINE void traverse(Stages&... stages) const {
        constexpr std::size_t chains = accumulators<R>;
        constexpr index_t step = static_cast<index_t>(R) * n;
        const T* v = values_;
        index_t k = 0;
        for (; k + static_cast<index_t>(chains) * n <= basis_.width; k += static_cast<index_t>(chains) * n) {
            HWY_UNROLL(2)
            for (std::size_t c = 0; c < chains; ++c, v += step) {
                const index_t at = k + static_cast<index_t>(c) * n;
                (stages.template load<true>(at), ...);
                multiply_add<R>(v, c, stages...);
                (stages.template store<true>(at), ...);
            }
        }
        for (; k < basis_.width; k += n, v += step) {
            (stages.template load<false>(k), ...);
            multiply_add<R>(v, 0, stages...);
            (stages.template store<false>(k), ...);
        }
    }

    HWY_INLINE void store_factors(const products_stage& products, index_t tile) {
        V total[Rows * R];
        HWY_UNROLL(8)
        for (std::size_t i = 0; i < Rows * R; ++i) {
            total[i] = products.total(i);
        }
        T* const factors = factors_[pipeline_slot(tile)];
        store_sums(D(), total, factors);
        T strength[Rows];
        for (std::size_t i = 0; i < Rows; ++i) {
            strength[i] = rows_.strength == nullptr ? T(1) : rows_.strength[row_index(tile, i)];
        }
        products_to_factors<Rows, R>(basis_, first_, strength, factors);
    }

    const packed_basis_view<T> basis_;
    const std::size_t first_;
    const index_t prefetch_distance_;
    const row_pointers<T> rows_;
    const T* const values_;
    T factors_[max_pipeline_lag][Rows * R];
};

/// Projects a basis out of a few rows, tile after tile of it. Inlined, so that no call spills the caller's registers.
template <class T>
HWY_INLINE void project_out(const packed_basis_view<T>& basis, const row_pointers<T>& rows) {
    for (index_t first = 0; first < basis.rank; first += 8) {
        switch (basis_tile_width(basis.rank - first)) {
            case 1: row_tiles<1, T>(basis, first, rows).project_out(); break;
            case 2: row_tiles<2, T>(basis, first, rows).project_out(); break;
            case 4: row_tiles<4, T>(basis, first, rows).project_out(); break;
            default: row_tiles<8, T>(basis, first, rows).project_out(); break;
        }
    }
}

}  // namespace isic::inline ISIC_ABI::detail::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
