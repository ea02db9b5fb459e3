#pragma once

// Codes packed for look-ups: in panels of float32, by place where they are narrow, in bytes too where they are wide.
#include <isic/detail/kernels/kd_tree.hpp>
#include <isic/detail/kernels/parallel.hpp>
#include <isic/detail/kernels/query.hpp>

namespace isic::inline ISIC_ABI::detail::kernels {

/// Whether look-ups leave out enough codes to be faster by an index.
inline bool is_worth_an_index(index_t codes, index_t width) {
    return width <= widest_by_place ? codes >= many_codes : codes * width >= many_byte_values;
}

ISIC_INLINE code_packing packing_for(index_t vectors, index_t d) {
    const index_t few = d <= widest_by_place ? 4096 : 64;
    return vectors < few ? code_packing::plain : code_packing::best;
}

template <class T>
packed_codes<T>::packed_codes(const T* codes, index_t count, index_t d, index_t stride, const std::uint8_t* padding,
                              simd level, code_packing packing)
    : codes_(codes), count_(count), width_(d), stride_(stride), level_(level), center_(static_cast<std::size_t>(d)) {
    const index_t panel = shape_of_tile(level, d).codes();
    const index_t room = std::max<index_t>((count + panel - 1) / panel, 1) * panel;
    const std::vector<index_t> winners = find_winners(padding);
    panels_.assign(static_cast<std::size_t>(room * d), 0.0F);
    half_norms_.assign(static_cast<std::size_t>(room), std::numeric_limits<float>::infinity());
    for (const index_t k : winners) {
        pack(k, panel);
    }
    if (packing == code_packing::indexed || (packing == code_packing::best && is_worth_an_index(count, d))) {
        const index_t lanes = lanes_of_search(level);
        if (lanes > 0 && d <= widest_by_place && count <= std::numeric_limits<panel_id>::max()) {
            places_ = place_codes(codes, d, stride, center_.data(), winners, lanes);
        }
        pack_in_bytes(winners);
    }
}

template <class T>
std::vector<index_t> packed_codes<T>::find_winners(const std::uint8_t* padding) {
    std::vector<index_t> winners;
    std::vector<double> mean(static_cast<std::size_t>(width_));
    for (index_t k = 0; k < count_; ++k) {
        const T* const c = codes_ + k * stride_;
        if ((padding != nullptr && padding[k] != 0) || !all_finite(c, width_)) {
            continue;
        }
        winners.push_back(k);
        const double share = 1 / static_cast<double>(winners.size());
        for (std::size_t j = 0; j < mean.size(); ++j) {
            mean[j] += (static_cast<double>(c[j]) - mean[j]) * share;
        }
    }
    // The mean of the largest numbers may be none.
    std::ranges::transform(mean, center_.begin(), [](double x) { return std::isfinite(x) ? static_cast<T>(x) : T(0); });
    first_ = winners.empty() ? 0 : winners.front();
    return winners;
}

template <class T>
void packed_codes<T>::pack(index_t code, index_t panel) {
    float* const to = panels_.data() + code / panel * panel * width_ + code % panel;
    double square = 0;
    for (index_t j = 0; j < width_; ++j) {
        const float x = packed_difference(codes_[code * stride_ + j], center_[static_cast<std::size_t>(j)]);
        to[j * panel] = x;
        square += static_cast<double>(x) * static_cast<double>(x);
    }
    const double limit = static_cast<double>(std::numeric_limits<float>::max());
    half_norms_[static_cast<std::size_t>(code)] = static_cast<float>(std::min(square / 2, limit));
    largest_norm_ = std::max(largest_norm_, std::sqrt(square) * (1 + 1e-9));
}

template <class T>
void packed_codes<T>::pack_in_bytes(const std::vector<index_t>& winners) {
    const byte_kernels* const kernels = byte_kernels_at(level_);
    if (kernels == nullptr || width_ < narrowest_in_bytes || width_ > widest_in_bytes) {
        return;
    }
    constexpr index_t panel = byte_tile::codes;
    const index_t quads = fours(width_);
    bytes_.assign(half_norms_.size() * static_cast<std::size_t>(quads), 0);
    byte_scales_.assign(half_norms_.size(), 0.0F);
    detail::buffer<float> row(static_cast<std::size_t>(whole_vectors(width_)));
    detail::buffer<std::int8_t> rounded(row.size());
    for (const index_t k : winners) {
        difference(codes_ + k * stride_, center_.data(), width_, row.data());
        const rounded_row code = kernels->round(row.data(), width_, rounded.data());
        if (code.scale == 0) {  // what it lost has no unit
            bytes_.clear();
            return;
        }
        std::int32_t* const to = bytes_.data() + k / panel * panel * quads + k % panel;
        for (index_t j = 0; j < quads; ++j) {
            std::uint8_t four[4];
            for (index_t i = 0; i < 4; ++i) {
                four[i] = static_cast<std::uint8_t>(rounded[static_cast<std::size_t>(4 * j + i)] + 128);
            }
            hwy::CopyBytes<4>(four, to + j * panel);
        }
        byte_scales_[static_cast<std::size_t>(k)] = code.scale;
        const double lost = lost_by(code, width_);
        byte_lost_ = std::max(byte_lost_, lost);
        byte_norm_ = std::max(byte_norm_, std::sqrt(static_cast<double>(code.square)) * (1 + 1e-6) + lost);
    }
}

template <class T>
void packed_codes<T>::nearest(const T* vectors, index_t n, index_t stride, index_t* ids, double* distances,
                              const execution& exec) const {
    if (n == 0) {
        return;
    }
    const tile_shape shape = shape_of_tile(level_, width_);
    // Narrow vectors: the minima of a block stay in L1. Wide ones: the codes come by seldom, the block stays in L2.
    const index_t fit = (index_t{1} << 19) / (width_ * static_cast<index_t>(sizeof(float))) / shape.queries * shape.queries;
    const index_t block = std::min(std::clamp(fit, shape.queries, width_ < wide_code ? index_t{64} : index_t{256}),
                                   (n + shape.queries - 1) / shape.queries * shape.queries);
    const auto panels = static_cast<index_t>(half_norms_.size()) / shape.codes();
    const placed_codes placed = places_ == nullptr ? placed_codes{} : places_->view();
    const byte_codes bytes{bytes_.data(), byte_scales_.data(), half_norms_.data(),
                           static_cast<index_t>(half_norms_.size()) / byte_tile::codes, fours(width_)};
    const look_up<T> job{{panels_.data(), half_norms_.data(), panels, width_},
                         {codes_, count_, width_, stride_, half_norms_.data()},
                         places_ == nullptr ? nullptr : &placed,
                         bytes_.empty() ? nullptr : byte_kernels_at(level_), bytes, byte_norm_, byte_lost_,
                         center_.data(), largest_norm_, first_, shape, level_, block, vectors, stride, ids, distances};
    const double values = static_cast<double>(n) * static_cast<double>(width_);
    const row_ranges ranges(n, threads_for(exec, values * sizeof(T), 2 * values * static_cast<double>(count_)));
    detail::buffer<look_up_space<T>> spaces(exec.scratch);
    spaces.reserve(static_cast<std::size_t>(ranges.count()));
    for (index_t i = 0; i < ranges.count(); ++i) {
        spaces.emplace_back(block, width_, shape, places_.get(), bytes_.empty() ? 0 : width_, exec.scratch);
    }
    for_each_range(ranges, [&](index_t i, index_t begin, index_t end) {
        job.run(begin, end, spaces[static_cast<std::size_t>(i)]);
    });
}

}  // namespace isic::inline ISIC_ABI::detail::kernels
