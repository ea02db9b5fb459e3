// SPDX-License-Identifier: Apache-2.0
#include <emoji/transformer.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <span>

#include <emoji/random.hpp>
#include <emoji/top_k.hpp>

namespace emoji {

// Keys and values of the positions so far, for a chunk of images: keys [head size x positions], so that scores
// vectorise over positions; values [positions x head size].
class transformer::cache {
public:
    cache(std::size_t layers, index_t count, index_t heads, index_t size)
        : heads_(heads), size_(size), keys_(layers, vector::Zero(count * heads * size * capacity)), values_(keys_) {}

    static constexpr index_t capacity = (positions + 15) / 16 * 16;

    index_t length = 0;

    float* keys(std::size_t layer, index_t image, index_t head) { return keys_[layer].data() + offset(image, head); }
    float* values(std::size_t layer, index_t image, index_t head) {
        return values_[layer].data() + offset(image, head);
    }
    const float* keys(std::size_t layer, index_t image, index_t head) const {
        return keys_[layer].data() + offset(image, head);
    }
    const float* values(std::size_t layer, index_t image, index_t head) const {
        return values_[layer].data() + offset(image, head);
    }

private:
    index_t offset(index_t image, index_t head) const { return (image * heads_ + head) * size_ * capacity; }

    index_t heads_, size_;
    std::vector<vector> keys_, values_;
};

namespace {

void require_sampling(const char* function, double temperature, int top_k) {
    if (!(temperature > 0) || top_k < 1) {
        throw isic::value_error(
            fmt::format("emoji::transformer::{}: expected temperature > 0 and top_k >= 1, got {} and {}", function,
                        temperature, top_k));
    }
}

// The random number of position `position` of image `image`.
double draw_uniform(std::uint64_t seed, index_t image, index_t position) {
    return random_stream(mix_bits(seed) + static_cast<std::uint64_t>(position), static_cast<std::uint64_t>(image))
        .uniform();
}

}  // namespace

transformer::transformer(const weights& file, const world& w, int threads)
    : threads_(threads),
      items_(static_cast<int>(w.items.size())),
      backgrounds_(static_cast<int>(w.backgrounds.size())),
      objects_(static_cast<int>(w.objects.size())),
      words_(static_cast<int>(w.words.size())),
      first_harmful_(w.first_harmful),
      width_(file.shape("transformer.position", 2)[1]),
      heads_(file.number("heads")),
      scale_(file.values("transformer.scale", {1})[0]),
      text_(file.values("transformer.text.weight", items_ + backgrounds_ + words_ + 4, width_)),
      position_(file.values("transformer.position", positions, width_)),
      norm_(file, "transformer.norm", width_) {
    if (heads_ < 1 || width_ % heads_ != 0 || width_ / heads_ % nn::detail::lanes != 0 || !(scale_ > 0)) {
        throw isic::io_error(
            fmt::format("emoji::transformer: expected heads that divide the width into multiples of {} and "
                        "a scale > 0, found {} heads, width {}, scale {}",
                        nn::detail::lanes, heads_, width_, scale_));
    }
    const auto& book = file.shape("tokenizer.codebook", 2);
    const matrix codebook = file.values("tokenizer.codebook", book[0], book[1]);
    const nn::affine code_in1 = nn::load_linear(file, "transformer.code_in.0", width_, book[1]);
    const nn::affine code_in2 = nn::load_linear(file, "transformer.code_in.2", width_, width_);
    table_ = project(code_in1, code_in2, codebook);
    latent_in1_ = nn::load_linear(file, "transformer.latent_in.0", width_, book[1]);
    latent_in2_ = nn::load_linear(file, "transformer.latent_in.2", width_, width_);
    head_ = nn::load_linear(file, "transformer.head", book[0], width_);
    answer_ = nn::load_linear(file, "transformer.answer", items_ + backgrounds_ + objects_, width_);
    for (int j = 0; file.has(fmt::format("transformer.blocks.{}.norm1.weight", j)) || j == 0; ++j) {
        const std::string name = fmt::format("transformer.blocks.{}.", j);
        blocks_.push_back({nn::layer_norm(file, name + "norm1", width_), nn::layer_norm(file, name + "norm2", width_),
                           nn::load_linear(file, name + "qkv", 3 * width_, width_),
                           nn::load_linear(file, name + "out", width_, width_),
                           nn::load_linear(file, name + "up", 4 * width_, width_),
                           nn::load_linear(file, name + "down", width_, 4 * width_)});
    }
}

// second(gelu(first(codes / scale)))
matrix transformer::project(const nn::affine& first, const nn::affine& second, const matrix& codes) const {
    matrix hidden = first.apply(codes / scale_);
    nn::map(hidden.size(), hidden.data(), nn::gelu{}, hidden.data());
    return second.apply(hidden);
}

// Causal attention of the newest positions of every image over all of its positions.
void transformer::attend(const matrix& qkv, index_t count, std::size_t layer, const cache& past, matrix& out) const {
    using namespace nn::detail;
    constexpr index_t capacity = cache::capacity;
    const index_t size = width_ / heads_, fresh = qkv.rows() / count;
    const packet scale = constant(1.0f / std::sqrt(static_cast<float>(size)));
    std::array<float, capacity> scores;
    for (index_t row = 0; row < qkv.rows(); ++row) {
        const index_t seen = past.length - fresh + row % fresh + 1;
        for (index_t head = 0; head < heads_; ++head) {
            const float* query = qkv.row(row).data() + head * size;
            const float* keys = past.keys(layer, row / fresh, head);
            for (index_t t = 0; t < seen; t += lanes) {
                packet sum = constant(0);
                for (index_t c = 0; c < size; ++c) {
                    sum = Eigen::internal::pmadd(constant(query[c]), load(keys + c * capacity + t), sum);
                }
                Eigen::internal::pstoreu(scores.data() + t, Eigen::internal::pmul(sum, scale));
            }
            nn::softmax(seen, scores.data());
            const float* values = past.values(layer, row / fresh, head);
            for (index_t c = 0; c < size; c += lanes) {
                packet sum = constant(0);
                for (index_t t = 0; t < seen; ++t) {
                    sum = Eigen::internal::pmadd(constant(scores[static_cast<std::size_t>(t)]),
                                                 load(values + t * size + c), sum);
                }
                Eigen::internal::pstoreu(out.row(row).data() + head * size + c, sum);
            }
        }
    }
}

// Runs the blocks on the newest positions: x [count * fresh x width], an image's positions adjacent.
void transformer::forward(matrix& x, index_t count, cache& past) const {
    const index_t rows = x.rows(), fresh = rows / count, size = width_ / heads_;
    matrix normed(rows, width_), qkv(rows, 3 * width_), attended(rows, width_), hidden(rows, 4 * width_);
    past.length += fresh;
    for (std::size_t layer = 0; layer < blocks_.size(); ++layer) {
        const block& b = blocks_[layer];
        b.norm1.apply(rows, x.data(), normed.data());
        b.qkv.apply(rows, normed.data(), qkv.data());
        for (index_t row = 0; row < rows; ++row) {
            const index_t at = past.length - fresh + row % fresh;
            for (index_t head = 0; head < heads_; ++head) {
                const float* key = qkv.row(row).data() + width_ + head * size;
                float* keys = past.keys(layer, row / fresh, head) + at;
                for (index_t c = 0; c < size; ++c) {
                    keys[c * cache::capacity] = key[c];
                }
                std::copy_n(key + width_, size, past.values(layer, row / fresh, head) + at * size);
            }
        }
        attend(qkv, count, layer, past, attended);
        b.out.apply(rows, attended.data(), x.data(), true);
        b.norm2.apply(rows, x.data(), normed.data());
        b.up.apply(rows, normed.data(), hidden.data());
        nn::map(hidden.size(), hidden.data(), nn::gelu{}, hidden.data());
        b.down.apply(rows, hidden.data(), x.data(), true);
    }
}

// [count * 3 x width]: background, item, word.
matrix transformer::embed(const prompt* prompts, index_t count) const {
    matrix x(count * prompt_tokens, width_);
    for (index_t i = 0; i < count; ++i) {
        const prompt& p = prompts[i];
        x.row(3 * i) = text_.row(items_ + p.background) + position_.row(0);
        x.row(3 * i + 1) = text_.row(p.item) + position_.row(1);
        x.row(3 * i + 2) = text_.row(items_ + backgrounds_ + p.word) + position_.row(2);
    }
    return x;
}

// Logits of the next code, from each image's newest position.
matrix transformer::last_logits(const matrix& x, index_t count) const {
    const index_t fresh = x.rows() / count;
    matrix last(count, width_);
    for (index_t i = 0; i < count; ++i) {
        norm_.apply(1, x.row(i * fresh + fresh - 1).data(), last.row(i).data());
    }
    return head_.apply(last);
}

void transformer::require_prompts(const char* function, const std::vector<prompt>& prompts, const token_ids& ids,
                                  index_t per_prompt) const {
    for (const prompt& p : prompts) {
        if (p.item < 0 || p.item >= items_ || p.background < 0 || p.background >= backgrounds_ || p.word < 0 ||
            p.word >= words_) {
            throw isic::value_error(fmt::format(
                "emoji::transformer::{}: expected item, background and word below {}, {} and {}, got {}, {} and {}",
                function, items_, backgrounds_, words_, p.item, p.background, p.word));
        }
    }
    if (static_cast<index_t>(ids.size()) != static_cast<index_t>(prompts.size()) * per_prompt) {
        throw isic::value_error(fmt::format("emoji::transformer::{}: expected {} ids for each of {} prompts, got {}",
                                            function, per_prompt, prompts.size(), ids.size()));
    }
    for (const int id : ids) {
        detail::require_id("transformer", id, codes());
    }
}

template <class Pick>
void transformer::walk(const std::vector<prompt>& prompts, index_t first_logits, Pick pick) const {
    const auto n = static_cast<index_t>(prompts.size());
    parallel_chunks(n, draw_chunk, threads_, [&](index_t first, index_t count) {
        cache past(blocks_.size(), count, heads_, width_ / heads_);
        matrix x = embed(prompts.data() + first, count), logits;
        forward(x, count, past);
        for (index_t t = 0; t < tokens; ++t) {
            if (t >= first_logits) {
                logits = last_logits(x, count);
            }
            x.resize(count, width_);
            for (index_t i = 0; i < count; ++i) {
                const int id = pick(first + i, t, t >= first_logits ? logits.row(i).data() : nullptr);
                x.row(i) = table_.row(id) + position_.row(prompt_tokens + t);
            }
            if (t + 1 < tokens) {
                forward(x, count, past);
            }
        }
    });
}

token_ids transformer::sample(const std::vector<prompt>& prompts, const sampling& options,
                              const token_ids& prefix) const {
    const index_t given = prompts.empty() ? 0 : static_cast<index_t>(prefix.size() / prompts.size());
    require_prompts("sample", prompts, prefix, std::min(given, tokens));
    require_sampling("sample", options.temperature, options.top_k);
    token_ids out(prompts.size() * static_cast<std::size_t>(tokens));
    walk(prompts, given, [&](index_t i, index_t t, const float* logits) {
        int& id = out[static_cast<std::size_t>(i * tokens + t)];
        if (t < given) {
            return id = prefix[static_cast<std::size_t>(i * given + t)];
        }
        thread_local top_k_picker picker;
        const double uniform = draw_uniform(options.seed, options.first + i, t);
        return id = picker.pick({logits, static_cast<std::size_t>(codes())}, options.top_k, options.temperature,
                                uniform);
    });
    return out;
}

redrawn transformer::redraw(const std::vector<prompt>& prompts, const token_ids& ids,
                            const std::vector<std::uint8_t>& redraw, const std::vector<std::uint8_t>& allowed,
                            const redrawing& options) const {
    constexpr double floor = -8;
    require_prompts("redraw", prompts, ids, tokens);
    require_sampling("redraw", options.temperature, options.top_k);
    if (redraw.size() != ids.size() || static_cast<index_t>(allowed.size()) != codes()) {
        throw isic::value_error(
            fmt::format("emoji::transformer::redraw: expected {} marked positions and {} codes, got {} and {}",
                        ids.size(), codes(), redraw.size(), allowed.size()));
    }
    redrawn out{ids, std::vector<double>(prompts.size(), 0.0)};
    walk(prompts, 0, [&](index_t i, index_t t, const float* logits) {
        const auto at = static_cast<std::size_t>(i * tokens + t);
        if (redraw[at] != 0) {
            thread_local top_k_picker picker;
            thread_local std::vector<float> restricted;
            restricted.assign(logits, logits + codes());
            for (std::size_t k = 0; k < restricted.size(); ++k) {
                restricted[k] = allowed[k] != 0 ? restricted[k] : -std::numeric_limits<float>::infinity();
            }
            const double uniform = draw_uniform(options.seed, options.first + i, t);
            out.ids[at] = picker.pick(restricted, options.top_k, options.temperature, uniform);
        }
        const int id = out.ids[at];
        const double log_p = static_cast<double>(logits[id]) - static_cast<double>(nn::log_sum_exp(codes(), logits));
        out.log_likelihood[static_cast<std::size_t>(i)] += std::max(log_p, floor);
        return id;
    });
    return out;
}

matrix transformer::draw_logits(const std::vector<prompt>& prompts, const token_ids& ids) const {
    require_prompts("draw_logits", prompts, ids, tokens);
    matrix out(static_cast<index_t>(ids.size()), codes());
    walk(prompts, 0, [&](index_t i, index_t t, const float* logits) {
        std::copy_n(logits, codes(), out.row(i * tokens + t).data());
        return ids[static_cast<std::size_t>(i * tokens + t)];
    });
    return out;
}

answers transformer::judge(const matrix& latents) const {
    if (latents.rows() % tokens != 0 || latents.cols() != latent_in1_.inputs()) {
        throw isic::value_error(
            fmt::format("emoji::transformer::judge: expected a multiple of {} rows of {}, got {} x {}", tokens,
                        latent_in1_.inputs(), latents.rows(), latents.cols()));
    }
    const index_t n = latents.rows() / tokens, question = text_.rows() - 4;
    matrix all(n, answer_.outputs());
    parallel_chunks(n, judge_chunk, threads_, [&](index_t first, index_t count) {
        const matrix inside = project(latent_in1_, latent_in2_, latents.middleRows(first * tokens, count * tokens));
        matrix x(count * positions, width_);
        for (index_t i = 0; i < count; ++i) {
            auto rows = x.middleRows(i * positions, positions);
            rows.topRows(3) = text_.middleRows(question, 3);
            rows.middleRows(3, tokens) = inside.middleRows(i * tokens, tokens);
            rows.bottomRows(1) = text_.bottomRows(1);
            rows += position_;
        }
        cache past(blocks_.size(), count, heads_, width_ / heads_);
        forward(x, count, past);
        for (index_t i = 0; i < count; ++i) {
            float* last = x.row(i * positions + positions - 1).data();
            norm_.apply(1, last, last);
            answer_.apply(1, last, all.row(first + i).data());
        }
    });
    return {all.leftCols(items_), all.middleCols(items_, backgrounds_), all.rightCols(objects_)};
}

std::vector<double> transformer::p_unsafe(const tokenizer& t, const matrix& images) const {
    matrix object = judge(t.encode(images)).object;
    std::vector<double> out;
    for (index_t i = 0; i < object.rows(); ++i) {
        nn::softmax(objects_, object.row(i).data());
        out.push_back(static_cast<double>(object.row(i).tail(objects_ - first_harmful_).sum()));
    }
    return out;
}

}  // namespace emoji
