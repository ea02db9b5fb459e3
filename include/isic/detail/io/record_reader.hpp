// SPDX-License-Identifier: Apache-2.0
/// \file
/// Validated access to the tensors and metadata of a safetensors file of isic.
#pragma once

#include <algorithm>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <fmt/format.h>

#include <isic/io/tensor.hpp>
#include <isic/matrix.hpp>
#include <isic/rank.hpp>

#include <isic/detail/io/files.hpp>

namespace isic::inline ISIC_ABI::detail {

/// Tensors and metadata by name. A missing or invalid one is an io_error that names the file, the part and `what` the
/// file should hold.
class file_reader {
public:
    file_reader(const std::filesystem::path& path, const tensor_file& file, std::string_view what)
        : path_(path), file_(file), what_(what) {}

    static constexpr index_t any = -1;

    const std::filesystem::path& path() const { return path_; }
    const tensor_file& file() const { return file_; }
    bool has(const char* name) const { return file_.tensors.contains(name); }

    void require(std::string_view name, bool ok, std::string_view expected, std::string_view got) const {
        if (!ok) {
            fail_file(path_, fmt::format("{}: expected {}, got {}", name, expected, got));
        }
    }

    /// The tensor of this type and shape; `any` matches every size.
    const tensor& tensor_of(const char* name, dtype type, const std::vector<index_t>& shape) const {
        const auto found = file_.tensors.find(name);
        require(name, found != file_.tensors.end(), describe(type, shape), "no such tensor");
        const tensor& t = found->second;
        const auto fits = [](index_t got, index_t want) { return want == any || got == want; };
        require(name, t.type == type && std::ranges::equal(t.shape, shape, fits), describe(type, shape),
                describe(t.type, t.shape));
        require_consistent(path_, name, t);
        return t;
    }

    static std::string describe(dtype type, const std::vector<index_t>& shape) {
        std::vector<std::string> sizes;
        for (const index_t n : shape) {
            sizes.push_back(n == any ? "any" : fmt::format("{}", n));
        }
        return fmt::format("{} [{}]", entry_of(type).safetensors, fmt::join(sizes, ", "));
    }

    template <class T>
    std::vector<T> list_of(const char* name, const std::vector<index_t>& shape) const {
        const tensor& t = tensor_of(name, dtype_of_element<T>::value, shape);
        std::vector<T> out(t.bytes.size() / sizeof(T));
        if (!out.empty()) {
            std::memcpy(out.data(), t.bytes.data(), t.bytes.size());
        }
        return out;
    }

    /// The float64 matrix of this shape.
    matrix<double> matrix_of(const char* name, const std::vector<index_t>& shape) const {
        const tensor& t = tensor_of(name, dtype::f64, shape);
        matrix<double> out(t.shape[0], t.shape[1]);
        if (!t.bytes.empty()) {
            std::memcpy(out.data(), t.bytes.data(), t.bytes.size());
        }
        return out;
    }

    const std::string& text(const char* key) const {
        const auto found = file_.metadata.find(key);
        require(key, found != file_.metadata.end(), fmt::format("metadata of {}", what_), "none");
        return found->second;
    }

    void require_text(const char* key, std::string_view expected) const {
        require(key, text(key) == expected, fmt::format("'{}'", expected), fmt::format("'{}'", text(key)));
    }

    /// Parses all of `digits` as a number, in the base of an integer; false if it is none. Independent of the locale.
    template <class T, class... Base>
    static bool parse(const std::string& digits, T& out, Base... base) {
        const char* const end = digits.data() + digits.size();
        const auto [last, code] = std::from_chars(digits.data(), end, out, base...);
        return code == std::errc() && last == end;
    }

    index_t size(const char* key) const {
        index_t out = 0;
        require(key, parse(text(key), out) && out >= 0, "a size", fmt::format("'{}'", text(key)));
        return out;
    }

    /// The rank rule of a metadata text.
    rank_rule rule(const char* key) const {
        for (const rank_rule r : {rank_rule::fixed, rank_rule::energy, rank_rule::gavish_donoho, rank_rule::sign_flip,
                                  rank_rule::budget, rank_rule::data}) {
            if (text(key) == to_string(r)) {
                return r;
            }
        }
        fail_file(path_, fmt::format("{}: expected the name of a rule, got '{}'", key, text(key)));
    }

private:
    const std::filesystem::path& path_;
    const tensor_file& file_;
    std::string_view what_;
};

}  // namespace isic::inline ISIC_ABI::detail
