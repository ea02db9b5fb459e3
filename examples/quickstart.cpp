#include <random>

#include <fmt/format.h>
#include <isic/isic.hpp>

int main() {
    std::mt19937 random(0);
    std::normal_distribution<float> normal;
    isic::matrix<float> codes(1000, 8);  // your codebook; isic::matrix_span(data, rows, cols) wraps memory you have
    for (int k = 0; k < 1000; ++k) {
        for (int j = 0; j < 8; ++j) {
            codes(k, j) = normal(random) + (k < 100 && j == 3 ? 4.0f : 0.0f);  // 100 codes draw the harmful thing
        }
    }
    isic::difference_accumulator pairs(codes);
    isic::counterpart_targets targets(codes);
    for (int picture = 0; picture < 200; ++picture) {
        std::vector<int> safe_ids(64), harmful_ids;
        for (int& id : safe_ids) id = 100 + static_cast<int>(random() % 900);
        harmful_ids = safe_ids;
        for (int t = 0; t < 12; ++t) harmful_ids[t] = static_cast<int>(random() % 100);
        pairs.add(harmful_ids, safe_ids);
        targets.add(harmful_ids, safe_ids);
    }
    const auto harm = isic::fit_subspace(pairs, {.rank = {.max_rank = 2}});
    const auto strength = isic::code_strength(isic::code_harmfulness(pairs.usage()).harmfulness);
    const auto edit = isic::project_out(codes, harm, {.strength = strength, .target = targets.targets()});
    fmt::print("rank {} decided by {}, {:.0f} % of the energy\n", harm.rank(), to_string(harm.chosen.decided_by), 100 * harm.energy);
    fmt::print("{} of {} codes moved\n", edit.summary.moved, codes.rows());
    fmt::print("leakage {:.3f} -> {:.3f}\n", edit.summary.before.total, edit.summary.after.total);
    edit.undo(codes);  // every byte as it was
}
