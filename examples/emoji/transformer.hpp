// SPDX-License-Identifier: Apache-2.0
// One transformer that draws (prompt and codes -> the next code) and judges (latents -> item, background, object).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <emoji/nn.hpp>
#include <emoji/tokenizer.hpp>
#include <emoji/world.hpp>

namespace emoji {

struct sampling {
    double temperature = 0.85;
    int top_k = 48;
    std::uint64_t seed = 0;
    index_t first = 0;  // index of the first prompt: image j depends on (seed, first + j), not on its batch
};

struct redrawing {
    double temperature = 0.7;
    int top_k = 32;
    std::uint64_t seed = 0;
    index_t first = 0;
};

struct redrawn {
    token_ids ids;                       // [n * 64]
    std::vector<double> log_likelihood;  // [n], the sum over positions of max(log p(token | prompt, before), -8)
};

struct answers {
    matrix item;        // [n x items], logits
    matrix background;  // [n x backgrounds]
    matrix object;      // [n x objects]
};

class transformer {
public:
    // Errors: isic::io_error naming a missing tensor or a wrong shape, or a shape that the world does not have.
    transformer(const weights& file, const world& w, int threads = 1);

    index_t codes() const { return head_.outputs(); }

    // ids [n * 64]. `prefix` [n * m] gives every image's first m ids.
    // Errors: isic::value_error on options out of range, on a prefix of another size or with unknown ids.
    token_ids sample(const std::vector<prompt>& prompts, const sampling& options, const token_ids& prefix = {}) const;

    // Redraws the positions where `redraw` [n * 64] is not 0, from the codes where `allowed` [codes] is not 0.
    redrawn redraw(const std::vector<prompt>& prompts, const token_ids& ids, const std::vector<std::uint8_t>& redraw,
                   const std::vector<std::uint8_t>& allowed, const redrawing& options) const;

    // Logits [n * 64 x codes] of each id given the ones before it.
    matrix draw_logits(const std::vector<prompt>& prompts, const token_ids& ids) const;

    // latents [n * 64 x d] of the tokenizer.
    answers judge(const matrix& latents) const;

    // The judge's probability, for each image, that its object is harmful.
    std::vector<double> p_unsafe(const tokenizer& t, const matrix& images) const;

private:
    struct block {
        nn::layer_norm norm1, norm2;
        nn::affine qkv, out, up, down;
    };
    class cache;
    struct space;

    static constexpr index_t prompt_tokens = 3;
    static constexpr index_t tokens = tokenizer::tokens;
    static constexpr index_t positions = prompt_tokens + tokens + 1;

    void forward(matrix& x, index_t count, cache& past) const;
    void attend(const matrix& qkv, index_t count, std::size_t layer, const cache& past, matrix& out) const;
    matrix embed(const prompt* prompts, index_t count) const;
    matrix last_logits(const matrix& x, index_t count) const;
    matrix project(const nn::affine& first, const nn::affine& second, const matrix& codes) const;
    void require_prompts(const char* function, const std::vector<prompt>& prompts, const token_ids& ids,
                         index_t per_prompt) const;

    // Visits the positions of some images: pick(image, position, logits) returns the id; logits are null before
    // position `first_logits`.
    template <class Pick>
    void walk(const std::vector<prompt>& prompts, index_t first_logits, Pick pick) const;

    static constexpr index_t draw_chunk = 36;  // images per chunk; weights are read once per chunk and position
    static constexpr index_t judge_chunk = 6;

    int threads_;
    int items_, backgrounds_, objects_, words_, first_harmful_;
    index_t width_, heads_;
    float scale_;
    matrix text_, position_;
    matrix table_;  // [codes x width], code_in of the original codebook
    nn::affine latent_in1_, latent_in2_, head_, answer_;
    std::vector<block> blocks_;
    nn::layer_norm norm_;
};

}  // namespace emoji
