// SPDX-License-Identifier: Apache-2.0
// Counter-based random numbers. They do not depend on the platform, the batch or the number of threads.
#pragma once

#include <cstdint>

namespace emoji {

// The output function of splitmix64.
constexpr std::uint64_t mix_bits(std::uint64_t x) {
    x += 0x9e3779b97f4a7c15;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
}

// The random numbers of one (seed, index), in order.
class random_stream {
public:
    random_stream(std::uint64_t seed, std::uint64_t index) : state_(mix_bits(mix_bits(seed) ^ index)) {}

    std::uint64_t bits() { return mix_bits(state_++); }

    // Uniform in [0, 1).
    double uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }

    // Uniform in 0 .. n-1; the bias of the multiplication is below n / 2^53.
    int below(int n) { return static_cast<int>(uniform() * n); }

    // A random index into shares that add up to 1; `share(element)` returns the share of an element.
    template <class Shares, class Share>
    int pick(const Shares& shares, Share share) {
        double left = uniform();
        int last = 0, j = 0;
        for (const auto& element : shares) {
            if (share(element) > 0) {
                last = j;
                if (left < share(element)) {
                    return j;
                }
            }
            left -= share(element);
            ++j;
        }
        return last;
    }

private:
    std::uint64_t state_;
};

}  // namespace emoji
