// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <isic/detail/kernels/kd_tree.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>

#include <isic/detail/kernels/distances.hpp>

namespace isic::inline ISIC_ABI::detail::kernels {

/// Rows quantised to int16 [rows][width].
struct int16_rows {
    index_t width;
    std::vector<std::int16_t> values;
    float scale = 0;   // quantisation steps per unit of length
    double error = 0;  // largest quantisation error of a row, in steps

    const std::int16_t* row(index_t i) const { return values.data() + i * width; }
};

/// Quantises the rows `ids` of codes; no values if the scale is out of range, where float32 rounding would exceed its
/// bound.
template <class T>
int16_rows quantise_to_int16(const T* codes, index_t d, index_t stride, const T* center,
                             const std::vector<index_t>& ids) {
    const auto value = [&](index_t id, index_t j) {
        return j < d ? float32_difference(codes[id * stride + j], center[j]) : 0;
    };
    float largest = 0;
    for (const index_t id : ids) {
        for (index_t j = 0; j < d; ++j) {
            largest = std::max(largest, std::abs(value(id, j)));
        }
    }
    int16_rows out{d <= 4 ? 4 : 8, {}};
    out.scale = static_cast<float>(max_int16_value) / largest;
    if (!(out.scale > 1e-30F && out.scale < 1e30F)) {
        return out;
    }
    out.values.reserve(ids.size() * static_cast<std::size_t>(out.width));
    for (const index_t id : ids) {
        double square = 0;
        for (index_t j = 0; j < out.width; ++j) {
            const double scaled = static_cast<double>(value(id, j)) * static_cast<double>(out.scale);
            const auto whole = static_cast<std::int16_t>(std::lrint(scaled));
            square += (scaled - whole) * (scaled - whole);
            out.values.push_back(whole);
        }
        out.error = std::max(out.error, std::sqrt(square));
    }
    return out;
}

/// Leaf order of quantised rows: recursive bisection at the median of the column with the largest variance.
class leaf_sorter {
public:
    leaf_sorter(const int16_rows& rows, index_t count, index_t leaves_of_group)
        : rows_(rows), leaves_of_group_(leaves_of_group), order_(static_cast<std::size_t>(count)) {
        for (index_t i = 0; i < count; ++i) {
            order_[static_cast<std::size_t>(i)].second = static_cast<index32>(i);
        }
        sort(0, (count + leaf_size - 1) / leaf_size);
    }

    /// The row at a position in leaf order.
    index32 row_at(index_t position) const { return order_[static_cast<std::size_t>(position)].second; }

private:
    /// The column of largest variance of the rows at positions [begin, end).
    index_t widest_column(index_t begin, index_t end) const {
        std::int64_t sum[8] = {};
        std::int64_t square[8] = {};
        for (index_t i = begin; i < end; ++i) {
            const std::int16_t* const row = rows_.row(row_at(i));
            for (index_t j = 0; j < rows_.width; ++j) {
                sum[j] += row[j];
                square[j] += std::int64_t{row[j]} * row[j];
            }
        }
        const auto spread = [&](index_t j) {
            const auto total = static_cast<double>(sum[j]);
            return static_cast<double>(square[j]) - total * total / static_cast<double>(end - begin);
        };
        index_t widest = 0;
        for (index_t j = 1; j < rows_.width; ++j) {
            widest = spread(j) > spread(widest) ? j : widest;
        }
        return widest;
    }

    /// Sorts the leaves [first, last): bisects them, at a group boundary while they span several groups.
    void sort(index_t first, index_t last) {
        const index_t count = last - first;
        if (count < 2) {
            return;
        }
        const index_t group = leaves_of_group_;
        const index_t half = count > group ? (count / 2 + group - 1) / group * group : count / 2;
        const index_t begin = first * leaf_size;
        const index_t end = std::min(last * leaf_size, std::ssize(order_));
        const index_t column = widest_column(begin, end);
        for (index_t i = begin; i < end; ++i) {
            order_[static_cast<std::size_t>(i)].first = rows_.row(row_at(i))[column];
        }
        std::nth_element(order_.begin() + begin, order_.begin() + begin + half * leaf_size, order_.begin() + end);
        sort(first, first + half);
        sort(first + half, last);
    }

    const int16_rows& rows_;
    index_t leaves_of_group_;
    std::vector<std::pair<std::int16_t, index32>> order_;  // value in the column of the bisection, row
};

/// Bounding boxes of leaves or groups [count / lanes][width / 2][min, max][lanes][2]; `count` is a multiple of the
/// lanes.
class bounding_boxes {
public:
    bounding_boxes(index_t count, index_t width, index_t lanes)
        : count_(count), width_(width), lanes_(lanes), values_(static_cast<std::size_t>(2 * count * width)) {
        for (index_t box = 0; box < count; ++box) {
            for (index_t j = 0; j < width; ++j) {
                min(box, j) = std::numeric_limits<std::int16_t>::max();
                max(box, j) = std::numeric_limits<std::int16_t>::min();
            }
        }
    }

    /// Extends a box to contain a row.
    void extend(index_t box, const std::int16_t* row) {
        for (index_t j = 0; j < width_; ++j) {
            min(box, j) = std::min(min(box, j), row[j]);
            max(box, j) = std::max(max(box, j), row[j]);
        }
    }

    /// Moves the boxes out. Empty boxes are put far from every query, in two columns: in all, squared distances would
    /// overflow.
    detail::buffer<std::int16_t> take() {
        for (index_t box = 0; box < count_; ++box) {
            for (index_t j = 0; j < width_; ++j) {
                if (min(box, j) > max(box, j)) {
                    min(box, j) = j < 2 ? 3 * max_int16_value : std::numeric_limits<std::int16_t>::min();
                    max(box, j) = j < 2 ? 3 * max_int16_value : std::numeric_limits<std::int16_t>::max();
                }
            }
        }
        return std::move(values_);
    }

private:
    std::size_t at(index_t box, index_t column, index_t side) const {
        const index_t pair = (box / lanes_ * (width_ / 2) + column / 2) * 2 + side;
        return static_cast<std::size_t>((pair * lanes_ + box % lanes_) * 2 + column % 2);
    }
    std::int16_t& min(index_t box, index_t column) { return values_[at(box, column, 0)]; }
    std::int16_t& max(index_t box, index_t column) { return values_[at(box, column, 1)]; }

    index_t count_;
    index_t width_;
    index_t lanes_;
    detail::buffer<std::int16_t> values_;
};

template <class T>
std::shared_ptr<const kd_tree> build_kd_tree(const T* codes, index_t d, index_t stride, const T* center,
                                             const std::vector<index_t>& ids, index_t lanes) {
    const int16_rows rows = quantise_to_int16(codes, d, stride, center, ids);
    if (rows.values.empty()) {
        return nullptr;
    }
    const index_t count = std::ssize(ids);
    const index_t width = rows.width;
    const auto blocks = [](index_t n, index_t block) { return (n + block - 1) / block; };
    const index_t groups = blocks(blocks(blocks(count, leaf_size), lanes), lanes) * lanes;
    const index_t leaves = groups * lanes;
    constexpr std::int32_t padding_half_norm = 3 * (std::int32_t{1} << 29);  // farther than every code
    auto out = std::make_shared<kd_tree>();
    out->negated_codes.assign(static_cast<std::size_t>(leaves * leaf_size * width), 0);
    out->half_norms.assign(static_cast<std::size_t>(leaves * leaf_size), padding_half_norm);
    bounding_boxes leaf_boxes(leaves, width, lanes);
    bounding_boxes group_boxes(groups, width, lanes);
    const leaf_sorter order(rows, count, lanes);
    for (index_t position = 0; position < count; ++position) {
        const std::int16_t* const row = rows.row(order.row_at(position));
        out->ids.push_back(static_cast<index32>(ids[static_cast<std::size_t>(order.row_at(position))]));
        leaf_boxes.extend(position / leaf_size, row);
        group_boxes.extend(position / leaf_size / lanes, row);
        std::int16_t* const to = out->negated_codes.data() + position / lanes * lanes * width + position % lanes * 2;
        std::int32_t square = 0;
        for (index_t j = 0; j < width; ++j) {
            to[j / 2 * 2 * lanes + j % 2] = static_cast<std::int16_t>(-row[j]);
            square += row[j] * row[j];
        }
        out->half_norms[static_cast<std::size_t>(position)] = square / 2;
    }
    out->leaf_boxes = leaf_boxes.take();
    out->group_boxes = group_boxes.take();
    out->groups = groups;
    out->width = width;
    out->scale = rows.scale;
    out->error = static_cast<float>(rows.error) * 1.001F + int16_rounding_error;
    return out;
}

ISIC_INLINE kd_tree_view kd_tree::view() const {
    const auto leaf_range = static_cast<index32>(std::bit_ceil(static_cast<std::uint32_t>(leaves())));
    return {negated_codes.data(),
            half_norms.data(),
            leaf_boxes.data(),
            group_boxes.data(),
            ids.data(),
            groups,
            width,
            leaf_range - 1,
            scale,
            error};
}

}  // namespace isic::inline ISIC_ABI::detail::kernels
