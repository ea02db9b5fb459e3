// SPDX-License-Identifier: Apache-2.0
/// \file
/// Scalars: indices, 16-bit floating-point numbers, element types, and the concepts that admit them.
#pragma once

#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string_view>
#include <type_traits>

#include <isic/detail/config.hpp>

namespace isic::inline ISIC_ABI {

/// The type of sizes, ids and counts.
using index_t = std::ptrdiff_t;

namespace detail {

/// The bits of the binary16 value nearest to x, ties to even.
constexpr std::uint16_t half_bits(float x) {
    const auto bits = std::bit_cast<std::uint32_t>(x);
    const auto sign = static_cast<std::uint16_t>(bits >> 16 & 0x8000U);
    const std::uint32_t magnitude = bits & 0x7FFFFFFFU;
    if (magnitude >= 0x47800000U) {  // from 2^16 on, infinity, NaN
        return static_cast<std::uint16_t>(sign | (magnitude > 0x7F800000U ? 0x7E00U : 0x7C00U));
    }
    if (magnitude <
        0x38800000U) {  // below 2^-14: adding 1/2 aligns the last bit of the result with the last of a float
        const float aligned = std::bit_cast<float>(magnitude) + 0.5F;
        return static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(aligned) - 0x3F000000U));
    }
    const std::uint32_t odd = magnitude >> 13 & 1U;
    return static_cast<std::uint16_t>(sign | ((magnitude - 0x38000000U + 0xFFFU + odd) >> 13));
}

/// The value of binary16 bits; exact.
constexpr float half_value(std::uint16_t bits) {
    constexpr std::uint32_t special = 0x0F800000U;  // the exponent of infinity and NaN, shifted
    std::uint32_t out = static_cast<std::uint32_t>(bits & 0x7FFFU) << 13;
    const std::uint32_t exponent = out & special;
    out += 0x38000000U;
    if (exponent == special) {
        out += 0x38000000U;
    } else if (exponent == 0) {
        out = std::bit_cast<std::uint32_t>(std::bit_cast<float>(out + 0x00800000U) - 0x1p-14F);
    }
    return std::bit_cast<float>(out | static_cast<std::uint32_t>(bits & 0x8000U) << 16);
}

/// The bits of the bfloat16 value nearest to x, ties to even.
constexpr std::uint16_t bfloat16_bits(float x) {
    const auto bits = std::bit_cast<std::uint32_t>(x);
    if ((bits & 0x7FFFFFFFU) > 0x7F800000U) {
        return static_cast<std::uint16_t>((bits >> 16 & 0x8000U) | 0x7FC0U);
    }
    return static_cast<std::uint16_t>((bits + 0x7FFFU + (bits >> 16 & 1U)) >> 16);
}

}  // namespace detail

/// IEEE binary16, 2 bytes, with the layout of `_Float16`, `std::float16_t`, `Eigen::half` and `c10::Half`.
///
/// \snippet snippets.cpp types
struct ISIC_MAY_ALIAS half {
    std::uint16_t bits;  ///< sign, 5 bits of exponent, 10 of fraction

    half() = default;
    /// Rounds to nearest, ties to even.
    explicit constexpr half(float x) noexcept : bits(detail::half_bits(x)) {}
    /// Exact.
    constexpr operator float() const noexcept { return detail::half_value(bits); }
};

/// The upper 16 bits of a float, 2 bytes, with the layout of `std::bfloat16_t`, `Eigen::bfloat16` and `c10::BFloat16`.
struct ISIC_MAY_ALIAS bfloat16 {
    std::uint16_t bits;  ///< sign, 8 bits of exponent, 7 of fraction

    bfloat16() = default;
    /// Rounds to nearest, ties to even.
    explicit constexpr bfloat16(float x) noexcept : bits(detail::bfloat16_bits(x)) {}
    /// Exact.
    constexpr operator float() const noexcept { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }
};

/// Element types of tensors, all of safetensors. isic computes with f16, bf16, f32 and f64; it reads and writes the
/// others.
enum class dtype : unsigned char {
    boolean,
    u8,
    i8,
    u16,
    i16,
    u32,
    i32,
    u64,
    i64,
    f16,
    bf16,
    f32,
    f64,
    c64,
    f8_e4m3,
    f8_e5m2,
    f8_e8m0,
    f8_e4m3fnuz,
    f8_e5m2fnuz,
    f6_e2m3,
    f6_e3m2,
    f4
};

/// The scalar types of a codebook. The checked functions compute in float64 and round once, when they store.
template <class T>
concept scalar =
    std::same_as<T, float> || std::same_as<T, double> || std::same_as<T, half> || std::same_as<T, bfloat16>;

/// The scalar types of the fused functions, which compute in the type of the rows.
template <class T>
concept real = std::same_as<T, float> || std::same_as<T, double>;

/// An integer type of token ids. `std::int32_t` and `std::int64_t`, the types of tokenizers, are read without a copy.
template <class T>
concept token_id = std::integral<T> && !std::same_as<T, bool>;

namespace detail {

/// The element type of T.
template <scalar T>
constexpr dtype dtype_of() {
    return std::same_as<T, double>  ? dtype::f64
           : std::same_as<T, float> ? dtype::f32
           : std::same_as<T, half>  ? dtype::f16
                                    : dtype::bf16;
}

/// The name of a scalar type in files and messages.
constexpr std::string_view name_of(dtype type) {
    return type == dtype::f64 ? "f64" : type == dtype::f32 ? "f32" : type == dtype::f16 ? "f16" : "bf16";
}

/// Bytes of a scalar.
constexpr index_t size_of(dtype type) {
    return type == dtype::f64 ? 8 : type == dtype::f32 ? 4 : 2;
}

/// std::numeric_limits of a 16-bit binary floating-point type. Digits: of the significand, the implicit one included.
template <class T, int Digits, int MaxExponent>
struct sixteen_bit_limits {
    static constexpr bool is_specialized = true;
    static constexpr bool is_signed = true;
    static constexpr bool is_integer = false;
    static constexpr bool is_exact = false;
    static constexpr bool has_infinity = true;
    static constexpr bool has_quiet_NaN = true;
    static constexpr int digits = Digits;
    static constexpr int digits10 = (Digits - 1) * 30103 / 100000;
    static constexpr int max_digits10 = 2 + Digits * 30103 / 100000;
    static constexpr int radix = 2;
    static constexpr int min_exponent = 3 - MaxExponent;
    static constexpr int max_exponent = MaxExponent;
    static constexpr T min() noexcept { return of_bits(1 << (Digits - 1)); }
    static constexpr T max() noexcept { return of_bits(infinity_bits - 1); }
    static constexpr T lowest() noexcept { return of_bits(0x8000 | (infinity_bits - 1)); }
    static constexpr T epsilon() noexcept { return of_bits((MaxExponent - Digits) << (Digits - 1)); }
    static constexpr T denorm_min() noexcept { return of_bits(1); }
    static constexpr T infinity() noexcept { return of_bits(infinity_bits); }
    static constexpr T quiet_NaN() noexcept { return of_bits(infinity_bits | 1 << (Digits - 2)); }

private:
    static constexpr int infinity_bits = 0x8000 - (1 << (Digits - 1));
    static constexpr T of_bits(int bits) noexcept { return std::bit_cast<T>(static_cast<std::uint16_t>(bits)); }
};

}  // namespace detail
}  // namespace isic::inline ISIC_ABI

/// \cond
template <>
class std::numeric_limits<isic::half> : public isic::detail::sixteen_bit_limits<isic::half, 11, 16> {};
template <>
class std::numeric_limits<isic::bfloat16> : public isic::detail::sixteen_bit_limits<isic::bfloat16, 8, 128> {};
/// \endcond
