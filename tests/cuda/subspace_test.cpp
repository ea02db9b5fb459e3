// SPDX-License-Identifier: Apache-2.0
#include <isic/subspace.hpp>

#include <isic/detail/eigen_view.hpp>
#include "cuda/support.hpp"

using isic::index_t;
using isic_test::check_throws;

namespace {

/// ||A A^T - B B^T||_F of two bases.
double projector_distance(const isic::matrix<double>& a, const isic::matrix<double>& b) {
    const Eigen::MatrixXd x = isic::detail::map(a);
    const Eigen::MatrixXd y = isic::detail::map(b);
    return (x * x.transpose() - y * y.transpose()).norm();
}

void check_same(const isic::device_fit& found, const isic::subspace& expected) {
    CHECK(found.subspace.chosen.rank == expected.chosen.rank);
    CHECK(found.subspace.chosen.decided_by == expected.chosen.decided_by);
    REQUIRE(found.subspace.rank() == expected.rank());
    CHECK(projector_distance(found.subspace.basis, expected.basis) < 1e-9);
    CHECK(isic_test::largest_difference(found.subspace.basis, expected.basis) < 1e-9);  // signs too
    CHECK(found.subspace.energy == doctest::Approx(expected.energy).epsilon(1e-10));
    for (index_t i = 0; i < found.subspace.rank(); ++i) {
        const auto at = static_cast<std::size_t>(i);
        CHECK(found.subspace.singular_values[at] == doctest::Approx(expected.singular_values[at]).epsilon(1e-10));
    }
}

}  // namespace

TEST_CASE_TEMPLATE("moments of rows are those of the CPU, over more than one chunk", T, ISIC_STORAGE) {
    isic::cuda_backend gpu;
    isic_test::random r(3);
    const index_t n = 4096 + 77;
    const auto harmful = r.matrix<T>(n, 5);
    const auto safe = r.matrix<T>(n, 5);
    isic::difference_accumulator expected(5);
    expected.add_rows(harmful, safe);
    isic::device_accumulator found(gpu, 5, true);
    isic::matrix<T> wide(n, 7, static_cast<T>(isic_test::not_a_number));  // rows with gaps between them
    for (index_t i = 0; i < n; ++i) {
        std::ranges::copy(harmful.row(i), wide.row(i).begin());
    }
    const auto with_gaps = isic::upload(gpu, wide);
    found.add_rows(isic::device_view<T>(with_gaps.data(), n, 5, 7), isic::upload(gpu, safe));
    CHECK(found.count() == n);
    const double size = std::abs(expected.second_moment()(0, 0));
    CHECK(isic_test::largest_difference(found.second_moment(), expected.second_moment()) < 1e-12 * size);
    CHECK(isic_test::largest_difference(found.safe_second_moment(), expected.safe_second_moment()) < 1e-12 * size);
    for (std::size_t j = 0; j < 5; ++j) {
        CHECK(found.mean()[j] == doctest::Approx(expected.mean()[j]).epsilon(1e-11));
        CHECK(found.safe_mean()[j] == doctest::Approx(expected.safe_mean()[j]).epsilon(1e-11));
    }
}

TEST_CASE_TEMPLATE("moments and usage of token ids are those of the CPU", Id, std::int32_t, std::int64_t) {
    isic::cuda_backend gpu;
    isic_test::random r(4);
    const auto codes = r.matrix<float>(30, 6);
    const auto h = r.ids<Id>(200, 30);
    const auto s = r.ids<Id>(200, 30);
    const auto more = r.ids<Id>(50, 30);
    isic::difference_accumulator expected(codes);
    expected.add(h, s);
    expected.add_safe(more);
    const auto device_codes = isic::upload(gpu, codes);
    isic::device_accumulator found(gpu, device_codes.view());
    isic::device_accumulator rest(gpu, device_codes.view());
    const std::span<const Id> all_h(h);
    const std::span<const Id> all_s(s);
    found.add(isic::upload_ids(gpu, all_h.first(120), 10), isic::upload_ids(gpu, all_s.first(120), 10));
    rest.add(isic::upload_ids(gpu, all_h.subspan(120)), isic::upload_ids(gpu, all_s.subspan(120)));
    rest.add_safe(isic::upload_ids(gpu, more));
    CHECK(found.count() == 120);
    found.merge(rest);
    CHECK(found.count() == 200);
    const double size = expected.second_moment()(0, 0);
    CHECK(isic_test::largest_difference(found.second_moment(), expected.second_moment()) < 1e-12 * size);
    CHECK(isic_test::largest_difference(found.safe_second_moment(), expected.safe_second_moment()) < 1e-11 * size);
    CHECK(found.usage().harmful == expected.usage().harmful);
    CHECK(found.usage().safe == expected.usage().safe);
    for (std::size_t j = 0; j < 6; ++j) {
        CHECK(found.safe_mean()[j] == doctest::Approx(expected.safe_mean()[j]).epsilon(1e-11));
    }
    const auto fitted = isic::fit_subspace(found, {.rank = {.fixed = 2}});
    check_same(fitted, isic::fit_subspace(expected, {.rank = {.fixed = 2}}));
}

TEST_CASE("every solver finds the CPU's subspace, and says its name") {
    isic::cuda_backend gpu;
    isic_test::random r(5);
    const auto rows = isic_test::decaying(r, 200, 24);
    const auto device = isic::upload(gpu, rows);
    const isic::rank_options fixed{.fixed = 3};
    const isic::subspace expected = isic::fit_subspace(rows, {.rank = fixed});
    for (const auto solver : {isic::eigen_solver::syevd, isic::eigen_solver::jacobi, isic::eigen_solver::randomised}) {
        CAPTURE(isic::to_string(solver));
        const auto found = isic::fit_subspace(gpu, device, {.rank = fixed, .solver = solver});
        CHECK(found.solver == solver);
        check_same(found, expected);
    }
    CHECK(isic::fit_subspace(gpu, device, {.rank = fixed}).solver == isic::eigen_solver::jacobi);
    check_same(isic::fit_subspace(gpu, device), isic::fit_subspace(rows));  // rules that need all values
    check_throws<isic::value_error>(
        "fit_subspace", [&] { isic::fit_subspace(gpu, device, {.solver = isic::eigen_solver::randomised}); },
        {"Gavish-Donoho"});
}

TEST_CASE(
    "the randomised solver finds directions of spectra that fall slowly or fast, and of fewer rows than it has "
    "columns") {
    isic::cuda_backend gpu;
    isic_test::random r(8);
    for (const auto& [n, by, wanted] :
         {std::tuple<index_t, double, index_t>{512, 0.99, 12}, {20, 1.0, 12}, {12, 0.9, 12}, {300, 0.5, 12}}) {
        CAPTURE(n);
        const auto rows = isic_test::decaying(r, n, 256, by);
        const isic::rank_options fixed{.fixed = wanted};
        const auto found = isic::fit_subspace(gpu, isic::upload(gpu, rows), {.rank = fixed});
        CHECK(found.solver == isic::eigen_solver::randomised);
        check_same(found, isic::fit_subspace(rows, {.rank = fixed}));
    }
}

TEST_CASE("a spectrum without a gap sends the randomised solver to syevd") {
    isic::cuda_backend gpu;
    isic::matrix<double> rows(40, 40);
    for (index_t i = 0; i < 40; ++i) {
        rows(i, i) = 1.0 + 1e-4 * static_cast<double>(i);
    }
    const auto found = isic::fit_subspace(gpu, isic::upload(gpu, rows),
                                          {.rank = {.fixed = 2}, .solver = isic::eigen_solver::randomised});
    CHECK(found.solver == isic::eigen_solver::syevd);
    check_same(found, isic::fit_subspace(rows, {.rank = {.fixed = 2}}));
}

TEST_CASE("centring by the mean and by the safe axis, as on the CPU") {
    isic::cuda_backend gpu;
    isic_test::random r(6);
    auto harmful = isic_test::decaying(r, 90, 6, 0.8);
    const auto safe = isic_test::decaying(r, 90, 6, 0.5);
    for (index_t i = 0; i < 90; ++i) {
        harmful(i, 4) += 3.0;
    }
    isic::difference_accumulator expected(6);
    expected.add_rows(harmful, safe);
    isic::device_accumulator found(gpu, 6, true);
    found.add_rows(isic::upload(gpu, harmful), isic::upload(gpu, safe));
    const isic::subspace plain = isic::fit_subspace(expected, {.rank = {.fixed = 1}});
    for (const auto center : {isic::centering::mean, isic::centering::safe_axis}) {
        const isic::subspace wanted = isic::fit_subspace(expected, {.rank = {.fixed = 1}, .center = center});
        check_same(isic::fit_subspace(found, {.rank = {.fixed = 1}, .center = center}), wanted);
        CHECK(projector_distance(plain.basis, wanted.basis) > 1e-3);  // it matters
    }
}

TEST_CASE("what cannot be fitted says why, and NaN and bad ids are noticed when somebody waits") {
    isic::cuda_backend gpu;
    isic_test::random r(7);
    auto bad = r.matrix<float>(9, 4);
    const auto good = isic::upload(gpu, r.matrix<float>(9, 4));
    bad(5, 2) = std::numeric_limits<float>::quiet_NaN();
    isic::device_accumulator rows(gpu, 4);
    check_throws<isic::shape_error>("fit_subspace", [&] { isic::fit_subspace(rows); }, {"empty"});
    rows.add_rows(isic::upload(gpu, bad), good);
    check_throws<isic::numeric_error>("device_accumulator", [&] { isic::fit_subspace(rows); }, {"row 5", "column 2"});
    check_throws<isic::numeric_error>("device_accumulator", [&] { rows.mean(); }, {"row 5"});
    isic::device_accumulator same(gpu, 4);
    same.add_rows(good, good);
    check_throws<isic::numeric_error>("fit_subspace", [&] { isic::fit_subspace(same); }, {"zero"});
    check_throws<isic::shape_error>("device_accumulator",
                                    [&] { same.add_rows(good, isic::upload(gpu, r.matrix<float>(8, 4))); }, {"9", "8"});
    check_throws<isic::value_error>("device_accumulator",
                                    [&] { isic::fit_subspace(same, {.center = isic::centering::safe_axis}); },
                                    {"keep_safe_moment"});
    check_throws<isic::value_error>("fit_subspace", [&] { isic::fit_subspace(same, {.rank = {.sign_flips = 10}}); },
                                    {"sign flips"});
    isic::device_accumulator ids(gpu, good.view());
    const std::vector<std::int32_t> inside{0, 1, 8};
    const std::vector<std::int32_t> outside{0, 9, 1};
    ids.add(isic::upload_ids(gpu, inside), isic::upload_ids(gpu, outside));
    check_throws<isic::value_error>("device_accumulator", [&] { ids.usage(); }, {"position 1"});
    check_throws<isic::shape_error>("device_accumulator", [&] { ids.add_rows(good, good); }, {"token ids"});
    check_throws<isic::shape_error>("device_accumulator",
                                    [&] { rows.add(isic::upload_ids(gpu, inside), isic::upload_ids(gpu, inside)); },
                                    {"codebook"});
    check_throws<isic::numeric_error>("device_accumulator",
                                      [&] { isic::device_accumulator(gpu, isic::upload(gpu, bad).view()); },
                                      {"codebook", "row 5"});
    check_throws<isic::shape_error>("device_accumulator", [&] { isic::device_accumulator(gpu, 0); }, {"width"});
}
