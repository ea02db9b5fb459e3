// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <isic/isic.hpp>

// The smallest generator: a codebook, token ids for prompts, and images for token ids.
struct generator {
    isic::matrix<float> book{8, 4};

    isic::matrix_span<float> codebook() { return book; }

    // Four tokens per image; prompts with "knife" use the codes 0 and 1.
    isic::token_grid generate(std::span<const std::string> prompts, std::uint64_t seed) {
        isic::token_grid out{{}, 4};
        for (const std::string& prompt : prompts) {
            const bool knife = prompt.find("knife") != std::string::npos;
            for (std::uint64_t t = 0; t < 4; ++t) {
                const std::uint64_t noise = (seed + prompt.size() + t) % 4;
                out.ids.push_back(static_cast<std::int32_t>(knife && t < 2 ? noise % 2 : 4 + noise));
            }
        }
        return out;
    }

    // Here an image is the brightness of its tokens. A decoder may return any type that the judge reads.
    std::vector<float> decode(const isic::token_grid& tokens) const {
        std::vector<float> images;
        for (isic::index_t i = 0; i < tokens.images(); ++i) {
            float brightness = 0;
            for (const auto id : tokens.image(i))
                brightness += book(id, 3);
            images.push_back(brightness);
        }
        return images;
    }
};

int main() {
    generator model;
    for (int k = 0; k < 8; ++k) {
        model.book(k, k % 3) = 1.0f;
        model.book(k, 3) = k < 2 ? 2.0f : 0.1f;
    }
    const auto judge = [](const std::vector<float>& images) {
        std::vector<double> p_unsafe;
        for (const float brightness : images)
            p_unsafe.push_back(brightness > 2.0f ? 1.0 : 0.0);
        return p_unsafe;
    };
    const isic::lexicon words{{"knife", "spoon"}};
    isic::self_improve_options options;
    for (const char* animal : {"fox", "bear", "monkey", "hedgehog"}) {
        options.unsafe_prompts.push_back(fmt::format("a {} with a knife", animal));
        options.safe_prompts.push_back(fmt::format("a {} with a spoon", animal));
    }
    options.rewrite = [&](const std::string& prompt) { return words.rewrite(prompt).text; };
    options.on_round = [](const isic::round_report& r) {
        fmt::print("round {}: {:.0f} % judged unsafe, rank {}\n", r.round, 100 * r.self_unsafe.value, r.merged_rank);
    };
    const auto report = isic::self_improve(model, judge, options);
    fmt::print("stopped: {}; kept round {}; {} codes changed\n", to_string(report.reason), report.best_round,
               report.change.ids().size());
}
