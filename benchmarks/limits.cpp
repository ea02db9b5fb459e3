// SPDX-License-Identifier: Apache-2.0
#include "limits.hpp"

#include <algorithm>
#include <ctime>

#include <isic/execution.hpp>

#if defined(__x86_64__)
#define ISIC_TARGET(name) __attribute__((target(name)))
#define ISIC_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define ISIC_CLONES
#endif

namespace isic_bench {

double thread_seconds() {
    timespec t{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

ISIC_CLONES void scale_in_place(float* x, std::size_t n, float s) {
    for (std::size_t i = 0; i < n; ++i) {
        x[i] *= s;
    }
}

ISIC_CLONES float read_all(const float* x, std::size_t n) {
    constexpr std::size_t chains = 128;
    float sum[chains] = {};
    for (std::size_t i = 0; i + chains <= n; i += chains) {
        for (std::size_t j = 0; j < chains; ++j) {
            sum[j] += x[i + j];
        }
    }
    float all = 0;
    for (const float s : sum) {
        all += s;
    }
    return all;
}

ISIC_CLONES void update_streams(float* __restrict c, float* __restrict m, float* __restrict v,
                                const float* __restrict g, std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) {
        m[i] += g[i];
        v[i] -= g[i];
        c[i] += m[i] + v[i];
    }
}

namespace {

constexpr std::size_t chains = 12;  // more than two units times a latency of four cycles

template <class T, std::size_t Bytes>
[[gnu::always_inline]] inline T multiply_add(std::size_t repeats) {
    typedef T vec __attribute__((vector_size(Bytes)));
    vec a[chains];
    for (std::size_t i = 0; i < chains; ++i) {
        a[i] = vec{} + static_cast<T>(i);
    }
    const vec b = vec{} + T(0.999);
    const vec c = vec{} + T(0.001);
    for (std::size_t k = 0; k < repeats; ++k) {
#pragma GCC unroll 12
        for (std::size_t i = 0; i < chains; ++i) {
            a[i] = a[i] * b + c;
        }
    }
    T sum = 0;
    for (const vec& x : a) {
        for (std::size_t i = 0; i < Bytes / sizeof(T); ++i) {
            sum += x[i];
        }
    }
    return sum;
}

std::size_t register_bytes() {
    switch (isic::best_simd()) {
        case isic::simd::avx512:
        case isic::simd::avx512_vnni: return 64;
        case isic::simd::avx2: return 32;
        default: return 16;
    }
}

#if defined(__x86_64__)
template <class T>
ISIC_TARGET("avx512f")
T multiply_add_512(std::size_t repeats) {
    return multiply_add<T, 64>(repeats);
}
template <class T>
ISIC_TARGET("avx2,fma")
T multiply_add_256(std::size_t repeats) {
    return multiply_add<T, 32>(repeats);
}
#endif

template <class T>
T widest_multiply_add(std::size_t repeats) {
#if defined(__x86_64__)
    if (register_bytes() == 64) {
        return multiply_add_512<T>(repeats);
    }
    if (register_bytes() == 32) {
        return multiply_add_256<T>(repeats);
    }
#endif
    return multiply_add<T, 16>(repeats);
}

}  // namespace

double multiply_add_flops(std::size_t repeats, std::size_t scalar_bytes) {
    return 2.0 * static_cast<double>(repeats * chains * (register_bytes() / scalar_bytes));
}

float multiply_add_f32(std::size_t repeats) {
    return widest_multiply_add<float>(repeats);
}
double multiply_add_f64(std::size_t repeats) {
    return widest_multiply_add<double>(repeats);
}

double median(std::vector<double>& times) {
    const auto middle = times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2);
    std::nth_element(times.begin(), middle, times.end());
    return *middle;
}

}  // namespace isic_bench
