// SPDX-License-Identifier: Apache-2.0
#include <isic/rank.hpp>

#include <array>

#include "support/data.hpp"
#include "support/errors.hpp"
#include "support/reference.hpp"

using isic::index_t;
using isic_test::check_throws;
using isic_test::not_a_number;

TEST_CASE("lambda, the Marchenko-Pastur median and omega meet the reference table to 1e-6") {
    struct line {
        double beta, lambda, median, omega;
    };
    for (const line& l : {line{0.01, 1.434748, 0.996666, 1.437146}, line{0.05, 1.506607, 0.983308, 1.519341},
                          line{0.1, 1.581648, 0.966565, 1.608772}, line{0.25, 1.758029, 0.916004, 1.836866},
                          line{0.5, 1.978599, 0.830466, 2.171185}, line{0.75, 2.156094, 0.742948, 2.501430},
                          line{1.0, 2.309401, 0.652776, 2.858362}}) {
        CHECK(std::abs(isic::gavish_donoho_lambda(l.beta) - l.lambda) < 1e-6);
        CHECK(std::abs(isic::marchenko_pastur_median(l.beta) - l.median) < 1e-6);
        CHECK(std::abs(isic::gavish_donoho_omega(l.beta) - l.omega) < 1e-6);
        // The published cubic fit is within 2 %.
        const double b = l.beta;
        CHECK(isic::gavish_donoho_omega(b) ==
              doctest::Approx(0.56 * b * b * b - 0.95 * b * b + 1.82 * b + 1.43).epsilon(0.02));
    }
    CHECK(std::abs(isic::gavish_donoho_lambda(1.0) - 4 / std::sqrt(3.0)) < 1e-15);
}

TEST_CASE("half of the Marchenko-Pastur mass lies above the median, to 1e-9") {
    for (const double beta : {1e-4, 0.02, 0.3, 0.77, 0.999}) {
        // The density sqrt((b - x)(x - a)) / (2 pi beta x) itself, by the midpoint rule in a variable that is smooth at b.
        const double low = std::pow(1 - std::sqrt(beta), 2);
        const double high = std::pow(1 + std::sqrt(beta), 2);
        const double from = isic::marchenko_pastur_median(beta);
        constexpr int steps = 200000;
        double mass = 0;
        for (int i = 0; i < steps; ++i) {
            const double u = (i + 0.5) / steps * std::sqrt(high - from);  // x = high - u^2
            const double x = high - u * u;
            mass += u * std::sqrt(x - low) / (2 * std::numbers::pi * beta * x) * 2 * u;
        }
        mass *= std::sqrt(high - from) / steps;
        CHECK(std::abs(mass - 0.5) < 1e-9);
    }
}

TEST_CASE("gavish-donoho functions want beta in (0, 1]") {
    for (const double beta : {0.0, -0.1, 1.0001, not_a_number}) {
        check_throws<isic::value_error>("gavish_donoho_lambda", [&] { isic::gavish_donoho_lambda(beta); }, {"(0, 1]"});
        check_throws<isic::value_error>("marchenko_pastur_median", [&] { isic::marchenko_pastur_median(beta); });
    }
}

TEST_CASE("energy rank is the smallest rank that holds the share") {
    isic_test::random dice(1);
    for (int trial = 0; trial < 300; ++trial) {
        const index_t size = 1 + dice.below(40);
        const index_t zeros = dice.below(size);
        auto sigma = dice.numbers(size);
        std::ranges::sort(sigma, std::greater{});
        std::fill(sigma.end() - zeros, sigma.end(), 0.0);
        double total = 0;
        for (const double s : sigma) {
            total += s * s;
        }
        const double share = 0.01 + 0.98 * dice.uniform();
        const index_t r = isic::energy_rank(sigma, share);
        double held = 0;
        for (index_t i = 0; i < r - 1; ++i) {
            held += sigma[static_cast<std::size_t>(i)] * sigma[static_cast<std::size_t>(i)];
        }
        REQUIRE(r >= 1);
        CHECK(held < share * total);
        held += sigma[static_cast<std::size_t>(r - 1)] * sigma[static_cast<std::size_t>(r - 1)];
        CHECK(held >= share * total * (1 - 1e-14));
        CHECK(isic::energy_rank(sigma, 1.0) == size - zeros);
    }
}

TEST_CASE("one dominant value is rank 1, not rank 0") {
    CHECK(isic::energy_rank(std::array{10.0, 0.1, 0.1}, 0.97) == 1);
    CHECK(isic::energy_rank(std::array{3.0, 1.0}, 0.9) == 1);
    CHECK(isic::energy_rank(std::array{3.0, 1.0}, 0.9001) == 2);
    CHECK(isic::energy_rank(std::array{1.0}, 1.0) == 1);
    CHECK(isic::energy_rank(std::array{0.0, 0.0}, 0.5) == 0);
    CHECK(isic::energy_rank(std::span<const double>(), 0.5) == 0);
}

TEST_CASE("rounding in the sum never asks for directions without energy") {
    isic_test::random dice(2);
    for (int trial = 0; trial < 500; ++trial) {
        auto sigma = dice.numbers(150);
        std::ranges::sort(sigma, std::greater{});
        sigma.resize(220, 0.0);
        CHECK(isic::energy_rank(sigma, 1.0) <= 150);
    }
}

TEST_CASE("energy rank wants a share in (0, 1]") {
    for (const double share : {0.0, -0.5, 1.01, not_a_number}) {
        check_throws<isic::value_error>("energy_rank", [&] { isic::energy_rank(std::array{1.0}, share); });
    }
}

TEST_CASE("gavish-donoho finds the planted rank in white noise, and none without") {
    isic_test::random dice(3);
    int false_alarms = 0;
    for (int trial = 0; trial < 20; ++trial) {
        const index_t n = 60 + dice.below(100);
        const index_t d = 20 + dice.below(60);
        const isic_test::dense noise = isic_test::to_dense(dice.matrix(n, d));
        const auto sigma_of = [](const isic_test::dense& m) {
            const Eigen::VectorXd s = isic_test::svd(m).values;
            return std::vector<double>(s.begin(), s.end());
        };
        false_alarms += isic::gavish_donoho_rank(sigma_of(noise), n, d) > 0;
        const double strong = 3 * std::sqrt(static_cast<double>(std::max(n, d)));
        const isic_test::dense planted =
            strong * isic_test::random_basis(dice, n, 4) * isic_test::random_basis(dice, d, 4).transpose();
        const auto with_signal = sigma_of(noise + planted);
        CHECK(isic::gavish_donoho_rank(with_signal, n, d) == 4);
        CHECK(isic::gavish_donoho_rank(with_signal, d, n) == 4);
        // Scale does not matter: the noise level is estimated.
        auto scaled = with_signal;
        for (double& s : scaled) {
            s *= 1e-9;
        }
        CHECK(isic::gavish_donoho_rank(scaled, n, d) == 4);
    }
    CHECK(false_alarms == 0);
}

TEST_CASE("gavish-donoho wants all the singular values") {
    check_throws<isic::shape_error>("gavish_donoho_rank", [] { isic::gavish_donoho_rank(std::array{2.0, 1.0}, 5, 3); },
                                    {"3 singular values", "got 2"});
    CHECK(isic::gavish_donoho_rank(std::span<const double>(), 0, 3) == 0);
    CHECK(isic::gavish_donoho_rank(std::array{9.0, 1.0, 1.0, 1.0}, 4, 4) == 1);
}

TEST_CASE("rules have names") {
    using enum isic::rank_rule;
    CHECK(isic::to_string(fixed) == "fixed");
    CHECK(isic::to_string(energy) == "energy");
    CHECK(isic::to_string(gavish_donoho) == "gavish_donoho");
    CHECK(isic::to_string(sign_flip) == "sign_flip");
    CHECK(isic::to_string(budget) == "budget");
    CHECK(isic::to_string(data) == "data");
}

TEST_CASE("the library's random numbers are uniform in (-1, 1), a function of seed and index") {
    double sum = 0;
    double square = 0;
    for (std::uint64_t i = 0; i < 20000; ++i) {
        const double u = isic::detail::symmetric_uniform(7, i);
        CHECK_MESSAGE((u >= -1 && u < 1), u);
        sum += u;
        square += u * u;
    }
    CHECK(std::abs(sum / 20000) < 0.02);
    CHECK(square / 20000 == doctest::Approx(1.0 / 3).epsilon(0.03));
    CHECK(isic::detail::symmetric_uniform(7, 3) == isic::detail::symmetric_uniform(7, 3));
    CHECK(isic::detail::symmetric_uniform(7, 3) != isic::detail::symmetric_uniform(8, 3));
}
