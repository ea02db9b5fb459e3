// SPDX-License-Identifier: Apache-2.0
// Blocks of rows in float64, processed on several threads. The blocks depend on the width of the rows only, so sums per block are
// the same for any number of threads.
#pragma once

#include <algorithm>
#include <exception>
#include <memory>
#include <type_traits>
#include <vector>

#include <isic/detail/eigen_view.hpp>
#include <isic/detail/kernels/kernels.hpp>
#include <isic/detail/kernels/parallel.hpp>

namespace isic::inline ISIC_ABI::detail {

/// Memory for a block of rows. Each row begins a cache line, so that equal rows have equal norms to the bit.
class row_block {
public:
    row_block(index_t rows, index_t width)
        : width_(width), stride_((width + 7) / 8 * 8), values_(static_cast<std::size_t>(rows * stride_)) {}

    double* data() { return values_.data(); }
    index_t stride() const { return stride_; }
    /// The first n rows.
    auto top(index_t n) {
        using rows = Eigen::Map<row_matrix, Eigen::Aligned64, Eigen::OuterStride<>>;
        return rows(values_.data(), n, width_, Eigen::OuterStride<>(stride_));
    }
    auto row(index_t i) { return Eigen::Map<vector, Eigen::Aligned64>(values_.data() + i * stride_, width_); }

private:
    index_t width_;
    index_t stride_;
    detail::buffer<double> values_;
};

/// x <- V diag(w) V^T x for the rows x of a block.
class part_in_subspace {
public:
    /// v [d x r]; w [r] or empty: all 1. w must outlive it.
    template <class V>
    part_in_subspace(const V& v, std::span<const double> weights, simd level)
        : rows_(v.transpose()), weights_(weights), level_(level) {}

    /// x: the first n rows. residual: a block of the same size, set to x (I - V diag(w) V^T).
    void operator()(row_block& x, row_block& residual, index_t n, std::pmr::memory_resource& memory) const {
        std::copy(x.data(), x.data() + n * x.stride(), residual.data());
        if (rows_.rows() > 0) {
            kernels::project(
                residual.data(), n, rows_.cols(), residual.stride(),
                {.basis = rows_.data(), .rank = rows_.rows(), .weights = weights_.empty() ? nullptr : weights_.data()},
                {.threads = 1, .simd = level_, .scratch = &memory});
        }
        for (index_t i = 0; i < n; ++i) {
            x.row(i) -= residual.row(i);
        }
    }

private:
    row_matrix rows_;  // V^T
    std::span<const double> weights_;
    simd level_;
};

/// Scratch memory of a thread for kernels.
using kernel_memory = std::unique_ptr<scratch_memory>;

/// Splits rows into blocks that fit a core's own cache.
struct blocks_of_rows {
    blocks_of_rows(index_t n, index_t width) : rows(n), length(std::clamp<index_t>(16384 / width, 8, 512)) {}
    index_t count() const { return (rows + length - 1) / length; }

    index_t rows;
    index_t length;
};

/// Calls work(tools, first row, number of rows) for every block. make() makes the tools of each thread before it starts. An
/// exception of work is rethrown when all threads have ended.
template <class Make, class Work>
void for_each_block(const blocks_of_rows& blocks, int threads, const Make& make, const Work& work) {
    const kernels::row_ranges ranges(blocks.rows, threads, blocks.length);
    std::vector<decltype(make())> tools;
    for (index_t i = 0; i < ranges.count(); ++i) {
        tools.push_back(make());
    }
    std::vector<std::exception_ptr> errors(tools.size());
    kernels::for_each_range(ranges, [&](index_t i, index_t begin, index_t end) {
        try {
            for (index_t start = begin; start < end; start += blocks.length) {
                work(tools[static_cast<std::size_t>(i)], start, std::min(blocks.length, end - start));
            }
        } catch (...) {
            errors[static_cast<std::size_t>(i)] = std::current_exception();
        }
    });
    for (const std::exception_ptr& error : errors) {
        if (error) {
            std::rethrow_exception(error);
        }
    }
}

/// `for_each_block` for work that returns a value. Returns the values in the order of the blocks.
template <class Make, class Work>
auto results_of_blocks(const blocks_of_rows& blocks, int threads, const Make& make, const Work& work) {
    using tools_of_thread = decltype(make());
    std::vector<std::invoke_result_t<Work, tools_of_thread&, index_t, index_t>> out(
        static_cast<std::size_t>(blocks.count()));
    for_each_block(blocks, threads, make, [&](tools_of_thread& tools, index_t start, index_t n) {
        out[static_cast<std::size_t>(start / blocks.length)] = work(tools, start, n);
    });
    return out;
}

}  // namespace isic::inline ISIC_ABI::detail
