// SPDX-License-Identifier: Apache-2.0
/// \file
/// The software pipeline of the large-d projection, compiled once per instruction set. A tile of rows passes two stages:
/// `row_products` sums its products with a tile of basis vectors, `row_update` adds multiples of those vectors. The update of
/// one tile runs together with the products of a later one: both share the loads of the basis, and neither waits for memory
/// or for the other's sums over lanes.
// Guarded as Highway asks: once per instruction set.
#if defined(ISIC_DETAIL_KERNELS_PIPELINE_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef ISIC_DETAIL_KERNELS_PIPELINE_INL
#undef ISIC_DETAIL_KERNELS_PIPELINE_INL
#else
#define ISIC_DETAIL_KERNELS_PIPELINE_INL
#endif

#include <algorithm>
#include <type_traits>

#include <isic/detail/kernels/vector_ops-inl.hpp>

HWY_BEFORE_NAMESPACE();
namespace isic::inline ISIC_ABI::detail::kernels::HWY_NAMESPACE {

/// Basis vectors per tile, of which `rank` are left: a power of two. Zeros fill up the last tile.
HWY_INLINE constexpr index_t basis_tile_width(index_t rank) {
    return rank <= 2 ? rank : rank <= 4 ? 4 : 8;
}

/// Calls body(R), R the width of the basis tile from basis vector `first` on.
template <class T, class Body>
HWY_INLINE void with_basis_tile(const packed_basis_view<T>& basis, index_t first, const Body& body) {
    switch (basis_tile_width(basis.rank - first)) {
        case 1: return body(std::integral_constant<std::size_t, 1>());
        case 2: return body(std::integral_constant<std::size_t, 2>());
        case 4: return body(std::integral_constant<std::size_t, 4>());
        default: return body(std::integral_constant<std::size_t, 8>());
    }
}

/// Start of the basis tile from basis vector `first` on.
template <class T>
HWY_INLINE const T* basis_tile(const packed_basis_view<T>& basis, index_t first) {
    constexpr index_t n = lanes<hn::ScalableTag<T>>;
    return basis.values + first * ((basis.width + n - 1) / n * n);
}

/// Rows per tile: two where the registers hold their sums and factors for `R` basis vectors, else one.
template <std::size_t R>
inline constexpr std::size_t rows_per_tile = HWY_TARGET == HWY_SCALAR || R < (HWY_TARGET == HWY_AVX2 ? 4 : 8) ? 2 : 1;

/// Accumulators per product: with few products, a multiply-add would wait for the one before.
template <std::size_t R>
inline constexpr std::size_t accumulators = R >= 4 ? 1 : 2;

/// Largest number of tiles between the products of a tile and its update.
inline constexpr index_t max_pipeline_lag = 4;

/// Index of the memory that holds a tile's factors between its two stages.
HWY_INLINE constexpr index_t pipeline_slot(index_t tile) {
    return tile % max_pipeline_lag;
}

/// Runs rows.sum_products(i) and, `lag` tiles later, rows.update(i) for all tiles, both stages together where it can. A longer
/// lag hides more latency, but the tiles in between should stay in L1. bytes: size of a tile.
template <class Rows>
HWY_INLINE void run_pipeline(Rows& rows, index_t tiles, index_t bytes) {
    if (HWY_TARGET == HWY_SCALAR) {  // too few registers for both stages together
        for (index_t i = 0; i < tiles; ++i) {
            rows.sum_products(i);
            rows.update(i);
        }
        return;
    }
    const index_t lag = std::min(tiles, std::clamp<index_t>(8192 / bytes, 1, max_pipeline_lag));
    for (index_t i = 0; i < lag; ++i) {
        rows.sum_products(i);
    }
    for (index_t i = lag; i < tiles; ++i) {
        rows.sum_products_and_update(i, i - lag);
    }
    for (index_t i = tiles - lag; i < tiles; ++i) {
        rows.update(i);
    }
}

/// First stage: sum[i R + j] += x_i . v_j for a tile of `Rows` rows and `R` basis vectors, vector by vector.
template <std::size_t Rows, std::size_t R, class T>
struct row_products {
    using D = hn::ScalableTag<T>;
    using V = hn::Vec<D>;

    V x[Rows];                         ///< one vector of each row
    V sum[accumulators<R>][Rows * R];  ///< accumulators, lane by lane

    HWY_INLINE row_products() {
        HWY_UNROLL(8)
        for (std::size_t i = 0; i < Rows * R; ++i) {
            sum[0][i] = hn::Zero(D());
            sum[accumulators<R> - 1][i] = hn::Zero(D());
        }
    }

    /// Adds the products with one vector v of basis vector j.
    HWY_INLINE void multiply_add(std::size_t j, V v, std::size_t accumulator) {
        HWY_UNROLL(2)
        for (std::size_t i = 0; i < Rows; ++i) {
            V& to = sum[accumulator][i * R + j];
            to = hn::MulAdd(x[i], v, to);
        }
    }

    /// The sum of both accumulators of product i.
    HWY_INLINE V total(std::size_t i) const {
        return accumulators<R> == 2 ? hn::Add(sum[0][i], sum[accumulators<R> - 1][i]) : sum[0][i];
    }
};

/// Second stage: x_i += sum_j factor[i R + j] v_j for a tile of `Rows` rows and `R` basis vectors, vector by vector.
template <std::size_t Rows, std::size_t R, class T>
struct row_update {
    using D = hn::ScalableTag<T>;
    using V = hn::Vec<D>;

    V x[Rows];           ///< one vector of each row
    V factor[Rows * R];  ///< in all lanes

    /// factors: those of the tiles in the pipeline, indexed by `pipeline_slot`.
    HWY_INLINE row_update(const T (&factors)[max_pipeline_lag][rows_per_tile<R> * R], index_t slot) {
        HWY_UNROLL(8)
        for (std::size_t i = 0; i < Rows * R; ++i) {
            factor[i] = hn::Set(D(), factors[slot][i]);
        }
    }

    /// Adds the multiples of one vector v of basis vector j.
    HWY_INLINE void multiply_add(std::size_t j, V v, std::size_t) {
        HWY_UNROLL(2)
        for (std::size_t i = 0; i < Rows; ++i) {
            x[i] = hn::MulAdd(factor[i * R + j], v, x[i]);
        }
    }
};

/// Multiplies one vector of `R` basis vectors, at `basis`, in every stage.
template <std::size_t R, class T, class... Stages>
HWY_INLINE void multiply_add(const T* basis, std::size_t accumulator, Stages&... stages) {
    const hn::ScalableTag<T> d;
    HWY_UNROLL(8)
    for (std::size_t j = 0; j < R; ++j) {
        const auto v = in_register(hn::LoadU(d, basis + j * static_cast<std::size_t>(lanes<decltype(d)>)));
        (stages.multiply_add(j, v, accumulator), ...);
    }
}

/// Turns products into the factors of an update: f[i R + j] <- (t . v_j - f[i R + j]) s_i w_j, j counted from `first`.
template <std::size_t Rows, std::size_t R, class T>
HWY_INLINE void products_to_factors(const packed_basis_view<T>& basis, std::size_t first, const T (&strength)[Rows],
                                    T* f) {
    for (std::size_t i = 0; i < Rows; ++i) {
        for (std::size_t j = 0; j < R; ++j) {
            T& at = f[i * R + j];
            at = (basis.center_products[first + j] - at) * (strength[i] * basis.weights[first + j]);
        }
    }
}

}  // namespace isic::inline ISIC_ABI::detail::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
