// SPDX-License-Identifier: Apache-2.0
/// \file
/// Limits of this machine, measured on one thread: memory bandwidth and the rate of fused multiply-adds.
#pragma once

#include <cstddef>
#include <vector>

namespace isic_bench {

/// CPU time of this thread in seconds, without time spent waiting for a core.
double thread_seconds();

/// x <- s x in place: one read and one write stream, the lower bound of every kernel that works in place.
void scale_in_place(float* x, std::size_t n, float s);

/// Sum of all floats: one read stream.
float read_all(const float* x, std::size_t n);

/// Adam's memory streams, four reads and three writes, with little arithmetic.
void update_streams(float* c, float* m, float* v, const float* g, std::size_t n);

/// Flops of one call of `multiply_add_f32` or `_f64`.
double multiply_add_flops(std::size_t repeats, std::size_t scalar_bytes);

/// Independent chains of fused multiply-adds in the widest registers. Returns a value that depends on every chain.
float multiply_add_f32(std::size_t repeats);
double multiply_add_f64(std::size_t repeats);

/// The median of some times, which are reordered.
double median(std::vector<double>& times);

}  // namespace isic_bench
