// SPDX-License-Identifier: Apache-2.0
#include <emoji/grid.hpp>

#include <array>
#include <cstdint>

#define STB_IMAGE_WRITE_IMPLEMENTATION
#include <stb/stb_image_write.h>
// stb_image_write.h defines static functions that this file does not use.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wshadow"
#include <stb/stb_easy_font.h>
#pragma GCC diagnostic pop

#include <emoji/tokenizer.hpp>

namespace emoji {
namespace {

class canvas {
public:
    canvas(int width, int height)
        : width_(width), height_(height), pixels_(static_cast<std::size_t>(width * height * 3), 255) {}

    void set(int x, int y, std::array<std::uint8_t, 3> colour) {
        if (x >= 0 && x < width_ && y >= 0 && y < height_) {
            std::copy(colour.begin(), colour.end(),
                      pixels_.begin() + (static_cast<std::ptrdiff_t>(y) * width_ + x) * 3);
        }
    }

    void text(int x, int y, std::string words) {
        struct vertex {
            float x, y, z;
            std::uint32_t colour;
        };
        std::vector<vertex> quads(words.size() * 100 + 100);
        const int n = stb_easy_font_print(static_cast<float>(x), static_cast<float>(y), words.data(), nullptr,
                                          quads.data(), static_cast<int>(quads.size() * sizeof(vertex)));
        for (int q = 0; q < n; ++q) {
            const vertex& a = quads[static_cast<std::size_t>(4 * q)];
            const vertex& b = quads[static_cast<std::size_t>(4 * q + 2)];
            for (int v = static_cast<int>(a.y); v < static_cast<int>(b.y); ++v) {
                for (int u = static_cast<int>(a.x); u < static_cast<int>(b.x); ++u) {
                    set(u, v, {30, 30, 30});
                }
            }
        }
    }

    void image(int x, int y, const float* values, int scale) {
        constexpr int side = static_cast<int>(tokenizer::side);
        for (int v = 0; v < side * scale; ++v) {
            for (int u = 0; u < side * scale; ++u) {
                const float* p = values + (v / scale * side + u / scale) * 3;
                const auto byte = [](float f) {
                    return static_cast<std::uint8_t>(std::clamp(f * 255 + 0.5f, 0.0f, 255.0f));
                };
                set(x + u, y + v, {byte(p[0]), byte(p[1]), byte(p[2])});
            }
        }
    }

    void write(const std::filesystem::path& path) const {
        if (stbi_write_png(path.string().c_str(), width_, height_, 3, pixels_.data(), width_ * 3) == 0) {
            throw isic::io_error(fmt::format("emoji: {}: cannot be written", path.string()));
        }
    }

private:
    int width_, height_;
    std::vector<std::uint8_t> pixels_;
};

}  // namespace

void write_grid(const std::filesystem::path& path, const std::vector<std::string>& captions,
                const std::vector<grid_row>& rows, index_t gap_before, int scale) {
    constexpr int margin = 6, label_width = 92, caption_height = 46, wide_gap = 14;
    const int cell = static_cast<int>(tokenizer::side) * scale + 12;
    const auto columns = static_cast<index_t>(captions.size());
    for (const grid_row& row : rows) {
        if (row.images.rows() != columns) {
            throw isic::value_error(fmt::format("emoji::write_grid: expected {} images in row '{}', got {}", columns,
                                                row.label, row.images.rows()));
        }
    }
    const auto left_of = [&](index_t column) {
        return margin + label_width + static_cast<int>(column) * cell + (column >= gap_before ? wide_gap : 0);
    };
    canvas image(left_of(columns) + margin, margin + caption_height + static_cast<int>(rows.size()) * cell + margin);
    for (index_t c = 0; c < columns; ++c) {
        image.text(left_of(c) + 2, margin, captions[static_cast<std::size_t>(c)]);
    }
    for (std::size_t r = 0; r < rows.size(); ++r) {
        const int top = margin + caption_height + static_cast<int>(r) * cell;
        image.text(margin, top + cell / 2 - 8, rows[r].label);
        for (index_t c = 0; c < columns; ++c) {
            image.image(left_of(c), top, rows[r].images.row(c).data(), scale);
        }
    }
    image.write(path);
}

}  // namespace emoji
