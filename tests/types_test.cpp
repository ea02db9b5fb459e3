// SPDX-License-Identifier: Apache-2.0
// The 16-bit types against Eigen's and the compiler's, and views of foreign memory: pointer and dtype, DLTensor.
#include <isic/types.hpp>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <type_traits>
#include <vector>

#include <Eigen/Core>

#include <isic/matrix.hpp>

#include "support/data.hpp"
#include "support/errors.hpp"

using isic::index_t;
using isic_test::check_throws;

static_assert(sizeof(isic::half) == 2 && alignof(isic::half) == 2 && std::is_trivially_copyable_v<isic::half>);
static_assert(sizeof(isic::bfloat16) == 2 && alignof(isic::bfloat16) == 2 &&
              std::is_trivially_copyable_v<isic::bfloat16>);
static_assert(std::is_trivially_default_constructible_v<isic::half> && std::is_standard_layout_v<isic::half>);
static_assert(std::is_trivially_default_constructible_v<isic::bfloat16> && std::is_standard_layout_v<isic::bfloat16>);
static_assert(sizeof(Eigen::half) == 2 && alignof(Eigen::half) == alignof(isic::half));
static_assert(sizeof(Eigen::bfloat16) == 2 && alignof(Eigen::bfloat16) == alignof(isic::bfloat16));
static_assert(std::same_as<isic::stored_scalar<Eigen::half>, isic::half> &&
              std::same_as<isic::stored_scalar<Eigen::bfloat16>, isic::bfloat16>);
static_assert(std::same_as<isic::stored_scalar<const float>, float>);
static_assert(static_cast<float>(isic::half(1.5F)) == 1.5F &&
              static_cast<float>(isic::bfloat16(1.5F)) == 1.5F);  // constexpr

namespace {

/// The type of another library that has the layout of T.
template <class T>
using eigen_twin = std::conditional_t<std::same_as<T, isic::half>, Eigen::half, Eigen::bfloat16>;

/// Equal bits, or NaN both.
bool same_float(float a, float b) {
    return (std::isnan(a) && std::isnan(b)) || std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b);
}

/// The number of x for which the conversion to T differs from Eigen's; NaN of any payload are equal.
template <class T>
int rounding_differs(float x) {
    const auto ours = std::bit_cast<std::uint16_t>(T(x));
    const auto theirs = Eigen::numext::bit_cast<std::uint16_t>(static_cast<eigen_twin<T>>(x));
    return ours == theirs || (std::isnan(x) && std::isnan(static_cast<float>(std::bit_cast<T>(ours)))) ? 0 : 1;
}

struct dl_device {
    std::int32_t device_type, device_id;
};
struct dl_data_type {
    std::uint8_t code, bits;
    std::uint16_t lanes;
};
/// The layout of DLPack's DLTensor.
struct dl_tensor {
    void* data;
    dl_device device;
    std::int32_t ndim;
    dl_data_type dtype;
    std::int64_t* shape;
    std::int64_t* strides;
    std::uint64_t byte_offset;
};

constexpr std::uint8_t dl_int = 0, dl_float = 2, dl_bfloat = 4;

}  // namespace

TEST_CASE_TEMPLATE("all 65,536 values of a 16-bit type are Eigen's", T, isic::half, isic::bfloat16) {
    int differs = 0, not_round_trip = 0;
    for (std::uint32_t i = 0; i < 0x10000; ++i) {
        const auto bits = static_cast<std::uint16_t>(i);
        const float ours = std::bit_cast<T>(bits);
        differs += same_float(ours, static_cast<float>(Eigen::numext::bit_cast<eigen_twin<T>>(bits))) ? 0 : 1;
        not_round_trip += std::isnan(ours) || std::bit_cast<std::uint16_t>(T(ours)) == bits ? 0 : 1;
    }
    CHECK(differs == 0);
    CHECK(not_round_trip == 0);
}

TEST_CASE_TEMPLATE("floats round to a 16-bit type as Eigen's do, at every boundary", T, isic::half, isic::bfloat16) {
    const float infinity = std::numeric_limits<float>::infinity();
    int differs = 0;
    for (std::uint32_t i = 0; i < 0x10000; ++i) {
        const float value = std::bit_cast<T>(static_cast<std::uint16_t>(i));
        const float next = std::bit_cast<T>(static_cast<std::uint16_t>(i + 1));
        // Beyond the largest finite value the boundary is where the next exponent would begin.
        const float middle =
            std::isinf(next)
                ? value + (value - static_cast<float>(std::bit_cast<T>(static_cast<std::uint16_t>(i - 1)))) / 2
                : value / 2 + next / 2;
        for (const float x : {value, middle}) {
            differs += rounding_differs<T>(x) + rounding_differs<T>(std::nextafter(x, infinity)) +
                       rounding_differs<T>(std::nextafter(x, -infinity));
        }
    }
    std::mt19937 engine(5);
    for (int trial = 0; trial < 300'000; ++trial) {
        differs += rounding_differs<T>(std::bit_cast<float>(static_cast<std::uint32_t>(engine())));
    }
    CHECK(differs == 0);
    CHECK(std::isinf(static_cast<float>(T(std::numeric_limits<float>::max()))));
}

TEST_CASE_TEMPLATE("numeric_limits of a 16-bit type describe its bits", T, isic::half, isic::bfloat16) {
    using limits = std::numeric_limits<T>;
    const auto bits = [](T x) { return std::bit_cast<std::uint16_t>(x); };
    CHECK(bits(limits::max()) + 1 == bits(limits::infinity()));
    CHECK(static_cast<float>(limits::lowest()) == -static_cast<float>(limits::max()));
    CHECK(bits(limits::denorm_min()) == 1);
    CHECK(bits(limits::min()) == 1 << (limits::digits - 1));  // the first exponent that is not 0
    CHECK(bits(T(1.0F)) + 1 == bits(T(1.0F + static_cast<float>(limits::epsilon()))));
    CHECK(std::ldexp(1.0F, limits::max_exponent - 1) < static_cast<float>(limits::max()));
    CHECK(std::ldexp(1.0F, limits::min_exponent - 1) == static_cast<float>(limits::min()));
    CHECK(std::isnan(static_cast<float>(limits::quiet_NaN())));
}

TEST_CASE_TEMPLATE("matrices of Eigen's 16-bit types are read and written in place", T, isic::half, isic::bfloat16) {
    using other = eigen_twin<T>;
    using rows = Eigen::Matrix<other, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    rows m(3, 4);
    for (index_t i = 0; i < m.size(); ++i) {
        m.data()[i] = static_cast<other>(static_cast<float>(i) / 4);
    }
    const isic::matrix_span<T> span = isic::as_span(m);
    CHECK(span.stride() == 4);
    CHECK(static_cast<float>(span(2, 3)) == 11.0F / 4);
    span(1, 0) = T(-7.0F);
    CHECK(static_cast<float>(m(1, 0)) == -7.0F);
    auto part = m.block(1, 1, 2, 2);
    CHECK(static_cast<float>(isic::as_span(part)(1, 1)) == 10.0F / 4);
    const rows& constant = m;
    static_assert(std::same_as<decltype(isic::as_span(constant)), isic::matrix_view<T>>);
    CHECK(isic::as_span(constant.data(), 3, 2, 4).row(2).size() == 2);
}

#ifdef __FLT16_MANT_DIG__
TEST_CASE("_Float16 is read and written in place, and has the values of half") {
    static_assert(std::same_as<isic::stored_scalar<_Float16>, isic::half>);
    std::vector<_Float16> values(6);
    values[5] = static_cast<_Float16>(0.5F);
    const isic::matrix_span<isic::half> span = isic::as_span(values.data(), 2, 3, 3);
    CHECK(static_cast<float>(span(1, 2)) == 0.5F);
    span(0, 0) = isic::half(3.0F);
    CHECK(static_cast<float>(values[0]) == 3.0F);
    int differs = 0;
    for (std::uint32_t i = 0; i < 0x10000; ++i) {
        const auto bits = static_cast<std::uint16_t>(i);
        differs +=
            same_float(std::bit_cast<isic::half>(bits), static_cast<float>(std::bit_cast<_Float16>(bits))) ? 0 : 1;
    }
    CHECK(differs == 0);
}
#endif

TEST_CASE_TEMPLATE("a view of a pointer and a dtype is the typed view", T, ISIC_STORAGE) {
    isic_test::random dice(6);
    auto m = dice.matrix<T>(5, 4);
    const isic::dtype type = isic::detail::dtype_of<T>();
    const isic::any_span span(static_cast<void*>(m.data()), type, 5, 3, 4);
    CHECK(span.row_bytes() == static_cast<index_t>(3 * sizeof(T)));
    CHECK_FALSE(span.empty());
    isic::visit(span, [&]<class U>(isic::matrix_span<U> typed) {
        CHECK(std::same_as<T, U>);
        CHECK(static_cast<double>(typed(4, 2)) == static_cast<double>(m(4, 2)));
        CHECK(typed.cols() == 3);
        CHECK(typed.stride() == 4);
    });
    const isic::any_view view = span;
    CHECK(view.row(2).data() == reinterpret_cast<const std::byte*>(&m(2, 0)));
    CHECK(view.block(1, 2).row(1).data() == view.row(2).data());
    CHECK(isic::any_view(static_cast<const void*>(nullptr), type, 0, 3, 3).empty());
}

TEST_CASE("a run-time-typed view refuses other types, null pointers and impossible shapes") {
    float values[6] = {};
    void* const data = values;
    for (const isic::dtype type : {isic::dtype::i32, isic::dtype::boolean, isic::dtype::f8_e4m3, isic::dtype::c64}) {
        check_throws<isic::value_error>("any_matrix", [&] { isic::any_span(data, type, 2, 3, 3); },
                                        {"f16, bf16, f32 or f64"});
    }
    check_throws<isic::value_error>(
        "any_matrix", [] { isic::any_span(static_cast<void*>(nullptr), isic::dtype::f32, 2, 3, 3); }, {"null"});
    check_throws<isic::shape_error>("any_matrix", [&] { isic::any_span(data, isic::dtype::f32, -1, 3, 3); },
                                    {"-1 x 3"});
    check_throws<isic::shape_error>("any_matrix", [&] { isic::any_span(data, isic::dtype::f32, 2, -3, 3); });
    check_throws<isic::shape_error>("any_matrix", [&] { isic::any_span(data, isic::dtype::f32, 2, 3, 2); },
                                    {"stride 2"});
}

TEST_CASE("a DLTensor is viewed in place: type, shape, strides and byte offset") {
    isic_test::random dice(7);
    auto m = dice.matrix<float>(4, 6);
    std::int64_t shape[] = {3, 2}, strides[] = {6, 1};
    const dl_tensor t{m.data(), {1, 0}, 2, {dl_float, 32, 1}, shape, strides, 6 * sizeof(float)};
    const isic::any_span span = isic::span_of_dlpack(t);
    CHECK(span.type == isic::dtype::f32);
    CHECK(span.rows == 3);
    CHECK(span.cols == 2);
    CHECK(span.stride == 6);
    CHECK(span.data == reinterpret_cast<std::byte*>(&m(1, 0)));

    dl_tensor contiguous{m.data(), {1, 0}, 2, {dl_float, 32, 1}, shape, nullptr, 0};
    CHECK(isic::span_of_dlpack(contiguous).stride == 2);
    std::int64_t one_row[] = {1, 4}, any_strides[] = {0, 1};  // of a single row the row stride has no meaning
    contiguous.shape = one_row;
    contiguous.strides = any_strides;
    CHECK(isic::span_of_dlpack(contiguous).stride == 4);
    std::int64_t one_column[] = {4, 1}, column_strides[] = {6, 6};
    contiguous.shape = one_column;
    contiguous.strides = column_strides;
    CHECK(isic::span_of_dlpack(contiguous).stride == 6);
    for (const auto& [code, bits, type] : {std::tuple{dl_float, 64, isic::dtype::f64},
                                           {dl_float, 16, isic::dtype::f16},
                                           {dl_bfloat, 16, isic::dtype::bf16}}) {
        dl_tensor other{m.data(), {1, 0}, 2, {code, static_cast<std::uint8_t>(bits), 1}, shape, nullptr, 0};
        CHECK(isic::span_of_dlpack(other).type == type);
    }
    for (const std::int32_t pinned : {3, 11}) {  // kDLCUDAHost, kDLROCMHost
        dl_tensor other = t;
        other.device.device_type = pinned;
        CHECK(isic::span_of_dlpack(other).rows == 3);
    }
    dl_tensor empty{nullptr, {1, 0}, 2, {dl_float, 32, 1}, shape, nullptr, 0};
    std::int64_t no_rows[] = {0, 5};
    empty.shape = no_rows;
    CHECK(isic::span_of_dlpack(empty).empty());
}

TEST_CASE("a DLTensor that cannot be viewed is refused") {
    float values[12] = {};
    std::int64_t shape[] = {3, 2, 2}, strides[] = {4, 2, 1};
    const dl_tensor good{values, {1, 0}, 2, {dl_float, 32, 1}, shape, nullptr, 0};
    const auto refused = [&]<class Error>(std::type_identity<Error>, auto change, std::string_view word) {
        dl_tensor t = good;
        change(t);
        check_throws<Error>("span_of_dlpack", [&] { isic::span_of_dlpack(t); }, {std::string(word)});
    };
    constexpr std::type_identity<isic::value_error> value;
    constexpr std::type_identity<isic::shape_error> shape_wrong;
    refused(value, [](dl_tensor& t) { t.device.device_type = 2; }, "device type 2");  // kDLCUDA
    refused(shape_wrong, [](dl_tensor& t) { t.ndim = 3; }, "two dimensions");
    refused(shape_wrong, [](dl_tensor& t) { t.ndim = 1; }, "got 1");
    refused(value, [](dl_tensor& t) { t.dtype = {dl_int, 32, 1}; }, "type code 0 of 32 bits");
    refused(value, [](dl_tensor& t) { t.dtype = {dl_float, 8, 1}; }, "8 bits");
    refused(value, [](dl_tensor& t) { t.dtype = {dl_bfloat, 32, 1}; }, "type code 4");
    refused(value, [](dl_tensor& t) { t.dtype = {dl_float, 32, 4}; }, "4 lanes");
    refused(shape_wrong, [&](dl_tensor& t) { t.strides = strides; }, "inner stride 2");
    std::int64_t reversed[] = {-2, 1};
    refused(shape_wrong, [&](dl_tensor& t) { t.strides = reversed; }, "stride -2");
    refused(value, [](dl_tensor& t) { t.data = nullptr; }, "null");
}
