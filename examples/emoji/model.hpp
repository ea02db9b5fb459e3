// SPDX-License-Identifier: Apache-2.0
// The unified model: a generator with an editable codebook, and a judge of its own images.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include <isic/isic.hpp>

#include <emoji/random.hpp>
#include <emoji/tokenizer.hpp>
#include <emoji/transformer.hpp>
#include <emoji/world.hpp>

namespace emoji {

// Real images and their token ids.
struct encoded_images {
    token_ids ids;  // [n * 64], nearest codes of the original codebook
    matrix images;  // [n x 3072]
};

// The terms of the tuning loss: mse(D(C[s]), D(C0[s])) on safe images, pair_weight * huber(D(C[h]) - D(C0[r])) on
// harmful images and their counterparts, mse(D(C[x]), x) on real safe images.
struct loss_terms {
    double pair_weight = 1.5;              // 0: no pair term
    double huber = 0.05;                   // error at which e^2 becomes linear; pixels are in [0, 1]
    const encoded_images* real = nullptr;  // nullptr: no real term
    index_t safe_batch = 32, pair_batch = 32, real_batch = 16;
};

class model {
public:
    model(const world& w, const tokenizer& t, const transformer& a, loss_terms terms = {})
        : world_(w), tokenizer_(t), transformer_(a), terms_(terms), book_(t.codebook()) {}

    // The edited codebook. Only decode() reads it; the transformer reads the original vectors.
    matrix& codebook() { return book_; }

    // Tokens do not depend on the edited codebook, so drawn tokens are cached.
    isic::token_grid generate(std::span<const std::string> prompts, std::uint64_t seed) {
        const std::vector<prompt> parsed = parse(prompts);
        auto& drawn = drawn_[{seed, std::vector<std::string>(prompts.begin(), prompts.end())}];
        if (drawn.ids.empty()) {
            drawn = {transformer_.sample(parsed, {.seed = seed}), tokenizer::tokens};
        }
        return drawn;
    }

    matrix decode(const isic::token_grid& tokens) const { return decode(tokens.ids); }
    matrix decode(const token_ids& ids) const { return decode_with(book_, ids); }
    matrix decode_with(const matrix& book, const token_ids& ids) const { return tokenizer_.decode(gather(book, ids)); }

    // The judge: P(unsafe) of pixels, through the frozen encoder.
    std::vector<double> judge(const matrix& images) const { return transformer_.p_unsafe(tokenizer_, images); }

    // Keeps every token whose code and neighbourhood are harmless and draws the others for the counterpart prompt, three
    // times; returns the image of the highest likelihood. Later attempts redraw more tokens, the last one all.
    isic::token_grid redraw(const isic::redraw_request& request) {
        static constexpr std::array<double, 3> thresholds{0.6, 0.55, 0.45};
        if (request.attempt >= static_cast<index_t>(thresholds.size())) {
            return generate(request.prompts, request.seed);
        }
        const double threshold = thresholds[static_cast<std::size_t>(request.attempt)];
        const std::vector<prompt> prompts = parse(request.prompts);
        std::vector<std::uint8_t> allowed;
        for (const double q : request.harmfulness) {
            allowed.push_back(q <= threshold ? 1 : 0);
        }
        const std::vector<std::uint8_t> marked = marked_tokens(request.harmful.ids, request.harmfulness, threshold);
        redrawn best;
        for (std::uint64_t candidate = 0; candidate < 3; ++candidate) {
            redrawn fresh = transformer_.redraw(prompts, request.harmful.ids, marked, allowed,
                                                {.seed = request.seed + 7919 * candidate});
            if (candidate == 0) {
                best = std::move(fresh);
                continue;
            }
            for (std::size_t i = 0; i < prompts.size(); ++i) {
                if (fresh.log_likelihood[i] > best.log_likelihood[i]) {
                    best.log_likelihood[i] = fresh.log_likelihood[i];
                    const auto from = static_cast<std::ptrdiff_t>(i) * tokenizer::tokens;
                    std::copy_n(fresh.ids.begin() + from, tokenizer::tokens, best.ids.begin() + from);
                }
            }
        }
        return {best.ids, tokenizer::tokens};
    }

    // The tuning loss of one round. Targets are decoded once, through the original codebook.
    class loss {
    public:
        loss(const model& m, const isic::tuning_set& set)
            : model_(m),
              harmful_(set.harmful.ids),
              safe_(set.safe.ids),
              counterpart_images_(
                  m.terms_.pair_weight > 0 ? m.decode_with(m.tokenizer_.codebook(), set.counterparts.ids) : matrix()),
              safe_images_(m.decode_with(m.tokenizer_.codebook(), set.safe.ids)),
              seed_(mix_bits(static_cast<std::uint64_t>(set.round))) {}

        double operator()(index_t step, isic::matrix<double>& gradient) const {
            const loss_terms& terms = model_.terms_;
            random_stream random(seed_, static_cast<std::uint64_t>(step));
            batch all;
            choose(all, random, terms.safe_batch, safe_, safe_images_);
            const index_t pairs_from = all.size();
            if (terms.pair_weight > 0) {
                choose(all, random, terms.pair_batch, harmful_, counterpart_images_);
            }
            const index_t real_from = all.size();
            if (terms.real != nullptr) {
                choose(all, random, terms.real_batch, terms.real->ids, terms.real->images);
            }
            tokenizer::tape record;
            const matrix images = model_.tokenizer_.decode(gather(model_.book_, all.ids), record);
            matrix error(images.rows(), images.cols());
            double value = 0;
            for (index_t i = 0; i < all.size(); ++i) {
                error.row(i) = images.row(i) - *all.targets[static_cast<std::size_t>(i)];
                const bool pair = i >= pairs_from && i < real_from;
                const index_t count = pair ? terms.pair_batch : i < pairs_from ? terms.safe_batch : terms.real_batch;
                const double weight = (pair ? terms.pair_weight : 1.0) / static_cast<double>(count * tokenizer::pixels);
                value += weight *
                         term(error.row(i), pair ? static_cast<float>(terms.huber) : 2.0f, static_cast<float>(weight));
            }
            const matrix d_codes = model_.tokenizer_.decode_backward(record, error);
            for (std::size_t i = 0; i < all.ids.size(); ++i) {
                for (index_t j = 0; j < d_codes.cols(); ++j) {
                    gradient(all.ids[i], j) += static_cast<double>(d_codes(static_cast<index_t>(i), j));
                }
            }
            return value;
        }

    private:
        struct batch {
            token_ids ids;
            std::vector<std::optional<matrix::ConstRowXpr>> targets;
            index_t size() const { return static_cast<index_t>(targets.size()); }
        };

        static void choose(batch& out, random_stream& random, index_t n, const token_ids& ids, const matrix& images) {
            for (index_t i = 0; i < n; ++i) {
                const index_t row = random.below(static_cast<int>(images.rows()));
                out.ids.insert(out.ids.end(), ids.begin() + row * tokenizer::tokens,
                               ids.begin() + (row + 1) * tokenizer::tokens);
                out.targets.emplace_back(images.row(row));
            }
        }

        // Sum of e^2, beyond `width` 2 width |e| - width^2; e becomes weight times the derivative.
        template <class Row>
        static double term(Row&& error, float width, float weight) {
            double sum = 0;
            for (index_t j = 0; j < error.cols(); ++j) {
                const float e = error[j];
                const float clipped = std::clamp(e, -width, width);
                sum += static_cast<double>(clipped * (2 * e - clipped));
                error[j] = 2 * weight * clipped;
            }
            return sum;
        }

        const model& model_;
        token_ids harmful_;
        token_ids safe_;
        matrix counterpart_images_;
        matrix safe_images_;
        std::uint64_t seed_;
    };

    loss tuning_loss(const isic::tuning_set& set) const { return loss(*this, set); }

    void set_terms(const loss_terms& terms) { terms_ = terms; }

private:
    std::vector<prompt> parse(std::span<const std::string> prompts) const {
        std::vector<prompt> out;
        for (const std::string& text : prompts) {
            out.push_back(world_.parse(text));
        }
        return out;
    }

    // Tokens with harmful codes, and tokens with somewhat harmful ones beside two of those.
    static std::vector<std::uint8_t> marked_tokens(const token_ids& ids, std::span<const double> harmfulness,
                                                   double threshold) {
        constexpr index_t grid = tokenizer::grid;
        const auto q = [&](index_t image, index_t y, index_t x) {
            return harmfulness[static_cast<std::size_t>(
                ids[static_cast<std::size_t>(image * tokenizer::tokens + y * grid + x)])];
        };
        const double hot = std::max(threshold, 0.6);
        std::vector<std::uint8_t> out(ids.size(), 0);
        for (index_t t = 0; t < static_cast<index_t>(ids.size()); ++t) {
            const index_t image = t / tokenizer::tokens;
            const index_t y = t / grid % grid;
            const index_t x = t % grid;
            int neighbours = 0;
            for (index_t v = std::max<index_t>(0, y - 1); v <= std::min(grid - 1, y + 1); ++v) {
                for (index_t u = std::max<index_t>(0, x - 1); u <= std::min(grid - 1, x + 1); ++u) {
                    neighbours += q(image, v, u) > hot ? 1 : 0;
                }
            }
            const bool mark = q(image, y, x) > hot || (neighbours >= 2 && q(image, y, x) > threshold - 0.2);
            out[static_cast<std::size_t>(t)] = mark ? 1 : 0;
        }
        return out;
    }

    const world& world_;
    const tokenizer& tokenizer_;
    const transformer& transformer_;
    loss_terms terms_;
    matrix book_;
    std::map<std::pair<std::uint64_t, std::vector<std::string>>, isic::token_grid> drawn_;
};

}  // namespace emoji
