// SPDX-License-Identifier: Apache-2.0
#include "cuda/support.hpp"

using isic::index_t;
using isic_test::bytes_of;
using isic_test::check_throws;

namespace {

isic::subspace directions(isic_test::random& r, index_t d, index_t rank) {
    return isic::span_of(r.matrix(d, rank));
}

/// The same call on both; rows may differ in the last place, where sums are taken in another order.
template <class T>
void check_as_on_the_cpu(const isic::cuda_backend& gpu, const isic::matrix<T>& codes, const isic::subspace& harm,
                         const isic::projection_options& options) {
    isic::matrix<T> expected = codes;
    const isic::edit on_cpu = isic::project_out(expected, harm, options);
    auto device = isic::upload(gpu, codes);
    const isic::device_edit done = isic::project_out(gpu, device, harm, options);
    const isic::matrix<T> found = isic::download(gpu, device);
    CHECK(isic_test::ulps_apart(expected, found) <= (sizeof(T) == 8 ? 16.0 : 1.0));
    CHECK(done.summary().moved == on_cpu.summary.moved);
    CHECK(done.summary().near_zero == on_cpu.summary.near_zero);
    CHECK(done.ids() == on_cpu.ids());
    CHECK(done.summary().relative_change == doctest::Approx(on_cpu.summary.relative_change).epsilon(1e-3));
    CHECK(done.summary().before.total == doctest::Approx(on_cpu.summary.before.total).epsilon(1e-10));
    CHECK(done.summary().before.largest == doctest::Approx(on_cpu.summary.before.largest).epsilon(1e-10));
    CHECK(std::abs(done.summary().after.total - on_cpu.summary.after.total) <= 4 * isic_test::unit<T>);
    done.undo(device);
    CHECK(bytes_of(isic::download(gpu, device)) == bytes_of(codes));
}

}  // namespace

TEST_CASE_TEMPLATE("a hard projection leaves nothing, changes nothing the second time, and is undone bit for bit", T,
                   ISIC_STORAGE) {
    isic::cuda_backend gpu;
    isic_test::random r(11);
    for (const auto& [d, rank] : {std::pair<index_t, index_t>{4, 1}, {8, 3}, {33, 5}, {70, 16}}) {
        CAPTURE(d);
        const auto codes = r.matrix<T>(41, d);
        const auto harm = directions(r, d, rank);
        auto device = isic::upload(gpu, codes);
        const auto done = isic::project_out(gpu, device, harm);
        CHECK(done.summary().before.total > 0.1);
        CHECK(done.summary().after.total < 4 * isic_test::unit<T>);
        const auto once = isic_test::bytes_on(gpu, device);
        CHECK(once != bytes_of(codes));
        const auto again = isic::project_out(gpu, device, harm);
        CHECK(again.summary().moved == 0);
        CHECK(isic_test::bytes_on(gpu, device) == once);
        again.undo(device);
        done.undo(device);
        CHECK(isic_test::bytes_on(gpu, device) == bytes_of(codes));
    }
}

TEST_CASE_TEMPLATE("every kind of projection is the CPU's", T, ISIC_STORAGE) {
    isic::cuda_backend gpu;
    isic_test::random r(12);
    const index_t K = 53;
    const index_t d = 12;
    const auto codes = r.matrix<T>(K, d);
    const auto harm = directions(r, d, 3);
    const std::vector<double> weights{1.0, 0.5, 0.25};
    const std::vector<double> center = r.numbers(d);
    const auto target = r.matrix(K, d);
    const std::vector<index_t> padding{0, 7};
    std::vector<double> strengths = r.numbers(K);
    strengths[3] = 0;
    strengths[4] = 1;
    SUBCASE("hard") {
        check_as_on_the_cpu<T>(gpu, codes, harm, {});
    }
    SUBCASE("soft") {
        check_as_on_the_cpu<T>(gpu, codes, harm, {.weights = weights});
    }
    SUBCASE("graded") {
        check_as_on_the_cpu<T>(gpu, codes, harm, {.strength = strengths});
    }
    SUBCASE("norms kept") {
        check_as_on_the_cpu<T>(gpu, codes, harm, {.keep_norms = true});
    }
    SUBCASE("affine") {
        check_as_on_the_cpu<T>(gpu, codes, harm, {.center = center});
    }
    SUBCASE("toward counterparts") {
        check_as_on_the_cpu<T>(gpu, codes, harm, {.strength = strengths, .target = target});
    }
    SUBCASE("cosine") {
        check_as_on_the_cpu<T>(gpu, codes, harm, {.metric = isic::metric::cosine});
    }
    SUBCASE("padding that holds NaN") {
        isic::matrix<T> odd = codes;
        odd(7, 1) = static_cast<T>(isic_test::not_a_number);
        auto device = isic::upload(gpu, odd);
        isic::matrix<T> expected = odd;
        isic::project_out(expected, harm, {.padding = padding});
        const auto done = isic::project_out(gpu, device, harm, {.padding = padding});
        const auto found = isic::download(gpu, device);
        CHECK(std::memcmp(found.row(7).data(), odd.row(7).data(), sizeof(T) * d) == 0);
        CHECK(std::memcmp(found.row(0).data(), odd.row(0).data(), sizeof(T) * d) == 0);
        CHECK(done.summary().moved == K - 2);
        CHECK(std::abs(static_cast<double>(found(9, 2)) - static_cast<double>(expected(9, 2))) <=
              8 * isic_test::unit<T>);
        done.undo(device);
        CHECK(isic_test::bytes_on(gpu, device) == bytes_of(odd));
    }
    SUBCASE("remap") {
        isic::matrix<T> expected = codes;
        isic::remap(expected, {.strength = strengths, .target = target});
        auto device = isic::upload(gpu, codes);
        const auto done = isic::remap(gpu, device, {.strength = strengths, .target = target});
        CHECK(isic_test::ulps_apart(expected, isic::download(gpu, device)) <= (sizeof(T) == 8 ? 16.0 : 1.0));
        done.undo(device);
        CHECK(isic_test::bytes_on(gpu, device) == bytes_of(codes));
    }
    SUBCASE("a target on the device") {
        isic::matrix<T> expected = codes;
        isic::project_out(expected, harm, {.target = target});
        auto device = isic::upload(gpu, codes);
        const auto there = isic::upload(gpu, target);
        isic::project_out(gpu, device, harm, {}, {.target = there});
        CHECK(isic_test::ulps_apart(expected, isic::download(gpu, device)) <= (sizeof(T) == 8 ? 16.0 : 1.0));
        check_throws<isic::shape_error>(
            "project_out", [&] { isic::project_out(gpu, device, harm, {.target = target}, {.target = there}); },
            {"target"});
    }
}

TEST_CASE_TEMPLATE("gaps between rows are not touched", T, ISIC_STORAGE) {
    isic::cuda_backend gpu;
    isic_test::random r(13);
    const auto codes = r.matrix<T>(20, 6);
    const auto harm = directions(r, 6, 2);
    isic::matrix<T> whole(20, 9, static_cast<T>(-77.0F));
    for (index_t i = 0; i < 20; ++i) {
        std::ranges::copy(codes.row(i), whole.row(i).begin());
    }
    auto device = isic::upload(gpu, whole);
    const isic::device_span<T> view(device.data(), 20, 6, 9);
    const auto done = isic::project_out(gpu, view, harm);
    CHECK(done.summary().moved == 20);
    const auto found = isic::download(gpu, device);
    for (index_t i = 0; i < 20; ++i) {
        for (index_t j = 6; j < 9; ++j) {
            CHECK(found(i, j) == static_cast<T>(-77.0F));
        }
    }
    done.undo(view);
    CHECK(isic_test::bytes_on(gpu, device) == bytes_of(whole));
}

TEST_CASE_TEMPLATE("near-zero rows: every policy as on the CPU", T, float, isic::half) {
    isic::cuda_backend gpu;
    isic_test::random r(14);
    const auto harm = isic::span_of(isic_test::from_rows<double>({{1}, {0}, {0}, {0}}));
    auto codes = r.matrix<T>(30, 4);
    for (const index_t k : {4, 5, 19}) {
        codes(k, 0) = static_cast<T>(5.0F);
        for (index_t j = 1; j < 4; ++j) {
            codes(k, j) = static_cast<T>(static_cast<float>(codes(k, j)) * 0.01F);
        }
    }
    for (const index_t k : {8, 9, 10}) {  // nothing to remove: nearest safe rows
        codes(k, 0) = static_cast<T>(0.0F);
    }
    std::vector<index_t> padding{10};  // would be the nearest of two
    for (const index_t j : {1, 2, 3}) {
        codes(10, j) = codes(4, j);
    }
    for (const auto policy :
         {isic::near_zero_policy::nearest_safe, isic::near_zero_policy::skip, isic::near_zero_policy::zero}) {
        isic::matrix<T> expected = codes;
        const auto on_cpu = isic::project_out(expected, harm, {.padding = padding, .near_zero = policy});
        REQUIRE(on_cpu.summary.near_zero == 3);
        auto device = isic::upload(gpu, codes);
        const auto done = isic::project_out(gpu, device, harm, {.padding = padding, .near_zero = policy});
        CHECK(done.summary().near_zero == 3);
        CHECK(done.ids() == on_cpu.ids());
        CHECK(isic_test::ulps_apart(expected, isic::download(gpu, device)) <= (sizeof(T) == 8 ? 16.0 : 1.0));
        done.undo(device);
        CHECK(isic_test::bytes_on(gpu, device) == bytes_of(codes));
    }
    auto device = isic::upload(gpu, codes);
    check_throws<isic::numeric_error>(
        "project_out", [&] { isic::project_out(gpu, device, harm, {.near_zero = isic::near_zero_policy::error}); },
        {"3 rows", "first 4"});
    CHECK(isic_test::bytes_on(gpu, device) == bytes_of(codes));
}

TEST_CASE("rows that are nearly harm alone are cleaned twice: once leaves what rounding left of a large part") {
    isic::cuda_backend gpu;
    isic_test::random r(15);
    const isic::subspace harm = directions(r, 40, 3);
    auto codes = r.matrix(20, 40);
    for (index_t k = 0; k < 20; ++k) {
        for (index_t j = 0; j < 40; ++j) {
            codes(k, j) += 1e8 * (harm.basis(j, 0) - harm.basis(j, 2));
        }
    }
    auto device = isic::upload(gpu, codes);
    isic::project_out(gpu, device, harm, {.near_zero_below = 0});
    CHECK(isic::leakage(gpu, device, harm).largest < 1e-14);  // after the first pass 1e-8
}

TEST_CASE_TEMPLATE("rows are rounded once", T, isic::half, isic::bfloat16) {
    isic::cuda_backend gpu;
    const auto harm = isic::span_of(isic_test::from_rows<double>({{1}, {0}}));
    // Just above the middle of two values, and in float32 the middle itself, which goes to the lower one.
    const double above_middle = 1 + isic_test::unit<T> + 0x1p-40;
    const std::vector<double> center{2 * above_middle + 1, 0};
    auto device = isic::upload(gpu, isic::matrix<T>(1, 2, static_cast<T>(-1.0F)));
    isic::project_out(gpu, device, harm, {.strength = 0.5, .center = center});
    CHECK(static_cast<double>(isic::download(gpu, device)(0, 0)) == 1 + 2 * isic_test::unit<T>);
}

TEST_CASE("what is refused leaves the codebook as it was") {
    isic::cuda_backend gpu;
    isic_test::random r(15);
    const auto harm = directions(r, 5, 2);
    auto codes = r.matrix<isic::half>(9, 5);
    auto device = isic::upload(gpu, codes);
    const auto untouched = [&] { return isic_test::bytes_on(gpu, device) == bytes_of(codes); };
    check_throws<isic::shape_error>("project_out", [&] { isic::project_out(gpu, device, directions(r, 4, 1)); },
                                    {"5", "4"});
    check_throws<isic::value_error>("project_out", [&] { isic::project_out(gpu, device, harm, {.strength = 1.5}); },
                                    {"strength", "1.5"});
    const std::vector<double> weights{1.0};
    check_throws<isic::shape_error>("project_out", [&] { isic::project_out(gpu, device, harm, {.weights = weights}); },
                                    {"weights"});
    const std::vector<index_t> padding{9};
    check_throws<isic::value_error>("project_out", [&] { isic::project_out(gpu, device, harm, {.padding = padding}); },
                                    {"9"});
    check_throws<isic::shape_error>("remap", [&] { isic::remap(gpu, device, {}); }, {"target"});
    isic::matrix<double> far(9, 5, 1.0);
    far(6, 3) = 1e6;  // more than a half can hold
    check_throws<isic::numeric_error>("remap", [&] { isic::remap(gpu, device, {.target = far}); }, {"row 6"});
    CHECK(untouched());
    codes(2, 3) = static_cast<isic::half>(isic_test::infinity);
    device = isic::upload(gpu, codes);
    check_throws<isic::numeric_error>("project_out", [&] { isic::project_out(gpu, device, harm); },
                                      {"row 2", "column 3"});
    CHECK(untouched());
    auto zeros = isic::upload(gpu, isic::matrix<float>(3, 5));
    check_throws<isic::numeric_error>("project_out", [&] { isic::project_out(gpu, zeros, harm); }, {"zeros only"});
    auto wide = isic::upload(gpu, isic::matrix<float>(1, 4097, 1.0F));
    isic::matrix<double> axis(4097, 1);
    axis(0, 0) = 1;
    check_throws<isic::value_error>("project_out", [&] { isic::project_out(gpu, wide, isic::span_of(axis)); },
                                    {"4096", "4097"});
}

TEST_CASE("an edit is undone on the codebook it edited, and on no other") {
    isic::cuda_backend gpu;
    isic_test::random r(16);
    const auto harm = directions(r, 6, 2);
    const auto codes = r.matrix<float>(12, 6);
    auto device = isic::upload(gpu, codes);
    const auto done = isic::project_out(gpu, device, harm);
    auto other = isic::upload(gpu, codes);
    check_throws<isic::value_error>("device_edit::undo", [&] { done.undo(other); }, {"hash"});
    CHECK(isic_test::bytes_on(gpu, other) == bytes_of(codes));
    auto narrow = isic::upload(gpu, r.matrix<float>(12, 5));
    check_throws<isic::shape_error>("device_edit::undo", [&] { done.undo(narrow); }, {"columns"});
    auto wide = isic::upload(gpu, r.matrix<double>(12, 6));
    check_throws<isic::value_error>("device_edit::undo", [&] { done.undo(wide); }, {"element type"});
    const auto kept_nothing = isic::project_out(gpu, other, harm, {}, {.can_undo = false});
    CHECK_FALSE(kept_nothing.can_undo());
    CHECK(kept_nothing.summary().relative_change > 0.1);
    check_throws<isic::value_error>("device_edit::undo", [&] { kept_nothing.undo(other); }, {"can_undo"});
    done.undo(other);  // equal bytes, whichever memory
    CHECK(isic_test::bytes_on(gpu, other) == bytes_of(codes));
}
