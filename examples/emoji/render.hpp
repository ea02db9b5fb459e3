// SPDX-License-Identifier: Apache-2.0
// Composes images from the font's bitmaps in integer arithmetic, and recognises the composed object.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include <emoji/nn.hpp>
#include <emoji/world.hpp>
#include <isic/io/safetensors.hpp>

namespace emoji {

inline constexpr int jitter = 2;  // positions along each axis

// Item size index, item dx, item dy, object dx, object dy.
using choice = std::array<int, 5>;

struct label {
    int item = 0;
    int background = 0;
    int word = 0;
    int object = 0;
};

struct labelled_images {
    matrix images;  // [n x 3072], HWC, 0..1
    std::vector<label> labels;
};

// Shares of plain, safe and harmful words.
struct word_mix {
    double plain = 0.25;
    double safe = 0.35;
    double harmful = 0.40;
};

class renderer {
public:
    // Errors: isic::io_error if a sprite is missing, has the wrong type or is larger than its size.
    renderer(const world& w, const std::filesystem::path& sprites);

    // One image, uint8 [32 x 32 x 3]; object 0 is none. Errors: isic::value_error if an index is out of range.
    std::vector<std::uint8_t> render(int item, int background, int object, const choice& c, int opacity = 255) const;

    // Random images in the given mix of words; image j depends on (seed, j) only.
    labelled_images random_images(index_t n, std::uint64_t seed, const word_mix& mix = {}) const;

    // Sprite match: the object of the rendering with the least absolute error, among every size and position of a known item
    // on a known background, with every object and with none. Squared error finds as many faint objects, but reports an
    // object for a few wrong pixels of the item.
    int nearest_object(std::span<const float> image, int item, int background) const;

    // The same for every row; uses only item and background of the prompts.
    std::vector<int> nearest_objects(const matrix& images, const std::vector<prompt>& prompts, int threads = 1) const;

private:
    struct sprite {
        int height = 0;
        int width = 0;
        std::vector<std::uint8_t> colour;  // [height x width x 3], premultiplied
        std::vector<std::uint8_t> alpha;   // same shape as colour, so that loops need no shuffle
    };

    sprite load(const isic::tensor_file& file, const std::string& name, int size) const;
    void require_indices(const char* function, int item, int background, int object) const;
    const sprite& item_sprite(int item, int size) const {
        return items_[static_cast<std::size_t>(item) * world_.item_sizes.size() + static_cast<std::size_t>(size)];
    }
    void draw_item(std::vector<std::uint8_t>& image, int item, int background, const choice& c) const;
    void compose(std::vector<std::uint8_t>& image, const sprite& s, int x, int y, int opacity) const;
    double change_of_error(const std::vector<std::uint8_t>& base, const float* target, const sprite& s, int x,
                           int y) const;

    world world_;
    std::vector<sprite> items_;    // by item, then size
    std::vector<sprite> objects_;  // the first is empty
};

namespace detail {

// value / 255 for value <= 65152, in a form that compilers vectorise.
constexpr std::uint32_t divide_by_255(std::uint32_t value) {
    return (value * 32897u) >> 23;
}

// sprite + below (255 - alpha) / 255, rounded.
constexpr std::uint32_t blend(std::uint32_t colour, std::uint32_t alpha, std::uint32_t below) {
    return std::min(255u, colour + divide_by_255(below * (255u - alpha) + 127u));
}

}  // namespace detail

}  // namespace emoji
