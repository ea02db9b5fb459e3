// SPDX-License-Identifier: Apache-2.0
#include <isic/cuda/codebook.hpp>

#include <algorithm>

#include <isic/detail/checks.hpp>

#include "checks.hpp"
#include "codebook_kernels.hpp"
#include "metrics_kernels.hpp"

namespace isic::inline ISIC_ABI::cuda::detail {
namespace {

using isic::detail::require;
using isic::detail::require_size;

constexpr std::string_view search_name = "nearest_codes";

index_t panels_of(index_t rows) {
    return (rows + panel_rows - 1) / panel_rows;
}

index_t tiles_of(index_t rows) {
    return (rows + search_tile - 1) / search_tile;
}

/// Padded width of the score kernels.
index_t padded(index_t d) {
    return d <= 4 ? 4 : d <= 8 ? 8 : d <= 16 ? 16 : (d + score_depth - 1) / score_depth * score_depth;
}

/// A layout of arrays in one allocation: seven allocations take as long as all launches of a small query.
class memory_plan {
public:
    /// Reserves n values of T; the returned function gives their address in the memory.
    template <class T>
    auto room_for(index_t n) {
        const std::size_t at = (bytes_ + alignment - 1) / alignment * alignment;
        bytes_ = at + static_cast<std::size_t>(n) * sizeof(T);
        return [at](const scratch<std::byte>& memory) { return reinterpret_cast<T*>(memory.data() + at); };
    }
    index_t bytes() const { return static_cast<index_t>(bytes_); }

private:
    static constexpr std::size_t alignment = 256;  // of allocators

    std::size_t bytes_ = 0;
};

/// Norms of the rows for cosine; none for l2.
scratch<double> norms_of(const std::shared_ptr<state>& s, any_device_view m, metric metric) {
    if (metric == metric::l2) {
        return {};
    }
    scratch<double> norms(s, m.rows);
    check(measure_norms(m, norms.data(), s->stream()), search_name, "measure_norms");
    return norms;
}

}  // namespace

/// float32 panels of a codebook and a view of its rows.
class packed_codebook {
public:
    packed_codebook(const std::shared_ptr<state>& s, any_device_view codes, metric metric,
                    std::span<const index_t> padding)
        : s_(s), codes_(codes), metric_(metric) {
        require_not_empty(search_name, "a codebook", codes);
        const std::vector<bool> is_padding = isic::detail::padding_mask(search_name, padding, codes.rows);
        const auto first = std::ranges::find(is_padding, false);
        require<value_error>(first != is_padding.end(), search_name, "a code that is no padding", "padding only");
        first_ = first - is_padding.begin();
        const device_guard guard(s->device());
        padding_ = padding_mask_of(s, padding, codes.rows, search_name);
        require_finite_rows(s, codes, padding_.data(), search_name, "the codebook");
        pack(std::ranges::count(is_padding, false));
    }

    void nearest(any_device_view vectors, std::int64_t* ids) const {
        require_size(search_name, "columns in the vectors", codes_.cols, vectors.cols);
        if (vectors.rows == 0) {
            return;
        }
        const device_guard guard(s_->device());
        const scratch<double> norms = norms_of(s_, vectors, metric_);
        const scaled_rows queries{vectors, norms.data()};
        const search_memory memory(*this, vectors.rows);
        score(queries, memory);
        rerank(queries, memory, ids);
    }

private:
    /// Working memory of a search of n queries.
    struct search_memory {
        index_t panels_per_split;
        index_t splits;
        index_t blocks;
        query_panels queries;
        best_scores* best;
        std::int64_t* ambiguous;
        unsigned long long* ambiguous_count;
        double* nearest;
        std::int64_t* nearest_ids;
        scratch<std::byte> memory;

        search_memory(const packed_codebook& codes, index_t n)
            : panels_per_split(codes.panels_per_split_for(panels_of(n))),
              splits((panels_of(codes.codes_.rows) + panels_per_split - 1) / panels_per_split),
              blocks(std::min<index_t>(4 * codes.s_->multiprocessors(), tiles_of(n) * tiles_of(codes.codes_.rows))) {
            const index_t width = padded(codes.codes_.cols);
            const index_t padded_queries = panels_of(n) * panel_rows;
            const index_t parts = std::max(n, blocks * search_tile);
            memory_plan plan;
            const auto margins_in = plan.room_for<double>(padded_queries);
            const auto best_in = plan.room_for<best_scores>(splits * padded_queries);
            const auto ambiguous_in = plan.room_for<std::int64_t>(n);
            const auto count_in = plan.room_for<unsigned long long>(1);
            const auto nearest_in = plan.room_for<double>(parts);
            const auto nearest_ids_in = plan.room_for<std::int64_t>(parts);
            const auto values_in = plan.room_for<float>(padded_queries * width);
            memory = scratch<std::byte>(codes.s_, plan.bytes());
            queries = {values_in(memory), margins_in(memory), panels_of(n), width};
            best = best_in(memory);
            ambiguous = ambiguous_in(memory);
            ambiguous_count = count_in(memory);
            nearest = nearest_in(memory);
            nearest_ids = nearest_ids_in(memory);
        }
    };

    /// Queues the float32 scores.
    void score(const scaled_rows& queries, const search_memory& m) const {
        check(pack_queries(queries, center_.data(), largest_norm_.data(), m.queries, s_->stream()), search_name,
              "pack_queries");
        check(least_scores({m.queries, panels(), m.panels_per_split, m.best}, m.splits, s_->stream()), search_name,
              "least_scores");
    }

    /// Queues the float64 distances.
    void rerank(const scaled_rows& queries, const search_memory& m, std::int64_t* ids) const {
        fill_bytes(*s_, m.ambiguous_count, 0, sizeof(unsigned long long));
        check(nearest_codes({.queries = queries,
                             .codes = {codes_, norms_.data()},
                             .padding = padding_.data(),
                             .first = first_,
                             .best = m.best,
                             .splits = m.splits,
                             .padded_queries = m.queries.count * panel_rows,
                             .margins = m.queries.margins,
                             .ambiguous = m.ambiguous,
                             .ambiguous_count = m.ambiguous_count,
                             .blocks = m.blocks,
                             .nearest = m.nearest,
                             .nearest_ids = m.nearest_ids,
                             .ids = ids},
                            s_->stream()),
              search_name, "nearest_codes");
    }

    /// Panels of codes per split: at least eight blocks per SM, which holds two or three at a time, so that the last wave costs little.
    index_t panels_per_split_for(index_t query_panels) const {
        const index_t side_by_side = (query_panels + query_panels_per_block(padded(codes_.cols)) - 1) /
                                     query_panels_per_block(padded(codes_.cols));
        const index_t splits = std::clamp<index_t>((8 * s_->multiprocessors() + side_by_side - 1) / side_by_side, 1,
                                                   panels_of(codes_.rows));
        return (panels_of(codes_.rows) + splits - 1) / splits;
    }

    code_panels panels() const {
        return {values_.data(), half_norms_.data(), panels_of(codes_.rows), padded(codes_.cols), largest_norm_.data()};
    }

    void pack(index_t winners) {
        const index_t rows = panels_of(codes_.rows) * panel_rows;
        norms_ = norms_of(s_, codes_, metric_);
        center_ = scratch<float>(s_, codes_.cols);
        values_ = scratch<float>(s_, rows * padded(codes_.cols));
        half_norms_ = scratch<float>(s_, rows);
        largest_norm_ = scratch<unsigned long long>(s_, 1);
        fill_bytes(*s_, largest_norm_.data(), 0, largest_norm_.bytes());
        const scratch<double> sums(s_, center_parts(codes_.rows) * codes_.cols);
        const scaled_rows codes{codes_, norms_.data()};
        check(center_of_rows(codes, padding_.data(), winners, sums.data(), center_.data(), s_->stream()), search_name,
              "center_of_rows");
        check(pack_codes(codes, padding_.data(), center_.data(), panels(), s_->stream()), search_name, "pack_codes");
    }

    std::shared_ptr<state> s_;
    any_device_view codes_;
    metric metric_;
    index_t first_ = 0;
    scratch<std::uint8_t> padding_;
    scratch<double> norms_;
    scratch<float> center_;  // mean of the codes; subtracted, so that norms are small beside distances
    scratch<float> values_;
    scratch<float> half_norms_;
    scratch<unsigned long long> largest_norm_;
};

std::shared_ptr<const packed_codebook> pack_codebook(const std::shared_ptr<state>& s, any_device_view codes,
                                                     metric metric, std::span<const index_t> padding) {
    return std::make_shared<packed_codebook>(s, codes, metric, padding);
}

void nearest(const packed_codebook& codes, any_device_view vectors, std::int64_t* ids) {
    codes.nearest(vectors, ids);
}

void nearest(const std::shared_ptr<state>& s, any_device_view vectors, any_device_view codes, metric metric,
             std::span<const index_t> padding, std::int64_t* ids) {
    require_not_empty(search_name, "a codebook", codes);
    require_size(search_name, "columns in the vectors", codes.cols, vectors.cols);
    require_finite_rows(s, vectors, nullptr, search_name, "the vectors");
    packed_codebook(s, codes, metric, padding).nearest(vectors, ids);
}

}  // namespace isic::inline ISIC_ABI::cuda::detail
