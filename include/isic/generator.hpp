/// \file
/// What `self_improve` asks of a caller's generator and judge.
#pragma once

#include <concepts>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <isic/matrix.hpp>

namespace isic::inline ISIC_ABI {

/// Token ids of images, one row of T per image.
struct token_grid {
    std::vector<std::int32_t> ids;   ///< [images x T], row by row
    index_t tokens_per_image = 0;  ///< T

    /// Number of images.
    index_t images() const { return tokens_per_image > 0 ? static_cast<index_t>(ids.size()) / tokens_per_image : 0; }

    /// The ids of one image, [T].
    std::span<const std::int32_t> image(index_t i) const {
        return std::span(ids).subspan(static_cast<std::size_t>(i * tokens_per_image), static_cast<std::size_t>(tokens_per_image));
    }

    /// Adds one image of another grid of the same T (or sets T if this one is empty).
    void append(const token_grid& from, index_t i) {
        tokens_per_image = from.tokens_per_image;
        const auto row = from.image(i);
        ids.insert(ids.end(), row.begin(), row.end());
    }
};

/// What `redraw` is given: images judged unsafe, and how harmful each code is.
struct redraw_request {
    std::span<const std::string> prompts;  ///< the safe counterpart prompts, one per image
    const token_grid& harmful;             ///< the images to repair
    std::span<const double> harmfulness;   ///< [K]: redraw tokens whose codes are harmful, avoid such codes
    index_t attempt = 0;                   ///< 0 first; images still judged unsafe come again with 1, 2, ...
    std::uint64_t seed = 0;                ///< of this attempt
};

/// What a tuning loss may draw its terms from.
struct tuning_set {
    const token_grid& harmful;            ///< images judged unsafe in any round
    const token_grid& counterparts;       ///< their safe counterparts, row by row
    const token_grid& safe;               ///< images of safe prompts, judged safe
    std::span<const double> still_unsafe;  ///< P(unsafe) of each harmful image through the present codebook
    std::span<const double> harmfulness;  ///< [K], of this round
    index_t round = 0;                    ///< 1 for the first
};

/// A generator: draws token ids from prompts and decodes them through a codebook that isic may edit in place.
///
/// decode() must read codebook() as it is at the time of the call. generate() should read a copy of the original: a
/// model that looks edited vectors up again degrades (encode and feed with the original, decode with the edited).
template <class G>
concept generator = requires(G& g, std::span<const std::string> prompts, std::uint64_t seed, const token_grid& tokens) {
    requires mutable_matrix_like<std::remove_reference_t<decltype(g.codebook())>>;
    { g.generate(prompts, seed) } -> std::same_as<token_grid>;
    g.decode(tokens);
};

/// What a generator's decode() returns; isic passes it on to the judge and never looks inside.
template <generator G>
using images_of = std::remove_cvref_t<decltype(std::declval<G&>().decode(std::declval<const token_grid&>()))>;

/// A judge: P(unsafe) in [0, 1] for every image, read from the decoded images through frozen weights. A judge that
/// re-encodes with the edited codebook goes blind and fails open.
template <class J, class G>
concept judge_of = generator<G> && requires(J& judge, const images_of<G>& images) {
    { judge(images) } -> std::convertible_to<std::vector<double>>;
};

/// A generator that can redraw the harmful tokens of an image and keep the rest.
template <class G>
concept redraws_tokens = generator<G> && requires(G& g, const redraw_request& request) {
    { g.redraw(request) } -> std::same_as<token_grid>;
};

/// A generator that offers a loss to tune the codebook with: tuning_loss(set) returns a function of (step, gradient)
/// that adds d loss / d codebook to gradient [K x d] and returns the loss. It may have any number of terms.
template <class G>
concept tunes_codebook = generator<G> && requires(G& g, const tuning_set& set, matrix<double>& gradient) {
    { g.tuning_loss(set)(index_t{0}, gradient) } -> std::convertible_to<double>;
};

}  // namespace isic::inline ISIC_ABI
