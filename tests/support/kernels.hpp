// SPDX-License-Identifier: Apache-2.0
/// \file
/// Helpers of the tests of the SIMD kernels: levels, shapes, guarded matrices.
#pragma once

#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

#include <isic/detail/kernels/kernels.hpp>

namespace isic_test::kernels {

using isic::index_t;
using isic::simd;

inline constexpr index_t widths[] = {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 100, 256, 1000};
inline constexpr index_t counts[] = {0, 1, 2, 3, 7, 8, 9, 63, 64, 65, 1000};

/// The SIMD levels of this machine.
inline std::vector<simd> levels() {
    std::vector<simd> out;
    for (const simd level : {simd::baseline, simd::avx2, simd::avx512, simd::avx512_vnni}) {
        if (level <= isic::best_simd()) {
            out.push_back(level);
        }
    }
    return out;
}

/// Whether an n x d matrix is small enough for a loop over all other parameters.
inline bool affordable(index_t n, index_t d) {
    return n * d <= 20'000;
}

inline std::size_t at(index_t i) {
    return static_cast<std::size_t>(i);
}

/// A matrix with gaps between its rows, one value off alignment, and guard values in the gaps and around it.
template <class T>
struct guarded {
    guarded(index_t n, index_t d, unsigned seed, double scale = 1, double shift = 0, index_t gap = 3)
        : rows(n), cols(d), stride(d + gap) {
        memory.assign(at(1 + n * stride + 5), guard);
        std::mt19937 random(seed);
        std::normal_distribution<double> draw;
        for (index_t i = 0; i < n; ++i) {
            for (index_t k = 0; k < d; ++k) {
                (*this)(i, k) = static_cast<T>(shift + scale * draw(random));
            }
        }
    }

    T* data() { return memory.data() + 1; }
    const T* data() const { return memory.data() + 1; }
    T& operator()(index_t i, index_t k) { return data()[i * stride + k]; }
    double operator()(index_t i, index_t k) const { return static_cast<double>(data()[i * stride + k]); }
    const T* row(index_t i) const { return data() + i * stride; }

    void set_row(index_t i, T value) { std::fill_n(data() + i * stride, cols, value); }

    bool guards_untouched() const {
        bool kept = memory[0] == guard;
        for (std::size_t k = 1; k < memory.size(); ++k) {
            const auto offset = static_cast<index_t>(k) - 1;
            const bool inside = offset < rows * stride && offset % stride < cols;
            kept = kept && (inside || memory[k] == guard);
        }
        return kept;
    }

    bool same_row(const guarded& other, index_t i) const {
        return std::memcmp(row(i), other.row(i), sizeof(T) * at(cols)) == 0;
    }

    static constexpr T guard = T(12345);
    index_t rows;
    index_t cols;
    index_t stride;
    std::vector<T> memory;
};

}  // namespace isic_test::kernels
