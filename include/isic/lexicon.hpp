// SPDX-License-Identifier: Apache-2.0
/// \file
/// Safe counterpart prompts by replacing unsafe terms.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <isic/error.hpp>

namespace isic::inline ISIC_ABI {

/// A rewritten prompt and the terms that were replaced, in order.
struct rewritten_prompt {
    std::string text;                   ///< the counterpart prompt
    std::vector<std::string> replaced;  ///< unsafe terms of the lexicon, in lower case; empty: the prompt has none
};

/// Unsafe terms and their safe replacements.
///
/// The longest term matches first, as whole words, in any letter case. The replacement takes the letter case of the term
/// ("KNIFE" -> "SPOON", "Knife" -> "Spoon"), and the article before it is corrected ("an axe" -> "a spoon"). An empty
/// replacement removes the term and one of the spaces around it; the article then agrees with the next word. Letter case and
/// word boundaries are those of ASCII; the bytes of other UTF-8 letters are parts of words and stay unchanged.
///
/// \snippet snippets.cpp lexicon
///
/// Thread safety: a lexicon does not change after construction, so any number of threads may share it. Source: Safe-CB requires
/// "minimal modification"; the rules are our choice.
class ISIC_API lexicon {
public:
    /// Pairs (unsafe term, replacement). A term may have several words. Errors: value_error on an empty or repeated term, or one
    /// that begins or ends with a space.
    explicit lexicon(std::vector<std::pair<std::string, std::string>> entries);

    /// The same from a list: `isic::lexicon words{{"knife", "spoon"}, {"armed", "plain"}};`
    lexicon(std::initializer_list<std::pair<std::string, std::string>> entries);

    /// The prompt with every unsafe term replaced. Cost O(length x entries). Errors: none.
    rewritten_prompt rewrite(std::string_view prompt) const;

private:
    std::vector<std::pair<std::string, std::string>> entries_;  // longest first
};

}  // namespace isic::inline ISIC_ABI

#ifdef ISIC_HEADER_ONLY
#include <isic/detail/lexicon-inl.hpp>
#endif
