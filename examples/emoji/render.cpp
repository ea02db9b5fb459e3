// SPDX-License-Identifier: Apache-2.0
#include <emoji/render.hpp>

#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include <fmt/format.h>

#include <emoji/random.hpp>

namespace emoji {
namespace {

// Sum of f(0), f(1), ... in independent lanes, for vectorisation; exact while every lane is below 2^24.
class lane_sum {
public:
    template <class F>
    void add(std::size_t n, F f) {
        std::size_t j = 0;
        for (; j + lanes <= n; j += lanes) {
            for (std::size_t i = 0; i < lanes; ++i) {
                sums_[i] += f(j + i);
            }
        }
        for (std::size_t i = 0; j < n; ++i, ++j) {
            sums_[i] += f(j);
        }
    }

    double total() const { return std::accumulate(sums_.begin(), sums_.end(), 0.0); }

private:
    static constexpr std::size_t lanes = 16;
    std::array<float, lanes> sums_{};
};

}  // namespace

renderer::renderer(const world& w, const std::filesystem::path& sprites) : world_(w) {
    const isic::tensor_file file = isic::read_safetensors(sprites);
    for (const std::string& name : world_.items) {
        for (const int size : world_.item_sizes) {
            items_.push_back(load(file, name, size));
        }
    }
    objects_.emplace_back();
    for (std::size_t j = 1; j < world_.objects.size(); ++j) {
        objects_.push_back(load(file, world_.objects[j], world_.object_size));
    }
}

renderer::sprite renderer::load(const isic::tensor_file& file, const std::string& name, int size) const {
    const std::string key = fmt::format("{}.{}", name, size);
    const auto at = file.tensors.find(key);
    if (at == file.tensors.end()) {
        throw isic::io_error(fmt::format("emoji::renderer: expected the sprite '{}', found none", key));
    }
    const isic::tensor& t = at->second;
    // An item starts at most `jitter` pixels from the edge and must lie inside the image.
    if (t.type != isic::dtype::u8 || t.shape.size() != 3 || t.shape[0] > size || t.shape[1] > size || t.shape[2] != 4 ||
        size + jitter > world_.image_size) {
        throw isic::io_error(fmt::format("emoji::renderer: expected uint8 [<= {0}, <= {0}, 4] for '{1}', found [{2}]",
                                         size, key, fmt::join(t.shape, ", ")));
    }
    const std::vector<std::uint8_t> rgba = t.values<std::uint8_t>();
    sprite out{static_cast<int>(t.shape[0]), static_cast<int>(t.shape[1]), {}, {}};
    for (std::size_t p = 0; p < rgba.size(); p += 4) {
        for (std::size_t c = 0; c < 3; ++c) {
            out.colour.push_back(rgba[p + c]);
            out.alpha.push_back(rgba[p + 3]);
        }
    }
    return out;
}

void renderer::require_indices(const char* function, int item, int background, int object) const {
    const auto check = [&](const char* name, int index, std::size_t size) {
        if (index < 0 || static_cast<std::size_t>(index) >= size) {
            throw isic::value_error(
                fmt::format("emoji::renderer::{}: expected {} in [0, {}), got {}", function, name, size, index));
        }
    };
    check("item", item, world_.items.size());
    check("background", background, world_.backgrounds.size());
    check("object", object, world_.objects.size());
}

void renderer::compose(std::vector<std::uint8_t>& image, const sprite& s, int x, int y, int opacity) const {
    const std::size_t run = static_cast<std::size_t>(s.width) * 3;
    const auto strength = static_cast<std::uint32_t>(opacity);
    for (int row = 0; row < s.height; ++row) {
        std::uint8_t* out = image.data() + ((y + row) * world_.image_size + x) * 3;
        const std::uint8_t* colour = s.colour.data() + static_cast<std::size_t>(row) * run;
        const std::uint8_t* alpha = s.alpha.data() + static_cast<std::size_t>(row) * run;
        for (std::size_t j = 0; j < run; ++j) {
            const std::uint32_t c = detail::divide_by_255(colour[j] * strength + 127u);
            const std::uint32_t a = detail::divide_by_255(alpha[j] * strength + 127u);
            out[j] = static_cast<std::uint8_t>(detail::blend(c, a, out[j]));
        }
    }
}

void renderer::draw_item(std::vector<std::uint8_t>& image, int item, int background, const choice& c) const {
    const auto& colour = world_.colours[static_cast<std::size_t>(background)];
    for (std::size_t j = 0; j < image.size(); ++j) {
        image[j] = colour[j % 3];
    }
    const sprite& s = item_sprite(item, c[0]);
    const int size = world_.item_sizes[static_cast<std::size_t>(c[0])];
    compose(image, s, 1 + c[1] + (size - s.width) / 2, 1 + c[2] + (size - s.height) / 2, 255);
}

std::vector<std::uint8_t> renderer::render(int item, int background, int object, const choice& c, int opacity) const {
    require_indices("render", item, background, object);
    const bool inside = c[0] >= 0 && c[0] < static_cast<int>(world_.item_sizes.size()) &&
                        std::all_of(c.begin() + 1, c.end(), [](int d) { return d >= 0 && d < jitter; });
    if (!inside || opacity < 0 || opacity > 255) {
        throw isic::value_error(
            fmt::format("emoji::renderer::render: expected positions in [0, {}) and opacity in "
                        "[0, 255], got [{}] and {}",
                        jitter, fmt::join(c, ", "), opacity));
    }
    const auto side = static_cast<std::size_t>(world_.image_size);
    std::vector<std::uint8_t> image(side * side * 3);
    draw_item(image, item, background, c);
    if (object != 0) {
        const sprite& s = objects_[static_cast<std::size_t>(object)];
        compose(image, s, world_.image_size - s.width - c[3], world_.image_size - s.height - c[4], opacity);
    }
    return image;
}

labelled_images renderer::random_images(index_t n, std::uint64_t seed, const word_mix& mix) const {
    labelled_images out;
    out.images.resize(n, world_.image_size * world_.image_size * 3);
    const std::array<std::pair<const std::vector<int>*, double>, 3> groups{
        {{&world_.plain_words, mix.plain}, {&world_.safe_words, mix.safe}, {&world_.harmful_words, mix.harmful}}};
    for (index_t j = 0; j < n; ++j) {
        random_stream random(seed, static_cast<std::uint64_t>(j));
        label l;
        l.item = random.below(static_cast<int>(world_.items.size()));
        l.background = random.below(static_cast<int>(world_.backgrounds.size()));
        const int group = random.pick(groups, [](const auto& g) { return g.second; });
        const std::vector<int>& words = *groups[static_cast<std::size_t>(group)].first;
        l.word = words[static_cast<std::size_t>(random.below(static_cast<int>(words.size())))];
        const std::vector<share>& draws = world_.draws[static_cast<std::size_t>(l.word)];
        l.object =
            draws[static_cast<std::size_t>(random.pick(draws, [](const share& s) { return s.probability; }))].index;
        choice c{random.below(static_cast<int>(world_.item_sizes.size()))};
        std::generate(c.begin() + 1, c.end(), [&] { return random.below(jitter); });
        const std::vector<std::uint8_t> image = render(l.item, l.background, l.object, c);
        for (index_t p = 0; p < out.images.cols(); ++p) {
            out.images(j, p) = static_cast<float>(image[static_cast<std::size_t>(p)]) / 255.0f;
        }
        out.labels.push_back(l);
    }
    return out;
}

// Change of the absolute error when the sprite is drawn on `base`. Only pixels of the sprite's box contribute.
double renderer::change_of_error(const std::vector<std::uint8_t>& base, const float* target, const sprite& s, int x,
                                 int y) const {
    lane_sum sum;
    const std::size_t run = static_cast<std::size_t>(s.width) * 3;
    for (int row = 0; row < s.height; ++row) {
        const std::size_t at = static_cast<std::size_t>(((y + row) * world_.image_size + x) * 3);
        const std::uint8_t* below = base.data() + at;
        const float* wanted = target + at;
        const std::uint8_t* colour = s.colour.data() + static_cast<std::size_t>(row) * run;
        const std::uint8_t* alpha = s.alpha.data() + static_cast<std::size_t>(row) * run;
        sum.add(run, [=](std::size_t j) {
            const auto blended = static_cast<std::int32_t>(detail::blend(colour[j], alpha[j], below[j]));
            const auto plain = static_cast<std::int32_t>(below[j]);
            return std::abs(wanted[j] - static_cast<float>(blended)) - std::abs(wanted[j] - static_cast<float>(plain));
        });
    }
    return sum.total();
}

int renderer::nearest_object(std::span<const float> image, int item, int background) const {
    require_indices("nearest_object", item, background, 0);
    const auto side = static_cast<std::size_t>(world_.image_size);
    if (image.size() != side * side * 3) {
        throw isic::value_error(
            fmt::format("emoji::renderer::nearest_object: expected {} values, got {}", side * side * 3, image.size()));
    }
    std::vector<float> target(image.size());
    std::transform(image.begin(), image.end(), target.begin(), [](float v) { return v * 255.0f; });
    std::vector<std::uint8_t> base(image.size());
    double least = std::numeric_limits<double>::infinity();
    int nearest = 0;
    for (int k = 0; k < static_cast<int>(world_.item_sizes.size()) * jitter * jitter; ++k) {
        draw_item(base, item, background, {k / (jitter * jitter), k / jitter % jitter, k % jitter, 0, 0});
        lane_sum sum;
        sum.add(base.size(), [&](std::size_t j) { return std::abs(target[j] - static_cast<float>(base[j])); });
        const double without = sum.total();
        if (without < least) {
            least = without, nearest = 0;
        }
        for (std::size_t object = 1; object < objects_.size(); ++object) {
            const sprite& s = objects_[object];
            for (int place = 0; place < jitter * jitter; ++place) {
                const int x = world_.image_size - s.width - place / jitter;
                const int y = world_.image_size - s.height - place % jitter;
                const double error = without + change_of_error(base, target.data(), s, x, y);
                if (error < least) {
                    least = error, nearest = static_cast<int>(object);
                }
            }
        }
    }
    return nearest;
}

std::vector<int> renderer::nearest_objects(const matrix& images, const std::vector<prompt>& prompts,
                                           int threads) const {
    if (images.rows() != static_cast<index_t>(prompts.size())) {
        throw isic::value_error(fmt::format("emoji::renderer::nearest_objects: expected {} prompts, got {}",
                                            images.rows(), prompts.size()));
    }
    std::vector<int> out(prompts.size());
    parallel_for(images.rows(), threads, [&](index_t j) {
        const prompt& p = prompts[static_cast<std::size_t>(j)];
        const std::span<const float> row(images.data() + j * images.cols(), static_cast<std::size_t>(images.cols()));
        out[static_cast<std::size_t>(j)] = nearest_object(row, p.item, p.background);
    });
    return out;
}

}  // namespace emoji
