// SPDX-License-Identifier: Apache-2.0
// Baselines: other edits of the same codebook, fitted to the same images.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include <emoji/measure.hpp>
#include <emoji/model.hpp>

namespace emoji {

struct baseline {
    std::string name;
    index_t rank = 0;              // of the removed subspace; 0: none
    std::function<matrix()> book;  // the edited codebook
};

// Data of the first round of self-improvement: pairs, harmfulness and safe images.
struct surgery_data {
    isic::token_grid harmful;
    isic::token_grid counterparts;
    isic::token_grid safe;
    std::vector<double> harmfulness;
};

class baselines {
public:
    baselines(const tokenizer& t, const surgery_data& data, std::function<model(loss_terms)> make_model,
              const encoded_images& real, index_t tuning_steps)
        : original_(t.codebook()),
          data_(data),
          make_model_(std::move(make_model)),
          real_(real),
          tuning_steps_(tuning_steps),
          strength_(isic::code_strength(data.harmfulness)),
          pairs_(original_),
          goals_(original_) {
        for (index_t i = 0; i < data.harmful.images(); ++i) {
            pairs_.add(data.harmful.image(i), data.counterparts.image(i));
            goals_.add(data.harmful.image(i), data.counterparts.image(i));
        }
        for (index_t i = 0; i < data.safe.images(); ++i) {
            pairs_.add_safe(data.safe.image(i));
        }
        mean_ = pairs_.safe_mean();
        targets_ = goals_.targets(2.0, mean_);
    }

    std::vector<baseline> all() const {
        std::vector<baseline> out;
        out.push_back({"delete codes", 0, [this] { return deleted(); }});
        for (const index_t rank : {4, 8, 16}) {
            out.push_back({fmt::format("rank {} projection, per-code strength", rank), rank,
                           [this, rank] { return projected(subspace(rank), true); }});
        }
        out.push_back(
            {"rank 8 random subspace, per-code strength", 8, [this] { return projected(random_subspace(8), true); }});
        for (const index_t rank : {2, 4, 6}) {
            out.push_back({fmt::format("rank {} uniform projection, as published", rank), rank,
                           [this, rank] { return projected(subspace(rank), false); }});
        }
        out.push_back({"rank 4 random subspace, uniform", 4, [this] { return projected(random_subspace(4), false); }});
        out.push_back({"closed-form remap", original_.cols(), [this] { return remapped(); }});
        out.push_back({"safe-only tuning of the original", 0, [this] { return safe_tuned(original_, {}); }});
        out.push_back({"remap, safe-only tuning", original_.cols(), [this] { return safe_tuned(remapped(), {}); }});
        out.push_back({"remap, safe-only tuning off the subspace", 8,
                       [this] { return safe_tuned(remapped(), {.orthogonal_to = subspace(8)}); }});
        return out;
    }

private:
    isic::subspace subspace(index_t rank) const { return isic::fit_subspace(pairs_, {.rank = {.fixed = rank}}); }

    isic::subspace random_subspace(index_t rank) const {
        isic::matrix<double> directions(original_.cols(), rank);
        random_stream random(9, 0);
        for (index_t i = 0; i < directions.rows(); ++i) {
            for (index_t j = 0; j < rank; ++j) {
                directions(i, j) = random.uniform() + random.uniform() + random.uniform() + random.uniform() - 2;
            }
        }
        return isic::span_of(directions);
    }

    matrix deleted() const {
        matrix book = original_;
        for (std::size_t k = 0; k < data_.harmfulness.size(); ++k) {
            if (data_.harmfulness[k] > 0.8) {
                book.row(static_cast<index_t>(k)).setZero();
            }
        }
        return book;
    }

    // Per-code strength moves codes towards the safe mean; the published form moves every code to zero inside the subspace.
    matrix projected(const isic::subspace& harm, bool per_code) const {
        matrix book = original_;
        if (per_code) {
            isic::project_out(book, harm, {.strength = strength_, .center = mean_});
        } else {
            isic::project_out(book, harm);
        }
        return book;
    }

    matrix remapped() const {
        matrix book = original_;
        isic::remap(book, {.strength = strength_, .target = targets_});
        return book;
    }

    // Gradient steps on safe images only, without the pair term.
    matrix safe_tuned(const matrix& start, const isic::constraint& limits) const {
        model m = make_model_({.pair_weight = 0, .real = &real_});
        m.codebook() = start;
        const std::vector<double> none;
        const auto loss = m.tuning_loss({data_.harmful, data_.counterparts, data_.safe, none, data_.harmfulness, 1});
        isic::adam_state state;
        isic::matrix<double> gradient(start.rows(), start.cols());
        for (index_t step = 0; step < tuning_steps_; ++step) {
            std::fill_n(gradient.data(), gradient.rows() * gradient.cols(), 0.0);
            loss(step, gradient);
            const double left = 1.0 - static_cast<double>(step) / static_cast<double>(tuning_steps_);
            isic::adam_update(m.codebook(), gradient, state, {.rate = 0.03 * std::max(left, 1e-3), .beta2 = 0.98},
                              limits);
        }
        return m.codebook();
    }

    const matrix& original_;
    const surgery_data& data_;
    std::function<model(loss_terms)> make_model_;
    const encoded_images& real_;
    index_t tuning_steps_;
    std::vector<double> strength_;
    isic::difference_accumulator pairs_;
    isic::counterpart_targets goals_;
    std::vector<double> mean_;
    isic::matrix<double> targets_;
};

}  // namespace emoji
