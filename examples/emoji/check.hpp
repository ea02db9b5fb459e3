// SPDX-License-Identifier: Apache-2.0
// Independent judges: small CNNs on pixels. The method never uses them.
#pragma once

#include <string>
#include <vector>

#include <emoji/nn.hpp>
#include <emoji/transformer.hpp>
#include <emoji/world.hpp>

namespace emoji {

class check {
public:
    // `name` is "check", or "ghost" for the CNN that is also trained on faint objects.
    // Errors: isic::io_error naming a missing tensor or a wrong shape.
    check(const weights& file, const world& w, const std::string& name, int threads = 1);

    // Logits; images [n x 3072]. Errors: isic::value_error on another width.
    answers forward(const matrix& images) const;

    // The most likely object of each image.
    std::vector<int> objects(const matrix& images) const { return likeliest(forward(images).object); }
    std::vector<int> items(const matrix& images) const { return likeliest(forward(images).item); }

    static std::vector<int> likeliest(const matrix& logits);

private:
    static constexpr index_t side = tokenizer::side;
    static constexpr index_t chunk = 12;

    void forward_chunk(const float* images, index_t n, float* out) const;

    int threads_;
    int items_, backgrounds_, objects_;
    nn::affine conv1_, conv2_, conv3_, conv4_, hidden_, answer_;
};

}  // namespace emoji
