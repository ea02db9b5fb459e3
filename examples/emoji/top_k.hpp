// SPDX-License-Identifier: Apache-2.0
// Top-k sampling.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <limits>
#include <span>
#include <vector>

#include <emoji/nn.hpp>

namespace emoji {

// Keeps the logits that are at least the k-th largest (minus infinity never), and picks one of them by `uniform`.
class top_k_picker {
public:
    int pick(std::span<const float> logits, int k, double temperature, double uniform) {
        collect(logits, static_cast<std::size_t>(k));
        const float most = *std::max_element(kept_.begin(), kept_.end());
        double total = 0;
        for (float& value : kept_) {
            value =
                static_cast<float>(std::exp((static_cast<double>(value) - static_cast<double>(most)) / temperature));
            total += static_cast<double>(value);
        }
        double left = uniform * total;
        for (std::size_t j = 0; j + 1 < kept_.size(); ++j) {
            left -= static_cast<double>(kept_[j]);
            if (left < 0) {
                return places_[j];
            }
        }
        return places_.back();
    }

private:
    static constexpr std::size_t group = 16;

    // Groups whose largest value is below the k-th largest of all groups' cannot hold one of the k largest.
    void collect(std::span<const float> logits, std::size_t k) {
        constexpr float none = -std::numeric_limits<float>::infinity();
        peaks_.clear();
        for (std::size_t first = 0; first < logits.size(); first += group) {
            const std::size_t n = std::min(group, logits.size() - first);
            peaks_.push_back(nn::largest(static_cast<index_t>(n), logits.data() + first));
        }
        const float bound = kth_largest(peaks_, k);
        kept_.clear();
        places_.clear();
        for (std::size_t g = 0; g < peaks_.size(); ++g) {
            if (peaks_[g] < bound || peaks_[g] == none) {
                continue;
            }
            for (std::size_t j = g * group; j < std::min((g + 1) * group, logits.size()); ++j) {
                if (logits[j] >= bound && logits[j] > none) {
                    kept_.push_back(logits[j]);
                    places_.push_back(static_cast<int>(j));
                }
            }
        }
        if (kept_.empty()) {
            throw isic::value_error("emoji::transformer: expected a code to choose from, got none");
        }
        const float least = kth_largest(kept_, k);
        std::size_t used = 0;
        for (std::size_t j = 0; j < kept_.size(); ++j) {
            if (kept_[j] >= least) {
                kept_[used] = kept_[j];
                places_[used++] = places_[j];
            }
        }
        kept_.resize(used);
        places_.resize(used);
    }

    // The k-th largest, or minus infinity if there are fewer.
    float kth_largest(const std::vector<float>& values, std::size_t k) {
        if (values.size() < k) {
            return -std::numeric_limits<float>::infinity();
        }
        sorted_ = values;
        const auto at = sorted_.begin() + static_cast<std::ptrdiff_t>(k - 1);
        std::nth_element(sorted_.begin(), at, sorted_.end(), std::greater<>());
        return *at;
    }

    std::vector<float> peaks_, kept_, sorted_;
    std::vector<int> places_;
};

}  // namespace emoji
