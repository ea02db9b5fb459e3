// SPDX-License-Identifier: Apache-2.0
#include <isic/cuda/loop.hpp>

#include "cuda/support.hpp"
#include "support/toy_generator.hpp"

namespace {

/// The toy with its codebook on the device: what it decodes comes from there.
template <class T>
class device_toy {
public:
    explicit device_toy(isic::cuda_backend& gpu) : gpu_(gpu), codes_(isic::upload(gpu, toy_.planted())) {}

    isic::device_matrix<T>& device_codebook() { return codes_; }
    isic::token_grid generate(std::span<const std::string> prompts, std::uint64_t seed) {
        return toy_.generate(prompts, seed);
    }
    isic_test::dense decode(const isic::token_grid& tokens) {
        read_codes();
        return toy_.decode(tokens);
    }
    isic::token_grid redraw(const isic::redraw_request& request) { return toy_.redraw(request); }
    auto tuning_loss(const isic::tuning_set& set) {
        return [this, loss = toy_.tuning_loss(set)](isic::index_t step, isic::matrix<double>& gradient) mutable {
            read_codes();
            return loss(step, gradient);
        };
    }
    auto& host() { return toy_; }

private:
    void read_codes() {
        const isic::matrix<T> now = isic::download(gpu_, codes_);
        for (isic::index_t k = 0; k < now.rows(); ++k) {
            std::ranges::copy(now.row(k), toy_.codebook().row(k).begin());
        }
    }

    isic::cuda_backend& gpu_;
    isic_test::with_tuning<isic_test::with_redraw<isic_test::toy_generator<T>>> toy_;
    isic::device_matrix<T> codes_;
};

isic::self_improve_options options() {
    isic::self_improve_options out;
    for (int i = 0; i < 20; ++i) {
        out.unsafe_prompts.push_back("harm0 " + std::to_string(i));
        out.safe_prompts.push_back("safe " + std::to_string(i));
    }
    out.rewrite = [](const std::string& prompt) { return "safe" + prompt.substr(5); };
    out.stop.max_rounds = 2;
    out.tuning.steps = 3;
    return out;
}

}  // namespace

TEST_CASE_TEMPLATE("self_improve on a device's codebook does what it does on the host's, and leaves it on the device",
                   T, ISIC_STORAGE) {
    isic::cuda_backend gpu;
    device_toy<T> model(gpu);
    const auto report = isic::self_improve(gpu, model, model.host().judge(), options());
    isic_test::with_tuning<isic_test::with_redraw<isic_test::toy_generator<T>>> host_mirror;
    const auto expected = isic::self_improve(host_mirror, host_mirror.judge(), options());
    CHECK(report.message == expected.message);
    REQUIRE(report.rounds.size() == expected.rounds.size());
    CHECK(report.rounds.front().self_unsafe.value > 0.9);
    CHECK(report.rounds[static_cast<std::size_t>(report.best_round)].self_unsafe.value < 0.1);
    auto found = isic::download(gpu, model.device_codebook());
    CHECK(isic::fingerprint(found) == isic::fingerprint(host_mirror.codebook()));
    report.change.undo(found);
    CHECK(isic_test::bytes_of(found) == isic_test::bytes_of(host_mirror.planted()));
}

TEST_CASE("a judge that throws leaves the device's codebook at the best completed round") {
    isic::cuda_backend gpu;
    device_toy<float> model(gpu);
    int left = 3;
    const auto report = isic::self_improve(
        gpu, model,
        [&](const isic_test::dense& images) {
            if (--left < 0) {
                throw std::runtime_error("no more");
            }
            return model.host().judge()(images);
        },
        options());
    CHECK(report.reason == isic::stop_reason::failed);
    CHECK(report.message == "no more");
    CHECK(isic_test::bytes_on(gpu, model.device_codebook()) == isic_test::bytes_of(model.host().planted()));
}
