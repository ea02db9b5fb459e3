// SPDX-License-Identifier: Apache-2.0
// Every public template, instantiated for every scalar: what a consumer's compiler sees of the headers.
#include <isic/isic.hpp>

namespace {

struct generator {
    isic::matrix<float> book{4, 3, 1.0F};
    isic::matrix_span<float> codebook() { return book; }
    isic::token_grid generate(std::span<const std::string> prompts, std::uint64_t) {
        return {std::vector<std::int32_t>(2 * prompts.size()), 2};
    }
    std::vector<float> decode(const isic::token_grid& tokens) const {
        return std::vector<float>(static_cast<std::size_t>(tokens.images()));
    }
};

template <class T>
void checked() {
    isic::matrix<T> codes(4, 3, T(1.0F));
    const isic::matrix<double> gradient(4, 3);
    const std::vector<int> ids{0, 1, 2, 3};
    isic::difference_accumulator pairs(codes);
    pairs.add(ids, ids);
    isic::counterpart_targets targets(codes);
    targets.add(ids, ids);
    const isic::subspace harm = isic::fit_subspace(pairs);
    isic::project_out(codes, harm).undo(codes);
    isic::remap(codes, {.target = gradient});
    isic::edit::between(codes, codes).apply(codes);
    isic::adam_state adam;
    isic::adam_update(codes, gradient, adam);
    isic::sgd_state sgd;
    isic::sgd_update(codes, gradient, sgd);
    isic::ema_state ema;
    const isic::assignments batch = isic::assign(codes, ids, 4);
    isic::ema_update(codes, ema, batch, 0.9);
    isic::ridge_update(codes, batch, 1.0);
    const isic::code_index index(codes);
    (void)index.nearest(codes);
    (void)isic::nearest_codes(codes, codes);
    (void)isic::nearest_code_churn(codes, codes, codes);
    (void)isic::fingerprint(codes);
    (void)isic::drift(codes, codes);
    (void)isic::collapsed_pairs(codes, 0.1);
    (void)isic::leakage(codes, harm);
    (void)isic::any_view(isic::as_span(codes));
}

template <isic::real T>
void fused() {
    isic::matrix<T> codes(4, 3);
    const isic::fused::basis<T> basis;
    isic::fused::project_out(codes, basis);
    isic::adam_state<T> adam;
    isic::fused::adam_update(codes, codes, adam);
    isic::ema_state<T> ema;
    isic::fused::ema_update(codes, codes, std::vector<std::int64_t>{0, 1, 2, 3}, ema, 0.9);
}

}  // namespace

int main() {
    checked<float>();
    checked<double>();
    checked<isic::half>();
    checked<isic::bfloat16>();
    fused<float>();
    fused<double>();
    generator model;
    const auto judge = [](const std::vector<float>& images) { return std::vector<double>(images.size()); };
    (void)isic::self_improve(model, judge, {});
}
