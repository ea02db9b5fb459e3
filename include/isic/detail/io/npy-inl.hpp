// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <isic/io/npy.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <limits>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include <isic/detail/io/files.hpp>

namespace isic::inline ISIC_ABI {
namespace detail {

/// Parses the Python dictionary of a .npy header: exactly the keys descr, fortran_order and shape.
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

ISIC_INLINE tensor read_npy(const std::filesystem::path& path) {
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
    const int version = static_cast<unsigned char>(start[6]);
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

ISIC_INLINE void write_npy(const std::filesystem::path& path, const tensor& t) {
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

}  // namespace isic::inline ISIC_ABI
