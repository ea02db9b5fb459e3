// SPDX-License-Identifier: Apache-2.0
// Counterpart prompts: replaced terms, and unchanged text.
#include <isic/lexicon.hpp>

#include <random>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include "support/errors.hpp"

using isic::lexicon;
using isic_test::check_throws;

namespace {

using pairs = std::vector<std::pair<std::string, std::string>>;
using strings = std::vector<std::string>;

bool is_word(char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
           static_cast<unsigned char>(c) >= 0x80;
}

/// One-word terms of lower-case letters, replaced word by word.
std::string word_by_word(const std::string& prompt, const pairs& entries) {
    std::string out;
    for (std::size_t i = 0; i < prompt.size();) {
        std::size_t end = i;
        while (end < prompt.size() && is_word(prompt[end])) {
            ++end;
        }
        std::string word = prompt.substr(i, std::max<std::size_t>(1, end - i));
        i += word.size();
        for (const auto& [term, replacement] : entries) {
            if (word == term) {
                word = replacement;
                break;
            }
        }
        out += word;
    }
    return out;
}

}  // namespace

TEST_CASE("lexicon: an unsafe term is replaced and reported") {
    const lexicon words{{"knife", "spoon"}, {"blood", "paint"}};
    const auto out = words.rewrite("a knife in blood, a knife");
    CHECK(out.text == "a spoon in paint, a spoon");
    CHECK(out.replaced == strings{"knife", "blood", "knife"});
}

TEST_CASE("lexicon: a prompt without unsafe terms keeps its bytes") {
    const lexicon words{{"knife", "spoon"}, {"red gun", ""}};
    for (const std::string& prompt :
         strings{"", " ", "  two  spaces  ", "an dog and a apple ", "red  gun", "knif", "\t\n", std::string("a\0b", 3),
                 "caf\xc3\xa9 \xe5\x88\x80", "\xff\xfe broken", "a. b, c! (d)"}) {
        const auto out = words.rewrite(prompt);
        CHECK(out.text == prompt);
        CHECK(out.replaced.empty());
    }
    CHECK(lexicon(pairs{}).rewrite("a knife").text == "a knife");
}

TEST_CASE("lexicon: the longest term matches first, in any order of the list") {
    for (const pairs& entries :
         {pairs{{"gun", "flower"}, {"machine gun", "sewing machine"}, {"machine gun nest", "bird nest"}},
          pairs{{"machine gun nest", "bird nest"}, {"machine gun", "sewing machine"}, {"gun", "flower"}}}) {
        const lexicon words(entries);
        CHECK(words.rewrite("machine gun").text == "sewing machine");
        CHECK(words.rewrite("one machine gun nest, one machine gun, one gun").text ==
              "one bird nest, one sewing machine, one flower");
        CHECK(words.rewrite("machine gun nests").text == "sewing machine nests");
        CHECK(words.rewrite("machine guns").text == "machine guns");
    }
}

TEST_CASE("lexicon: only whole words are replaced") {
    const lexicon words{{"gun", "rose"}, {"-9mm", " toy"}, {"kill", "greet"}};
    for (const std::string& prompt :
         strings{"begun", "gunner", "gun_1", "gun7", "7gun", "skills", "\xc3\xa9gun", "gun\xc3\xa9"}) {
        CHECK(words.rewrite(prompt).text == prompt);
    }
    for (const auto& [prompt, expected] : pairs{{"gun", "rose"},
                                                {"gun.", "rose."},
                                                {"(gun)", "(rose)"},
                                                {"gun-gun", "rose-rose"},
                                                {"'gun'", "'rose'"},
                                                {"gun,gun", "rose,rose"},
                                                {"gun's", "rose's"},
                                                {"\ngun\t", "\nrose\t"},
                                                {"gun-9mm!", "rose toy!"},
                                                {"\xe2\x80\x9c gun", "\xe2\x80\x9c rose"}}) {
        CHECK(words.rewrite(prompt).text == expected);
    }
}

TEST_CASE("lexicon: the replacement takes the letter case of the term") {
    const lexicon words{
        {"KNIFE", "spoon"}, {"red gun", "red rose"}, {"x", "yes"}, {"ak47", "toy"}, {"sword", "\xc3\xa9toile"}};
    for (const auto& [prompt, expected] : pairs{{"knife", "spoon"},
                                                {"Knife", "Spoon"},
                                                {"KNIFE", "SPOON"},
                                                {"kNiFe", "spoon"},
                                                {"KNIFe", "Spoon"},
                                                {"Red gun", "Red rose"},
                                                {"Red Gun", "Red rose"},
                                                {"RED GUN", "RED ROSE"},
                                                {"X", "Yes"},
                                                {"AK47", "TOY"},
                                                {"Sword", "\xc3\xa9toile"},
                                                {"SWORD", "\xc3\xa9TOILE"}}) {
        CHECK(words.rewrite(prompt).text == expected);
    }
    CHECK(words.rewrite("KNIFE").replaced == strings{"knife"});
}

TEST_CASE("lexicon: replacements are not rewritten") {
    CHECK(lexicon{{"a1", "b1"}, {"b1", "a1"}}.rewrite("a1 b1 a1").text == "b1 a1 b1");
    CHECK(lexicon{{"gun", "gun gun"}}.rewrite("gun").text == "gun gun");
    CHECK(lexicon{{"big", "machine"}, {"machine gun", "rose"}}.rewrite("big gun").text == "machine gun");
    const lexicon twice{{"gun", "toy"}, {"knife", "spoon"}};  // the second rewrite has no effect
    const std::string once = twice.rewrite("a gun, two Knife, GUN").text;
    CHECK(once == "a toy, two Spoon, TOY");
    CHECK(twice.rewrite(once).text == once);
    CHECK(twice.rewrite(once).replaced.empty());
}

TEST_CASE("lexicon: only the article before a replaced word is corrected") {
    const lexicon words{{"axe", "spoon"}, {"gun", "apple"}, {"armed", ""}, {"naked", ""}};
    for (const auto& [prompt, expected] : pairs{{"an axe", "a spoon"},
                                                {"An axe", "A spoon"},
                                                {"AN AXE", "A SPOON"},
                                                {"a gun", "an apple"},
                                                {"A gun", "An apple"},
                                                {"pan axe", "pan spoon"},
                                                {"the axe", "the spoon"},
                                                {"an elf, an axe", "an elf, a spoon"},
                                                {"an owl with a gun", "an owl with an apple"},
                                                {"an armed man", "a man"},
                                                {"a naked elf", "an elf"},
                                                {"an armed owl", "an owl"},
                                                {"a dog, an apple", "a dog, an apple"}}) {
        CHECK(words.rewrite(prompt).text == expected);
    }
}

TEST_CASE("lexicon: an empty replacement removes the term and one space") {
    const lexicon words{{"bloody", ""}, {"gun", ""}};
    for (const auto& [prompt, expected] : pairs{{"a bloody scene", "a scene"},
                                                {"bloody scene", "scene"},
                                                {"scene bloody", "scene"},
                                                {"bloody", ""},
                                                {"one gun, one dog", "one, one dog"},
                                                {"the bloody gun", "the"},
                                                {"bloody  scene", " scene"},
                                                {"(gun)", "()"},
                                                {"gun.", "."},
                                                {"scene gun ", "scene "},
                                                {"red\tbloody scene", "red\t scene"}}) {
        CHECK(words.rewrite(prompt).text == expected);
    }
    CHECK(words.rewrite("the bloody gun").replaced == strings{"bloody", "gun"});
}

TEST_CASE("lexicon: random prompts agree with word-by-word replacement") {
    const pairs entries{{"ab", "q"}, {"abc", "rst"}, {"b", "zzzz"}, {"cc", "b"}, {"dab", "ab"}};
    const lexicon words(entries);
    std::mt19937 random(1);
    const std::string alphabet = "aabbccd  .,-_1\xc3\xa9";
    int changed = 0;
    for (int trial = 0; trial < 5000; ++trial) {
        std::string prompt;
        for (auto length = random() % 24; length > 0; --length) {
            prompt += alphabet[random() % alphabet.size()];
        }
        const auto out = words.rewrite(prompt);
        CHECK_MESSAGE(out.text == word_by_word(prompt, entries), prompt);
        CHECK(out.replaced.empty() == (out.text == prompt));
        changed += out.replaced.empty() ? 0 : 1;
    }
    CHECK(changed > 1000);
}

TEST_CASE("lexicon: terms that can never match throw") {
    for (const std::string& term : strings{"", " ", " gun", "gun ", "  "}) {
        check_throws<isic::value_error>("lexicon", [&] { lexicon words{{term, "rose"}}; },
                                        {"without spaces at their ends"});
        check_throws<isic::value_error>("lexicon", [&] { lexicon words(pairs{{"ok", "fine"}, {term, "rose"}}); });
    }
    check_throws<isic::value_error>("lexicon", [] { lexicon words{{"gun", "a"}, {"knife", "b"}, {"Gun", "c"}}; },
                                    {"each term once", "\"gun\" twice"});
}
