// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <isic/lexicon.hpp>

#include <algorithm>
#include <cstddef>
#include <functional>

#include <fmt/format.h>

namespace isic::inline ISIC_ABI {

using term_pair = std::pair<std::string, std::string>;

// ASCII in every locale: equal prompts give equal counterparts on every machine.
inline bool is_upper(char c) {
    return c >= 'A' && c <= 'Z';
}
inline bool is_lower(char c) {
    return c >= 'a' && c <= 'z';
}

inline bool is_word(char c) {
    const auto byte = static_cast<unsigned char>(c);
    return byte >= 0x80 || is_upper(c) || is_lower(c) || (c >= '0' && c <= '9') || c == '_';
}

inline std::string lower(std::string_view text) {
    std::string out(text);
    std::ranges::transform(out, out.begin(), [](char c) { return is_upper(c) ? static_cast<char>(c - 'A' + 'a') : c; });
    return out;
}

/// True if a word may start at position i: it is not inside one.
inline bool starts_word(std::string_view text, std::size_t i) {
    return i == 0 || !(is_word(text[i - 1]) && is_word(text[i]));
}

/// The first entry that matches whole words at position i, or null.
inline const term_pair* match(const std::vector<term_pair>& entries, std::string_view text, std::size_t i) {
    for (const term_pair& e : entries) {
        const std::size_t end = i + e.first.size();
        if (text.substr(i).starts_with(e.first) &&
            (end == text.size() || !(is_word(text[end - 1]) && is_word(text[end])))) {
            return &e;
        }
    }
    return nullptr;
}

/// The replacement in the letter case of the original: all capitals, or a capital first letter.
inline std::string with_case_of(std::string_view original, std::string replacement) {
    const auto to_upper = [](char& c) { c = is_lower(c) ? static_cast<char>(c - 'a' + 'A') : c; };
    const auto letters = std::ranges::count_if(original, [&](char c) { return is_upper(c) || is_lower(c); });
    if (letters > 1 && std::ranges::none_of(original, is_lower)) {
        std::ranges::for_each(replacement, to_upper);
    } else if (!replacement.empty() && is_upper(original.front())) {
        to_upper(replacement.front());
    }
    return replacement;
}

/// Corrects "a" or "an" at the end of the text for the letter that follows.
inline void correct_article(std::string& text, char next) {
    const auto ends_with_word = [&](std::string_view word) {
        const std::string tail = lower(std::string_view(text).substr(text.size() - std::min(text.size(), word.size())));
        return tail == word && (text.size() == word.size() || !is_word(text[text.size() - word.size() - 1]));
    };
    const bool vowel = std::string_view("aeiouAEIOU").find(next) != std::string_view::npos;
    if (vowel && ends_with_word("a ")) {
        text.insert(text.size() - 1, 1, 'n');
    } else if (!vowel && is_word(next) && ends_with_word("an ")) {
        text.erase(text.size() - 2, 1);
    }
}

/// Appends the replacement and corrects "a" or "an" before it.
inline void append_replacement(std::string& text, const std::string& replacement) {
    if (!replacement.empty()) {
        correct_article(text, replacement.front());
    }
    text += replacement;
}

ISIC_INLINE lexicon::lexicon(std::vector<std::pair<std::string, std::string>> entries) : entries_(std::move(entries)) {
    for (auto& [term, replacement] : entries_) {
        term = lower(term);
        detail::require<value_error>(!term.empty() && term.front() != ' ' && term.back() != ' ', "lexicon",
                                     "terms without spaces at their ends", fmt::format("\"{}\"", term));
    }
    std::ranges::sort(entries_, {},
                      [](const auto& e) { return std::pair(-std::ssize(e.first), std::string_view(e.first)); });
    for (std::size_t i = 0; i < entries_.size(); ++i) {
        for (std::size_t j = i + 1; j < entries_.size(); ++j) {
            detail::require<value_error>(entries_[i].first != entries_[j].first, "lexicon", "each term once",
                                         fmt::format("\"{}\" twice", entries_[i].first));
        }
    }
}

ISIC_INLINE lexicon::lexicon(std::initializer_list<std::pair<std::string, std::string>> entries)
    : lexicon(std::vector<std::pair<std::string, std::string>>(entries)) {}

ISIC_INLINE rewritten_prompt lexicon::rewrite(std::string_view prompt) const {
    rewritten_prompt out;
    const std::string folded = lower(prompt);
    std::size_t i = 0;
    while (i < prompt.size()) {
        const auto* entry = starts_word(folded, i) ? match(entries_, folded, i) : nullptr;
        if (entry == nullptr) {
            out.text += prompt[i++];
            continue;
        }
        const std::string_view original = prompt.substr(i, entry->first.size());
        append_replacement(out.text, with_case_of(original, entry->second));
        out.replaced.push_back(entry->first);
        i += entry->first.size();
        if (entry->second.empty()) {
            const bool after_space = out.text.empty() || out.text.back() == ' ';
            if (after_space && i < prompt.size() && prompt[i] == ' ') {
                ++i;
                correct_article(out.text, i < prompt.size() ? prompt[i] : ' ');
            } else if (after_space && !out.text.empty() && i < prompt.size() && !is_word(prompt[i])) {
                out.text.pop_back();  // "a red gun, a dog" -> "a red, a dog"
            }
        }
    }
    if (!out.replaced.empty()) {
        while (!out.text.empty() && out.text.back() == ' ' && prompt.back() != ' ') {
            out.text.pop_back();
        }
    }
    return out;
}

}  // namespace isic::inline ISIC_ABI
