// SPDX-License-Identifier: Apache-2.0
#include "cuda/support.hpp"

using isic::index_t;
using isic_test::check_throws;

TEST_CASE_TEMPLATE("leakage, drift and churn are the CPU's, over more than one part", T, ISIC_STORAGE) {
    isic::cuda_backend gpu;
    isic_test::random r(23);
    const index_t K = 600;
    auto before = r.matrix<T>(K, 7);
    auto after = before;
    for (index_t k = 0; k < K; k += 4) {
        after(k, 3) = static_cast<T>(static_cast<float>(after(k, 3)) + 0.5F);
    }
    const std::vector<index_t> padding{1, 599};
    before(1, 0) = static_cast<T>(isic_test::not_a_number);
    const auto harm = isic::span_of(r.matrix(7, 2));
    const std::vector<double> center = r.numbers(7);
    const auto b = isic::upload(gpu, before);
    const auto a = isic::upload(gpu, after);
    const auto leak = isic::leakage(gpu, b, harm, center, padding);
    const auto expected_leak = isic::leakage(before, harm, center, padding);
    CHECK(leak.total == doctest::Approx(expected_leak.total).epsilon(1e-12));
    CHECK(leak.largest == doctest::Approx(expected_leak.largest).epsilon(1e-12));
    const auto moved = isic::drift(gpu, b, a, padding);
    const auto expected = isic::drift(before, after, padding);
    CHECK(moved.moved == expected.moved);
    CHECK(moved.relative == doctest::Approx(expected.relative).epsilon(1e-12));
    CHECK(moved.mean == doctest::Approx(expected.mean).epsilon(1e-12));
    CHECK(moved.largest == doctest::Approx(expected.largest).epsilon(1e-12));
    const auto vectors = r.matrix<T>(90, 7);
    const double churned = isic::nearest_code_churn(gpu, isic::upload(gpu, vectors), b, a, isic::metric::l2, padding);
    CHECK(churned == isic::nearest_code_churn(vectors, before, after, isic::metric::l2, padding));
    CHECK(churned > 0);
    check_throws<isic::numeric_error>("leakage", [&] { isic::leakage(gpu, b, harm); }, {"row 1"});
    check_throws<isic::numeric_error>("drift", [&] { isic::drift(gpu, a, b); }, {"row 1"});
}

TEST_CASE_TEMPLATE("usage is counted", Id, std::int32_t, std::int64_t) {
    isic::cuda_backend gpu;
    isic_test::random r(24);
    const auto ids = r.ids<Id>(1000, 17);
    std::vector<double> expected(17, 0.0);
    for (const Id id : ids) {
        expected[static_cast<std::size_t>(id)] += 1;
    }
    CHECK(isic::usage_counts(gpu, isic::upload_ids(gpu, ids), 17) == expected);
    CHECK(isic::usage_perplexity(isic::usage_counts(gpu, isic::upload_ids(gpu, ids), 17)) > 10);
    check_throws<isic::value_error>("usage_counts", [&] { isic::usage_counts(gpu, isic::upload_ids(gpu, ids), 16); },
                                    {"[0, 16)"});
    const std::vector<Id> none;
    CHECK(isic::usage_counts(gpu, isic::upload_ids(gpu, none), 2) == std::vector<double>{0, 0});
}
