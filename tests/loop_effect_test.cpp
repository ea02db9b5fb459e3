// SPDX-License-Identifier: Apache-2.0
// The codebook and the report after self_improve.
#include <isic/loop.hpp>

#include <algorithm>

#include "support/loop_runs.hpp"

using isic::index_t;
using isic::stop_reason;
using isic_test::bytes_of;
using isic_test::check_best_is_left;
using isic_test::dense;
using isic_test::full_toy;
using isic_test::infinity;
using isic_test::not_a_number;
using isic_test::options_for;
using isic_test::outcome;
using isic_test::plain_toy;
using isic_test::rate_of;
using isic_test::run;
using isic_test::to_dense;
using isic_test::toy;
using isic_test::unsafe_share;

namespace {

/// Projects with the strengths of the report, but in a subspace of the caller's choice; returns the unsafe share.
template <class Toy>
double rate_after_projecting(Toy& model, const isic::self_improve_report& report, const dense& basis,
                             const isic::token_grid& grid) {
    const auto strength = isic::code_strength(report.harmfulness);
    isic::project_out(model.codebook(), isic_test::subspace_of(basis), {.strength = strength});
    return unsafe_share(model.judge()(model.decode(grid)));
}

}  // namespace

TEST_CASE_TEMPLATE("self_improve: the unsafe rate falls, safe images stay, and undo restores every byte", T,
                   ISIC_STORAGE) {
    for (const index_t gap : {0, 3}) {
        full_toy<T> model({.gap = gap});
        const auto options = options_for(1);
        const outcome o = run(model, options);
        CHECK(o.report.rounds.front().self_unsafe.value >= 0.9);
        CHECK(rate_of(o.report) <= 0.1);
        CHECK(o.after != o.before);
        check_best_is_left(o);
        full_toy<T> original({.gap = gap});
        const auto safe = original.generate(options.safe_prompts, 99);
        const auto unsafe = original.generate(options.unsafe_prompts, 98);
        CHECK((model.decode(safe) - original.decode(safe)).norm() <= 0.02 * original.decode(safe).norm());
        CHECK(unsafe_share(model.judge()(model.decode(unsafe))) <= 0.1);  // images that the loop has not used
        CHECK((model.decode(unsafe) - original.decode(unsafe)).norm() > 0.5 * original.decode(unsafe).norm());
    }
}

TEST_CASE("self_improve: a generator with tokens and images alone is enough") {
    for (const std::uint64_t seed : {1, 2, 3, 4}) {
        for (const auto target :
             {isic::edit_target::counterparts, isic::edit_target::origin, isic::edit_target::safe_mean}) {
            plain_toy model({.width = 8 + 4 * static_cast<index_t>(seed), .seed = seed});
            auto options = options_for(1);
            options.editing.target = target;
            options.seed = seed;
            const outcome o = run(model, options);
            CHECK(o.report.rounds.front().self_unsafe.value >= 0.9);
            CHECK(rate_of(o.report) <= 0.1);
            CHECK(isic_test::span_gap(to_dense(o.report.merged.basis), model.harm()) <
                  0.5);  // of a random subspace: about 1.4
            check_best_is_left(o);
        }
    }
}

TEST_CASE("self_improve: a random subspace of the same rank and strength does not lower the rate") {
    for (const std::uint64_t seed : {1, 2, 3, 4, 5}) {
        plain_toy model({.width = 16, .seed = seed});
        const auto options = options_for(1);
        const auto report = run(model, options).report;
        plain_toy a({.width = 16, .seed = seed});
        plain_toy b({.width = 16, .seed = seed});
        const auto unsafe = a.generate(options.unsafe_prompts, 98);
        isic_test::random dice(seed + 100);
        CHECK(rate_after_projecting(a, report, isic_test::random_basis(dice, 16, 1), unsafe) >= 0.9);
        CHECK(rate_after_projecting(b, report, to_dense(report.merged.basis), unsafe) <= 0.1);
    }
}

TEST_CASE("self_improve: strength zero changes no byte and does not lower the rate") {
    toy model;
    auto options = options_for(1);
    options.editing.ramp = {.low = 1.0, .high = 2.0};
    const outcome o = run(model, options);
    CHECK(o.report.reason == stop_reason::no_improvement);
    CHECK(o.report.best_round == 0);
    CHECK(o.report.rounds.size() == 2);
    CHECK(o.report.rounds[1].self_unsafe.value >= 0.9);
    CHECK(o.report.rounds[1].projection.moved == 0);
    CHECK(o.after == o.before);
    CHECK(o.report.change.ids().empty());
    CHECK(o.report.merged.rank() == 0);
}

TEST_CASE("self_improve: per-code strengths keep nearly all safe codes, the uniform projection moves every one") {
    const auto moved_safe_codes = [](bool per_code) {
        plain_toy model;
        auto options = options_for(1);
        options.editing.per_code_strength = per_code;
        const outcome o = run(model, options);
        CHECK(rate_of(o.report) <= 0.1);
        return std::ranges::count_if(o.report.change.ids(), [&](index_t k) { return k >= model.first_safe(); });
    };
    CHECK(moved_safe_codes(true) < 3);
    CHECK(moved_safe_codes(false) == 24);
}

TEST_CASE("self_improve: every field of every round report agrees with a count or a computation of the test") {
    toy model({.kinds = 2});
    auto options = options_for(2);
    options.resample = false;
    options.tuning.steps = 20;
    std::vector<dense> books;
    std::vector<index_t> moved;
    std::vector<std::vector<double>> judged;
    dense before_projection;
    options.on_progress = [&](const isic::progress& p) {
        if (p.stage == "project" && p.done == 0) {
            before_projection = to_dense(model.codebook());
        } else if (p.stage == "project") {
            const dense change = to_dense(model.codebook()) - before_projection;
            moved.push_back((change.rowwise().squaredNorm().array() > 0).count());
        }
        return true;
    };
    options.on_round = [&](isic::round_report& r) {
        books.push_back(to_dense(model.codebook()));
        judged.push_back(model.judge()(model.decode(model.drawn.front())));
        r.metrics["round squared"] = static_cast<double>(r.round * r.round);
    };
    const auto report = run(model, options).report;
    CHECK(report.reason == stop_reason::below_target);
    CHECK(report.best_round == 2);
    CHECK(report.harmfulness.size() == static_cast<std::size_t>(model.codebook().rows()));
    REQUIRE(report.rounds.size() == 3);
    REQUIRE(model.losses.size() == 40);
    index_t rank = 0;
    for (std::size_t r = 0; r < 3; ++r) {
        const isic::round_report& now = report.rounds[r];
        CHECK(now.round == static_cast<index_t>(r));
        CHECK(now.self_unsafe.n == 24);
        CHECK(now.self_unsafe.value == doctest::Approx(unsafe_share(judged[r])));
        CHECK(now.self_unsafe.hits == std::ranges::count_if(judged[r], [](double p) { return p > 0.5; }));
        CHECK(now.self_unsafe.low <= now.self_unsafe.value);
        CHECK(now.self_unsafe.high >= now.self_unsafe.value);
        CHECK(now.relative_change == doctest::Approx((books[r] - books[0]).norm() / books[0].norm()));
        CHECK(now.seconds >= 0);
        CHECK(now.metrics.at("round squared") == static_cast<double>(r * r));
        rank += now.rank;
        CHECK(now.merged_rank == rank);
        CHECK(now.pairs + now.dropped == (r == 0 ? 0 : report.rounds[r - 1].self_unsafe.hits));
        CHECK(now.rank == (r == 0 ? 0 : 1));
        CHECK(now.tuning_steps == (r == 0 ? 0 : 20));
        if (r > 0) {
            const auto first = model.losses.begin() + static_cast<std::ptrdiff_t>((r - 1) * 20);
            CHECK(now.first_loss == *first);
            CHECK(now.last_loss == doctest::Approx((first[18] + first[19]) / 2));
            CHECK(now.last_loss < now.first_loss);
            CHECK((r == 2 || now.decided_by == isic::rank_rule::budget));
            CHECK(now.projection.moved == moved[r - 1]);
            CHECK(now.projection.after.total < now.projection.before.total);
        }
    }
    CHECK(report.rounds[0].self_unsafe.value == 1);
    CHECK(report.rounds[0].relative_change == 0);
    CHECK(report.rounds[1].self_unsafe.value == doctest::Approx(0.5));  // one kind of harm per round
    CHECK(report.rounds[2].self_unsafe.value == 0);
    CHECK(report.merged.rank() == 2);
    CHECK(isic_test::span_gap(to_dense(report.merged.basis), model.harm()) < 0.5);
    CHECK(report.harmful.images() == 24);  // an image that is unsafe in both rounds counts once
    CHECK(report.rounds[0].singular_values.empty());
    const index_t rows = report.rounds[1].pairs * report.harmful.tokens_per_image;
    dense differences(rows, books[0].cols());
    for (index_t t = 0; t < rows; ++t) {
        const auto at = static_cast<std::size_t>(t);
        differences.row(t) = books[0].row(report.harmful.ids[at]) - books[0].row(report.counterparts.ids[at]);
    }
    Eigen::VectorXd v = Eigen::VectorXd::Ones(differences.cols());
    for (int i = 0; i < 500; ++i) {
        v = (differences.transpose() * (differences * v)).normalized();
    }
    REQUIRE(!report.rounds[1].singular_values.empty());
    CHECK(report.rounds[1].singular_values[0] == doctest::Approx((differences * v).norm()).epsilon(1e-6));
}

TEST_CASE("self_improve: codes move to the target") {
    const auto along_harm = [](isic::edit_target target) {
        toy model({.offset = 0.5});
        auto options = options_for(1);
        options.editing.per_code_strength = false;
        options.editing.target = target;
        CHECK(rate_of(run(model, options).report) <= 0.1);
        return Eigen::VectorXd(to_dense(model.codebook()) * model.harm().col(0));
    };
    const Eigen::VectorXd all = Eigen::VectorXd::Ones(28);
    CHECK((to_dense(toy({.offset = 0.5}).codebook()) * toy().harm().col(0) - 0.5 * all).maxCoeff() > 5);
    CHECK(along_harm(isic::edit_target::origin).cwiseAbs().maxCoeff() < 0.01);
    CHECK((along_harm(isic::edit_target::safe_mean) - 0.5 * all).cwiseAbs().maxCoeff() < 0.01);
    CHECK((along_harm(isic::edit_target::counterparts) - 0.5 * all).cwiseAbs().maxCoeff() < 0.01);
}

TEST_CASE("self_improve: a larger target weight moves the targets towards the safe mean") {
    const auto left = [](isic::edit_target target, double weight) {
        plain_toy model;
        auto options = options_for(1);
        options.editing.target = target;
        options.editing.target_weight = weight;
        options.stop.max_rounds = 1;
        run(model, options);
        return to_dense(model.codebook());
    };
    const dense mean = left(isic::edit_target::safe_mean, 2);
    CHECK((left(isic::edit_target::counterparts, 1e9) - mean).norm() < 1e-4);
    CHECK((left(isic::edit_target::counterparts, 30) - mean).norm() <
          0.9 * (left(isic::edit_target::counterparts, 2) - mean).norm());
}

TEST_CASE_TEMPLATE(
    "self_improve: padding rows keep their bytes, NaN included; the same rows do not if they are not declared", T,
    ISIC_STORAGE) {
    const auto padding_rows = [](auto& model) {
        isic_test::byte_vector out;
        for (index_t k = model.first_padding(); k < model.codebook().rows(); ++k) {
            const isic_test::byte_vector row = bytes_of(model.codebook().row(k));
            out.insert(out.end(), row.begin(), row.end());
        }
        return out;
    };
    for (const bool declared : {true, false}) {
        for (const double content : {1.0, infinity, not_a_number}) {
            full_toy<T> model({.padding = 3, .gap = 1});
            if (content != 1.0) {
                std::ranges::fill(model.codebook().row(model.first_padding() + 1),
                                  static_cast<T>(static_cast<float>(content)));
            }
            auto options = options_for(1);
            options.editing.per_code_strength = false;
            options.tuning.steps = 3;
            options.tuning.radius = 0.5;
            if (declared) {
                options.editing.padding = {model.first_padding(), model.first_padding() + 1, model.first_padding() + 2};
            }
            const isic_test::byte_vector before = padding_rows(model);
            const outcome o = run(model, options);
            INFO(o.report.message);
            check_best_is_left(o);
            CHECK((padding_rows(model) == before) == (declared || content != 1.0));
            CHECK((o.report.reason == stop_reason::failed) == (!declared && content != 1.0));
            if (declared) {
                CHECK(rate_of(o.report) <= 0.1);
                CHECK(std::isfinite(o.report.rounds.back().relative_change));
            }
        }
    }
}

TEST_CASE("self_improve: damage is measured on codes, not on padding") {
    const auto change = [](float padding) {
        toy model({.padding = 3});
        auto options = options_for(1);
        for (index_t k = model.first_padding(); k < model.codebook().rows(); ++k) {
            options.editing.padding.push_back(k);
            std::ranges::fill(model.codebook().row(k), padding);
        }
        return run(model, options).report.rounds[1].relative_change;
    };
    CHECK(change(0) > 0.1);
    CHECK(change(1e6F) == change(0));
}

TEST_CASE("self_improve: narrow codebooks") {
    for (const index_t width : {1, 2, 3}) {
        plain_toy model({.width = width});
        const outcome o = run(model, options_for(1));
        CHECK(o.report.rounds.front().self_unsafe.value >= 0.9);
        CHECK(rate_of(o.report) <= 0.1);
    }
}
