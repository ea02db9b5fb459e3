// SPDX-License-Identifier: Apache-2.0
// Edits the codebook of a TorchScript decoder in libtorch's memory.
//   isic_libtorch decoder.pt [KEY]
#include <fmt/ranges.h>
#include <torch/script.h>

#include <isic/isic.hpp>

namespace {

at::Tensor parameter(const torch::jit::Module& model, const std::string& key) {
    for (const auto& [name, value] : model.named_parameters()) {
        if (name == key)
            return value;
    }
    throw std::runtime_error("no parameter " + key);
}

// Token ids of n images of 8 x 8, drawn from codes first to last - 1.
at::Tensor images(std::int64_t n, std::int64_t first, std::int64_t last) {
    return torch::randint(first, last, {n, 8, 8}, torch::kInt64);
}

std::span<const std::int64_t> tokens(const at::Tensor& image) {
    return {image.data_ptr<std::int64_t>(), static_cast<std::size_t>(image.numel())};
}

}  // namespace

int main(int argc, char** argv) try {
    if (argc < 2) {
        fmt::print(stderr, "usage: isic_libtorch decoder.pt [KEY]\n");
        return 2;
    }
    const torch::NoGradGuard no_gradients;
    torch::manual_seed(0);
    torch::jit::Module decoder = torch::jit::load(argv[1]);
    const at::Tensor weight = parameter(decoder, argc > 2 ? argv[2] : "quantize.embedding.weight");
    isic::matrix_span codes(weight.data_ptr<float>(), weight.size(0), weight.size(1), weight.stride(0));
    const auto decode = [&](const at::Tensor& ids) { return decoder.forward({ids}).toTensor(); };

    const at::Tensor harmless = images(16, 4, codes.rows());
    const at::Tensor unsafe = harmless.clone(), safe = harmless.clone();
    unsafe.slice(1, 0, 4) = images(16, 0, 2).slice(1, 0, 4);  // the concept: codes 0 and 1 in the upper half
    safe.slice(1, 0, 4) = images(16, 2, 4).slice(1, 0, 4);
    isic::difference_accumulator pairs(codes);
    for (std::int64_t i = 0; i < unsafe.size(0); ++i)
        pairs.add(tokens(unsafe[i]), tokens(safe[i]));
    const isic::subspace harm = isic::fit_subspace(pairs, {.rank = {.fixed = 2}});
    const auto strength =
        isic::code_strength(isic::code_harmfulness(pairs.usage(), {.prior_per_code = 0.02}).harmfulness);

    const at::Tensor unsafe_before = decode(unsafe), harmless_before = decode(harmless);
    const isic::edit edit = isic::project_out(codes, harm, {.strength = strength});
    fmt::print("codes moved: {}\n", fmt::join(edit.ids(), " "));
    fmt::print("unsafe images change by up to {:.3f}\n", (decode(unsafe) - unsafe_before).abs().max().item<float>());
    fmt::print("images without those codes by {:.3f}\n",
               (decode(harmless) - harmless_before).abs().max().item<float>());
    edit.undo(codes);
    fmt::print("undone: {}\n", decode(unsafe).equal(unsafe_before) ? "every pixel as it was" : "pixels differ");
} catch (const std::exception& error) {
    fmt::print(stderr, "isic_libtorch: {}\n", error.what());
    return 1;
}
