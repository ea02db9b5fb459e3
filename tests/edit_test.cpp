// SPDX-License-Identifier: Apache-2.0
// Edits: undone and applied bit for bit, and only where they fit.
#include <isic/edit.hpp>

#include <algorithm>
#include <tuple>
#include <utility>
#include <vector>

#include <isic/projection.hpp>

#include "support/data.hpp"
#include "support/edits.hpp"
#include "support/errors.hpp"
#include "support/reference.hpp"

using isic::edit;
using isic::index_t;
using isic::matrix;
using isic_test::bytes_of;
using isic_test::check_throws;
using isic_test::to_dense;

namespace {

/// A codebook with some rows replaced; row 1 holds what only bytes can tell apart.
template <class T>
std::pair<matrix<T>, matrix<T>> two_versions(isic_test::random& dice, index_t codes, index_t width) {
    auto before = dice.matrix<T>(codes, width);
    before(1, 0) = static_cast<T>(0.0F);
    auto after = before;
    after(1, 0) = static_cast<T>(-0.0F);
    for (index_t k = 3; k < codes; k += 3) {
        std::ranges::copy(dice.matrix<T>(1, width).row(0), after.row(k).begin());
    }
    return {before, after};
}

}  // namespace

TEST_CASE_TEMPLATE("an edit between two versions turns either into the other, bit for bit", T, ISIC_STORAGE) {
    isic_test::random dice(1);
    for (const auto& [codes, width, gap] : {std::tuple{2, 1, 0}, {7, 3, 1}, {40, 8, 5}, {9, 65, 2}}) {
        const auto [before, after] = two_versions<T>(dice, codes, width);
        REQUIRE(bytes_of(before) != bytes_of(after));
        const edit e = edit::between(before, after);
        std::vector<index_t> expected{1};
        for (index_t k = 3; k < codes; k += 3) {
            expected.push_back(k);
        }
        CHECK(e.ids() == expected);
        CHECK(e.rows() == codes);
        CHECK(e.cols() == width);
        CHECK(e.fingerprint_before() == isic::fingerprint(before));
        CHECK(e.fingerprint_after() == isic::fingerprint(after));
        CHECK(e.summary.moved == static_cast<index_t>(expected.size()));
        const auto b = to_dense(before);
        CHECK(e.summary.relative_change == doctest::Approx((to_dense(after) - b).norm() / b.norm()));

        isic_test::strided<T> memory(before, gap);
        const auto original = memory.bytes();
        e.apply(memory.span());
        CHECK(memory.bytes() != original);
        CHECK(memory.bytes() == isic_test::strided<T>(after, gap).bytes());
        e.undo(memory.span());
        CHECK(memory.bytes() == original);
    }
}

TEST_CASE_TEMPLATE("a projection is undone and done again, bit for bit", T, ISIC_STORAGE) {
    isic_test::random dice(2);
    for (const auto& [codes, width, gap] : {std::tuple{5, 4, 3}, {70, 8, 0}, {130, 16, 1}}) {
        auto book = dice.matrix<T>(codes, width);
        std::ranges::fill(book.row(4), std::numeric_limits<T>::quiet_NaN());
        const std::vector<index_t> padding{4};
        const auto harm = isic_test::subspace_of(isic_test::random_basis(dice, width, 2));
        isic_test::strided<T> memory(book, gap);
        const auto original = memory.bytes();
        const edit e = isic::project_out(memory.span(), harm, {.padding = padding});
        const auto edited = memory.bytes();
        CHECK(edited != original);
        e.undo(memory.span());
        CHECK(memory.bytes() == original);
        e.apply(memory.span());
        CHECK(memory.bytes() == edited);
        const edit copy = e;
        copy.undo(memory.span());
        CHECK(memory.bytes() == original);
    }
}

TEST_CASE("edits are undone in the opposite order, and in no other") {
    isic_test::random dice(3);
    auto book = dice.matrix<float>(20, 6);
    const auto original = bytes_of(book);
    const auto basis = isic_test::random_basis(dice, 6, 2);
    const edit first = isic::project_out(book, isic_test::subspace_of(basis.leftCols(1)));
    const edit second = isic::project_out(book, isic_test::subspace_of(basis.rightCols(1)));
    const auto edited = bytes_of(book);
    check_throws<isic::value_error>("edit::undo", [&] { first.undo(book); }, {"the edited codebook"});
    CHECK(bytes_of(book) == edited);
    second.undo(book);
    first.undo(book);
    CHECK(bytes_of(book) == original);
    check_throws<isic::value_error>("edit::apply", [&] { second.apply(book); }, {"the original codebook"});
    CHECK(bytes_of(book) == original);
}

TEST_CASE_TEMPLATE("another codebook is refused and keeps every byte", T, ISIC_STORAGE) {
    isic_test::random dice(4);
    const auto [before, after] = two_versions<T>(dice, 8, 4);
    const edit e = edit::between(before, after);
    const auto refused = [&]<class Error>(auto codes, std::type_identity<Error>,
                                          std::initializer_list<std::string_view> words) {
        const auto bytes = bytes_of(codes);
        check_throws<Error>("edit::undo", [&] { e.undo(codes); }, words);
        CHECK(bytes_of(codes) == bytes);
        check_throws<Error>("edit::apply", [&] { e.apply(codes); }, words);
        CHECK(bytes_of(codes) == bytes);
    };
    const std::type_identity<isic::value_error> value;
    const std::type_identity<isic::shape_error> shape;
    refused(dice.matrix<T>(8, 4), value, {"fingerprint"});
    refused(dice.matrix<T>(7, 4), shape, {"8 rows", "got 7"});
    refused(dice.matrix<T>(8, 5), shape, {"4 columns", "got 5"});
    refused(dice.matrix<T>(4, 8), shape, {"8 rows"});
    refused(matrix<T>(0, 0), shape, {});
    using other = std::conditional_t<std::same_as<T, float>, double, float>;
    refused(dice.matrix<other>(8, 4), value, {"a codebook of " + std::string(isic::detail::name_of(e.type()))});
    auto one_byte = after;
    one_byte(0, 3) = static_cast<T>(0.25F);  // a row that the edit does not hold
    refused(one_byte, value, {"fingerprint"});

    auto original = before;
    check_throws<isic::value_error>("edit::undo", [&] { e.undo(original); }, {"the edited codebook"});
    CHECK(bytes_of(original) == bytes_of(before));
    auto edited = after;
    check_throws<isic::value_error>("edit::apply", [&] { e.apply(edited); }, {"the original codebook"});
    CHECK(bytes_of(edited) == bytes_of(after));
}

TEST_CASE("equal bytes of another 16-bit type are another codebook") {
    isic_test::random dice(5);
    const auto [before, after] = two_versions<isic::half>(dice, 5, 3);
    const edit e = edit::between(before, after);
    matrix<isic::bfloat16> twin(5, 3);
    std::memcpy(static_cast<void*>(twin.data()), after.data(), 30);
    REQUIRE(isic::fingerprint(twin) == e.fingerprint_after());
    check_throws<isic::value_error>("edit::undo", [&] { e.undo(twin); }, {"a codebook of f16", "got bf16"});
    CHECK(bytes_of(twin) == bytes_of(after));
}

TEST_CASE("an edit between equal codebooks changes nothing and fits both") {
    isic_test::random dice(6);
    auto book = dice.matrix(4, 3);
    const auto original = bytes_of(book);
    const edit e = edit::between(book, book);
    CHECK(e.ids().empty());
    CHECK(e.summary.moved == 0);
    CHECK(e.summary.relative_change == 0);
    e.undo(book);
    e.apply(book);
    CHECK(bytes_of(book) == original);
    CHECK(edit::between(matrix<float>(2, 2), matrix<float>(2, 2)).summary.relative_change == 0);
    check_throws<isic::shape_error>("edit::between", [&] { edit::between(book, matrix<double>(5, 3)); },
                                    {"4 rows", "got 5"});
    check_throws<isic::shape_error>("edit::between", [&] { edit::between(book, matrix<double>(4, 2)); },
                                    {"3 columns", "got 2"});
}

TEST_CASE_TEMPLATE("padding that holds no numbers is kept bit for bit and does not spoil the summary", T,
                   ISIC_STORAGE) {
    isic_test::random dice(14);
    auto [before, after] = two_versions<T>(dice, 9, 4);
    const double expected = edit::between(before, after).summary.relative_change;
    CHECK(expected > 0);
    for (const index_t k : {4, 5}) {  // rows that do not change, so only as much of the norm is missing
        std::ranges::fill(before.row(k), static_cast<T>(0.0F));
        std::ranges::fill(after.row(k), static_cast<T>(0.0F));
    }
    const double without = edit::between(before, after).summary.relative_change;
    CHECK(without > expected);
    for (matrix<T>* m : {&before, &after}) {
        (*m)(4, 1) = std::numeric_limits<T>::quiet_NaN();
        (*m)(5, 0) = static_cast<T>(-isic_test::infinity);
    }
    after(4, 2) = static_cast<T>(1.0F);
    const edit e = edit::between(before, after);
    CHECK(e.summary.relative_change == doctest::Approx(without));
    CHECK(e.ids() == std::vector<index_t>{1, 3, 4, 6});
    auto book = after;
    e.undo(book);
    CHECK(bytes_of(book) == bytes_of(before));
}

TEST_CASE("an edit of nothing refuses every codebook") {
    isic_test::random dice(7);
    auto book = dice.matrix(2, 2);
    check_throws<isic::value_error>("edit::undo", [&] { edit().undo(book); });
    check_throws<isic::value_error>("edit::apply", [&] { edit().apply(book); });
}
