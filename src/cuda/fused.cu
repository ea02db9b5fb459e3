// SPDX-License-Identifier: Apache-2.0
// Fused steps: rows are read once, held in registers while basis vectors are added, and written once.
#include "fused_kernels.hpp"
#include "row_tile.cuh"

namespace isic::inline ISIC_ABI::cuda::detail {
namespace {

/// work(first row of the tile) for every tile of rows; blocks take turns. All threads of a block call it together.
template <class Tile, class F>
__device__ __forceinline__ void for_all_rows(Tile& g, index_t count, F work) {
    const index_t tiles = static_cast<index_t>(blockDim.x) / Tile::lanes;
    for (index_t turn = blockIdx.x; turn * tiles * Tile::rows < count; turn += gridDim.x) {
        const index_t first = (turn * tiles + static_cast<index_t>(threadIdx.x) / Tile::lanes) * Tile::rows;
        g.begin(first);
        work(first);
    }
}

/// offsets[j] = v_j . center, computed by the warps of the block; 0 without a centre.
template <class A>
__device__ void project_center(const basis_view<A>& v, const A* center, A* offsets) {
    for (index_t j = static_cast<index_t>(threadIdx.x) / warp_lanes; j < v.rank;
         j += static_cast<index_t>(blockDim.x) / warp_lanes) {
        A sum = 0;
        for (index_t c = lane(); center != nullptr && c < v.width; c += warp_lanes) {
            sum += v.data[j * v.width + c] * center[c];
        }
        sum = warp_sum(sum);
        if (lane() == 0) {
            offsets[j] = sum;
        }
    }
    __syncthreads();
}

template <class A, class Tile>
__global__ void __launch_bounds__(threads_per_block, Tile::blocks)
    project_kernel(projection_step<A> a, index_t slab, index_t tile_values) {
    ISIC_DYN_SHARED(A, shared);
    A* const offsets = shared + tile_values;
    project_center(a.basis, a.center, offsets);
    Tile g(shared, a.basis, slab);
    for_all_rows(g, a.rows.rows, [&](index_t first) {
        const auto strength_of = [&](int r) {
            return first + r >= a.rows.rows ? A(0) : a.strength == nullptr ? a.uniform : a.strength[first + r];
        };
        bool moves[Tile::rows];
#pragma unroll
        for (int r = 0; r < Tile::rows; ++r) {
            moves[r] = strength_of(r) != 0;  // otherwise its bytes stay, NaN too
        }
        with_vectors(g, a.rows,
                     [&](auto rows) { g.for_each([&](int r, index_t p, vector<A>& x) { x = rows.load(r, p); }); });
        g.add_basis([&](A product, index_t j, int r) {
            const A weight = a.weights == nullptr ? A(1) : a.weights[j];
            return strength_of(r) * weight * (offsets[j] - product);
        });
        with_vectors(g, a.rows, [&](auto rows) {
            g.for_each([&](int r, index_t p, const vector<A>& x) {
                if (moves[r]) {
                    rows.store(r, p, x);
                }
            });
        });
    });
}

/// x <- x - V V^T x.
template <class Tile>
__device__ __forceinline__ void project_out_of(Tile& g) {
    g.add_basis([](auto product, index_t, int) { return -product; });
}

/// The rows of a tile that may move.
template <class Tile>
struct free_rows {
    bool may_move[Tile::rows];

    __device__ __forceinline__ free_rows(const std::uint8_t* locked, index_t first, index_t count) {
#pragma unroll
        for (int r = 0; r < Tile::rows; ++r) {
            may_move[r] = first + r < count && (locked == nullptr || locked[first + r] == 0);
        }
    }
};

/// codes += steps, for rows that move.
template <class Tile>
__device__ __forceinline__ void add_steps(const any_device_span& codes, Tile& g, const bool (&moves)[Tile::rows]) {
    with_vectors(g, codes, [&](auto rows) {
        g.for_each_with([&](int r, index_t p) { return rows.load(r, p); },
                        [&](int r, index_t p, const auto& step, auto x) {
                            for (int i = 0; i < step.size; ++i) {
                                x.at[i] += step.at[i];
                            }
                            if (moves[r]) {
                                rows.store(r, p, x);
                            }
                        });
    });
}

/// Flush to zero before the value becomes denormal, as on the CPU.
template <class A>
__device__ A flush_to_zero(A x) {
    return std::fabs(x) < isic::detail::count_floor<A> ? A(0) : x;
}

template <class A>
struct adam_moments {
    vector<A> mean;
    vector<A> square;
};

/// Replaces the moments by the new ones, and the gradient by the step.
template <class A>
__device__ __forceinline__ void advance_adam(const adam_step<A>& a, vector<A>& x, vector<A>& mean, vector<A>& square) {
    for (int i = 0; i < vector<A>::size; ++i) {
        const A g = x.at[i];
        mean.at[i] = flush_to_zero(a.beta1 * mean.at[i] + (1 - a.beta1) * g);
        square.at[i] = flush_to_zero(a.beta2 * square.at[i] + (1 - a.beta2) * g * g);
        x.at[i] = quotient(a.step_scale * mean.at[i], root(square.at[i] * a.inverse_correction2) + a.epsilon);
    }
}

template <class A, class Tile>
__global__ void __launch_bounds__(threads_per_block, Tile::blocks) adam_kernel(adam_step<A> a, index_t slab, index_t) {
    ISIC_DYN_SHARED(A, shared);
    Tile g(shared, a.basis, slab);
    for_all_rows(g, a.codes.rows, [&](index_t first) {
        const free_rows<Tile> free(a.locked, first, a.codes.rows);
        with_vectors(g, a.gradient, [&](auto gradient) {
            g.for_each([&](int r, index_t p, vector<A>& x) { x = gradient.load(r, p); });
        });
        project_out_of(g);
        with_vectors_of<A>(g, a.mean, [&](auto means) {
            // both are isic's memory of one shape: equally aligned
            const decltype(means) squares(a.square, first);
            g.for_each_with([&](int r, index_t p) { return adam_moments<A>{means.load(r, p), squares.load(r, p)}; },
                            [&](int r, index_t p, vector<A>& x, adam_moments<A> old) {
                                advance_adam(a, x, old.mean, old.square);
                                if (free.may_move[r]) {
                                    means.store(r, p, old.mean);
                                    squares.store(r, p, old.square);
                                }
                            });
        });
        project_out_of(g);
        add_steps(a.codes, g, free.may_move);
    });
}

/// The new count of code k, flushed to zero below the count floor.
template <class A>
__device__ A next_count(const ema_step<A>& a, index_t k) {
    const A count = a.decay * a.counts[k] + (1 - a.decay) * static_cast<A>(a.starts[k + 1] - a.starts[k]);
    return count < isic::detail::count_floor<A> ? A(0) : count;
}

/// The new sums, one thread per value; vectors are added in their order. Leaves the counts.
template <class A>
__global__ void decay_kernel(ema_step<A> a) {
    const index_t at = thread_number();
    const index_t k = at / a.codes.cols;
    const index_t c = at % a.codes.cols;
    if (k >= a.codes.rows) {
        return;
    }
    A sum = 0;
    for (std::int64_t t = a.starts[k]; t < a.starts[k + 1]; ++t) {
        sum += static_cast<A>(value_at(a.vectors, a.order[t], c));
    }
    a.sums[at] = next_count(a, k) == 0 ? A(0) : a.decay * a.sums[at] + (1 - a.decay) * sum;
}

template <class A, class Tile>
__global__ void __launch_bounds__(threads_per_block, Tile::blocks) ema_kernel(ema_step<A> a, index_t slab, index_t) {
    ISIC_DYN_SHARED(A, shared);
    Tile g(shared, a.basis, slab);
    const any_device_view sums{a.sums, std::is_same_v<A, double> ? dtype::f64 : dtype::f32, a.codes.rows, a.codes.cols,
                               a.codes.cols};
    for_all_rows(g, a.codes.rows, [&](index_t first) {
        free_rows<Tile> free(a.locked, first, a.codes.rows);
        A share[Tile::rows];
        A count[Tile::rows];
#pragma unroll
        for (int r = 0; r < Tile::rows; ++r) {
            count[r] = first + r < a.codes.rows ? next_count(a, first + r) : A(0);
            free.may_move[r] = free.may_move[r] && count[r] > 0;
            share[r] = count[r] > 0 ? quotient(A(1), count[r]) : A(0);
        }
        __syncwarp();  // all lanes have read the old counts
#pragma unroll
        for (int r = 0; r < Tile::rows; ++r) {
            if (lane() % Tile::lanes == 0 && first + r < a.codes.rows) {
                a.counts[first + r] = count[r];
            }
        }
        with_vectors_of<A>(g, sums, [&](auto rows) {
            g.for_each([&](int r, index_t p, vector<A>& x) {
                x = rows.load(r, p);
                for (int i = 0; i < vector<A>::size; ++i) {
                    x.at[i] *= share[r];
                }
            });
        });
        with_vectors(g, a.codes, [&](auto rows) {
            g.for_each([&](int r, index_t p, vector<A>& x) {
                const vector<A> old = rows.load(r, p);
                for (int i = 0; i < vector<A>::size; ++i) {
                    x.at[i] -= old.at[i];
                }
            });
        });
        project_out_of(g);
        add_steps(a.codes, g, free.may_move);
    });
}

template <class A>
__global__ void start_ema_kernel(any_device_view codes, A* counts, A* sums) {
    const index_t at = thread_number();
    if (at < codes.rows * codes.cols) {
        sums[at] = static_cast<A>(value_at(codes, at / codes.cols, at % codes.cols));
        if (at % codes.cols == 0) {
            counts[at / codes.cols] = 1;
        }
    }
}

/// Launches kernel_of(tile) with as many blocks as fit the device at a time: each stages the basis once.
template <class A, int Rows, class Arguments, class KernelOf>
cudaError_t launch_fused(const Arguments& a, index_t count, index_t own_values, bool aligned, int multiprocessors,
                         cudaStream_t stream, KernelOf kernel_of) {
    return with_tile<A, Rows>(a.basis.width, aligned, [&]<class Tile>(std::type_identity<Tile> type) {
        const tile_launch l = Tile::launch_for(a.basis);
        const index_t rows = l.threads / Tile::lanes * Tile::rows;
        const index_t tiles = (count + rows - 1) / rows;
        const index_t most = Tile::blocks * multiprocessors;
        const std::size_t bytes = (l.shared + static_cast<std::size_t>(own_values)) * sizeof(A);
        return launch(kernel_of(type), dim3(static_cast<unsigned>(tiles < most ? tiles : most)),
                      dim3(static_cast<unsigned>(l.threads)), bytes, stream, a, l.slab, static_cast<index_t>(l.shared));
    });
}

}  // namespace

template <class A>
cudaError_t queue_projection(const projection_step<A>& a, int multiprocessors, cudaStream_t stream) {
    // A value read from the basis serves all rows of a tile. With 4 rows, reading the basis would take as long as reading and writing
    // the rows.
    return launch_fused<A, 8>(a, a.rows.rows, a.basis.rank, may_read_vectors<A>(a.rows), multiprocessors, stream,
                              []<class Tile>(std::type_identity<Tile>) { return project_kernel<A, Tile>; });
}

template <class A>
cudaError_t queue_adam(const adam_step<A>& a, int multiprocessors, cudaStream_t stream) {
    const bool aligned = may_read_vectors<A>(a.codes) && may_read_vectors<A>(a.gradient) &&
                         may_read_vectors<A>(a.mean) && may_read_vectors<A>(a.square);
    return launch_fused<A, 4>(a, a.codes.rows, 0, aligned, multiprocessors, stream,
                              []<class Tile>(std::type_identity<Tile>) { return adam_kernel<A, Tile>; });
}

template <class A>
cudaError_t queue_ema(const ema_step<A>& a, int multiprocessors, cudaStream_t stream) {
    const dim3 blocks = blocks_for(a.codes.rows * a.codes.cols);
    if (const cudaError_t status = launch(decay_kernel<A>, blocks, dim3(threads_per_block), 0, stream, a);
        status != cudaSuccess) {
        return status;
    }
    return launch_fused<A, 4>(a, a.codes.rows, 0, may_read_vectors<A>(a.codes), multiprocessors,
                              stream,  // the sums are contiguous rows
                              []<class Tile>(std::type_identity<Tile>) { return ema_kernel<A, Tile>; });
}

template <class A>
cudaError_t start_ema(any_device_view codes, A* counts, A* sums, cudaStream_t stream) {
    return launch(start_ema_kernel<A>, blocks_for(codes.rows * codes.cols), dim3(threads_per_block), 0, stream, codes,
                  counts, sums);
}

template cudaError_t queue_projection(const projection_step<float>&, int, cudaStream_t);
template cudaError_t queue_projection(const projection_step<double>&, int, cudaStream_t);
template cudaError_t queue_adam(const adam_step<float>&, int, cudaStream_t);
template cudaError_t queue_adam(const adam_step<double>&, int, cudaStream_t);
template cudaError_t queue_ema(const ema_step<float>&, int, cudaStream_t);
template cudaError_t queue_ema(const ema_step<double>&, int, cudaStream_t);
template cudaError_t start_ema(any_device_view, float*, float*, cudaStream_t);
template cudaError_t start_ema(any_device_view, double*, double*, cudaStream_t);

}  // namespace isic::inline ISIC_ABI::cuda::detail
