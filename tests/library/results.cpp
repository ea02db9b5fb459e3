// SPDX-License-Identifier: Apache-2.0
// Prints hashes of results, one per line: `kernels NAME HASH` for the SIMD kernels, `float64 NAME HASH` for the rest. Compiled
// over the library and header-only; both print the same at the same SIMD level.
//
//   results          at the best level; the first line says which: `simd LEVEL`
//   results LEVEL    at that level
#include <isic/isic.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

namespace {

std::uint64_t hash(const void* data, std::size_t size, std::uint64_t seed = 14695981039346656037U) {
    const auto* const bytes = static_cast<const unsigned char*>(data);
    for (std::size_t i = 0; i < size; ++i) {
        seed = (seed ^ bytes[i]) * 1099511628211U;
    }
    return seed;
}

template <class T>
std::uint64_t hash(const isic::matrix<T>& m) {
    return hash(m.data(), static_cast<std::size_t>(m.rows() * m.cols()) * sizeof(T));
}

template <class T>
std::uint64_t hash(const std::vector<T>& v) {
    return hash(v.data(), v.size() * sizeof(T));
}

void print(const char* kind, const std::string& name, std::uint64_t value) {
    std::printf("%s %s %016llx\n", kind, name.c_str(), static_cast<unsigned long long>(value));
}

struct random_matrices {
    std::mt19937_64 engine{7};

    template <class T>
    isic::matrix<T> draw(isic::index_t rows, isic::index_t cols) {
        isic::matrix<T> out(rows, cols);
        for (isic::index_t i = 0; i < rows * cols; ++i) {
            out.data()[i] = static_cast<T>(static_cast<float>(static_cast<double>(engine() >> 11) * 0x1p-52 - 1.0));
        }
        return out;
    }
};

/// r orthonormal columns, by Gram-Schmidt in plain loops: the same for every compiler and its flags.
isic::subspace random_subspace(random_matrices& random, isic::index_t d, isic::index_t r) {
    isic::subspace out{.basis = random.draw<double>(d, r)};
    for (int pass = 0; pass < 2; ++pass) {
        for (isic::index_t j = 0; j < r; ++j) {
            const auto dot = [&](isic::index_t k) {
                double sum = 0;
                for (isic::index_t i = 0; i < d; ++i) {
                    sum += out.basis(i, j) * out.basis(i, k);
                }
                return sum;
            };
            for (isic::index_t k = 0; k < j; ++k) {
                const double part = dot(k);
                for (isic::index_t i = 0; i < d; ++i) {
                    out.basis(i, j) -= part * out.basis(i, k);
                }
            }
            const double norm = std::sqrt(dot(j));
            for (isic::index_t i = 0; i < d; ++i) {
                out.basis(i, j) /= norm;
            }
        }
    }
    return out;
}

template <class T>
void kernels(const isic::execution& exec, const std::string& type) {
    random_matrices random;
    for (const isic::index_t d : {3, 4, 8, 33, 64, 256}) {
        for (const isic::index_t r : {1, 4, 12}) {
            const std::string shape = type + ", d " + std::to_string(d) + ", r " + std::to_string(r);
            const isic::subspace harm = random_subspace(random, d, std::min(r, d));
            const isic::fused::basis<T> basis(harm);
            isic::matrix<T> codes = random.draw<T>(130, d);
            isic::fused::project_out(codes, basis, {.execution = exec});
            print("kernels", "project_out, " + shape, hash(codes));
            isic::adam_state<T> adam;
            isic::ema_state<T> ema;
            const isic::matrix<T> vectors = random.draw<T>(300, d);
            std::vector<std::int32_t> ids;
            for (int i = 0; i < 300; ++i) {
                ids.push_back(static_cast<std::int32_t>(random.engine() % 130));
            }
            for (int step = 0; step < 3; ++step) {
                const isic::matrix<T> gradient = random.draw<T>(130, d);
                isic::fused::adam_update(codes, gradient, adam, {.rate = 0.1},
                                         {.orthogonal_to = basis, .execution = exec});
                isic::fused::ema_update(codes, vectors, ids, ema, 0.9, {.orthogonal_to = basis, .execution = exec});
            }
            print("kernels", "adam_update and ema_update, " + shape, hash(codes));
        }
        const isic::matrix<T> codes = random.draw<T>(1500, d);
        const isic::matrix<T> vectors = random.draw<T>(200, d);
        print("kernels", "nearest_codes, " + type + ", d " + std::to_string(d),
              hash(isic::nearest_codes(vectors, codes, isic::metric::l2, {}, exec)));
    }
}

template <class T>
void float64(const isic::execution& exec, const std::string& type) {
    random_matrices random;
    for (const isic::index_t d : {3, 8, 48}) {
        const std::string shape = type + ", d " + std::to_string(d);
        const isic::matrix<T> rows = random.draw<T>(90, d);
        const isic::subspace harm = isic::fit_subspace(rows, {.rank = {.fixed = 2}, .execution = exec});
        print("float64", "fit_subspace, " + shape, hash(harm.basis) ^ hash(harm.singular_values));
        const isic::subspace both = isic::merge(harm, isic::span_of(random.draw<double>(d, 1)));
        print("float64", "merge, " + shape, hash(both.basis));
        isic::matrix<T> codes = random.draw<T>(70, d);
        const isic::edit edit = isic::project_out(codes, harm, {.strength = 0.75, .execution = exec});
        print("float64", "project_out, " + shape, hash(codes) ^ edit.fingerprint_after());
        const double leakage = isic::leakage(codes, both, {}, {}, exec).total;
        print("float64", "leakage, " + shape, hash(&leakage, sizeof leakage));
        isic::adam_state<> adam;
        isic::adam_update(codes, random.draw<T>(70, d), adam, {.rate = 0.1},
                          {.orthogonal_to = both, .execution = exec});
        print("float64", "adam_update, " + shape, hash(codes));
        print("float64", "nearest_codes, cosine, " + shape,
              hash(isic::nearest_codes(rows, codes, isic::metric::cosine, {}, exec)));
    }
}

}  // namespace

int main(int argc, char** argv) {
    isic::execution exec;
    if (argc > 1) {
        exec.simd = static_cast<isic::simd>(std::atoi(argv[1]));
    }
    std::printf("simd %d\n", static_cast<int>(exec.simd));
    for (const int threads : {1, 2}) {
        exec.threads = threads;
        const std::string suffix = ", " + std::to_string(threads) + " threads";
        kernels<float>(exec, "float32" + suffix);
        kernels<double>(exec, "float64" + suffix);
        float64<float>(exec, "float32" + suffix);
        float64<double>(exec, "float64" + suffix);
        float64<isic::half>(exec, "float16" + suffix);
        float64<isic::bfloat16>(exec, "bfloat16" + suffix);
    }
}
