/// \file
/// What the formulas in rows.cu share: rows in the registers of a group of lanes or, if they are too wide for that, in shared
/// memory, to which directions are added in the arithmetic A of the rows.
#pragma once

#include <type_traits>

#include "rows.cuh"

namespace isic::inline ISIC_ABI::cuda {

// Values as A

/// 16 bytes of A, which a lane reads in one go.
template <class A>
struct alignas(16) pack {
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

/// x / y, in float to two roundings: no branch for what is denormal. Zero for |y| > 2^126.
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

/// The square root, in float to a last place or two: no branch for what is denormal, which counts as zero.
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

/// As many values of T as a pack has.
template <class T, int Size>
struct alignas(sizeof(T) * Size) stored_pack {
    T at[Size];
};

/// Whether every pack of T begins where one may be read in one go.
template <class A, class T, class M>
__host__ __device__ bool is_aligned(const M& m) {
    constexpr int size = pack<A>::size;
    return reinterpret_cast<std::uintptr_t>(m.data) % (size * sizeof(T)) == 0 && m.stride % size == 0 &&
           m.cols % size == 0;
}

/// A row that one thread goes through, divided by its norm if asked: four values are read in one go where that may be, for the threads
/// of a warp are in as many lines of the cache.
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

    /// Columns [column, column + 4); behind the last one, 0.
    __device__ __forceinline__ four load(index_t column) const {
        four out{};
        if (packed_ && column < rows_.cols) {
            const float* from = static_cast<const float*>(rows_.data) + i_ * rows_.stride + column;
            const auto values = *reinterpret_cast<const pack<float>*>(from);
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
    const rows_in& rows_;
    index_t i_;
    double norm_;
    bool packed_;
};

/// A lane's packs of a group's rows, read and written as T; what lies outside reads as 0 and is not written. Where row 0 and pack 0 of
/// the lane lie is worked out once.
template <class Group, class T, bool Aligned>
class lane_packs {
public:
    using A = typename Group::arithmetic;
    static constexpr int size = pack<A>::size;
    using stored = stored_pack<T, size>;

    __device__ __forceinline__ lane_packs(const rows_out& m, index_t row)
        : start_(static_cast<T*>(m.data) + row * m.stride + lane() % Group::lanes * size),
          stride_(m.stride),
          rows_(m.rows - row),
          cols_(m.cols - lane() % Group::lanes * size) {}

    __device__ __forceinline__ pack<A> load(int r, index_t p) const {
        pack<A> out{};
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

    __device__ __forceinline__ void store(int r, index_t p, const pack<A>& values) const {
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
    static constexpr int step = Group::lanes * size;

    __device__ __forceinline__ bool is_inside(int r, index_t p) const { return r < rows_ && p * step < cols_; }
    __device__ __forceinline__ T* place(int r, index_t p) const { return start_ + r * stride_ + p * step; }

    T* start_;
    index_t stride_;
    index_t rows_;  // from the group's first
    index_t cols_;  // from the lane's first
};

__device__ inline rows_out unconst(const rows_in& m) {
    return {const_cast<void*>(m.data), m.type, m.rows, m.cols, m.stride};
}
__device__ inline const rows_out& unconst(const rows_out& m) {
    return m;
}

/// f(lane_packs) of a group's rows of T. The branch is outside of the loops over a row, so that its loads do not wait for each other.
template <class T, class Group, class M, class F>
__device__ __forceinline__ void with_packs_of(const Group& g, const M& m, F f) {
    if (Group::only_aligned || is_aligned<typename Group::arithmetic, T>(m)) {
        f(lane_packs<Group, T, true>(unconst(m), g.first_row()));
    } else if constexpr (!Group::only_aligned) {
        f(lane_packs<Group, T, false>(unconst(m), g.first_row()));
    }
}

/// The same of any storage whose arithmetic is the group's.
template <class Group, class M, class F>
__device__ __forceinline__ void with_packs(const Group& g, const M& m, F f) {
    if constexpr (std::is_same_v<typename Group::arithmetic, double>) {
        with_packs_of<double>(g, m, f);
    } else {
        switch (m.type) {
            case dtype::f32: with_packs_of<float>(g, m, f); break;
            case dtype::f16: with_packs_of<half_bits>(g, m, f); break;
            default: with_packs_of<bfloat_bits>(g, m, f); break;
        }
    }
}

/// Whether groups that read aligned packs only may be used.
template <class A, class M>
bool may_read_packs(const M& m) {
    if constexpr (std::is_same_v<A, double>) {
        return is_aligned<A, double>(m);
    } else {
        return m.type == dtype::f32 ? is_aligned<A, float>(m) : is_aligned<A, half_bits>(m);
    }
}

// Rows

/// The sum over a group of as many lanes as there are values of value l, in lane l. At each step a lane gives half of its sums away, and adds what it is
/// given to the others: one shuffle for a sum, not one for a sum and step.
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

/// How a kernel over groups is launched.
struct group_launch {
    int threads;
    index_t slab;       ///< directions in shared memory at a time
    std::size_t shared;  ///< values of A in shared memory, for the groups
};

/// A few rows in the registers of a group of lanes, a pack of each per lane `Packs` times. All directions, or a slab of them,
/// are in shared memory, and what is read of one serves all rows.
template <class A, int Lanes, int Packs, int Rows>
class rows_in_registers {
public:
    using arithmetic = A;
    static constexpr bool only_aligned = Lanes == warp_lanes;  ///< else twice the code, which is long
    static constexpr int lanes = Lanes;
    static constexpr int blocks = Packs > 2 ? 1 : Packs == 2 ? 2 : 3;  ///< on a processor at a time, none of whose registers spill
    static constexpr int rows = Rows;
    static constexpr int width = Lanes * Packs * pack<A>::size;  ///< of the widest row

    static group_launch launch_for(const directions_in<A>& v) {
        constexpr index_t most = 65536 / (width * static_cast<index_t>(sizeof(A))) / at_once * at_once;
        const index_t all = (v.rank + at_once - 1) / at_once * at_once;
        const index_t slab = all < most ? all : most;
        return {threads_per_block, slab, static_cast<std::size_t>(slab * width + threads_per_block / Lanes * packs_of_coefficients * size)};
    }

    __device__ rows_in_registers(A* shared, const directions_in<A>& v, index_t slab)
        : v_(v), slab_(slab), staged_(shared),
          coefficients_(reinterpret_cast<pack<A>*>(shared + slab * width) + group_number() * packs_of_coefficients) {}

    /// The rows of this group in the block's tile begin with this one.
    __device__ __forceinline__ void begin(index_t first) { first_ = first; }

    __device__ __forceinline__ index_t first_row() const { return first_; }

    /// f(r, p, pack) of all packs of this lane, r < rows.
    template <class F>
    __device__ __forceinline__ void for_each(F f) {
#pragma unroll
        for (int r = 0; r < rows; ++r) {
#pragma unroll
            for (int p = 0; p < Packs; ++p) {
                f(r, p, x_[r][p]);
            }
        }
    }

    /// f(r, p, pack, load(r, p)) of all packs. Some are loaded before the first of them is stored: later loads would wait for that.
    template <class Load, class F>
    __device__ __forceinline__ void for_each_with(Load load, F f) {
        constexpr int ahead = Packs > 1 ? 4 : 2;  // more would cost a block on the processor
#pragma unroll
        for (int first = 0; first < rows * Packs; first += ahead) {
            decltype(load(0, 0)) loaded[ahead];
#pragma unroll
            for (int i = 0; i < ahead; ++i) {
                loaded[i] = load((first + i) / Packs, (first + i) % Packs);
            }
#pragma unroll
            for (int i = 0; i < ahead; ++i) {
                f((first + i) / Packs, (first + i) % Packs, x_[(first + i) / Packs][(first + i) % Packs], loaded[i]);
            }
        }
    }

    /// x_r <- x_r + sum_j c_jr v_j, c_jr = coefficient(v_j . x_r, j, r). Every thread of the block calls it.
    template <class F>
    __device__ __forceinline__ void add_directions(F coefficient) {
        for (index_t first = 0; first < v_.rank; first += slab_) {
            stage(first);
            for (index_t j = 0; j < slab_ && first + j < v_.rank; j += at_once) {
                add_some(staged_ + j * width, first + j, coefficient);
            }
        }
    }

private:
    static constexpr int size = pack<A>::size;
    static constexpr int packs_of_coefficients = (Lanes + size - 1) / size;
    static constexpr int at_once = Lanes / rows;  // directions: then every lane ends up with one sum

    /// f(p) of the packs that rows reach into.
    template <class F>
    __device__ __forceinline__ void for_used_packs(F f) {
#pragma unroll
        for (int p = 0; p < Packs; ++p) {
            if (p == 0 || p * Lanes * size < v_.width) {
                f(p);
            }
        }
    }

    /// Directions from `first` to shared memory, unless they are there.
    __device__ __forceinline__ void stage(index_t first) {
        if (first == first_staged_) {
            return;
        }
        __syncthreads();  // the last slab is not needed any more
        for (index_t at = threadIdx.x; at < slab_ * width; at += threads_per_block) {
            const index_t j = first + at / width;
            const index_t c = at % width;
            staged_[at] = j < v_.rank && c < v_.width ? v_.directions[j * v_.width + c] : A(0);
        }
        __syncthreads();
        first_staged_ = first;
    }

    __device__ static index_t group_number() { return static_cast<index_t>(threadIdx.x) / Lanes; }

    __device__ static pack<A> pack_of(const A* directions, int j, int p) {
        return *reinterpret_cast<const pack<A>*>(directions + j * width + (p * Lanes + lane() % Lanes) * pack<A>::size);
    }

    template <class F>
    __device__ __forceinline__ void add_some(const A* directions, index_t first, F coefficient) {
        A sum[Lanes] = {};
        for_used_packs([&](int p) {
#pragma unroll
            for (int j = 0; j < at_once; ++j) {
                const pack<A> v = pack_of(directions, j, p);
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
        for_used_packs([&](int p) {
#pragma unroll
            for (int j = 0; j < at_once; ++j) {
                const pack<A> v = pack_of(directions, j, p);
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

    directions_in<A> v_;
    index_t slab_;
    A* staged_;
    pack<A>* coefficients_;  // of this group, [Lanes]
    index_t first_staged_ = -1;
    index_t first_ = 0;
    pack<A> x_[rows][Packs];
};

/// A row of any width in shared memory, for each warp; directions are read where they lie.
template <class A>
class row_in_shared_memory {
public:
    using arithmetic = A;
    static constexpr bool only_aligned = false;
    static constexpr int lanes = warp_lanes;
    static constexpr int blocks = 3;
    static constexpr int rows = 1;

    static group_launch launch_for(const directions_in<A>& v) {
        constexpr index_t most = 65536 / static_cast<index_t>(sizeof(A));
        const index_t warps = most / room_for(v.width);
        const index_t used = warps < 1 ? 1 : warps > 8 ? 8 : warps;
        return {static_cast<int>(used) * warp_lanes, 0, static_cast<std::size_t>(used * room_for(v.width))};
    }

    __device__ row_in_shared_memory(A* shared, const directions_in<A>& v, index_t)
        : v_(v), x_(reinterpret_cast<pack<A>*>(shared + static_cast<index_t>(threadIdx.x) / warp_lanes * room_for(v.width))) {}

    __device__ __forceinline__ void begin(index_t first) { row_ = first; }
    __device__ __forceinline__ index_t first_row() const { return row_; }

    template <class F>
    __device__ __forceinline__ void for_each(F f) {
        for (index_t p = 0; column_of(p) < v_.width; ++p) {
            f(0, p, x_[p * warp_lanes + lane()]);  // a lane keeps to its own packs
        }
    }

    template <class Load, class F>
    __device__ __forceinline__ void for_each_with(Load load, F f) {
        for_each([&](int r, index_t p, pack<A>& x) { f(r, p, x, load(r, p)); });
    }

    template <class F>
    __device__ __forceinline__ void add_directions(F coefficient) {
        for (index_t j = 0; j < v_.rank; ++j) {
            const A* direction = v_.directions + j * v_.width;
            A sum = 0;
            for_each([&](int, index_t p, const pack<A>& x) {
                for (int i = 0; i < size && column_of(p) + i < v_.width; ++i) {
                    sum += x.at[i] * direction[column_of(p) + i];
                }
            });
            const A c = coefficient(warp_sum(sum), j, 0);
            for_each([&](int, index_t p, pack<A>& x) {
                for (int i = 0; i < size && column_of(p) + i < v_.width; ++i) {
                    x.at[i] += c * direction[column_of(p) + i];
                }
            });
        }
    }

private:
    static constexpr int size = pack<A>::size;

    __host__ __device__ static index_t room_for(index_t width) { return (width + size - 1) / size * size; }
    __device__ static index_t column_of(index_t p) { return (p * warp_lanes + lane()) * size; }

    directions_in<A> v_;
    pack<A>* x_;
    index_t row_ = 0;
};

/// f(std::type_identity<Group>) of the group that holds rows of a width best, `Rows` of them up to a width of 256. float64 has one group
/// for all widths: few use it, and each group is long to compile.
template <class A, int Rows, class F>
cudaError_t with_group(index_t width, bool aligned, F f) {
    if constexpr (std::is_same_v<A, double>) {
        return f(std::type_identity<row_in_shared_memory<A>>{});
    } else {
        const index_t wide = aligned ? width : width + widest_row;  // what cannot be read in packs goes where all widths may
        return width <= 8     ? f(std::type_identity<rows_in_registers<A, 2, 1, 2>>{})
               : width <= 32  ? f(std::type_identity<rows_in_registers<A, 8, 1, 4>>{})
               : wide <= 256  ? f(std::type_identity<rows_in_registers<A, 32, 2, Rows>>{})
               : wide <= 1024 ? f(std::type_identity<rows_in_registers<A, 32, 8, 2>>{})
                              : f(std::type_identity<row_in_shared_memory<A>>{});
    }
}

}  // namespace isic::inline ISIC_ABI::cuda
