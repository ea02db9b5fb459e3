#include "places.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

namespace isic::kernels {

namespace {

template <class T>
struct place_sorter {
    const T* codes;
    index_t d;
    index_t stride;
    index_t leaf;
    index_t leaves;
    std::vector<index_t>& ids;
    std::vector<std::pair<T, index_t>> values;  // of a column, side by side

    T at(index_t id, index_t column) const { return codes[id * stride + column]; }

    /// The column in which ids [begin, end) vary most.
    index_t widest_column(index_t begin, index_t end) const {
        index_t widest = 0;
        double largest = -1;
        for (index_t j = 0; j < d; ++j) {
            double sum = 0;
            double square = 0;
            for (index_t i = begin; i < end; ++i) {
                const auto x = static_cast<double>(at(ids[static_cast<std::size_t>(i)], j));
                sum += x;
                square += x * x;
            }
            const double spread = square - sum * sum / static_cast<double>(end - begin);
            if (spread > largest) {
                largest = spread;
                widest = j;
            }
        }
        return widest;
    }

    /// Sorts the leaves [first, last): halves them, at the border of a group as long as there are several.
    void sort(index_t first, index_t last) {
        const index_t count = last - first;
        if (count < 2) {
            return;
        }
        const index_t half = count > leaves ? (count / 2 + leaves - 1) / leaves * leaves : count / 2;
        const index_t begin = first * leaf;
        const index_t middle = begin + half * leaf;
        const index_t end = std::min(last * leaf, static_cast<index_t>(ids.size()));
        const index_t column = widest_column(begin, end);
        for (index_t i = begin; i < end; ++i) {
            const index_t id = ids[static_cast<std::size_t>(i)];
            values[static_cast<std::size_t>(i)] = {at(id, column), id};
        }
        std::nth_element(values.begin() + begin, values.begin() + middle, values.begin() + end);
        for (index_t i = begin; i < end; ++i) {
            ids[static_cast<std::size_t>(i)] = values[static_cast<std::size_t>(i)].second;
        }
        sort(first, first + half);
        sort(first + half, last);
    }
};

/// Where the least value of a box lies; the largest is `lanes` behind it.
index_t box_at(index_t box, index_t column, const tile_shape& shape) {
    return (box / shape.lanes * shape.width + column) * 2 * shape.lanes + box % shape.lanes;
}

}  // namespace

template <class T>
void sort_by_place(const T* codes, index_t d, index_t stride, index_t leaf, index_t leaves, std::vector<index_t>& ids) {
    place_sorter<T> sorter{codes, d, stride, leaf, leaves, ids, std::vector<std::pair<T, index_t>>(ids.size())};
    sorter.sort(0, (static_cast<index_t>(ids.size()) + leaf - 1) / leaf);
}

detail::buffer<float> boxes_of_leaves(const float* panels, index_t places, index_t leaves, const tile_shape& shape) {
    detail::buffer<float> boxes(static_cast<std::size_t>(leaves * shape.width * 2), std::numeric_limits<float>::infinity());
    const index_t codes = shape.codes();
    for (index_t leaf = 0; leaf * codes < places; ++leaf) {
        for (index_t j = 0; j < shape.width; ++j) {
            const float* const values = panels + (leaf * shape.width + j) * codes;
            const auto [least, largest] = std::minmax_element(values, values + std::min(codes, places - leaf * codes));
            boxes[static_cast<std::size_t>(box_at(leaf, j, shape))] = *least;
            boxes[static_cast<std::size_t>(box_at(leaf, j, shape) + shape.lanes)] = *largest;
        }
    }
    return boxes;
}

detail::buffer<float> boxes_of_groups(const detail::buffer<float>& leaf_boxes, const tile_shape& shape) {
    const index_t groups = static_cast<index_t>(leaf_boxes.size()) / (2 * shape.width * shape.lanes);
    const index_t room = (groups + shape.lanes - 1) / shape.lanes * shape.lanes;
    detail::buffer<float> boxes(static_cast<std::size_t>(room * shape.width * 2), std::numeric_limits<float>::infinity());
    for (index_t group = 0; group < groups; ++group) {
        for (index_t j = 0; j < shape.width; ++j) {
            const float* const least = leaf_boxes.data() + box_at(group * shape.lanes, j, shape);
            const float* const largest = least + shape.lanes;
            float end = -std::numeric_limits<float>::infinity();
            for (index_t lane = 0; lane < shape.lanes; ++lane) {
                end = std::isinf(least[lane]) ? end : std::max(end, largest[lane]);
            }
            const float begin = *std::min_element(least, largest);
            boxes[static_cast<std::size_t>(box_at(group, j, shape))] = begin;
            boxes[static_cast<std::size_t>(box_at(group, j, shape) + shape.lanes)] = std::isinf(begin) ? begin : end;
        }
    }
    return boxes;
}

template void sort_by_place(const float*, index_t, index_t, index_t, index_t, std::vector<index_t>&);
template void sort_by_place(const double*, index_t, index_t, index_t, index_t, std::vector<index_t>&);

}  // namespace isic::kernels
