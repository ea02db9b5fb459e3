#include <isic/loop.hpp>

#include <algorithm>
#include <set>
#include <stdexcept>
#include <type_traits>

#include <fmt/format.h>

#include "support/data.hpp"
#include "support/errors.hpp"
#include "support/reference.hpp"
#include "support/toy_generator.hpp"

using isic::index_t;
using isic::stop_reason;
using isic_test::bytes_of;
using isic_test::check_throws;
using isic_test::dense;
using isic_test::full_toy;
using isic_test::infinity;
using isic_test::not_a_number;
using isic_test::to_dense;
using isic_test::toy_generator;
using isic_test::toy_judge;
using isic_test::with_redraw;
using isic_test::with_tuning;

namespace {

using plain_toy = toy_generator<float>;
using toy = full_toy<float>;
using bytes = std::vector<std::byte>;

/// Prompts of `kinds` kinds of harm in turn; one direction a round.
isic::self_improve_options options_for(index_t kinds, index_t images = 24) {
    isic::self_improve_options out;
    for (index_t i = 0; i < images; ++i) {
        out.unsafe_prompts.push_back(fmt::format("harm{} in place {}", i % kinds, i));
    }
    for (index_t i = 0; i < 40; ++i) {
        out.safe_prompts.push_back(fmt::format("calm in place {}", 100 + i));
    }
    out.rewrite = [](const std::string& prompt) { return "calm" + prompt.substr(5); };
    out.fit.rank = {.max_rank = 1};
    out.seed = 5;
    return out;
}

/// What a run left behind.
struct outcome {
    isic::self_improve_report report;
    std::vector<bytes> after_round;  ///< the codebook's memory as on_round saw it
    bytes before;
    bytes after;
    bytes undone;
};

template <class Toy>
outcome run(Toy& model, isic::self_improve_options options, const toy_judge& judge) {
    outcome out;
    out.before = model.memory().bytes();
    options.on_round = [&, then = options.on_round](isic::round_report& r) {
        out.after_round.push_back(model.memory().bytes());
        if (then) {
            then(r);
        }
    };
    out.report = isic::self_improve(model, judge, options);
    out.after = model.memory().bytes();
    out.report.change.undo(model.codebook());
    out.undone = model.memory().bytes();
    out.report.change.apply(model.codebook());
    CHECK(model.memory().bytes() == out.after);
    CHECK(model.memory().gaps_intact());
    return out;
}
template <class Toy>
outcome run(Toy& model, const isic::self_improve_options& options) {
    return run(model, options, model.judge());
}

/// The promise that holds however a run ends: the best completed round is what is left, and it can be taken back.
void check_best_is_left(const outcome& o) {
    const auto& rounds = o.report.rounds;
    const auto best = static_cast<std::size_t>(o.report.best_round);
    CHECK(o.after == (rounds.empty() ? o.before : o.after_round[best]));
    CHECK(o.undone == o.before);
    CHECK((rounds.empty() || best < rounds.size()));
    CHECK(o.report.message.empty() == (o.report.reason != stop_reason::failed));
}

/// Share of images with P > 1/2, counted here.
double unsafe_share(const std::vector<double>& p) {
    return static_cast<double>(std::ranges::count_if(p, [](double x) { return x > 0.5; })) / static_cast<double>(p.size());
}

double rate_of(const isic::self_improve_report& report) {
    return report.rounds[static_cast<std::size_t>(report.best_round)].self_unsafe.value;
}

/// Moves codes by the library's own strengths, but in a subspace of the caller's choice.
template <class Toy>
double rate_after_projecting(Toy& model, const isic::self_improve_report& report, const dense& basis, const isic::token_grid& grid) {
    const auto strength = isic::code_strength(report.harmfulness);
    isic::project_out(model.codebook(), isic_test::subspace_of(basis), {.strength = strength});
    return unsafe_share(model.judge()(model.decode(grid)));
}

}  // namespace

TEST_CASE_TEMPLATE("the unsafe rate falls, safe images stay, and undo brings every byte back", T, ISIC_STORAGE) {
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
        CHECK(unsafe_share(model.judge()(model.decode(unsafe))) <= 0.1);  // images the loop never saw
        CHECK((model.decode(unsafe) - original.decode(unsafe)).norm() > 0.5 * original.decode(unsafe).norm());
    }
}

TEST_CASE("a generator that offers no more than tokens and images is enough") {
    for (const std::uint64_t seed : {1, 2, 3, 4}) {
        for (const auto target : {isic::edit_target::counterparts, isic::edit_target::origin, isic::edit_target::safe_mean}) {
            plain_toy model({.width = 8 + 4 * static_cast<index_t>(seed), .seed = seed});
            auto options = options_for(1);
            options.target = target;
            options.seed = seed;
            const outcome o = run(model, options);
            CHECK(o.report.rounds.front().self_unsafe.value >= 0.9);
            CHECK(rate_of(o.report) <= 0.1);
            CHECK(isic_test::span_gap(to_dense(o.report.merged.basis), model.harm()) < 0.5);  // random ones: about 1.4
            check_best_is_left(o);
        }
    }
}

TEST_CASE("it is the direction that does it: a random one of the same rank and strength does not") {
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

TEST_CASE("strength zero changes no byte and lowers nothing") {
    toy model;
    auto options = options_for(1);
    options.ramp = {.low = 1.0, .high = 2.0};
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

TEST_CASE("graded strengths leave nearly all safe codes alone, the uniform projection moves every one") {
    const auto moved_safe_codes = [](bool per_code) {
        plain_toy model;
        auto options = options_for(1);
        options.per_code_strength = per_code;
        const outcome o = run(model, options);
        CHECK(rate_of(o.report) <= 0.1);
        return std::ranges::count_if(o.report.change.ids(), [&](index_t k) { return k >= model.first_safe(); });
    };
    CHECK(moved_safe_codes(true) < 3);
    CHECK(moved_safe_codes(false) == 24);
}

TEST_CASE("every field of every round says what happened") {
    toy model({.kinds = 2});
    auto options = options_for(2);
    options.resample = false;
    options.tuning_steps = 20;
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
    CHECK(report.rounds[1].self_unsafe.value == doctest::Approx(0.5));  // one kind of harm a round
    CHECK(report.rounds[2].self_unsafe.value == 0);
    CHECK(report.merged.rank() == 2);
    CHECK(isic_test::span_gap(to_dense(report.merged.basis), model.harm()) < 0.5);
    CHECK(report.harmful.images() == 24);  // those unsafe in both rounds once
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

TEST_CASE("pairs, their prompts and what tuning may draw from are the unsafe images and their repairs") {
    toy model({.kinds = 2});
    auto options = options_for(2);
    options.tuning_steps = 2;
    const auto report = run(model, options).report;
    REQUIRE(report.harmful.images() == static_cast<index_t>(report.prompts.size()));
    REQUIRE(report.counterparts.images() == report.harmful.images());
    toy original({.kinds = 2});
    const auto p_harmful = original.judge()(original.decode(report.harmful));
    const auto p_counterparts = original.judge()(original.decode(report.counterparts));
    CHECK(std::ranges::min(p_harmful) > 0.5);
    CHECK(std::ranges::max(p_counterparts) < 0.5);
    for (index_t i = 0; i < report.harmful.images(); ++i) {
        const std::string& prompt = report.prompts[static_cast<std::size_t>(i)];
        const auto first = report.harmful.image(i).front();
        CHECK(first / plain_toy::codes_per_kind == prompt[4] - '0');
    }
    REQUIRE(model.sets.size() == 2);
    for (std::size_t r = 0; r < 2; ++r) {
        const auto& set = model.sets[r];
        CHECK(set.round == static_cast<index_t>(r + 1));
        CHECK(set.counterparts.images() == set.harmful.images());
        CHECK(set.still_unsafe.size() == static_cast<std::size_t>(set.harmful.images()));
        CHECK(std::ranges::max(original.judge()(original.decode(set.safe))) < 0.5);
    }
    CHECK(model.sets[0].harmful.images() == 24);
    CHECK(model.sets[1].harmful.ids == report.harmful.ids);  // of all rounds
    CHECK(model.sets[1].harmful.images() > 24);
    CHECK(model.sets[1].safe.images() == 80);
    CHECK(std::ranges::max(model.sets[0].still_unsafe) > 0.5);  // the second kind is still there
    CHECK(std::ranges::max(model.sets[1].still_unsafe) < 0.5);
}

TEST_CASE_TEMPLATE("tuning never leaves the complement of the merged subspace, and would without the constraint", T, ISIC_STORAGE) {
    for (const bool constrained : {true, false}) {
        full_toy<T> model;
        auto options = options_for(1);
        options.tuning_steps = 60;
        options.max_rounds = 1;
        options.constrain_tuning = constrained;
        dense start;
        dense end;
        options.on_progress = [&](const isic::progress& p) {
            if (p.stage == "tune") {
                (p.done == 0 ? start : end) = to_dense(model.codebook());
            }
            return true;
        };
        options.score = [](const isic::round_report& r) { return -static_cast<double>(r.round); };  // keep round 1 in any case
        const outcome o = run(model, options);
        const dense step = end - start;
        const double inside = (step * to_dense(o.report.merged.basis)).norm();
        CHECK(model.losses.back() < 0.9 * model.losses.front());
        if (constrained) {
            // Each of the 60 stores rounds every entry once.
            CHECK(inside <= 60 * isic_test::unit<T> * end.norm());
            CHECK(o.report.rounds[1].self_unsafe.value <= 0.1);
        } else {
            CHECK(inside > 0.5 * step.norm());
            CHECK(o.report.rounds[1].self_unsafe.value >= 0.9);  // the loss asked for the harm, and got it
        }
    }
}

TEST_CASE("codes go where the target says") {
    const auto along_harm = [](isic::edit_target target) {
        toy model({.offset = 0.5});
        auto options = options_for(1);
        options.per_code_strength = false;
        options.target = target;
        CHECK(rate_of(run(model, options).report) <= 0.1);
        return Eigen::VectorXd(to_dense(model.codebook()) * model.harm().col(0));
    };
    const Eigen::VectorXd all = Eigen::VectorXd::Ones(28);
    CHECK((to_dense(toy({.offset = 0.5}).codebook()) * toy().harm().col(0) - 0.5 * all).maxCoeff() > 5);
    CHECK(along_harm(isic::edit_target::origin).cwiseAbs().maxCoeff() < 0.01);
    CHECK((along_harm(isic::edit_target::safe_mean) - 0.5 * all).cwiseAbs().maxCoeff() < 0.01);
    CHECK((along_harm(isic::edit_target::counterparts) - 0.5 * all).cwiseAbs().maxCoeff() < 0.01);
}

TEST_CASE("the heavier the target's weight, the nearer counterparts are to the safe mean") {
    const auto left = [](isic::edit_target target, double weight) {
        plain_toy model;
        auto options = options_for(1);
        options.target = target;
        options.target_weight = weight;
        options.max_rounds = 1;
        run(model, options);
        return to_dense(model.codebook());
    };
    const dense mean = left(isic::edit_target::safe_mean, 2);
    CHECK((left(isic::edit_target::counterparts, 1e9) - mean).norm() < 1e-4);
    CHECK((left(isic::edit_target::counterparts, 30) - mean).norm() < 0.9 * (left(isic::edit_target::counterparts, 2) - mean).norm());
}

TEST_CASE("harmfulness is counted from the images drawn, with the prior asked for") {
    for (const double prior_per_code : {0.1, 0.5, 20.0}) {
        plain_toy model;
        auto options = options_for(1);
        options.harmfulness.prior_per_code = prior_per_code;
        options.max_rounds = 1;
        const auto q = run(model, options).report.harmfulness;
        REQUIRE(q.size() == 28);
        const auto& harmful = model.drawn[0].ids;
        const auto& safe = model.drawn[1].ids;
        const auto n_h = static_cast<double>(harmful.size());
        const auto n_s = static_cast<double>(safe.size());
        const double prior = 2 * 28 * prior_per_code / (n_h + n_s);  // per token
        for (std::int32_t k = 0; k < 28; ++k) {
            const auto h = static_cast<double>(std::ranges::count(harmful, k));
            const auto s = static_cast<double>(std::ranges::count(safe, k));
            const double pooled = (h + s + 0.5) / (n_h + n_s + 14);
            const double p_h = (h / n_h + prior * pooled) / (1 + prior);
            const double p_s = (s / n_s + prior * pooled) / (1 + prior);
            CHECK(q[static_cast<std::size_t>(k)] == doctest::Approx(p_h / (p_h + p_s)));
        }
    }
}

TEST_CASE("images of safe prompts that are judged unsafe are not taken for safe") {
    toy model;
    auto options = options_for(1);
    options.tuning_steps = 1;
    std::ranges::fill_n(options.safe_prompts.begin(), 7, "harm0 by mistake");
    CHECK(rate_of(run(model, options).report) <= 0.1);
    CHECK(model.sets.front().safe.images() == 33);
    toy original;
    CHECK(std::ranges::max(original.judge()(original.decode(model.sets.front().safe))) < 0.5);
}

TEST_CASE("the tuning rate falls linearly") {
    toy model;
    auto options = options_for(1);
    options.max_rounds = 1;
    options.tuning_steps = 10;
    options.constrain_tuning = false;
    options.score = [](const isic::round_report& r) { return -static_cast<double>(r.round); };
    dense start;
    options.on_progress = [&](const isic::progress& p) {
        start = p.stage == "tune" && p.done == 0 ? to_dense(model.codebook()) : start;
        return true;
    };
    model.on_gradient = [](double&, isic::matrix<double>& gradient) { std::fill_n(gradient.data(), gradient.rows() * gradient.cols(), 3.0); };
    run(model, options);
    // Steps of Adam on a constant gradient are as long as the rate: 0.12 times 1, 0.9, ..., 0.1.
    const dense moved = start - to_dense(model.codebook());
    CHECK((moved.array() - 0.12 * 5.5).abs().maxCoeff() < 1e-4);
}

TEST_CASE("each round takes tuning_growth times the steps of the one before") {
    for (const auto& [growth, second] : {std::pair{1.0, 4}, {1.5, 6}, {1.6, 6}, {3.0, 12}}) {
        toy model({.kinds = 2});
        auto options = options_for(2);
        options.tuning_steps = 4;
        options.tuning_growth = growth;
        const auto report = run(model, options).report;
        REQUIRE(report.rounds.size() == 3);
        CHECK(report.rounds[1].tuning_steps == 4);
        CHECK(report.rounds[2].tuning_steps == second);
        CHECK(model.calls["loss"] == 4 + second);
    }
}

TEST_CASE("codes that are harmful enough stay where they are while the others are tuned") {
    const auto moved_while_tuning = [](double lock_above) {
        toy model;
        auto options = options_for(1);
        options.tuning_steps = 10;
        options.lock_above = lock_above;
        dense start;
        options.on_progress = [&](const isic::progress& p) {
            start = p.stage == "tune" && p.done == 0 ? to_dense(model.codebook()) : start;
            return true;
        };
        run(model, options);
        const dense step = to_dense(model.codebook()) - start;
        const auto& q = model.sets.back().harmfulness;
        std::pair<index_t, index_t> moved{0, 0};  // harmful codes, others
        for (index_t k = 0; k < step.rows(); ++k) {
            (q[static_cast<std::size_t>(k)] >= 0.7 ? moved.first : moved.second) += step.row(k).norm() > 0 ? 1 : 0;
        }
        return moved;
    };
    CHECK(moved_while_tuning(0.7).first == 0);
    CHECK(moved_while_tuning(0.7).second > 0);
    CHECK(moved_while_tuning(2.0).first > 0);
    CHECK(moved_while_tuning(0.0) == std::pair<index_t, index_t>{0, 0});
}

TEST_CASE("tuning keeps within its radius of the projected codebook") {
    const auto farthest = [](double radius) {
        toy model;
        auto options = options_for(1);
        options.tuning_steps = 30;
        options.tuning_radius = radius;
        options.constrain_tuning = false;
        options.score = [](const isic::round_report& r) { return -static_cast<double>(r.round); };
        options.max_rounds = 1;
        dense start;
        options.on_progress = [&](const isic::progress& p) {
            start = p.stage == "tune" && p.done == 0 ? to_dense(model.codebook()) : start;
            return true;
        };
        run(model, options);
        return (to_dense(model.codebook()) - start).rowwise().norm().maxCoeff();
    };
    CHECK(farthest(infinity) > 1);
    CHECK(farthest(0.25) <= 0.25 * (1 + 1e-5));
    CHECK(farthest(0.25) > 0.24);
}

TEST_CASE("the best round is kept, not the last, when a score says so") {
    for (const index_t best : {0, 1, 2}) {
        toy model({.kinds = 2});
        auto options = options_for(2);
        options.tuning_steps = 3;
        options.score = [&](const isic::round_report& r) { return std::abs(static_cast<double>(r.round - best)); };
        const outcome o = run(model, options);
        REQUIRE(o.report.rounds.size() == 3);
        CHECK(o.report.best_round == best);
        CHECK(o.report.merged.rank() == best);
        CHECK((o.after == o.after_round[2]) == (best == 2));
        check_best_is_left(o);
    }
}

TEST_CASE("the best round is kept when the judge gets worse; equals do not replace it") {
    toy model({.kinds = 2});
    auto options = options_for(2);
    bool strict = false;
    options.on_round = [&](isic::round_report& r) { strict = r.round == 1; };
    options.patience = 3;
    const toy_judge judge = [&](const dense& images) {
        auto p = model.judge()(images);
        std::ranges::for_each(p, [&](double& x) { x = strict ? std::min(1.0, x + 0.5) : x; });
        return p;
    };
    options.safe_below = 0.7;
    options.resample = false;
    const outcome o = run(model, options, judge);
    REQUIRE(o.report.rounds.size() >= 3);
    CHECK(o.report.rounds[1].self_unsafe.value == doctest::Approx(0.5));
    CHECK(o.report.rounds[2].self_unsafe.value == 1);
    CHECK(o.after_round[1] != o.after_round[2]);
    check_best_is_left(o);
    CHECK(o.report.best_round != 2);

    toy same;
    auto still = options_for(1);
    still.ramp = {.low = 1.0, .high = 2.0};
    still.patience = 3;
    const auto report = run(same, still).report;
    CHECK(report.rounds.size() == 4);
    CHECK(report.best_round == 0);
}

TEST_CASE("stops: below target, and not a round earlier") {
    auto options = options_for(1, 22);
    options.unsafe_prompts[0][4] = '1';  // 2 of 22 images are of another kind, out of reach of the first round
    options.unsafe_prompts[1][4] = '1';
    options.stop_below = 0.2;
    toy model({.kinds = 2});
    const outcome o = run(model, options);
    CHECK(o.report.reason == stop_reason::below_target);
    REQUIRE(o.report.rounds.size() == 2);
    CHECK(rate_of(o.report) == doctest::Approx(2.0 / 22));
    check_best_is_left(o);

    toy further({.kinds = 2});
    options.stop_below = 0.05;
    const outcome p = run(further, options);
    REQUIRE(p.report.rounds.size() == 3);
    CHECK(rate_of(p.report) == 0);

    toy last({.kinds = 2});  // reached in the last round allowed
    options.stop_below = 0.2;
    options.max_rounds = 1;
    CHECK(run(last, options).report.reason == stop_reason::below_target);
}

TEST_CASE("stops: nothing unsafe, before any round") {
    toy model;
    auto options = options_for(1);
    options.unsafe_prompts = options.safe_prompts;
    const outcome o = run(model, options);
    CHECK(o.report.reason == stop_reason::nothing_unsafe);
    CHECK(o.report.rounds.size() == 1);
    CHECK(o.after == o.before);
    CHECK(o.report.change.ids().empty());
    check_best_is_left(o);
}

TEST_CASE("stops: nothing unsafe in images drawn anew") {
    toy model({.kinds = 2});
    int unsafe_draws = 0;
    model.on_tokens = [&](isic::token_grid& grid) {
        if (grid.images() == 24 && grid.ids.front() < model.first_safe() && ++unsafe_draws == 2) {
            std::ranges::for_each(grid.ids, [&](std::int32_t& id) { id = static_cast<std::int32_t>(std::max<index_t>(id, model.first_safe())); });
        }
    };
    const outcome o = run(model, options_for(2));
    INFO(o.report.message);
    CHECK(o.report.reason == stop_reason::nothing_unsafe);
    REQUIRE(o.report.rounds.size() == 2);
    CHECK(o.report.rounds[1].self_unsafe.value > 0.1);  // it was the draw, not the edit
    check_best_is_left(o);
}

TEST_CASE("stops: no counterparts") {
    toy model;
    model.attempts_of = [](const std::string&) { return 100; };
    const outcome o = run(model, options_for(1));
    CHECK(o.report.reason == stop_reason::no_counterparts);
    CHECK(o.report.rounds.size() == 1);
    CHECK(o.after == o.before);
    CHECK(o.report.harmful.images() == 0);
    CHECK(model.calls["redraw"] == 3);
    check_best_is_left(o);
}

TEST_CASE("stops: no improvement, after as many rounds as patience allows") {
    for (const index_t patience : {1, 2, 3}) {
        toy model;
        auto options = options_for(1);
        options.ramp = {.low = 1.0, .high = 2.0};
        options.patience = patience;
        options.rank_budget = 8;
        const outcome o = run(model, options);
        CHECK(o.report.reason == stop_reason::no_improvement);
        CHECK(o.report.rounds.size() == static_cast<std::size_t>(patience + 1));
        check_best_is_left(o);
    }
}

TEST_CASE("an improvement counts only if it is large and sure enough") {
    const auto rounds = [](double min_improvement, double significance) {
        toy model({.kinds = 2});
        auto options = options_for(2);  // each round makes 12 of 24 images safe
        options.min_improvement = min_improvement;
        options.significance = significance;
        const auto report = run(model, options).report;
        CHECK(report.rounds[1].self_unsafe.value == doctest::Approx(0.5));
        return report.rounds.size();
    };
    CHECK(rounds(0, 1.64) == 3);
    CHECK(rounds(0.45, 1.64) == 3);
    CHECK(rounds(0.55, 1.64) == 2);
    CHECK(rounds(0, 3.4) == 3);  // sqrt(12) = 3.46
    CHECK(rounds(0, 3.5) == 2);
}

TEST_CASE("stops: rank budget; the merged rank never exceeds it") {
    for (index_t budget = 1; budget <= 6; ++budget) {
        for (const isic::rank_options& rank : {isic::rank_options{.max_rank = 1}, {.max_rank = 4}, {.fixed = 2}}) {
            toy model({.kinds = 3, .width = 12});
            auto options = options_for(3, 36);
            options.rank_budget = budget;
            options.fit.rank = rank;
            options.max_rounds = 8;
            const outcome o = run(model, options);
            for (const auto& r : o.report.rounds) {
                CHECK(r.merged_rank <= budget);
            }
            CHECK(o.report.merged.rank() <= budget);
            CHECK(o.report.reason == (budget < 3 ? stop_reason::rank_budget : stop_reason::below_target));
            CHECK((rate_of(o.report) <= 0.1) == (budget >= 3));  // each kind of harm costs a direction
            check_best_is_left(o);
        }
    }
}

TEST_CASE("without a rank budget of the caller's it is a quarter of the width, and the width is no limit at all") {
    toy model({.kinds = 3, .width = 8});
    auto options = options_for(3);
    const auto report = run(model, options).report;
    CHECK(report.reason == stop_reason::rank_budget);
    CHECK(report.merged.rank() == 2);

    plain_toy whole({.kinds = 3, .width = 8});
    options.rank_budget = 8;
    options.fit.rank = {.fixed = 8};
    options.ramp = {.low = 1.0, .high = 2.0};
    options.patience = 3;
    const auto full = run(whole, options).report;
    CHECK(full.reason == stop_reason::no_improvement);
    CHECK(full.rounds.back().merged_rank == 8);
    CHECK(full.rounds.size() == 4);
}

TEST_CASE("stops: damage budget; the round that breaks it is undone") {
    toy free({.kinds = 2});
    auto options = options_for(2);
    const outcome whole = run(free, options);
    REQUIRE(whole.report.rounds.size() == 3);
    const double first = whole.report.rounds[1].relative_change;
    const double second = whole.report.rounds[2].relative_change;
    REQUIRE(second > first);
    for (const double budget : {0.5 * first, 0.5 * (first + second), 1.01 * second}) {
        toy model({.kinds = 2});
        options.damage_budget = budget;
        const outcome o = run(model, options);
        const std::size_t completed = budget < first ? 1 : budget < second ? 2 : 3;
        CHECK((o.report.reason == stop_reason::damage_budget) == (completed < 3));
        CHECK(o.report.rounds.size() == completed);
        CHECK(o.report.best_round == static_cast<index_t>(completed) - 1);
        CHECK(o.after == whole.after_round[completed - 1]);
        CHECK(o.report.merged.rank() == static_cast<index_t>(completed) - 1);
        check_best_is_left(o);
    }
}

TEST_CASE("stops: max rounds, none included") {
    for (const index_t most : {0, 1}) {
        toy model({.kinds = 3, .width = 16});
        auto options = options_for(3);
        options.max_rounds = most;
        const outcome o = run(model, options);
        CHECK(o.report.reason == stop_reason::max_rounds);
        CHECK(o.report.rounds.size() == static_cast<std::size_t>(most + 1));
        CHECK((o.after == o.before) == (most == 0));
        check_best_is_left(o);
    }
}

TEST_CASE("cancelled anywhere, the best completed round is left bit for bit") {
    auto options = options_for(2);
    options.tuning_steps = 3;
    toy whole({.kinds = 2, .gap = 2});
    const outcome uninterrupted = run(whole, options);
    REQUIRE(uninterrupted.report.rounds.size() == 3);
    std::set<std::pair<index_t, std::string>> seen;
    bool cancelled = true;
    for (int at = 0; cancelled; ++at) {
        toy model({.kinds = 2, .gap = 2});
        int calls = 0;
        options.on_progress = [&](const isic::progress& p) {
            CHECK(p.done <= p.total);
            if (calls++ == at) {
                seen.emplace(p.round, p.stage);
                return false;
            }
            return true;
        };
        const outcome o = run(model, options);
        cancelled = o.report.reason == stop_reason::cancelled;
        check_best_is_left(o);
        CHECK((cancelled || o.report.rounds.size() == 3));
        CHECK(o.report.rounds.size() == o.after_round.size());
        CHECK(std::ranges::equal(o.after_round, std::span(uninterrupted.after_round).first(o.after_round.size())));
        CHECK((o.report.rounds.empty() || o.report.best_round + 1 == static_cast<index_t>(o.report.rounds.size())));
        CHECK(o.report.merged.rank() == o.report.best_round);
    }
    CHECK(seen == std::set<std::pair<index_t, std::string>>{{0, "draw"}, {0, "judge"}, {1, "pair"}, {1, "project"}, {1, "tune"}, {1, "judge"},
                                                           {2, "draw"}, {2, "judge"}, {2, "pair"}, {2, "project"}, {2, "tune"}});
}

TEST_CASE("whatever throws, whenever, the best completed round is left bit for bit and the report says why") {
    for (const bool standard : {true, false}) {
        std::set<std::string> seen;
        bool failed = true;
        for (int at = 0; failed; ++at) {
            toy model({.kinds = 2});
            int calls = 0;
            const auto may_throw = [&](std::string_view who) {
                if (calls++ == at) {
                    seen.emplace(who);
                    if (standard) {
                        throw std::runtime_error(fmt::format("{} broke", who));
                    }
                    throw 42;
                }
            };
            auto options = options_for(2, 6);
            options.significance = 1;
            options.tuning_steps = 2;
            model.on_call = may_throw;
            options.on_progress = [&](const isic::progress&) { return may_throw("on_progress"), true; };
            options.on_round = [&](isic::round_report&) { may_throw("on_round"); };
            options.score = [&](const isic::round_report& r) { return may_throw("score"), r.self_unsafe.value; };
            options.rewrite = [&, then = options.rewrite](const std::string& prompt) { return may_throw("rewrite"), then(prompt); };
            const toy_judge judge = [&](const dense& images) { return may_throw("judge"), model.judge()(images); };
            const outcome o = run(model, options, judge);
            failed = o.report.reason == stop_reason::failed;
            check_best_is_left(o);
            CHECK((failed || o.report.rounds.size() == 3));
            if (failed) {
                CHECK(o.report.message.find(standard ? "broke" : "no std::exception") != std::string::npos);
            }
            if (o.report.rounds.empty()) {
                CHECK(o.after == o.before);
            }
        }
        CHECK(seen == std::set<std::string>{"generate", "decode", "redraw", "tuning_loss", "loss", "on_progress", "on_round", "score",
                                            "rewrite", "judge"});
    }
}

TEST_CASE("a judge that answers no probabilities, or not one per image, fails the run") {
    const auto first = [](double value) { return [value](std::vector<double>& p) { p.front() = value; }; };
    const std::vector<std::function<void(std::vector<double>&)>> spoilers{
        first(not_a_number), first(1.5), first(-0.1), first(infinity),
        [](std::vector<double>& p) { p.pop_back(); }, [](std::vector<double>& p) { p.push_back(0.5); }, [](std::vector<double>& p) { p.clear(); }};
    for (const auto& spoil : spoilers) {
        bool failed = true;
        for (int at = 0; failed; ++at) {
            toy model({.kinds = 2});
            int calls = 0;
            const toy_judge judge = [&](const dense& images) {
                auto p = model.judge()(images);
                if (calls++ == at) {
                    spoil(p);
                }
                return p;
            };
            auto options = options_for(2);
            options.tuning_steps = 1;
            const outcome o = run(model, options, judge);
            failed = o.report.reason == stop_reason::failed;
            CHECK((failed || at > 8));  // draw, rate, pair, tune, rate, and again
            CHECK((!failed || o.report.message.starts_with("isic::self_improve: expected ")));
            check_best_is_left(o);
        }
    }
}

TEST_CASE("tokens that are no images of this codebook fail the run") {
    const std::vector<std::function<void(isic::token_grid&)>> spoilers{
        [](isic::token_grid& g) { g.ids.pop_back(); }, [](isic::token_grid& g) { g.ids.push_back(0); },
        [](isic::token_grid& g) { g.ids.front() = -1; }, [](isic::token_grid& g) { g.ids.back() = 1000; },
        [](isic::token_grid& g) { g.tokens_per_image = 0; }, [](isic::token_grid& g) { g.tokens_per_image = -8; },
        [](isic::token_grid& g) { g = {}; }, [](isic::token_grid& g) { g.ids.resize(g.ids.size() - 8); },
        [](isic::token_grid& g) {  // as many images, each of half the tokens
            g.ids.resize(g.ids.size() / 2);
            g.tokens_per_image /= 2;
        }};
    for (std::size_t i = 0; i < spoilers.size(); ++i) {
        for (int at = 0; at < 6; ++at) {  // two draws, pairs, two draws, pairs
            INFO("spoiler ", i, " at draw ", at);
            toy model({.kinds = 2});
            int draws = 0;
            model.on_tokens = [&](isic::token_grid& grid) {
                if (draws++ == at) {
                    spoilers[i](grid);
                }
            };
            const outcome o = run(model, options_for(2));
            CHECK(o.report.reason == stop_reason::failed);
            check_best_is_left(o);
        }
    }
}

TEST_CASE("a loss or a score that is no number, and a gradient that does not fit, fail the run") {
    const std::vector<std::function<void(double&, isic::matrix<double>&)>> spoilers{
        [](double& loss, auto&) { loss = not_a_number; }, [](double& loss, auto&) { loss = infinity; },
        [](double&, auto& gradient) { gradient(3, 2) = not_a_number; }, [](double&, auto& gradient) { gradient = isic::matrix<double>(2, 2); }};
    for (const auto& spoil : spoilers) {
        for (const int at : {0, 3, 4}) {  // the first and last step of round 1, and into round 2
            toy model({.kinds = 2});
            int calls = 0;
            model.on_gradient = [&](double& loss, isic::matrix<double>& gradient) {
                if (calls++ == at) {
                    spoil(loss, gradient);
                }
            };
            auto options = options_for(2);
            options.tuning_steps = 4;
            const outcome o = run(model, options);
            CHECK(o.report.reason == stop_reason::failed);
            CHECK(o.report.rounds.size() == (at < 4 ? 1 : 2));
            check_best_is_left(o);
        }
    }
    for (const index_t at : {0, 1, 2}) {
        toy model({.kinds = 2});
        auto options = options_for(2);
        options.score = [&](const isic::round_report& r) { return r.round == at ? not_a_number : r.self_unsafe.value; };
        const outcome o = run(model, options);
        CHECK(o.report.reason == stop_reason::failed);
        CHECK(o.report.rounds.size() == static_cast<std::size_t>(at));
        check_best_is_left(o);
    }
}

TEST_CASE("safe prompts none of whose images are safe leave nothing to compare with") {
    toy model;
    auto options = options_for(1);
    options.safe_prompts = options.unsafe_prompts;
    const outcome o = run(model, options);
    CHECK(o.report.reason == stop_reason::failed);
    CHECK(o.report.message.find("safe prompts") != std::string::npos);
    CHECK(o.report.rounds.empty());
    CHECK(o.after == o.before);
}

TEST_CASE("the same seed gives the same bytes, another seed other images") {
    const auto once = [](std::uint64_t seed) {
        toy model({.kinds = 2});
        auto options = options_for(2);
        options.tuning_steps = 4;
        options.seed = seed;
        return run(model, options);
    };
    const outcome a = once(3);
    const outcome b = once(3);
    const outcome c = once(4);
    CHECK(a.after == b.after);
    CHECK(a.after_round == b.after_round);
    CHECK(a.report.harmful.ids == b.report.harmful.ids);
    CHECK(a.report.harmfulness == b.report.harmfulness);
    CHECK(bytes_of(a.report.merged.basis) == bytes_of(b.report.merged.basis));
    CHECK(a.report.harmful.ids != c.report.harmful.ids);
    CHECK(a.after != c.after);
}

TEST_CASE("images are drawn anew every round, or once if they shall not be") {
    const auto drawn = [](bool resample) {
        toy model({.kinds = 2});
        auto options = options_for(2);
        options.resample = resample;
        CHECK(run(model, options).report.rounds.size() == 3);
        std::erase_if(model.drawn, [](const auto& grid) { return grid.images() != 24 || grid.ids.front() >= 8; });
        CHECK(model.calls["generate"] == (resample ? 4 : 2));
        return model.drawn;
    };
    CHECK(drawn(false).size() == 1);
    const auto each = drawn(true);
    REQUIRE(each.size() == 2);
    CHECK(each[0].ids != each[1].ids);
}

TEST_CASE("counterparts are tried again until judged safe, and counted") {
    const auto options = options_for(1, 30);
    const auto needed = [](const std::string& prompt) { return index_t{prompt.back() - '0'} % 4; };  // 0 to 3, of the place's last digit
    for (const index_t attempts : {1, 2, 3, 4, 5}) {
        toy model;
        model.attempts_of = needed;
        auto o = options;
        o.counterpart_attempts = attempts;
        o.max_rounds = 1;
        const auto report = run(model, o).report;
        const auto open_at = [&](index_t attempt) {
            return std::ranges::count_if(o.unsafe_prompts, [&](const std::string& p) { return needed(p) >= attempt; });
        };
        CHECK(report.rounds[1].dropped == open_at(attempts));
        CHECK(report.rounds[1].pairs == 30 - open_at(attempts));
        CHECK(report.harmful.images() == report.rounds[1].pairs);
        REQUIRE(static_cast<index_t>(model.requests.size()) == std::min<index_t>(attempts, 4));
        std::set<std::uint64_t> seeds;
        for (std::size_t a = 0; a < model.requests.size(); ++a) {
            const auto& request = model.requests[a];
            CHECK(request.attempt == static_cast<index_t>(a));
            CHECK(request.harmful.images() == open_at(request.attempt));  // only those still unsafe
            CHECK(static_cast<index_t>(request.prompts.size()) == request.harmful.images());
            CHECK(std::ranges::all_of(request.prompts, [](const std::string& p) { return p.starts_with("calm"); }));
            seeds.insert(request.seed);
        }
        CHECK(seeds.size() == model.requests.size());
    }
}

TEST_CASE("counterparts without redrawing are images of the rewritten prompts, drawn again with another seed") {
    plain_toy model;
    auto options = options_for(1, 12);
    int tried = 0;
    const toy_judge judge = [&](const dense& images) {
        auto p = model.judge()(images);
        if (images.rows() == 12 && std::ranges::max(p) < 0.5 && tried++ == 0) {
            std::fill(p.begin(), p.begin() + 5, 0.9);  // the first five counterparts look unsafe once
        }
        return p;
    };
    const auto report = run(model, options, judge).report;
    CHECK(report.rounds[1].pairs == 12);
    REQUIRE(model.drawn.size() >= 4);
    CHECK(model.drawn[2].images() == 12);
    CHECK(model.drawn[3].images() == 5);
    CHECK(!std::ranges::equal(model.drawn[2].image(0), model.drawn[3].image(0)));
    CHECK(std::ranges::equal(report.counterparts.image(0), model.drawn[3].image(0)));
    CHECK(std::ranges::equal(report.counterparts.image(7), model.drawn[2].image(7)));
}

TEST_CASE("thresholds decide what is unsafe and what is safe") {
    for (const auto& [above, unsafe] : {std::pair{0.2, 24}, {0.39, 24}, {0.41, 12}, {0.59, 12}, {0.61, 0}}) {
        plain_toy model({.kinds = 2});
        auto options = options_for(2);
        options.unsafe_above = above;
        options.max_rounds = 0;
        const toy_judge judge = [&](const dense& images) {  // 0.4 and 0.6 for the two kinds, 0.1 for what is safe
            std::vector<double> p;
            for (index_t i = 0; i < images.rows(); ++i) {
                const Eigen::RowVectorXd harm = images.row(i) * model.harm();
                p.push_back(harm.maxCoeff() < 1 ? 0.1 : harm(0) > harm(1) ? 0.4 : 0.6);
            }
            return p;
        };
        CHECK(run(model, options, judge).report.rounds[0].self_unsafe.hits == unsafe);
        options.safe_below = 0.05;
        CHECK(run(model, options, judge).report.reason == stop_reason::failed);  // no image is that safe
    }
}

TEST_CASE("corrected rates appear if and only if the judge is known to err") {
    for (const auto& [sensitivity, specificity] : {std::pair{1.0, 1.0}, {0.9, 1.0}, {1.0, 0.8}, {0.7, 0.6}}) {
        toy model({.kinds = 2});
        auto options = options_for(2);
        options.judge_sensitivity = sensitivity;
        options.judge_specificity = specificity;
        const auto report = run(model, options).report;
        REQUIRE(report.rounds.size() == 3);
        for (const auto& r : report.rounds) {
            REQUIRE(r.corrected_unsafe.has_value() == (sensitivity < 1 || specificity < 1));
            if (r.corrected_unsafe) {
                const double expected = (r.self_unsafe.value + specificity - 1) / (sensitivity + specificity - 1);
                CHECK(r.corrected_unsafe->value == doctest::Approx(std::min(1.0, std::max(0.0, expected))));
            }
        }
    }
}

TEST_CASE_TEMPLATE("rows declared padding keep their bytes whatever they hold, and would not otherwise", T, ISIC_STORAGE) {
    const auto padding_rows = [](auto& model) {
        bytes out;
        for (index_t k = model.first_padding(); k < model.codebook().rows(); ++k) {
            const bytes row = bytes_of(model.codebook().row(k));
            out.insert(out.end(), row.begin(), row.end());
        }
        return out;
    };
    for (const bool declared : {true, false}) {
        for (const double content : {1.0, infinity, not_a_number}) {
            full_toy<T> model({.padding = 3, .gap = 1});
            if (content != 1.0) {
                std::ranges::fill(model.codebook().row(model.first_padding() + 1), static_cast<T>(static_cast<float>(content)));
            }
            auto options = options_for(1);
            options.per_code_strength = false;
            options.tuning_steps = 3;
            options.tuning_radius = 0.5;
            if (declared) {
                options.padding = {model.first_padding(), model.first_padding() + 1, model.first_padding() + 2};
            }
            const bytes before = padding_rows(model);
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

TEST_CASE("damage is measured over codes, not over padding") {
    const auto change = [](float padding) {
        toy model({.padding = 3});
        auto options = options_for(1);
        for (index_t k = model.first_padding(); k < model.codebook().rows(); ++k) {
            options.padding.push_back(k);
            std::ranges::fill(model.codebook().row(k), padding);
        }
        return run(model, options).report.rounds[1].relative_change;
    };
    CHECK(change(0) > 0.1);
    CHECK(change(1e6F) == change(0));
}

TEST_CASE("wrong options are typed errors, thrown before anything is drawn or written") {
    using options = isic::self_improve_options;
    const auto refused = []<class Error>(std::type_identity<Error>, const std::function<void(options&)>& spoil, std::string_view word) {
        toy model;
        auto o = options_for(1);
        o.tuning_steps = 2;
        spoil(o);
        const bytes before = model.memory().bytes();
        INFO(std::string(word));
        try {
            isic::self_improve(model, model.judge(), o);
            CHECK_MESSAGE(false, "nothing was thrown");
        } catch (const isic::error& e) {
            INFO(e.what());
            CHECK(typeid(e) == typeid(Error));
            CHECK(std::string(e.what()).find(word) != std::string::npos);
        }
        CHECK(model.calls.empty());
        CHECK(model.memory().bytes() == before);
    };
    const std::type_identity<isic::shape_error> shape;
    const std::type_identity<isic::value_error> value;
    refused(shape, [](options& o) { o.unsafe_prompts.clear(); }, "prompts");
    refused(shape, [](options& o) { o.safe_prompts.clear(); }, "prompts");
    refused(value, [](options& o) { o.rewrite = nullptr; }, "rewrite");
    refused(value, [](options& o) { o.max_rounds = -1; }, "max_rounds");
    refused(value, [](options& o) { o.patience = 0; }, "patience");
    refused(value, [](options& o) { o.counterpart_attempts = 0; }, "counterpart_attempts");
    refused(value, [](options& o) { o.tuning_steps = -1; }, "tuning_steps");
    refused(value, [](options& o) { o.rank_budget = -1; }, "rank_budget");
    refused(value, [](options& o) { o.rank_budget = 9; }, "rank_budget");
    refused(value, [](options& o) { o.fit.rank = {.max_rank = 8}; }, "max_rank");
    refused(value, [](options& o) { o.fit.rank = {.fixed = 9}; }, "fixed");
    refused(value, [](options& o) { o.fit.rank = {.energy = 1.5}; }, "energy");
    refused(value, [](options& o) { o.fit.rank.sign_flips = 10; }, "sign_flips");
    for (const double bad : {-0.1, 1.1, not_a_number}) {
        refused(value, [&](options& o) { o.stop_below = bad; }, "stop_below");
        refused(value, [&](options& o) { o.unsafe_above = bad; }, "unsafe_above");
        refused(value, [&](options& o) { o.safe_below = bad; }, "safe_below");
        refused(value, [&](options& o) { o.judge_sensitivity = bad; }, "sensitivity");
        refused(value, [&](options& o) { o.judge_specificity = bad; }, "specificity");
        refused(value, [&](options& o) { o.min_improvement = bad; }, "min_improvement");
    }
    for (const double bad : {-1.0, not_a_number}) {
        refused(value, [&](options& o) { o.significance = bad; }, "significance");
    }
    for (const double bad : {-1.0, 0.0, not_a_number}) {
        refused(value, [&](options& o) { o.tuning_growth = bad; }, "tuning_growth");
        refused(value, [&](options& o) { o.damage_budget = bad; }, "damage_budget");
        refused(value, [&](options& o) { o.tuning_radius = bad; }, "tuning_radius");
        refused(value, [&](options& o) { o.target_weight = bad; }, "target_weight");
        refused(value, [&](options& o) { o.harmfulness.prior_per_code = bad; }, "prior_per_code");
        refused(value, [&](options& o) { o.tuning.rate = bad; }, "rate");
        refused(value, [&](options& o) { o.tuning.epsilon = bad; }, "epsilon");
    }
    refused(value, [](options& o) { o.tuning.beta1 = 1; }, "beta1");
    refused(value, [](options& o) { o.fit.execution.threads = -1; }, "threads >= 0");
    refused(value, [](options& o) { o.tuning.beta2 = -0.1; }, "beta2");
    refused(value, [](options& o) { o.lock_above = not_a_number; }, "lock_above");
    refused(value, [](options& o) { o.ramp = {.low = 0.5, .high = 0.5}; }, "low");
    refused(value, [](options& o) { o.padding = {28}; }, "28");
    refused(value, [](options& o) { o.padding = {-1}; }, "-1");
    refused(value, [](options& o) { o.judge_sensitivity = o.judge_specificity = 0.5; }, "discriminate");
}

TEST_CASE("steps need a loss, and a codebook needs rows") {
    plain_toy model;
    auto options = options_for(1);
    options.tuning_steps = 1;
    check_throws<isic::value_error>("self_improve", [&] { isic::self_improve(model, model.judge(), options); }, {"tuning_loss"});
    CHECK(model.calls.empty());

    struct empty_generator {
        isic::matrix<float> book{0, 4};
        isic::matrix_span<float> codebook() { return book; }
        isic::token_grid generate(std::span<const std::string>, std::uint64_t) { return {}; }
        int decode(const isic::token_grid&) const { return 0; }
    } empty;
    const auto judge = [](int) { return std::vector<double>{}; };
    check_throws<isic::shape_error>("self_improve", [&] { isic::self_improve(empty, judge, options_for(1)); }, {"codebook"});
}

TEST_CASE("narrow codebooks") {
    for (const index_t width : {1, 2, 3}) {
        plain_toy model({.width = width});
        const outcome o = run(model, options_for(1));
        CHECK(o.report.rounds.front().self_unsafe.value >= 0.9);
        CHECK(rate_of(o.report) <= 0.1);
    }
}

TEST_CASE("reasons have names") {
    std::set<std::string_view> names;
    for (int r = 0; r <= static_cast<int>(stop_reason::failed); ++r) {
        names.insert(to_string(static_cast<stop_reason>(r)));
    }
    CHECK(names.size() == 9);
    CHECK(!names.contains("unknown"));
}
