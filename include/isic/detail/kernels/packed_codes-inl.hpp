// SPDX-License-Identifier: Apache-2.0
#pragma once

// Codes packed for nearest-neighbour search: float32 panels, a k-d tree for small d, int8 codes for larger d.
#include <isic/detail/kernels/kd_tree.hpp>
#include <isic/detail/kernels/nearest_search.hpp>
#include <isic/detail/kernels/parallel.hpp>

namespace isic::inline ISIC_ABI::detail::kernels {

/// Whether an index of K codes makes queries faster.
inline bool index_pays_off(index_t codes, index_t width) {
    return width <= max_kd_tree_d ? codes >= min_kd_tree_codes : codes * width >= min_int8_size;
}

ISIC_INLINE code_packing packing_for(index_t queries, index_t d) {
    const index_t break_even = d <= max_kd_tree_d ? 4096 : 64;
    return queries < break_even ? code_packing::flat : code_packing::best;
}

template <class T>
packed_codes<T>::packed_codes(const T* codes, index_t count, index_t d, index_t stride, const std::uint8_t* padding,
                              simd level, code_packing packing)
    : codes_(codes), count_(count), width_(d), stride_(stride), level_(level), center_(static_cast<std::size_t>(d)) {
    const index_t panel = tile_shape_for(level, d).codes();
    const index_t capacity = std::max<index_t>((count + panel - 1) / panel, 1) * panel;
    const std::vector<index_t> eligible = find_eligible(padding);
    panels_.assign(static_cast<std::size_t>(capacity * d), 0.0F);
    half_norms_.assign(static_cast<std::size_t>(capacity), std::numeric_limits<float>::infinity());
    for (const index_t id : eligible) {
        pack(id, panel);
    }
    if (packing == code_packing::indexed || (packing == code_packing::best && index_pays_off(count, d))) {
        const index_t lanes = kd_search_lanes(level);
        if (lanes > 0 && d <= max_kd_tree_d && count <= std::numeric_limits<index32>::max()) {
            tree_ = build_kd_tree(codes, d, stride, center_.data(), eligible, lanes);
        }
        pack_int8(eligible);
    }
}

template <class T>
std::vector<index_t> packed_codes<T>::find_eligible(const std::uint8_t* padding) {
    std::vector<index_t> eligible;
    std::vector<double> mean(static_cast<std::size_t>(width_));
    for (index_t k = 0; k < count_; ++k) {
        const T* const c = codes_ + k * stride_;
        if ((padding != nullptr && padding[k] != 0) || !all_finite(c, width_)) {
            continue;
        }
        eligible.push_back(k);
        const double share = 1 / static_cast<double>(eligible.size());
        for (std::size_t j = 0; j < mean.size(); ++j) {
            mean[j] += (static_cast<double>(c[j]) - mean[j]) * share;
        }
    }
    // The mean of the largest values may overflow.
    std::ranges::transform(mean, center_.begin(), [](double x) { return std::isfinite(x) ? static_cast<T>(x) : T(0); });
    first_ = eligible.empty() ? 0 : eligible.front();
    return eligible;
}

template <class T>
void packed_codes<T>::pack(index_t id, index_t panel) {
    float* const to = panels_.data() + id / panel * panel * width_ + id % panel;
    double square = 0;
    for (index_t j = 0; j < width_; ++j) {
        const float x = float32_difference(codes_[id * stride_ + j], center_[static_cast<std::size_t>(j)]);
        to[j * panel] = x;
        square += static_cast<double>(x) * static_cast<double>(x);
    }
    const double limit = static_cast<double>(std::numeric_limits<float>::max());
    half_norms_[static_cast<std::size_t>(id)] = static_cast<float>(std::min(square / 2, limit));
    largest_norm_ = std::max(largest_norm_, std::sqrt(square) * (1 + 1e-9));
}

template <class T>
void packed_codes<T>::pack_int8(const std::vector<index_t>& eligible) {
    const int8_kernels* const kernels = int8_kernels_at(level_);
    if (kernels == nullptr || width_ < min_int8_d || width_ > max_int8_d) {
        return;
    }
    constexpr index_t panel = int8_tile::codes;
    const index_t quads = quads_of(width_);
    int8_values_.assign(half_norms_.size() * static_cast<std::size_t>(quads), 0);
    int8_scales_.assign(half_norms_.size(), 0.0F);
    detail::buffer<float> row(static_cast<std::size_t>(padded_width(width_)));
    detail::buffer<std::int8_t> quantised(row.size());
    for (const index_t id : eligible) {
        float32_difference(codes_ + id * stride_, center_.data(), width_, row.data());
        const int8_row code = kernels->quantise(row.data(), width_, quantised.data());
        if (code.scale == 0) {  // the quantisation error has no unit
            int8_values_.clear();
            return;
        }
        std::int32_t* const to = int8_values_.data() + id / panel * panel * quads + id % panel;
        for (index_t j = 0; j < quads; ++j) {
            std::uint8_t quad[4];
            for (index_t i = 0; i < 4; ++i) {
                quad[i] = static_cast<std::uint8_t>(quantised[static_cast<std::size_t>(4 * j + i)] + 128);
            }
            hwy::CopyBytes<4>(quad, to + j * panel);
        }
        int8_scales_[static_cast<std::size_t>(id)] = code.scale;
        const double error = quantisation_error(code, width_);
        int8_error_ = std::max(int8_error_, error);
        int8_norm_ = std::max(int8_norm_, std::sqrt(static_cast<double>(code.squared_norm)) * (1 + 1e-6) + error);
    }
}

/// Queries of a block: for small d, their minima stay in L1; for large d, where each panel is read once per block, the
/// packed queries stay in L2. At most `n` of them, rounded up to whole tiles.
inline index_t queries_of_block(index_t n, index_t width, index_t tile) {
    constexpr index_t l2_bytes = index_t{1} << 19;
    const index_t fit = l2_bytes / (width * static_cast<index_t>(sizeof(float))) / tile * tile;
    const index_t largest = width < large_d ? 64 : 256;
    return std::min(std::clamp(fit, tile, largest), (n + tile - 1) / tile * tile);
}

template <class T>
void packed_codes<T>::nearest(const T* vectors, index_t n, index_t stride, index_t* ids, double* distances,
                              const execution& exec) const {
    if (n == 0) {
        return;
    }
    const tile_shape shape = tile_shape_for(level_, width_);
    const kd_tree_view tree = tree_ == nullptr ? kd_tree_view{} : tree_->view();
    const auto capacity = static_cast<index_t>(half_norms_.size());
    const bool has_int8 = !int8_values_.empty();
    const nearest_search<T> search{
        .panels = {panels_.data(), half_norms_.data(), capacity / shape.codes(), width_},
        .rows = {codes_, count_, width_, stride_, half_norms_.data()},
        .tree = tree_ == nullptr ? nullptr : &tree,
        .kernels = has_int8 ? int8_kernels_at(level_) : nullptr,
        .codes_int8 = {int8_values_.data(), int8_scales_.data(), half_norms_.data(), capacity / int8_tile::codes,
                       quads_of(width_)},
        .int8_norm = int8_norm_,
        .int8_error = int8_error_,
        .center = center_.data(),
        .largest_norm = largest_norm_,
        .first = first_,
        .shape = shape,
        .level = level_,
        .block = queries_of_block(n, width_, shape.queries),
        .vectors = vectors,
        .stride = stride,
        .ids = ids,
        .distances = distances,
    };
    const double values = static_cast<double>(n) * static_cast<double>(width_);
    const row_ranges ranges(n, threads_for(exec, values * sizeof(T), 2 * values * static_cast<double>(count_)));
    detail::buffer<search_workspace<T>> spaces(exec.scratch);
    spaces.reserve(static_cast<std::size_t>(ranges.count()));
    for (index_t i = 0; i < ranges.count(); ++i) {
        spaces.emplace_back(search.block, width_, shape, tree_.get(), has_int8 ? width_ : 0, exec.scratch);
    }
    for_each_range(ranges, [&](index_t i, index_t begin, index_t end) {
        search.run(begin, end, spaces[static_cast<std::size_t>(i)]);
    });
}

}  // namespace isic::inline ISIC_ABI::detail::kernels
