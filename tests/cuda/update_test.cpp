// SPDX-License-Identifier: Apache-2.0
#include <isic/detail/eigen_view.hpp>
#include "cuda/support.hpp"

using isic::index_t;
using isic_test::bytes_of;
using isic_test::check_throws;

namespace {

struct problem {
    explicit problem(std::uint64_t seed) : r(seed), harm(isic::span_of(r.matrix(9, 3))) {}

    isic::constraint limits(const isic::matrix<double>& anchor) const {
        isic::constraint out;
        out.orthogonal_to = harm;
        out.locked.assign(25, false);
        out.locked[2] = true;
        out.within = 0.05;
        out.anchor = anchor;
        return out;
    }

    isic_test::random r;
    isic::subspace harm;
};

void check_same(const isic::update_summary& found, const isic::update_summary& expected) {
    CHECK(found.moved == expected.moved);
    CHECK(found.overflowed == expected.overflowed);
    CHECK(found.largest_step == doctest::Approx(expected.largest_step).epsilon(1e-9));
}

template <class T>
double inside(const isic::matrix<T>& before, const isic::matrix<T>& after, const isic::subspace& harm) {
    const Eigen::MatrixXd step = isic::detail::map(isic::detail::to_double(after.view())) -
                                 isic::detail::map(isic::detail::to_double(before.view()));
    return (step * isic::detail::map(harm.basis)).norm() / step.norm();
}

}  // namespace

TEST_CASE_TEMPLATE("vectors are collected by code as on the CPU, the same in every run", Id, std::int32_t,
                   std::int64_t) {
    isic::cuda_backend gpu;
    isic_test::random r(31);
    const auto vectors = r.matrix<float>(300, 5);
    const auto ids = r.ids<Id>(300, 40);
    const auto expected = isic::assign(vectors, ids, 50);  // ten codes have none
    const auto device_vectors = isic::upload(gpu, vectors);
    const auto device_ids = isic::upload_ids(gpu, ids);
    const auto found = isic::assign(gpu, device_vectors, device_ids, 50);
    const auto counts = isic::download(gpu, found.counts);
    CHECK(std::vector<double>(counts.data(), counts.data() + 50) == expected.counts);
    CHECK(bytes_of(isic::download(gpu, found.sums)) == bytes_of(expected.sums));
    const std::vector<Id> none;
    const auto empty = isic::assign(gpu, isic::device_matrix<float>(gpu, 0, 5), isic::upload_ids(gpu, none), 3);
    CHECK(isic::download(gpu, empty.sums)(2, 4) == 0.0);
    check_throws<isic::value_error>("assign", [&] { isic::assign(gpu, device_vectors, device_ids, 20); }, {"[0, 20)"});
    check_throws<isic::shape_error>(
        "assign", [&] { isic::assign(gpu, isic::upload(gpu, r.matrix<float>(299, 5)), device_ids, 50); },
        {"299", "300"});
}

TEST_CASE_TEMPLATE("ridge and EMA steps are the CPU's and stay outside the subspace", T, ISIC_STORAGE) {
    isic::cuda_backend gpu;
    problem p(32);
    const auto codes = p.r.matrix<T>(25, 9);
    const auto vectors = p.r.matrix(120, 9);
    const auto ids = p.r.ids<std::int32_t>(120, 20);
    const auto batch = isic::assign(vectors, ids, 25);
    const auto device_batch = isic::assign(gpu, isic::upload(gpu, vectors), isic::upload_ids(gpu, ids), 25);
    isic::constraint limits;
    limits.orthogonal_to = p.harm;
    const isic::device_constraint device_limits(gpu, limits, 25, 9);
    SUBCASE("ridge") {
        auto expected = codes;
        const auto summary = isic::ridge_update(expected, batch, 0.5, limits);
        auto device = isic::upload(gpu, codes);
        check_same(isic::ridge_update(gpu, device, device_batch, 0.5, device_limits).get(), summary);
        const auto found = isic::download(gpu, device);
        CHECK(isic_test::ulps_apart(expected, found) <= (sizeof(T) == 8 ? 16.0 : 1.0));
        CHECK(std::memcmp(found.row(24).data(), codes.row(24).data(), 9 * sizeof(T)) == 0);  // no vectors
        if (sizeof(T) >= 4) {
            CHECK(inside(codes, found, p.harm) < 1e-6);
            auto free = isic::upload(gpu, codes);
            isic::ridge_update(gpu, free, device_batch, 0.5);
            CHECK(inside(codes, isic::download(gpu, free), p.harm) > 0.1);  // the constraint does it
        }
    }
    SUBCASE("EMA, several steps") {
        auto expected = codes;
        auto device = isic::upload(gpu, codes);
        isic::ema_state state;
        isic::device_ema_state<> device_state;
        for (int step = 0; step < 3; ++step) {
            const auto summary = isic::ema_update(expected, state, batch, 0.9, limits);
            check_same(isic::ema_update(gpu, device, device_state, device_batch, 0.9, device_limits).get(), summary);
        }
        CHECK(isic_test::ulps_apart(expected, isic::download(gpu, device)) <= (sizeof(T) == 8 ? 16.0 : 1.0));
        CHECK(isic_test::largest_difference(isic::download(gpu, device_state.sums), state.sums) < 1e-12);
    }
}

TEST_CASE_TEMPLATE("SGD and Adam steps with every limit are the CPU's", T, ISIC_STORAGE) {
    isic::cuda_backend gpu;
    problem p(33);
    const auto codes = p.r.matrix<T>(25, 9);
    isic::constraint limits = p.limits(isic::detail::to_double(codes.view()));
    SUBCASE("radius") {}
    SUBCASE("norms kept") {
        limits.within = isic_test::infinity;
        limits.keep_norms = true;
    }
    const isic::device_constraint device_limits(gpu, limits, 25, 9);
    auto expected = codes;
    auto device = isic::upload(gpu, codes);
    isic::adam_state adam;
    isic::device_adam_state<double> device_adam;
    isic::sgd_state sgd;
    isic::device_sgd_state<double> device_sgd;
    for (int step = 0; step < 4; ++step) {
        const auto gradient = p.r.matrix<float>(25, 9);
        const auto device_gradient = isic::upload(gpu, gradient);
        check_same(isic::adam_update(gpu, device, device_gradient, device_adam, {.rate = 0.02}, device_limits).get(),
                   isic::adam_update(expected, gradient, adam, {.rate = 0.02}, limits));
        CHECK(isic_test::ulps_apart(expected, isic::download(gpu, device)) <= (sizeof(T) == 8 ? 16.0 : 1.0));
        check_same(
            isic::sgd_update(gpu, device, device_gradient, device_sgd, {.rate = 0.01, .momentum = 0.9}, device_limits)
                .get(),
            isic::sgd_update(expected, gradient, sgd, {.rate = 0.01, .momentum = 0.9}, limits));
        CHECK(isic_test::ulps_apart(expected, isic::download(gpu, device)) <= (sizeof(T) == 8 ? 16.0 : 1.0));
        expected = isic::download(gpu, device);  // so that one last place does not grow
    }
    CHECK(device_adam.steps == 4);
    CHECK(isic_test::largest_difference(isic::download(gpu, device_adam.mean), adam.mean) < 1e-12);
    CHECK(isic_test::largest_difference(isic::download(gpu, device_adam.square), adam.square) < 1e-12);
    const auto found = isic::download(gpu, device);
    CHECK(std::memcmp(found.row(2).data(), codes.row(2).data(), 9 * sizeof(T)) == 0);  // locked
    CHECK(bytes_of(found) != bytes_of(codes));
}

TEST_CASE("a moving average that has faded away leaves its code where it was") {
    isic::cuda_backend gpu;
    isic_test::random r(35);
    const auto codes = r.matrix<float>(5, 9);
    auto device = isic::upload(gpu, codes);
    isic::device_ema_state<> state;
    const auto none =
        isic::assign(gpu, isic::device_matrix<float>(gpu, 0, 9), isic::upload_ids(gpu, std::vector<std::int32_t>()), 5);
    for (int step = 0; step < 1200; ++step) {  // 2^-1074 is the least number
        isic::ema_update(gpu, device, state, none, 0.5);
    }
    CHECK(isic_test::bytes_on(gpu, device) == bytes_of(codes));
    CHECK(isic_test::bytes_on(gpu, state.counts) == bytes_of(isic::matrix<double>(1, 5, 0.0)));
    CHECK(isic_test::bytes_on(gpu, state.sums) == bytes_of(isic::matrix<double>(5, 9, 0.0)));
}

TEST_CASE("state in float32 stays within its rounding of float64") {
    isic::cuda_backend gpu;
    problem p(34);
    const auto codes = p.r.matrix<float>(25, 9);
    auto wide = isic::upload(gpu, codes);
    auto narrow = isic::upload(gpu, codes);
    isic::device_adam_state<double> wide_state;
    isic::device_adam_state<float> narrow_state;
    for (int step = 0; step < 10; ++step) {
        const auto gradient = isic::upload(gpu, p.r.matrix<float>(25, 9));
        isic::adam_update(gpu, wide, gradient, wide_state, {.rate = 0.02});
        isic::adam_update(gpu, narrow, gradient, narrow_state, {.rate = 0.02});
    }
    const auto a = isic::detail::to_double(isic::download(gpu, wide).view());
    const auto b = isic::detail::to_double(isic::download(gpu, narrow).view());
    CHECK(isic_test::largest_difference(a, b) < 2e-6);
    CHECK(isic_test::largest_difference(a, isic::detail::to_double(codes.view())) > 0.05);
}

TEST_CASE("rows that would overflow stay, and are counted; NaN gradients too") {
    isic::cuda_backend gpu;
    isic::matrix<isic::half> codes(3, 4, static_cast<isic::half>(1.0F));
    isic::matrix<double> gradient(3, 4, 1.0);
    gradient(1, 2) = -1e9;
    gradient(2, 0) = isic_test::not_a_number;
    auto device = isic::upload(gpu, codes);
    isic::device_sgd_state<float> state;
    const auto done = isic::sgd_update(gpu, device, isic::upload(gpu, gradient), state, {.rate = 0.5}).get();
    CHECK(done.moved == 1);
    CHECK(done.overflowed == 2);
    const auto found = isic::download(gpu, device);
    CHECK(found(0, 0) == static_cast<isic::half>(0.5F));
    CHECK(found(1, 2) == static_cast<isic::half>(1.0F));
    CHECK(found(2, 0) == static_cast<isic::half>(1.0F));
}

TEST_CASE("updates refuse what does not fit, and change nothing") {
    isic::cuda_backend gpu;
    isic_test::random r(35);
    const auto codes = r.matrix<float>(6, 4);
    auto device = isic::upload(gpu, codes);
    const auto gradient = isic::upload(gpu, r.matrix<float>(6, 4));
    isic::device_adam_state<float> state;
    isic::device_sgd_state<float> sgd;
    isic::device_ema_state<> ema;
    check_throws<isic::shape_error>(
        "adam_update", [&] { isic::adam_update(gpu, device, isic::upload(gpu, r.matrix<float>(5, 4)), state); },
        {"6", "5"});
    CHECK(state.steps == 0);
    check_throws<isic::value_error>("adam_update",
                                    [&] { isic::adam_update(gpu, device, gradient, state, {.rate = -1}); }, {"rate"});
    check_throws<isic::value_error>(
        "sgd_update", [&] { isic::sgd_update(gpu, device, gradient, sgd, {.momentum = 1}); }, {"momentum"});
    isic::constraint limits;
    limits.orthogonal_to = isic::span_of(r.matrix(4, 1));
    const isic::device_constraint other(gpu, limits, 7, 4);
    check_throws<isic::shape_error>("adam_update", [&] { isic::adam_update(gpu, device, gradient, state, {}, other); },
                                    {"constraint", "6", "7"});
    check_throws<isic::shape_error>("device_constraint", [&] { isic::device_constraint(gpu, limits, 6, 5); }, {"5"});
    const isic::device_assignments batch{isic::device_matrix<double>(gpu, 1, 5),
                                         isic::device_matrix<double>(gpu, 5, 4)};
    check_throws<isic::shape_error>("ridge_update", [&] { isic::ridge_update(gpu, device, batch, 1.0); }, {"counts"});
    check_throws<isic::shape_error>("ema_update", [&] { isic::ema_update(gpu, device, ema, batch, 0.9); }, {"counts"});
    check_throws<isic::value_error>("update_future::get", [] { isic::update_future().get(); }, {});
    CHECK(isic_test::bytes_on(gpu, device) == bytes_of(codes));
}
