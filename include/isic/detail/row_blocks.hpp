/// \file
/// Loops over blocks of rows on several threads. The blocks depend on the width of the rows only, so sums per block, added in order,
/// do not depend on the number of threads.
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

/// Float64 memory for a block of rows. Every row is aligned to a cache line, so equal rows have bitwise equal norms.
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
    /// v [d x r]; w [r], a view whose memory must outlive the object; empty: all 1.
    template <class V>
    part_in_subspace(const V& v, std::span<const double> weights, simd level)
        : rows_(v.transpose()), weights_(weights), level_(level) {}

    /// x <- V diag(w) V^T x for the first n rows; `rest`, of the size of x, is overwritten.
    void operator()(row_block& x, row_block& rest, index_t n, std::pmr::memory_resource& memory) const {
        std::copy(x.data(), x.data() + n * x.stride(), rest.data());
        if (rows_.rows() > 0) {
            kernels::project(rest.data(), n, rows_.cols(), rest.stride(),
                             {.basis = rows_.data(), .rank = rows_.rows(), .weights = weights_.empty() ? nullptr : weights_.data()},
                             {.threads = 1, .simd = level_, .scratch = &memory});
        }
        for (index_t i = 0; i < n; ++i) {
            x.row(i) -= rest.row(i);
        }
    }

private:
    row_matrix rows_;  // V^T
    std::span<const double> weights_;
    simd level_;
};

/// Scratch memory of one thread for kernels.
using kernel_memory = std::unique_ptr<scratch_memory>;

/// A partition of n rows into blocks that fit the private cache of a core.
struct blocks_of_rows {
    blocks_of_rows(index_t n, index_t width) : rows(n), length(std::clamp<index_t>(16384 / width, 8, 512)) {}
    index_t count() const { return (rows + length - 1) / length; }

    index_t rows;
    index_t length;
};

/// Calls work(memory, first row, rows) for every block on several threads. make() creates the memory of each thread before they
/// start. An exception of work is rethrown after all threads have ended.
template <class Make, class Work>
void for_each_block(const blocks_of_rows& blocks, int threads, const Make& make, const Work& work) {
    const kernels::row_ranges ranges(blocks.rows, threads, blocks.length);
    std::vector<decltype(make())> memory;
    for (index_t i = 0; i < ranges.count(); ++i) {
        memory.push_back(make());
    }
    std::vector<std::exception_ptr> errors(memory.size());
    kernels::for_each_range(ranges, [&](index_t i, index_t begin, index_t end) {
        try {
            for (index_t start = begin; start < end; start += blocks.length) {
                work(memory[static_cast<std::size_t>(i)], start, std::min(blocks.length, end - start));
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

/// The same for work with a result; returns the results in the order of the blocks.
template <class Make, class Work>
auto results_of_blocks(const blocks_of_rows& blocks, int threads, const Make& make, const Work& work) {
    using thread_memory = decltype(make());
    std::vector<std::invoke_result_t<Work, thread_memory&, index_t, index_t>> out(static_cast<std::size_t>(blocks.count()));
    for_each_block(blocks, threads, make, [&](thread_memory& memory, index_t start, index_t n) {
        out[static_cast<std::size_t>(start / blocks.length)] = work(memory, start, n);
    });
    return out;
}

}  // namespace isic::inline ISIC_ABI::detail
