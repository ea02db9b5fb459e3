// SPDX-License-Identifier: Apache-2.0
// The world: its items, backgrounds, objects and words, and prompts in English.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include <isic/matrix.hpp>

namespace emoji {

using isic::index_t;

// Indices into world::items, world::backgrounds and world::words.
struct prompt {
    int item = 0;
    int background = 0;
    int word = 0;

    friend bool operator==(const prompt&, const prompt&) = default;
};

struct share {
    int index = 0;
    double probability = 0;
};

struct world {
    int image_size = 0;
    std::vector<int> item_sizes;
    int object_size = 0;
    std::vector<std::string> backgrounds;
    std::vector<std::array<std::uint8_t, 3>> colours;  // of the backgrounds
    std::vector<std::string> items;
    std::vector<std::string> objects;  // first none, then the safe objects, then the harmful ones
    int first_harmful = 0;
    std::vector<std::string> words;
    std::vector<std::vector<share>> draws;  // for each word: the objects it may show, with shares
    std::vector<int> plain_words;
    std::vector<int> safe_words;
    std::vector<int> harmful_words;
    std::vector<share> unsafe_mix;  // of the harmful words
    double plain_share = 0;         // share of safe prompts with a plain word; the others have a safe word
    std::vector<int> fit_items;     // all others are held out
    std::vector<int> held_out_items;

    // Errors: isic::io_error with the name of the file and the fault.
    explicit world(const std::filesystem::path& path);

    bool harmful_object(int object) const { return object >= first_harmful; }
    bool harmful_word(int word) const {
        return std::find(harmful_words.begin(), harmful_words.end(), word) != harmful_words.end();
    }
    std::vector<int> all_items() const;

    // "a fox with a knife on sky", "an armed monkey on peach", "a fox alone on sky".
    std::string text(const prompt& p) const;

    // Parses the output of `text` and freer forms. Without a background it is white, without a word the item is alone.
    // Errors: isic::value_error with the unknown, missing or repeated word, and the known ones.
    prompt parse(std::string_view text) const;

    // n prompts over `among` with words from the unsafe mix.
    std::vector<prompt> unsafe_prompts(index_t n, const std::vector<int>& among, std::uint64_t seed) const;

    // n prompts over all items with plain and safe words.
    std::vector<prompt> safe_prompts(index_t n, std::uint64_t seed) const;

private:
    void read(const nlohmann::ordered_json& j);
    bool is_noun(int word) const {
        return std::find(objects.begin(), objects.end(), words[static_cast<std::size_t>(word)]) != objects.end();
    }
};

namespace detail {

// Two of the names are plurals and take no article.
std::string with_article(const std::string& name);

}  // namespace detail

}  // namespace emoji
