#include "cuda/support.hpp"

using isic::index_t;
using isic_test::check_throws;

TEST_CASE_TEMPLATE("nearest codes are the CPU's, ties to the lowest id, padding never", T, ISIC_STORAGE) {
    isic::cuda_backend gpu;
    isic_test::random r(21);
    for (const auto& [n, K, d] : {std::tuple<index_t, index_t, index_t>{1, 1, 1}, {70, 65, 4}, {130, 200, 8}, {65, 300, 21}}) {
        CAPTURE(d);
        auto codes = r.matrix<T>(K, d);
        const auto vectors = r.matrix<T>(n, d);
        for (index_t k = 1; k < K; k += 3) {  // equal codes
            std::ranges::copy(codes.row(0), codes.row(k).begin());
        }
        std::vector<index_t> padding;
        if (K > 10) {
            padding = {0, 2, 5};
            codes(2, 0) = static_cast<T>(isic_test::not_a_number);
        }
        const auto device_codes = isic::upload(gpu, codes);
        const auto device_vectors = isic::upload(gpu, vectors);
        for (const auto rule : {isic::lookup::plain, isic::lookup::l2_normalised}) {
            const std::vector<index_t> expected = isic::nearest_codes(vectors, codes, rule, padding);
            const auto found = isic_test::ids_on(gpu, isic::nearest_codes(gpu, device_vectors, device_codes, rule, padding));
            REQUIRE(found.size() == expected.size());
            for (std::size_t i = 0; i < found.size(); ++i) {
                CHECK(found[i] == expected[i]);
            }
        }
    }
}

TEST_CASE("nearest codes refuse what the CPU refuses") {
    isic::cuda_backend gpu;
    isic_test::random r(22);
    const auto codes = isic::upload(gpu, r.matrix<float>(4, 3));
    const auto vectors = isic::upload(gpu, r.matrix<float>(5, 3));
    check_throws<isic::shape_error>("nearest_codes", [&] { isic::nearest_codes(gpu, isic::upload(gpu, r.matrix<float>(5, 2)), codes); }, {"3", "2"});
    const std::vector<index_t> all{0, 1, 2, 3};
    check_throws<isic::value_error>("nearest_codes", [&] { isic::nearest_codes(gpu, vectors, codes, isic::lookup::plain, all); }, {"padding only"});
    auto bad = r.matrix<float>(5, 3);
    bad(4, 2) = std::numeric_limits<float>::infinity();
    check_throws<isic::numeric_error>("nearest_codes", [&] { isic::nearest_codes(gpu, isic::upload(gpu, bad), codes); }, {"vectors", "row 4", "column 2"});
    check_throws<isic::shape_error>("nearest_codes", [&] { isic::nearest_codes(gpu, vectors, isic::device_matrix<float>(gpu, 0, 3)); }, {"codebook"});
    CHECK(isic::nearest_codes(gpu, isic::device_matrix<float>(gpu, 0, 3), codes).empty());
}

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
    const double churned = isic::nearest_code_churn(gpu, isic::upload(gpu, vectors), b, a, isic::lookup::plain, padding);
    CHECK(churned == isic::nearest_code_churn(vectors, before, after, isic::lookup::plain, padding));
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
    check_throws<isic::value_error>("usage_counts", [&] { isic::usage_counts(gpu, isic::upload_ids(gpu, ids), 16); }, {"[0, 16)"});
    const std::vector<Id> none;
    CHECK(isic::usage_counts(gpu, isic::upload_ids(gpu, none), 2) == std::vector<double>{0, 0});
}
