// SPDX-License-Identifier: Apache-2.0
// One short example per header. The documentation quotes the parts between the markers.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include <isic/isic.hpp>

namespace {

isic::matrix<float> random_codes(isic::index_t rows, isic::index_t cols) {
    isic::matrix<float> codes(rows, cols);
    std::uint32_t state = 1;
    for (isic::index_t i = 0; i < rows * cols; ++i) {
        state = state * 1664525U + 1013904223U;
        codes.data()[i] = static_cast<float>(state >> 8) * 0x1p-23F - 1.0F;
    }
    return codes;
}

// What DLPack's header declares; here the fields that isic reads.
struct DLTensor {
    void* data;
    struct {
        int device_type, device_id;
    } device;
    int ndim;
    struct {
        std::uint8_t code, bits;
        std::uint16_t lanes;
    } dtype;
    std::int64_t* shape;
    std::int64_t* strides;
    std::uint64_t byte_offset;
};

void require(bool ok, const char* what) {
    if (!ok) {
        std::fprintf(stderr, "examples/snippets.cpp: %s\n", what);
        std::exit(1);
    }
}

void types() {
    //! [types]
    const isic::half x(0.1F);  // rounds to nearest, ties to even
    const float back = x;      // exact: 0.0999755859375
    static_assert(sizeof(isic::half) == 2);
    //! [types]
    require(back == 0.0999755859375F, "half");
}

void matrix() {
    //! [matrix]
    std::vector<float> memory(6 * 4);
    const isic::matrix_span<float> codes(memory.data(), 6, 3, 4);  // six codes of width 3, four values from row to row
    codes(5, 2) = 1.0F;
    //! [matrix]
    require(memory[22] == 1.0F, "matrix_span");
}

void any_view() {
    std::vector<float> memory(6 * 3, 1.0F);
    std::int64_t shape[2] = {6, 3};
    DLTensor tensor{memory.data(), {1, 0}, 2, {2, 32, 1}, shape, nullptr, 0};
    //! [any_view]
    const isic::any_span from_pointer(memory.data(), isic::dtype::f32, 6, 3, 3);  // the type is known at run time only
    const isic::any_span from_dlpack = isic::span_of_dlpack(tensor);  // any struct with the fields of a DLTensor
    const std::uint64_t same = isic::fingerprint(from_dlpack);
    //! [any_view]
    require(same == isic::fingerprint(from_pointer), "any_view");
}

void execution() {
    isic::matrix<float> codes = random_codes(100, 8);
    const isic::subspace harm = isic::span_of(random_codes(8, 1));
    //! [execution]
    isic::scratch_memory scratch;  // kept between calls: the second one allocates nothing
    const isic::execution exec{.threads = 1, .scratch = &scratch};
    const isic::fused::basis<float> basis(harm);
    for (int step = 0; step < 2; ++step) {
        isic::fused::project_out(codes, basis, {.execution = exec});
    }
    //! [execution]
    require(isic::leakage(codes, harm).total < 1e-6, "execution");
}

void error() {
    isic::matrix<float> codes(4, 3);
    const isic::subspace harm = isic::span_of(random_codes(5, 1));
    std::string text;
    //! [error]
    try {
        isic::project_out(codes, harm);
    } catch (const isic::shape_error& e) {
        text = e.what();  // "isic::project_out: expected 3 rows in the basis, got 5"; nothing has been written
    }
    //! [error]
    require(text == "isic::project_out: expected 3 rows in the basis, got 5", text.c_str());
}

void differences_to_edit() {
    isic::matrix<float> codes = random_codes(64, 8);
    const std::vector<std::int32_t> unsafe_tokens{1, 2, 3, 4}, safe_tokens{1, 12, 13, 4};
    //! [differences]
    isic::difference_accumulator pairs(codes);
    pairs.add(unsafe_tokens, safe_tokens);  // an unsafe image and its safe counterpart, position by position
    //! [differences]
    //! [subspace]
    const isic::subspace harm = isic::fit_subspace(pairs, {.rank = {.energy = 0.95, .max_rank = 4}});
    const double before = isic::leakage(codes, harm).total;
    //! [subspace]
    //! [harmfulness]
    const isic::code_scores scores = isic::code_harmfulness(pairs.usage());
    const std::vector<double> strength = isic::code_strength(scores.harmfulness);  // 0: untouched, 1: projected
    //! [harmfulness]
    //! [projection]
    const isic::edit edit = isic::project_out(codes, harm, {.strength = 1.0});
    require(isic::leakage(codes, harm).total < before, "the subspace is projected out");
    //! [projection]
    //! [edit]
    edit.undo(codes);   // every byte as it was
    edit.apply(codes);  // the same change again; another codebook is refused
    //! [edit]
    //! [metrics]
    const isic::drift_report drift = isic::drift(random_codes(64, 8), codes);
    const isic::rate unsafe = isic::wilson(3, 100);  // 3 of 100 images judged unsafe: 0.03 in [0.010, 0.085]
    //! [metrics]
    require(strength.size() == 64 && drift.largest > 0 && unsafe.high > 0.08, "metrics");
}

void rank() {
    //! [rank]
    const std::vector<double> sigma{10, 5, 1, 0.1};
    const isic::index_t rank = isic::energy_rank(sigma, 0.95);  // the fewest values with 95 % of the sum of squares: 2
    //! [rank]
    require(rank == 2, "energy_rank");
}

void codebook() {
    const isic::matrix<float> codes = random_codes(1000, 8);
    const isic::matrix<float> vectors = random_codes(10, 8);
    //! [codebook]
    const isic::code_index index(codes, isic::metric::cosine);  // packed once, for many queries
    const std::vector<isic::index_t> ids = index.nearest(vectors);
    //! [codebook]
    require(ids == isic::nearest_codes(vectors, codes, isic::metric::cosine), "code_index");
}

void updates() {
    isic::matrix<float> codes = random_codes(64, 8);
    const isic::matrix<float> gradient = random_codes(64, 8);
    const isic::subspace harm = isic::span_of(random_codes(8, 2));
    isic::project_out(codes, harm);
    //! [update]
    isic::adam_state state;
    const isic::constraint limits{.orthogonal_to = harm};  // steps stay in the harmless space
    const isic::update_summary done = isic::adam_update(codes, gradient, state, {.rate = 0.01}, limits);
    //! [update]
    require(done.moved == 64 && isic::leakage(codes, harm).total < 1e-6, "adam_update");
    //! [fused]
    const isic::fused::basis<float> basis(harm);  // made once
    isic::adam_state<float> moments;
    for (int step = 0; step < 10; ++step) {
        isic::fused::adam_update(codes, gradient, moments, {.rate = 0.01}, {.orthogonal_to = basis});
    }
    //! [fused]
    require(isic::leakage(codes, harm).total < 1e-5, "fused::adam_update");
}

void lexicon() {
    //! [lexicon]
    const isic::lexicon words{{"knife", "spoon"}};
    const std::string safe = words.rewrite("a fox with a Knife").text;  // "a fox with a Spoon"
    //! [lexicon]
    require(safe == "a fox with a Spoon", "lexicon");
}

void loop() {
    //! [loop]
    isic::self_improve_options options;
    options.stop = {.max_rounds = 3, .below = 0.01};
    options.judging = {.unsafe_above = 0.3, .safe_below = 0.3};
    options.editing.metric = isic::metric::cosine;
    options.tuning = {.steps = 100, .adam = {.rate = 0.05}};  // needs a generator with tuning_loss
    //! [loop]
    require(options.stop.patience == 1 && options.tuning.constrained, "the other options keep their defaults");
}

void files(const std::filesystem::path& folder) {
    isic::matrix<float> codes = random_codes(64, 8);
    const isic::subspace harm = isic::span_of(random_codes(8, 2));
    const isic::edit edit = isic::project_out(codes, harm);
    const std::filesystem::path model = folder / "model.safetensors";
    //! [safetensors]
    isic::tensor_file file;
    const std::span<const float> values(codes.data(), 64 * 8);
    file.tensors["codebook"] = isic::tensor::of(values, {64, 8});
    isic::write_safetensors(model, file);
    const std::vector<float> again = isic::read_tensor(model, "codebook").values<float>();
    //! [safetensors]
    require(std::equal(again.begin(), again.end(), codes.data()), "safetensors");
    //! [npy]
    isic::write_npy(folder / "codes.npy", isic::tensor::of(values, {64, 8}));
    const isic::tensor codes_of_numpy = isic::read_npy(folder / "codes.npy");
    //! [npy]
    require(codes_of_numpy.shape == std::vector<isic::index_t>{64, 8}, "npy");
    //! [edit_file]
    isic::save_edit(folder / "edit.safetensors", edit);
    isic::load_edit(folder / "edit.safetensors").undo(codes);
    //! [edit_file]
    require(isic::leakage(codes, harm).total > 0.1, "edit file");
}

}  // namespace

int main() {
    types();
    matrix();
    any_view();
    execution();
    error();
    differences_to_edit();
    rank();
    codebook();
    updates();
    lexicon();
    loop();
    const std::filesystem::path folder = std::filesystem::temp_directory_path() / "isic_snippets";
    std::filesystem::create_directories(folder);
    files(folder);
    std::filesystem::remove_all(folder);
    std::puts("every snippet does what it says");
}
