#pragma once

#include <isic/detail/kernels/kd_tree.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>

#include <isic/detail/kernels/distances.hpp>

namespace isic::inline ISIC_ABI::detail::kernels {

/// Rows rounded to units, [rows][width].
struct rows_in_units {
    index_t width;
    std::vector<std::int16_t> values;
    float units = 0;
    double lost = 0;  // the most that one of them was moved

    const std::int16_t* row(index_t i) const { return values.data() + i * width; }
};

/// Nothing where float32 would round more of a row than its share.
template <class T>
rows_in_units round_to_units(const T* codes, index_t d, index_t stride, const T* center, const std::vector<index_t>& ids) {
    const auto value = [&](index_t id, index_t j) { return j < d ? packed_difference(codes[id * stride + j], center[j]) : 0; };
    float largest = 0;
    for (const index_t id : ids) {
        for (index_t j = 0; j < d; ++j) {
            largest = std::max(largest, std::abs(value(id, j)));
        }
    }
    rows_in_units out{d <= 4 ? 4 : 8, {}};
    out.units = static_cast<float>(largest_placed) / largest;
    if (!(out.units > 1e-30F && out.units < 1e30F)) {
        return out;
    }
    out.values.reserve(ids.size() * static_cast<std::size_t>(out.width));
    for (const index_t id : ids) {
        double square = 0;
        for (index_t j = 0; j < out.width; ++j) {
            const double in_units = static_cast<double>(value(id, j)) * static_cast<double>(out.units);
            const auto whole = static_cast<std::int16_t>(std::lrint(in_units));
            square += (in_units - whole) * (in_units - whole);
            out.values.push_back(whole);
        }
        out.lost = std::max(out.lost, std::sqrt(square));
    }
    return out;
}

class place_sorter {
public:
    place_sorter(const rows_in_units& rows, index_t count, index_t leaves_of_group)
        : rows_(rows), leaves_of_group_(leaves_of_group), order_(static_cast<std::size_t>(count)) {
        for (index_t i = 0; i < count; ++i) {
            order_[static_cast<std::size_t>(i)].second = static_cast<panel_id>(i);
        }
        sort(0, (count + leaf_codes - 1) / leaf_codes);
    }

    panel_id row_at(index_t place) const { return order_[static_cast<std::size_t>(place)].second; }

private:
    /// The column in which the rows at [begin, end) vary most.
    index_t widest_column(index_t begin, index_t end) const {
        std::int64_t sum[8] = {};
        std::int64_t square[8] = {};
        for (index_t i = begin; i < end; ++i) {
            const std::int16_t* const row = rows_.row(row_at(i));
            for (index_t j = 0; j < rows_.width; ++j) {
                sum[j] += row[j];
                square[j] += row[j] * row[j];
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

    /// Sorts the leaves [first, last): halves them, at the border of a group as long as there are several.
    void sort(index_t first, index_t last) {
        const index_t count = last - first;
        if (count < 2) {
            return;
        }
        const index_t group = leaves_of_group_;
        const index_t half = count > group ? (count / 2 + group - 1) / group * group : count / 2;
        const index_t begin = first * leaf_codes;
        const index_t end = std::min(last * leaf_codes, std::ssize(order_));
        const index_t column = widest_column(begin, end);
        for (index_t i = begin; i < end; ++i) {
            order_[static_cast<std::size_t>(i)].first = rows_.row(row_at(i))[column];
        }
        std::nth_element(order_.begin() + begin, order_.begin() + begin + half * leaf_codes, order_.begin() + end);
        sort(first, first + half);
        sort(first + half, last);
    }

    const rows_in_units& rows_;
    index_t leaves_of_group_;
    std::vector<std::pair<std::int16_t, panel_id>> order_;  // a value beside the number of its row
};

/// Boxes of leaves or groups, `count` of them, a multiple of the lanes: [count / lanes][width / 2][least, largest][lanes][2].
class place_boxes {
public:
    place_boxes(index_t count, index_t width, index_t lanes)
        : count_(count), width_(width), lanes_(lanes), values_(static_cast<std::size_t>(2 * count * width)) {
        for (index_t box = 0; box < count; ++box) {
            for (index_t j = 0; j < width; ++j) {
                least(box, j) = std::numeric_limits<std::int16_t>::max();
                largest(box, j) = std::numeric_limits<std::int16_t>::min();
            }
        }
    }

    void hold(index_t box, const std::int16_t* row) {
        for (index_t j = 0; j < width_; ++j) {
            least(box, j) = std::min(least(box, j), row[j]);
            largest(box, j) = std::max(largest(box, j), row[j]);
        }
    }

    /// The boxes; those that hold nothing are far from whatever is looked up, in two columns: squares of all would be too
    /// large.
    detail::buffer<std::int16_t> take() {
        for (index_t box = 0; box < count_; ++box) {
            for (index_t j = 0; j < width_; ++j) {
                if (least(box, j) > largest(box, j)) {
                    least(box, j) = j < 2 ? 3 * largest_placed : std::numeric_limits<std::int16_t>::min();
                    largest(box, j) = j < 2 ? 3 * largest_placed : std::numeric_limits<std::int16_t>::max();
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
    std::int16_t& least(index_t box, index_t column) { return values_[at(box, column, 0)]; }
    std::int16_t& largest(index_t box, index_t column) { return values_[at(box, column, 1)]; }

    index_t count_;
    index_t width_;
    index_t lanes_;
    detail::buffer<std::int16_t> values_;
};

template <class T>
std::shared_ptr<const code_places> place_codes(const T* codes, index_t d, index_t stride, const T* center,
                                               const std::vector<index_t>& ids, index_t lanes) {
    const rows_in_units rows = round_to_units(codes, d, stride, center, ids);
    if (rows.values.empty()) {
        return nullptr;
    }
    const index_t count = std::ssize(ids);
    const index_t width = rows.width;
    const auto parts = [](index_t all, index_t part) { return (all + part - 1) / part; };
    const index_t groups = parts(parts(parts(count, leaf_codes), lanes), lanes) * lanes;
    const index_t leaves = groups * lanes;
    auto out = std::make_shared<code_places>();
    out->negatives.assign(static_cast<std::size_t>(leaves * leaf_codes * width), 0);
    out->half_squares.assign(static_cast<std::size_t>(leaves * leaf_codes), 3 * (std::int32_t{1} << 29));  // beyond all codes
    place_boxes leaf_boxes(leaves, width, lanes);
    place_boxes group_boxes(groups, width, lanes);
    const place_sorter sorted(rows, count, lanes);
    for (index_t place = 0; place < count; ++place) {
        const std::int16_t* const row = rows.row(sorted.row_at(place));
        out->ids.push_back(static_cast<panel_id>(ids[static_cast<std::size_t>(sorted.row_at(place))]));
        leaf_boxes.hold(place / leaf_codes, row);
        group_boxes.hold(place / leaf_codes / lanes, row);
        std::int16_t* const to = out->negatives.data() + place / lanes * lanes * width + place % lanes * 2;
        std::int32_t square = 0;
        for (index_t j = 0; j < width; ++j) {
            to[j / 2 * 2 * lanes + j % 2] = static_cast<std::int16_t>(-row[j]);
            square += row[j] * row[j];
        }
        out->half_squares[static_cast<std::size_t>(place)] = square / 2;
    }
    out->leaf_boxes = leaf_boxes.take();
    out->group_boxes = group_boxes.take();
    out->groups = groups;
    out->width = width;
    out->units = rows.units;
    out->lost = static_cast<float>(rows.lost) * 1.001F + lost_by_units;
    return out;
}

ISIC_INLINE placed_codes code_places::view() const {
    const auto numbers = static_cast<panel_id>(std::bit_ceil(static_cast<std::uint32_t>(leaves())));
    return {negatives.data(), half_squares.data(), leaf_boxes.data(), group_boxes.data(), ids.data(), groups, width,
            numbers - 1,      units,               lost};
}

}  // namespace isic::inline ISIC_ABI::detail::kernels
