/// \file
/// What this machine can do at best, measured: memory streams and the rate of fused multiply-adds of one thread.
#pragma once

#include <cstddef>
#include <vector>

namespace isic_bench {

/// CPU time of this thread in seconds; waiting for a core does not count.
double thread_seconds();

/// x <- s x over floats in place: one read and one write stream that no kernel in place can beat.
void scale_in_place(float* x, std::size_t n, float s);

/// Sum of all floats: one read stream.
float read_all(const float* x, std::size_t n);

/// Four read and three write streams with hardly any arithmetic, as Adam has.
void update_streams(float* c, float* m, float* v, const float* g, std::size_t n);

/// Flops of one call of `multiply_add_f32` or `_f64`.
double multiply_add_flops(std::size_t repeats, std::size_t scalar_bytes);

/// Chains of fused multiply-adds in the widest registers; returns something that depends on all of them.
float multiply_add_f32(std::size_t repeats);
double multiply_add_f64(std::size_t repeats);

/// The middle of some times; reorders them.
double median(std::vector<double>& times);

}  // namespace isic_bench
