// SPDX-License-Identifier: Apache-2.0
#include <fmt/ranges.h>
#include <isic/isic.hpp>

int main() {
    std::vector<float> memory{3, 1, 0, 3, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 1, 1, 1, 1};
    isic::matrix_span codes(memory.data(), 6, 3);  // six codes of width 3, in memory that you have
    isic::difference_accumulator pairs(codes);
    pairs.add(std::vector{0, 1, 4, 5}, std::vector{2, 3, 4, 5});  // an unsafe image's tokens, its safe counterpart's
    pairs.add(std::vector{1, 5, 0, 2}, std::vector{3, 5, 2, 2});
    const isic::subspace harm = isic::fit_subspace(pairs, {.rank = {.fixed = 1}});
    const auto strength =
        isic::code_strength(isic::code_harmfulness(pairs.usage(), {.prior_per_code = 0.02}).harmfulness);
    const isic::edit edit = isic::project_out(codes, harm, {.strength = strength});
    fmt::print("leakage {:.2f} -> {:.2f}\n", edit.summary.before.total, edit.summary.after.total);
    fmt::print("codes {} moved: {::.1f}\n", edit.ids(), memory);
    edit.undo(codes);  // every byte as it was; save_edit and load_edit keep it in a file
}
