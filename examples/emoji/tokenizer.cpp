// SPDX-License-Identifier: Apache-2.0
#include <emoji/tokenizer.hpp>

#include <algorithm>

namespace emoji {
namespace {

// Writes the SiLU of rows of tokens or pixels to the interior of a bordered buffer.
void silu_into(nn::bordered& buffer, index_t n, const float* rows) {
    const index_t run = buffer.side() * buffer.channels();
    for (index_t line = 0; line < n * buffer.side(); ++line) {
        nn::map(run, buffer.line(line / buffer.side(), line % buffer.side()), nn::silu{}, rows + line * run);
    }
}

void copy_into(nn::bordered& buffer, index_t n, const float* rows) {
    const index_t run = buffer.side() * buffer.channels();
    for (index_t line = 0; line < n * buffer.side(); ++line) {
        std::copy_n(rows + line * run, run, buffer.line(line / buffer.side(), line % buffer.side()));
    }
}

// Token t's 16 up values are 4 lines of 4 pixels with `up` channels; calls f(image, y, x, offset) for each line, where
// (y, x) is its first pixel and offset its position in the rows of tokens.
template <class F>
void for_each_patch_line(index_t n, index_t grid, index_t up, F f) {
    for (index_t t = 0; t < n * grid * grid; ++t) {
        for (index_t i = 0; i < 4; ++i) {
            f(t / (grid * grid), 4 * (t / grid % grid) + i, 4 * (t % grid), (4 * t + i) * 4 * up);
        }
    }
}

}  // namespace

void detail::require_id(const char* function, int id, index_t codes) {
    if (id < 0 || id >= codes) {
        throw isic::value_error(fmt::format("emoji::{}: expected ids in [0, {}), got {}", function, codes, id));
    }
}

matrix gather(const matrix& codebook, const token_ids& ids) {
    matrix out(static_cast<index_t>(ids.size()), codebook.cols());
    for (std::size_t i = 0; i < ids.size(); ++i) {
        detail::require_id("gather", ids[i], codebook.rows());
        out.row(static_cast<index_t>(i)) = codebook.row(ids[i]);
    }
    return out;
}

matrix scatter(const matrix& d_codes, const token_ids& ids, index_t codes) {
    if (d_codes.rows() != static_cast<index_t>(ids.size())) {
        throw isic::value_error(fmt::format("emoji::scatter: expected {} rows, got {}", ids.size(), d_codes.rows()));
    }
    matrix out = matrix::Zero(codes, d_codes.cols());
    for (std::size_t i = 0; i < ids.size(); ++i) {
        detail::require_id("scatter", ids[i], codes);
        out.row(ids[i]) += d_codes.row(static_cast<index_t>(i));
    }
    return out;
}

tokenizer::residual tokenizer::load_residual(const weights& file, const std::string& name, index_t width,
                                             bool with_gradient) {
    residual out{nn::load_convolution(file, name + ".conv1", width, width),
                 nn::load_convolution(file, name + ".conv2", width, width),
                 {},
                 {}};
    if (with_gradient) {
        out.conv1_transposed = nn::load_transposed_convolution(file, name + ".conv1", width, width);
        out.conv2_transposed = nn::load_transposed_convolution(file, name + ".conv2", width, width);
    }
    return out;
}

tokenizer::tokenizer(const weights& file, int threads) : threads_(threads) {
    const auto& book = file.shape("tokenizer.codebook", 2);
    codebook_ = file.values("tokenizer.codebook", book[0], book[1]);
    width_ = file.shape("tokenizer.from_latent.weight", 4)[0];
    up_ = file.shape("tokenizer.to_pixels.weight", 4)[1];

    const std::vector<float> patch = file.values("tokenizer.patch.weight", {width_, 3, 4, 4});
    const std::vector<float> patch_bias = file.values("tokenizer.patch.bias", {width_});
    patch_ = nn::affine(
        width_, 48,  // a patch is 4 lines of 4 pixels of 3 channels; the weights are [3][4][4]
        [&](index_t o, index_t k) { return patch[static_cast<std::size_t>(o * 48 + k % 3 * 16 + k / 3)]; },
        [&](index_t o) { return patch_bias[static_cast<std::size_t>(o)]; });
    to_latent_ = nn::load_linear(file, "tokenizer.to_latent", dim(), width_, 4);
    from_latent_ = nn::load_linear(file, "tokenizer.from_latent", width_, dim(), 4);
    to_pixels_ = nn::load_convolution(file, "tokenizer.to_pixels", 3, up_);
    to_pixels_transposed_ = nn::load_transposed_convolution(file, "tokenizer.to_pixels", 3, up_);
    for (const std::string block : {"0", "1"}) {
        encoder_.push_back(load_residual(file, "tokenizer.encoder." + block, width_, false));
        decoder_.push_back(load_residual(file, "tokenizer.decoder." + block, width_, true));
    }

    // The pixel shuffle orders channels as (c, i, j); here they are (i, j, c), lines of adjacent pixels.
    const std::vector<float> un = file.values("tokenizer.unpatch.weight", {16 * up_, width_, 1, 1});
    const std::vector<float> un_bias = file.values("tokenizer.unpatch.bias", {16 * up_});
    const auto channel = [up = up_](index_t o) { return o % up * 16 + o / up; };
    unpatch_ = nn::affine(
        16 * up_, width_, [&](index_t o, index_t k) { return un[static_cast<std::size_t>(channel(o) * width_ + k)]; },
        [&](index_t o) { return un_bias[static_cast<std::size_t>(channel(o))]; });
    const auto no_bias = [](index_t) { return 0.0f; };
    unpatch_transposed_ = nn::affine(
        width_, 16 * up_, [&](index_t o, index_t k) { return un[static_cast<std::size_t>(channel(k) * width_ + o)]; },
        no_bias);
    const std::vector<float> from = file.values("tokenizer.from_latent.weight", {width_, dim(), 1, 1});
    from_latent_transposed_ = nn::affine(
        dim(), width_, [&](index_t o, index_t k) { return from[static_cast<std::size_t>(k * dim() + o)]; }, no_bias);
}

index_t tokenizer::images_in(const char* function, const matrix& rows, index_t cols, index_t per_image) const {
    if (rows.cols() != cols || rows.rows() % per_image != 0) {
        throw isic::value_error(fmt::format("emoji::tokenizer::{}: expected a multiple of {} rows of {}, got {} x {}",
                                            function, per_image, cols, rows.rows(), rows.cols()));
    }
    return rows.rows() / per_image;
}

// h += conv2(silu(conv1(silu(h)))); `middle` receives conv1's output.
void tokenizer::apply_residual(const residual& block, float* h, float* middle, nn::bordered& buffer, index_t n) const {
    silu_into(buffer, n, h);
    nn::convolve(block.conv1, buffer, n, middle);
    silu_into(buffer, n, middle);
    nn::convolve(block.conv2, buffer, n, h, true);
}

void tokenizer::encode_chunk(const float* images, index_t n, float* latents) const {
    vector centred(n * pixels);
    nn::map(n * pixels, centred.data(), nn::centre{}, images);
    matrix h(n * tokens, width_), middle(n * tokens, width_);
    const auto corner = [&](index_t t) {
        return centred.data() + t / tokens * pixels + (t / grid % grid * 4 * side + t % grid * 4) * 3;
    };
    patch_.apply(n * tokens, corner, {4, 12, 3 * side}, h.data());
    nn::bordered buffer(n, grid, width_);
    for (const residual& block : encoder_) {
        apply_residual(block, h.data(), middle.data(), buffer, n);
    }
    nn::map(h.size(), h.data(), nn::silu{}, h.data());
    to_latent_.apply(n * tokens, h.data(), latents);
}

matrix tokenizer::encode(const matrix& images) const {
    const index_t n = images_in("encode", images, pixels, 1);
    matrix out(n * tokens, dim());
    parallel_chunks(n, chunk, threads_, [&](index_t first, index_t count) {
        encode_chunk(images.data() + first * pixels, count, out.data() + first * tokens * dim());
    });
    return out;
}

token_ids tokenizer::quantise(const matrix& latents, const matrix& codebook) const {
    if (latents.cols() != codebook.cols() || codebook.rows() == 0) {
        throw isic::value_error(
            fmt::format("emoji::tokenizer::quantise: expected a codebook of {} columns, got {} x {}", latents.cols(),
                        codebook.rows(), codebook.cols()));
    }
    // |c|^2 - 2 z c: the squared distance minus |z|^2.
    const nn::affine distance(
        codebook.rows(), codebook.cols(), [&](index_t k, index_t j) { return -2 * codebook(k, j); },
        [&](index_t k) { return codebook.row(k).squaredNorm(); });
    token_ids out(static_cast<std::size_t>(latents.rows()));
    parallel_chunks(latents.rows(), 48, threads_, [&](index_t first, index_t count) {
        matrix distances(count, codebook.rows());
        distance.apply(count, latents.data() + first * latents.cols(), distances.data());
        for (index_t i = 0; i < count; ++i) {
            out[static_cast<std::size_t>(first + i)] =
                static_cast<int>(nn::first_smallest(codebook.rows(), distances.row(i).data()));
        }
    });
    return out;
}

void tokenizer::decode_chunk(const float* codes, index_t first, index_t n, float* images, tape* record) const {
    matrix h(n * tokens, width_), middle(n * tokens, width_), enlarged(n * tokens, 16 * up_);
    from_latent_.apply(n * tokens, codes, h.data());
    nn::bordered buffer(n, grid, width_);
    for (std::size_t b = 0; b < decoder_.size(); ++b) {
        if (record != nullptr) {
            record->inputs[b].middleRows(first * tokens, n * tokens) = h;
        }
        apply_residual(decoder_[b], h.data(), middle.data(), buffer, n);
        if (record != nullptr) {
            record->middles[b].middleRows(first * tokens, n * tokens) = middle;
        }
    }
    if (record != nullptr) {
        record->features.middleRows(first * tokens, n * tokens) = h;
    }
    nn::map(h.size(), h.data(), nn::silu{}, h.data());
    unpatch_.apply(n * tokens, h.data(), enlarged.data());
    if (record != nullptr) {
        record->enlarged.middleRows(first * tokens, n * tokens) = enlarged;
    }
    nn::bordered fine(n, side, up_);
    for_each_patch_line(n, grid, up_, [&](index_t image, index_t y, index_t x, index_t offset) {
        nn::map(4 * up_, fine.line(image, y) + x * up_, nn::silu{}, enlarged.data() + offset);
    });
    nn::convolve(to_pixels_, fine, n, images);
    nn::map(n * pixels, images, nn::sigmoid{}, images);
    if (record != nullptr) {
        std::copy_n(images, n * pixels, record->images.row(first).data());
    }
}

matrix tokenizer::decode(const matrix& codes) const {
    const index_t n = images_in("decode", codes, dim(), tokens);
    matrix out(n, pixels);
    parallel_chunks(n, chunk, threads_, [&](index_t first, index_t count) {
        decode_chunk(codes.data() + first * tokens * dim(), first, count, out.data() + first * pixels, nullptr);
    });
    return out;
}

matrix tokenizer::decode(const matrix& codes, tape& record) const {
    const index_t n = images_in("decode", codes, dim(), tokens);
    for (std::size_t b = 0; b < decoder_.size(); ++b) {
        record.inputs[b].resize(n * tokens, width_);
        record.middles[b].resize(n * tokens, width_);
    }
    record.features.resize(n * tokens, width_);
    record.enlarged.resize(n * tokens, 16 * up_);
    record.images.resize(n, pixels);
    matrix out(n, pixels);
    parallel_chunks(n, chunk, threads_, [&](index_t first, index_t count) {
        decode_chunk(codes.data() + first * tokens * dim(), first, count, out.data() + first * pixels, &record);
    });
    return out;
}

void tokenizer::backward_chunk(const tape& record, const float* d_images, index_t first, index_t n,
                               float* d_codes) const {
    const auto at = [&](const matrix& m) { return m.data() + first * tokens * m.cols(); };
    const index_t size = n * tokens * width_;

    // sigmoid' = y (1 - y)
    vector d_pixels(n * pixels);
    nn::map(n * pixels, d_pixels.data(), nn::sigmoid_backward{}, record.images.row(first).data(), d_images);
    nn::bordered fine(n, side, 3);
    copy_into(fine, n, d_pixels.data());
    matrix d_fine(n * side * side, up_);
    nn::convolve(to_pixels_transposed_, fine, n, d_fine.data());
    matrix d_enlarged(n * tokens, 16 * up_);
    for_each_patch_line(n, grid, up_, [&](index_t image, index_t y, index_t x, index_t offset) {
        nn::map(4 * up_, d_enlarged.data() + offset, nn::silu_backward{}, at(record.enlarged) + offset,
                d_fine.data() + ((image * side + y) * side + x) * up_);
    });
    matrix d_h(n * tokens, width_), d_middle(n * tokens, width_);
    unpatch_transposed_.apply(n * tokens, d_enlarged.data(), d_h.data());
    nn::map(size, d_h.data(), nn::silu_backward{}, at(record.features), d_h.data());
    nn::bordered buffer(n, grid, width_);
    for (std::size_t b = decoder_.size(); b-- > 0;) {
        copy_into(buffer, n, d_h.data());
        nn::convolve(decoder_[b].conv2_transposed, buffer, n, d_middle.data());
        nn::map(size, d_middle.data(), nn::silu_backward{}, at(record.middles[b]), d_middle.data());
        copy_into(buffer, n, d_middle.data());
        nn::convolve(decoder_[b].conv1_transposed, buffer, n, d_middle.data());
        nn::map(size, d_middle.data(), nn::silu_backward{}, at(record.inputs[b]), d_middle.data());
        d_h += d_middle;
    }
    from_latent_transposed_.apply(n * tokens, d_h.data(), d_codes);
}

matrix tokenizer::decode_backward(const tape& record, const matrix& d_images) const {
    const index_t n = images_in("decode_backward", d_images, pixels, 1);
    if (record.images.rows() != n) {
        throw isic::value_error(
            fmt::format("emoji::tokenizer::decode_backward: expected {} images, got {}", record.images.rows(), n));
    }
    matrix out(n * tokens, dim());
    parallel_chunks(n, chunk, threads_, [&](index_t first, index_t count) {
        backward_chunk(record, d_images.data() + first * pixels, first, count, out.data() + first * tokens * dim());
    });
    return out;
}

}  // namespace emoji
