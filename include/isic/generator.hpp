// SPDX-License-Identifier: Apache-2.0
/// \file
/// The contract of a generator and a judge for `self_improve`.
#pragma once

#include <concepts>
#include <cstdint>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <isic/matrix.hpp>

namespace isic::inline ISIC_ABI {

/// Token ids of images, one row of T ids per image. Thread safety: that of a standard container.
struct token_grid {
    std::vector<std::int32_t> ids;  ///< [images x T], row by row
    index_t tokens_per_image = 0;   ///< T

    /// Number of images.
    index_t images() const { return tokens_per_image > 0 ? static_cast<index_t>(ids.size()) / tokens_per_image : 0; }

    /// The ids of image i, [T]; i in [0, images()), not checked.
    std::span<const std::int32_t> image(index_t i) const {
        return std::span(ids).subspan(static_cast<std::size_t>(i * tokens_per_image),
                                      static_cast<std::size_t>(tokens_per_image));
    }

    /// Appends image i of another grid with the same T; an empty grid takes its T.
    void append(const token_grid& from, index_t i) {
        tokens_per_image = from.tokens_per_image;
        const auto row = from.image(i);
        ids.insert(ids.end(), row.begin(), row.end());
    }
};

/// The argument of a generator's `redraw`. It is valid during the call.
struct redraw_request {
    std::span<const std::string> prompts;  ///< safe counterpart prompts, one per image
    const token_grid& harmful;             ///< images that are judged unsafe
    std::span<const double> harmfulness;   ///< [K], in [0, 1]; redraw the tokens of harmful codes and avoid these codes
    index_t attempt = 0;                   ///< 0 first; images that stay unsafe come again with 1, 2, ...
    std::uint64_t seed = 0;                ///< seed of this attempt
};

/// The argument of a generator's `tuning_loss`: the images of its terms. The references are valid for the whole round.
struct tuning_set {
    const token_grid& harmful;             ///< images judged unsafe in any round
    const token_grid& counterparts;        ///< their safe counterparts, row by row
    const token_grid& safe;                ///< images of safe prompts that are judged safe
    std::span<const double> still_unsafe;  ///< P(unsafe) of each harmful image through the current codebook, in [0, 1]
    std::span<const double> harmfulness;   ///< [K], in [0, 1], of this round
    index_t round = 0;                     ///< 1 for the first round
};

/// A generator: draws token ids for prompts, and decodes them through a codebook that isic edits in place.
///
///  - codebook() returns the codebook [K x d]: a matrix, or any type that `as_span` accepts. It must not move during the call.
///  - generate(prompts, seed) returns one row of token ids in [0, K) per prompt. T is the same in every call. Equal seeds give
///    equal ids. It should read a copy of the original codebook: a transformer that reads edited vectors degrades.
///  - decode(tokens) returns images of any type. It must read codebook() as it is at the time of the call. isic passes the
///    images to the judge and does not inspect them.
///
/// A generator may also have `redraw` (see `redraws_tokens`) and `tuning_loss` (see `tunes_codebook`). isic calls one function
/// at a time, in the thread of `self_improve`. An exception ends the loop; the report has its text.
///
/// A complete program:
/// \include own_generator.cpp
template <class G>
concept generator = requires(G& g, std::span<const std::string> prompts, std::uint64_t seed, const token_grid& tokens) {
    requires mutable_matrix_like<std::remove_reference_t<decltype(g.codebook())>>;
    { g.generate(prompts, seed) } -> std::same_as<token_grid>;
    g.decode(tokens);
};

/// The type of the images that a generator's decode() returns.
template <generator G>
using images_of = std::remove_cvref_t<decltype(std::declval<G&>().decode(std::declval<const token_grid&>()))>;

/// A judge: a function of images that returns P(unsafe) in [0, 1] for each, through frozen weights.
///
/// It should read decoded pixels. A judge that re-encodes with the edited codebook no longer sees what was removed, and reports
/// a low rate for an unsafe model.
template <class J, class G>
concept judge_of = generator<G> && requires(J& judge, const images_of<G>& images) {
    { judge(images) } -> std::convertible_to<std::vector<double>>;
};

/// A generator with redraw(request): returns a grid of the shape of request.harmful, in which the harmful tokens are replaced
/// and the others are kept.
template <class G>
concept redraws_tokens = generator<G> && requires(G& g, const redraw_request& request) {
    { g.redraw(request) } -> std::same_as<token_grid>;
};

/// A generator with tuning_loss(set): returns a function (step, gradient) -> loss that adds d loss / d codebook to gradient
/// [K x d]. The loss may have any number of terms.
template <class G>
concept tunes_codebook = generator<G> && requires(G& g, const tuning_set& set, matrix<double>& gradient) {
    { g.tuning_loss(set)(index_t{0}, gradient) } -> std::convertible_to<double>;
};

}  // namespace isic::inline ISIC_ABI
