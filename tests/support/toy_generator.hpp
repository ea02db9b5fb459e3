// SPDX-License-Identifier: Apache-2.0
/// \file
/// A generator with a known harm: some codes are a safe code plus a harmful direction, which a frozen linear probe measures.
#pragma once

#include <cmath>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <isic/generator.hpp>

#include "support/data.hpp"
#include "support/reference.hpp"

namespace isic_test {

/// P(unsafe) of images, [n]; images are the means of their codes, [n x d].
using toy_judge = std::function<std::vector<double>(const dense&)>;

struct toy_shape {
    index_t kinds = 1;  ///< kinds of harm: orthogonal directions, each slightly weaker than the one before
    index_t width = 8;
    index_t safe_codes = 24;
    index_t padding = 0;  ///< padding rows at the end; no image uses them
    index_t gap = 0;      ///< values between two rows in memory
    double offset = 0;    ///< added to every code along the first direction
    std::uint64_t seed = 1;
};

/// Half of the tokens of a prompt "harm0 ...", "harm1 ..." are harmful codes of that kind; all other tokens are safe codes.
template <isic::scalar T>
class toy_generator {
public:
    using storage = T;
    static constexpr index_t tokens = 8;
    static constexpr index_t codes_per_kind = 4;

    explicit toy_generator(const toy_shape& shape = {})
        : shape_(shape),
          harm_(planted_directions(shape)),
          planted_(planted_codes(shape, harm_)),
          memory_(planted_, shape.gap) {}

    isic::matrix_span<T> codebook() { return memory_.span(); }

    isic::token_grid generate(std::span<const std::string> prompts, std::uint64_t seed) {
        called("generate");
        isic::token_grid out{{}, tokens};
        for (const std::string& prompt : prompts) {
            random dice(seed ^ std::hash<std::string>{}(prompt));
            for (index_t t = 0; t < tokens; ++t) {
                const bool harmful = prompt.starts_with("harm") && t < tokens / 2;
                const index_t id = harmful ? (prompt[4] - '0') * codes_per_kind + dice.below(codes_per_kind)
                                           : first_safe() + dice.below(shape_.safe_codes);
                out.ids.push_back(static_cast<std::int32_t>(id));
            }
        }
        return passed_on(std::move(out));
    }

    dense decode(const isic::token_grid& grid) {
        called("decode");
        dense out = dense::Zero(grid.images(), shape_.width);
        for (index_t i = 0; i < grid.images(); ++i) {
            for (const auto id : grid.image(i)) {
                for (index_t j = 0; j < shape_.width; ++j) {
                    out(i, j) += static_cast<double>(codebook()(id, j)) / static_cast<double>(grid.tokens_per_image);
                }
            }
        }
        return out;
    }

    /// sigmoid(4 (sum of the planted directions . image - 1)): about 1 if half of the codes are harmful, about 0 if none is.
    toy_judge judge() const {
        return [probe = dense(harm_.rowwise().sum())](const dense& images) {
            std::vector<double> out;
            for (index_t i = 0; i < images.rows(); ++i) {
                out.push_back(1 / (1 + std::exp(-4 * (images.row(i).dot(probe.col(0)) - 1))));
            }
            return out;
        };
    }

    /// The safe code from which a harmful code was made.
    std::int32_t safe_twin(std::int32_t id) const {
        return static_cast<std::int32_t>(first_safe() + id % shape_.safe_codes);
    }
    index_t first_safe() const { return shape_.kinds * codes_per_kind; }
    index_t first_padding() const { return first_safe() + shape_.safe_codes; }
    const dense& harm() const { return harm_; }                  ///< [d x kinds]
    const isic::matrix<T>& planted() const { return planted_; }  ///< the original codebook
    const strided<T>& memory() const { return memory_; }

    std::map<std::string, int, std::less<>> calls;          ///< number of calls of each member
    std::function<void(std::string_view)> on_call = {};     ///< before each call; may throw
    std::function<void(isic::token_grid&)> on_tokens = {};  ///< may corrupt the drawn tokens
    std::vector<isic::token_grid> drawn;                    ///< all drawn grids, in order

protected:
    void called(std::string_view member) {
        ++calls[std::string(member)];
        if (on_call) {
            on_call(member);
        }
    }

    isic::token_grid passed_on(isic::token_grid grid) {
        if (on_tokens) {
            on_tokens(grid);
        }
        drawn.push_back(grid);
        return grid;
    }

    bool is_padding(index_t k) const { return k >= first_padding(); }

private:
    static dense planted_directions(const toy_shape& shape) {
        random dice(shape.seed);
        return random_basis(dice, shape.width, shape.kinds);
    }

    static isic::matrix<T> planted_codes(const toy_shape& shape, const dense& harm) {
        random dice(shape.seed + 1);
        const index_t harmful = shape.kinds * codes_per_kind;
        dense codes = to_dense(dice.matrix(harmful + shape.safe_codes + shape.padding, shape.width, 0.5));
        codes -= codes * harm * harm.transpose();
        for (index_t k = 0; k < harmful; ++k) {
            const index_t kind = k / codes_per_kind;
            codes.row(k) = codes.row(harmful + k % shape.safe_codes) +
                           (6 - 0.5 * static_cast<double>(kind)) * harm.col(kind).transpose();
        }
        codes.bottomRows(shape.padding).rowwise() += 6 * harm.col(0).transpose();
        codes.rowwise() += shape.offset * harm.col(0).transpose();
        isic::matrix<T> out(codes.rows(), codes.cols());
        for (index_t k = 0; k < codes.rows(); ++k) {
            for (index_t j = 0; j < codes.cols(); ++j) {
                out(k, j) = static_cast<T>(codes(k, j));
            }
        }
        return out;
    }

    toy_shape shape_;
    dense harm_;
    isic::matrix<T> planted_;
    strided<T> memory_;
};

/// Replaces harmful codes by their safe twins, from attempt `attempts_of(prompt)` on.
template <class Toy>
struct with_redraw : Toy {
    struct seen_request {
        std::vector<std::string> prompts;
        isic::token_grid harmful;
        index_t attempt;
        std::uint64_t seed;
    };

    using Toy::Toy;

    isic::token_grid redraw(const isic::redraw_request& request) {
        this->called("redraw");
        requests.push_back(
            {{request.prompts.begin(), request.prompts.end()}, request.harmful, request.attempt, request.seed});
        isic::token_grid out = request.harmful;
        for (index_t i = 0; i < out.images(); ++i) {
            if (attempts_of && attempts_of(request.prompts[static_cast<std::size_t>(i)]) > request.attempt) {
                continue;
            }
            for (index_t t = i * out.tokens_per_image; t < (i + 1) * out.tokens_per_image; ++t) {
                std::int32_t& id = out.ids[static_cast<std::size_t>(t)];
                id = request.harmfulness[static_cast<std::size_t>(id)] > 0.7 ? this->safe_twin(id) : id;
            }
        }
        return this->passed_on(std::move(out));
    }

    std::function<index_t(const std::string&)> attempts_of = {};
    std::vector<seen_request> requests;
};

/// A loss that restores the harm: half the squared distance to the planted harmful codes and to twice the safe ones.
template <class Toy>
struct with_tuning : Toy {
    struct seen_set {
        isic::token_grid harmful;
        isic::token_grid counterparts;
        isic::token_grid safe;
        std::vector<double> still_unsafe;
        std::vector<double> harmfulness;
        index_t round;
    };

    using Toy::Toy;

    auto tuning_loss(const isic::tuning_set& set) {
        this->called("tuning_loss");
        sets.push_back({set.harmful,
                        set.counterparts,
                        set.safe,
                        {set.still_unsafe.begin(), set.still_unsafe.end()},
                        {set.harmfulness.begin(), set.harmfulness.end()},
                        set.round});
        return [this](index_t, isic::matrix<double>& gradient) {
            this->called("loss");
            double loss = 0;
            for (index_t k = 0; k < gradient.rows(); ++k) {
                for (index_t j = 0; j < gradient.cols() && !this->is_padding(k); ++j) {
                    const double target = (k < this->first_safe() ? 1 : 2) * static_cast<double>(this->planted()(k, j));
                    const double off = static_cast<double>(this->codebook()(k, j)) - target;
                    gradient(k, j) += off;
                    loss += 0.5 * off * off;
                }
            }
            if (on_gradient) {
                on_gradient(loss, gradient);
            }
            losses.push_back(loss);
            return loss;
        };
    }

    std::function<void(double&, isic::matrix<double>&)> on_gradient = {};  ///< may corrupt loss and gradient
    std::vector<double> losses;
    std::vector<seen_set> sets;
};

template <isic::scalar T>
using full_toy = with_tuning<with_redraw<toy_generator<T>>>;

}  // namespace isic_test
