// SPDX-License-Identifier: Apache-2.0
#include <isic/differences.hpp>

#include <cstdint>

#include <fmt/format.h>

#include <isic/subspace.hpp>

#include "support/data.hpp"
#include "support/errors.hpp"
#include "support/reference.hpp"

using isic::index_t;
using isic_test::check_throws;
using isic_test::dense;
using isic_test::infinity;
using isic_test::not_a_number;
using isic_test::to_dense;

namespace {

/// Histogram of each image, [n x K].
dense counted(const std::vector<int>& ids, index_t tokens, index_t codes) {
    dense out = dense::Zero(static_cast<index_t>(ids.size()) / tokens, codes);
    for (std::size_t t = 0; t < ids.size(); ++t) {
        out(static_cast<index_t>(t) / tokens, ids[t]) += 1;
    }
    return out;
}

/// The code at every position, [n T x d].
dense gathered(const dense& codes, const std::vector<int>& ids) {
    dense out(static_cast<index_t>(ids.size()), codes.cols());
    for (std::size_t t = 0; t < ids.size(); ++t) {
        out.row(static_cast<index_t>(t)) = codes.row(ids[t]);
    }
    return out;
}

}  // namespace

static_assert(!std::is_constructible_v<isic::difference_accumulator, isic::matrix<float>>,
              "a temporary codebook would dangle");
static_assert(std::is_constructible_v<isic::difference_accumulator, isic::matrix<float>&>);
static_assert(std::is_constructible_v<isic::difference_accumulator, isic::matrix_view<float>>);

TEST_CASE_TEMPLATE("paired differences are harmful minus safe, from strided rows too", T, ISIC_STORAGE) {
    isic_test::random dice(1);
    for (const auto& [n, d] : {std::pair{1, 1}, {1, 7}, {9, 4}, {3, 33}}) {
        const auto h = dice.matrix<T>(n, d);
        const auto s = dice.matrix<T>(n, d);
        isic_test::strided<T> wide(h, 3);
        const dense expected = to_dense(h) - to_dense(s);
        CHECK(to_dense(isic::differences(h, s)) == expected);
        CHECK(to_dense(isic::differences(wide.span(), s)) == expected);
    }
}

TEST_CASE("pooled differences are differences of group means") {
    isic_test::random dice(2);
    const auto h = dice.matrix(12, 5);
    const auto s = dice.matrix<float>(12, 5);
    for (const index_t group : {1, 2, 3, 4, 6, 12}) {
        const dense got = to_dense(isic::pooled_differences(h, s, group));
        CHECK(got.rows() == 12 / group);
        for (index_t i = 0; i < got.rows(); ++i) {
            const dense mean_h = to_dense(h).middleRows(i * group, group).colwise().mean();
            const dense mean_s = to_dense(s).middleRows(i * group, group).colwise().mean();
            CHECK((got.row(i) - (mean_h - mean_s)).norm() < 1e-14);
        }
    }
}

TEST_CASE("the bag of codes is histogram algebra") {
    isic_test::random dice(3);
    for (const auto& [codes, d, n, tokens] : {std::tuple{1, 1, 1, 1}, {5, 4, 3, 7}, {64, 8, 10, 16}, {7, 32, 2, 1}}) {
        const auto book = dice.matrix<float>(codes, d);
        const auto h = dice.ids<int>(n * tokens, codes);
        const auto s = dice.ids<int>(n * tokens, codes);
        const dense histogram_h = counted(h, tokens, codes);
        CHECK(to_dense(isic::histograms(h, tokens, codes)) == histogram_h);
        const dense expected = (histogram_h - counted(s, tokens, codes)) * to_dense(book) / tokens;
        const dense got = to_dense(isic::bag_of_codes_differences(book, h, s, tokens));
        CHECK((got - expected).norm() <= 1e-13 * (1 + expected.norm()));
        // ... and the pooled difference of the gathered embeddings.
        const auto rows_h = isic_test::from_dense(gathered(to_dense(book), h));
        const auto rows_s = isic_test::from_dense(gathered(to_dense(book), s));
        CHECK((to_dense(isic::pooled_differences(rows_h, rows_s, tokens)) - got).norm() <=
              1e-13 * (1 + expected.norm()));
    }
}

TEST_CASE_TEMPLATE("accumulated ids give the moments of the gathered rows' differences", T, ISIC_STORAGE) {
    isic_test::random dice(4);
    for (const auto& [codes, d, tokens] : {std::tuple{1, 1, 3}, {10, 4, 50}, {40, 8, 64}, {30, 33, 20}}) {
        const auto book = dice.matrix<T>(codes, d);
        isic_test::strided<T> memory(book, 2);
        isic::difference_accumulator pairs(memory.span());
        dense rows(0, d);
        dense usage_h = dense::Zero(1, codes);
        dense usage_s = dense::Zero(1, codes);
        for (int image = 0; image < 4; ++image) {
            const auto h = dice.ids<int>(tokens, codes);
            auto s = h;
            for (int t = 0; t < tokens; t += 2) {
                s[static_cast<std::size_t>(t)] = static_cast<int>(dice.below(codes));
            }
            pairs.add(h, s);
            rows.conservativeResize(rows.rows() + tokens, d);
            rows.bottomRows(tokens) = gathered(to_dense(book), h) - gathered(to_dense(book), s);
            usage_h += counted(h, tokens, codes);
            usage_s += counted(s, tokens, codes);
        }
        const auto lone = dice.ids<std::int64_t>(tokens, codes);
        pairs.add_safe(lone);
        usage_s += counted({lone.begin(), lone.end()}, tokens, codes);
        CHECK(pairs.count() == rows.rows());
        CHECK((to_dense(pairs.second_moment()) - rows.transpose() * rows).norm() <= 1e-12 * (1 + rows.squaredNorm()));
        const auto mean = pairs.mean();
        const auto safe_mean = pairs.safe_mean();
        const dense safe_sum = usage_s * to_dense(book);
        for (index_t j = 0; j < d; ++j) {
            CHECK(mean[static_cast<std::size_t>(j)] == doctest::Approx(rows.col(j).mean()).epsilon(1e-10));
            CHECK(safe_mean[static_cast<std::size_t>(j)] ==
                  doctest::Approx(safe_sum(0, j) / usage_s.sum()).epsilon(1e-10));
        }
        const dense safe_second = to_dense(book).transpose() * usage_s.row(0).asDiagonal() * to_dense(book);
        CHECK((to_dense(pairs.safe_second_moment()) - safe_second).norm() <= 1e-12 * (1 + safe_second.norm()));
        for (index_t k = 0; k < codes; ++k) {
            CHECK(pairs.usage().harmful[static_cast<std::size_t>(k)] == usage_h(0, k));
            CHECK(pairs.usage().safe[static_cast<std::size_t>(k)] == usage_s(0, k));
        }
        CHECK(memory.gaps_intact());
    }
}

TEST_CASE("an accumulator of rows holds the moments of both sides") {
    isic_test::random dice(5);
    const auto h = dice.matrix<float>(30, 6);
    const auto s = dice.matrix<double>(30, 6);
    isic::difference_accumulator pairs(6);
    pairs.add_rows(h, s);
    const dense d = to_dense(h) - to_dense(s);
    CHECK(pairs.count() == 30);
    CHECK((to_dense(pairs.second_moment()) - d.transpose() * d).norm() < 1e-12);
    CHECK((to_dense(pairs.safe_second_moment()) - to_dense(s).transpose() * to_dense(s)).norm() < 1e-12);
    for (index_t j = 0; j < 6; ++j) {
        CHECK(pairs.safe_mean()[static_cast<std::size_t>(j)] == doctest::Approx(to_dense(s).col(j).mean()));
    }
    CHECK(pairs.usage().harmful.empty());
}

TEST_CASE("merged accumulators equal one that saw everything, in any split") {
    isic_test::random dice(6);
    const auto book = dice.matrix<float>(20, 5);
    isic::difference_accumulator whole(book);
    isic::difference_accumulator left(book);
    isic::difference_accumulator right(book);
    isic::difference_accumulator none(book);
    for (int i = 0; i < 12; ++i) {
        const auto h = dice.ids<int>(9, 20);
        const auto s = dice.ids<int>(9, 20);
        whole.add(h, s);
        (i % 3 == 0 ? left : right).add(h, s);
    }
    CHECK((to_dense(left.second_moment()) - to_dense(whole.second_moment())).norm() > 1);
    left.merge(right);
    left.merge(none);
    CHECK(left.count() == whole.count());
    CHECK((to_dense(left.second_moment()) - to_dense(whole.second_moment())).norm() < 1e-11);
    CHECK(left.usage().harmful == whole.usage().harmful);
    CHECK(left.usage().safe == whole.usage().safe);
    CHECK((to_dense(left.safe_second_moment()) - to_dense(whole.safe_second_moment())).norm() < 1e-11);

    isic::difference_accumulator rows(3);
    isic::difference_accumulator more(3);
    const auto a = dice.matrix(4, 3);
    const auto b = dice.matrix(4, 3);
    more.add_rows(a, b);
    rows.merge(more);
    CHECK(to_dense(rows.second_moment()) == to_dense(more.second_moment()));
    CHECK(rows.safe_mean() == more.safe_mean());
    rows.merge(rows);
    CHECK(rows.count() == 8);
    CHECK((to_dense(rows.second_moment()) - 2 * to_dense(more.second_moment())).norm() < 1e-13);
}

TEST_CASE("a refused pair leaves the accumulator as it was") {
    isic_test::random dice(7);
    const auto book = dice.matrix<float>(8, 3);
    isic::difference_accumulator pairs(book);
    pairs.add(std::vector{1, 2}, std::vector{3, 4});
    const auto second = isic_test::bytes_of(pairs.second_moment());
    const auto usage = pairs.usage();
    check_throws<isic::shape_error>("difference_accumulator::add",
                                    [&] { pairs.add(std::vector{1}, std::vector{1, 2}); }, {"1 safe ids", "got 2"});
    check_throws<isic::value_error>("difference_accumulator::add",
                                    [&] { pairs.add(std::vector{1, 8}, std::vector{1, 2}); },
                                    {"[0, 8)", "8 at position 1"});
    check_throws<isic::value_error>("difference_accumulator::add",
                                    [&] { pairs.add(std::vector{1, 2}, std::vector{1, -1}); }, {"-1 at position 1"});
    check_throws<isic::value_error>("difference_accumulator::add_safe", [&] { pairs.add_safe(std::vector{0, 9}); });
    for (const std::uint64_t large : {std::uint64_t{1} << 63, ~std::uint64_t{0}}) {  // which int64 cannot hold
        check_throws<isic::value_error>("difference_accumulator::add_safe",
                                        [&] { pairs.add_safe(std::vector{std::uint64_t{0}, large}); },
                                        {fmt::format("got {} at position 1", large)});
    }
    check_throws<isic::shape_error>("difference_accumulator::add_rows", [&] { pairs.add_rows(book, book); },
                                    {"one of token ids"});
    isic::difference_accumulator other_width(2);
    check_throws<isic::shape_error>("difference_accumulator::merge", [&] { pairs.merge(other_width); }, {"3 columns"});
    isic::difference_accumulator of_rows(3);
    check_throws<isic::shape_error>("difference_accumulator::merge", [&] { pairs.merge(of_rows); },
                                    {"8 codes", "got 0"});
    CHECK(isic_test::bytes_of(pairs.second_moment()) == second);
    CHECK(pairs.usage().safe == usage.safe);
    CHECK(pairs.usage().harmful == usage.harmful);
    CHECK(pairs.count() == 2);

    auto bad = dice.matrix(2, 3);
    bad(1, 2) = not_a_number;
    const auto good = dice.matrix(2, 3);
    isic::difference_accumulator rows(3);
    check_throws<isic::numeric_error>("difference_accumulator::add_rows", [&] { rows.add_rows(good, bad); },
                                      {"safe", "row 1, column 2"});
    check_throws<isic::shape_error>("difference_accumulator::add_rows",
                                    [&] { rows.add_rows(good, dice.matrix(3, 3)); });
    check_throws<isic::value_error>("difference_accumulator::add_rows",
                                    [&] { rows.add_rows(good, good, {.threads = -1}); }, {"threads >= 0", "got -1"});
    check_throws<isic::shape_error>("difference_accumulator::add_rows",
                                    [&] { rows.add_rows(dice.matrix(2, 4), dice.matrix(2, 4)); });
    check_throws<isic::shape_error>("difference_accumulator::add", [&] { rows.add(std::vector{0}, std::vector{0}); },
                                    {"one of rows"});
    CHECK(rows.count() == 0);
    CHECK(to_dense(rows.second_moment()).norm() == 0);
    CHECK(rows.mean() == std::vector<double>(3, 0.0));
    CHECK(rows.safe_mean() == std::vector<double>(3, 0.0));
    CHECK(to_dense(rows.safe_second_moment()).norm() == 0);
}

TEST_CASE("bad input to the differences is told by function, expected and got") {
    isic_test::random dice(8);
    const auto a = dice.matrix(4, 3);
    check_throws<isic::shape_error>("differences", [&] { isic::differences(a, dice.matrix(5, 3)); },
                                    {"4 safe rows", "got 5"});
    check_throws<isic::shape_error>("differences", [&] { isic::differences(a, dice.matrix(4, 2)); },
                                    {"3 columns in safe"});
    check_throws<isic::shape_error>("differences",
                                    [&] { isic::differences(isic::matrix<double>(0, 3), isic::matrix<double>(0, 3)); });
    check_throws<isic::shape_error>("differences",
                                    [&] { isic::differences(isic::matrix<double>(3, 0), isic::matrix<double>(3, 0)); });
    for (const double wrong : {not_a_number, infinity, -infinity}) {
        auto b = a;
        b(2, 1) = wrong;
        check_throws<isic::numeric_error>("differences", [&] { isic::differences(a, b); },
                                          {"in safe", "row 2, column 1"});
        check_throws<isic::numeric_error>("differences", [&] { isic::differences(b, a); }, {"in harmful"});
        check_throws<isic::numeric_error>("difference_accumulator", [&] { isic::difference_accumulator x(b); });
        check_throws<isic::numeric_error>(
            "bag_of_codes_differences", [&] { isic::bag_of_codes_differences(b, std::vector{0}, std::vector{0}, 1); });
    }
    for (const index_t group : {0, -1, 3, 8}) {
        check_throws<isic::shape_error>("pooled_differences", [&] { isic::pooled_differences(a, a, group); });
        check_throws<isic::shape_error>("histograms", [&] { isic::histograms(std::vector{0, 1, 0, 1}, group, 2); });
        check_throws<isic::shape_error>("bag_of_codes_differences", [&] {
            isic::bag_of_codes_differences(a, std::vector{0, 1, 0, 1}, std::vector{0, 1, 0, 1}, group);
        });
    }
    check_throws<isic::value_error>("histograms", [&] { isic::histograms(std::vector{0, 2}, 1, 2); },
                                    {"2 at position 1"});
    check_throws<isic::value_error>("histograms", [&] { isic::histograms(std::vector{0, -2}, 1, 2); });
    check_throws<isic::shape_error>("bag_of_codes_differences",
                                    [&] { isic::bag_of_codes_differences(a, std::vector{0}, std::vector{0, 1}, 1); });
    check_throws<isic::value_error>("bag_of_codes_differences",
                                    [&] { isic::bag_of_codes_differences(a, std::vector{4}, std::vector{0}, 1); });
    check_throws<isic::value_error>("bag_of_codes_differences",
                                    [&] { isic::bag_of_codes_differences(a, std::vector{0}, std::vector{-1}, 1); });
    check_throws<isic::shape_error>("bag_of_codes_differences", [&] {
        isic::bag_of_codes_differences(isic::matrix<float>(0, 3), std::vector{0}, std::vector{0}, 1);
    });
    check_throws<isic::shape_error>("difference_accumulator", [] { isic::difference_accumulator x(0); });
    const isic::matrix<float> no_rows(0, 3);
    check_throws<isic::shape_error>("difference_accumulator", [&] { isic::difference_accumulator x(no_rows); });
}
