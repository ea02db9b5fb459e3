// SPDX-License-Identifier: Apache-2.0
// The library's public functions and the limits of the machine, callable from Python: bench.py loads this with ctypes. What
// is timed takes `repeats`, so that a call of microseconds is not timed together with the way into it.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>

#include <isic/codebook.hpp>
#include <isic/execution.hpp>
#include <isic/fused.hpp>
#include <isic/subspace.hpp>

#include "limits.hpp"

namespace {

using isic::index_t;
using view = isic::matrix_view<float>;
using span = isic::matrix_span<float>;

/// What Python keeps between calls.
struct kept {
    kept() = default;
    kept(const kept&) = delete;
    kept& operator=(const kept&) = delete;
    virtual ~kept() = default;
};

struct kept_basis : kept {
    explicit kept_basis(const isic::subspace& harm) : rows(harm) {}
    isic::fused::basis<float> rows;
};

struct kept_index : kept {
    explicit kept_index(view codes) : index(codes) {}
    isic::code_index index;
};

struct kept_adam : kept {
    isic::adam_state<float> state;
};

struct kept_ema : kept {
    isic::ema_state<float> state;
};

isic::execution on(int threads) {
    return {.threads = threads};
}

/// The compiler must take it that somebody reads what was written.
void seen() {
    asm volatile("" ::: "memory");
}

}  // namespace

extern "C" {

const char* isic_bench_compiler() {
#if defined(__clang__)
    return "clang++ " __VERSION__;
#else
    return "g++ " __VERSION__;
#endif
}

const char* isic_bench_simd() {
    switch (isic::best_simd()) {
        case isic::simd::avx512_vnni: return "AVX-512 VNNI";
        case isic::simd::avx512: return "AVX-512";
        case isic::simd::avx2: return "AVX2";
        default: return "baseline";
    }
}

void isic_bench_free(kept* object) {
    delete object;
}

/// Orthonormal columns [d x r].
kept* isic_bench_basis(const double* columns, index_t d, index_t r) {
    isic::subspace harm;
    harm.basis = isic::matrix<double>(d, r);
    std::copy_n(columns, d * r, harm.basis.data());
    return new kept_basis(harm);
}

void isic_bench_project(const kept* basis, float* rows, index_t n, index_t d, int threads, index_t repeats) {
    for (index_t i = 0; i < repeats; ++i) {
        isic::fused::project_out(span(rows, n, d), static_cast<const kept_basis*>(basis)->rows,
                                 {.execution = on(threads)});
    }
}

kept* isic_bench_index(const float* codes, index_t count, index_t d) {
    return new kept_index(view(codes, count, d));
}

void isic_bench_nearest(const kept* index, const float* vectors, index_t n, index_t d, std::int64_t* ids, int threads,
                        index_t repeats) {
    for (index_t i = 0; i < repeats; ++i) {
        std::ranges::copy(static_cast<const kept_index*>(index)->index.nearest(view(vectors, n, d), on(threads)), ids);
    }
}

kept* isic_bench_adam_state() {
    return new kept_adam;
}

void isic_bench_adam(float* codes, const float* gradient, index_t count, index_t d, const kept* basis, kept* state,
                     int threads, index_t repeats) {
    const isic::fused::constraint<float> limits{.orthogonal_to = static_cast<const kept_basis*>(basis)->rows,
                                                .execution = on(threads)};
    for (index_t i = 0; i < repeats; ++i) {
        isic::fused::adam_update(span(codes, count, d), view(gradient, count, d), static_cast<kept_adam*>(state)->state,
                                 {.epsilon = 1e-3}, limits);
    }
}

kept* isic_bench_ema_state() {
    return new kept_ema;
}

void isic_bench_ema(float* codes, index_t count, index_t d, const float* vectors, const std::int64_t* ids, index_t n,
                    const kept* basis, kept* state, int threads, index_t repeats) {
    const isic::fused::constraint<float> limits{.orthogonal_to = static_cast<const kept_basis*>(basis)->rows,
                                                .execution = on(threads)};
    for (index_t i = 0; i < repeats; ++i) {
        isic::fused::ema_update(span(codes, count, d), view(vectors, n, d), std::span(ids, static_cast<std::size_t>(n)),
                                static_cast<kept_ema*>(state)->state, 0.99, limits);
    }
}

/// V [d x r] of rows [n x d].
void isic_bench_subspace(const float* rows, index_t n, index_t d, index_t r, double* columns, int threads,
                         index_t repeats) {
    for (index_t i = 0; i < repeats; ++i) {
        const isic::subspace found =
            isic::fit_subspace(view(rows, n, d), {.rank = {.fixed = r}, .execution = on(threads)});
        std::copy_n(found.basis.data(), d * r, columns);
    }
}

/// Adds to the upper triangle of `gram` [d x d].
void isic_bench_gram(const float* rows, index_t n, index_t d, double* gram, int threads, index_t repeats) {
    for (index_t i = 0; i < repeats; ++i) {
        isic::detail::kernels::add_gram(rows, n, d, d, gram, nullptr, on(threads));
    }
}

void isic_bench_limit_scale(float* x, index_t n, index_t repeats) {
    for (index_t i = 0; i < repeats; ++i) {
        isic_bench::scale_in_place(x, static_cast<std::size_t>(n), 1.0f);
        seen();
    }
}

void isic_bench_limit_copy(float* to, const float* from, index_t n, index_t repeats) {
    for (index_t i = 0; i < repeats; ++i) {
        std::memcpy(to, from, 4 * static_cast<std::size_t>(n));
        seen();
    }
}

float isic_bench_limit_read(const float* x, index_t n, index_t repeats) {
    float all = 0;
    for (index_t i = 0; i < repeats; ++i) {
        all += isic_bench::read_all(x, static_cast<std::size_t>(n));
        seen();
    }
    return all;
}

void isic_bench_limit_update(float* c, float* m, float* v, const float* g, index_t n, index_t repeats) {
    for (index_t i = 0; i < repeats; ++i) {
        isic_bench::update_streams(c, m, v, g, static_cast<std::size_t>(n));
        seen();
    }
}

/// Flops of `rounds` of the next two.
double isic_bench_fma_flops(index_t rounds, int f64) {
    return isic_bench::multiply_add_flops(static_cast<std::size_t>(rounds), f64 != 0 ? 8 : 4);
}

double isic_bench_limit_fma(index_t rounds, int f64) {
    return f64 != 0 ? isic_bench::multiply_add_f64(static_cast<std::size_t>(rounds))
                    : static_cast<double>(isic_bench::multiply_add_f32(static_cast<std::size_t>(rounds)));
}
}
