#include <isic/cuda/codebook.hpp>

#include <algorithm>

#include "kernels.hpp"
#include "look.hpp"

namespace isic::inline ISIC_ABI::cuda {
namespace {

using isic::detail::require;
using isic::detail::require_size;

constexpr std::string_view looking_up = "nearest_codes";

index_t panels_of(index_t rows) {
    return (rows + panel_rows - 1) / panel_rows;
}

index_t tiles_of(index_t rows) {
    return (rows + nearest_tile - 1) / nearest_tile;
}

/// Columns with padding, as one of the score kernels takes them.
index_t padded(index_t d) {
    return d <= 4 ? 4 : d <= 8 ? 8 : d <= 16 ? 16 : (d + score_depth - 1) / score_depth * score_depth;
}

void require_codes(rows_in codes) {
    require<shape_error>(codes.rows > 0 && codes.cols > 0, looking_up, "a codebook with rows and columns", fmt::format("{} x {}", codes.rows, codes.cols));
}

/// Arrays in one piece of memory: asking for seven and giving them back takes as long as all launches of a small look-up.
class memory_plan {
public:
    /// Room for n values of T; the function finds them in the memory.
    template <class T>
    auto room_for(index_t n) {
        const std::size_t at = (bytes_ + alignment - 1) / alignment * alignment;
        bytes_ = at + static_cast<std::size_t>(n) * sizeof(T);
        return [at](const scratch<std::byte>& memory) { return reinterpret_cast<T*>(memory.data() + at); };
    }
    index_t bytes() const { return static_cast<index_t>(bytes_); }

private:
    static constexpr std::size_t alignment = 256;  // as of what an allocator gives

    std::size_t bytes_ = 0;
};

/// Norms that rows are divided by; none without a need.
scratch<double> norms_of(const std::shared_ptr<state>& s, rows_in m, metric metric) {
    if (metric == metric::l2) {
        return {};
    }
    scratch<double> norms(s, m.rows);
    check(measure_norms(m, norms.data(), s->stream()), looking_up, "measure_norms");
    return norms;
}

}  // namespace

/// Float32 panels of a codebook, and where its rows lie.
class packed_codebook {
public:
    packed_codebook(const std::shared_ptr<state>& s, rows_in codes, metric metric, std::span<const index_t> padding) : s_(s), codes_(codes), metric_(metric) {
        require_codes(codes);
        const std::vector<bool> is_padding = isic::detail::padding_mask(looking_up, padding, codes.rows);
        const auto first = std::ranges::find(is_padding, false);
        require<value_error>(first != is_padding.end(), looking_up, "a code that is no padding", "padding only");
        first_ = first - is_padding.begin();
        const on_device guard(s->device());
        padding_ = padding_mask_of(s, padding, codes.rows, looking_up);
        require_finite_rows(s, codes, padding_.data(), looking_up, "the codebook");
        pack(std::ranges::count(is_padding, false));
    }

    void nearest(rows_in vectors, std::int64_t* ids) const {
        require_size(looking_up, "columns in the vectors", codes_.cols, vectors.cols);
        if (vectors.rows == 0) {
            return;
        }
        const on_device guard(s_->device());
        const scratch<double> norms = norms_of(s_, vectors, metric_);
        const scaled_rows queries{vectors, norms.data()};
        const index_t n = vectors.rows;
        const index_t padded_queries = panels_of(n) * panel_rows;
        const index_t panels_per_split = panels_per_split_for(panels_of(n));
        const index_t splits = (panels_of(codes_.rows) + panels_per_split - 1) / panels_per_split;
        const index_t blocks = std::min<index_t>(4 * s_->processors(), tiles_of(n) * tiles_of(codes_.rows));
        const index_t parts = std::max(n, blocks * nearest_tile);
        memory_plan plan;
        const auto margins = plan.room_for<double>(padded_queries);
        const auto found = plan.room_for<found_scores>(splits * padded_queries);
        const auto open = plan.room_for<std::int64_t>(n);
        const auto open_count = plan.room_for<unsigned long long>(1);
        const auto best = plan.room_for<double>(parts);
        const auto best_ids = plan.room_for<std::int64_t>(parts);
        const auto values = plan.room_for<float>(padded_queries * padded(codes_.cols));
        const scratch<std::byte> memory(s_, plan.bytes());
        const query_panels packed{values(memory), margins(memory), panels_of(n), padded(codes_.cols)};
        check(pack_queries(queries, center_.data(), largest_norm_.data(), packed, s_->stream()), looking_up,
              "pack_queries");
        check(least_scores({packed, panels(), panels_per_split, found(memory)}, splits, s_->stream()), looking_up,
              "least_scores");
        fill_bytes(*s_, open_count(memory), 0, sizeof(unsigned long long));
        check(nearest_codes({.queries = queries,
                             .codes = {codes_, norms_.data()},
                             .padding = padding_.data(),
                             .first = first_,
                             .found = found(memory),
                             .splits = splits,
                             .padded_queries = padded_queries,
                             .margins = margins(memory),
                             .open = open(memory),
                             .open_count = open_count(memory),
                             .blocks = blocks,
                             .best = best(memory),
                             .best_ids = best_ids(memory),
                             .ids = ids},
                            s_->stream()),
              looking_up, "nearest_codes");
    }

private:
    /// So that there are enough blocks, of which a device holds two or three per processor, for the last ones not to matter.
    index_t panels_per_split_for(index_t query_panels) const {
        const index_t side_by_side = (query_panels + query_panels_per_block(padded(codes_.cols)) - 1) / query_panels_per_block(padded(codes_.cols));
        const index_t splits = std::clamp<index_t>((8 * s_->processors() + side_by_side - 1) / side_by_side, 1, panels_of(codes_.rows));
        return (panels_of(codes_.rows) + splits - 1) / splits;
    }

    code_panels panels() const { return {values_.data(), half_norms_.data(), panels_of(codes_.rows), padded(codes_.cols), largest_norm_.data()}; }

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
        check(center_of_rows(codes, padding_.data(), winners, sums.data(), center_.data(), s_->stream()), looking_up, "center_of_rows");
        check(pack_codes(codes, padding_.data(), center_.data(), panels(), s_->stream()), looking_up, "pack_codes");
    }

    std::shared_ptr<state> s_;
    rows_in codes_;
    metric metric_;
    index_t first_ = 0;
    scratch<std::uint8_t> padding_;
    scratch<double> norms_;
    scratch<float> center_;  // of the codes, taken off: norms become small beside distances
    scratch<float> values_;
    scratch<float> half_norms_;
    scratch<unsigned long long> largest_norm_;
};

std::shared_ptr<const packed_codebook> pack_codebook(const std::shared_ptr<state>& s, rows_in codes, metric metric, std::span<const index_t> padding) {
    return std::make_shared<packed_codebook>(s, codes, metric, padding);
}

void nearest(const packed_codebook& codes, rows_in vectors, std::int64_t* ids) {
    codes.nearest(vectors, ids);
}

void nearest(const std::shared_ptr<state>& s, rows_in vectors, rows_in codes, metric metric, std::span<const index_t> padding, std::int64_t* ids) {
    require_codes(codes);
    require_size(looking_up, "columns in the vectors", codes.cols, vectors.cols);
    require_finite_rows(s, vectors, nullptr, looking_up, "the vectors");
    packed_codebook(s, codes, metric, padding).nearest(vectors, ids);
}

}  // namespace isic::inline ISIC_ABI::cuda
