// An image of images: prompts as columns with their words above, versions of the codebook as rows.
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

// Writes a PNG. `gap_before` is the column before which a wider gap stands (unsafe | safe); captions may hold \n.
// Errors: isic::io_error if the file cannot be written, isic::value_error if rows have different numbers of images.
void write_grid(const std::filesystem::path& path, const std::vector<std::string>& captions, const std::vector<grid_row>& rows,
                index_t gap_before, int scale = 3);

}  // namespace emoji
