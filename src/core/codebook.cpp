#include <isic/codebook.hpp>

#include <algorithm>
#include <cmath>
#include <limits>

#include <isic/byte_hash.hpp>

#include "rows.hpp"

namespace isic::detail {

std::vector<index_t> nearest_codes(any_view z, any_view c, lookup rule, std::span<const index_t> padding) {
    require_not_empty("nearest_codes", "a codebook", c);
    require_size("nearest_codes", "columns in the vectors", c.cols, z.cols);
    require_finite("nearest_codes", "the vectors", z);
    const std::vector<bool> is_padding = padding_mask("nearest_codes", padding, c.rows);
    const auto first_code = static_cast<index_t>(std::ranges::find(is_padding, false) - is_padding.begin());
    require<value_error>(first_code < c.rows, "nearest_codes", "a code that is no padding", "padding only");
    require_finite("nearest_codes", "the codebook", c, &is_padding);
    row_matrix book = read_rows(c, rule);
    for (const index_t k : padding) {
        book.row(k).setZero();
    }
    // argmin ||z - c||^2 = argmax z.c - ||c||^2 / 2
    const vector half_norms = 0.5 * book.rowwise().squaredNorm();
    const double largest = std::sqrt(2 * half_norms.maxCoeff());
    std::vector<index_t> out;
    out.reserve(static_cast<std::size_t>(z.rows));
    constexpr index_t block = 64;
    row_matrix scores;
    for (index_t start = 0; start < z.rows; start += block) {
        const index_t n = std::min(block, z.rows - start);
        const row_matrix rows = read_rows(z.block(start, n), rule);
        scores.noalias() = rows * book.transpose();
        scores.rowwise() -= half_norms.transpose();
        for (index_t i = 0; i < n; ++i) {
            double best = -std::numeric_limits<double>::infinity();
            for (index_t k = 0; k < c.rows; ++k) {
                best = is_padding[static_cast<std::size_t>(k)] ? best : std::max(best, scores(i, k));
            }
            const double floor = best - 1e-12 * largest * (rows.row(i).norm() + largest);
            double least = std::numeric_limits<double>::infinity();
            index_t nearest = first_code;
            for (index_t k = first_code; k < c.rows; ++k) {
                if (scores(i, k) < floor || is_padding[static_cast<std::size_t>(k)]) {
                    continue;
                }
                double distance = 0;
                for (index_t j = 0; j < c.cols; ++j) {
                    const double step = rows(i, j) - book(k, j);
                    distance += step * step;
                }
                if (distance < least) {  // the first of equals
                    least = distance;
                    nearest = k;
                }
            }
            out.push_back(nearest);
        }
    }
    return out;
}

std::uint64_t fingerprint(any_view codes) {
    byte_hash hash;
    const std::int64_t shape[3] = {codes.rows, codes.cols, size_of(codes.type)};
    hash.add(std::as_bytes(std::span(shape)));
    for (index_t i = 0; i < codes.rows; ++i) {
        hash.add(codes.row(i));
    }
    return hash.value();
}

}  // namespace isic::detail
