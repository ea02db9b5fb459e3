// SPDX-License-Identifier: Apache-2.0
// Building blocks of the networks: one matrix product, also for convolutions, and element-wise functions.
//
// Every output is the sum of the same terms in the same order for every position of its row, so results do not depend on
// the batch or on the number of threads.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <exception>
#include <filesystem>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <Eigen/Core>

#include <isic/error.hpp>
#include <isic/io/safetensors.hpp>
#include <isic/matrix.hpp>

// Forced inlining: accumulators stay in registers only if every call in the innermost loops is inlined.
#if defined(__GNUC__)
#define EMOJI_ALWAYS_INLINE __attribute__((always_inline))
#else
#define EMOJI_ALWAYS_INLINE
#endif

namespace emoji {

using isic::index_t;
using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using vector = Eigen::VectorXf;

// Calls f(0) ... f(n - 1), each once, on up to `threads` threads. Rethrows the first exception.
template <class F>
void parallel_for(index_t n, int threads, F f) {
    std::atomic<index_t> next{0};
    std::exception_ptr failure;
    std::mutex mutex;
    const auto work = [&] {
        try {
            for (index_t j = next++; j < n; j = next++) {
                f(j);
            }
        } catch (...) {
            const std::scoped_lock lock(mutex);
            if (!failure) {
                failure = std::current_exception();
            }
            next = n;
        }
    };
    std::vector<std::jthread> others;
    for (index_t t = 1; t < std::min<index_t>(threads, n); ++t) {
        others.emplace_back(work);
    }
    work();
    others.clear();  // joins
    if (failure) {
        std::rethrow_exception(failure);
    }
}

// Splits n images into chunks of at most `most` and calls f(first, count) for each.
template <class F>
void parallel_chunks(index_t n, index_t most, int threads, F f) {
    const index_t fair = (n + std::max(threads, 1) - 1) / std::max(threads, 1);
    const index_t size = std::clamp<index_t>(fair, 1, most);
    parallel_for((n + size - 1) / size, threads, [&](index_t j) { f(j * size, std::min(size, n - j * size)); });
}

// The tensors of a weights file, by name.
class weights {
public:
    explicit weights(const std::filesystem::path& path) : path_(path), file_(isic::read_safetensors(path)) {}

    bool has(const std::string& name) const { return file_.tensors.contains(name); }

    // Errors: isic::io_error if there is no such tensor or its number of dimensions differs.
    const std::vector<index_t>& shape(const std::string& name, std::size_t dimensions) const {
        const auto& found = find(name).shape;
        if (found.size() != dimensions) {
            throw isic::io_error(fmt::format("emoji: {}: tensor '{}': expected {} dimensions, found [{}]",
                                             path_.string(), name, dimensions, fmt::join(found, ", ")));
        }
        return found;
    }

    // Errors: isic::io_error naming the tensor, the expected and the found shape.
    std::vector<float> values(const std::string& name, const std::vector<index_t>& shape) const {
        const isic::tensor& t = find(name);
        if (t.shape != shape) {
            throw isic::io_error(fmt::format("emoji: {}: tensor '{}': expected [{}], found [{}]", path_.string(), name,
                                             fmt::join(shape, ", "), fmt::join(t.shape, ", ")));
        }
        return t.values<float>();
    }

    matrix values(const std::string& name, index_t rows, index_t cols) const {
        return Eigen::Map<const matrix>(values(name, {rows, cols}).data(), rows, cols);
    }

    // A number from the metadata.
    int number(const std::string& key) const {
        const auto at = file_.metadata.find(key);
        if (at == file_.metadata.end() || at->second.empty() || at->second.size() > 6 ||
            !std::all_of(at->second.begin(), at->second.end(), [](char c) { return c >= '0' && c <= '9'; })) {
            throw isic::io_error(fmt::format("emoji: {}: expected a number '{}' in the metadata", path_.string(), key));
        }
        return std::stoi(at->second);
    }

private:
    const isic::tensor& find(const std::string& name) const {
        const auto at = file_.tensors.find(name);
        if (at == file_.tensors.end()) {
            throw isic::io_error(fmt::format("emoji: {}: expected a tensor '{}', found none", path_.string(), name));
        }
        return at->second;
    }

    std::filesystem::path path_;
    isic::tensor_file file_;
};

namespace nn {

namespace detail {

using packet = Eigen::internal::packet_traits<float>::type;  // one SIMD register of the target
inline constexpr index_t lanes = Eigen::internal::packet_traits<float>::size;
inline constexpr int tile_rows = EIGEN_ARCH_DEFAULT_NUMBER_OF_REGISTERS >= 32 ? 12 : 4;

inline packet load(const float* p) {
    return Eigen::internal::ploadu<packet>(p);
}
inline packet constant(float v) {
    return Eigen::internal::pset1<packet>(v);
}

// Calls f(0), f(1), ... f(N - 1) with compile-time constants.
template <int N, class F>
EMOJI_ALWAYS_INLINE inline void unroll(F f) {
    [&]<int... i>(std::integer_sequence<int, i...>)
        EMOJI_ALWAYS_INLINE { (f(std::integral_constant<int, i>{}), ...); }(std::make_integer_sequence<int, N>{});
}

// The input of an output row: `runs` runs of `length` floats, `stride` floats apart.
struct run_layout {
    index_t runs = 1;
    index_t length = 0;
    index_t stride = 0;
};

// A register tile: R rows times P packets of outputs. in[r] and out[r] are a row's input and output.
template <int R, int P>
void multiply_tile(const std::array<const float*, R>& in, run_layout layout, const float* panel, const float* bias,
                   const std::array<float*, R>& out, bool accumulate) {
    packet sums[R][P];
    unroll<R>([&](auto r) EMOJI_ALWAYS_INLINE {
        unroll<P>([&](auto p) EMOJI_ALWAYS_INLINE {
            sums[r][p] = load(bias + p * lanes);
            if (accumulate) {
                sums[r][p] = Eigen::internal::padd(sums[r][p], load(out[r] + p * lanes));
            }
        });
    });
    for (index_t run = 0; run < layout.runs; ++run) {
        const index_t first = run * layout.stride;
        for (index_t k = first; k < first + layout.length; ++k, panel += P * lanes) {
            packet row[P];
            unroll<P>([&](auto p) EMOJI_ALWAYS_INLINE { row[p] = load(panel + p * lanes); });
            unroll<R>([&](auto r) EMOJI_ALWAYS_INLINE {
                const packet x = constant(in[r][k]);
                unroll<P>([&](auto p)
                              EMOJI_ALWAYS_INLINE { sums[r][p] = Eigen::internal::pmadd(x, row[p], sums[r][p]); });
            });
        }
    }
    unroll<R>([&](auto r) EMOJI_ALWAYS_INLINE {
        unroll<P>([&](auto p) EMOJI_ALWAYS_INLINE { Eigen::internal::pstoreu(out[r] + p * lanes, sums[r][p]); });
    });
}

}  // namespace detail

// y = W x + b. The weights are stored in panels a few SIMD registers wide; zeros pad the last one.
class affine {
public:
    affine() = default;

    // weight(o, k) [outputs x inputs], bias(o).
    template <class Weight, class Bias>
    affine(index_t outputs, index_t inputs, Weight weight, Bias bias)
        : outputs_(outputs), inputs_(inputs), packets_(outputs > detail::lanes ? 2 : 1) {
        const index_t width = panel_width(), panels = (outputs + width - 1) / width;
        panels_.setZero(panels * inputs * width);
        bias_.setZero(panels * width);
        for (index_t o = 0; o < outputs; ++o) {
            bias_[o] = bias(o);
            for (index_t k = 0; k < inputs; ++k) {
                panels_[(o / width * inputs + k) * width + o % width] = weight(o, k);
            }
        }
    }

    index_t outputs() const { return outputs_; }
    index_t inputs() const { return inputs_; }

    // Output row i (at out + i * outputs()) from the input whose runs start at in(i); `accumulate` adds to the output.
    template <class In>
    void apply(index_t n, In in, detail::run_layout layout, float* out, bool accumulate = false) const {
        if (packets_ == 2) {
            apply_panels<2>(n, in, layout, out, accumulate);
        } else {
            apply_panels<1>(n, in, layout, out, accumulate);
        }
    }

    // Rows of inputs() adjacent floats.
    void apply(index_t n, const float* in, float* out, bool accumulate = false) const {
        apply(n, [=, this](index_t i) { return in + i * inputs_; }, {1, inputs_, 0}, out, accumulate);
    }

    matrix apply(const matrix& in) const {
        matrix out(in.rows(), outputs_);
        apply(in.rows(), in.data(), out.data());
        return out;
    }

private:
    index_t panel_width() const { return packets_ * detail::lanes; }

    template <int P, class In>
    void apply_panels(index_t n, In in, detail::run_layout layout, float* out, bool accumulate) const {
        const index_t width = panel_width();
        for (index_t first = 0; first < outputs_; first += width) {
            const float* panel = panels_.data() + first * inputs_;
            index_t i = 0;
            for (; i + detail::tile_rows <= n; i += detail::tile_rows) {
                apply_tile<detail::tile_rows, P>(i, in, layout, panel, first, out, accumulate);
            }
            for (; i + 4 <= n; i += 4) {
                apply_tile<4, P>(i, in, layout, panel, first, out, accumulate);
            }
            for (; i < n; ++i) {
                apply_tile<1, P>(i, in, layout, panel, first, out, accumulate);
            }
        }
    }

    template <int R, int P, class In>
    void apply_tile(index_t i, In in, detail::run_layout layout, const float* panel, index_t first, float* out,
                    bool accumulate) const {
        const index_t width = panel_width(), used = std::min(width, outputs_ - first);
        std::array<const float*, R> from;
        std::array<float*, R> to;
        for (std::size_t r = 0; r < R; ++r) {
            from[r] = in(i + static_cast<index_t>(r));
            to[r] = out + (i + static_cast<index_t>(r)) * outputs_ + first;
        }
        if (used == width) {
            detail::multiply_tile<R, P>(from, layout, panel, bias_.data() + first, to, accumulate);
            return;
        }
        std::array<float, R * P * detail::lanes> edge{};  // the last panel is wider than the output
        std::array<float*, R> rows;
        for (std::size_t r = 0; r < R; ++r) {
            rows[r] = edge.data() + static_cast<index_t>(r) * width;
            std::copy_n(to[r], accumulate ? used : 0, rows[r]);
        }
        detail::multiply_tile<R, P>(from, layout, panel, bias_.data() + first, rows, accumulate);
        for (std::size_t r = 0; r < R; ++r) {
            std::copy_n(rows[r], used, to[r]);
        }
    }

    index_t outputs_ = 0;
    index_t inputs_ = 0;
    index_t packets_ = 1;
    vector panels_;  // [panels][inputs][panel width]
    vector bias_;
};

// `name`.weight [outputs, inputs, 1, ...] and `name`.bias.
inline affine load_linear(const weights& file, const std::string& name, index_t outputs, index_t inputs,
                          std::size_t dimensions = 2) {
    std::vector<index_t> shape(dimensions, 1);
    shape[0] = outputs, shape[1] = inputs;
    const std::vector<float> w = file.values(name + ".weight", shape), b = file.values(name + ".bias", {outputs});
    return affine(
        outputs, inputs, [&](index_t o, index_t k) { return w[static_cast<std::size_t>(o * inputs + k)]; },
        [&](index_t o) { return b[static_cast<std::size_t>(o)]; });
}

// Input of a 3 x 3 convolution: images with a border of one zero pixel, HWC.
class bordered {
public:
    bordered(index_t n, index_t side, index_t channels)
        : side_(side), channels_(channels), values_(vector::Zero(n * (side + 2) * (side + 2) * channels)) {}

    index_t side() const { return side_; }
    index_t channels() const { return channels_; }
    float* line(index_t image, index_t y) { return values_.data() + offset(image, y + 1, 1); }

    // Start of the 3 x 3 neighbourhood of pixel i, counted over all images.
    const float* window(index_t i) const {
        return values_.data() + offset(i / (side_ * side_), i / side_ % side_, i % side_);
    }
    detail::run_layout window_layout() const { return {3, 3 * channels_, (side_ + 2) * channels_}; }

private:
    index_t offset(index_t image, index_t y, index_t x) const {
        return ((image * (side_ + 2) + y) * (side_ + 2) + x) * channels_;
    }

    index_t side_;
    index_t channels_;
    vector values_;
};

// A 3 x 3 convolution with a border of zeros. Weights [outputs][inputs][3][3].
inline affine load_convolution(const weights& file, const std::string& name, index_t outputs, index_t inputs) {
    const std::vector<float> w = file.values(name + ".weight", {outputs, inputs, 3, 3});
    const std::vector<float> b = file.values(name + ".bias", {outputs});
    return affine(
        outputs, 9 * inputs,
        [&](index_t o, index_t k) { return w[static_cast<std::size_t>((o * inputs + k % inputs) * 9 + k / inputs)]; },
        [&](index_t o) { return b[static_cast<std::size_t>(o)]; });
}

// The transposed convolution, for gradients: the same weights rotated by 180 degrees, without bias.
inline affine load_transposed_convolution(const weights& file, const std::string& name, index_t outputs,
                                          index_t inputs) {
    const std::vector<float> w = file.values(name + ".weight", {outputs, inputs, 3, 3});
    return affine(
        inputs, 9 * outputs,
        [&](index_t c, index_t k) {
            return w[static_cast<std::size_t>((k % outputs * inputs + c) * 9 + 8 - k / outputs)];
        },
        [](index_t) { return 0.0f; });
}

inline void convolve(const affine& convolution, const bordered& in, index_t n, float* out, bool accumulate = false) {
    convolution.apply(
        n * in.side() * in.side(), [&](index_t i) { return in.window(i); }, in.window_layout(), out, accumulate);
}

// out[i] = f(in[i]...) for a function f of SIMD registers. The tail uses a register too, so that the value of an element
// does not depend on its position.
template <class F, class... In>
void map(index_t n, float* out, F f, const In*... in) {
    index_t i = 0;
    for (; i + detail::lanes <= n; i += detail::lanes) {
        Eigen::internal::pstoreu(out + i, f(detail::load(in + i)...));
    }
    if (i < n) {
        const auto tail = [&](const float* from) {
            std::array<float, detail::lanes> values{};
            std::copy_n(from + i, n - i, values.begin());
            return detail::load(values.data());
        };
        std::array<float, detail::lanes> result;
        Eigen::internal::pstoreu(result.data(), f(tail(in)...));
        std::copy_n(result.begin(), n - i, out + i);
    }
}

// The sum of f(in[i]).
template <class F>
float sum(index_t n, const float* in, F f) {
    detail::packet sums = detail::constant(0);
    index_t i = 0;
    for (; i + detail::lanes <= n; i += detail::lanes) {
        sums = Eigen::internal::padd(sums, f(detail::load(in + i)));
    }
    float total = Eigen::internal::predux(sums);
    for (; i < n; ++i) {
        std::array<float, detail::lanes> one;
        Eigen::internal::pstoreu(one.data(), f(detail::constant(in[i])));
        total += one[0];
    }
    return total;
}

// Functions of SIMD registers.
struct sigmoid {
    detail::packet operator()(const detail::packet& x) const {
        using namespace Eigen::internal;
        const detail::packet one = detail::constant(1);
        return pdiv(one, padd(one, pexp(pnegate(x))));
    }
};

struct silu {
    detail::packet operator()(const detail::packet& x) const { return Eigen::internal::pmul(x, sigmoid{}(x)); }
};

// gradient * silu'(x), silu' = s (1 + x (1 - s)).
struct silu_backward {
    detail::packet operator()(const detail::packet& x, const detail::packet& gradient) const {
        using namespace Eigen::internal;
        const detail::packet one = detail::constant(1), s = sigmoid{}(x);
        return pmul(gradient, pmul(s, pmadd(x, psub(one, s), one)));
    }
};

// gradient * sigmoid'(x) = gradient y (1 - y), given y = sigmoid(x).
struct sigmoid_backward {
    detail::packet operator()(const detail::packet& y, const detail::packet& gradient) const {
        using namespace Eigen::internal;
        return pmul(gradient, pmul(y, psub(detail::constant(1), y)));
    }
};

// The tanh form of GELU, written as x * sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3)).
struct gelu {
    detail::packet operator()(const detail::packet& x) const {
        using namespace Eigen::internal;
        const detail::packet cubic = pmul(pmul(x, x), detail::constant(1.5957691216f * 0.044715f));
        return pmul(x, sigmoid{}(pmul(x, padd(cubic, detail::constant(1.5957691216f)))));
    }
};

struct relu {
    detail::packet operator()(const detail::packet& x) const { return Eigen::internal::pmax(x, detail::constant(0)); }
};

// x -> 2 x - 1, from pixel values to -1..1.
struct centre {
    detail::packet operator()(const detail::packet& x) const {
        return Eigen::internal::pmadd(x, detail::constant(2), detail::constant(-1));
    }
};

struct layer_norm {
    vector weight;
    vector bias;

    layer_norm(const weights& file, const std::string& name, index_t width)
        : weight(load(file, name + ".weight", width)), bias(load(file, name + ".bias", width)) {}

    void apply(index_t n, const float* in, float* out) const {
        using namespace Eigen::internal;
        const index_t width = weight.size();
        for (index_t i = 0; i < n; ++i, in += width, out += width) {
            const auto inverse = 1.0f / static_cast<float>(width);
            const detail::packet mean =
                detail::constant(sum(width, in, [](const detail::packet& x) { return x; }) * inverse);
            const float variance = inverse * sum(width, in, [&](const detail::packet& x) {
                                       const detail::packet d = psub(x, mean);
                                       return pmul(d, d);
                                   });
            const detail::packet scale = detail::constant(1.0f / std::sqrt(variance + 1e-5f));
            map(
                width, out,
                [&](const detail::packet& x, const detail::packet& w, const detail::packet& b) {
                    return pmadd(pmul(psub(x, mean), scale), w, b);
                },
                in, weight.data(), bias.data());
        }
    }

private:
    static vector load(const weights& file, const std::string& name, index_t width) {
        return Eigen::Map<const vector>(file.values(name, {width}).data(), width);
    }
};

// Largest of n > 0 values.
inline float largest(index_t n, const float* in) {
    float most = in[0];
    index_t i = 0;
    if (n >= detail::lanes) {
        detail::packet m = detail::load(in);
        for (i = detail::lanes; i + detail::lanes <= n; i += detail::lanes) {
            m = Eigen::internal::pmax(m, detail::load(in + i));
        }
        most = Eigen::internal::predux_max(m);
    }
    for (; i < n; ++i) {
        most = std::max(most, in[i]);
    }
    return most;
}

// Index of the first smallest of n > 0 values.
inline index_t first_smallest(index_t n, const float* in) {
    constexpr index_t block = 16 * detail::lanes;
    float least = in[0];
    index_t place = 0;
    for (index_t first = 0; first < n; first += block) {
        const index_t last = std::min(first + block, n);
        detail::packet m = detail::constant(least);
        index_t i = first;
        for (; i + detail::lanes <= last; i += detail::lanes) {
            m = Eigen::internal::pmin(m, detail::load(in + i));
        }
        float found = Eigen::internal::predux_min(m);
        for (; i < last; ++i) {
            found = std::min(found, in[i]);
        }
        if (found < least) {
            least = found;
            place = std::find(in + first, in + last, found) - in;
        }
    }
    return place;
}

// log(sum(exp(values))).
inline float log_sum_exp(index_t n, const float* in) {
    const float most = largest(n, in);
    const detail::packet shift = detail::constant(most);
    return most + std::log(sum(n, in, [&](const detail::packet& x) {
               return Eigen::internal::pexp(Eigen::internal::psub(x, shift));
           }));
}

// Replaces n > 0 logits by probabilities.
inline void softmax(index_t n, float* values) {
    const detail::packet shift = detail::constant(largest(n, values));
    map(
        n, values, [&](const detail::packet& x) { return Eigen::internal::pexp(Eigen::internal::psub(x, shift)); },
        values);
    const detail::packet total = detail::constant(sum(n, values, [](const detail::packet& x) { return x; }));
    map(n, values, [&](const detail::packet& x) { return Eigen::internal::pdiv(x, total); }, values);
}

}  // namespace nn
}  // namespace emoji
