// SPDX-License-Identifier: Apache-2.0
#include <isic/detail/checks.hpp>
#include <isic/detail/rounding.hpp>
#include <isic/matrix.hpp>

#include <array>
#include <limits>

#include <Eigen/Core>

#include <isic/detail/id_list.hpp>

#include "support/data.hpp"
#include "support/errors.hpp"

using isic::index_t;
using isic_test::check_throws;

using row_major = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

static_assert(isic::scalar<float> && isic::scalar<double> && isic::scalar<isic::half> && isic::scalar<isic::bfloat16>);
static_assert(!isic::scalar<int> && !isic::scalar<const float>);
static_assert(isic::token_ids<std::vector<int>> && isic::token_ids<std::span<const std::int64_t>> &&
              isic::token_ids<std::array<std::uint16_t, 4>>);
static_assert(!isic::token_ids<std::vector<float>> && !isic::token_ids<std::vector<bool>>);
static_assert(isic::matrix_like<isic::matrix<float>> && isic::mutable_matrix_like<isic::matrix<float>>);
static_assert(isic::matrix_like<isic::matrix_view<float>> && !isic::mutable_matrix_like<isic::matrix_view<float>>);
static_assert(isic::matrix_like<const isic::matrix<float>> && !isic::mutable_matrix_like<const isic::matrix<float>>);
static_assert(isic::mutable_matrix_like<row_major> && isic::mutable_matrix_like<Eigen::Map<row_major>>);
static_assert(isic::matrix_like<Eigen::Map<const row_major>> &&
              !isic::mutable_matrix_like<Eigen::Map<const row_major>>);
static_assert(!isic::matrix_like<Eigen::MatrixXf>, "a column-major matrix would be read transposed");
static_assert(!isic::matrix_like<std::vector<float>>);

TEST_CASE("a strided view reads and writes the right places and no others") {
    isic_test::random dice(1);
    const auto original = dice.matrix<float>(5, 3);
    isic_test::strided<float> memory(original, 4);
    const auto view = memory.span();
    for (index_t i = 0; i < 5; ++i) {
        CHECK(view.row(i).size() == 3);
        for (index_t j = 0; j < 3; ++j) {
            CHECK(view(i, j) == original(i, j));
            view(i, j) = 1.0F;
            CHECK(view.row(i)[static_cast<std::size_t>(j)] == 1.0F);
        }
    }
    CHECK(memory.gaps_intact());
}

TEST_CASE("Eigen matrices, maps and blocks are seen as they are") {
    row_major m = row_major::Random(6, 5);
    const auto whole = isic::as_span(m);
    CHECK(whole.rows() == 6);
    CHECK(whole.cols() == 5);
    CHECK(whole.stride() == 5);
    CHECK(whole(4, 3) == m(4, 3));
    auto block = m.block(1, 2, 3, 2);
    const auto part = isic::as_span(block);
    CHECK(part.stride() == 5);
    CHECK(part(2, 1) == m(3, 3));
    part(0, 0) = 42.0F;
    CHECK(m(1, 2) == 42.0F);
    const row_major& constant = m;
    CHECK(isic::detail::view_of(constant)(5, 4) == m(5, 4));
    Eigen::Map<row_major, 0, Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>> spread(m.data(), 3, 2, {10, 2});
    check_throws<isic::shape_error>("as_span", [&] { isic::as_span(spread); }, {"inner stride 2"});
}

TEST_CASE("impossible shapes are refused") {
    float value = 0;
    check_throws<isic::shape_error>("matrix_span", [&] { isic::matrix_span<float>(&value, -1, 1); }, {"-1 x 1"});
    check_throws<isic::shape_error>("matrix_span", [&] { isic::matrix_span<float>(&value, 1, -1); });
    check_throws<isic::shape_error>("matrix_span", [&] { isic::matrix_span<float>(&value, 1, 3, 2); }, {"stride 2"});
    check_throws<isic::value_error>("matrix_span", [&] { isic::matrix_span<float>(nullptr, 1, 1); }, {"null"});
    check_throws<isic::shape_error>("matrix", [&] { isic::matrix<float>(-1, 2); });
    check_throws<isic::shape_error>("matrix", [&] { isic::matrix<float>(2, -1); });
    const isic::index_t huge = isic::index_t{1} << 40;  // huge * huge is 0 in 64 bits
    check_throws<isic::shape_error>("matrix", [&] { isic::matrix<float>(huge, huge); },
                                    {"1099511627776 x 1099511627776"});
    CHECK(isic::matrix<float>(huge, 0).empty());
    const isic::matrix_span<float> none(nullptr, 0, 7);
    CHECK(none.empty());
    CHECK(none.cols() == 7);
    CHECK(isic::matrix<float>(3, 0).view().empty());
}

TEST_CASE("memory is apart exactly when no byte is shared") {
    std::vector<double> buffer(100);
    const auto at = [&](index_t start, index_t rows, index_t cols, index_t stride) {
        return isic::matrix_span<double>(buffer.data() + start, rows, cols, stride);
    };
    const auto apart = [](auto a, auto b) {
        try {
            isic::detail::require_apart("f", a, b);
            isic::detail::require_apart("f", b, a);
            return true;
        } catch (const isic::value_error&) {
            return false;
        }
    };
    isic_test::random dice(3);
    int seen[2] = {0, 0};
    for (int trial = 0; trial < 2000; ++trial) {
        const index_t stride = 4 + dice.below(3);
        const auto a = at(dice.below(30), 1 + dice.below(4), 1 + dice.below(4), stride);
        const auto b = at(dice.below(60), 1 + dice.below(4), 1 + dice.below(4), stride);
        std::vector<int> touched(100, 0);
        for (const auto& m : {a, b}) {
            for (index_t i = 0; i < m.rows(); ++i) {
                for (index_t j = 0; j < m.cols(); ++j) {
                    ++touched[static_cast<std::size_t>(&m(i, j) - buffer.data())];
                }
            }
        }
        const bool truth = std::ranges::count(touched, 2) == 0;
        ++seen[truth];
        INFO("stride ", stride);
        CHECK(apart(a, b) == truth);
    }
    CHECK(seen[0] > 100);
    CHECK(seen[1] > 100);
    const isic::matrix_view<float> other(reinterpret_cast<const float*>(buffer.data()), 2, 2);
    CHECK_FALSE(apart(at(0, 2, 2, 2), other));
    CHECK(apart(at(0, 0, 2, 2), at(0, 2, 2, 2)));
}

namespace {

/// The value of T nearest to x, ties to the even bit pattern, by looking through all of them; x must be in range.
template <class T>
T nearest_of_all(double x) {
    T best{};
    double least = std::numeric_limits<double>::infinity();
    for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
        const T candidate = Eigen::numext::bit_cast<T>(static_cast<std::uint16_t>(bits));
        const double distance = std::abs(static_cast<double>(candidate) - x);
        if (std::isfinite(static_cast<double>(candidate)) &&
            (distance < least || (distance == least && bits % 2 == 0))) {
            best = candidate;
            least = distance;
        }
    }
    return best;
}

}  // namespace

TEST_CASE_TEMPLATE("storing rounds float64 once, to nearest even", T, isic::half, isic::bfloat16) {
    isic_test::random dice(4);
    int twice_differs = 0;
    for (int trial = 0; trial < 60; ++trial) {
        const double near = static_cast<double>(static_cast<T>(static_cast<float>(dice.normal())));
        const double spacing = 2 * isic_test::unit<T> * std::exp2(std::floor(std::log2(std::abs(near))));
        // Just beside the middle of two neighbours: closer to it than float32 can tell.
        const double x = near + spacing * (0.5 + (trial % 3 - 1) * 0x1p-30);
        const double got = static_cast<double>(isic::detail::rounded<T>(x));
        CHECK(got == static_cast<double>(nearest_of_all<T>(x)));
        twice_differs += got != static_cast<double>(static_cast<T>(static_cast<float>(x)));
    }
    CHECK(twice_differs > 0);
    CHECK(static_cast<double>(isic::detail::rounded<T>(0.0)) == 0.0);
    CHECK(static_cast<double>(isic::detail::rounded<T>(1e-300)) == 0.0);
    CHECK(std::isinf(static_cast<double>(isic::detail::rounded<T>(-1e300))));
    CHECK(std::isnan(static_cast<double>(isic::detail::rounded<T>(std::numeric_limits<double>::quiet_NaN()))));
    CHECK(static_cast<double>(isic::detail::rounded<T>(isic::detail::largest<T>())) == isic::detail::largest<T>());
}

TEST_CASE_TEMPLATE("the rounding unit is half the spacing at 1, also where Eigen's epsilon is wrong", T, ISIC_STORAGE) {
    const double u = isic::detail::rounding_unit<T>();
    CHECK(u == isic_test::unit<T>);
    CHECK(static_cast<double>(isic::detail::rounded<T>(1 + 2 * u)) == 1 + 2 * u);
    CHECK(static_cast<double>(isic::detail::rounded<T>(1 + u * (1 - 0x1p-20))) == 1);
}

TEST_CASE("ids outside the codebook are named, whatever their type") {
    check_throws<isic::value_error>(
        "f", [] { isic::detail::require_ids("f", isic::detail::id_list(std::span<const int>(std::array{0, -1})), 3); },
        {"[0, 3)", "-1 at position 1"});
    check_throws<isic::value_error>("f", [] {
        isic::detail::require_ids(
            "f", isic::detail::id_list(std::span<const std::uint64_t>(std::array{~std::uint64_t{0}})), 3);
    });
    check_throws<isic::value_error>("f", [] {
        isic::detail::require_ids(
            "f", isic::detail::id_list(std::span<const std::uint8_t>(std::array<std::uint8_t, 1>{3})), 3);
    });
    CHECK_NOTHROW(isic::detail::require_ids(
        "f", isic::detail::id_list(std::span<const std::uint8_t>(std::array<std::uint8_t, 1>{255})), 256));
}
