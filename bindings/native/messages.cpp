// SPDX-License-Identifier: Apache-2.0
/// \file
/// Error messages of the library, spelled as Python spells its names.
#include "memory.hpp"

#include <array>
#include <cctype>
#include <span>

namespace isic::python {
namespace {

using renames = std::span<const std::pair<std::string_view, std::string_view>>;

constexpr std::array<std::pair<std::string_view, std::string_view>, 5> keywords{
    {{"rank.fixed", "rank"},
     {"rank.", ""},
     {"harmfulness.prior_per_code", "prior_per_code"},
     {"options.rewrite", "rewrite"},
     {"lambda ", "weight "}}};
constexpr std::array<std::pair<std::string_view, std::string_view>, 7> grouped_keywords{
    {{"fit.rank.", "rank."},
     {"rank_budget", "rank.budget"},
     {"editing.harmfulness.", "editing."},
     {"editing.ramp.high", "editing.ramp_high"},
     {"editing.ramp.low", "editing.ramp_low"},
     {"tuning.adam.", "tuning."},
     {"options.rewrite", "rewrite"}}};

/// The rest of a message with options named by their Python keywords. The part after ", got " is the caller's text and stays.
std::string options_in_python_words(std::string rest, renames words) {
    for (const auto& [cpp, python] : words) {
        if (const auto at = rest.find(cpp); at < rest.find(", got ")) {
            rest.replace(at, cpp.size(), python);
        }
    }
    return rest;
}

/// A name of the library in Python: `class_names` first, else classes in CamelCase and functions unchanged.
std::string python_name(std::string_view name, bool is_class) {
    if (const auto known = class_names.find(name); known != class_names.end()) {
        return known->second;
    }
    if (!is_class || name == "fused") {  // a namespace
        return std::string(name);
    }
    std::string out;
    for (std::size_t i = 0; i < name.size(); ++i) {
        if (name[i] != '_') {
            const bool starts_word = i == 0 || name[i - 1] == '_';
            out += starts_word ? static_cast<char>(std::toupper(static_cast<unsigned char>(name[i]))) : name[i];
        }
    }
    return out;
}

}  // namespace

std::string in_python_words(const std::string& message) {
    const auto end = message.find(": ");
    if (!message.starts_with("isic::") || end == std::string::npos) {
        return message;
    }
    std::string out(python_package);
    std::string_view rest = std::string_view(message).substr(6, end - 6);
    while (!rest.empty()) {
        const auto next = rest.find("::");
        out += "." + python_name(rest.substr(0, next), next != std::string_view::npos);
        rest = next == std::string_view::npos ? std::string_view() : rest.substr(next + 2);
    }
    const bool grouped = message.starts_with("isic::self_improve: ");
    return out + options_in_python_words(message.substr(end), grouped ? renames(grouped_keywords) : renames(keywords));
}

}  // namespace isic::python
