// SPDX-License-Identifier: Apache-2.0
/// \file
/// Tiles of the fused kernels: rows in the registers of a few lanes or, if they are wider, in shared memory, to which basis vectors
/// are added in the arithmetic A of the rows.
#pragma once

#include <type_traits>

#include "warp.cuh"

namespace isic::inline ISIC_ABI::cuda::detail {

// Values as A

/// 16 bytes of A, read and written by one instruction.
template <class A>
struct alignas(16) vector {
    static constexpr int size = 16 / static_cast<int>(sizeof(A));
    A at[size];
};

__device__ inline float to_arithmetic(float x) {
    return x;
}
__device__ inline double to_arithmetic(double x) {
    return x;
}
__device__ inline float to_arithmetic(bfloat_bits x) {
    return float_of(static_cast<std::uint32_t>(x.bits) << 16);
}
__device__ inline float to_arithmetic(half_bits x) {
#ifdef ISIC_KERNEL_SHIM
    return static_cast<float>(widen(x));
#else
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x.bits));
    return wide;
#endif
}

template <class T, class A>
__device__ T to_storage(A x) {
    if constexpr (std::is_same_v<T, bfloat_bits>) {
        const std::uint32_t bits = bits_of(x);
        if ((bits & 0x7fffffffU) > 0x7f800000U) {
            return {static_cast<std::uint16_t>((bits >> 16) | 0x40U)};  // NaN stays NaN
        }
        return {static_cast<std::uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16)};
    } else if constexpr (std::is_same_v<T, half_bits>) {
#ifdef ISIC_KERNEL_SHIM
        return rounding<half_bits>::of(static_cast<double>(x));
#else
        half_bits narrow;
        asm("cvt.rn.f16.f32 %0, %1;" : "=h"(narrow.bits) : "f"(x));
        return narrow;
#endif
    } else {
        return x;
    }
}

/// x / y; in float to two roundings, without a branch for denormal numbers. 0 for |y| > 2^126.
__device__ inline float quotient(float x, float y) {
#ifdef ISIC_KERNEL_SHIM
    return x / y;
#else
    return __fdividef(x, y);
#endif
}
__device__ inline double quotient(double x, double y) {
    return x / y;
}

/// The square root; in float to two units in the last place, without a branch for denormal numbers, which count as 0.
__device__ inline float root(float x) {
#ifdef ISIC_KERNEL_SHIM
    return std::sqrt(x);
#else
    float y;
    asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#endif
}
__device__ inline double root(double x) {
    return std::sqrt(x);
}

/// The stored form of a vector: `Size` values of T.
template <class T, int Size>
struct alignas(sizeof(T) * Size) stored_vector {
    T at[Size];
};

/// Whether every vector of T is aligned.
template <class A, class T, class M>
__host__ __device__ bool is_aligned(const M& m) {
    constexpr int size = vector<A>::size;
    return reinterpret_cast<std::uintptr_t>(m.data) % (size * sizeof(T)) == 0 && m.stride % size == 0 &&
           m.cols % size == 0;
}

/// A row read by one thread, divided by its norm if it has one. Four values are read by one instruction if they are aligned: each
/// thread of a warp reads another cache line.
class scaled_row {
public:
    struct four {
        double at[4];
    };

    __device__ scaled_row(const scaled_rows& m, index_t i)
        : rows_(m.rows),
          i_(i),
          norm_(m.norms != nullptr ? m.norms[i] : 0.0),
          packed_(m.rows.type == dtype::f32 && is_aligned<float, float>(m.rows)) {}

    /// Columns [column, column + 4); 0 past the last one.
    __device__ __forceinline__ four load(index_t column) const {
        four out{};
        if (packed_ && column < rows_.cols) {
            const float* from = static_cast<const float*>(rows_.data) + i_ * rows_.stride + column;
            const auto values = *reinterpret_cast<const vector<float>*>(from);
            for (int j = 0; j < 4; ++j) {
                out.at[j] = widen(values.at[j]);
            }
        } else {
            for (int j = 0; j < 4 && column + j < rows_.cols; ++j) {
                out.at[j] = value_at(rows_, i_, column + j);
            }
        }
        for (int j = 0; j < 4 && norm_ > 0; ++j) {
            out.at[j] /= norm_;
        }
        return out;
    }

private:
    const any_device_view& rows_;
    index_t i_;
    double norm_;
    bool packed_;
};

/// Vectorised accessor: a lane's vectors of a tile's rows, stored as T. Values outside the matrix read as 0 and are not written. The
/// address of row 0, vector 0 is computed once.
template <class Tile, class T, bool Aligned>
class vector_accessor {
public:
    using A = typename Tile::arithmetic;
    static constexpr int size = vector<A>::size;
    using stored = stored_vector<T, size>;

    __device__ __forceinline__ vector_accessor(const any_device_span& m, index_t row)
        : start_(static_cast<T*>(m.data) + row * m.stride + lane() % Tile::lanes * size),
          stride_(m.stride),
          rows_(m.rows - row),
          cols_(m.cols - lane() % Tile::lanes * size) {}

    __device__ __forceinline__ vector<A> load(int r, index_t p) const {
        vector<A> out{};
        if (!is_inside(r, p)) {
            return out;
        }
        const T* from = place(r, p);
        if constexpr (Aligned) {
            const stored values = *reinterpret_cast<const stored*>(from);
            for (int i = 0; i < size; ++i) {
                out.at[i] = to_arithmetic(values.at[i]);
            }
        } else {
            for (int i = 0; i < size; ++i) {
                out.at[i] = p * step + i < cols_ ? to_arithmetic(from[i]) : A(0);
            }
        }
        return out;
    }

    __device__ __forceinline__ void store(int r, index_t p, const vector<A>& values) const {
        if (!is_inside(r, p)) {
            return;
        }
        T* to = place(r, p);
        if constexpr (Aligned) {
            stored out;
            for (int i = 0; i < size; ++i) {
                out.at[i] = to_storage<T>(values.at[i]);
            }
            *reinterpret_cast<stored*>(to) = out;
        } else {
            for (int i = 0; i < size && p * step + i < cols_; ++i) {
                to[i] = to_storage<T>(values.at[i]);
            }
        }
    }

private:
    static constexpr int step = Tile::lanes * size;

    __device__ __forceinline__ bool is_inside(int r, index_t p) const { return r < rows_ && p * step < cols_; }
    __device__ __forceinline__ T* place(int r, index_t p) const { return start_ + r * stride_ + p * step; }

    T* start_;
    index_t stride_;
    index_t rows_;  // from the tile's first
    index_t cols_;  // from the lane's first
};

__device__ inline any_device_span unconst(const any_device_view& m) {
    return {const_cast<void*>(m.data), m.type, m.rows, m.cols, m.stride};
}
__device__ inline const any_device_span& unconst(const any_device_span& m) {
    return m;
}

/// f(vector_accessor) of a tile's rows of T. The branch is outside the loops over a row, so that loads overlap.
template <class T, class Tile, class M, class F>
__device__ __forceinline__ void with_vectors_of(const Tile& g, const M& m, F f) {
    if (Tile::only_aligned || is_aligned<typename Tile::arithmetic, T>(m)) {
        f(vector_accessor<Tile, T, true>(unconst(m), g.first_row()));
    } else if constexpr (!Tile::only_aligned) {
        f(vector_accessor<Tile, T, false>(unconst(m), g.first_row()));
    }
}

/// The same for every element type of the tile's arithmetic.
template <class Tile, class M, class F>
__device__ __forceinline__ void with_vectors(const Tile& g, const M& m, F f) {
    if constexpr (std::is_same_v<typename Tile::arithmetic, double>) {
        with_vectors_of<double>(g, m, f);
    } else {
        if (m.type == dtype::f32) {
            with_vectors_of<float>(g, m, f);
        } else if (m.type == dtype::f16) {
            with_vectors_of<half_bits>(g, m, f);
        } else {
            with_vectors_of<bfloat_bits>(g, m, f);
        }
    }
}

/// Whether tiles that read aligned vectors only may be used.
template <class A, class M>
bool may_read_vectors(const M& m) {
    if constexpr (std::is_same_v<A, double>) {
        return is_aligned<A, double>(m);
    } else {
        return m.type == dtype::f32 ? is_aligned<A, float>(m) : is_aligned<A, half_bits>(m);
    }
}

// Rows

/// Transposing reduction over `Values` lanes: lane l returns the sum of value[l] over the lanes. In each step a lane gives away half
/// of its sums and keeps the other half: one shuffle per sum, not one per sum and step.
template <int Values, class A>
__device__ __forceinline__ A sum_to_lanes(A* value) {
    if constexpr (Values == 1) {
        return value[0];
    } else {
        constexpr int half = Values / 2;
        const bool upper = (lane() & half) != 0;
#pragma unroll
        for (int i = 0; i < half; ++i) {
            const A given = upper ? value[i] : value[i + half];
            const A kept = upper ? value[i + half] : value[i];
            value[i] = kept + __shfl_xor_sync(0xffffffffU, given, half);
        }
        return sum_to_lanes<half>(value);
    }
}

/// Launch parameters of a kernel over tiles.
struct tile_launch {
    int threads;
    index_t slab;        ///< basis vectors in shared memory at a time
    std::size_t shared;  ///< values of A in shared memory, for the tiles
};

/// A tile of `Rows` rows in the registers of `Lanes` lanes, `Vectors` vectors per lane and row. The basis, or a slab of it, is in shared
/// memory; each value read from it serves all rows.
template <class A, int Lanes, int Vectors, int Rows>
class register_tile {
public:
    using arithmetic = A;
    static constexpr bool only_aligned = Lanes == warp_lanes;  ///< otherwise twice the code, which is long
    static constexpr int lanes = Lanes;
    static constexpr int blocks = Vectors > 2 ? 1 : Vectors == 2 ? 2 : 3;  ///< per SM, without register spills
    static constexpr int rows = Rows;
    static constexpr int width = Lanes * Vectors * vector<A>::size;  ///< of the widest row

    static tile_launch launch_for(const basis_view<A>& v) {
        constexpr index_t most = 65536 / (width * static_cast<index_t>(sizeof(A))) / at_once * at_once;
        const index_t all = (v.rank + at_once - 1) / at_once * at_once;
        const index_t slab = all < most ? all : most;
        return {threads_per_block, slab,
                static_cast<std::size_t>(slab * width + threads_per_block / Lanes * coefficient_vectors * size)};
    }

    __device__ register_tile(A* shared, const basis_view<A>& v, index_t slab)
        : v_(v),
          slab_(slab),
          staged_(shared),
          coefficients_(reinterpret_cast<vector<A>*>(shared + slab * width) + tile_number() * coefficient_vectors) {}

    /// Sets the first row of the tile.
    __device__ __forceinline__ void begin(index_t first) { first_ = first; }

    __device__ __forceinline__ index_t first_row() const { return first_; }

    /// f(r, p, vector) for all vectors of this lane, r < rows.
    template <class F>
    __device__ __forceinline__ void for_each(F f) {
#pragma unroll
        for (int r = 0; r < rows; ++r) {
#pragma unroll
            for (int p = 0; p < Vectors; ++p) {
                f(r, p, x_[r][p]);
            }
        }
    }

    /// f(r, p, vector, load(r, p)) for all vectors. Several are loaded before the first is stored, for which later loads would wait.
    template <class Load, class F>
    __device__ __forceinline__ void for_each_with(Load load, F f) {
        constexpr int ahead = Vectors > 1 ? 4 : 2;  // more would cost a block per SM
#pragma unroll
        for (int first = 0; first < rows * Vectors; first += ahead) {
            decltype(load(0, 0)) loaded[ahead];
#pragma unroll
            for (int i = 0; i < ahead; ++i) {
                loaded[i] = load((first + i) / Vectors, (first + i) % Vectors);
            }
#pragma unroll
            for (int i = 0; i < ahead; ++i) {
                f((first + i) / Vectors, (first + i) % Vectors, x_[(first + i) / Vectors][(first + i) % Vectors],
                  loaded[i]);
            }
        }
    }

    /// x_r <- x_r + sum_j c_jr v_j, c_jr = coefficient(v_j . x_r, j, r). Every thread of the block calls it.
    template <class F>
    __device__ __forceinline__ void add_basis(F coefficient) {
        for (index_t first = 0; first < v_.rank; first += slab_) {
            stage(first);
            for (index_t j = 0; j < slab_ && first + j < v_.rank; j += at_once) {
                add_some(staged_ + j * width, first + j, coefficient);
            }
        }
    }

private:
    static constexpr int size = vector<A>::size;
    static constexpr int coefficient_vectors = (Lanes + size - 1) / size;
    static constexpr int at_once = Lanes / rows;  // basis vectors: every lane ends up with one sum

    /// f(p) for the vectors that the rows reach.
    template <class F>
    __device__ __forceinline__ void for_used_vectors(F f) {
#pragma unroll
        for (int p = 0; p < Vectors; ++p) {
            if (p == 0 || p * Lanes * size < v_.width) {
                f(p);
            }
        }
    }

    /// Copies basis vectors from `first` on to shared memory, unless they are there.
    __device__ __forceinline__ void stage(index_t first) {
        if (first == first_staged_) {
            return;
        }
        __syncthreads();  // the previous slab has been read
        for (index_t at = threadIdx.x; at < slab_ * width; at += threads_per_block) {
            const index_t j = first + at / width;
            const index_t c = at % width;
            staged_[at] = j < v_.rank && c < v_.width ? v_.data[j * v_.width + c] : A(0);
        }
        __syncthreads();
        first_staged_ = first;
    }

    __device__ static index_t tile_number() { return static_cast<index_t>(threadIdx.x) / Lanes; }

    __device__ static vector<A> vector_of(const A* slab, int j, int p) {
        return *reinterpret_cast<const vector<A>*>(slab + j * width + (p * Lanes + lane() % Lanes) * vector<A>::size);
    }

    template <class F>
    __device__ __forceinline__ void add_some(const A* slab, index_t first, F coefficient) {
        A sum[Lanes] = {};
        for_used_vectors([&](int p) {
#pragma unroll
            for (int j = 0; j < at_once; ++j) {
                const vector<A> v = vector_of(slab, j, p);
#pragma unroll
                for (int i = 0; i < size; ++i) {
#pragma unroll
                    for (int r = 0; r < rows; ++r) {
                        sum[j * rows + r] += x_[r][p].at[i] * v.at[i];
                    }
                }
            }
        });
        const A mine = sum_to_lanes<Lanes>(sum);
        const int me = lane() % Lanes;
        const index_t j_of_mine = first + me / rows;
        coefficients_[me / size].at[me % size] = j_of_mine < v_.rank ? coefficient(mine, j_of_mine, me % rows) : A(0);
        __syncwarp();
        for_used_vectors([&](int p) {
#pragma unroll
            for (int j = 0; j < at_once; ++j) {
                const vector<A> v = vector_of(slab, j, p);
#pragma unroll
                for (int r = 0; r < rows; ++r) {
                    const A c = coefficients_[(j * rows + r) / size].at[(j * rows + r) % size];
#pragma unroll
                    for (int i = 0; i < size; ++i) {
                        x_[r][p].at[i] += c * v.at[i];
                    }
                }
            }
        });
        __syncwarp();  // the coefficients have been read
    }

    basis_view<A> v_;
    index_t slab_;
    A* staged_;
    vector<A>* coefficients_;  // of this tile, [Lanes]
    index_t first_staged_ = -1;
    index_t first_ = 0;
    vector<A> x_[rows][Vectors];
};

/// A tile of one row of any width in shared memory, per warp; the basis is read from global memory.
template <class A>
class shared_memory_tile {
public:
    using arithmetic = A;
    static constexpr bool only_aligned = false;
    static constexpr int lanes = warp_lanes;
    static constexpr int blocks = 3;
    static constexpr int rows = 1;

    static tile_launch launch_for(const basis_view<A>& v) {
        constexpr index_t most = 65536 / static_cast<index_t>(sizeof(A));
        const index_t warps = most / room_for(v.width);
        const index_t used = warps < 1 ? 1 : warps > 8 ? 8 : warps;
        return {static_cast<int>(used) * warp_lanes, 0, static_cast<std::size_t>(used * room_for(v.width))};
    }

    __device__ shared_memory_tile(A* shared, const basis_view<A>& v, index_t)
        : v_(v),
          x_(reinterpret_cast<vector<A>*>(shared +
                                          static_cast<index_t>(threadIdx.x) / warp_lanes * room_for(v.width))) {}

    __device__ __forceinline__ void begin(index_t first) { row_ = first; }
    __device__ __forceinline__ index_t first_row() const { return row_; }

    template <class F>
    __device__ __forceinline__ void for_each(F f) {
        for (index_t p = 0; column_of(p) < v_.width; ++p) {
            f(0, p, x_[p * warp_lanes + lane()]);  // a lane reads and writes its own vectors only
        }
    }

    template <class Load, class F>
    __device__ __forceinline__ void for_each_with(Load load, F f) {
        for_each([&](int r, index_t p, vector<A>& x) { f(r, p, x, load(r, p)); });
    }

    template <class F>
    __device__ __forceinline__ void add_basis(F coefficient) {
        for (index_t j = 0; j < v_.rank; ++j) {
            const A* direction = v_.data + j * v_.width;
            A sum = 0;
            for_each([&](int, index_t p, const vector<A>& x) {
                for (int i = 0; i < size && column_of(p) + i < v_.width; ++i) {
                    sum += x.at[i] * direction[column_of(p) + i];
                }
            });
            const A c = coefficient(warp_sum(sum), j, 0);
            for_each([&](int, index_t p, vector<A>& x) {
                for (int i = 0; i < size && column_of(p) + i < v_.width; ++i) {
                    x.at[i] += c * direction[column_of(p) + i];
                }
            });
        }
    }

private:
    static constexpr int size = vector<A>::size;

    __host__ __device__ static index_t room_for(index_t width) { return (width + size - 1) / size * size; }
    __device__ static index_t column_of(index_t p) { return (p * warp_lanes + lane()) * size; }

    basis_view<A> v_;
    vector<A>* x_;
    index_t row_ = 0;
};

/// f(std::type_identity<Tile>) with the fastest tile for rows of a width; `Rows` rows per tile from width 33 to 256. float64 has one
/// tile for all widths: it is rarely used, and each tile takes long to compile.
template <class A, int Rows, class F>
cudaError_t with_tile(index_t width, bool aligned, F f) {
    if constexpr (std::is_same_v<A, double>) {
        return f(std::type_identity<shared_memory_tile<A>>{});
    } else {
        const index_t wide = aligned ? width : width + widest_row;  // unaligned rows use the tile of all widths
        return width <= 8     ? f(std::type_identity<register_tile<A, 2, 1, 2>>{})
               : width <= 32  ? f(std::type_identity<register_tile<A, 8, 1, 4>>{})
               : wide <= 256  ? f(std::type_identity<register_tile<A, 32, 2, Rows>>{})
               : wide <= 1024 ? f(std::type_identity<register_tile<A, 32, 8, 2>>{})
                              : f(std::type_identity<shared_memory_tile<A>>{});
    }
}

}  // namespace isic::inline ISIC_ABI::cuda::detail
