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

/// A prompt after rewriting, and which terms were replaced, in order.
struct rewritten_prompt {
    std::string text;                   ///< the counterpart prompt
    std::vector<std::string> replaced;  ///< unsafe terms of the lexicon, in lower case; empty: nothing was found
};

/// Unsafe terms and their safe replacements: longest match first, whole words only, letter case kept ("KNIFE" ->
/// "SPOON", "Knife" -> "Spoon"), the article before a replaced word put right ("an axe" -> "a spoon").
///
/// Case and word boundaries know ASCII; bytes of other UTF-8 letters count as parts of words and are kept as they are.
/// An empty replacement removes the term and one of the spaces around it; the next word then counts for the article.
/// Source: Safe-CB asks for "minimal modification"; the rules are our choice.
class ISIC_API lexicon {
public:
    /// Pairs (unsafe term, replacement); terms may hold several words. Errors: value_error on an empty or repeated term.
    explicit lexicon(std::vector<std::pair<std::string, std::string>> entries);

    /// The same, written out: `isic::lexicon words{{"knife", "spoon"}, {"armed", "plain"}};`
    lexicon(std::initializer_list<std::pair<std::string, std::string>> entries);

    /// The prompt with every unsafe term replaced. Cost O(length x entries).
    rewritten_prompt rewrite(std::string_view prompt) const;

private:
    std::vector<std::pair<std::string, std::string>> entries_;  // longest first
};

}  // namespace isic::inline ISIC_ABI

#ifdef ISIC_HEADER_ONLY
#include <isic/detail/lexicon-inl.hpp>
#endif
