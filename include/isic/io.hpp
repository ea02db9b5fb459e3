/// \file
/// Tensors as files hold them; what the readers and writers of the formats share.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

#include <Eigen/Core>
#include <fmt/format.h>

#include <isic/error.hpp>
#include <isic/matrix.hpp>

namespace isic {

static_assert(std::endian::native == std::endian::little, "isic/io.hpp reads and writes little-endian files in place");

/// Element types that files may hold: every one of safetensors. isic computes with those up to f64 and only carries the rest.
enum class dtype {
    boolean, u8, i8, u16, i16, u32, i32, u64, i64, f16, bf16, f32, f64,
    c64, f8_e4m3, f8_e5m2, f8_e8m0, f8_e4m3fnuz, f8_e5m2fnuz, f6_e2m3, f6_e3m2, f4
};

namespace detail {

struct dtype_entry {
    dtype type;
    index_t bits;
    const char* safetensors;
    const char* npy;  // empty: the format has no such type
};

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

inline const dtype_entry& entry_of(dtype type) {
    for (const dtype_entry& entry : dtypes) {
        if (entry.type == type) {
            return entry;
        }
    }
    throw value_error(fmt::format("isic::dtype: expected a member of the enumeration, got {}", static_cast<int>(type)));
}

template <class T>
struct dtype_of_type;
template <>
struct dtype_of_type<bool> : std::integral_constant<dtype, dtype::boolean> {};
template <>
struct dtype_of_type<float> : std::integral_constant<dtype, dtype::f32> {};
template <>
struct dtype_of_type<double> : std::integral_constant<dtype, dtype::f64> {};
template <>
struct dtype_of_type<Eigen::half> : std::integral_constant<dtype, dtype::f16> {};
template <>
struct dtype_of_type<Eigen::bfloat16> : std::integral_constant<dtype, dtype::bf16> {};
template <class T>
    requires std::integral<T>
struct dtype_of_type<T> {  // by width, so that long and long long both work
    static constexpr std::array<dtype, 8> by_width{dtype::u8,  dtype::i8,  dtype::u16, dtype::i16,
                                                   dtype::u32, dtype::i32, dtype::u64, dtype::i64};
    static constexpr dtype value = by_width[2 * std::bit_width(sizeof(T)) - 2 + (std::is_signed_v<T> ? 1 : 0)];
};

/// Number of elements, or -1 if a size is negative or the product of those that are not 0 does not fit index_t.
inline index_t element_count(const std::vector<index_t>& shape) {
    index_t count = 1;
    bool empty = false;
    for (const index_t n : shape) {
        if (n < 0 || (n > 0 && count > std::numeric_limits<index_t>::max() / n)) {
            return -1;
        }
        empty = empty || n == 0;
        count *= n == 0 ? 1 : n;
    }
    return empty ? 0 : count;
}

/// Number of bytes, or -1 as above, or if small elements do not fill the last byte.
inline index_t byte_count(const std::vector<index_t>& shape, dtype type) {
    const index_t count = element_count(shape), bits = entry_of(type).bits;
    return count < 0 || count > std::numeric_limits<index_t>::max() / bits || count * bits % 8 != 0 ? -1 : count * bits / 8;
}

}  // namespace detail

/// Bytes with a type and a shape, row-major.
struct tensor {
    dtype type = dtype::f32;       ///< of every value
    std::vector<index_t> shape;    ///< empty for a single value
    std::vector<std::byte> bytes;  ///< as they stand in a file, little-endian

    /// A tensor of a copy of `values`; T decides the type. Errors: value_error if the sizes differ.
    template <class T>
    static tensor of(std::span<const T> values, std::vector<index_t> shape) {
        const index_t count = detail::element_count(shape);
        if (count != static_cast<index_t>(values.size())) {
            throw value_error(fmt::format("isic::tensor::of: expected {} values for shape [{}], got {}", count,
                                          fmt::join(shape, ", "), values.size()));
        }
        const auto raw = std::as_bytes(values);
        return {detail::dtype_of_type<T>::value, std::move(shape), {raw.begin(), raw.end()}};
    }

    /// Number of elements. Errors: value_error if the shape is impossible.
    index_t size() const {
        const index_t count = detail::element_count(shape);
        if (count < 0) {
            throw value_error(fmt::format("isic::tensor::size: expected sizes whose product fits, got [{}]",
                                          fmt::join(shape, ", ")));
        }
        return count;
    }

    /// The elements converted to T [size()]; floating types from any type, integers only from integers that fit.
    /// Errors: value_error if bytes and shape disagree, an element is no T, or isic does not compute with its type.
    template <class T>
    std::vector<T> values() const {
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
            case E::f16: return convert<Eigen::half, T>();
            case E::bf16: return convert<Eigen::bfloat16, T>();
            case E::f32: return convert<float, T>();
            case E::f64: return convert<double, T>();
            default: break;
        }
        throw value_error(fmt::format("isic::tensor::values: expected a type that isic computes with, got {}",
                                      detail::entry_of(type).safetensors));
    }

    /// Same type, shape and bytes.
    friend bool operator==(const tensor&, const tensor&) = default;

private:
    template <class From, class To>
    std::vector<To> convert() const {
        if (static_cast<index_t>(bytes.size()) != detail::byte_count(shape, type)) {
            throw value_error(fmt::format("isic::tensor::values: expected {} bytes for {} [{}], got {}",
                                          detail::byte_count(shape, type), detail::entry_of(type).safetensors,
                                          fmt::join(shape, ", "), bytes.size()));
        }
        std::vector<To> out;
        out.reserve(static_cast<std::size_t>(size()));
        for (std::size_t at = 0; at < bytes.size(); at += sizeof(From)) {
            std::array<std::byte, sizeof(From)> raw;
            std::copy_n(bytes.begin() + static_cast<index_t>(at), sizeof(From), raw.begin());
            out.push_back(element<To>(std::bit_cast<From>(raw)));
        }
        return out;
    }

    template <class To, class From>
    static To element(From value) {
        if constexpr (std::integral<To> && std::integral<From>) {
            if (value < From{} ? std::is_unsigned_v<To> || static_cast<std::intmax_t>(value) <
                                                               static_cast<std::intmax_t>(std::numeric_limits<To>::min())
                               : static_cast<std::uintmax_t>(value) >
                                     static_cast<std::uintmax_t>(std::numeric_limits<To>::max())) {
                throw value_error(fmt::format("isic::tensor::values: expected integers up to {}, got {}",
                                              std::numeric_limits<To>::max(), value));
            }
            return static_cast<To>(value);
        } else if constexpr (std::integral<To>) {
            throw value_error("isic::tensor::values: expected stored integers, got a floating type");
        } else if constexpr (std::same_as<To, Eigen::half> || std::same_as<To, Eigen::bfloat16>) {
            return static_cast<To>(static_cast<float>(value));
        } else {
            return static_cast<To>(value);
        }
    }
};

/// What one safetensors file holds.
struct tensor_file {
    std::map<std::string, tensor> tensors;        ///< by name
    std::map<std::string, std::string> metadata;  ///< the header's free texts
};

namespace detail {

inline constexpr std::uint64_t max_header = 100'000'000;

[[noreturn]] inline void fail_file(const std::filesystem::path& path, std::string_view reason) {
    throw io_error(fmt::format("isic: {}: {}", path.string(), reason));
}

/// Opens a regular file and gives its size.
inline std::ifstream open_to_read(const std::filesystem::path& path, std::uint64_t& size) {
    std::error_code code;
    if (!std::filesystem::is_regular_file(path, code)) {
        fail_file(path, "expected a file, found none");
    }
    size = std::filesystem::file_size(path, code);
    std::ifstream in(path, std::ios::binary);
    if (code || !in) {
        fail_file(path, "cannot be opened");
    }
    return in;
}

inline void read_exactly(std::ifstream& in, const std::filesystem::path& path, void* out, std::uint64_t size) {
    if (size > 0 && !in.read(static_cast<char*>(out), static_cast<std::streamsize>(size))) {
        fail_file(path, fmt::format("expected {} more bytes, found the end", size));
    }
}

/// Calls write(stream) on a temporary beside `path`, then renames it.
template <class Write>
void replace_file(const std::filesystem::path& path, Write write) {
    std::random_device random;
    std::filesystem::path temporary = path;
    temporary += fmt::format(".{:08x}{:08x}.tmp", random(), random());
    std::error_code code;
    try {
        std::ofstream out(temporary, std::ios::binary | std::ios::trunc);
        if (!out) {
            fail_file(path, "cannot be created");
        }
        write(out);
        out.close();
        if (!out) {
            fail_file(path, "writing failed");
        }
        std::filesystem::rename(temporary, path, code);
        if (code) {
            fail_file(path, fmt::format("cannot be replaced: {}", code.message()));
        }
    } catch (...) {
        std::filesystem::remove(temporary, code);
        throw;
    }
}

inline void write_bytes(std::ofstream& out, const void* data, std::size_t size) {
    out.write(static_cast<const char*>(data), static_cast<std::streamsize>(size));
}

inline void require_consistent(const std::filesystem::path& path, std::string_view name, const tensor& t) {
    const index_t expected = byte_count(t.shape, t.type);
    if (expected < 0 || expected != static_cast<index_t>(t.bytes.size())) {
        fail_file(path, fmt::format("{}: expected {} bytes for {} [{}], got {}", name, expected,
                                    entry_of(t.type).safetensors, fmt::join(t.shape, ", "), t.bytes.size()));
    }
}

}  // namespace detail
}  // namespace isic
