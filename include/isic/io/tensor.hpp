// SPDX-License-Identifier: Apache-2.0
/// \file
/// Tensors in memory with the bytes of their files; shared by all formats.
#pragma once

#include <array>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <isic/matrix.hpp>

namespace isic::inline ISIC_ABI {

static_assert(std::endian::native == std::endian::little,
              "isic/io/tensor.hpp reads and writes little-endian files in place");

namespace detail {

struct dtype_entry {
    dtype type;
    index_t bits;
    const char* safetensors;
    const char* npy;  // empty: the format lacks the type
};

/// All members of `dtype`, in the order of the enumeration.
inline constexpr std::array<dtype_entry, 22> dtypes{{{dtype::boolean, 8, "BOOL", "|b1"},
                                                     {dtype::u8, 8, "U8", "|u1"},
                                                     {dtype::i8, 8, "I8", "|i1"},
                                                     {dtype::u16, 16, "U16", "<u2"},
                                                     {dtype::i16, 16, "I16", "<i2"},
                                                     {dtype::u32, 32, "U32", "<u4"},
                                                     {dtype::i32, 32, "I32", "<i4"},
                                                     {dtype::u64, 64, "U64", "<u8"},
                                                     {dtype::i64, 64, "I64", "<i8"},
                                                     {dtype::f16, 16, "F16", "<f2"},
                                                     {dtype::bf16, 16, "BF16", ""},
                                                     {dtype::f32, 32, "F32", "<f4"},
                                                     {dtype::f64, 64, "F64", "<f8"},
                                                     {dtype::c64, 64, "C64", "<c8"},
                                                     {dtype::f8_e4m3, 8, "F8_E4M3", ""},
                                                     {dtype::f8_e5m2, 8, "F8_E5M2", ""},
                                                     {dtype::f8_e8m0, 8, "F8_E8M0", ""},
                                                     {dtype::f8_e4m3fnuz, 8, "F8_E4M3FNUZ", ""},
                                                     {dtype::f8_e5m2fnuz, 8, "F8_E5M2FNUZ", ""},
                                                     {dtype::f6_e2m3, 6, "F6_E2M3", ""},
                                                     {dtype::f6_e3m2, 6, "F6_E3M2", ""},
                                                     {dtype::f4, 4, "F4", ""}}};

/// The entry of a type. Errors: value_error if the value is not a member of the enumeration.
ISIC_API const dtype_entry& entry_of(dtype type);

template <class T>
struct dtype_of_element;
template <>
struct dtype_of_element<bool> : std::integral_constant<dtype, dtype::boolean> {};
template <>
struct dtype_of_element<float> : std::integral_constant<dtype, dtype::f32> {};
template <>
struct dtype_of_element<double> : std::integral_constant<dtype, dtype::f64> {};
template <>
struct dtype_of_element<half> : std::integral_constant<dtype, dtype::f16> {};
template <>
struct dtype_of_element<bfloat16> : std::integral_constant<dtype, dtype::bf16> {};
template <class T>
    requires std::integral<T>
struct dtype_of_element<T> {  // by width: long and long long may have the same
    static constexpr std::array<dtype, 8> by_width{dtype::u8,  dtype::i8,  dtype::u16, dtype::i16,
                                                   dtype::u32, dtype::i32, dtype::u64, dtype::i64};
    static constexpr dtype value = by_width[2 * std::bit_width(sizeof(T)) - 2 + (std::is_signed_v<T> ? 1 : 0)];
};

/// The number of elements; -1 if a size is negative, or if the product of the non-zero sizes overflows index_t.
ISIC_API index_t element_count(const std::vector<index_t>& shape);

/// The number of bytes; -1 as `element_count`, or if elements of fewer than 8 bits do not fill the last byte.
ISIC_API index_t byte_count(const std::vector<index_t>& shape, dtype type);

}  // namespace detail

/// A row-major tensor: bytes with a dtype and a shape. A value type: const access is thread-safe.
struct ISIC_API tensor {
    dtype type = dtype::f32;       ///< element type
    std::vector<index_t> shape;    ///< empty for a single value
    std::vector<std::byte> bytes;  ///< elements, little-endian

    /// A tensor of a copy of `values`, of the dtype of T. Errors: value_error unless there is one value per element.
    template <class T>
    [[nodiscard]] static tensor of(std::span<const T> values, std::vector<index_t> shape) {
        require_count(shape, values.size());
        const auto raw = std::as_bytes(values);
        return {detail::dtype_of_element<T>::value, std::move(shape), {raw.begin(), raw.end()}};
    }

    /// The number of elements. Errors: value_error if a size is negative or the product overflows.
    [[nodiscard]] index_t size() const;

    /// The elements converted to T, [size()]: any type to a floating type, integers to an integer type that holds them.
    ///
    /// Errors: value_error if bytes and shape disagree, if an element does not fit T, or if isic does not convert the
    /// dtype.
    template <class T>
    [[nodiscard]] std::vector<T> values() const {
        using E = dtype;
        switch (type) {
            case E::boolean: return convert<std::uint8_t, T>();
            case E::u8: return convert<std::uint8_t, T>();
            case E::i8: return convert<std::int8_t, T>();
            case E::u16: return convert<std::uint16_t, T>();
            case E::i16: return convert<std::int16_t, T>();
            case E::u32: return convert<std::uint32_t, T>();
            case E::i32: return convert<std::int32_t, T>();
            case E::u64: return convert<std::uint64_t, T>();
            case E::i64: return convert<std::int64_t, T>();
            case E::f16: return convert<half, T>();
            case E::bf16: return convert<bfloat16, T>();
            case E::f32: return convert<float, T>();
            case E::f64: return convert<double, T>();
            default: break;
        }
        fail_type();
    }

    /// Equal type, shape and bytes.
    friend bool operator==(const tensor&, const tensor&) = default;

private:
    template <class From, class To>
    std::vector<To> convert() const {
        require_bytes();
        std::vector<To> out;
        out.reserve(static_cast<std::size_t>(size()));
        for (std::size_t at = 0; at < bytes.size(); at += sizeof(From)) {
            std::array<std::byte, sizeof(From)> raw;
            std::memcpy(raw.data(), bytes.data() + at, sizeof(From));
            out.push_back(element<To>(std::bit_cast<From>(raw)));
        }
        return out;
    }

    template <class To, class From>
    static To element(From value) {
        if constexpr (std::integral<To> && std::integral<From>) {
            if (value < From{}
                    ? std::is_unsigned_v<To> ||
                          static_cast<std::intmax_t>(value) < static_cast<std::intmax_t>(std::numeric_limits<To>::min())
                    : static_cast<std::uintmax_t>(value) >
                          static_cast<std::uintmax_t>(std::numeric_limits<To>::max())) {
                fail_integer(std::to_string(std::numeric_limits<To>::max()), std::to_string(value));
            }
            return static_cast<To>(value);
        } else if constexpr (std::integral<To>) {
            fail_floating();
        } else if constexpr (std::same_as<To, half> || std::same_as<To, bfloat16>) {
            return static_cast<To>(static_cast<float>(value));
        } else {
            return static_cast<To>(value);
        }
    }

    static void require_count(const std::vector<index_t>& shape, std::size_t values);
    void require_bytes() const;
    [[noreturn]] void fail_type() const;
    [[noreturn]] static void fail_integer(const std::string& most, const std::string& got);
    [[noreturn]] static void fail_floating();
};

/// The content of a safetensors file.
struct tensor_file {
    std::map<std::string, tensor> tensors;        ///< by name
    std::map<std::string, std::string> metadata;  ///< texts by key
};

}  // namespace isic::inline ISIC_ABI

#ifdef ISIC_HEADER_ONLY
#include <isic/detail/io/tensor-inl.hpp>
#endif
