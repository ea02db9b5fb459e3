// SPDX-License-Identifier: Apache-2.0
// The VQ tokenizer: images <-> latents <-> ids of the nearest codes, and the decoder's gradient.
#pragma once

#include <array>
#include <string>
#include <vector>

#include <emoji/nn.hpp>

namespace emoji {

// Images are rows [n x 3072] (HWC, 0..1); latents and codes are rows [n * 64 x d]; ids are [n * 64].
using token_ids = std::vector<int>;

// rows[i] = codebook[ids[i]]. Errors: isic::value_error if an id is out of range.
matrix gather(const matrix& codebook, const token_ids& ids);

// The gradient with respect to the codebook [codes x d] of gather's output: the sum of the rows of each id.
matrix scatter(const matrix& d_codes, const token_ids& ids, index_t codes);

class tokenizer {
public:
    static constexpr index_t side = 32;  // pixels
    static constexpr index_t pixels = side * side * 3;
    static constexpr index_t grid = side / 4;  // tokens
    static constexpr index_t tokens = grid * grid;

    // Activations of one decode, for decode_backward.
    struct tape {
        std::array<matrix, 2> inputs;   // of the residual blocks [n * 64 x width]
        std::array<matrix, 2> middles;  // between their convolutions
        matrix features;                // after the blocks
        matrix enlarged;                // before the last SiLU [n * 64 x 16 up]
        matrix images;
    };

    // Errors: isic::io_error naming a missing tensor or a wrong shape.
    explicit tokenizer(const weights& file, int threads = 1);

    const matrix& codebook() const { return codebook_; }
    index_t dim() const { return codebook_.cols(); }

    // Errors: isic::value_error if the images are not rows of 3072 values.
    matrix encode(const matrix& images) const;

    // Ids of the nearest codes; the lowest id of equally near ones.
    token_ids quantise(const matrix& latents, const matrix& codebook) const;

    // Images of codes. The codes may come from an edited codebook.
    matrix decode(const matrix& codes) const;
    matrix decode(const matrix& codes, tape& record) const;

    // The gradient with respect to the decoder's input [n * 64 x d], given that of the images.
    matrix decode_backward(const tape& record, const matrix& d_images) const;

private:
    struct residual {
        nn::affine conv1;
        nn::affine conv2;
        nn::affine conv1_transposed;  // of the decoder's blocks only
        nn::affine conv2_transposed;
    };

    static residual load_residual(const weights& file, const std::string& name, index_t width, bool with_gradient);
    void apply_residual(const residual& block, float* h, float* middle, nn::bordered& buffer, index_t n) const;
    void encode_chunk(const float* images, index_t n, float* latents) const;
    void decode_chunk(const float* codes, index_t first, index_t n, float* images, tape* record) const;
    void backward_chunk(const tape& record, const float* d_images, index_t first, index_t n, float* d_codes) const;
    index_t images_in(const char* function, const matrix& rows, index_t cols, index_t per_image) const;

    static constexpr index_t chunk = 12;  // images per chunk; their activations fit the cache

    index_t width_;
    index_t up_;
    int threads_;
    matrix codebook_;
    nn::affine patch_, to_latent_;
    std::vector<residual> encoder_;
    nn::affine from_latent_, unpatch_, to_pixels_;
    std::vector<residual> decoder_;
    nn::affine from_latent_transposed_, unpatch_transposed_, to_pixels_transposed_;
};

namespace detail {

// Errors: isic::value_error unless 0 <= id < codes.
void require_id(const char* function, int id, index_t codes);

}  // namespace detail
}  // namespace emoji
