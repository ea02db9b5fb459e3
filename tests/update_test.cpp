// SPDX-License-Identifier: Apache-2.0
#include <isic/update.hpp>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <tuple>
#include <type_traits>

#include <isic/codebook.hpp>

#include "support/data.hpp"
#include "support/errors.hpp"
#include "support/reference.hpp"

using isic::index_t;
using isic_test::bytes_of;
using isic_test::check_throws;
using isic_test::dense;
using isic_test::from_dense;
using isic_test::infinity;
using isic_test::leak;
using isic_test::not_a_number;
using isic_test::strided;
using isic_test::subspace_of;
using isic_test::to_dense;
using isic_test::unit;

namespace {

struct shape {
    index_t codes;
    index_t width;
    index_t rank;
};
constexpr shape update_shapes[] = {{1, 1, 0}, {3, 2, 1}, {7, 8, 2}, {40, 5, 4}, {12, 33, 8}};

/// Vectors near random codes and the codes they belong to; the last code gets none.
struct batch_data {
    isic::matrix<float> vectors;
    std::vector<std::int32_t> ids;
};

template <class T>
batch_data draw_batch(isic_test::random& dice, const isic::matrix<T>& codes, index_t n) {
    batch_data out{dice.matrix<float>(n, codes.cols()),
                   dice.ids<std::int32_t>(n, std::max<index_t>(1, codes.rows() - 1))};
    for (index_t i = 0; i < n; ++i) {
        for (index_t j = 0; j < codes.cols(); ++j) {
            out.vectors(i, j) += static_cast<float>(codes(out.ids[static_cast<std::size_t>(i)], j));
        }
    }
    return out;
}

/// What rounding to T may move an entry of a matrix of about this size by.
template <class T>
double rounding(const dense& m) {
    return (unit<T> + 1e-13) * (1 + m.cwiseAbs().maxCoeff());
}

double largest_difference(const dense& a, const dense& b) {
    return (a - b).cwiseAbs().maxCoeff();
}

dense outside(const dense& rows, const dense& v) {
    return rows - rows * v * v.transpose();
}

/// Adam in plain loops, as published; a gradient handed in may be projected before, the step is not.
struct plain_adam {
    double rate;
    double beta1 = 0.9;
    double beta2 = 0.999;
    double epsilon = 1e-8;
    dense mean = {};
    dense square = {};
    int steps = 0;

    dense step(const dense& gradient) {
        if (steps++ == 0) {
            mean = square = dense::Zero(gradient.rows(), gradient.cols());
        }
        dense out(gradient.rows(), gradient.cols());
        for (index_t i = 0; i < gradient.size(); ++i) {
            const double g = gradient.data()[i];
            double& m = mean.data()[i];
            double& v = square.data()[i];
            m = beta1 * m + (1 - beta1) * g;
            v = beta2 * v + (1 - beta2) * g * g;
            const double m_hat = m / (1 - std::pow(beta1, steps));
            const double v_hat = v / (1 - std::pow(beta2, steps));
            out.data()[i] = -rate * m_hat / (std::sqrt(v_hat) + epsilon);
        }
        return out;
    }
};

}  // namespace

TEST_CASE_TEMPLATE("assign counts and sums what plain loops do", T, ISIC_STORAGE) {
    isic_test::random dice(1);
    for (const auto& [codes, width, rank] : update_shapes) {
        const auto z = dice.matrix<T>(50, width);
        const auto ids = dice.ids<std::int64_t>(50, codes);
        strided<T> memory(z, 3);
        const auto got = isic::assign(memory.span(), ids, codes);
        std::vector<double> counts(static_cast<std::size_t>(codes), 0.0);
        dense sums = dense::Zero(codes, width);
        for (std::size_t i = 0; i < ids.size(); ++i) {
            counts[static_cast<std::size_t>(ids[i])] += 1;
            for (index_t j = 0; j < width; ++j) {
                sums(ids[i], j) += static_cast<double>(z(static_cast<index_t>(i), j));
            }
        }
        CHECK(got.counts == counts);
        CHECK(largest_difference(to_dense(got.sums), sums) == 0);
    }
    const auto none = isic::assign(isic::matrix<T>(0, 3), std::vector<int>{}, 2);
    CHECK(none.counts == std::vector<double>{0, 0});
    CHECK(to_dense(none.sums).norm() == 0);
}

TEST_CASE_TEMPLATE("ridge is the solution of the normal equations in the allowed space", T, ISIC_STORAGE) {
    for (const std::uint64_t seed : {1, 2, 3}) {
        isic_test::random dice(seed);
        for (const auto& [codes, width, rank] : update_shapes) {
            const auto start = dice.matrix<T>(codes, width);
            const auto [z, ids] = draw_batch(dice, start, 6 * codes);
            const dense v = isic_test::random_basis(dice, width, rank);
            for (const double lambda : {0.0, 0.7, 25.0}) {
                strided<T> memory(start, 2);
                const auto summary = isic::ridge_update(memory.span(), isic::assign(z, ids, codes), lambda,
                                                        {.orthogonal_to = subspace_of(v)});
                CHECK(memory.gaps_intact());
                const dense c = to_dense(start);
                const dense after = to_dense(memory.span());
                const dense allowed = isic_test::complement(dice, v);
                index_t used = 0;
                double slope_before = 0;
                for (index_t k = 0; k < codes; ++k) {
                    const auto n = std::ranges::count(ids, static_cast<std::int32_t>(k));
                    Eigen::VectorXd pull = Eigen::VectorXd::Zero(width);
                    for (std::size_t i = 0; i < ids.size(); ++i) {
                        if (ids[i] == k) {
                            pull += (to_dense(z).row(static_cast<index_t>(i)) - c.row(k)).transpose();
                        }
                    }
                    const Eigen::VectorXd step = (after.row(k) - c.row(k)).transpose();
                    if (n == 0) {
                        CHECK(step.norm() == 0);
                        continue;
                    }
                    // delta = Q y: (n Q^T Q + lambda Q^T Q) y = Q^T sum (z - c), and Q^T Q = I.
                    const double count = static_cast<double>(n);
                    const Eigen::VectorXd delta = allowed * (allowed.transpose() * pull) / (count + lambda);
                    CHECK((step - delta).cwiseAbs().maxCoeff() <= rounding<T>(after));
                    // The gradient of sum ||z - c - Q y||^2 + lambda ||Q y||^2 in y, halved: zero at the solution, not before.
                    const Eigen::VectorXd gradient = allowed.transpose() * ((count + lambda) * step - pull);
                    CHECK(gradient.norm() <=
                          (count + lambda) * std::sqrt(static_cast<double>(width)) * rounding<T>(after));
                    slope_before += (allowed.transpose() * pull).norm();
                    ++used;
                }
                CHECK(slope_before > 0.1);
                CHECK(summary.moved <= used);
                CHECK(summary.overflowed == 0);
            }
        }
    }
}

TEST_CASE("ridge pulls less the heavier lambda is, and leaves unused codes to the byte") {
    isic_test::random dice(4);
    const auto start = dice.matrix<float>(9, 6);
    const auto [z, ids] = draw_batch(dice, start, 60);
    double last = infinity;
    for (const double lambda : {0.0, 0.1, 1.0, 10.0, 1000.0}) {
        auto codes = start;
        const auto summary = isic::ridge_update(codes, isic::assign(z, ids, 9), lambda);
        CHECK(summary.largest_step < last);
        CHECK(summary.moved == 8);
        CHECK(bytes_of(codes.row(8)) == bytes_of(start.row(8)));
        last = summary.largest_step;
    }
    CHECK(last < 0.1);
}

TEST_CASE(
    "assign and ridge without lambda are k-means: each round is Lloyd's, and the distortion falls until nothing "
    "moves") {
    isic_test::random dice(5);
    for (const auto& [n, k, d] : {std::tuple{200, 6, 2}, {300, 10, 5}}) {
        auto codes = dice.matrix(k, d);
        const auto z = dice.matrix<float>(n, d);
        const dense vectors = to_dense(z);
        double last = infinity;
        bool moving = true;
        for (int round = 0; moving && round < 200; ++round) {
            const auto ids = isic::nearest_codes(z, codes);
            dense lloyd = dense::Zero(k, d);
            std::vector<double> counts(static_cast<std::size_t>(k), 0.0);
            double distortion = 0;
            for (index_t i = 0; i < n; ++i) {
                const index_t id = ids[static_cast<std::size_t>(i)];
                lloyd.row(id) += vectors.row(i);
                counts[static_cast<std::size_t>(id)] += 1;
                distortion += (vectors.row(i) - to_dense(codes).row(id)).squaredNorm();
            }
            for (index_t i = 0; i < k; ++i) {
                const double count = counts[static_cast<std::size_t>(i)];
                lloyd.row(i) = count > 0 ? dense(lloyd.row(i) / count) : dense(to_dense(codes).row(i));
            }
            CHECK(distortion <= last * (1 + 1e-12));
            last = distortion;
            const auto summary = isic::ridge_update(codes, isic::assign(z, ids, k), 0);
            CHECK(largest_difference(to_dense(codes), lloyd) < 1e-12);
            moving = summary.largest_step > 1e-12;
            CHECK((round > 0 || moving));
        }
        CHECK(!moving);
    }
}

TEST_CASE_TEMPLATE("moving averages agree with plain loops over many batches", T, ISIC_STORAGE) {
    for (const auto& [codes, width, rank] : update_shapes) {
        for (const double decay : {0.0, 0.5, 0.99}) {
            isic_test::random dice(6);
            const auto start = dice.matrix<T>(codes, width);
            const dense v = isic_test::random_basis(dice, width, rank);
            strided<T> memory(start, 1);
            isic::ema_state<> state;
            std::vector<double> n(static_cast<std::size_t>(codes), 1.0);
            dense s = to_dense(start);
            for (int round = 0; round < 5; ++round) {
                const auto [z, ids] = draw_batch(dice, start, 4 * codes);
                const auto batch = isic::assign(z, ids, codes);
                dense expected = to_dense(memory.span());
                for (index_t k = 0; k < codes; ++k) {
                    const auto at = static_cast<std::size_t>(k);
                    n[at] = decay * n[at] +
                            (1 - decay) * static_cast<double>(std::ranges::count(ids, static_cast<std::int32_t>(k)));
                    s.row(k) *= decay;
                    for (std::size_t i = 0; i < ids.size(); ++i) {
                        if (ids[i] == k) {
                            s.row(k) += (1 - decay) * to_dense(z).row(static_cast<index_t>(i));
                        }
                    }
                    if (n[at] > 0) {
                        expected.row(k) += outside(s.row(k) / n[at] - expected.row(k), v);
                    }
                }
                isic::ema_update(memory.span(), state, batch, decay, {.orthogonal_to = subspace_of(v)});
                CHECK(largest_difference(to_dense(memory.span()), expected) <= rounding<T>(expected));
                CHECK(largest_difference(to_dense(state.sums), s) < 1e-11);
            }
            CHECK(memory.gaps_intact());
        }
    }
}

TEST_CASE("a moving average of one batch again and again goes to that batch's mean, and only slowly") {
    isic_test::random dice(7);
    auto codes = dice.matrix(1, 4);
    const dense start = to_dense(codes);
    const auto z = dice.matrix(10, 4);
    const dense mean = to_dense(z).colwise().mean();
    const auto batch = isic::assign(z, std::vector<int>(10, 0), 1);
    isic::ema_state<> state;
    isic::ema_update(codes, state, batch, 0.99);
    // One count of the start decayed to 0.99 against 0.01 times ten vectors.
    CHECK(largest_difference(to_dense(codes), (0.99 * start + 0.1 * mean) / 1.09) < 1e-13);
    for (int i = 0; i < 3000; ++i) {
        isic::ema_update(codes, state, batch, 0.99);
    }
    CHECK(largest_difference(to_dense(codes), mean) < 1e-9);
}

TEST_CASE("a moving average that has faded away leaves its code where it was") {
    isic_test::random dice(9);
    const auto before = dice.matrix(3, 4);
    auto codes = before;
    const auto batch = isic::assign(isic::matrix<double>(0, 4), std::vector<int>(), 3);
    isic::ema_state<> state;
    for (int i = 0; i < 1200; ++i) {  // 2^-1074 is the least number
        isic::ema_update(codes, state, batch, 0.5);
    }
    CHECK(largest_difference(to_dense(codes), to_dense(before)) < 1e-14);
    CHECK(state.counts == std::vector<double>(3, 0.0));
    CHECK(to_dense(state.sums).isZero(0));
}

TEST_CASE_TEMPLATE("gradient descent with momentum agrees with plain loops", T, ISIC_STORAGE) {
    for (const auto& [codes, width, rank] : update_shapes) {
        for (const double momentum : {0.0, 0.9}) {
            isic_test::random dice(8);
            const auto start = dice.matrix<T>(codes, width);
            const dense v = isic_test::random_basis(dice, width, rank);
            strided<T> memory(start, 4);
            isic::sgd_state state;
            dense velocity = dense::Zero(codes, width);
            for (int round = 0; round < 6; ++round) {
                const auto gradient = dice.matrix<float>(codes, width);
                strided<float> strided_gradient(gradient, 2);
                velocity = momentum * velocity + to_dense(gradient);
                const dense expected = to_dense(memory.span()) - 0.05 * outside(velocity, v);
                isic::sgd_update(memory.span(), strided_gradient.span(), state, {.rate = 0.05, .momentum = momentum},
                                 {.orthogonal_to = subspace_of(v)});
                CHECK(largest_difference(to_dense(memory.span()), expected) <= rounding<T>(expected));
            }
            CHECK(memory.gaps_intact());
        }
    }
}

TEST_CASE_TEMPLATE("Adam agrees with plain loops", T, ISIC_STORAGE) {
    for (const auto& [codes, width, rank] : update_shapes) {
        for (const auto& [beta1, beta2] : {std::pair{0.9, 0.999}, {0.0, 0.9}, {0.5, 0.0}}) {
            isic_test::random dice(9);
            const auto start = dice.matrix<T>(codes, width);
            const dense v = isic_test::random_basis(dice, width, rank);
            strided<T> memory(start, 1);
            isic::adam_state<> state;
            plain_adam reference{.rate = 0.03, .beta1 = beta1, .beta2 = beta2, .epsilon = 1e-6};
            for (int round = 0; round < 6; ++round) {
                const auto gradient = dice.matrix<T>(codes, width, round == 3 ? 1e3 : 1.0);
                const dense expected =
                    to_dense(memory.span()) + outside(reference.step(outside(to_dense(gradient), v)), v);
                isic::adam_update(memory.span(), gradient, state,
                                  {.rate = 0.03, .beta1 = beta1, .beta2 = beta2, .epsilon = 1e-6},
                                  {.orthogonal_to = subspace_of(v)});
                CHECK(largest_difference(to_dense(memory.span()), expected) <= rounding<T>(expected) + 1e-9);
            }
            CHECK(state.steps == 6);
            CHECK(memory.gaps_intact());
        }
    }
}

TEST_CASE(
    "Adam's bias correction: the first step has the learning rate's length in every entry, whatever the gradient's "
    "scale") {
    isic_test::random dice(10);
    for (const double scale : {1e-3, 1.0, 1e6}) {
        const auto start = dice.matrix(5, 7);
        auto codes = start;
        const auto gradient = dice.matrix(5, 7, scale);
        isic::adam_state<> state;
        isic::adam_update(codes, gradient, state, {.rate = 0.01, .epsilon = 1e-12});
        for (index_t i = 0; i < 35; ++i) {
            CHECK(codes.data()[i] - start.data()[i] == doctest::Approx(gradient.data()[i] > 0 ? -0.01 : 0.01));
        }
    }
}

TEST_CASE_TEMPLATE("projecting the gradient before Adam leaks; projecting the finished step does not", T,
                   ISIC_STORAGE) {
    for (const std::uint64_t seed : {1, 2, 3, 4, 5}) {
        isic_test::random dice(seed);
        for (const auto& [codes, width, rank] : {shape{20, 8, 2}, {50, 4, 1}, {10, 32, 5}}) {
            const dense v = isic_test::random_basis(dice, width, rank);
            const dense projected = outside(to_dense(dice.matrix(codes, width)), v);
            isic::matrix<T> start(codes, width);
            for (index_t i = 0; i < codes; ++i) {
                for (index_t j = 0; j < width; ++j) {
                    start(i, j) = static_cast<T>(projected(i, j));
                }
            }
            auto kept = start;
            dense leaked = to_dense(start);
            isic::adam_state<> state;
            plain_adam adam{.rate = 0.01};
            for (int step = 0; step < 20; ++step) {
                const auto gradient = dice.matrix(codes, width);
                isic::adam_update(kept, gradient, state, {.rate = 0.01}, {.orthogonal_to = subspace_of(v)});
                leaked += adam.step(outside(to_dense(gradient), v));
            }
            CHECK(leak(leaked, v) > 1e-3);
            CHECK(leak(leaked - to_dense(start), v) > 0.05);
            CHECK(leak(to_dense(kept), v) < 21 * unit<T> + 1e-14);  // every entry was rounded 21 times
            CHECK((to_dense(kept) - to_dense(start)).norm() > 0.1);
        }
    }
}

TEST_CASE("constrained Adam ends at the constrained minimum; with the step alone projected it would not") {
    for (const std::uint64_t seed : {1, 2, 3}) {
        isic_test::random dice(seed);
        const dense v = isic_test::random_basis(dice, 6, 2);
        const dense targets = to_dense(dice.matrix(8, 6)) + 4 * dense::Ones(8, 1) * v.col(0).transpose();
        auto codes = from_dense(dense::Zero(8, 6));
        dense other = dense::Zero(8, 6);
        isic::adam_state<> state;
        plain_adam adam{.rate = 0};
        for (int step = 0; step < 2000; ++step) {  // the loss is half the squared distance to the targets
            const double rate = 0.05 * (1 - step / 2000.0);
            isic::adam_update(codes, from_dense(to_dense(codes) - targets), state, {.rate = rate},
                              {.orthogonal_to = subspace_of(v)});
            adam.rate = rate;
            other += outside(adam.step(other - targets), v);
        }
        CHECK((to_dense(codes) - outside(targets, v)).norm() < 1e-3);
        CHECK((other - outside(targets, v)).norm() > 0.1);
        CHECK(leak(targets, v) > 0.5);
    }
}

TEST_CASE("a constrained step of Adam never climbs") {
    isic_test::random dice(11);
    index_t climbs = 0;
    for (int i = 0; i < 50; ++i) {
        const dense v = isic_test::random_basis(dice, 8, 2);
        const auto gradient = from_dense(to_dense(dice.matrix(1, 8, 0.1)) + 3 * v.col(0).transpose());
        auto codes = dice.matrix(1, 8);
        const dense before = to_dense(codes);
        isic::adam_state<> state;
        isic::adam_update(codes, gradient, state, {}, {.orthogonal_to = subspace_of(v)});
        CHECK((to_dense(codes) - before).cwiseProduct(to_dense(gradient)).sum() < 0);
        plain_adam adam{.rate = 1e-3};
        climbs += outside(adam.step(to_dense(gradient)), v).cwiseProduct(to_dense(gradient)).sum() > 0 ? 1 : 0;
    }
    CHECK(climbs > 5);  // those whose gradient is not projected do
}

namespace {

/// One optimiser with its state, called with random input of its own.
template <class T>
struct optimiser {
    std::string_view name;
    std::function<void(isic::matrix_span<T>, isic_test::random&)> update;
    std::function<std::vector<std::byte>()> state;
};

template <class T>
std::vector<optimiser<T>> all_optimisers() {
    const auto ema = std::make_shared<isic::ema_state<>>();
    const auto sgd = std::make_shared<isic::sgd_state>();
    const auto adam = std::make_shared<isic::adam_state<>>();
    const auto joined = [](auto... parts) {
        std::vector<std::byte> out;
        (out.insert(out.end(), parts.begin(), parts.end()), ...);
        return out;
    };
    const auto batch = [](isic::matrix_span<T> codes, isic_test::random& dice) {
        return isic::assign(dice.matrix(30, codes.cols()), dice.ids(30, codes.rows()), codes.rows());
    };
    return {{"ema", [=](auto codes, auto& dice) { isic::ema_update(codes, *ema, batch(codes, dice), 0.9); },
             [=] { return joined(bytes_of(ema->counts), bytes_of(ema->sums)); }},
            {"sgd",
             [=](auto codes, auto& dice) {
                 isic::sgd_update(codes, dice.matrix(codes.rows(), codes.cols()), *sgd, {.momentum = 0.8});
             },
             [=] { return bytes_of(sgd->velocity); }},
            {"adam",
             [=](auto codes, auto& dice) {
                 isic::adam_update(codes, dice.matrix(codes.rows(), codes.cols()), *adam, {.rate = 0.1});
             },
             [=] { return joined(bytes_of(adam->mean), bytes_of(adam->square)); }}};
}

}  // namespace

TEST_CASE_TEMPLATE("the state is the caller's: runs continue where they stopped, and two do not meet", T,
                   ISIC_STORAGE) {
    for (std::size_t which = 0; which < 3; ++which) {
        isic_test::random dice(12);
        const auto start = dice.matrix<T>(6, 5);
        const auto other_start = dice.matrix<T>(4, 3);

        auto alone = all_optimisers<T>()[which];
        INFO(std::string(alone.name));
        auto codes = start;
        isic_test::random input(13);
        for (int step = 0; step < 10; ++step) {
            alone.update(codes, input);
        }

        // The same ten steps, another codebook's between them, the codes moved to other memory halfway.
        auto first = all_optimisers<T>()[which];
        auto second = all_optimisers<T>()[which];
        auto shared = start;
        auto other = other_start;
        isic_test::random first_input(13);
        isic_test::random second_input(14);
        for (int step = 0; step < 5; ++step) {
            first.update(shared, first_input);
            second.update(other, second_input);
        }
        strided<T> moved(shared, 2);
        for (int step = 0; step < 5; ++step) {
            first.update(moved.span(), first_input);
            second.update(other, second_input);
        }
        for (index_t k = 0; k < 6; ++k) {
            CHECK(bytes_of(codes.row(k)) == bytes_of(moved.span().row(k)));
        }
        CHECK(alone.state() == first.state());
        CHECK(second.state() != first.state());

        // A fresh state halfway gives something else: the state matters.
        auto forgetful = start;
        isic_test::random same_input(13);
        auto before = all_optimisers<T>()[which];
        auto after = all_optimisers<T>()[which];
        for (int step = 0; step < 10; ++step) {
            (step < 5 ? before : after).update(forgetful, same_input);
        }
        CHECK(bytes_of(forgetful) != bytes_of(codes));
    }
}

TEST_CASE_TEMPLATE("several threads update a codebook as its pieces are updated, one after another", T, float,
                   isic::bfloat16) {
    isic_test::random dice(61);
    constexpr index_t codes = 3000, width = 48, piece = 500;
    isic::constraint limits;
    limits.orthogonal_to = subspace_of(isic_test::random_basis(dice, width, 2));
    isic::constraint threaded = limits;
    threaded.execution.threads = 3;
    auto whole = dice.matrix<T>(codes, width);
    auto pieces = whole;
    const auto gradient = dice.matrix<T>(codes, width);
    isic::adam_state<> state;
    std::vector<isic::adam_state<>> states(codes / piece);
    for (int step = 0; step < 2; ++step) {
        index_t moved = 0;
        for (index_t i = 0; i < codes / piece; ++i) {
            const isic::matrix_span<T> rows(pieces.row(i * piece).data(), piece, width);
            const isic::matrix_view<T> gradients(gradient.row(i * piece).data(), piece, width);
            moved +=
                isic::adam_update(rows, gradients, states[static_cast<std::size_t>(i)], {.rate = 0.1}, limits).moved;
        }
        CHECK(isic::adam_update(whole, gradient, state, {.rate = 0.1}, threaded).moved == moved);
        CHECK(moved > codes / 2);
        CHECK(bytes_of(whole) == bytes_of(pieces));
    }
}

TEST_CASE("what moved is reported as it was") {
    isic_test::random dice(15);
    const auto start = dice.matrix<float>(10, 4);
    auto codes = start;
    auto gradient = dice.matrix(10, 4);
    for (const index_t k : {2, 5, 9}) {
        std::ranges::fill(gradient.row(k), 0.0);
    }
    isic::sgd_state state;
    const auto summary = isic::sgd_update(codes, gradient, state);
    CHECK(summary.moved == 7);
    CHECK(summary.overflowed == 0);
    CHECK(summary.largest_step ==
          doctest::Approx((to_dense(codes) - to_dense(start)).rowwise().norm().maxCoeff()).epsilon(1e-5));
    isic::adam_state<> fresh;
    auto still = start;
    CHECK(isic::adam_update(still, isic::matrix<float>(10, 4), fresh).moved == 0);
    CHECK(bytes_of(still) == bytes_of(start));
}

TEST_CASE_TEMPLATE("a row whose new values do not fit the dtype stays as it was, and is counted", T, float, isic::half,
                   isic::bfloat16) {
    isic_test::random dice(16);
    const auto start = dice.matrix<T>(4, 3);
    auto codes = start;
    auto gradient = dice.matrix(4, 3);
    gradient(1, 2) = 1e300;
    isic::sgd_state state;
    const auto summary = isic::sgd_update(codes, gradient, state);
    CHECK(summary.overflowed == 1);
    CHECK(summary.moved == 3);
    CHECK(bytes_of(codes.row(1)) == bytes_of(start.row(1)));
    CHECK(bytes_of(codes.row(0)) != bytes_of(start.row(0)));
}

namespace {

/// A codebook in the middle of training: every optimiser has a state.
struct bench {
    isic::matrix<float> codes;
    isic::ema_state<> ema;
    isic::sgd_state sgd;
    isic::adam_state<> adam;

    auto bytes() const {
        return std::tuple{bytes_of(codes),     bytes_of(ema.counts),  bytes_of(ema.sums), bytes_of(sgd.velocity),
                          bytes_of(adam.mean), bytes_of(adam.square), adam.steps};
    }
};

using bench_call = std::function<void(bench&)>;

/// The call throws exactly Error, and neither the codebook nor a state has another byte afterwards.
template <class Error>
void refused(
    bench b, std::string_view function, std::string_view word, const bench_call& call,
    const bench_call& spoil = [](bench&) {}) {
    spoil(b);
    const auto before = b.bytes();
    check_throws<Error>(function, [&] { call(b); }, {word});
    CHECK(b.bytes() == before);
}

struct bench_inputs {
    isic::assignments batch;
    isic::matrix<double> gradient;
    bench ready;
};

bench_inputs bench_of_six_by_four() {
    isic_test::random dice(17);
    bench_inputs out{isic::assign(dice.matrix(20, 4), dice.ids(20, 6), 6),
                     dice.matrix(6, 4),
                     {dice.matrix<float>(6, 4), {}, {}, {}}};
    auto warm = out.ready.codes;
    isic::ema_update(warm, out.ready.ema, out.batch, 0.9);
    isic::sgd_update(warm, out.gradient, out.ready.sgd);
    isic::adam_update(warm, out.gradient, out.ready.adam);
    return out;
}

}  // namespace

TEST_CASE("NaN and infinity are numeric errors and leave codebook and state to the byte") {
    using isic::numeric_error;
    const bench_inputs in = bench_of_six_by_four();
    const bench_call ridge = [&](bench& x) { isic::ridge_update(x.codes, in.batch, 1); };
    const bench_call ema = [&](bench& x) { isic::ema_update(x.codes, x.ema, in.batch, 0.5); };
    const bench_call sgd = [&](bench& x) { isic::sgd_update(x.codes, in.gradient, x.sgd); };
    const bench_call adam = [&](bench& x) { isic::adam_update(x.codes, in.gradient, x.adam); };
    for (const double bad : {not_a_number, infinity, -infinity}) {
        const bench_call in_codes = [&](bench& x) { x.codes(5, 3) = static_cast<float>(bad); };
        refused<numeric_error>(in.ready, "ridge_update", "codebook", ridge, in_codes);
        refused<numeric_error>(in.ready, "ema_update", "codebook", ema, in_codes);
        refused<numeric_error>(in.ready, "sgd_update", "codebook", sgd, in_codes);
        refused<numeric_error>(in.ready, "adam_update", "codebook", adam, in_codes);
        auto broken = in.gradient;
        broken(5, 3) = bad;
        refused<numeric_error>(in.ready, "sgd_update", "row 5, column 3",
                               [&](bench& x) { isic::sgd_update(x.codes, broken, x.sgd); });
        refused<numeric_error>(in.ready, "adam_update", "row 5, column 3",
                               [&](bench& x) { isic::adam_update(x.codes, broken, x.adam); });
        auto sums = in.batch;
        sums.sums(5, 3) = bad;
        refused<numeric_error>(in.ready, "ridge_update", "sums",
                               [&](bench& x) { isic::ridge_update(x.codes, sums, 1); });
        refused<numeric_error>(in.ready, "ema_update", "sums",
                               [&](bench& x) { isic::ema_update(x.codes, x.ema, sums, 0.5); });
    }
}

TEST_CASE("options out of range are value errors and leave codebook and state to the byte") {
    using isic::value_error;
    const bench_inputs in = bench_of_six_by_four();
    const auto adam_refused = [&](const isic::adam_options& options, std::string_view word) {
        refused<value_error>(in.ready, "adam_update", word,
                             [&](bench& x) { isic::adam_update(x.codes, in.gradient, x.adam, options); });
    };
    const auto sgd_refused = [&](const isic::sgd_options& options, std::string_view word) {
        refused<value_error>(in.ready, "sgd_update", word,
                             [&](bench& x) { isic::sgd_update(x.codes, in.gradient, x.sgd, options); });
    };
    for (const double bad : {-1.0, not_a_number, infinity}) {
        auto counts = in.batch;
        counts.counts.back() = bad;
        refused<value_error>(in.ready, "ridge_update", "counts",
                             [&](bench& x) { isic::ridge_update(x.codes, counts, 1); });
        refused<value_error>(in.ready, "ema_update", "counts",
                             [&](bench& x) { isic::ema_update(x.codes, x.ema, counts, 0.5); });
        refused<value_error>(in.ready, "ridge_update", "lambda",
                             [&](bench& x) { isic::ridge_update(x.codes, in.batch, bad); });
        sgd_refused({.rate = bad}, "rate");
        adam_refused({.rate = bad}, "rate");
        adam_refused({.epsilon = bad}, "epsilon");
    }
    for (const double bad : {-0.1, 1.0, not_a_number}) {
        refused<value_error>(in.ready, "ema_update", "decay",
                             [&](bench& x) { isic::ema_update(x.codes, x.ema, in.batch, bad); });
        sgd_refused({.momentum = bad}, "momentum");
        adam_refused({.beta1 = bad}, "beta1");
        adam_refused({.beta2 = bad}, "beta2");
    }
    sgd_refused({.rate = 0}, "rate");
    adam_refused({.rate = 0}, "rate");
    adam_refused({.epsilon = 0}, "epsilon");
    const bench_call adam = [&](bench& x) { isic::adam_update(x.codes, in.gradient, x.adam); };
    refused<value_error>(in.ready, "adam_update", "steps", adam, [](bench& x) { x.adam.steps = -1; });
    // Reading and writing the same memory.
    refused<value_error>(in.ready, "sgd_update", "overlapping",
                         [](bench& x) { isic::sgd_update(x.codes, x.codes, x.sgd); });
    refused<value_error>(in.ready, "adam_update", "overlapping",
                         [](bench& x) { isic::adam_update(x.codes, x.codes, x.adam); });
}

TEST_CASE("shapes that do not fit are shape errors and leave codebook and state to the byte") {
    using isic::shape_error;
    const bench_inputs in = bench_of_six_by_four();
    const bench_call ema = [&](bench& x) { isic::ema_update(x.codes, x.ema, in.batch, 0.5); };
    const bench_call sgd = [&](bench& x) { isic::sgd_update(x.codes, in.gradient, x.sgd); };
    const bench_call adam = [&](bench& x) { isic::adam_update(x.codes, in.gradient, x.adam); };
    for (const auto& [rows, cols] : {std::pair{5, 4}, {6, 3}, {7, 4}, {6, 5}, {0, 0}}) {
        const auto wrong = isic_test::random(18).matrix(rows, cols);
        auto sums = in.batch;
        sums.sums = wrong;
        refused<shape_error>(in.ready, "ridge_update", "sums", [&](bench& x) { isic::ridge_update(x.codes, sums, 1); });
        refused<shape_error>(in.ready, "ema_update", "sums",
                             [&](bench& x) { isic::ema_update(x.codes, x.ema, sums, 0.5); });
        refused<shape_error>(in.ready, "sgd_update", "gradient",
                             [&](bench& x) { isic::sgd_update(x.codes, wrong, x.sgd); });
        refused<shape_error>(in.ready, "adam_update", "gradient",
                             [&](bench& x) { isic::adam_update(x.codes, wrong, x.adam); });
        refused<shape_error>(in.ready, "ema_update", "state", ema, [&](bench& x) { x.ema.sums = wrong; });
        if (rows > 0) {  // an empty state is a fresh one
            refused<shape_error>(in.ready, "sgd_update", "state", sgd, [&](bench& x) { x.sgd.velocity = wrong; });
            refused<shape_error>(in.ready, "adam_update", "state", adam, [&](bench& x) { x.adam.mean = wrong; });
            refused<shape_error>(in.ready, "adam_update", "state", adam, [&](bench& x) { x.adam.square = wrong; });
            refused<shape_error>(in.ready, "adam_update", "state", adam, [&](bench& x) { x.adam = {{}, wrong, 0}; });
        }
    }
    refused<shape_error>(in.ready, "ema_update", "state", ema, [](bench& x) { x.ema.counts.pop_back(); });
    auto counts = in.batch;
    counts.counts.pop_back();
    refused<shape_error>(in.ready, "ridge_update", "counts", [&](bench& x) { isic::ridge_update(x.codes, counts, 1); });
    refused<shape_error>(in.ready, "sgd_update", "codebook", sgd,
                         [](bench& x) { x.codes = isic::matrix<float>(0, 4); });
}

TEST_CASE("assign refuses what does not fit") {
    isic_test::random dice(19);
    const auto z = dice.matrix<float>(3, 2);
    check_throws<isic::shape_error>("assign", [&] { isic::assign(z, std::vector{0, 1}, 2); }, {"ids"});
    check_throws<isic::shape_error>("assign", [&] { isic::assign(z, std::vector{0, 0, 0}, 0); }, {"code"});
    for (const int id : {-1, 2}) {
        check_throws<isic::value_error>("assign", [&] { isic::assign(z, std::vector{0, id, 1}, 2); }, {"position 1"});
    }
    auto bad = z;
    bad(2, 1) = std::numeric_limits<float>::quiet_NaN();
    check_throws<isic::numeric_error>("assign", [&] { isic::assign(bad, std::vector{0, 1, 1}, 2); }, {"vectors"});
}
