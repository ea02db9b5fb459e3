// SPDX-License-Identifier: Apache-2.0
// A grid of images: one column per prompt, with its caption above, and one row per codebook.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include <emoji/nn.hpp>

namespace emoji {

struct grid_row {
    std::string label;
    matrix images;  // [columns x 3072]
};

// Writes a PNG. A wider gap precedes column `gap_before` (unsafe | safe). Captions may contain \n.
// Errors: isic::io_error if the file cannot be written, isic::value_error if rows have different numbers of images.
void write_grid(const std::filesystem::path& path, const std::vector<std::string>& captions,
                const std::vector<grid_row>& rows, index_t gap_before, int scale = 3);

}  // namespace emoji
