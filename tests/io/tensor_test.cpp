// SPDX-License-Identifier: Apache-2.0
// Tensors: what their bytes mean, and which sizes are possible.
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include <doctest/doctest.h>

#include <isic/io/tensor.hpp>

#include "support/tensors.hpp"

namespace {

using isic::dtype;
using isic::index_t;
using isic::tensor;
using isic_test::some;

}  // namespace

TEST_CASE("io: values convert where nothing is lost") {
    const tensor half = some<isic::half>({3}), brain = some<isic::bfloat16>({3});
    CHECK(half.values<float>() == std::vector<float>{1, 2, 3});
    CHECK(brain.values<double>() == std::vector<double>{1, 2, 3});
    CHECK(some<std::int32_t>({2}).values<std::int64_t>() == std::vector<std::int64_t>{1, 2});
    CHECK(some<double>({2}).values<isic::half>()[1] == isic::half(2.0f));
    const std::vector<float> third{1.0f / 3};
    CHECK(tensor::of<float>(third, {1}).values<double>()[0] == static_cast<double>(third[0]));
    const std::vector<int> large{-1, 300};
    CHECK_THROWS_AS(tensor::of<int>(large, {2}).values<std::uint8_t>(), isic::value_error);
    CHECK_THROWS_AS(tensor::of<int>(std::span(large).first(1), {1}).values<std::uint64_t>(), isic::value_error);
    CHECK_THROWS_AS(tensor::of<int>(std::span(large).last(1), {1}).values<std::int8_t>(), isic::value_error);
    CHECK(tensor::of<int>(large, {2}).values<std::int16_t>() == std::vector<std::int16_t>{-1, 300});
    CHECK_THROWS_AS(some<float>({2}).values<int>(), isic::value_error);
    CHECK_THROWS_AS(tensor::of<int>(large, {3}), isic::value_error);
    CHECK_THROWS_AS(tensor::of<int>(large, {-2, -1}), isic::value_error);
    tensor broken = some<float>({2});
    broken.bytes.pop_back();
    CHECK_THROWS_AS(broken.values<float>(), isic::value_error);
}

TEST_CASE("io: types that isic does not compute with are carried, and say so") {
    const tensor eighth{dtype::f8_e4m3, {2}, std::vector<std::byte>(2)};
    CHECK(eighth.size() == 2);
    CHECK_THROWS_WITH_AS(eighth.values<float>(), doctest::Contains("computes with, got F8_E4M3"), isic::value_error);
    CHECK_THROWS_AS((tensor{dtype::c64, {}, std::vector<std::byte>(8)}.values<double>()), isic::value_error);
}

TEST_CASE("io: a size is a whole number of bytes that fits") {
    using isic::detail::byte_count;
    CHECK(byte_count({3, 4}, dtype::f4) == 6);
    CHECK(byte_count({3}, dtype::f4) == -1);
    CHECK(byte_count({4}, dtype::f6_e2m3) == 3);
    CHECK(byte_count({2}, dtype::f6_e3m2) == -1);
    CHECK(byte_count({}, dtype::c64) == 8);
    CHECK(byte_count({}, dtype::f4) == -1);
    const index_t most = std::numeric_limits<index_t>::max();
    CHECK(byte_count({most, 0}, dtype::f64) == 0);
    CHECK(byte_count({most, 0, 2}, dtype::f64) == -1);  // as NumPy and the format's own library have it
    CHECK(byte_count({most}, dtype::f64) == -1);
    CHECK(byte_count({most / 8 + 1}, dtype::u8) == -1);  // its bits do not fit; no file is that large
    CHECK(byte_count({most / 8}, dtype::u8) == most / 8);
    CHECK(byte_count({-1, 0}, dtype::u8) == -1);
}
