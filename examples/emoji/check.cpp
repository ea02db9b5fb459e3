// SPDX-License-Identifier: Apache-2.0
#include <emoji/check.hpp>

namespace emoji {
namespace {

// ReLU and 2 x 2 max pooling into the bordered input buffer of the next layer.
void relu_pool_into(nn::bordered& out, index_t n, const float* in) {
    const index_t channels = out.channels(), run = 2 * out.side() * channels;
    vector line(run);
    for (index_t j = 0; j < n * out.side(); ++j) {
        const float* upper = in + 2 * j * run;
        nn::map(
            run, line.data(), [](const auto& a, const auto& b) { return nn::relu{}(Eigen::internal::pmax(a, b)); },
            upper, upper + run);
        for (index_t x = 0; x < out.side(); ++x) {
            const float* left = line.data() + 2 * x * channels;
            nn::map(
                channels, out.line(j / out.side(), j % out.side()) + x * channels,
                [](const auto& a, const auto& b) { return Eigen::internal::pmax(a, b); }, left, left + channels);
        }
    }
}

}  // namespace

check::check(const weights& file, const world& w, const std::string& name, int threads)
    : threads_(threads),
      items_(static_cast<int>(w.items.size())),
      backgrounds_(static_cast<int>(w.backgrounds.size())),
      objects_(static_cast<int>(w.objects.size())) {
    const auto load = [&](const std::string& part, index_t inputs) {
        return nn::load_convolution(file, name + part, file.shape(name + part + ".weight", 4)[0], inputs);
    };
    conv1_ = load(".conv1", 3);
    conv2_ = load(".conv2", conv1_.outputs());
    conv3_ = load(".conv3", conv2_.outputs());
    conv4_ = load(".conv4", conv3_.outputs());

    // The weights store features as [channel][pixel]; the activations are [pixel][channel].
    const index_t channels = conv4_.outputs(), pixels = (side / 8) * (side / 8), inputs = channels * pixels;
    const index_t width = file.shape(name + ".hidden.weight", 2)[0];
    const std::vector<float> weight = file.values(name + ".hidden.weight", {width, inputs});
    const std::vector<float> bias = file.values(name + ".hidden.bias", {width});
    hidden_ = nn::affine(
        width, inputs,
        [&](index_t o, index_t k) {
            return weight[static_cast<std::size_t>(o * inputs + k % channels * pixels + k / channels)];
        },
        [&](index_t o) { return bias[static_cast<std::size_t>(o)]; });
    answer_ = nn::load_linear(file, name + ".answer", items_ + backgrounds_ + objects_, width);
}

void check::forward_chunk(const float* images, index_t n, float* out) const {
    nn::bordered input(n, side, 3), half(n, side / 2, conv1_.outputs()), quarter(n, side / 4, conv2_.outputs()),
        eighth(n, side / 8, conv3_.outputs());
    const index_t run = side * 3;
    for (index_t line = 0; line < n * side; ++line) {
        nn::map(run, input.line(line / side, line % side), nn::centre{}, images + line * run);
    }
    vector features(n * side * side * conv1_.outputs());
    const auto resized = [&](const nn::affine& convolution, index_t of) {
        features.resize(n * of * of * convolution.outputs());
        return features.data();
    };
    nn::convolve(conv1_, input, n, features.data());
    relu_pool_into(half, n, features.data());
    nn::convolve(conv2_, half, n, resized(conv2_, side / 2));
    relu_pool_into(quarter, n, features.data());
    nn::convolve(conv3_, quarter, n, resized(conv3_, side / 4));
    relu_pool_into(eighth, n, features.data());
    nn::convolve(conv4_, eighth, n, resized(conv4_, side / 8));
    nn::map(features.size(), features.data(), nn::relu{}, features.data());
    matrix hidden(n, hidden_.outputs());
    hidden_.apply(n, features.data(), hidden.data());
    nn::map(hidden.size(), hidden.data(), nn::relu{}, hidden.data());
    answer_.apply(n, hidden.data(), out);
}

answers check::forward(const matrix& images) const {
    if (images.cols() != tokenizer::pixels) {
        throw isic::value_error(
            fmt::format("emoji::check::forward: expected rows of {} values, got {}", tokenizer::pixels, images.cols()));
    }
    matrix all(images.rows(), answer_.outputs());
    parallel_chunks(images.rows(), chunk, threads_, [&](index_t first, index_t count) {
        forward_chunk(images.data() + first * images.cols(), count, all.data() + first * all.cols());
    });
    return {all.leftCols(items_), all.middleCols(items_, backgrounds_), all.rightCols(objects_)};
}

std::vector<int> check::likeliest(const matrix& logits) {
    std::vector<int> out;
    for (index_t i = 0; i < logits.rows(); ++i) {
        index_t best = 0;
        logits.row(i).maxCoeff(&best);
        out.push_back(static_cast<int>(best));
    }
    return out;
}

}  // namespace emoji
