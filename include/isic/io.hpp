/// \file
/// Tensors in files: safetensors and .npy. A reader trusts nothing in the file; a writer never leaves half of one.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <random>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

#include <Eigen/Core>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <isic/error.hpp>
#include <isic/matrix.hpp>

namespace isic {

static_assert(std::endian::native == std::endian::little, "isic/io.hpp reads and writes little-endian files in place");

/// Element types that files may hold.
enum class dtype { boolean, u8, i8, u16, i16, u32, i32, u64, i64, f16, bf16, f32, f64 };

namespace detail {

struct dtype_entry {
    dtype type;
    index_t size;
    const char* safetensors;
    const char* npy;  // empty: the format has no such type
};

inline constexpr std::array<dtype_entry, 13> dtypes{{{dtype::boolean, 1, "BOOL", "|b1"},
                                                     {dtype::u8, 1, "U8", "|u1"},
                                                     {dtype::i8, 1, "I8", "|i1"},
                                                     {dtype::u16, 2, "U16", "<u2"},
                                                     {dtype::i16, 2, "I16", "<i2"},
                                                     {dtype::u32, 4, "U32", "<u4"},
                                                     {dtype::i32, 4, "I32", "<i4"},
                                                     {dtype::u64, 8, "U64", "<u8"},
                                                     {dtype::i64, 8, "I64", "<i8"},
                                                     {dtype::f16, 2, "F16", "<f2"},
                                                     {dtype::bf16, 2, "BF16", ""},
                                                     {dtype::f32, 4, "F32", "<f4"},
                                                     {dtype::f64, 8, "F64", "<f8"}}};

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

/// Number of elements, or -1 if a size is negative or the product does not fit index_t.
inline index_t element_count(const std::vector<index_t>& shape) {
    if (std::any_of(shape.begin(), shape.end(), [](index_t n) { return n < 0; })) {
        return -1;
    }
    if (std::find(shape.begin(), shape.end(), 0) != shape.end()) {
        return 0;
    }
    index_t count = 1;
    for (const index_t n : shape) {
        if (count > std::numeric_limits<index_t>::max() / n) {
            return -1;
        }
        count *= n;
    }
    return count;
}

/// Number of bytes, or -1 as above.
inline index_t byte_count(const std::vector<index_t>& shape, dtype type) {
    const index_t count = element_count(shape), size = entry_of(type).size;
    return count > std::numeric_limits<index_t>::max() / size ? -1 : count * size;
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
    /// Errors: value_error if bytes and shape disagree, or an element is no T.
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
        }
        detail::entry_of(type);  // throws
        return {};
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

/// Parses JSON; unlike the parser's default, a key given twice is an error.
inline nlohmann::json parse_header(const std::filesystem::path& path, const std::string& text) {
    using event = nlohmann::json::parse_event_t;
    if (text.find('\0') != std::string::npos) {  // the parser would take it for the end
        fail_file(path, "the header contains a zero byte");
    }
    std::vector<std::set<std::string>> keys;
    const auto watch = [&](int, event what, nlohmann::json& value) {
        if (what == event::object_start) {
            keys.emplace_back();
        } else if (what == event::object_end) {
            keys.pop_back();
        } else if (what == event::key && !keys.back().insert(value.get<std::string>()).second) {
            fail_file(path, fmt::format("the key '{}' occurs twice", value.get<std::string>()));
        }
        return true;
    };
    try {
        return nlohmann::json::parse(text, watch);
    } catch (const nlohmann::json::exception& e) {
        fail_file(path, fmt::format("the header is not JSON: {}", e.what()));
    }
}

/// A number of the header as index_t.
inline index_t header_size(const std::filesystem::path& path, const std::string& name, const nlohmann::json& value) {
    if (!value.is_number_unsigned() ||
        value.get<std::uint64_t>() > static_cast<std::uint64_t>(std::numeric_limits<index_t>::max())) {
        fail_file(path, fmt::format("{}: expected a size, got {}", name, value.dump(-1, ' ', true)));
    }
    return static_cast<index_t>(value.get<std::uint64_t>());
}

struct placed_tensor {
    index_t begin = 0;
    index_t end = 0;
    std::string name;
    tensor value;  // without its bytes
};

inline placed_tensor parse_entry(const std::filesystem::path& path, const std::string& name, const nlohmann::json& j) {
    if (!j.is_object() || j.size() != 3 || !j.contains("dtype") || !j.contains("shape") || !j.contains("data_offsets") ||
        !j["dtype"].is_string() || !j["shape"].is_array() || !j["data_offsets"].is_array() ||
        j["data_offsets"].size() != 2) {
        fail_file(path, fmt::format("{}: expected dtype, shape and two data_offsets", name));
    }
    const std::string type = j["dtype"].get<std::string>();
    const auto entry =
        std::find_if(dtypes.begin(), dtypes.end(), [&](const dtype_entry& e) { return type == e.safetensors; });
    if (entry == dtypes.end()) {
        fail_file(path, fmt::format("{}: expected a known dtype, got '{}'", name, type));
    }
    placed_tensor out{header_size(path, name, j["data_offsets"][0]), header_size(path, name, j["data_offsets"][1]), name, {}};
    out.value.type = entry->type;
    for (const nlohmann::json& n : j["shape"]) {
        out.value.shape.push_back(header_size(path, name, n));
    }
    const index_t expected = byte_count(out.value.shape, out.value.type);
    if (expected < 0 || out.end < out.begin || out.end - out.begin != expected) {
        fail_file(path, fmt::format("{}: expected {} bytes for {} [{}], got offsets {} to {}", name, expected, type,
                                    fmt::join(out.value.shape, ", "), out.begin, out.end));
    }
    return out;
}

/// The tensors in file order; together they must cover the data exactly.
inline std::vector<placed_tensor> parse_entries(const std::filesystem::path& path, const nlohmann::json& header,
                                                index_t data_size) {
    std::vector<placed_tensor> placed;
    for (const auto& [name, value] : header.items()) {
        if (name != "__metadata__") {
            placed.push_back(parse_entry(path, name, value));
        }
    }
    std::sort(placed.begin(), placed.end(),
              [](const auto& a, const auto& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
    index_t at = 0;
    for (const placed_tensor& t : placed) {
        if (t.begin != at) {
            fail_file(path, fmt::format("{}: expected data at offset {}, got {}", t.name, at, t.begin));
        }
        at = t.end;
    }
    if (at != data_size) {
        fail_file(path, fmt::format("expected {} bytes of data, found {}", at, data_size));
    }
    return placed;
}

inline std::map<std::string, std::string> parse_metadata(const std::filesystem::path& path, const nlohmann::json& j) {
    std::map<std::string, std::string> out;
    for (const auto& [key, value] : j.items()) {
        if (!j.is_object() || !value.is_string()) {
            fail_file(path, fmt::format("__metadata__: expected strings, got {}", value.dump(-1, ' ', true)));
        }
        out[key] = value.get<std::string>();
    }
    return out;
}

}  // namespace detail

/// Reads every tensor of a safetensors file. Errors: io_error naming the file and what is wrong in it.
inline tensor_file read_safetensors(const std::filesystem::path& path) {
    std::uint64_t size = 0, length = 0;
    std::ifstream in = detail::open_to_read(path, size);
    if (size < sizeof(length)) {
        detail::fail_file(path, fmt::format("expected a safetensors file, found {} bytes", size));
    }
    detail::read_exactly(in, path, &length, sizeof(length));
    if (length > detail::max_header || length > size - sizeof(length)) {
        detail::fail_file(path, fmt::format("a header of {} bytes in a file of {}", length, size));
    }
    std::string text(length, '\0');
    detail::read_exactly(in, path, text.data(), length);
    const nlohmann::json header = detail::parse_header(path, text);
    if (!header.is_object() || text.front() != '{') {
        detail::fail_file(path, "the header is not an object");
    }
    tensor_file out;
    if (header.contains("__metadata__")) {
        out.metadata = detail::parse_metadata(path, header["__metadata__"]);
    }
    for (auto& placed : detail::parse_entries(path, header, static_cast<index_t>(size - sizeof(length) - length))) {
        placed.value.bytes.resize(static_cast<std::size_t>(placed.end - placed.begin));
        detail::read_exactly(in, path, placed.value.bytes.data(), placed.value.bytes.size());
        out.tensors.emplace(placed.name, std::move(placed.value));
    }
    return out;
}

/// Writes a safetensors file, replacing an old one only when the new one is complete.
/// Errors: io_error if it cannot be written or a tensor's bytes and shape disagree.
inline void write_safetensors(const std::filesystem::path& path, const tensor_file& file) {
    std::vector<std::pair<std::string, const tensor*>> order;
    for (const auto& [name, t] : file.tensors) {
        detail::require_consistent(path, name, t);
        if (name == "__metadata__") {
            detail::fail_file(path, "expected a tensor name, got the reserved '__metadata__'");
        }
        order.emplace_back(name, &t);
    }
    // Wide types first keeps every tensor aligned to its type.
    std::stable_sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
        return detail::entry_of(a.second->type).size > detail::entry_of(b.second->type).size;
    });
    nlohmann::json header = nlohmann::json::object();
    if (!file.metadata.empty()) {
        header["__metadata__"] = file.metadata;
    }
    std::size_t at = 0;
    for (const auto& [name, t] : order) {
        header[name] = {{"dtype", detail::entry_of(t->type).safetensors},
                        {"shape", nlohmann::json(t->shape)},
                        {"data_offsets", {at, at + t->bytes.size()}}};
        at += t->bytes.size();
    }
    std::string text;
    try {
        text = header.dump();
    } catch (const nlohmann::json::exception& e) {
        detail::fail_file(path, fmt::format("a name or metadata is not UTF-8: {}", e.what()));
    }
    text.resize((text.size() + 7) / 8 * 8, ' ');
    const std::uint64_t length = text.size();
    if (length > detail::max_header) {
        detail::fail_file(path, fmt::format("expected a header of at most {} bytes, got {}", detail::max_header, length));
    }
    detail::replace_file(path, [&](std::ofstream& out) {
        detail::write_bytes(out, &length, sizeof(length));
        detail::write_bytes(out, text.data(), text.size());
        for (const auto& entry : order) {
            detail::write_bytes(out, entry.second->bytes.data(), entry.second->bytes.size());
        }
    });
}

namespace detail {

/// Reads the Python dictionary of a .npy header: three known keys, each once.
class npy_header {
public:
    npy_header(const std::filesystem::path& path, std::string_view text) : path_(path), rest_(text) {
        expect('{');
        while (!accept('}')) {
            const std::string_view key = quoted();
            if (!seen_.insert(std::string(key)).second) {
                fail_file(path_, fmt::format("the key '{}' occurs twice", key));
            }
            expect(':');
            read_value(key);
            if (!accept(',')) {
                expect('}');
                break;
            }
        }
        skip_space();
        if (!rest_.empty() || seen_.size() != 3) {
            fail_file(path_, "expected a header with descr, fortran_order and shape only");
        }
    }

    dtype type() const { return type_; }
    const std::vector<index_t>& shape() const { return shape_; }

private:
    void read_value(std::string_view key) {
        if (key == "descr") {
            const std::string_view name = quoted();
            const auto entry = std::find_if(dtypes.begin(), dtypes.end(),
                                            [&](const dtype_entry& e) { return !name.empty() && name == e.npy; });
            if (entry == dtypes.end()) {
                fail_file(path_, fmt::format("expected a known little-endian descr, got '{}'", name));
            }
            type_ = entry->type;
        } else if (key == "fortran_order") {
            skip_space();
            if (!rest_.starts_with("False")) {
                fail_file(path_, "expected fortran_order False");
            }
            rest_.remove_prefix(5);
        } else if (key == "shape") {
            read_shape();
        } else {
            fail_file(path_, fmt::format("expected descr, fortran_order or shape, got '{}'", key));
        }
    }

    void read_shape() {
        expect('(');
        while (!accept(')')) {
            shape_.push_back(number());
            if (!accept(',')) {
                expect(')');
                break;
            }
        }
    }

    index_t number() {
        skip_space();
        index_t value = 0;
        std::size_t digits = 0;
        for (; digits < rest_.size() && rest_[digits] >= '0' && rest_[digits] <= '9'; ++digits) {
            const index_t digit = rest_[digits] - '0';
            if (value > (std::numeric_limits<index_t>::max() - digit) / 10) {
                fail_file(path_, "a size in the shape does not fit");
            }
            value = 10 * value + digit;
        }
        if (digits == 0) {
            fail_file(path_, "expected a size in the shape");
        }
        rest_.remove_prefix(digits);
        return value;
    }

    std::string_view quoted() {
        skip_space();
        const char mark = rest_.empty() ? '\0' : rest_.front();
        const std::size_t end = rest_.empty() ? std::string_view::npos : rest_.find(mark, 1);
        if ((mark != '\'' && mark != '"') || end == std::string_view::npos) {
            fail_file(path_, "expected a quoted name in the header");
        }
        const std::string_view out = rest_.substr(1, end - 1);
        rest_.remove_prefix(end + 1);
        return out;
    }

    void skip_space() {
        const std::size_t n = rest_.find_first_not_of(" \n\t\r");
        rest_.remove_prefix(n == std::string_view::npos ? rest_.size() : n);
    }

    bool accept(char c) {
        skip_space();
        if (rest_.empty() || rest_.front() != c) {
            return false;
        }
        rest_.remove_prefix(1);
        return true;
    }

    void expect(char c) {
        if (!accept(c)) {
            fail_file(path_, fmt::format("expected '{}' in the header", c));
        }
    }

    const std::filesystem::path& path_;
    std::string_view rest_;
    std::set<std::string> seen_;
    dtype type_ = dtype::f32;
    std::vector<index_t> shape_;
};

inline constexpr std::string_view npy_magic{"\x93NUMPY", 6};

}  // namespace detail

/// Reads a .npy file (versions 1 to 3, C order, little-endian). Errors: io_error naming the file and what is wrong.
inline tensor read_npy(const std::filesystem::path& path) {
    std::uint64_t size = 0;
    std::ifstream in = detail::open_to_read(path, size);
    std::array<char, 12> start{};
    const auto prefix = [&](std::size_t from, std::size_t to) {
        if (size < to) {
            detail::fail_file(path, fmt::format("expected a .npy file, found {} bytes", size));
        }
        detail::read_exactly(in, path, start.data() + from, to - from);
    };
    prefix(0, 8);
    const int version = start[6];
    if (std::string_view(start.data(), 6) != detail::npy_magic || version < 1 || version > 3) {
        detail::fail_file(path, "expected a .npy file of version 1, 2 or 3");
    }
    const std::size_t head = version == 1 ? 10 : 12;
    prefix(8, head);
    std::uint32_t length = 0;
    std::memcpy(&length, start.data() + 8, head - 8);
    if (length > detail::max_header || length > size - head) {
        detail::fail_file(path, fmt::format("a header of {} bytes in a file of {}", length, size));
    }
    std::string text(length, '\0');
    detail::read_exactly(in, path, text.data(), length);
    const detail::npy_header header(path, text);
    const index_t expected = detail::byte_count(header.shape(), header.type());
    const auto found = static_cast<index_t>(size - head - length);
    if (expected != found) {
        detail::fail_file(path, fmt::format("expected {} bytes of data for [{}], found {}", expected,
                                            fmt::join(header.shape(), ", "), found));
    }
    tensor out{header.type(), header.shape(), std::vector<std::byte>(static_cast<std::size_t>(expected))};
    detail::read_exactly(in, path, out.bytes.data(), out.bytes.size());
    return out;
}

/// Writes a .npy file of version 1, replacing an old one only when the new one is complete.
/// Errors: io_error if it cannot be written, the type is bf16, or bytes and shape disagree.
inline void write_npy(const std::filesystem::path& path, const tensor& t) {
    detail::require_consistent(path, "array", t);
    const detail::dtype_entry& entry = detail::entry_of(t.type);
    if (std::string_view(entry.npy).empty()) {
        detail::fail_file(path, fmt::format("expected a type that .npy has, got {}", entry.safetensors));
    }
    std::string text = fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': ({}{}), }}", entry.npy,
                                   fmt::join(t.shape, ", "), t.shape.size() == 1 ? "," : "");
    text.resize((10 + text.size() + 1 + 63) / 64 * 64 - 10, ' ');
    text.back() = '\n';
    if (text.size() > std::numeric_limits<std::uint16_t>::max()) {
        detail::fail_file(path, fmt::format("expected fewer dimensions, got {}", t.shape.size()));
    }
    const auto length = static_cast<std::uint16_t>(text.size());
    detail::replace_file(path, [&](std::ofstream& out) {
        detail::write_bytes(out, detail::npy_magic.data(), detail::npy_magic.size());
        detail::write_bytes(out, "\x01\x00", 2);
        detail::write_bytes(out, &length, sizeof(length));
        detail::write_bytes(out, text.data(), text.size());
        detail::write_bytes(out, t.bytes.data(), t.bytes.size());
    });
}

}  // namespace isic
