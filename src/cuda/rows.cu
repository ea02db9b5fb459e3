// The formulas alone: rows are read once, held in registers while directions are added, and written once.
#include "row_groups.cuh"

namespace isic::inline ISIC_ABI::cuda {
namespace {

/// Calls work(first row of the group) for every group of rows; blocks take turns. All threads of a block call it together.
template <class Group, class F>
__device__ __forceinline__ void for_all_rows(Group& g, index_t count, F work) {
    const index_t groups = static_cast<index_t>(blockDim.x) / Group::lanes;
    for (index_t turn = blockIdx.x; turn * groups * Group::rows < count; turn += gridDim.x) {
        const index_t first = (turn * groups + static_cast<index_t>(threadIdx.x) / Group::lanes) * Group::rows;
        g.begin(first);
        work(first);
    }
}

/// offsets[j] = v_j . center, by the warps of the block; 0 without a centre.
template <class A>
__device__ void project_center(const directions_in<A>& v, const A* center, A* offsets) {
    for (index_t j = static_cast<index_t>(threadIdx.x) / warp_lanes; j < v.rank; j += static_cast<index_t>(blockDim.x) / warp_lanes) {
        A sum = 0;
        for (index_t c = lane(); center != nullptr && c < v.width; c += warp_lanes) {
            sum += v.directions[j * v.width + c] * center[c];
        }
        sum = warp_sum(sum);
        if (lane() == 0) {
            offsets[j] = sum;
        }
    }
    __syncthreads();
}

template <class A, class Group>
__global__ void __launch_bounds__(threads_per_block, Group::blocks)
    project_kernel(project_formula<A> a, index_t slab, index_t group_values) {
    ISIC_DYN_SHARED(A, shared);
    A* const offsets = shared + group_values;
    project_center(a.directions, a.center, offsets);
    Group g(shared, a.directions, slab);
    for_all_rows(g, a.rows.rows, [&](index_t first) {
        const auto strength_of = [&](int r) {
            return first + r >= a.rows.rows ? A(0) : a.strength == nullptr ? a.uniform : a.strength[first + r];
        };
        bool moves[Group::rows];
#pragma unroll
        for (int r = 0; r < Group::rows; ++r) {
            moves[r] = strength_of(r) != 0;  // else its bytes stay, NaN too
        }
        with_packs(g, a.rows,
                   [&](auto rows) { g.for_each([&](int r, index_t p, pack<A>& x) { x = rows.load(r, p); }); });
        g.add_directions([&](A product, index_t j, int r) {
            const A weight = a.weights == nullptr ? A(1) : a.weights[j];
            return strength_of(r) * weight * (offsets[j] - product);
        });
        with_packs(g, a.rows, [&](auto rows) {
            g.for_each([&](int r, index_t p, const pack<A>& x) {
                if (moves[r]) {
                    rows.store(r, p, x);
                }
            });
        });
    });
}

/// x <- x - V V^T x.
template <class Group>
__device__ __forceinline__ void take_out_of(Group& g) {
    g.add_directions([](auto product, index_t, int) { return -product; });
}

/// Which of a group's rows may change.
template <class Group>
struct free_rows {
    bool may_move[Group::rows];

    __device__ __forceinline__ free_rows(const std::uint8_t* locked, index_t first, index_t count) {
#pragma unroll
        for (int r = 0; r < Group::rows; ++r) {
            may_move[r] = first + r < count && (locked == nullptr || locked[first + r] == 0);
        }
    }
};

/// Codes of rows that are not held back get their steps.
template <class Group>
__device__ __forceinline__ void add_steps(const rows_out& codes, Group& g, const bool (&moves)[Group::rows]) {
    with_packs(g, codes, [&](auto rows) {
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

/// Moments would soon be denormal, which some devices are slow with and the CPU's loops cut off as well.
template <class A>
__device__ A without_tiny(A x) {
    return std::fabs(x) < tiny<A> ? A(0) : x;
}

template <class A>
struct adam_moments {
    pack<A> mean;
    pack<A> square;
};

/// The new moments, and the step in place of the gradient.
template <class A>
__device__ __forceinline__ void adam_step(const adam_formula<A>& a, pack<A>& x, pack<A>& mean, pack<A>& square) {
    for (int i = 0; i < pack<A>::size; ++i) {
        const A g = x.at[i];
        mean.at[i] = without_tiny(a.beta1 * mean.at[i] + (1 - a.beta1) * g);
        square.at[i] = without_tiny(a.beta2 * square.at[i] + (1 - a.beta2) * g * g);
        x.at[i] = quotient(a.scale * mean.at[i], root(square.at[i] * a.unbias) + a.epsilon);
    }
}

template <class A, class Group>
__global__ void __launch_bounds__(threads_per_block, Group::blocks)
    adam_kernel(adam_formula<A> a, index_t slab, index_t) {
    ISIC_DYN_SHARED(A, shared);
    Group g(shared, a.directions, slab);
    for_all_rows(g, a.codes.rows, [&](index_t first) {
        const free_rows<Group> free(a.locked, first, a.codes.rows);
        with_packs(g, a.gradient,
                   [&](auto gradient) { g.for_each([&](int r, index_t p, pack<A>& x) { x = gradient.load(r, p); }); });
        take_out_of(g);
        with_packs_of<A>(g, a.mean, [&](auto means) {
            // memory of isic's own too, of the same shape: aligned alike
            const decltype(means) squares(a.square, first);
            g.for_each_with([&](int r, index_t p) { return adam_moments<A>{means.load(r, p), squares.load(r, p)}; },
                            [&](int r, index_t p, pack<A>& x, adam_moments<A> old) {
                                adam_step(a, x, old.mean, old.square);
                                if (free.may_move[r]) {
                                    means.store(r, p, old.mean);
                                    squares.store(r, p, old.square);
                                }
                            });
        });
        take_out_of(g);
        add_steps(a.codes, g, free.may_move);
    });
}

/// The new count of code k; 0 where it has faded.
template <class A>
__device__ A next_count(const ema_formula<A>& a, index_t k) {
    const A count = a.decay * a.counts[k] + (1 - a.decay) * static_cast<A>(a.starts[k + 1] - a.starts[k]);
    return count < tiny<A> ? A(0) : count;
}

/// Sums after the new vectors, which are added in their order; a thread for each value. The counts stay what they were.
template <class A>
__global__ void decay_kernel(ema_formula<A> a) {
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

template <class A, class Group>
__global__ void __launch_bounds__(threads_per_block, Group::blocks)
    ema_kernel(ema_formula<A> a, index_t slab, index_t) {
    ISIC_DYN_SHARED(A, shared);
    Group g(shared, a.directions, slab);
    const rows_in sums{a.sums, std::is_same_v<A, double> ? dtype::f64 : dtype::f32, a.codes.rows, a.codes.cols, a.codes.cols};
    for_all_rows(g, a.codes.rows, [&](index_t first) {
        free_rows<Group> free(a.locked, first, a.codes.rows);
        A share[Group::rows];
        A count[Group::rows];
#pragma unroll
        for (int r = 0; r < Group::rows; ++r) {
            count[r] = first + r < a.codes.rows ? next_count(a, first + r) : A(0);
            free.may_move[r] = free.may_move[r] && count[r] > 0;
            share[r] = count[r] > 0 ? quotient(A(1), count[r]) : A(0);
        }
        __syncwarp();  // all lanes have read the old counts
#pragma unroll
        for (int r = 0; r < Group::rows; ++r) {
            if (lane() % Group::lanes == 0 && first + r < a.codes.rows) {
                a.counts[first + r] = count[r];
            }
        }
        with_packs_of<A>(g, sums, [&](auto rows) {
            g.for_each([&](int r, index_t p, pack<A>& x) {
                x = rows.load(r, p);
                for (int i = 0; i < pack<A>::size; ++i) {
                    x.at[i] *= share[r];
                }
            });
        });
        with_packs(g, a.codes, [&](auto rows) {
            g.for_each([&](int r, index_t p, pack<A>& x) {
                const pack<A> old = rows.load(r, p);
                for (int i = 0; i < pack<A>::size; ++i) {
                    x.at[i] -= old.at[i];
                }
            });
        });
        take_out_of(g);
        add_steps(a.codes, g, free.may_move);
    });
}

template <class A>
__global__ void start_ema_kernel(rows_in codes, A* counts, A* sums) {
    const index_t at = thread_number();
    if (at < codes.rows * codes.cols) {
        sums[at] = static_cast<A>(value_at(codes, at / codes.cols, at % codes.cols));
        if (at % codes.cols == 0) {
            counts[at / codes.cols] = 1;
        }
    }
}

/// Launches kernel_of(group) with as many blocks as the device holds at a time, so that none is left over; each stages the directions once.
template <class A, int Rows, class Arguments, class KernelOf>
cudaError_t launch_formula(const Arguments& a, index_t count, index_t own_values, bool aligned, int processors,
                           cudaStream_t stream, KernelOf kernel_of) {
    return with_group<A, Rows>(a.directions.width, aligned, [&]<class Group>(std::type_identity<Group> group) {
        const group_launch l = Group::launch_for(a.directions);
        const index_t rows = l.threads / Group::lanes * Group::rows;
        const index_t tiles = (count + rows - 1) / rows;
        const index_t most = Group::blocks * processors;
        const std::size_t bytes = (l.shared + static_cast<std::size_t>(own_values)) * sizeof(A);
        return launch(kernel_of(group), dim3(static_cast<unsigned>(tiles < most ? tiles : most)), dim3(static_cast<unsigned>(l.threads)), bytes,
                      stream, a, l.slab, static_cast<index_t>(l.shared));
    });
}

}  // namespace

template <class A>
cudaError_t project_by_formula(const project_formula<A>& a, int processors, cudaStream_t stream) {
    // What is read of a direction serves all rows of a group: with 4 of them that would take as long as the rows' own way to and fro.
    return launch_formula<A, 8>(a, a.rows.rows, a.directions.rank, may_read_packs<A>(a.rows), processors, stream,
                                []<class Group>(std::type_identity<Group>) { return project_kernel<A, Group>; });
}

template <class A>
cudaError_t adam_by_formula(const adam_formula<A>& a, int processors, cudaStream_t stream) {
    const bool aligned = may_read_packs<A>(a.codes) && may_read_packs<A>(a.gradient) && may_read_packs<A>(a.mean) && may_read_packs<A>(a.square);
    return launch_formula<A, 4>(a, a.codes.rows, 0, aligned, processors, stream,
                                []<class Group>(std::type_identity<Group>) { return adam_kernel<A, Group>; });
}

template <class A>
cudaError_t ema_by_formula(const ema_formula<A>& a, int processors, cudaStream_t stream) {
    const dim3 blocks = blocks_for(a.codes.rows * a.codes.cols);
    if (const cudaError_t status = launch(decay_kernel<A>, blocks, dim3(threads_per_block), 0, stream, a); status != cudaSuccess) {
        return status;
    }
    return launch_formula<A, 4>(a, a.codes.rows, 0, may_read_packs<A>(a.codes), processors,
                                stream,  // the sums are like rows without gaps
                                []<class Group>(std::type_identity<Group>) { return ema_kernel<A, Group>; });
}

template <class A>
cudaError_t start_ema(rows_in codes, A* counts, A* sums, cudaStream_t stream) {
    return launch(start_ema_kernel<A>, blocks_for(codes.rows * codes.cols), dim3(threads_per_block), 0, stream, codes, counts, sums);
}

template cudaError_t project_by_formula(const project_formula<float>&, int, cudaStream_t);
template cudaError_t project_by_formula(const project_formula<double>&, int, cudaStream_t);
template cudaError_t adam_by_formula(const adam_formula<float>&, int, cudaStream_t);
template cudaError_t adam_by_formula(const adam_formula<double>&, int, cudaStream_t);
template cudaError_t ema_by_formula(const ema_formula<float>&, int, cudaStream_t);
template cudaError_t ema_by_formula(const ema_formula<double>&, int, cudaStream_t);
template cudaError_t start_ema(rows_in, float*, float*, cudaStream_t);
template cudaError_t start_ema(rows_in, double*, double*, cudaStream_t);

}  // namespace isic::inline ISIC_ABI::cuda
