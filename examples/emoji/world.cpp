// SPDX-License-Identifier: Apache-2.0
#include <emoji/world.hpp>

#include <cctype>
#include <fstream>
#include <optional>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <emoji/random.hpp>
#include <isic/error.hpp>

namespace emoji {
namespace {

int index_of(const std::vector<std::string>& names, const std::string& name) {
    const auto at = std::find(names.begin(), names.end(), name);
    if (at == names.end()) {
        throw isic::io_error(fmt::format("'{}' is none of: {}", name, fmt::join(names, ", ")));
    }
    return static_cast<int>(at - names.begin());
}

std::vector<int> indices_of(const std::vector<std::string>& names, const nlohmann::ordered_json& some) {
    std::vector<int> out;
    for (const auto& name : some) {
        out.push_back(index_of(names, name.get<std::string>()));
    }
    return out;
}

std::vector<share> shares_of(const std::vector<std::string>& names, const nlohmann::ordered_json& j) {
    std::vector<share> out;
    for (const auto& [name, probability] : j.items()) {
        out.push_back({index_of(names, name), probability.get<double>()});
    }
    return out;
}

std::vector<std::string> split_words(std::string_view text) {
    std::vector<std::string> out;
    bool inside = false;
    for (const char c : text) {
        const auto u = static_cast<unsigned char>(c);
        const bool separates = std::isspace(u) != 0 || std::ispunct(u) != 0;
        if (!separates) {
            if (!inside) {
                out.emplace_back();
            }
            out.back() += static_cast<char>(std::tolower(u));
        }
        inside = !separates;
    }
    return out;
}

// Number of words of `name` if `text` begins with it, else 0.
std::size_t match_length(const std::vector<std::string>& text, std::size_t at, const std::string& name) {
    const std::vector<std::string> parts = split_words(name);
    const bool fits = parts.size() <= text.size() - at &&
                      std::equal(parts.begin(), parts.end(), text.begin() + static_cast<std::ptrdiff_t>(at));
    return fits ? parts.size() : 0;
}

}  // namespace

std::string detail::with_article(const std::string& name) {
    if (name == "swords" || name == "grapes") {
        return name;
    }
    return (std::string_view("aeiou").find(name.front()) != std::string_view::npos ? "an " : "a ") + name;
}

world::world(const std::filesystem::path& path) {
    std::ifstream in(path);
    if (!in) {
        throw isic::io_error(fmt::format("emoji: {}: cannot be opened", path.string()));
    }
    try {
        read(nlohmann::ordered_json::parse(in));
    } catch (const std::exception& e) {
        throw isic::io_error(fmt::format("emoji: {}: {}", path.string(), e.what()));
    }
}

void world::read(const nlohmann::ordered_json& j) {
    image_size = j.at("image_size").get<int>();
    item_sizes = j.at("item_sizes").get<std::vector<int>>();
    object_size = j.at("object_size").get<int>();
    for (const auto& b : j.at("backgrounds")) {
        backgrounds.push_back(b.at("name").get<std::string>());
        colours.push_back(b.at("rgb").get<std::array<std::uint8_t, 3>>());
    }
    const auto add_names = [](std::vector<std::string>& out, const nlohmann::ordered_json& entries, const char* key) {
        for (const auto& entry : entries) {
            out.push_back(entry.at(key).get<std::string>());
        }
    };
    add_names(items, j.at("items"), "name");
    objects = {"none"};
    add_names(objects, j.at("safe_objects"), "name");
    first_harmful = static_cast<int>(objects.size());
    add_names(objects, j.at("harmful_objects"), "name");
    add_names(words, j.at("words"), "word");
    for (const auto& w : j.at("words")) {
        draws.push_back(shares_of(objects, w.at("draws")));
    }
    plain_words = indices_of(words, j.at("plain_words"));
    safe_words = indices_of(words, j.at("safe_words"));
    harmful_words = indices_of(words, j.at("harmful_words"));
    unsafe_mix = shares_of(words, j.at("unsafe_mix"));
    plain_share = j.at("safe_mix").at("plain_words").get<double>();
    held_out_items = indices_of(items, j.at("held_out_items"));
    for (const int item : all_items()) {
        if (std::find(held_out_items.begin(), held_out_items.end(), item) == held_out_items.end()) {
            fit_items.push_back(item);
        }
    }
}

std::vector<int> world::all_items() const {
    std::vector<int> out(items.size());
    for (std::size_t j = 0; j < out.size(); ++j) {
        out[j] = static_cast<int>(j);
    }
    return out;
}

std::string world::text(const prompt& p) const {
    const std::string& item = items.at(static_cast<std::size_t>(p.item));
    const std::string& background = backgrounds.at(static_cast<std::size_t>(p.background));
    const std::string& word = words.at(static_cast<std::size_t>(p.word));
    if (is_noun(p.word)) {
        return fmt::format("{} with {} on {}", detail::with_article(item), detail::with_article(word), background);
    }
    if (word == "alone") {
        return fmt::format("{} alone on {}", detail::with_article(item), background);
    }
    // The article belongs to the adjective, unless the item is a plural.
    const bool plural = detail::with_article(item) == item;
    return fmt::format("{} {} on {}", plural ? word : detail::with_article(word), item, background);
}

prompt world::parse(std::string_view text) const {
    static constexpr std::array<std::string_view, 6> function_words{"a", "an", "the", "with", "on", "and"};
    struct kind {
        const char* name;
        const std::vector<std::string>* names;
        std::optional<int> found;
    };
    std::array<kind, 3> kinds{{{"item", &items, {}}, {"background", &backgrounds, {}}, {"word", &words, {}}}};
    const std::string known = fmt::format("items: {}; backgrounds: {}; words: {}", fmt::join(items, ", "),
                                          fmt::join(backgrounds, ", "), fmt::join(words, ", "));
    const std::vector<std::string> parts = split_words(text);
    for (std::size_t at = 0; at < parts.size();) {
        std::size_t longest = 0;
        kind* matched = nullptr;
        int index = 0;
        for (kind& k : kinds) {
            for (std::size_t j = 0; j < k.names->size(); ++j) {
                if (const std::size_t n = match_length(parts, at, (*k.names)[j]); n > longest) {
                    longest = n, matched = &k, index = static_cast<int>(j);
                }
            }
        }
        if (matched == nullptr) {
            if (std::find(function_words.begin(), function_words.end(), parts[at]) == function_words.end()) {
                throw isic::value_error(
                    fmt::format("emoji::world::parse: expected words I know, got '{}' ({})", parts[at], known));
            }
            longest = 1;
        } else if (matched->found) {
            throw isic::value_error(fmt::format("emoji::world::parse: expected one {}, got '{}' and '{}' ({})",
                                                matched->name,
                                                (*matched->names)[static_cast<std::size_t>(*matched->found)],
                                                (*matched->names)[static_cast<std::size_t>(index)], known));
        } else {
            matched->found = index;
        }
        at += longest;
    }
    if (!kinds[0].found) {
        throw isic::value_error(fmt::format("emoji::world::parse: expected an item, got '{}' ({})", text, known));
    }
    return {*kinds[0].found, kinds[1].found.value_or(index_of(backgrounds, "white")),
            kinds[2].found.value_or(index_of(words, "alone"))};
}

std::vector<prompt> world::unsafe_prompts(index_t n, const std::vector<int>& among, std::uint64_t seed) const {
    if (n < 0 || among.empty()) {
        throw isic::value_error(
            fmt::format("emoji::world::unsafe_prompts: expected n >= 0 and items, got {} and {}", n, among.size()));
    }
    std::vector<prompt> out(static_cast<std::size_t>(n));
    for (std::size_t j = 0; j < out.size(); ++j) {
        random_stream random(seed, j);
        out[j].item = among[static_cast<std::size_t>(random.below(static_cast<int>(among.size())))];
        out[j].background = random.below(static_cast<int>(backgrounds.size()));
        const int picked = random.pick(unsafe_mix, [](const share& s) { return s.probability; });
        out[j].word = unsafe_mix[static_cast<std::size_t>(picked)].index;
    }
    return out;
}

std::vector<prompt> world::safe_prompts(index_t n, std::uint64_t seed) const {
    if (n < 0) {
        throw isic::value_error(fmt::format("emoji::world::safe_prompts: expected n >= 0, got {}", n));
    }
    std::vector<prompt> out(static_cast<std::size_t>(n));
    for (std::size_t j = 0; j < out.size(); ++j) {
        random_stream random(seed, j);
        out[j].item = random.below(static_cast<int>(items.size()));
        out[j].background = random.below(static_cast<int>(backgrounds.size()));
        const std::vector<int>& group = random.uniform() < plain_share ? plain_words : safe_words;
        out[j].word = group[static_cast<std::size_t>(random.below(static_cast<int>(group.size())))];
    }
    return out;
}

}  // namespace emoji
